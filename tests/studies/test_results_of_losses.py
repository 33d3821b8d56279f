"""What the page of results says of box losses, alone and with assignments, is what the tables in results/ have."""

import re
import statistics

import numpy as np
import pytest
from scipy import stats

from studies.comparison.paired import holm, paired_difference
from studies.comparison.recipe import read_recipe
from tests.studies.results_page import RESULTS, ROUNDED, SCRATCHES, of, page, read_rows, table_of_results
from utils.config.knobs import Hyperparameters

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


def test_the_table_of_losses_with_assignments_is_that_of_its_csv():
    """Its runs are those of the two comparisons that they were taken from, where these have made them."""
    found = {(row["variant"], row["scored"]): row for row in read_rows("neu-det-combined") if row["seed"] == "0"}
    titles, rows = table_of_results("| loss and assignment on steel")
    assert len(rows) == 20 and {row[0].strip("`") for row in rows} == {variant for variant, _ in found}
    for name, *cells in rows:
        for title, cell in zip(titles[1:], cells, strict=True):
            split = "val" if title.endswith(" on val") else "test"
            value = float(found[name.strip("`"), split][ON[title.removesuffix(" on val")]])
            assert float(cell) == pytest.approx(value, abs=ROUNDED), (name, title)
    recipe = read_recipe(str(RESULTS / "neu-det-combined" / "recipe.yaml"))
    assert {variant.name for variant in recipe.variants} == {variant for variant, _ in found}
    taken = [row for (_, scored), row in found.items() if scored == "test" and row["reused.folder"]]
    assert len(taken) == 8
    for row in taken:
        theirs = of(row["reused.folder"].removeprefix("results/"), "test", row["reused.variant"], "ap")
        assert float(row["ap"]) == theirs["0"]


def test_what_is_said_of_losses_with_assignments_is_so():
    losses = ("ciou", "inner_ciou", "piou", "focaler_ciou-matched", "diou-matched")
    assigners = ("anchor_ratio", "tal", "tal_ggiou", "ggiou-yolo")
    names = [f"{loss}-{assigner}" for loss in losses for assigner in assigners]
    column = {
        (split, each): np.array([of("neu-det-combined", split, name, each)["0"] for name in names]).reshape(5, 4)
        for split in ("val", "test")
        for each in ("ap", "ap_ratio_from_4")
    }
    ap, text = 100 * column["test", "ap"], page()
    assert all(names[column[split, "ap"].argmax()] == "inner_ciou-anchor_ratio" for split in ("val", "test"))
    assert names[column["val", "ap_ratio_from_4"].argmax()] == "diou-matched-anchor_ratio"
    assert f"These 20 runs have a standard deviation of {ap.std(ddof=1):.1f} points" in text
    above = ap[1:].mean(0) - ap[0]
    assert f"the four losses are {above[0]:.1f} points above `ciou` in their mean; with the other three " in text
    assert f"assignments {above[1:].mean():.1f}." in text
    low, high = stats.ttest_rel(ap[:, 2], ap[:, 1]).confidence_interval(0.95)
    change = (ap[:, 2] - ap[:, 1]).mean()
    assert (
        f"in TAL changes AP by {change:+.1f} points in the mean of the five losses ({low:+.1f} to {high:+.1f})" in text
    )
    slender, whole = (
        f"{np.corrcoef(column['val', each].ravel(), column['test', each].ravel())[0, 1]:.2f}".lstrip("0")
        for each in ("ap_ratio_from_4", "ap")
    )
    assert f"a correlation of {slender} between both splits, AP one of {whole}." in text


def shown(difference):
    """A paired difference as the page shows it."""
    return f"{100 * difference.mean:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def test_what_is_said_of_scaloss_on_the_cells_is_so():
    """By seeds that had no part in choosing it."""
    text = page()
    found = {
        column: paired_difference(*(of("bccd-sca", "test", each, column) for each in ("sca", "ciou")))
        for column in ("ap", "ap50", "ap75", "ap80", "ap90")
    }
    assert of("bccd-sca", "test", "sca", "ap").keys() == set("12345")
    assert f"p {found['ap'].p:.3f}, with each of five seeds.".replace("p 0.", "p .") in text
    assert found["ap"].p < 0.05
    by_seed = [of("bccd-sca", "test", each, "ap") for each in ("sca", "ciou")]
    assert all(by_seed[0][seed] > by_seed[1][seed] for seed in by_seed[0])
    assert f"| AP {shown(found['ap'])} | in part: a CIoU [of its size]" in text
    first = f"is [{100 * found['ap'].mean:.1f} points above](#blood-cells-scaloss-by-five-other-seeds) "
    assert f"{first}({100 * found['ap'].low:.1f} to {100 * found['ap'].high:.1f}), and no better than that" in text
    strict = [f"AP{limit} {shown(found[f'ap{limit}'])}" for limit in (50, 75, 80, 90)]
    assert f"{', '.join(strict)} | in part: up to AP80 |" in text
    curves = [row for row in read_rows("bccd-sca", "curves.csv") if row["seed"] in "12345"]

    def mean_of(epochs):
        """The difference of AP on the validation split, in points, mean of these epochs."""
        rows = [row for row in curves if int(row["epoch"]) in epochs]
        of_loss = [
            statistics.mean(100 * float(row["ap"]) for row in rows if row["variant"] == each)
            for each in ("sca", "ciou")
        ]
        return of_loss[0] - of_loss[1]

    early, late = mean_of(range(1, 21)), mean_of(range(31, 41))
    assert f"{early:+.1f} in the first twenty epochs, {late:+.1f} in the last ten | not seen" in text


# What is changed on the page: the settings that a difference is taken between.
SHAPE_AND_SIZE = (("sca", "ciou-larger"), ("sca-matched", "ciou"), ("ciou-larger", "ciou"), ("sca", "sca-matched"))


def between(pair, column):
    """The difference of a pair of settings on the cells."""
    return paired_difference(*(of("bccd-sca-size", "test", each, column) for each in pair))


def test_what_is_said_of_scaloss_s_shape_and_its_size_is_so():
    found = {pair: between(pair, "ap") for pair in SHAPE_AND_SIZE}
    corrected = holm({pair: difference.p for pair, difference in found.items()})
    _, rows = table_of_results("| what is changed | AP")
    for pair, (_, ap, p, ap75) in zip(SHAPE_AND_SIZE, rows, strict=True):
        assert found[pair].n == 5
        assert ap == shown(found[pair]) and ap75 == shown(between(pair, "ap75")), pair
        assert float(p) == pytest.approx(corrected[pair], rel=0.2), pair
    # The verdict: nothing by the shape where both are large, something by the size of either.
    assert found["sca", "ciou-larger"].low < 0 < found["sca", "ciou-larger"].high
    assert all(found[pair].low > 0 and corrected[pair] < 0.05 for pair in SHAPE_AND_SIZE[2:])
    means = {pair: 100 * difference.mean for pair, difference in found.items()}
    gain, text = found["ciou-larger", "ciou"], page()
    sizes = sorted(means[pair] for pair in SHAPE_AND_SIZE[2:])
    assert f"A larger box loss gains {sizes[0]:.1f} to {sizes[1]:.1f} points" in text
    assert f"At the small size SCALoss is {-means['sca-matched', 'ciou']:.1f} points behind CIoU" in text
    said = f"[{100 * gain.mean:.1f} points above the default](#blood-cells-scalosss-shape-and-its-size) "
    said += f"({100 * gain.low:.1f} to {100 * gain.high:.1f}; five seeds), beyond chance when corrected for four"
    assert f"{said} comparisons (p {corrected['ciou-larger', 'ciou']:.3f}).".replace("(p 0.", "(p .") in text


def test_the_larger_gain_of_ciou_is_scaloss_s_size():
    """The recipe's number is one that starts both losses equal, by the sizes that its description states."""
    recipe = read_recipe(str(RESULTS / "bccd-sca-size" / "recipe.yaml"))
    sca, ciou = (float(number) for number in re.findall(r"\b1\.\d{4}", recipe.description))
    match = next(each.settings["box_gain_match"] for each in recipe.variants if each.name == "ciou-larger")
    assert float(match) == pytest.approx(ciou / sca, abs=5e-4)
    text = page()
    assert f"SCALoss starts {sca:.2f} times as large as IoU loss, and CIoU {ciou:.2f} times" in text
    assert f"of which its being {100 * (1 - 1 / ciou):.0f} % smaller explains" in text
    default = Hyperparameters().box
    assert f"gain {default / float(match):.4f} instead of {default:.2f}".replace("0.", ".") in text


def test_the_pair_that_was_chosen_on_steel_does_not_beat_the_default():
    names = ("diou-matched-anchor_ratio", "ciou-anchor_ratio")
    found = paired_difference(*(of("neu-det-chosen", "test", each, "ap_ratio_from_4") for each in names))
    assert found.n == 5 and found.low < 0 < found.high
    assert "its interval from 4 : 1 does not lie above zero" in page()
