"""Compares box losses, assigners or any other settings by training each with several seeds.

python -m studies.compare --losses iou giou diou ciou sca --seeds 0 1 2 --data bccd/data.yaml --imgsz 320 --epochs 40
python -m studies.compare --recipe gain-and-objectness --data bccd/data.yaml --imgsz 320 --epochs 40 --jobs 4
python -m studies.compare --report-only --into results/bccd --baseline sca      from the tables that it left

Every flag of train.py is passed on to every run, except those that the comparison itself sets; with a recipe of
`trainer: ultralytics`, those of `python -m studies.in_ultralytics`. What is finished is not run again, what was
interrupted goes on, so the same command continues a comparison.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.settings.configure import plan_run
from studies import in_ultralytics
from studies.comparison.recipe import OWN_FLAGS, TRAIN_PY, ULTRALYTICS, Recipe, check_overridden, recipe_of
from studies.trials.installed import check_optuna
from studies.trials.jobs import one_at_a_time
from train import parse_flags as train_flags
from utils.config.flags import Parser, add_knobs, parsed
from utils.config.knobs import CompareConfig
from utils.errors import CommandError, UserError, printable, run_command

if TYPE_CHECKING:
    from studies.comparison.runs import Run


def parse_flags(arguments: Sequence[str] | None = None) -> tuple[CompareConfig, tuple[str, ...]]:
    """Read the comparison's own flags, and the arguments for what trains; UserError for a wrong one."""
    return read_flags(arguments)[:2]


def read_flags(arguments: Sequence[str] | None = None) -> tuple[CompareConfig, tuple[str, ...], Recipe | None]:
    """Read the same, and the recipe of the file that --recipe names."""
    parser = Parser(prog="python -m studies.compare", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, CompareConfig, {})
    own, others = parser.parse_known_args(arguments)
    config = parsed(CompareConfig, vars(own))
    check_own(config, vars(own), others)
    recipe = recipe_of(config) if config.recipe else None
    trainer = recipe.trainer if recipe else TRAIN_PY
    given = in_ultralytics.flags(others) if trainer == ULTRALYTICS else train_flags(others)
    for name, value in given.items():
        if name in (*OWN_FLAGS, "resume", "loss", "assign", "score", "split") and value is not None:
            hint = {"seed": "--seeds", "loss": "--losses", "assign": "--assigners"}.get(name, "--into")
            raise UserError(f"--{name.replace('_', '-')} is set for every run by the comparison (see {hint})")
    return config, tuple(others), recipe


def check_own(config: CompareConfig, given: Mapping[str, Any], others: Sequence[str]) -> None:
    """Raise UserError for a seed that is named twice, and for what has no effect beside --report-only."""
    twice = next((seed for seed in config.seeds if config.seeds.count(seed) > 1), None)
    if twice is not None:
        raise UserError(f"--seeds: {twice} stands there twice")
    if not from_tables(config):
        return
    idle = [f"--{name.replace('_', '-')}" for name in given if name not in ("report_only", "into", "baseline")]
    idle += [part for part in others if part.startswith("-")]
    if idle:
        raise UserError(
            f"{printable(idle[0])} has no effect with --report-only alone, whose report is of all that the tables in "
            "--into have; say what to compare: --recipe, or --losses and --assigners"
        )


def from_tables(config: CompareConfig) -> bool:
    """Say whether a report is made of the tables alone, whatever they hold."""
    return config.report_only and not (config.recipe or config.losses or config.assigners)


def command_of(config: CompareConfig, shared: Sequence[str]) -> str:
    """Return the command line that would go on with the comparison; the storage is nobody's business."""
    parts = ["python", "-m", "studies.compare"]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and not isinstance(value, bool) and field.name != "storage":
            values = value if isinstance(value, tuple) else (value,)
            parts += ["--" + field.name.replace("_", "-"), *map(str, values)]
    return shlex.join([*parts, *shared])


def compare(config: CompareConfig, shared: Sequence[str], command: str, recipe: Recipe | None = None) -> Path:
    """Run what is missing and write the report into the comparison's folder; return the Markdown file.

    `recipe` is what --recipe names, where it has been read already. CommandError after the report where runs failed.
    """
    if from_tables(config):
        from studies.comparison.recorded import report_again

        return report_again(config)
    recipe, into = recipe or recipe_of(config, shared), Path(config.into)
    if not config.report_only:
        check_overridden(recipe, shared)
        check_variants(recipe, shared, config.split)
    # Only now torch: whatever is wrong with the flags and the YAML files has been said already.
    from studies.comparison.report import write_report
    from studies.comparison.runs import check_requests, plan
    from studies.comparison.tables import read_tables

    runs, before = plan(recipe.variants, config.seeds, (*recipe.train, *shared), into, config.split), read_tables(into)
    check_requests(runs)
    before.check(runs)
    if config.reuse:
        from studies.reuse import take_over

        take_over(runs, config.reuse, into)
        before = read_tables(into)
    failure = None
    if not config.report_only:
        missing = [run for run in runs if before.lack(run)]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
        try:
            make_missing(runs, before.lack, config)
        except CommandError as error:
            failure = error
    with one_at_a_time(into / "report.lock"):
        try:
            path = write_report(runs, recipe, into, command)
        except CommandError as error:
            raise failure or error from None
    if failure:
        raise failure
    return path


def check_variants(recipe: Recipe, shared: Sequence[str], split: str) -> None:
    """Raise UserError, with the variant's name where others are fine, for what its run would refuse; before torch."""
    wrong: dict[str, str] = {}
    for variant in recipe.variants:
        try:
            check_run(recipe.trainer, [*recipe.train, *shared, *variant.arguments()], split)
        except UserError as error:
            wrong[variant.name] = str(error)
    if wrong:
        name, said = next(iter(wrong.items()))
        alike = len(wrong) == len(recipe.variants) and set(wrong.values()) == {said}
        raise UserError(said if alike else f"variant {name}: {said}")


def check_run(trainer: str, arguments: Sequence[str], split: str = "val") -> None:
    """Raise UserError where what trains would refuse these arguments, or what scores the split; before torch."""
    if trainer == ULTRALYTICS:
        data = in_ultralytics.plan(in_ultralytics.parse_flags(arguments))
    else:
        data = plan_run(train_flags(arguments)).data
    if split not in data.splits:
        raise UserError(f"--split {split}: {printable(data.shown)} has no such split: it has {', '.join(data.splits)}")


def make_missing(runs: "Sequence[Run]", lacking: "Callable[[Run], bool]", config: CompareConfig) -> None:
    """Make the runs that are lacking, with all other workers of this comparison; CommandError where some failed."""
    if not any(lacking(run) for run in runs):
        return
    check_optuna()
    from studies.trials.grid import perform_all

    perform_all(runs, lacking, Path(config.into), config.storage, config.jobs, config.threads)


def main() -> int:
    """Run the command: exit code 0 when done, 1 when runs failed, 2 for wrong input."""
    config, shared, recipe = read_flags()
    compare(config, shared, command_of(config, shared), recipe)
    return 0


if __name__ == "__main__":
    run_command(main)
