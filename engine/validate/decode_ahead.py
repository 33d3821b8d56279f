"""The next batch of a validation, decoded while the network works on the one before."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.loader import Batch
from utils.hardware import usable_cores

# What a loader's iterator says when it has no more.
END: Any = object()


def worth_a_thread(workers: int, cores: int | None = None) -> bool:
    """Tell whether a thread should decode: loading processes do not, and there is a second core to do it on.

    On a single core the network would wait for the thread as it waits for photos, and be interrupted besides. Where
    the network computes on all cores, the thread fills those that stand idle between its operations.
    """
    return workers == 0 and (cores or usable_cores()) > 1


@contextmanager
def decoded_ahead(loader: DataLoader, device: torch.device) -> Iterator[Iterator[Batch]]:
    """Give the batches of a loader, the next one made in a thread of its own where that is of use (worth_a_thread).

    OpenCV decodes without Python's lock. One batch more than else is in memory. What goes wrong in the thread is
    raised where its batch is asked for; the thread ends with the block, at most a batch later, however that ends.
    """
    if not worth_a_thread(loader.num_workers):
        yield iter(loader)
        return
    with ThreadPoolExecutor(1, "decodes ahead", initializer=_same_gpu(device)) as pool:
        yield _one_ahead(iter(loader), pool)


def _one_ahead(batches: Iterator[Batch], pool: ThreadPoolExecutor) -> Iterator[Batch]:
    coming = pool.submit(next, batches, END)
    while (batch := coming.result()) is not END:
        coming = pool.submit(next, batches, END)
        yield batch


def _same_gpu(device: torch.device) -> Callable[[], None]:
    """Return what a thread does first: memory that it pins is the GPU's of this process, not the first one's."""
    return lambda: torch.cuda.set_device(device) if device.type == "cuda" else None
