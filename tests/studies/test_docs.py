"""The pages about the studies show pictures that exist, small enough for a repository, and name commands that parse."""

import csv
import itertools
import re
import shlex
import statistics

import pytest

from studies.compare import parse_flags
from studies.scores import parse_flags as scores_flags
from tests.paths import ROOT
from train import parse_flags as train_flags
from val import parse_flags as val_flags

PAGES = [ROOT / "docs" / name for name in ("studies.md", "coco.md", "results.md")]


def commands(page):
    """The commands on a page, their continuation lines joined and variables of the shell filled in."""
    text = "\n".join(re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.DOTALL)).replace("\\\n", " ")
    text = text.replace("$model", "yolov3").replace("$loss", "sca")
    return [line.split("#")[0].strip() for line in text.splitlines()]


def test_pictures_exist_and_are_small():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGES[0].read_text("utf-8"))
    assert len(shown) >= 8
    for name in shown:
        size = (ROOT / "docs" / name).stat().st_size
        assert size < (1.2 * 2**20 if name.endswith(".gif") else 300_000), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    studies = {"-m studies.compare": parse_flags, "-m studies.scores": scores_flags}
    parsers = {"train.py": train_flags, "val.py": val_flags, **studies}
    found = 0
    for line in commands(page):
        for start, parser in parsers.items():
            if line.startswith(f"python {start} "):
                parser(shlex.split(line.removeprefix(f"python {start} ")))
                found += 1
    assert found >= 2


def test_numbers_of_the_coco_page_follow_from_what_it_states():
    images = 118_287 * 300
    assert round(images / 3600) == 9857
    assert round(images / 74 / 3600) == 133
    for peak, hours in ((165, 93), (312, 49), (989, 16)):
        assert round(images * 467.7e9 / (0.3 * peak * 1e12) / 3600) == hours
        assert images * 39.5e9 / (0.3 * peak * 1e12) / 3600 < 8.3


COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP90": "ap90",
    "AP below 2 : 1": "ap_ratio_below_2",
    "AP from 4 : 1": "ap_ratio_from_4",
}
# The tables of results.md by the start of their headers, their runs.csv, and the variants of their rows by their names.
TABLES = {
    "| `--assign` | seeds": ("bccd", {"anchor_ratio": "ciou", "iou": "assign-iou", "ggiou": "assign-ggiou"}),
    "| `--loss` | seeds | AP | AP50 | AP75 | AP90": ("bccd", {}),
    "| `--assign`, 21 epochs": ("shapes/epochs21", {}),
    "| `--loss` | seeds | AP | AP50 | AP75 | AP below": ("shapes/parts", {}),
}


def variant_of(label, names):
    """The variant that a row's first cell means."""
    for sign, variant in (("ggiou-yolo", "ggiou-yolo"), ("similarity", "sca-similarity"), ("box_gain_match", None)):
        if sign in label:
            return variant
    name = re.match(r"`(\w+)`", label).group(1)
    return names.get(name, name)


@pytest.mark.parametrize("start", TABLES)
def test_tables_of_the_results_are_those_of_their_csv(start):
    lines = (ROOT / "docs" / "results.md").read_text("utf-8").splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith(start)]
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    ]
    folder, names = TABLES[start]
    with (ROOT / "docs" / folder / "runs.csv").open(newline="") as file:
        runs = [run for run in csv.DictReader(file) if run["state"] == "done"]
    checked = 0
    for row in rows:
        variant = variant_of(row[0], names)
        for title, cell in zip(header, row, strict=True):
            if title in COLUMNS and variant:
                values = [float(run[COLUMNS[title]]) for run in runs if run["variant"] == variant]
                assert len(values) == int(row[1]), row
                mean, *spread = [float(part) for part in cell.split("±")]
                assert mean == pytest.approx(statistics.mean(values), abs=6e-4), row
                assert not spread or spread[0] == pytest.approx(statistics.stdev(values), abs=6e-4), row
                checked += 1
    assert checked >= 16


def test_the_table_of_arithmetics_is_that_of_the_scores():
    lines = (ROOT / "docs" / "results.md").read_text("utf-8").splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("| arithmetic | seeds")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 4])
    with (ROOT / "docs" / "bccd" / "scores.csv").open(newline="") as file:
        scores = {row["folder"]: row for row in csv.DictReader(file)}
    for row, variant in zip(rows, ("ciou-bf16", "ciou"), strict=True):
        for title, cell in zip(titles, row, strict=True):
            column = COLUMNS.get(title.removesuffix(" (NMS .6)"))
            if column is None:
                continue
            folder = "test06" if title.endswith("(NMS .6)") else "test"
            values = [float(scores[f"{variant}/seed{seed}/{folder}"][column]) for seed in range(int(row[1]))]
            expected = [statistics.mean(values), statistics.stdev(values)]
            assert [float(part) for part in cell.split("±")] == pytest.approx(expected, abs=6e-4), (row, title)
