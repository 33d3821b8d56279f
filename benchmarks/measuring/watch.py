"""A command run to its end, with the most memory that it and its children held."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

EVERY = 0.5


class Finished(NamedTuple):
    """A command that ended: its seconds, all that it printed, and the most memory in bytes."""

    seconds: float
    output: str
    peak: int


def run_watched(module: str, *arguments: object, environment: dict[str, str] | None = None) -> Finished:
    """Run a module of this project in a process of its own; UserError with the end of its output if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    start, peak, lines = time.perf_counter(), 0, []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        # A thread reads the pipe: a full one would stop the command.
        reader = threading.Thread(target=lambda: lines.extend(process.stdout))
        reader.start()
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(EVERY)
        reader.join()
    seconds, output = time.perf_counter() - start, "".join(lines)
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{output[-2000:]}")
    return Finished(seconds, output, peak)


def tree(root: int) -> list[int]:
    """Return the numbers of a process and its descendants (Linux)."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(process.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(process.name))
    found = [root]
    for number in found:
        found += children.get(number, [])
    return found


def tree_memory(root: int) -> int:
    """Return bytes that a process and its descendants hold, what they share counted once (Linux; 0 elsewhere)."""
    rollups = [_read(Path(f"/proc/{number}/smaps_rollup")) for number in tree(root)]
    lines = [line for rollup in rollups for line in rollup.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def tree_seconds(root: int) -> float:
    """Return CPU seconds that a process and its living descendants have used (Linux; 0 elsewhere)."""
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in map(_fields, tree(root)) if fields)
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(process: int) -> list[str]:
    """Return what /proc/N/stat says after the name: state, parent, ..., user and system ticks at 11 and 12."""
    return _read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
