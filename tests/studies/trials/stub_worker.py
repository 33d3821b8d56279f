"""One worker of a comparison whose runs are those of stub_training.py.

python -m tests.studies.trials.stub_worker INTO STORAGE HOST RUNS EPOCHS SECONDS
"""

import socket
import sys
from pathlib import Path

from studies.comparison.recipe import Variant
from studies.comparison.runs import Run, plan
from studies.trials.grid import perform_all
from studies.trials.jobs import Commands
from studies.trials.shared_study import Timing

STUB = str(Path(__file__).with_name("stub_training.py"))
FAST = Timing(beat=0.3, grace=5, look=0.3)


def stub_runs(into: Path, count: int) -> list[Run]:
    """The runs of a made-up comparison."""
    return plan([Variant("stub", {})], range(count), [], into, "val")


def stub_steps(epochs: int, seconds: float):
    """The commands of a run, as `commands` gives them of a real one."""

    def steps(run: Run) -> Commands:
        return (yield [STUB, str(run.folder), str(run.seed), str(epochs), str(seconds)])

    return steps


def main(into: str, storage: str, host: str, count: str, epochs: str, seconds: str) -> None:
    """Works until all runs are done; `host` is this machine's name, so that one machine can play several."""
    socket.gethostname = lambda: host
    runs = stub_runs(Path(into), int(count))
    steps = stub_steps(int(epochs), float(seconds))
    perform_all(runs, lambda run: not run.done, Path(into), storage, timing=FAST, steps=steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
