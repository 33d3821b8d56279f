"""Many small files read quickly: label texts, photo headers, time stamps, and where results about them are kept."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

from data.images import ImageError, image_size
from utils.errors import UserError, printable
from utils.regular_file import read_regular

CHUNK = 512

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_text(path: Path) -> bytes | None:
    """Read a label file's bytes; None if there is no such file, UserError if it cannot be read."""
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{printable(path)}: the label file cannot be read: {error.strerror}") from error


def stamp(path: Path) -> tuple[int, int]:
    """Ask for a file's size and modification time in ns; (-1, -1) if there is no answer."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def size_or_reason(path: Path) -> tuple[int, int] | str:
    """Read the (h, w) of a photo from its header, or say why that fails."""
    try:
        return image_size(path)
    except ImageError as error:
        return error.reason


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call the function on all items, in order, by a few threads from where it mostly waits for the disk.

    What it computes holds Python's lock: stat of files that are in memory takes a third of the time in one thread.
    """
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    results: list[Result] = []
    for number, chunk in enumerate(chunks, 1):
        start, computed = time.perf_counter(), time.thread_time()
        results += [function(item) for item in chunk]
        if time.thread_time() - computed < (time.perf_counter() - start) / 2:
            with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
                rest = pool.map(lambda chunk: [function(item) for item in chunk], chunks[number:])
                results += chain.from_iterable(rest)
            break
    return results


def cache_folder(chosen: Path | None) -> Path | None:
    """Find the folder for caches: the one chosen, or alignyolo in the user's cache folder; None where there is none."""
    if chosen is not None:
        return chosen
    root = os.environ.get("XDG_CACHE_HOME", "")
    if Path(root).is_absolute():
        return Path(root) / "alignyolo"
    try:
        return Path.home() / ".cache" / "alignyolo"
    except RuntimeError:
        return None
