"""What the pages say of minutes until an AP is what the benchmark has written."""

import json
import re

import pytest

from tests.paths import ROOT
from tests.studies.results_page import RESULTS, page, table_of_results

DEFAULT, GGIOU = "this project", "this project, ggiou"
TINY, NANO = "ultralytics yolov3-tiny.yaml", "ultralytics yolo26n.yaml"
TABLES = {
    "cells": ("bccd-epyc-avx512-bf16.json", 40, (GGIOU, DEFAULT, TINY)),
    "steel": ("neu-det-epyc-avx512-bf16.json", 20, (DEFAULT, GGIOU, TINY, NANO)),
}


def recorded(name):
    """What the benchmark wrote of a data set: its rows, and the minutes and AP of the epochs, by side."""
    written = json.loads((RESULTS / "time-to-accuracy" / TABLES[name][0]).read_text("utf-8"))
    return {row["side"]: row for row in written["rows"]}, written["minutes and AP by epoch"]


def best(epochs):
    """The best AP of the epochs."""
    return max(ap for _, ap in epochs)


def until(epochs, target):
    """After how many minutes an epoch has this AP; None where none has."""
    return next((minutes for minutes, ap in epochs if ap >= target), None)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_minutes_is_that_of_its_json(name):
    _, count, sides = TABLES[name]
    _, epochs = recorded(name)
    assert epochs.keys() == set(sides)
    # A title names a side's best AP by its three digits.
    marks = {f"{best(epochs[side]):.3f}".lstrip("0"): best(epochs[side]) for side in sides}
    titles, rows = table_of_results(f"| trained on {name} by")
    for side, row in zip(sides, rows, strict=True):
        cells = dict(zip(titles, row, strict=True))
        assert len(epochs[side]) == count
        assert float(cells.pop("best AP on val")) == pytest.approx(best(epochs[side]), abs=5e-4)
        assert float(cells.pop(f"minutes for {count} epochs")) == pytest.approx(epochs[side][-1][0], abs=0.05)
        cells.pop(f"trained on {name} by")
        assert len(cells) >= 3
        for title, cell in cells.items():
            what, mark = re.fullmatch(r"(until AP|times as fast to) (\.\d+)", title).groups()
            minutes, theirs = until(epochs[side], marks[mark]), until(epochs[TINY], marks[mark])
            if what == "until AP":
                assert cell == ("not reached" if minutes is None else f"{minutes:.1f}"), (side, title)
            else:
                assert cell == ("" if minutes is None else f"{theirs / minutes:.1f}"), (side, title)


def test_what_is_said_of_minutes_on_the_cells_is_so():
    rows, epochs = recorded("cells")
    mark = best(epochs[DEFAULT])
    faster = until(epochs[TINY], mark) / until(epochs[DEFAULT], mark)
    assert f"reaches {faster:.1f} times as fast as Ultralytics" in page()
    assert f"CPU minutes `--assign ggiou` is {rows[GGIOU]['CPU peer / this']:.1f} times as fast" in page()


def test_what_is_said_of_minutes_on_steel_is_so():
    rows, epochs = recorded("steel")
    text, own = page(), best(epochs[DEFAULT])
    of_side = [f"{best(epochs[side]):.3f}".lstrip("0") for side in (DEFAULT, TINY, NANO)]
    assert (
        f"the default comes to {of_side[0]}, Ultralytics' YOLOv3-tiny to {of_side[1]} and its YOLO26n to {of_side[2]}:"
        in text
    )
    minutes, theirs = until(epochs[DEFAULT], own), until(epochs[TINY], own)
    assert (
        f"The default takes {minutes:.1f} minutes to its best, Ultralytics' YOLOv3-tiny {theirs:.1f} to the same;"
        in text
    )
    nano = best(epochs[NANO])
    faster = until(epochs[NANO], nano) / until(epochs[DEFAULT], nano)
    assert f"to the best AP of YOLO26n the default is {faster:.1f} times as fast" in text
    # This project had two cores: no more than two minutes of CPU time a minute.
    least = rows[TINY]["CPU minutes"] / (2 * minutes)
    assert f"in CPU minutes the default is at least {int(10 * least) / 10} times as fast as its YOLOv3-tiny" in text
    (number,) = [number for number, (_, ap) in enumerate(epochs[DEFAULT], 1) if ap == own]
    last = f"{epochs[DEFAULT][-1][1]:.3f}".lstrip("0")
    assert f"the default has {of_side[0]} after epoch {number}, and {last} after the last" in text
    performance = " ".join((ROOT / "docs" / "performance.md").read_text("utf-8").split())
    assert (
        f"reaches {of_side[0]} in {minutes:.1f} minutes where Ultralytics' YOLOv3-tiny takes {theirs:.1f}"
        in performance
    )
