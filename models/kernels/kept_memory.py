"""Memory that is kept on a CPU from one step to the next, by the C library or here, instead of fetching it again."""

import contextlib
import ctypes
import math
import os
import platform
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from utils.hardware import available_memory, most_taken, resident_memory

# Parameters of glibc's mallopt(3): the values that let it keep what is freed, and those that it has after large arrays.
KEEP_FREED = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
GIVE_BACK = {"M_MMAP_MAX": (-4, 65536), "M_TRIM_THRESHOLD": (-1, 64 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}
ONE_HEAP = {"M_ARENA_MAX": (-8, 1)}
# Holes may grow by a share of what steps take, but at least by so many bytes; so many steps show what they take, after
# as many others.
MOST_GROWTH, LEAST_GROWTH, SETTLED = 0.05, 64 << 20, 3
_BUFFERS = threading.local()


def share_one_heap() -> None:
    """Let threads that start from now on take memory from the main thread's heap, which alone keeps large arrays.

    A thread's own heaps are of 64 MB, and go back to the system whenever they are empty. Not where the environment says
    otherwise.
    """
    if _is_ours():
        ctypes.CDLL(None).mallopt(*ONE_HEAP["M_ARENA_MAX"])


def _is_ours() -> bool:
    """Tell whether the C library is glibc, and its settings are not made by who starts the program."""
    set_up = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return platform.libc_ver()[0] == "glibc" and not set_up


def keep_freed_memory(processes: int = 1) -> bool:
    """Let the C library keep freed arrays for the next step instead of giving them back; return whether it does now.

    Fetching their pages again takes a tenth of a training step on a CPU. Not where less memory is free than this and
    `processes` - 1 like it have taken so far, for holes in what is kept take some; nor where the environment decides.
    """
    if not _is_ours():
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


class HoleLimit:
    """Give the system what is kept and of no use, whenever that is a twentieth of what a step takes.

    Freed arrays of many sizes, with small ones that live on between them, leave holes that later arrays do not fit
    into: validating 1,000 photos, a process grew from .7 to 1.5 GB, of which .3 GB were in use.
    """

    def __init__(self) -> None:
        self._steps, self._taken, self._just_given = 0, 0, False
        self._showing, self._kinds = 0, {""}

    def begin(self, kind: str) -> None:
        """Note that steps of this kind follow, the first of which show what they take, as the very first ones did.

        A run that trains and validates in turns keeps for both: giving back in between, and fetching again, took a
        twentieth of an epoch of eight steps.
        """
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._showing = 2 * SETTLED

    def give_back(self) -> None:
        """Give back all that is free, as before the last work of a process, which may take the more."""
        ctypes.CDLL(None).malloc_trim(0)
        self._just_given = True

    def after_step(self) -> None:
        """Compare what this process occupies with what a few steps took after everything had been given back once."""
        occupied = resident_memory()
        self._steps += 1
        beyond = occupied - self._taken > max(self._taken * MOST_GROWTH, LEAST_GROWTH)
        if self._steps == SETTLED:
            self.give_back()
            self._showing = max(self._showing, SETTLED)
        elif self._steps > SETTLED:
            if beyond and not self._showing and not self._just_given:
                self.give_back()
                return
            # What a single step brings back right after is needed.
            if self._showing or (self._just_given and beyond):
                self._taken = max(occupied, self._taken)
            self._showing, self._just_given = max(self._showing - 1, 0), False


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[Callable[[], None]]:
    """Yield a function to call after each batch: freed memory is kept from the first one, which shows what is taken.

    What is kept goes back when the context ends.
    """
    begun = kept = False
    holes = HoleLimit()

    def after_batch() -> None:
        nonlocal begun, kept
        if not begun:
            begun, kept = True, keep_freed_memory()
        elif kept:
            holes.after_step()

    try:
        yield after_batch
    finally:
        if kept:
            give_freed_memory_back()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return memory of this thread by its name, with any contents.

    Fetched anew for each convolution, its holes took 200 MB of a step.
    """
    size, buffers = math.prod(shape) * dtype.itemsize, _BUFFERS.__dict__
    if name not in buffers or buffers[name].numel() < size:
        buffers.pop(name, None)
        # Evaluation shares them with training, which must not write to what inference mode has made.
        with torch.inference_mode(False):
            buffers[name] = torch.empty(size, dtype=torch.uint8)
    return buffers[name][:size].view(dtype).view(shape)


def release_scratch() -> None:
    """Free this thread's memory, as before other threads or work of another kind take theirs."""
    _BUFFERS.__dict__.clear()
