"""One worker: takes runs that are free and keeps as many of them going as it was told, until none is left anywhere."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from optuna.trial import Trial

from studies.trials.jobs import Job

PAUSE = 0.2


class Source(Protocol):
    """Where runs come from, and who is told how they went."""

    def take(self) -> tuple[Trial, Job] | None:
        """Return a run that is now this worker's; None where none is free at the moment."""

    def attend(self, trial: Trial, job: Job) -> None:
        """Look after a run; called again and again while it goes on."""

    def finish(self, trial: Trial, job: Job, code: int) -> None:
        """Take note of a run's exit code."""

    def release(self, trial: Trial) -> None:
        """Let go of a run that this worker has to leave unfinished."""

    def over(self) -> bool:
        """Say whether no run is left, here or with another worker."""


def work(source: Source, jobs: int) -> None:
    """Make runs, `jobs` of them at the same time, until the source says that all is over.

    On SIGINT or SIGTERM they end in good order and wait for another worker.
    """
    going: list[tuple[Trial, Job]] = []
    with terminated_like_interrupted():
        try:
            while True:
                for trial, job in list(going):
                    code = job.poll()
                    if code is None:
                        source.attend(trial, job)
                    else:
                        going.remove((trial, job))
                        source.finish(trial, job, code)
                        job.close()
                taken = source.take() if len(going) < jobs else None
                if taken:
                    going.append(taken)
                elif not going and source.over():
                    return
                else:
                    time.sleep(PAUSE)
        finally:
            for _, job in going:
                job.stop()
            for trial, job in going:
                job.end()
                source.release(trial)
                job.close()


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as SIGINT does; outside the main thread nothing changes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
