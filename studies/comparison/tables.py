"""The tables that a comparison keeps: runs.csv, a row for each run and split, and curves.csv, one for each epoch.

They hold all that the report says, so that the folders of the runs need not be kept.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.charts import save_rows
from studies.comparison.runs import Run, read_object
from utils.errors import UserError, printable
from utils.run_folder import read_csv

Row = dict[str, str]
# What runs.csv says beside the measures. A name with a dot in it (env.torch, counts.images, per_class.dog.ap) is none.
ABOUT = (
    "variant",
    "seed",
    "scored",
    "state",
    "flags",
    "date",
    "commit",
    "epochs",
    "seconds",
    "protocol",
    "confidence",
)
# In runs.csv as `date`, `commit` and `flags`; the command also names folders of the machine that it ran on.
SAID_OTHERWISE = ("date", "git", "command")
# Where the row of a run was taken from, if another comparison has made it (studies.compare --reuse).
REUSED_FOLDER, REUSED_VARIANT = "reused.folder", "reused.variant"
ERROR_PREFIX = "tide_"  # what a kind of error costs in AP50
CURVE_DIGITS = 6


@dataclass(frozen=True)
class Tables:
    """The rows of runs.csv and of curves.csv; cells are text, empty where nothing is known."""

    runs: list[Row]
    curves: list[Row]

    def state(self, run: Run) -> str:
        """Return `done`, `diverged` or `missing`, for the split that the run is to be scored on."""
        return next((row["state"] for row in self.rows_of(run) if row["scored"] == run.split), "missing")

    def lack(self, run: Run) -> bool:
        """Say whether a run has still to be made or scored: by its folder, where it has begun, else by these tables."""
        return not (run.done or run.diverged) and (run.begun or self.state(run) == "missing")

    def check(self, runs: Sequence[Run]) -> None:
        """Raise UserError where runs.csv holds a run of the same name that was asked for differently."""
        for run in runs:
            asked = shlex.join(run.arguments)
            for row in self.rows_of(run):
                if row["flags"] not in ("", asked):
                    raise UserError(
                        f"runs.csv holds another run {printable(run.variant.name)} seed {run.seed}, with the flags "
                        f"{printable(row['flags'])}: choose another --into"
                    )

    def rows_of(self, run: Run) -> list[Row]:
        """Return the rows of one run, a split each."""
        return [row for row in self.runs if is_of(row, run)]

    def scored(self, runs: Sequence[Run]) -> list[Row]:
        """Return the rows of the runs that are done, on the splits that they are to be scored on, in their order."""
        found = {(row["variant"], row["seed"], row["scored"]): row for row in self.runs if row["state"] == "done"}
        keys = [(run.variant.name, str(run.seed), run.split) for run in runs]
        return [found[key] for key in keys if key in found]

    def curves_of(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of curves.csv of the runs that rows of runs.csv are about."""
        runs = {(row["variant"], row["seed"]) for row in rows}
        return [row for row in self.curves if (row["variant"], row["seed"]) in runs]


def is_of(row: Mapping[str, object], run: Run) -> bool:
    """Say whether a row of either table belongs to a run."""
    return (row["variant"], str(row["seed"])) == (run.variant.name, str(run.seed))


def is_measure(column: str) -> bool:
    """Say whether a column of runs.csv is a measure of the whole split, such as `ap`."""
    return column not in ABOUT and "." not in column


def less_is_better(measure: str) -> bool:
    """Say whether the best run is the one with the least of a measure, as of what errors cost."""
    return measure.startswith(ERROR_PREFIX)


def read_tables(into: Path) -> Tables:
    """Read the tables in a comparison's folder, empty where there are none; UserError for a file that is none.

    Older versions wrote no flags, one split a table (the report names it), and curves that are means over seeds.
    """
    runs, curves = (read_csv(path) if path.is_file() else [] for path in (into / "runs.csv", into / "curves.csv"))
    for row in runs:
        if not {"variant", "seed", "state"} <= row.keys():
            raise UserError(f"{printable(into / 'runs.csv')}: expected the columns variant, seed and state")
    runs = [{**dict.fromkeys(ABOUT, ""), "scored": split_of_report(into) or "val", **row} for row in runs]
    return Tables(runs, [row for row in curves if {"variant", "seed", "epoch"} <= row.keys()])


def split_of_report(into: Path) -> str:
    """Return the split that a report says its runs were scored on; empty where it does not say, or is not there."""
    path = into / "report.md"
    found = re.search(r"^split (\w+) \(", path.read_text("utf-8"), re.MULTILINE) if path.is_file() else None
    return found.group(1) if found else ""


def update_tables(runs: Sequence[Run], into: Path) -> Tables:
    """Write both tables and read them back: of every run what its folder holds, and what the tables said before.

    A folder replaces what it has itself, so that an empty or half one costs nothing. Rows of other runs stay below.
    """
    before = read_tables(into)
    rows: list[Mapping[str, object]] = []
    curves: list[Mapping[str, object]] = []
    for run in runs:
        recorded = before.rows_of(run)
        by_split: dict[object, Mapping[str, object]] = {row["scored"]: row for row in run_rows(run, recorded)}
        for row in recorded:
            by_split.setdefault(row["scored"], row)
        if run.diverged and by_split.get(run.split, {}).get("state") != "done":
            by_split[run.split] = about(run, run.split, "diverged")
        by_split.setdefault(run.split, about(run, run.split, "missing"))
        rows += by_split.values()
        curves += list(curve_rows(run)) or [row for row in before.curves if is_of(row, run)]
    rows += [row for row in before.runs if not any(is_of(row, run) for run in runs)]
    curves += [row for row in before.curves if not any(is_of(row, run) for run in runs)]
    save_rows(same_columns(rows), into / "runs.csv")
    if curves:
        save_rows(same_columns(curves), into / "curves.csv")
    return read_tables(into)


def add_to_tables(runs: Sequence[Row], curves: Sequence[Row], into: Path) -> None:
    """Add rows to both tables, in the place of rows that call the same runs missing."""
    before, added = read_tables(into), {(row["variant"], row["seed"]) for row in runs}
    kept = [row for row in before.runs if row["state"] != "missing" or (row["variant"], row["seed"]) not in added]
    save_rows(same_columns([*kept, *runs]), into / "runs.csv")
    if before.curves or curves:
        save_rows(same_columns([*before.curves, *curves]), into / "curves.csv")


def about(run: Run, scored: str, state: str) -> dict[str, object]:
    """Return the first columns of a row of runs.csv."""
    known = {"variant": run.variant.name, "seed": run.seed, "scored": scored, "state": state}
    return {**dict.fromkeys(ABOUT), **known, "flags": shlex.join(run.arguments)}


def run_rows(run: Run, recorded: Sequence[Row] = ()) -> Iterator[dict[str, object]]:
    """Yield a row for every split that a run was scored on: by its own validation, and by val.py.

    What the folder does not say of the training is taken from `recorded`, the rows of the run in the tables of before.
    """
    for path in sorted(run.folder.glob("metrics.json")) + sorted(run.folder.glob("*/metrics.json")):
        scored = "val" if path.parent == run.folder else path.parent.name
        yield {**about(run, scored, "done"), **training_cells(run, recorded), **flat(read_object(path))}


def training_cells(run: Run, recorded: Sequence[Row]) -> dict[str, object]:
    """Return the cells about a run's training, which are the same on every split."""
    environment, epochs = run.environment(), run.epochs()
    before = next((row for row in recorded if row["state"] == "done"), {})
    cells: dict[str, object] = {name: before.get(name) for name in ("date", "commit", "epochs", "seconds")}
    if environment:
        cells |= {"date": environment.get("date"), "commit": environment.get("git")}
        said = {key: value for key, value in environment.items() if key not in SAID_OTHERWISE}
        cells |= flat(said, "env.")
    else:
        cells |= {name: cell for name, cell in before.items() if name.startswith("env.")}
    if epochs:
        cells |= {"epochs": len(epochs), "seconds": float(epochs[-1]["seconds"])}
    return cells


def curve_rows(run: Run) -> Iterator[dict[str, object]]:
    """Return a finished run's rows of results.csv, numbers to six digits."""
    for row in run.epochs() if run.done else []:
        yield {"variant": run.variant.name, "seed": run.seed, **{key: shortened(cell) for key, cell in row.items()}}


def shortened(cell: str) -> str:
    """Return a number to six digits; the cell as it is where it holds none."""
    try:
        return f"{float(cell):.{CURVE_DIGITS}g}"
    except ValueError:
        return cell


def flat(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a JSON object's values under dotted names; a list in one cell."""
    cells: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            cells |= flat(value, f"{prefix}{key}.")
        else:
            cells[prefix + key] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return cells


def same_columns(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return rows with all columns that any of them has: those about the run, the measures, then the dotted ones."""
    names = dict.fromkeys(name for row in rows for name in row)
    dotted = [name for name in names if "." in name]
    columns = [*(name for name in names if "." not in name), *sorted(dotted, key=lambda name: name.split(".")[0])]
    return [{name: row.get(name, "") for name in columns} for row in rows]
