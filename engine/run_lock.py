"""One writer a folder: a lock that the system takes away with the process that holds it."""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from utils.errors import UserError, printable

NAME = ".lock"
HELD = {errno.EACCES, errno.EAGAIN}
UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder while the block runs; UserError while one of them does.

    A lock of POSIX: NFS passes it to its server, so it holds between machines too; child processes do not inherit it,
    and no file has to be removed after a crash. Where a file system knows no locks, a line says so.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                who = _holder(file)
                who = f" ({who})" if who else ""
                raise UserError(
                    f"{printable(folder)}: another process writes in this folder{who}: wait for it, or stop it"
                ) from None
            if error.errno not in UNKNOWN:
                raise
            print(
                f"warning: {printable(folder)}: no locks on this file system ({error.strerror}): nothing keeps a "
                "second process from writing here",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        file.flush()
        with contextlib.suppress(OSError):
            # NFS would keep it on this machine for a while, and another could not tell its user who writes here.
            os.fsync(file.fileno())
        yield


def writer_of(folder: Path) -> str:
    """Say which process writes in a folder, as its lock does; empty where none does, or where that cannot be told.

    Not for a process that holds the lock itself: looking would give it up.
    """
    try:
        import fcntl

        with (folder / NAME).open("r+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return (_holder(file) or "a process") if error.errno in HELD else ""
    except (ImportError, OSError):
        pass
    return ""


def _holder(file: TextIO) -> str:
    """Say which process holds the lock, as it wrote into the file; empty where that cannot be read."""
    try:
        file.seek(0)
        return printable(file.read(200))
    except (OSError, UnicodeDecodeError):
        return ""
