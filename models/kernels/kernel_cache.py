"""Kernels in the user's cache: compiled once, and before their first use in processes of their own.

This module does not import torch, whose import takes longer than most kernels.
"""

import functools
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# The files with loops, what of them is called, and by what: training calls all of it.
KERNELS: dict[str, dict[str, tuple[str, ...]]] = {
    "norm_loops": {
        "evaluation": ("forward_pool", "through"),
        "training": (
            "statistics",
            "finish_statistics",
            "gradient_sums",
            "finish_gradient_sums",
            "backward_pool",
        ),
    },
    "tile_loops": {
        "evaluation": ("input_tiles", "weight_tiles", "output_of_tiles"),
        "training": ("output_tiles_gradient", "input_gradient", "weight_gradient"),
    },
}
SOURCES = (*(f"{room}.py" for room in KERNELS), "vectors.py", "work_order.py")
# LLVM's level of optimisation: the loops are written as vectors, which higher levels make no faster, only later.
OPTIMISATION = "1"
_AHEAD: dict[Path, subprocess.Popen] = {}


def compiled_kernel(room: str, function: str, stored: str) -> Any:
    """Return a kernel for numbers that memory holds as `stored` (numba's name): compiled, or read from the cache."""
    _wait_for(room, stored)
    import numba

    settings: Any = numba.config
    settings.CACHE_DIR = settings.CACHE_DIR or str(cache_folder())
    loops = getattr(importlib.import_module(f"models.kernels.{room}"), function)
    pointer = numba.types.CPointer(getattr(numba.types, stored))
    return numba.cfunc(numba.types.void(pointer), cache=True, error_model="numpy")(loops)


@functools.cache
def cache_folder() -> Path:
    """Return where kernels compiled from exactly these sources are kept; numba overlooks changes of callees.

    In the user's cache folder, or where nothing can be written to that, in a temporary one.
    """
    sources = b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "alignyolo" / "kernels" / hashlib.sha256(sources).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="alignyolo-kernels-"))


def compile_ahead(stored: str, rooms: Iterable[str] = KERNELS, use: str = "training") -> None:
    """Begin to compile what of these files is not in the cache yet, each file in a process of its own.

    What training needs has what evaluation needs in it. The first use of a kernel waits for its file. Where a process
    fails, kernels are compiled when they are used.
    """
    if importlib.util.find_spec("numba") is None:
        return
    folder = os.environ.get("NUMBA_CACHE_DIR") or str(cache_folder())
    for room in rooms:
        stamps = [_stamp(folder, room, stored, whole) for whole in dict.fromkeys((use, "training"))]
        if any(stamp in _AHEAD or stamp.exists() for stamp in stamps):
            continue
        command = [sys.executable, "-m", "models.kernels.kernel_cache", room, stored, use]
        silence = subprocess.DEVNULL
        paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"NUMBA_OPT": OPTIMISATION, **os.environ} | {"NUMBA_CACHE_DIR": folder, "PYTHONPATH": paths}
        try:
            _AHEAD[stamps[0]] = subprocess.Popen(
                command, env=environment, stdin=silence, stdout=silence, stderr=silence
            )
        except OSError:
            return


def _wait_for(room: str, stored: str) -> None:
    """Wait until the processes that compile a file for such numbers have ended."""
    for stamp in [stamp for stamp in _AHEAD if stamp.name.startswith(f"{room}-{stored}-")]:
        _AHEAD.pop(stamp).wait()


def _stamp(folder: str, room: str, stored: str, use: str) -> Path:
    """Return the file that says that all kernels of a file for this use are in the cache."""
    return Path(folder) / f"{room}-{stored}-{use}.compiled"


def main() -> None:
    """Compile one file's kernels into the cache."""
    room, stored, use = sys.argv[1:]
    for function in (*KERNELS[room]["evaluation"], *(KERNELS[room]["training"] if use == "training" else ())):
        compiled_kernel(room, function, stored)
    _stamp(os.environ["NUMBA_CACHE_DIR"], room, stored, use).touch()


if __name__ == "__main__":
    main()
