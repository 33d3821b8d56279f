"""Takes finished runs over from other comparisons: what has been trained once need not be trained again.

`python -m studies.compare --recipe combined.yaml --into results/combined --reuse results/losses results/assigners`
fills the comparison's tables with the runs of those folders that have the same settings, seed and training data.
"""

import functools
import shlex
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data.open.any_layout import root_for
from data.pixel_limit import pixels_allowed
from data.split import fingerprint, load_split
from engine.settings.configure import choices_of, open_data, overrides_of
from studies import in_ultralytics
from studies.combine import DIGEST, data_of, same_name, trainer_of
from studies.comparison.recipe import ULTRALYTICS
from studies.comparison.runs import Run
from studies.comparison.tables import REUSED_FOLDER, REUSED_VARIANT, Row, Tables, add_to_tables, read_tables
from studies.trials.jobs import one_at_a_time
from train import parse_flags as train_flags
from utils.config.flags import parsed
from utils.config.knobs import PluginConfig, RunConfig
from utils.errors import UserError, printable

# What does not change a run's numbers: where it lies, and names of what the resolved settings hold themselves.
PLACES = ("data", "data_root", "project", "name", "exist_ok", "plots", "cfg", "hyp")


def take_over(runs: Sequence[Run], folders: Sequence[str], into: Path) -> None:
    """Add to the tables in `into` the runs that other comparisons have; print how many each of these gave.

    What `into` has, or has begun, stays as it is. Of two folders with the same run the first one counts. UserError for
    a folder that has no run of this comparison at all.
    """
    found = {folder: same_runs(runs, folder, into) for folder in folders}
    with one_at_a_time(into / "report.lock"):
        for folder, pairs in found.items():
            before = read_tables(into)
            taken = [(run, row) for run, row in pairs if before.lack(run) and not run.begun]
            theirs = read_tables(Path(folder))
            rows, curves = [], []
            for run, row in taken:
                rows += [renamed(each, run, folder) for each in rows_like(row, theirs.runs) if each["state"] == "done"]
                curves += [{**each, "variant": run.variant.name} for each in rows_like(row, theirs.curves)]
            if taken:
                add_to_tables(rows, curves, into)
            print(f"{len(taken)} of {len(runs)} runs taken over from {printable(folder)}")


def same_runs(runs: Sequence[Run], folder: str, into: Path) -> list[tuple[Run, Row]]:
    """Return the runs that a comparison's folder has, each with its row there; UserError where it has none of them."""
    if Path(folder).resolve() == into.resolve():
        raise UserError(f"--reuse {printable(folder)}: this is the folder of the comparison itself")
    theirs = read_tables(Path(folder))
    if not theirs.runs:
        raise UserError(f"--reuse {printable(folder)}: expected runs.csv of another comparison")
    sum_of = functools.cache(training_sum)
    pairs = [(run, row) for run, row in same_settings(runs, theirs) if same_data(run, row, sum_of)]
    if not pairs:
        raise UserError(
            f"--reuse {printable(folder)}: it has no finished run with the settings, the seed and the training data of "
            "one of this comparison"
        )
    return pairs


def same_settings(runs: Sequence[Run], theirs: Tables) -> Iterator[tuple[Run, Row]]:
    """Yield the runs whose settings, seed among them, a finished row of other tables has, scored on the same split."""
    trainer = trainer_of(row["flags"] for row in theirs.runs)
    known: dict[Hashable, Row] = {}
    for row in theirs.runs:
        if row["state"] == "done" and row["flags"]:
            known.setdefault((what_decides(shlex.split(row["flags"]), trainer), row["scored"]), row)
    for run in runs:
        settings = what_decides(run.arguments, run.variant.trainer)
        row = known.get((settings, run.split))
        if settings and row and run.variant.trainer == trainer:
            yield run, row


def what_decides(arguments: Sequence[str], trainer: str) -> Hashable:
    """Return all that decides about a run but its data; None where the flags do not say it, or are none of today's.

    A file that flags name may have become another one since.
    """
    try:
        if trainer == ULTRALYTICS:
            plugin = parsed(PluginConfig, in_ultralytics.flags(arguments))
            return replace(plugin, **defaults(PluginConfig))
        flags = train_flags(arguments)
        run, model, hyper, _ = choices_of(flags, overrides_of(flags))
    except UserError:
        return None
    if run.weights or model.backbone_weights or any(Path(name).suffix for name in (run.cfg, run.hyp)):
        return None
    cache = "ram" if run.cache is True else run.cache  # as --cache alone means it
    return replace(run, cache=cache, **defaults(RunConfig)), model, hyper


def defaults(kind: type) -> dict[str, object]:
    """Return the default values of what does not change a run's numbers."""
    standard = kind()
    return {name: getattr(standard, name) for name in PLACES if hasattr(standard, name)}


def same_data(run: Run, row: Row, sum_of: Callable[..., str]) -> bool:
    """Say whether a row's run trained on the data of this one, by the sum of these; of Ultralytics' runs by name."""
    if run.variant.trainer == ULTRALYTICS:
        return same_name(data_of(shlex.join(run.arguments)), data_of(row["flags"]))
    flags = train_flags(run.arguments)
    config = choices_of(flags, overrides_of(flags)).run
    place = (config.data, root_for(config.data, config.data_root))
    # The seed decides about the photos where a share of them is held out.
    held_out = (config.val, config.seed if config.val else 0)
    return row.get(DIGEST) == sum_of(*place, *held_out, config.bad_labels, config.max_pixels)


def training_sum(data: str, root: Path, share: float, seed: int, bad_labels: str, max_pixels: int) -> str:
    """Return the sum of the photos' names and of the labels that a run trains on."""
    with pixels_allowed(max_pixels):
        index = load_split(open_data(data, root, share, seed), "train", bad_labels=bad_labels)
    return str(fingerprint(index)["sha256"])


def rows_like(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a table that are about the same run."""
    return [each for each in rows if (each["variant"], each["seed"]) == (row["variant"], row["seed"])]


def renamed(row: Row, run: Run, folder: str) -> Row:
    """Return a row as one of this comparison, with where it was taken from, also where that had taken it over."""
    own = {"variant": run.variant.name, "flags": shlex.join(run.arguments)}
    known = {name: cell for name, cell in row.items() if cell}
    return {REUSED_FOLDER: folder, REUSED_VARIANT: row["variant"], **known, **own}
