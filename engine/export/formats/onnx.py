"""ONNX: one file, for onnxruntime, OpenCV, TensorRT, ultralytics and most others."""

from pathlib import Path
from typing import Any

import torch

from engine.export.backend import Backend, from_metadata
from engine.export.job import Job
from engine.export.silent_imports import silent_onnxruntime
from utils.errors import UserError, printable


def write(path: Path, job: Job) -> None:
    """Write the graph with its metadata."""
    from engine.export.graph.onnx_graph import build_graph, write_onnx

    # ultralytics looks at the graph itself: telling it a fixed size would only make it split batches.
    write_onnx(build_graph(job), path, job.metadata(pinned=False))


def open_file(path: Path, precision: str) -> Backend:
    """Open an ONNX file in onnxruntime."""
    onnxruntime = silent_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _exceptions(errors) as error:
        raise UserError(f"{printable(path)}: not an ONNX file, or damaged ({printable(error, 120)})") from None
    metadata = session.get_modelmeta().custom_metadata_map
    name = session.get_inputs()[0].name
    return from_metadata(path, metadata, lambda images: session.run(None, {name: images}))


def _exceptions(module: Any) -> tuple[type[Exception], ...]:
    """Return all exceptions that a module defines."""
    return tuple(each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception))
