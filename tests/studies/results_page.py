"""What the page of results says and what the tables in results/ have, for tests that hold one against the other."""

import csv
import itertools
import re
import statistics

import pytest
from scipy import stats

from tests.paths import ROOT

COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP90": "ap90",
    "AP below 2 : 1": "ap_ratio_below_2",
    "AP from 4 : 1": "ap_ratio_from_4",
}
SCRATCHES = "per_class.scratches.ap"  # a class of NEU-DET whose boxes are slender
RESULTS = ROOT / "results"
ROUNDED = 5e-4 + 1e-9  # three digits


def read_rows(name, table="runs.csv"):
    """The rows of a table in results/."""
    with (RESULTS / name / table).open(newline="") as file:
        return list(csv.DictReader(file))


def of(name, scored, variant, column):
    """A column of a variant on a split by seed."""
    rows = [row for row in read_rows(name) if (row["variant"], row["scored"]) == (variant, scored)]
    return {row["seed"]: float(row[column]) for row in rows if row["state"] == "done"}


def page():
    """The page of results, without its line ends."""
    return " ".join((ROOT / "docs" / "results.md").read_text("utf-8").split())


def table_of_results(start):
    """Titles and rows of the table in results.md whose header starts like this."""
    lines = (ROOT / "docs" / "results.md").read_text("utf-8").splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith(start)]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    ]
    return cells[0], cells[2:]


def check_mean(cell, values, where):
    """A cell `.123 ± .004` or `.123` against values by seed."""
    mean, *spread = [float(part) for part in cell.split("±")]
    assert mean == pytest.approx(statistics.mean(values), abs=ROUNDED), where
    assert not spread or spread[0] == pytest.approx(statistics.stdev(values), abs=ROUNDED), where


def check_difference(cell, values, baseline, where):
    """A cell `+1.2 (-0.4 to +2.8)` in points against scipy's paired interval."""
    seeds = sorted(values.keys() & baseline.keys())
    found = stats.ttest_rel([values[seed] for seed in seeds], [baseline[seed] for seed in seeds])
    low, high = found.confidence_interval(0.95)
    mean = statistics.mean(values[seed] - baseline[seed] for seed in seeds)
    printed = [float(part) for part in re.findall(r"[+-][\d.]+", cell)]
    assert printed == pytest.approx([100 * mean, 100 * low, 100 * high], abs=0.05 + 1e-9), where
