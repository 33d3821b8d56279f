"""A search for settings: Optuna's TPE proposes, train.py runs answer, Hyperband stops those that fall behind."""

import csv
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from studies.comparison.recipe import Variant
from studies.comparison.runs import Run, check_requests, commands
from studies.trials.jobs import Commands, Job, unlocked
from studies.trials.shared_study import EXIT_CODE, SharedStudy, Timing, has_study, journal_in, open_study, process_label
from studies.trials.space import Dimension, as_arguments, choose, config_of, out_of_reach, present_values
from studies.trials.workers import work
from utils.config.knobs import Config, TuneConfig
from utils.errors import CommandError, DivergedError, UserError, nearest, printable

FOLDER, SETTINGS, ASKED = "folder", "settings", "asked"
# The run of the settings without a search, whatever its trial's number after a restart.
START = "trial000"
STARTUP = 10  # random trials before TPE has something to learn from; Optuna's default


def open_search(
    config: TuneConfig, shared: Sequence[str], space: Sequence[Dimension], timing: Timing | None = None
) -> SharedStudy:
    """Open the study of a search, with the settings without a search as its first trial, if the search can try them.

    UserError where its folder holds a search for something else, and for a report of a search that is not there.
    """
    into, start = Path(config.into), config_of(shared, {})
    name = f"tune {into.as_posix()}"
    check_metric(config.metric)
    check_folder(name, config)
    epochs = start.run.epochs
    # Midway a run of few epochs has a lower learning rate than one of many, so that its measure says nothing of theirs.
    lengths_differ = any(each.key == "epochs" for each in space)
    prunes = config.prune and epochs > 1 and not lengths_differ
    # Not before the warm-up is over, if that leaves two thirds of the run: until then AP says nothing.
    first_look = max(1, min(math.ceil(start.hyper.warmup_epochs), epochs // 3))
    pruner = optuna.pruners.HyperbandPruner(first_look, epochs) if prunes else optuna.pruners.NopPruner()
    study, new = open_study(
        name,
        config.storage,
        journal_in(into),
        timing or Timing(),
        direction="maximize",
        pruner=pruner,
    )
    if lengths_differ and config.prune and new:
        print("note: --search tries epochs, so no run is stopped early: midway they cannot be compared", flush=True)
    asked = json.dumps([*config.search, *shared, config.metric, config.max_seconds, config.max_parameters])
    if new:
        study.steady(lambda: study.study.set_user_attr(ASKED, asked))
        beyond = out_of_reach(space, shared)
        if beyond:
            said = ", ".join(f"{key}={shown(value)}" for key, value in beyond.items())
            print(f"note: --search does not hold {said}: no trial has the settings without a search", flush=True)
        else:
            study.steady(lambda: study.study.enqueue_trial(present_values(space, shared)))
    before = study.steady(lambda: study.study.user_attrs).get(ASKED, asked)
    if before != asked:
        raise UserError(f"{printable(into)} holds another search ({printable(before)}): choose another --into")
    return study


def check_metric(metric: str) -> None:
    """Raise UserError for a measure that no run reports, and for one of which less is better: a search maximises."""
    if metric == TuneConfig.metric:
        return
    # Only for another measure: it takes torch, which starts slowly.
    from studies.comparison.tables import less_is_better
    from utils.metrics.coco_metrics import CocoMetrics
    from utils.metrics.truths import FREQUENCIES

    nothing = CocoMetrics([(1, 1)], [0, 0], [], [], ["none"]).compute(by_ratio=True, errors=True)
    if metric in nothing.overall and less_is_better(metric):
        raise UserError(
            f"--metric {printable(metric)}: less of it is better, and a search maximises: expected one such as ap75"
        )
    measures = [*nothing.overall, *(f"ap_{name}" for name in FREQUENCIES.values())]
    measures = [name for name in measures if not less_is_better(name)]
    if metric not in measures:
        raise UserError(f"--metric {printable(metric)}: no run reports it{nearest(metric, measures)}")


def check_folder(name: str, config: TuneConfig) -> None:
    """Raise UserError where the storage lacks a search, and its folder has trials or a report of it is asked for.

    Trials' folders do not say whose they are: a new search would take those of another one for its own.
    """
    into = Path(config.into)
    # In this order: of workers that start together, one may find the first trial of another, whose study is older.
    trials = any(into.glob("trial*.json"))
    if not (trials or config.report_only) or has_study(name, config.storage, journal_in(into)):
        return
    where = printable(config.storage and "--storage" or journal_in(into))
    if trials:
        raise UserError(
            f"{printable(into)} holds trials of a search that {where} does not know as --into {printable(into)}: "
            "go on with its own --into and --storage, or choose another --into"
        )
    raise UserError(f"--report-only: {printable(into)} holds no search: expected the --into (and --storage) of one")


def run_search(
    study: SharedStudy,
    config: TuneConfig,
    shared: Sequence[str],
    space: Sequence[Dimension],
    steps: Callable[[Run], Commands] = commands,
) -> None:
    """Make the trials that are left, together with all workers of the same search; CommandError where none succeeds."""
    search = Search(study, config, shared, space, steps)
    work(search, config.jobs)
    if not any(trial.state == TrialState.COMPLETE for trial in study.trials()):
        raise CommandError(f"no trial succeeded; see {printable(Path(config.into))}/*.log")


def counts(trial: FrozenTrial) -> bool:
    """Say whether a trial is one of those that were asked for: all but those that were left to another one."""
    return trial.state != TrialState.FAIL or EXIT_CODE in trial.user_attrs


class Search:
    """Trials that Optuna proposes one after another, until there are as many as were asked for."""

    def __init__(
        self,
        study: SharedStudy,
        config: TuneConfig,
        shared: Sequence[str],
        space: Sequence[Dimension],
        steps: Callable[[Run], Commands],
    ):
        self.study, self.config, self.shared, self.space, self.steps = study, config, tuple(shared), space, steps
        self.into = Path(config.into)
        # The start goes to its end, for all others are compared with it.
        self.kept = "" if out_of_reach(space, shared) else START
        self.runs: dict[int, Run] = {}
        self.last_epoch: dict[int, int] = {}
        self.pruned: set[int] = set()
        self.reported: dict[int, int] = {}
        self.due, self.finished = 0.0, False
        self.prunes = not isinstance(study.study.pruner, optuna.pruners.NopPruner)

    def take(self) -> tuple[Trial, Job] | None:
        """Start the trial that waits, or a new one while there are fewer than asked for."""
        if time.monotonic() < self.due or self.finished:
            return None
        trials = self.study.trials()
        self.study.retry_dead(trials, self.abandoned)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and sum(map(counts, trials)) >= self.config.trials:
            self.finished = all(trial.state.is_finished() for trial in trials)
            self.due = time.monotonic() + self.study.timing.look
            return None
        trial = self.study.ask()
        if sum(map(counts, self.study.trials()[: trial.number])) >= self.config.trials and not waiting:
            self.study.tell(trial, TrialState.FAIL)
            return None
        return self.start(trial)

    def start(self, trial: Trial) -> tuple[Trial, Job] | None:
        """Let a trial choose its settings and start its run; None where they contradict each other or break a limit."""
        # A generator of its own for every trial: workers that start together propose different things.
        seed = self.config.sampler_seed + trial.number
        self.study.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        settings = self.study.steady(lambda: choose(self.space, trial, self.shared))
        name = str(trial.user_attrs.get(FOLDER, f"trial{trial.number:03d}"))
        arguments = (*self.shared, *as_arguments(settings))
        run = self.runs[trial.number] = Run(Variant(name, settings), 0, self.into / name, arguments)
        for key, value in ((FOLDER, name), (SETTINGS, settings), ("by", process_label())):
            self.study.note(trial, key, value)
        try:
            check_requests([run])
        except UserError:
            self.release(trial)
            raise
        try:
            resolved = config_of(self.shared, settings)
        except UserError as error:
            self.study.tell(trial, TrialState.PRUNED)
            print(f"{name}: left out, {error}", flush=True)
            return None
        self.last_epoch[trial.number] = resolved.run.epochs
        if self.config.max_parameters:
            found = count_parameters(resolved)
            self.study.note(trial, "parameters", found)
            if self.constrain(trial, "parameters", found - self.config.max_parameters) > 0:
                self.study.tell(trial, TrialState.PRUNED)
                return None
        return trial, Job(self.steps(run), run.log, self.config.threads)

    def constrain(self, trial: Trial, name: str, excess: float) -> float:
        """Tell Optuna by how much a trial is above a limit; return it."""
        if name not in trial.constraints:
            self.study.steady(lambda: trial.set_constraint(name, excess))
        return excess

    def abandoned(self, trial: FrozenTrial) -> bool:
        """Say whether no process of this machine writes to the log of a trial's run."""
        name = trial.user_attrs.get(FOLDER)
        return bool(name) and unlocked(self.into / f"{name}.log")

    def attend(self, trial: Trial, job: Job) -> None:
        """Beat, report the epochs that are new, and stop a run that falls behind or takes too long."""
        if job.locked:
            self.study.claim(trial)
        if not self.study.beat(trial):
            job.stop()
        if job.stopped or not job.locked:
            return
        fresh = self.report_fresh(trial)
        if not fresh or self.reported[trial.number] >= self.last_epoch[trial.number]:
            return
        excess = number(fresh[-1].get("seconds")) - self.config.max_seconds if self.config.max_seconds else 0
        if excess > 0:
            self.constrain(trial, "seconds", excess)
        if excess > 0 or (self.runs[trial.number].folder.name != self.kept and self.study.steady(trial.should_prune)):
            self.pruned.add(trial.number)
            job.stop()

    def report_fresh(self, trial: Trial) -> list[dict[str, str]]:
        """Report the epochs that have ended since the last time, and return their rows."""
        fresh = [row for row in self.epochs(trial) if int(row["epoch"]) > self.reported.get(trial.number, 0)]
        for row in fresh:
            self.reported[trial.number] = int(row["epoch"])
            if self.config.metric in row:
                self.report(trial, int(row["epoch"]), number(row[self.config.metric]))
            elif self.prunes:
                self.prunes = False
                print(f"note: {self.config.metric} is not measured by epoch: no run is stopped early", flush=True)
        return fresh

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """Tell Optuna an epoch's measure; one that an earlier worker told is told again without a word."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study.steady(lambda: trial.report(value, epoch))

    def epochs(self, trial: Trial) -> list[dict[str, str]]:
        """Read the rows of results.csv as far as there are any."""
        path = self.runs[trial.number].folder / "results.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def finish(self, trial: Trial, job: Job, code: int) -> None:
        """Tell Optuna how a run went."""
        run, state, value = self.runs[trial.number], TrialState.FAIL, None
        if trial.number in self.pruned:
            state, outcome = TrialState.PRUNED, f"stopped after epoch {self.reported[trial.number]}"
        elif job.stopped:
            outcome = "left to another worker"
        elif code == DivergedError.exit_code:
            self.study.note(trial, EXIT_CODE, code)
            state, outcome = TrialState.PRUNED, "diverged"
        elif code or not run.done:
            self.study.note(trial, EXIT_CODE, code or 1)
            outcome = f"failed, see {run.log}"
        else:
            self.report_fresh(trial)
            state, value = TrialState.COMPLETE, self.value_of(run)
            seconds = number(self.epochs(trial)[-1].get("seconds"))
            self.study.note(trial, "seconds", seconds)
            if self.config.max_seconds:
                self.constrain(trial, "seconds", seconds - self.config.max_seconds)
            outcome = f"{self.config.metric} {value:.4f}"
        self.study.tell(trial, state, value)
        said = " ".join(f"{key}={shown(value)}" for key, value in run.variant.settings.items())
        print(f"{run.variant.name}: {outcome}   {said}", flush=True)

    def value_of(self, run: Run) -> float:
        """Read the measure of a finished run; UserError where it has none of that name, or no run can have one."""
        metrics = run.metrics()
        if self.config.metric not in metrics:
            raise UserError(
                f"--metric {printable(self.config.metric)}: {printable(run.metrics_file)} has no such measure"
            )
        if metrics[self.config.metric] is None:
            raise UserError(
                f"--metric {printable(self.config.metric)} is undefined on val: it has no such objects "
                f"({printable(run.metrics_file)})"
            )
        return number(metrics[self.config.metric])

    def release(self, trial: Trial) -> None:
        """Let a run that this worker leaves wait for another one."""
        with self.study.leaving():
            frozen = next(each for each in self.study.trials() if each.number == trial.number)
            if self.study.tell(trial, TrialState.FAIL):
                self.study.give_back(frozen)

    def over(self) -> bool:
        """Say whether there are as many trials as asked for, and all have ended."""
        return self.finished


def count_parameters(config: Config) -> int:
    """Count the weights and biases of a configuration's detector."""
    from models.families import build_detector

    return sum(parameter.numel() for parameter in build_detector(config).parameters())


def number(cell: object) -> float:
    """Read a measure; 0 where there is none, as of a class that does not occur."""
    try:
        value = float(str(cell))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def shown(value: object) -> str:
    """Write a setting for people."""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def settings_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return what a trial chose."""
    return trial.user_attrs.get(SETTINGS, {})
