"""Refuses what is named like a file and is none: a named pipe would wait for ever, a device never ends."""

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def require_regular(path: str | os.PathLike) -> Path:
    """Return the path; OSError with its kind, before anything is opened, for a pipe, a socket or a device.

    Links are followed. What is missing, or a folder, is left to who opens it.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - once for every photo
    except (OSError, ValueError):
        return Path(path)
    _refuse_others(mode, path)
    return path if isinstance(path, Path) else Path(path)


def read_regular(path: str | os.PathLike, ends: int = 0) -> bytes:
    """Read a file whole, or its first and last `ends` bytes; OSError as `require_regular` and opening raise it.

    In a third of the calls to the system that a file object makes: there may be a file for each of 118,000 photos.
    """
    found = os.stat(path)  # noqa: PTH116
    _refuse_others(found.st_mode, path)
    file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        if ends and found.st_size > 2 * ends:
            start = os.read(file, ends)
            os.lseek(file, -ends, os.SEEK_END)
            return start + os.read(file, ends)
        data = os.read(file, found.st_size + 1)
        while len(data) != found.st_size and (more := os.read(file, 2**20)):
            data += more
        return data
    finally:
        os.close(file)


def _refuse_others(mode: int, path: str | os.PathLike) -> None:
    if stat.S_ISREG(mode):
        return
    for is_kind, name in KINDS.items():
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"{name}, not a file", str(path))
