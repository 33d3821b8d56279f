"""ExecuTorch: one .pte whose convolutions are XNNPACK's, for phones and boards; its metadata lies at its end."""

import functools
import sys
import tempfile
import warnings
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

METHOD = "forward"
CONVERTER = """
import sys, torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
lowered = to_edge_transform_and_lower(torch.export.load(sys.argv[1]), partitioner=[XnnpackPartitioner()])
with open(sys.argv[2], "wb") as file:
    file.write(lowered.to_executorch().buffer)
"""


def write(path: Path, job: Job) -> None:
    """Lower what torch.export has traced, in a process of its own, since the converter may end its process."""
    with tempfile.TemporaryDirectory() as folder:
        traced, made = Path(folder) / "model.pt2", Path(folder) / "model.pte"
        torch.export.save(torch.export.export(job.network().eval(), (job.example(),)), str(traced))
        command = [sys.executable, "-c", CONVERTER, str(traced), str(made)]
        run_converter("executorch", "its converter", command, Path(folder), [made])
        path.write_bytes(made.read_bytes())
    append_metadata(path, job)


def open_file(path: Path, precision: str) -> Backend:
    """Open the file in ExecuTorch's runtime on the CPU."""
    metadata = read_metadata_of(path, "a .pte")
    with nothing_printed():
        try:
            program = _runtime().load_program(path)
            method = program.load_method(METHOD)
        except (RuntimeError, KeyError) as error:
            reason = printable(error, 100)
            raise UserError(f"{printable(path)}: not a .pte that runs here ({reason})") from None

    def compute(images: np.ndarray) -> list[np.ndarray]:
        return [part.numpy() for part in method.execute([torch.from_numpy(np.ascontiguousarray(images))])]

    return from_metadata(path, metadata, in_turns(compute))


@functools.cache
def _runtime() -> Any:
    """Return the runtime, with as many threads as PyTorch has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(torch.get_num_threads())  # unsafe only where something computes already
    return Runtime.get()
