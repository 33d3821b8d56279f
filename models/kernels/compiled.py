"""Kernels that numba compiles for the CPU at hand, run by the threads that torch computes with.

A second pool of threads would fight with torch's for the cores, since threads wait for their next task by spinning. So
a kernel is handed to the OpenMP library that torch itself has loaded (`GOMP_parallel`, which GNU's library has, and
LLVM's and Intel's offer too); where there is none, there are no compiled kernels. numba is optional.
"""

import ctypes
import functools
import importlib.util
import os
import threading
from pathlib import Path
from typing import Any

import torch

from models.kernels import kernel_cache
from models.kernels.work_order import WorkOrder

# What kernels are compiled for, as numba calls its memory (it has no bf16), and what it is computed in.
STORED = {torch.bfloat16: "uint16", torch.float32: "float32", torch.float64: "float64"}
COMPUTED = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_COMPILING = threading.Lock()
_KERNELS: dict[tuple[str, torch.dtype], Any] = {}


@functools.cache
def available() -> bool:
    """Tell whether kernels can be compiled and run here: numba is installed, and torch's threads can be had."""
    return importlib.util.find_spec("numba") is not None and _parallel() is not None


@functools.cache
def _parallel() -> Any:
    """Return OpenMP's function that runs another on all threads of torch's pool.

    None where torch has no such library.
    """
    if "openmp" not in torch.__config__.parallel_info().lower():
        return None
    beside = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    for name in (*map(str, beside), "libgomp.so.1"):
        try:
            # Only what is loaded already: another copy would have another pool.
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):
            continue
    return None


def run_together(kernel: str, dtype: torch.dtype, order: WorkOrder) -> None:
    """Run a kernel ("norm_loops.statistics") on all of torch's threads; they share the parts of the work."""
    order.set(NEXT=0)
    threads = torch.get_num_threads()
    if threads == 1:
        run_alone(kernel, dtype, order)
    else:
        address = ctypes.c_void_p(_kernel(kernel, dtype).address)
        _parallel()(address, order.fields, ctypes.c_uint(threads), ctypes.c_uint(0))


def run_alone(kernel: str, dtype: torch.dtype, order: WorkOrder) -> None:
    """Run a kernel in this thread."""
    _FUNCTION(_kernel(kernel, dtype).address)(order.fields)


def _kernel(name: str, dtype: torch.dtype) -> Any:
    """Return a kernel ("file.function") for numbers of this type.

    Each is loaded once and kept for ever: another thread may be running it.
    """
    if (name, dtype) not in _KERNELS:
        with _COMPILING:
            if (name, dtype) not in _KERNELS:
                room, _, function = name.partition(".")
                _KERNELS[name, dtype] = kernel_cache.compiled_kernel(room, function, STORED[dtype])
    return _KERNELS[name, dtype]
