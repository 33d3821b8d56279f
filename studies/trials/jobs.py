"""A run's processes one after another, with a lock that lasts as long as any of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.parent_process import PARENT
from utils.errors import printable
from utils.run_folder import REPOSITORY

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two machines' workers from one folder
    fcntl = None  # type: ignore[assignment]

# Yields the arguments of a Python process, is sent its exit code, and returns the exit code of the whole.
Commands = Generator[Sequence[str], int, int]


class Job:
    """Runs commands in the background, their output in a log that is locked meanwhile."""

    def __init__(self, commands: Commands, log: Path, threads: int):
        self.commands, self.log, self.stopped = commands, log, False
        # Its trainers end with this process, also when it is killed.
        path = os.environ.get("PYTHONPATH")
        self.environment = {
            **os.environ,
            # Modules of this project are found from any folder.
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([path] if path else [])]),
            PARENT: str(os.getpid()),
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }
        self.output: IO[str] | None = None
        self.waits = False
        self.process: subprocess.Popen | None = None

    @property
    def locked(self) -> bool:
        """Say whether this job holds the lock of its run."""
        return self.output is not None

    def poll(self) -> int | None:
        """Go on with what is due, without waiting; return the exit code once all is over."""
        if self.output is None:
            self.output = locked(self.log)
            if self.output is not None:
                return self._advance(None)
            if not self.waits:
                self.waits = True
                print(f"{printable(self.log)}: a process of an earlier worker still writes to it: waits for its end")
                sys.stdout.flush()
            return None
        code = self.process.poll() if self.process else 0
        if code is None:
            return None
        return code if self.stopped else self._advance(code)

    def _advance(self, code: int | None) -> int | None:
        """Start the next command, which may depend on the last exit code; return that where no command is left."""
        try:
            command = next(self.commands) if code is None else self.commands.send(code)
        except StopIteration as end:
            return end.value
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=self.output, stderr=subprocess.STDOUT, env=self.environment
        )
        return None

    def stop(self) -> None:
        """Ask the process to end in good order, and start no other."""
        self.stopped = True
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Stop and wait."""
        self.stop()
        if self.process:
            self.process.wait()

    def close(self) -> None:
        """Give up the lock: what the processes left has been told, so that nobody takes the run for abandoned."""
        if self.output:
            self.output.close()


def locked(log: Path) -> IO[str] | None:
    """Open a log for adding, with a lock that processes which write to it inherit; None where others hold it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.open("a", encoding="utf-8")
    try:
        if fcntl:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        output.close()
        return None
    return output


def unlocked(log: Path) -> bool:
    """Say whether no process writes to a log."""
    if not fcntl or not log.is_file():
        return False
    output = locked(log)
    if output:
        output.close()
    return output is not None


@contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """Wait until no other process is in a block with the same file: workers that end together write one report."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
