"""An Optuna study that several processes and machines work on: it outlives dead workers and storages that go away.

Optuna's own heartbeat needs a database, and its thread ends with the first beat that the database does not take, after
which a live trial counts as dead. Here a worker beats by raising a number in its trial's attributes, with any storage.
Others measure by their own clock how long that number stands still, and begin anew after the storage was away.
"""

import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from studies.trials.installed import check_postgresql
from utils.errors import UserError, printable

Value = TypeVar("Value")
OUTAGES = (StorageInternalError, SQLAlchemyError, OSError)
BEAT, WORKER, EXIT_CODE = "beat", "worker", "exit_code"


@dataclass(frozen=True)
class Timing:
    """Seconds: between two beats, without a beat until a worker counts as dead, between two looks at the storage."""

    beat: float = 20
    grace: float = 180
    look: float = 2


class Watch:
    """Tells which numbers have stood still for the grace period, by this process's clock."""

    def __init__(self, grace: float):
        self.grace = grace
        self.looked: float | None = None
        self.since: dict[int, tuple[object, float]] = {}

    def forget(self) -> None:
        """Begin anew: nobody could beat while the storage was away."""
        self.looked = None

    def still(self, numbers: Mapping[int, object], now: float) -> list[int]:
        """Return the keys whose number stood still for the grace period; looks further apart than that do not count."""
        if self.looked is None or now - self.looked > self.grace:
            self.since = {}
        self.looked = now
        for key, number in numbers.items():
            if key not in self.since or self.since[key][0] != number:
                self.since[key] = (number, now)
        return [key for key in numbers if now - self.since[key][1] > self.grace]


class SharedStudy:
    """A study in a storage, with calls that wait for the storage where it is away."""

    def __init__(self, study: optuna.Study, timing: Timing):
        self.study, self.timing, self.watch = study, timing, Watch(timing.grace)
        self.beaten: dict[int, float] = {}
        self.waits_until = math.inf

    def steady(self, call: Callable[[], Value]) -> Value:
        """Return the value of a call to the storage, which is tried again until the storage answers.

        For ever, but for a worker that leaves.
        """
        said = -60.0
        while True:
            try:
                return call()
            except OUTAGES as error:
                if time.monotonic() > self.waits_until:
                    raise
                if time.monotonic() - said >= 60:
                    said = time.monotonic()
                    reason = printable(error.__cause__ or error, 160)
                    print(f"storage does not answer, trying again: {reason}", file=sys.stderr, flush=True)
                self.watch.forget()
                time.sleep(min(self.timing.look, 5))

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Let a worker that ends give a trial back, if the storage answers soon; else others will find it dead."""
        self.waits_until = min(self.waits_until, time.monotonic() + 3 * self.timing.look)
        try:
            yield
        except OUTAGES:
            text = f"silent for {self.timing.grace:g} s, or at once on this machine"
            print(
                f"storage does not answer: a run is left as it is; others go on with it when it is {text}", flush=True
            )

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as they are now."""
        return self.steady(lambda: self.study.get_trials(deepcopy=False))

    def ask(self) -> Trial:
        """Return the first trial that waits, now this worker's, or a new one where none waits."""
        trial = self.steady(self.study.ask)
        self.beaten[trial.number] = time.monotonic() - self.timing.beat
        return trial

    def note(self, trial: Trial, key: str, value: Any) -> bool:
        """Set an attribute of a running trial; False where it is no longer this worker's."""
        try:
            self.steady(lambda: trial.set_user_attr(key, value))
        except UpdateFinishedTrialError:
            return False
        return True

    def add(self, attributes: Mapping[str, Any]) -> None:
        """Add a trial that waits for a worker."""
        waiting = optuna.create_trial(state=TrialState.WAITING, user_attrs=dict(attributes))
        self.steady(lambda: self.study.add_trial(waiting))

    def tell(self, trial: Trial, state: TrialState, value: float | None = None) -> bool:
        """End a trial; False where somebody else had ended it."""
        self.beaten.pop(trial.number, None)
        return self.finish(trial.number, state, value)

    def finish(self, number: int, state: TrialState, value: float | None = None) -> bool:
        """End the trial of this number; False where it had ended."""
        try:
            self.steady(lambda: self.study.tell(number, value, state=state))
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def beat(self, trial: Trial) -> bool:
        """Show that a trial's worker lives, when it is time to; False where others took it for dead.

        Does not wait for a storage that is away: the next call tries again.
        """
        now = time.monotonic()
        if now - self.beaten[trial.number] < self.timing.beat:
            return True
        try:
            trial.set_user_attr(BEAT, int(trial.user_attrs.get(BEAT, 0)) + 1)
        except UpdateFinishedTrialError:
            return False
        except OUTAGES:
            return True
        self.beaten[trial.number] = now
        return True

    def claim(self, trial: Trial) -> None:
        """Note once that this process holds the lock of the trial's run."""
        if trial.user_attrs.get(WORKER) != worker_of(trial.number):
            self.note(trial, WORKER, worker_of(trial.number))

    def retry_dead(self, trials: list[FrozenTrial], abandoned: Callable[[FrozenTrial], bool]) -> None:
        """End the running trials whose workers are dead, and lets each wait for another worker once more.

        `abandoned` says of a trial of this machine whether its lock is free.
        """
        others = [each for each in trials if each.state == TrialState.RUNNING and each.number not in self.beaten]
        still = self.watch.still({each.number: each.user_attrs.get(BEAT) for each in others}, time.monotonic())
        for trial in others:
            here = trial.user_attrs.get(WORKER) == worker_of(trial.number)
            if (trial.number in still or (here and abandoned(trial))) and self.finish(trial.number, TrialState.FAIL):
                print(f"trial {trial.number}: its worker is gone, the run goes on here or elsewhere", flush=True)
                self.give_back(trial)

    def give_back(self, trial: FrozenTrial) -> None:
        """Add a trial like one that has failed, with the values that it reported, to wait for a worker."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            again = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
            self.steady(lambda: again(self.study, trial))


def worker_of(number: int) -> str:
    """Return this machine and a trial's number: a trial that was given back has another number than it says."""
    return f"{socket.gethostname()} trial {number}"


def open_study(name: str, storage: str, file: Path, timing: Timing, **settings: Any) -> tuple[SharedStudy, bool]:
    """Open the study of a name in a storage, or in `file` without one, and say whether it is new.

    UserError for a storage that cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = open_storage(storage, file)
    try:
        return SharedStudy(optuna.create_study(storage=backend, study_name=name, **settings), timing), True
    except DuplicatedStudyError:
        loaded = optuna.create_study(storage=backend, study_name=name, load_if_exists=True, **settings)
        return SharedStudy(loaded, timing), False


def has_study(name: str, storage: str, file: Path) -> bool:
    """Say whether a storage, or `file` without one, has the study of a name; a file that is not there is not made."""
    if not storage and not file.is_file():
        return False
    return name in optuna.get_all_study_names(open_storage(storage, file))


def open_storage(storage: str, file: Path) -> RDBStorage | JournalStorage:
    """Open a database by its URL, or a journal file, made with its folder; UserError for what is neither."""
    if not storage:
        file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(file)))
    try:
        url = make_url(storage)
    except ArgumentError:
        raise UserError(f"--storage {printable(storage)}: expected postgresql://USER:PASSWORD@HOST/DATABASE") from None
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        check_postgresql()
        url = url.set(drivername="postgresql+psycopg")
        arguments = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    text = url.render_as_string(hide_password=False)
    try:
        return new_database_at_once(lambda: RDBStorage(text, {"pool_pre_ping": True, "connect_args": arguments}))
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
        shown = url.render_as_string(hide_password=True)
        raise UserError(f"--storage {printable(shown)}: {printable(error.__cause__ or error)}") from None


def new_database_at_once(connect: Callable[[], RDBStorage], attempts: int = 5) -> RDBStorage:
    """Connect, trying again where several workers make the tables of an empty database together."""
    for _ in range(attempts - 1):
        try:
            return connect()
        except (IntegrityError, ProgrammingError):
            time.sleep(1)
    return connect()


def journal_in(into: Path) -> Path:
    """Return the file of a comparison's or a search's trials where no storage is named."""
    return into / "trials.journal"


def process_label() -> str:
    """Return this process, for people who read the trials."""
    return f"{socket.gethostname()} process {os.getpid()}"
