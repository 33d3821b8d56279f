"""MNN: one .mnn, for phones and boards; its metadata is its bizCode too, where ultralytics looks for it."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.export.backend import Backend, from_metadata, in_turns
from engine.export.converter import run_converter
from engine.export.formats.trailer import append_metadata, read_metadata_of
from engine.export.job import Job
from engine.export.silent_imports import nothing_printed
from utils.errors import UserError, printable

# The package's converter itself. Its command mnnconvert, and the module MNN.tools.mnnconvert, are never started: both
# install a package with pip when they are imported, and report the machine and the model to their makers.
CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"


def write(path: Path, job: Job) -> None:
    """Convert the ONNX graph in a process of its own, since the converter prints and may end its process."""
    import onnx

    from engine.export.graph.onnx_graph import build_graph

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "model.onnx", Path(folder) / "model.mnn"
        # float16 is the converter's own, of the weights alone; its runtime has no casts of ONNX's.
        onnx.save(build_graph(job.in_float32()), str(given))
        files = ["--modelFile", str(given), "--MNNModel", str(made), "--bizCode", json.dumps(job.metadata())]
        flags = ["-f", "ONNX", *files, *(["--fp16"] if job.settings.half else [])]
        run_converter("mnn", "its converter", [sys.executable, "-c", CONVERTER, *flags], Path(folder), [made])
        path.write_bytes(made.read_bytes())
    append_metadata(path, job)


def open_file(path: Path, precision: str) -> Backend:
    """Open the file in MNN on the CPU, in float32."""
    metadata = read_metadata_of(path, "an MNN file")
    with nothing_printed():
        import MNN

        module = _load(MNN, path)
    if module is None:
        raise UserError(f"{printable(path)}: not an MNN file that runs here")

    def compute(images: np.ndarray) -> list[np.ndarray]:
        given = MNN.expr.const(images, list(images.shape), MNN.expr.NCHW)
        return [np.array(part.read()) for part in module.forward([given])]

    return from_metadata(path, metadata, in_turns(compute))


def _load(package: Any, path: Path) -> Any:
    """Load the network; None where MNN cannot."""
    options = {"precision_mode": package.expr.PrecisionMode.High, "thread_num": torch.get_num_threads()}
    try:
        return package.nn.load_module_from_file(str(path), [], [], **options)
    except Exception:  # it raises Exception itself, and SystemError over it
        return None
