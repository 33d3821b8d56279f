"""TorchScript: one file, for libtorch and PyTorch without this project's sources."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch

from engine.export.backend import Backend, from_metadata
from engine.export.job import Job
from utils.errors import UserError, printable


def write(path: Path, job: Job) -> None:
    """Writes the traced network; its metadata is the extra file config.txt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(job.network(), job.example(), check_trace=False)
    traced.save(str(path), _extra_files={"config.txt": json.dumps(job.metadata())})


def open_file(path: Path) -> Backend:
    """A TorchScript file in PyTorch."""
    extra = {"config.txt": ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        metadata = json.loads(extra["config.txt"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{printable(path)}: not a TorchScript file of ours ({printable(error, 100)})") from None

    def compute(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [module(torch.from_numpy(images)).float().numpy()]

    return from_metadata(path, metadata, compute)
