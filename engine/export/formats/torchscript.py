"""TorchScript: one file, for libtorch and PyTorch without this project's sources."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine.export.backend import Backend, from_metadata
from engine.export.job import Job
from utils.checksum import damage
from utils.errors import UserError, printable


def write(path: Path, job: Job, any_device: bool = True) -> None:
    """Write the traced network; its metadata is the extra file config.txt.

    With `any_device` no operation is bound to the CPU, so that the file also computes on a GPU that it is loaded onto.
    """
    network = job.network()
    network.follows_device = any_device
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # As it trains: on a CPU a photo takes three quarters of the time.
            module.to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, job.example(), check_trace=False)
    # In memory: torch's own writer of files ends the whole process when the disk is full.
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have another format
        torch.jit.save(traced, whole, _extra_files={"config.txt": json.dumps(job.metadata())})
    path.write_bytes(whole.getbuffer())


def open_file(path: Path, precision: str) -> Backend:
    """Open a TorchScript file in PyTorch."""
    extra = {"config.txt": ""}
    with path.open("rb") as file:
        reason = damage(file)  # torch takes a flipped bit for another number
    if reason:
        raise UserError(f"{printable(path)}: damaged ({printable(reason, 100)})")
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
