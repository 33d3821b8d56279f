"""Memory that the C library keeps from one step to the next on a CPU, instead of fetching its pages again."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator

from utils.hardware import available_memory, most_taken

# Parameters of glibc's mallopt(3): the values that let it keep what is freed, and those that it has after large arrays.
KEEP_FREED = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
GIVE_BACK = {"M_MMAP_MAX": (-4, 65536), "M_TRIM_THRESHOLD": (-1, 64 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}


def keep_freed_memory(processes: int = 1) -> bool:
    """Let the C library keep freed arrays for the next step instead of giving them back; return whether it does now.

    Fetching their pages again takes a tenth of a training step on a CPU. Not where less memory is free than this and
    `processes` - 1 like it have taken so far, for holes in what is kept take some; nor where the environment decides.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    free = available_memory()
    if free is None or free < processes * most_taken():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(*setting) for setting in KEEP_FREED.values())


def give_freed_memory_back() -> None:
    """End what keep_freed_memory began, and give the system what has been kept."""
    library = ctypes.CDLL(None)
    for setting in GIVE_BACK.values():
        library.mallopt(*setting)
    library.malloc_trim(0)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[Callable[[], None]]:
    """Yield a function that begins to keep freed memory, once it is seen how much is taken; end with the context."""
    kept = False

    def begin() -> None:
        nonlocal kept
        kept = keep_freed_memory() or kept

    try:
        yield begin
    finally:
        if kept:
            give_freed_memory_back()
