"""Seconds from a command to its help, to the refusal of a wrong flag, and to the first training step of `shapes`.

python -m benchmarks.startup [--turns 3]

The data set is drawn anew each time: the first step is that of a first `python train.py`. Importing the peer's trainer
is measured beside them. CPU seconds are those of the command and its children: what it takes where nothing else runs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.side_by_side import conclude, flags, in_turns, spread
from utils.errors import run_command

SHOWN = "first step after"
# train.py as it is, with a clock in the loop that it runs.
FIRST_STEP = f"""
import sys, time
from engine.train import run as training
from engine.train.epoch import update
import engine.train.epoch, train
def first(*given):
    update(*given)
    print("{SHOWN}", time.time(), flush=True)
    raise KeyboardInterrupt
engine.train.epoch.update = first
train.main()
"""


def seconds_of(command: Sequence[str], until: str = "") -> tuple[float, float]:
    """Return wall and CPU seconds of a command, whatever its exit code, to its end or to the time that it prints."""
    start, used = time.time(), os.times()
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, check=False
    )
    end, now = time.time(), os.times()
    if until:
        end = next(float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith(until))
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return end - start, cpu


def first_step() -> tuple[float, float]:
    """Time train.py until the optimiser has made its first step, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["--data-root", f"{folder}/data", "--project", f"{folder}/runs"]
        return seconds_of([sys.executable, "-c", FIRST_STEP, *given], SHOWN)


def main() -> int:
    """Print and write the table."""
    settings = flags(__doc__, "startup", photos=False).parse_args()
    train = [sys.executable, "train.py"]
    sides = {
        "train.py --help": lambda: seconds_of([*train, "--help"]),
        "train.py with a wrong flag": lambda: seconds_of([*train, "--epoch", "3"]),
        "first step of shapes": first_step,
        "import ultralytics' trainer": lambda: seconds_of(
            [sys.executable, "-c", "from utils.ultralytics_only import benchmark_peer; benchmark_peer()"]
        ),
    }
    found = in_turns(sides, settings.turns)
    rows = [
        {
            "side": name,
            **{f"s {key}": value for key, value in spread(times[::2]).items()},
            "CPU s median": statistics.median(times[1::2]),
        }
        for name, times in found.items()
    ]
    conclude("startup", rows, settings.out)
    return 0


if __name__ == "__main__":
    run_command(main)
