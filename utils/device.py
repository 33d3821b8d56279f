"""The device of a run, and the precision that it computes fast in."""

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import torch

from utils.errors import UserError, printable
from utils.hardware import usable_cores


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the named device, or a GPU if there is one, each process of a machine its own.

    UserError if it is not there.
    """
    name = name.strip().lower()
    if not name or name == "cuda":
        name = f"cuda:{local_rank}" if name or torch.cuda.is_available() else "cpu"
    if name.isdigit():
        name = f"cuda:{name}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {printable(name)!r}: expected cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: this machine has no MPS device")
    return device


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(cpu_capabilities().get("avx512_bf16") or cpu_capabilities().get("amx_bf16"))


@functools.cache
def cpu_capabilities() -> Mapping[str, Any]:
    """Return what torch says of this CPU's instructions; empty where it says nothing."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


@functools.cache
def mkl_is_slow() -> bool:
    """Tell whether Intel's MKL, by which torch multiplies matrices of float32, uses half of this CPU's vectors.

    So it is on AMD's since Zen 5: 110 thousand million operations a second, where oneDNN makes 250.
    """
    capabilities = cpu_capabilities()
    return bool(str(capabilities.get("cpu_name")).startswith("AMD") and capabilities.get("avx512_vp2intersect"))


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast for `--amp`, None for full precision; UserError for what the device cannot do."""
    if amp == "off":
        return None
    if amp == "fp16":
        if device.type == "cpu":
            raise UserError("--amp fp16: a CPU trains in bf16 or full precision; expected auto, off or bf16")
        return torch.float16
    if amp == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return None


def require_compiler(device: torch.device) -> None:
    """Raise UserError, with the reason, where torch.compile would find no compiler for a device."""
    if device.type == "cuda":
        wanted, found = "the package triton", importlib.util.find_spec("triton") is not None
    elif device.type == "cpu":
        wanted = os.environ.get("CXX") or {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
        found = shutil.which(wanted.split()[0]) is not None
    else:
        raise UserError(f"--compile: expected a CUDA device or a CPU, not {device.type}")
    if not found:
        raise UserError(f"--compile: needs {wanted}, which is not at hand; train without it")


def worker_count(wanted: int, processes: int = 1, cores: int | None = None) -> int:
    """Return loading processes for each of the training processes of a machine; -1 = a core of every two, at most 8.

    None below four cores where there is no GPU: the network computes on all of them, loading is a small part of the
    work, and a process of its own takes 300 MB.
    """
    if wanted >= 0:
        return wanted
    cores = cores or usable_cores()
    return 0 if cores < 4 and not torch.cuda.is_available() else min(cores // (2 * processes), 8)
