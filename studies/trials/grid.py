"""The runs of a comparison as trials that wait to be taken; which of them are finished their folders say."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from engine.run_lock import NAME as LOCK
from engine.run_lock import writer_of
from studies.comparison.runs import Run, commands, note_request
from studies.trials.jobs import Commands, Job, locked, unlocked
from studies.trials.shared_study import EXIT_CODE, SharedStudy, Timing, journal_in, open_study, process_label
from studies.trials.workers import work
from utils.errors import CommandError, DivergedError, UserError, printable

RUN = "run"
LIVE = (TrialState.WAITING, TrialState.RUNNING)


def perform_all(
    runs: Sequence[Run],
    lacking: Callable[[Run], bool],
    into: Path,
    storage: str = "",
    jobs: int = 1,
    threads: int = 0,
    timing: Timing | None = None,
    steps: Callable[[Run], Commands] = commands,
) -> None:
    """Make the runs that are lacking, together with all workers that were started with the same runs.

    CommandError names what failed after everything else was tried.
    """
    if not any(lacking(run) for run in runs):
        return
    require_free([run for run in runs if lacking(run)])
    study, new = open_study(study_name(runs, into), storage, journal_in(into), timing or Timing(), direction="maximize")
    grid = Grid(study, runs, lacking, threads, steps)
    # Of several workers that start together the one that makes the study adds the runs.
    if new or grid.first:
        grid.add_missing()
    work(grid, jobs)
    if grid.failed:
        logs = ", ".join(str(grid.runs[key].log) for key in list(grid.failed)[:3])
        raise CommandError(f"{len(grid.failed)} of {len(runs)} runs failed and have to be started again; see {logs}")


def require_free(runs: Sequence[Run]) -> None:
    """Raise UserError where a process that is no worker's of this comparison trains in the folder of a run.

    Those of its workers hold the lock of the run's log too; where one of them has outlived its worker, its run waits
    until it has ended, which is a step later.
    """
    for run in runs:
        if not (run.folder / LOCK).is_file():
            continue
        log = locked(run.log)
        if log is None:
            continue
        # With the log's lock in hand no worker starts a training there that this look could disturb.
        with log:
            writer = writer_of(run.folder)
        if writer:
            raise UserError(
                f"{printable(run.folder)}: another process writes in this folder ({writer}): wait for it, or stop it"
            )


def study_name(runs: Sequence[Run], into: Path) -> str:
    """Name a study: alike for all workers of a comparison, otherwise for other runs."""
    asked = json.dumps([[key_of(run), run.arguments, run.split] for run in runs])
    return f"{into.as_posix()} {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def key_of(run: Run) -> str:
    """Return what a trial says which run it is."""
    return f"{run.variant.name} seed{run.seed}"


class Grid:
    """Fixed trials: every run that lacks is one, until it is finished or has failed since this worker started."""

    def __init__(
        self,
        study: SharedStudy,
        runs: Sequence[Run],
        lacking: Callable[[Run], bool],
        threads: int,
        steps: Callable[[Run], Commands],
    ):
        self.study, self.lacking, self.threads, self.steps = study, lacking, threads, steps
        self.runs = {key_of(run): run for run in runs}
        self.first = len(study.trials())
        self.failed: set[str] = set()
        self.due, self.idle = 0.0, 0

    def add_missing(self) -> None:
        """Add a trial for every run that lacks and has none. Two workers may add the same: see `take`."""
        live = {trial.user_attrs.get(RUN) for trial in self.study.trials() if trial.state in LIVE}
        for key, run in self.runs.items():
            # In this order: a run's folder is finished before its trial is.
            if key not in live and key not in self.failed and self.lacking(run):
                self.study.add({RUN: key})

    def take(self) -> tuple[Trial, Job] | None:
        """Take the first run that waits; of two trials of a run the later one is dropped."""
        if time.monotonic() < self.due:
            return None
        trials = self.study.trials()
        self.failed |= {
            trial.user_attrs[RUN] for trial in trials[self.first :] if EXIT_CODE in trial.user_attrs
        } & self.runs.keys()
        self.study.retry_dead(trials, self.abandoned)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if self.idle:
                self.add_missing()
            self.idle += 1
            self.due = time.monotonic() + self.study.timing.look
            return None
        self.idle = 0
        trial = self.study.ask()
        key = str(trial.user_attrs.get(RUN))
        if key not in self.runs or self.has_earlier(trial, key) or not self.lacking(self.runs[key]):
            self.study.tell(trial, TrialState.FAIL)
            return None
        run = self.runs[key]
        self.study.note(trial, "by", process_label())
        return trial, Job(self.steps(run), run.log, self.threads)

    def has_earlier(self, trial: Trial, key: str) -> bool:
        """Say whether an earlier trial of the same run waits or runs."""
        earlier = self.study.trials()[: trial.number]
        return any(each.state in LIVE and each.user_attrs.get(RUN) == key for each in earlier)

    def abandoned(self, trial: FrozenTrial) -> bool:
        """Say whether no process of this machine writes to the log of a trial's run."""
        run = self.runs.get(str(trial.user_attrs.get(RUN)))
        return run is not None and unlocked(run.log)

    def attend(self, trial: Trial, job: Job) -> None:
        """Beat; a trial that others took for dead is stopped, as they go on with it."""
        if job.locked:
            self.study.claim(trial)
        if not self.study.beat(trial):
            job.stop()

    def finish(self, trial: Trial, job: Job, code: int) -> None:
        """Say how a run went."""
        key = str(trial.user_attrs[RUN])
        run = self.runs[key]
        if job.stopped:
            self.study.tell(trial, TrialState.FAIL)
            return
        # A run that says it is done and left no metrics would be begun again for ever.
        code = code or int(self.lacking(run))
        note_request(run, code)
        outcome = {0: "done", DivergedError.exit_code: "diverged"}.get(code, f"failed, see {run.log}")
        print(f"{run.variant.name} seed {run.seed}: {outcome}", flush=True)
        if code:
            if code != DivergedError.exit_code:
                self.failed.add(key)
                self.study.note(trial, EXIT_CODE, code)
            self.study.tell(trial, TrialState.FAIL)
        else:
            self.study.tell(trial, TrialState.COMPLETE, float(run.metrics().get("ap") or 0))

    def release(self, trial: Trial) -> None:
        """Let a run that this worker leaves wait for another one."""
        with self.study.leaving():
            if self.study.tell(trial, TrialState.FAIL):
                self.study.add({RUN: trial.user_attrs[RUN]})

    def over(self) -> bool:
        """Say whether every run is finished or has failed."""
        return not any(key not in self.failed and self.lacking(run) for key, run in self.runs.items())
