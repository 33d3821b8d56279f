"""What a search leaves: best.yaml for --hyp, a page, a table of all trials, and a picture."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from engine.settings.configure import plan_run
from studies.charts import finish, markdown, new_figure, save_figure, save_rows
from studies.trials.search import FOLDER, START, counts, settings_of, shown
from studies.trials.shared_study import SharedStudy
from studies.trials.space import as_arguments, config_of, names_of, out_of_reach, read_space
from train import parse_flags as train_flags
from utils.config.flags import split_at_flags
from utils.config.knobs import Hyperparameters, RunConfig, TuneConfig, plain
from utils.config.sources import hyperparameters
from utils.errors import CommandError
from utils.run_folder import write_atomically

SHOWN_TRIALS = 10
RECIPE = "comparison.yaml"
NAMED = {"loss": "box_loss", "assign": "assigner"}  # flags that a recipe's variants have as hyperparameters
NEW_SEEDS = 5
FEW = 20  # trials below which nothing is said about which key matters


def best_of(study: SharedStudy) -> FrozenTrial:
    """Return the best trial within the constraints; CommandError where none is."""
    try:
        return study.steady(lambda: study.study.best_trial)
    except ValueError:
        raise CommandError("no trial has finished within the constraints") from None


def write_search_report(study: SharedStudy, config: TuneConfig, shared: Sequence[str], command: str) -> Path:
    """Write report.md, trials.csv, best.yaml, comparison.yaml and figures.png into the search's folder.

    Returns best.yaml.
    """
    into = Path(config.into)
    into.mkdir(parents=True, exist_ok=True)
    trials = [trial for trial in study.trials() if counts(trial)]
    save_rows(trial_rows(trials, config), into / "trials.csv")
    best = best_of(study)
    path = into / "best.yaml"
    write_atomically(path, best_yaml(best, config, shared))
    recipe = comparison_yaml(best, config, shared)
    if recipe:
        write_atomically(into / RECIPE, recipe)
    else:  # an earlier best trial may have left one
        (into / RECIPE).unlink(missing_ok=True)
    draw_search(trials, config, into / "figures.png")
    write_atomically(into / "report.md", report(study, trials, best, config, shared, command))
    print(f"best: trial {best.number}, {config.metric} {best.value:.4f}; wrote {into / 'report.md'} and {path}")
    return path


def best_yaml(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the hyperparameters of the best trial that differ from those which its model has below any --hyp."""
    found = config_of(shared, settings_of(best))
    hyper, below = plain(found.hyper), plain(hyperparameters("", {}, base=found.model.hyp))
    chosen = {key: value for key, value in hyper.items() if value != below[key]}
    head = f"# Found by tune.py: {config.metric} {best.value:.4f} on the validation split (trial {best.number}).\n"
    return head + yaml.safe_dump(chosen, sort_keys=False, default_flow_style=None)


def fits_a_recipe(best: FrozenTrial) -> bool:
    """Say whether variants of a recipe can differ in what a trial chose: not in flags of train.py."""
    return not settings_of(best).keys() & set(names_of(RunConfig))


def comparison_yaml(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the recipe that compares the best trial with the settings without a search, by several seeds.

    Empty where that cannot be said in a recipe.
    """
    if not fits_a_recipe(best):
        return ""
    found, given = settings_of(best), train_flags(shared)
    common = {key: given[flag] for flag, key in NAMED.items() if given[flag]}
    values = {
        "description": f"What tune.py found (trial {best.number}, by {config.metric} on the validation split) beside "
        "the settings without a search.",
        "baseline": "start",
        "variants": {"start": common, "found": {**common, **found}},
    }
    return yaml.safe_dump(values, sort_keys=False, width=120)


def compare_command(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the command that compares the best trial with the start by new seeds, on a test split if there is one.

    Empty where there is no recipe for it.
    """
    if not fits_a_recipe(best):
        return ""
    into, plan = Path(config.into), plan_run(train_flags(shared))
    files = ["--recipe", (into / RECIPE).as_posix(), "--into", (into / "comparison").as_posix()]
    seeds = ["--seeds", *(str(plan.config.run.seed + number) for number in range(1, 1 + NEW_SEEDS))]
    split = ["--split", "test"] if "test" in plan.data.splits else []
    workers = [part for name in ("jobs", "threads") for part in (f"--{name}", str(getattr(config, name)))]
    kept = without_flags(shared, ("--seed", *(f"--{flag}" for flag in NAMED)))
    return shlex.join(["python", "-m", "studies.compare", *files, *seeds, *split, *workers, *kept])


def train_command(best: FrozenTrial, config: TuneConfig, shared: Sequence[str]) -> str:
    """Write the command that trains with the best settings."""
    kept_elsewhere = {*names_of(Hyperparameters), "hyp"}
    others = {key: value for key, value in settings_of(best).items() if key not in kept_elsewhere}
    # The demo's, which some detectors leave out beside --hyp.
    optimizer = config_of(shared, settings_of(best)).run.optimizer
    if "optimizer" not in train_flags(shared) and optimizer != RunConfig.optimizer:
        others["optimizer"] = optimizer
    kept = without_hyperparameters(shared)
    hyp = (Path(config.into) / "best.yaml").as_posix()
    return shlex.join(["python", "train.py", *kept, "--hyp", hyp, *as_arguments(others)])


def without_hyperparameters(shared: Sequence[str]) -> list[str]:
    """Leave out the flags whose values best.yaml holds."""
    kept = without_flags(shared, ("--hyp", "--loss", "--assign"))
    return [part for group in split_at_flags(kept) if not sets_hyperparameter(group) for part in group]


def without_flags(shared: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Leave out some flags with their values."""
    groups = split_at_flags(shared)
    return [part for group in groups if group[0].partition("=")[0] not in flags for part in group]


def sets_hyperparameter(group: Sequence[str]) -> bool:
    """Say whether a flag with its value is a --set of a hyperparameter."""
    flag, _, setting = "=".join(group).partition("=")
    return flag == "--set" and setting.partition("=")[0] in names_of(Hyperparameters)


def trial_rows(trials: Sequence[FrozenTrial], config: TuneConfig) -> list[dict[str, Any]]:
    """List every trial with its measure, what it cost, and what it chose."""
    keys = list(dict.fromkeys(key for trial in trials for key in settings_of(trial)))
    return [
        {
            "trial": trial.number,
            "folder": trial.user_attrs.get(FOLDER),
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
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    tried = not out_of_reach(read_space(config.search), shared)
    first = next((trial for trial in ended if tried and trial.user_attrs.get(FOLDER) == START), None)
    start = f" The settings without a search ({START}) have {100 * (first.value or 0):.2f}." if first else ""
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
    comparison = compare_command(best, config, shared)
    parts = [
        "# Search",
        f"```\n{command}\n```",
        f"Best: trial {best.number}, {config.metric} {100 * (best.value or 0):.2f} percent on the validation split."
        f"{start} The best of many is a little too good: score it once on another split, with several seeds, before "
        "you believe it.",
        f"Train with it:\n\n```\n{train_command(best, config, shared)}\n```",
        f"Compare it with the settings without a search, by seeds that it was not chosen by:\n\n```\n{comparison}\n```"
        if comparison
        else "",
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
