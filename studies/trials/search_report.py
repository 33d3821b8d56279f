"""What a search leaves: best.yaml for --hyp, a page, a table of all trials, and a picture."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from studies.charts import finish, markdown, new_figure, save_figure, save_rows
from studies.trials.search import counts, settings_of, shown
from studies.trials.shared_study import SharedStudy
from studies.trials.space import as_arguments, config_of, names_of
from utils.config.knobs import Hyperparameters, TuneConfig, plain
from utils.errors import CommandError
from utils.run_folder import write_atomically

SHOWN_TRIALS = 10
FEW = 20  # trials below which nothing is said about which key matters


def best_of(study: SharedStudy) -> FrozenTrial:
    """Return the best trial within the constraints; CommandError where none is."""
    try:
        return study.steady(lambda: study.study.best_trial)
    except ValueError:
        raise CommandError("no trial has finished within the constraints") from None


def write_search_report(study: SharedStudy, config: TuneConfig, shared: Sequence[str], command: str) -> Path:
    """Write report.md, trials.csv, best.yaml and figures.png into the search's folder; return best.yaml."""
    into = Path(config.into)
    into.mkdir(parents=True, exist_ok=True)
    trials = [trial for trial in study.trials() if counts(trial)]
    save_rows(trial_rows(trials, config), into / "trials.csv")
    best = best_of(study)
    path = into / "best.yaml"
    write_atomically(path, best_yaml(best, config, shared))
    draw_search(trials, config, into / "figures.png")
    write_atomically(into / "report.md", report(study, trials, best, config, shared, command))
    print(f"best: trial {best.number}, {config.metric} {best.value:.4f}; wrote {into / 'report.md'} and {path}")
    return path


def best_yaml(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the hyperparameters of the best trial that differ from the defaults."""
    hyper, defaults = plain(config_of(shared, settings_of(best)).hyper), plain(Hyperparameters())
    chosen = {key: value for key, value in hyper.items() if value != defaults[key]}
    head = f"# Found by tune.py: {config.metric} {best.value:.4f} on the validation split (trial {best.number}).\n"
    return head + yaml.safe_dump(chosen, sort_keys=False, default_flow_style=None)


def train_command(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the command that trains with the best settings."""
    others = {key: value for key, value in settings_of(best).items() if key not in names_of(Hyperparameters)}
    kept = without_hyperparameters(shared)
    hyp = (Path(config.into) / "best.yaml").as_posix()
    return shlex.join(["python", "train.py", *kept, "--hyp", hyp, *as_arguments(others)])


def without_hyperparameters(shared: Sequence[str]) -> list[str]:
    """Leave out the flags whose values best.yaml holds."""
    kept: list[str] = []
    arguments = iter(shared)
    for argument in arguments:
        if argument in ("--hyp", "--loss", "--assign"):
            next(arguments, None)
        elif argument == "--set":
            setting = next(arguments, "")
            kept += [] if setting.partition("=")[0] in names_of(Hyperparameters) else [argument, setting]
        else:
            kept.append(argument)
    return kept


def trial_rows(trials: Sequence[FrozenTrial], config: TuneConfig) -> list[dict[str, Any]]:
    """List every trial with its measure, what it cost, and what it chose."""
    keys = list(dict.fromkeys(key for trial in trials for key in settings_of(trial)))
    return [
        {
            "trial": trial.number,
            "folder": trial.user_attrs.get("folder"),
            "state": trial.state.name.lower(),
            config.metric: trial.value,
            "epochs": trial.last_step,
            "seconds": trial.user_attrs.get("seconds"),
            "parameters": trial.user_attrs.get("parameters"),
            "within_constraints": all(excess <= 0 for excess in trial.constraints.values()),
            **{key: settings_of(trial).get(key) for key in keys},
        }
        for trial in trials
    ]


def report(
    study: SharedStudy,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    config: TuneConfig,
    shared: Sequence[str],
    command: str,
) -> str:
    """Write the page."""
    states = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    going = states[TrialState.RUNNING] + states[TrialState.WAITING]
    first = next((trial for trial in trials if trial.number == 0 and trial.state == TrialState.COMPLETE), None)
    start = f" The settings without a search (trial 0) have {100 * (first.value or 0):.2f}." if first else ""
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    top = sorted(ended, key=lambda trial: -(trial.value or 0))[:SHOWN_TRIALS]
    rows = [
        {
            "trial": trial.number,
            f"{config.metric}, percent": f"{100 * (trial.value or 0):.2f}",
            "within": "yes" if all(excess <= 0 for excess in trial.constraints.values()) else "no",
            **{key: shown(settings_of(trial)[key]) if key in settings_of(trial) else None for key in keys_of(trials)},
        }
        for trial in top
    ]
    parts = [
        "# Search",
        f"```\n{command}\n```",
        f"Best: trial {best.number}, {config.metric} {100 * (best.value or 0):.2f} percent on the validation split."
        f"{start} The best of many is a little too good: score it once on another split, with several seeds, before "
        "you believe it.",
        f"```\n{train_command(best, config, shared)}\n```",
        f"{len(trials)} trials: {states[TrialState.COMPLETE]} finished, {states[TrialState.PRUNED]} stopped early or "
        f"diverged, {states[TrialState.FAIL]} failed, {going} going on.",
        f"## The best {len(rows)}\n\n{markdown(rows)}\n\nAll: [trials.csv](trials.csv).",
        importance(study, config),
        "![Measure by trial](figures.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def keys_of(trials: Sequence[FrozenTrial]) -> list[str]:
    """List every key that any trial chose."""
    return list(dict.fromkeys(key for trial in trials for key in settings_of(trial)))


def importance(study: SharedStudy, config: TuneConfig) -> str:
    """Say which keys mattered, by how the best trials differ from all; empty where there are too few trials."""
    finished = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if len(finished) < FEW:
        return ""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = study.steady(lambda: optuna.importance.get_param_importances(study.study, evaluator=evaluator))
    rows = [{"key": key, "share": round(share, 2)} for key, share in shares.items()]
    return f"## What mattered (PED-ANOVA)\n\n{markdown(rows, digits=2)}" if rows else ""


def draw_search(trials: Sequence[FrozenTrial], config: TuneConfig, path: Path) -> None:
    """Draw every trial's measure and the best so far."""
    figure = new_figure(9, 4.2)
    axes = figure.add_subplot()
    for state, color, label in (
        (TrialState.COMPLETE, "#1f77b4", "finished"),
        (TrialState.PRUNED, "#bbbbbb", "stopped"),
    ):
        own = [trial for trial in trials if trial.state == state and trial.value is not None]
        axes.plot([t.number for t in own], [100 * (t.value or 0) for t in own], "o", color=color, label=label)
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    so_far = [max(100 * (other.value or 0) for other in ended[: place + 1]) for place in range(len(ended))]
    axes.step([trial.number for trial in ended], so_far, where="post", color="#d62728", label="best so far")
    finish(axes, f"{config.metric} on the validation split by trial", "trial", "percent")
    axes.legend(fontsize=9)
    save_figure(figure, path)
