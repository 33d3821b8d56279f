"""What the page of results says of box losses, alone and with assignments, is what the tables in results/ have."""

import statistics

import pytest
from scipy import stats

from tests.studies.results_page import ROUNDED, SCRATCHES, of, page, read_rows, table_of_results

ON = {"AP": "ap", "AP75": "ap75", "AP90": "ap90", "AP of `scratches`": SCRATCHES}
ON |= {"AP from 4 : 1": "ap_ratio_from_4", "lost by localisation": "tide_localisation"}
# A comparison of losses, and one with five seeds of the default.
SETS = {"steel": ("neu-det-losses", "neu-det-papers", "ciou")}
SETS |= {"cells": ("bccd-slender-losses", "bccd-slender-assigners", "anchor_ratio")}


@pytest.mark.parametrize("photos", SETS)
def test_the_tables_of_box_losses_are_those_of_their_csv(photos):
    found = {row["variant"]: row for row in read_rows(SETS[photos][0]) if (row["scored"], row["seed"]) == ("test", "0")}
    titles, rows = table_of_results(f"| box loss on {photos}")
    half = len(titles) // 2 + 1
    columns = [ON[title.removeprefix("matched: ")] for title in titles[1:]]
    assert columns[: half - 1] == columns[half - 1 :]
    names = [row[0].strip("`").removesuffix("` (default)") for row in rows]
    assert {*names, *(f"{name}-matched" for name in names if name != "iou")} == found.keys() and len(found) == 27
    for name, row in zip(names, rows, strict=True):
        for variant, cells in ((name, row[1:half]), (f"{name}-matched", row[half:])):
            if name == "iou" and variant != name:
                assert not any(cells), "IoU is what the others are matched to"
                continue
            expected = [float(found[variant][column]) for column in columns[: half - 1]]
            assert [float(cell) for cell in cells] == pytest.approx(expected, abs=ROUNDED), variant


@pytest.mark.parametrize("photos", SETS)
def test_what_is_said_of_box_losses_is_so(photos):
    name, seeds_of, default = SETS[photos]
    ap = {
        row["variant"]: 100 * float(row["ap"])
        for row in read_rows(name)
        if (row["scored"], row["seed"]) == ("test", "0")
    }
    seeds = [100 * value for value in of(seeds_of, "test", default, "ap").values()]
    said = f"standard deviation of {statistics.stdev(ap.values()):.1f} points of AP; the default alone has "
    assert f"{said}{statistics.stdev(seeds):.1f} from seed to seed" in page()
    matched = [name for name in ap if f"{name}-matched" in ap]
    pairs = stats.ttest_rel([ap[f"{name}-matched"] for name in matched], [ap[name] for name in matched])
    low, high = pairs.confidence_interval(0.95)
    mean = statistics.mean(ap[f"{name}-matched"] - ap[name] for name in matched)
    assert f"{mean:+.1f} points in the mean of these {len(matched)} losses ({low:+.1f} to {high:+.1f})" in page()


def test_the_best_loss_on_the_cells_is_chosen_by_the_validation_split():
    val = {row["variant"]: float(row["ap"]) for row in read_rows("bccd-slender-losses") if row["scored"] == "val"}
    best, second = sorted(val, key=val.__getitem__)[:-3:-1]
    assert best == "sca"
    above = 100 * (val["sca"] - max(of("bccd-slender-assigners", "val", "anchor_ratio", "ap").values()))
    said = f"there {100 * (val[best] - val[second]):.1f} points above the next, and {above:.1f} above the best"
    assert said in page()
