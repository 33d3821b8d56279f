"""A detector over a loader's batches, with the cores that one batch at a time would leave idle.

A network on two cores waits for the slower one after every operation, and while photos are decoded one core is idle.
So a CPU has two batches under way at a time, each on half of the threads, from the files to the detections. On a GPU,
and where another runtime computes, the next batch is decoded in a thread meanwhile, if no loading processes do that.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.loader import Batch
from models.kernels.kept_memory import release_scratch
from utils.hardware import available_memory, most_taken, usable_cores

# What a loader's iterator says when it has no more.
END: Any = object()
STREAMS = 2
Detect = Callable[[Batch], Any]
Detected = Generator[tuple[Batch, Any], None, None]


@contextmanager
def detected(detect: Detect, loader: DataLoader, device: torch.device, in_torch: bool = True) -> Iterator[Detected]:
    """Give the batches of a loader, in order, each with what `detect` makes of it in torch or another runtime.

    Threads are used where there is a second core; OpenCV and torch compute without Python's lock. What goes wrong in
    one is raised where its batch is asked for. They end with the block, however that ends, after what they are at.
    """
    batches: Iterator[Batch] = iter(loader)
    if device.type == "cpu" and in_torch and min(usable_cores(), torch.get_num_threads()) >= STREAMS:
        # Beside loading processes too: on all threads a batch is rounded otherwise, and a run's best epoch may change.
        found = _under_way(detect, batches)
    elif loader.num_workers or usable_cores() < 2:
        found = ((batch, detect(batch)) for batch in batches)
    else:
        found = _decoded_ahead(detect, batches, device)
    with closing(found):
        yield found


def _decoded_ahead(detect: Detect, batches: Iterator[Batch], device: torch.device) -> Detected:
    """Decode one batch ahead of the one that is looked at."""
    with ThreadPoolExecutor(1, "decodes ahead", initializer=lambda: _same_gpu(device)) as pool:
        coming = pool.submit(next, batches, END)
        while (batch := coming.result()) is not END:
            coming = pool.submit(next, batches, END)
            yield batch, detect(batch)


def _under_way(detect: Detect, batches: Iterator[Batch]) -> Detected:
    """Look at the first batch alone, which shows what it takes, then at two at a time, if as much memory is free.

    Torch rounds otherwise on another number of threads: where one is under way it has no more of them than of two.
    """
    for batch in itertools.islice(batches, 1):
        yield batch, detect(batch)
    # The threads to come have their own.
    release_scratch()
    free = available_memory()
    streams = 1 if free is None or free < most_taken() else STREAMS
    loading, numbers, inference = threading.Lock(), itertools.count(), torch.is_inference_mode_enabled()

    def one() -> tuple[int, Batch, Any]:
        with loading:
            number, batch = next(numbers), next(batches, END)
        with torch.inference_mode(inference):
            return number, batch, None if batch is END else detect(batch)

    with _threads_shared(streams) as pool:
        coming: deque[Future] = deque(pool.submit(one) for _ in range(streams))
        found: dict[int, tuple[Batch, Any]] = {}
        for wanted in itertools.count():
            while wanted not in found:
                number, batch, detections = coming.popleft().result()
                found[number] = batch, detections
            batch, detections = found.pop(wanted)
            if batch is END:
                return
            coming.append(pool.submit(one))
            yield batch, detections


@contextmanager
def _threads_shared(streams: int) -> Iterator[ThreadPoolExecutor]:
    """Give each stream its share of torch's threads, and the main thread all of them again at the end."""
    before = torch.get_num_threads()
    share = before // STREAMS
    torch.set_num_threads(share)
    try:
        with ThreadPoolExecutor(streams, "detects", initializer=lambda: torch.set_num_threads(share)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _same_gpu(device: torch.device) -> None:
    """Let memory that a thread pins be the GPU's of this process, not the first one's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
