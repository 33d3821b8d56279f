"""LiteRT (TensorFlow Lite): one .tflite, for Android and other devices; its metadata is a zip entry at the end."""

import logging
from pathlib import Path

import numpy as np

from engine.export.backend import Backend, from_metadata, in_turns
from engine.export.formats.trailer import append_metadata, read_metadata_of
from engine.export.job import Job
from engine.export.silent_imports import nothing_printed
from utils.errors import CommandError, UserError, printable

MAGIC = b"TFL3"


def write(path: Path, job: Job) -> None:
    """Convert by litert-torch; the input stays (B, 3, H, W)."""
    with nothing_printed():
        import litert_torch

        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            litert_torch.convert(job.network().eval(), (job.example(),)).export(str(path))
        except Exception as error:  # the converter raises whatever its passes do
            raise CommandError(f"--format litert: litert-torch failed: {printable(error, 160)}") from None
        finally:
            logging.root.setLevel(level)
    append_metadata(path, job)


def open_file(path: Path, precision: str) -> Backend:
    """Open the file in LiteRT's interpreter on the CPU."""
    metadata = read_metadata_of(path, "a .tflite")
    with path.open("rb") as file:
        if file.read(8)[4:] != MAGIC:
            raise UserError(f"{printable(path)}: not a .tflite")
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{printable(path)}: not a .tflite that runs here ({printable(error, 100)})") from None
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()

    def compute(images: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(made["index"])]

    return from_metadata(path, metadata, in_turns(compute))
