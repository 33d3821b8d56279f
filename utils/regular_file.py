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
    for is_kind, name in KINDS.items():
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"{name}, not a file", str(path))
    return Path(path)
