"""Writes the recipe that combines the best losses of one comparison with the best assignments of another.

python -m studies.combine --losses results/neu-det-losses --assigners results/neu-det-assigners --into combined.yaml
python -m studies.compare --recipe combined.yaml --seeds 0 1 2 3 4 --split test --into results/neu-det-combined

The best are chosen by the validation split alone, whatever split the comparisons report, over the seeds that all of
their variants have. A variant whose loss became infinite with any of them is not among the best. The defaults of both
(their baselines) always are.
"""

import re
import shlex
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.settings.configure import choices_of
from studies.comparison.recipe import PLUGIN_KEYS, TRAIN_PY, ULTRALYTICS
from studies.comparison.report import DIFFERENCES
from studies.comparison.tables import Row, is_measure, less_is_better, read_tables
from train import ALIASES
from train import parse_flags as train_flags
from utils.config.flags import Parser, add_knobs, parsed, split_at_flags
from utils.config.knobs import CombineConfig
from utils.errors import UserError, nearest, printable, run_command
from utils.run_folder import write_atomically

DIGEST = "env.training_data.sha256"
# The settings that are a box loss and an assigner, by what trains.
CHOSEN = {TRAIN_PY: ("box_loss", "assigner"), ULTRALYTICS: PLUGIN_KEYS}
OWN = "Ultralytics' own"


@dataclass(frozen=True)
class Choice:
    """The best variants of a comparison, best first: their settings, and what all of its runs shared.

    `trainer` is what trained them, `seeds` how many seeds their means are of, `data` what --data named and `digests`
    the sums of its training part, as far as the runs say. `notes` says what was left out.
    """

    variants: dict[str, dict[str, str]]
    baseline: str
    trainer: str
    shared: tuple[str, ...]
    seeds: int
    data: str
    digests: frozenset[str]
    notes: tuple[str, ...]


def parse_flags(arguments: Sequence[str] | None = None) -> CombineConfig:
    """Read the command's flags; UserError for a wrong one."""
    parser = Parser(prog="python -m studies.combine", description=(__doc__ or "").splitlines()[0])
    add_knobs(parser, CombineConfig, {})
    return parsed(CombineConfig, vars(parser.parse_args(arguments)))


def best_of(folder: Path, count: int, measure: str) -> Choice:
    """Choose the variants of a comparison with the best mean on the validation split; UserError without any."""
    page = folder / "report.md"
    text = page.read_text("utf-8") if page.is_file() else ""
    named = re.search(rf"^{DIFFERENCES}(.+), points", text, re.MULTILINE)
    table = read_tables(folder).runs
    rows = [row for row in table if row["scored"] == "val" and row["state"] == "done"]
    if not rows or not named:
        raise UserError(f"{printable(folder)}: expected report.md and runs.csv of a comparison with finished runs")
    if measure not in rows[0] or not is_measure(measure):
        raise UserError(f"--by {printable(measure)}{nearest(measure, filter(is_measure, rows[0]))}")
    lost = diverged(table, named[1])
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["variant"] not in lost:
            found.setdefault(row["variant"], {})[row["seed"]] = row
    check_finished(folder, table, {*found, *lost}, named[1])
    seeds = set.intersection(*(set(of_seed) for of_seed in found.values()))
    if not seeds:
        raise UserError(f"{printable(folder)}: its variants have no seed in common; let the comparison go on first")
    means = {
        variant: statistics.mean(float(of_seed[seed][measure] or "nan") for seed in seeds)
        for variant, of_seed in found.items()
    }
    best_first = 1 if less_is_better(measure) else -1
    ranked = sorted((name for name in means if means[name] == means[name]), key=lambda name: best_first * means[name])
    if not ranked:
        raise UserError(f"--by {printable(measure)}: {printable(folder)} has no values of it on the validation split")
    chosen = [*ranked[:count], *({named[1]} - set(ranked[:count]))]
    flags = {name: next(iter(found[name].values()))["flags"] for name in chosen}
    trainer = trainer_of(row["flags"] for row in table)
    shared = {shared_flags(each, trainer) for each in flags.values()}
    if len(shared) > 1:
        raise UserError(f"{printable(folder)}: its runs differ in more than their --set: {told(*sorted(shared))}")
    return Choice(
        {name: settings_of(each, trainer) for name, each in flags.items()},
        named[1],
        trainer,
        *shared,
        len(seeds),
        data_of(flags[named[1]]),
        frozenset(filter(None, (row.get(DIGEST) for row in rows))),
        tuple(f"note: {printable(folder)}: {note}" for note in left_out(table, found, lost, seeds)),
    )


def diverged(table: Sequence[Row], baseline: str) -> dict[str, list[str]]:
    """Return the variants that have lost since their loss became infinite or NaN, each with the seeds of that.

    The baseline is needed anyway, over the seeds that it has.
    """
    lost: dict[str, list[str]] = {}
    for row in table:
        if row["state"] == "diverged" and row["variant"] != baseline:
            lost.setdefault(row["variant"], []).append(row["seed"])
    return lost


def left_out(
    table: Sequence[Row], found: Mapping[str, Collection[str]], lost: Mapping[str, Sequence[str]], used: Collection[str]
) -> list[str]:
    """Say which variants of a comparison, and which of its seeds, the choice does without."""
    lines = [
        f"{printable(name)} is not among the best: its loss became infinite with seed {', '.join(dict.fromkeys(seeds))}"
        for name, seeds in lost.items()
    ]
    unused = sorted({row["seed"] for row in table if row["variant"] in found} - set(used), key=int)
    if unused:
        lacking = [name for name, seeds in found.items() if not set(unused) <= set(seeds)]
        lines.append(
            f"the choice is by {len(used)} of {len(used) + len(unused)} seeds: seed {', '.join(unused)} is not "
            f"finished with {printable(', '.join(lacking))}"
        )
    return lines


def check_finished(folder: Path, table: Sequence[Row], found: Collection[str], baseline: str) -> None:
    """Raise UserError for a variant without a finished run that has not lost: it would be left out of the choice."""
    for name in dict.fromkeys([baseline, *(row["variant"] for row in table)]):
        if name not in found:
            raise UserError(
                f"{printable(folder)}: {printable(name)} has no finished run; let the comparison go on first"
            )


def groups_of(flags: str) -> list[list[str]]:
    """Group the flags of a run, each with its values, also where it was typed as --FLAG=VALUE or by another name."""
    names = {alias: "--" + key.replace("_", "-") for key, aliases in ALIASES.items() for alias in aliases}
    groups = []
    for group in split_at_flags(shlex.split(flags)):
        flag, equals, value = group[0].partition("=")
        groups.append([names.get(flag, flag), *([value] if equals else []), *group[1:]])
    return groups


def trainer_of(flags: Iterable[str]) -> str:
    """Return what trains, by the flags of all runs: those of train.py have their loss and assigner in a --set."""
    given = {group[0] for each in flags for group in groups_of(each)}
    return ULTRALYTICS if given & {"--model", *setting_flags(ULTRALYTICS)} else TRAIN_PY


def setting_flags(trainer: str) -> tuple[str, ...]:
    """Return the flags that hold the settings of a variant."""
    return tuple(f"--{key}" for key in PLUGIN_KEYS) if trainer == ULTRALYTICS else ("--set",)


def settings_of(flags: str, trainer: str) -> dict[str, str]:
    """Return the settings among the flags of a run."""
    groups = [group for group in groups_of(flags) if group[0] in setting_flags(trainer)]
    if trainer == ULTRALYTICS:
        return {flag.removeprefix("--"): value for flag, value in groups}
    return {key: value for key, _, value in (group[1].partition("=") for group in groups)}


def shared_flags(flags: str, trainer: str) -> tuple[str, ...]:
    """Return the other flags of a run, but for its seed and its data set."""
    own = (*setting_flags(trainer), "--seed", "--data")
    return tuple(part for group in groups_of(flags) if group[0] not in own for part in group)


def told(*flags: Sequence[str]) -> str:
    """Return lists of flags as a sentence shows them."""
    return ", ".join(printable(shlex.join(each)) or "no flags" for each in flags)


def data_of(flags: str) -> str:
    """Return the data set that a run was trained on, as --data named it; empty for train.py's own choice."""
    return next((group[1] for group in reversed(groups_of(flags)) if group[0] == "--data"), "")


def same_name(first: str, second: str) -> bool:
    """Say whether two --data name the same data set, which may lie elsewhere on another machine.

    The last two parts count, as far as both have them.
    """
    parts = zip(*(reversed(Path(name).parts[-2:]) for name in (first, second)), strict=False)
    return bool(first) == bool(second) and all(one == other for one, other in parts)


def check_same_data(config: CombineConfig, losses: Choice, assigners: Choice) -> None:
    """Raise UserError for two comparisons of different data, by their sums where both have them, else by name."""
    same = same_name(losses.data, assigners.data)
    if losses.digests and assigners.digests:
        same = losses.digests == assigners.digests
    if not same:
        said = [
            f"{printable(folder)} was trained on {printable(choice.data or 'the default data set')}"
            + "".join(f" (sha256 {digest[:12]})" for digest in sorted(choice.digests))
            for folder, choice in ((config.losses, losses), (config.assigners, assigners))
        ]
        raise UserError(f"{said[0]}, {said[1]}: expected the same data set")


def combined(config: CombineConfig, losses: Choice, assigners: Choice) -> dict[str, dict[str, str]]:
    """Return the settings of every loss with every assignment, the two baselines first; UserError where both set a key.

    A comparison of losses has one assigner, and one of assignments one box loss: what all share gives way.
    """
    variants = {}
    loss_key, assigner_key = CHOSEN[losses.trainer]
    kept = [
        without_shared(config.losses, losses, assigner_key),
        without_shared(config.assigners, assigners, loss_key),
    ]
    for first in sorted(losses.variants, key=lambda name: name != losses.baseline):
        for second in sorted(assigners.variants, key=lambda name: name != assigners.baseline):
            loss, assigner = kept[0][first], kept[1][second]
            for key in sorted(loss.keys() & assigner.keys()):
                if loss[key] != assigner[key]:
                    raise UserError(
                        f"{printable(first)} sets {key}={printable(loss[key])}, {printable(second)} sets "
                        f"{key}={printable(assigner[key])}: expected losses and assignments that differ in other keys"
                    )
            variants[f"{first}-{second}"] = {**loss, **assigner}
    return variants


def without_shared(folder: str, choice: Choice, key: str) -> dict[str, dict[str, str]]:
    """Return the settings of the variants, without a key that has one value in all; UserError where it has several."""
    values = {name: settings[key] for name, settings in choice.variants.items() if key in settings}
    if 0 < len(values) < len(choice.variants):
        values = {**dict.fromkeys(choice.variants, default_of(choice, key)), **values}
    # Left out of one variant alone, a key would make it another than its name says, or the same as a second one.
    for name, value in values.items():
        if value != values[choice.baseline]:
            first, second = (
                f"{printable(each)} has {key}={printable(values[each] or OWN)}" for each in (choice.baseline, name)
            )
            raise UserError(f"{printable(folder)}: {first}, {second}: expected one {key} in all of its best variants")
    return {
        name: {each: value for each, value in settings.items() if each != key}
        for name, settings in choice.variants.items()
    }


def default_of(choice: Choice, key: str) -> str:
    """Return the box loss or the assigner of a variant that sets none; empty for the trainer's own."""
    if choice.trainer == ULTRALYTICS:
        return ""
    flags = train_flags([*choice.shared, *(["--data", choice.data] if choice.data else [])])
    return str(getattr(choices_of(flags, {}).hyper, key))


def recipe_of(config: CombineConfig) -> dict[str, Any]:
    """Return the recipe's values; settings stay text, as they were typed. Prints what the choice does without."""
    losses, assigners = (best_of(Path(name), config.best, config.by) for name in (config.losses, config.assigners))
    if losses.trainer != assigners.trainer:
        raise UserError(
            f"{printable(config.losses)} was trained by {losses.trainer}, {printable(config.assigners)} by "
            f"{assigners.trainer}: expected the same trainer"
        )
    if losses.shared != assigners.shared:
        raise UserError(
            f"{printable(config.losses)} was trained with {told(losses.shared)}, {printable(config.assigners)} "
            f"with {told(assigners.shared)}: expected the same flags"
        )
    check_same_data(config, losses, assigners)
    for note in dict.fromkeys([*losses.notes, *assigners.notes]):
        print(note)
    variants = combined(config, losses, assigners)
    description = (
        f"The {config.best} best losses of {Path(config.losses).name} with the {config.best} best assignments of "
        f"{Path(config.assigners).name}, by {config.by} on the validation split ({losses.seeds} and {assigners.seeds} "
        "seeds), and the defaults of both."
    )
    train = {name.removeprefix("--").replace("-", "_"): value for name, value in flag_values(losses.shared).items()}
    trainer = {"trainer": losses.trainer} if losses.trainer != TRAIN_PY else {}
    recipe = {"description": description, **trainer, "baseline": next(iter(variants)), "train": train}
    return {**recipe, "variants": variants}


def flag_values(flags: Sequence[str]) -> dict[str, Any]:
    """Return flags of what trains with their values: a text, several, or whether a switch is on."""
    found: dict[str, Any] = {}
    for flag, *values in split_at_flags(flags):
        name = flag.replace("--no-", "--", 1)
        found[name] = values[0] if len(values) == 1 else values or name == flag
    return found


def main() -> int:
    """Run the command: exit code 0 when done, 2 for wrong input."""
    config = parse_flags()
    recipe, into = recipe_of(config), Path(config.into)
    if into.exists():
        raise UserError(f"{printable(into)} is there already: choose another --into")
    into.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(into, yaml.safe_dump(recipe, sort_keys=False, width=120, default_flow_style=None))
    print(f"wrote {printable(into)}: {len(recipe['variants'])} variants, {recipe['baseline']} is the baseline")
    return 0


if __name__ == "__main__":
    run_command(main)
