"""What the page of results says of slender objects and other detectors on steel is what the tables in results/ have."""

import statistics
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from studies.comparison.paired import holm, paired_difference
from tests.paths import SHARED_DATA, needs_shared_data
from tests.studies.results_page import SCRATCHES, check_difference, check_mean, of, page, read_rows, table_of_results

FEW_ANCHORS = ("best_anchor", "iou", "ggiou")


def both_splits(name, column, without=()):
    """A column of all finished runs on the validation and on the test split, two rows."""
    runs = {split: {} for split in ("val", "test")}
    for row in read_rows(name):
        if row["state"] == "done" and row["variant"] not in without:
            runs[row["scored"]][row["variant"], row["seed"]] = float(row[column])
    assert runs["val"].keys() == runs["test"].keys()
    return np.array([[of_split[run] for run in runs["val"]] for of_split in runs.values()])


def test_the_table_of_correlations_is_that_of_the_runs():
    titles, rows = table_of_results("| on both splits")
    columns = ("ap", "ap75", "ap_ratio_below_2", "ap_ratio_2_to_4", "ap_ratio_from_4", SCRATCHES)
    sets = (("neu-det-papers", ()), ("neu-det-assigners", FEW_ANCHORS), ("neu-det-losses", ()))
    for column, row in zip(columns, rows, strict=True):
        for (name, without), title, cell in zip(sets, titles[1:], row[1:], strict=True):
            values = both_splits(name, column, without)
            assert title.endswith(f" {values.shape[1]} runs")
            assert float(cell) == pytest.approx(np.corrcoef(values)[0, 1], abs=0.005 + 1e-9), (column, name)


def boxes_of(split):
    """The boxes of a split that count, with the names of their classes, as they stand in its XML files."""
    folder, names, boxes = SHARED_DATA / "neu-det", [], []
    for stem in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        for item in ElementTree.parse(folder / "Annotations" / f"{stem}.xml").iter("object"):
            if item.findtext("difficult") != "1":
                names.append(item.findtext("name"))
                boxes.append([float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")])
    sides = np.subtract(np.array(boxes)[:, 2:], np.array(boxes)[:, :2])
    return np.array(names), np.array(boxes), sides.max(1) >= 4 * sides.min(1)


@needs_shared_data
def test_the_counts_of_slender_objects_on_steel_are_those_of_the_photos():
    counts = {}
    for split in ("train", "val", "test"):
        names, _, slender = boxes_of(split)
        counts[split] = Counter(names[slender].tolist()), Counter(names.tolist())
    text, (test, _), (val, _) = page(), counts["test"], counts["val"]
    two = test["scratches"] + test["inclusion"]
    assert f"Of {test.total()} in the test split {two} are scratches and inclusions" in text
    assert test.total() - two == 10 and len(+test) == 6
    assert f"The validation split has {val.total()}: 6 of them, in three classes, are three fifths" in text
    assert val.total() - val["scratches"] - val["inclusion"] == 6 and len(+val) == 5
    slender, everything = (sum((each[part] for each in counts.values()), Counter()) for part in (0, 1))
    assert f"{slender['scratches'] / everything['scratches']:.0%} are from 4 : 1".replace("%", " %") in text
    assert f"{slender['scratches'] / slender.total():.0%} of all such boxes".replace("%", " %") in text


def test_slender_objects_by_their_class_are_those_of_the_csv():
    text, (_, rows) = page(), table_of_results("| slender by `scratches`")
    papers = [("neu-det-papers", variant, "ciou") for variant in ("ciou", "sca", "sca-ggiou-yolo")]
    assigners = (*FEW_ANCHORS, "ggiou-yolo", "atss", "atss_ggiou", "simota", "tal", "tal_ggiou")
    of_rows = papers + [("neu-det-assigners", variant, "anchor_ratio") for variant in assigners]
    found = {}
    for (name, variant, baseline), row in zip(of_rows, rows, strict=True):
        values, default = (of(name, "test", each, SCRATCHES) for each in (variant, baseline))
        assert variant.split("-")[-1] in row[0] or variant == "ciou"
        assert int(row[1]) == len(values) == 5
        check_mean(row[2], values.values(), variant)
        assert bool(row[3]) == (variant != baseline)
        if row[3]:
            check_difference(row[3], values, default, variant)
            found[name, variant] = paired_difference(values, default)
    assert not any(each.low > 0 for each in found.values()), "no setting is above the default"
    p = holm({variant: each.p for (name, variant), each in found.items() if name == "neu-det-assigners"})
    assert {variant for variant, value in p.items() if value < 0.05} == {*FEW_ANCHORS, "atss"}
    assert max(p[variant] for variant in FEW_ANCHORS) < 0.002 and "beyond chance among nine (p .002 or less)" in text
    means = {variant: -100 * found["neu-det-assigners", variant].mean for variant in (*FEW_ANCHORS, "atss")}
    few = [round(means[variant]) for variant in FEW_ANCHORS]
    assert f"are {min(few)} to {max(few)} points below it" in text
    assert f"`atss` is {means['atss']:.1f} below (p {p['atss']:.3f})".replace("p 0.", "p .") in text
    spread = [
        100 * statistics.stdev(of("neu-det-papers", "test", "ciou", column).values())
        for column in (SCRATCHES, "ap_ratio_from_4")
    ]
    assert f"is {spread[0]:.1f} points with the default, where AP from 4 : 1 has {spread[1]:.1f}" in text


def test_what_is_said_of_yolo26_on_steel_is_so():
    names, text = ("ggiou", "sca", "sca-ggiou"), page()
    found = {
        column: {
            each: paired_difference(*(of("neu-det-yolo26", "test", v, column) for v in (each, "ultralytics")))
            for each in names
        }
        for column in ("ap", "ap75", SCRATCHES)
    }
    assert all(each.low < 0 < each.high for column in ("ap", "ap75") for each in found[column].values())
    p, both = holm({each: pair.p for each, pair in found[SCRATCHES].items()}), found[SCRATCHES]["sca-ggiou"]
    above = f"{100 * both.mean:.1f} points above Ultralytics' own ({100 * both.low:+.1f} to {100 * both.high:+.1f})"
    assert above in text and f"is not beyond chance (p {p['sca-ggiou']:.2f})".replace("p 0.", "p .") in text
    assert both.low > 0 and min(p.values()) > 0.05
    width = 100 * found["ap"]["sca"].high
    assert f"three seeds SCALoss could change AP by {['', '', 'two', 'three'][round(width)]} points" in text


def test_what_is_said_of_retinanet_on_steel_is_so():
    text, names = page(), ("ciou", "ggiou", "sca", "sca-ggiou")
    ap = {each: 100 * of("neu-det-retinanet", "test", each, "ap")["0"] for each in names}
    shown = [f"{ap[one] - ap[other]:.1f}" for one, other in (("sca", "ciou"), ("sca-ggiou", "ggiou"))]
    assert f"no visible difference (AP {shown[0]} and {shown[1]}, below what a seed changes)" in text
    assert {round(ap["ciou"] - ap["ggiou"]), round(ap["sca"] - ap["sca-ggiou"])} == {10}
    last = {row["variant"]: row for row in read_rows("neu-det-retinanet", "curves.csv") if row["epoch"] == "5"}
    counts = [
        [float(last[each][f"positives_per_truth{of_which}"]) for each in ("ggiou", "ciou")]
        for of_which in ("", "_ratio_from_4")
    ]
    assert f"has {counts[0][0]:.1f} anchors there instead of {counts[0][1]:.1f}" in text
    assert f"a slender one {counts[1][0]:.1f} instead of {counts[1][1]:.1f}" in text


@needs_shared_data
def test_slender_objects_have_as_many_tied_anchors_as_the_page_says():
    """By torchvision's own anchors and matcher, at 224 px of photos that are 200."""
    _, boxes, slender = boxes_of("train")
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    levels = [torch.zeros(1, 1, -(-224 // stride), -(-224 // stride)) for stride in (8, 16, 32, 64, 128)]
    (anchors,) = model.anchor_generator(ImageList(torch.zeros(1, 3, 224, 224), [(224, 224)]), levels)
    overlaps = [box_iou(box[None], anchors) for box in torch.tensor(boxes[slender] * 1.12, dtype=torch.float32)]
    matched = statistics.mean(float((model.proposal_matcher(each) == 0).sum()) for each in overlaps)
    good = statistics.mean(float((each >= 0.5).sum()) for each in overlaps)
    last = next(row for row in read_rows("neu-det-retinanet", "curves.csv") if row["variant"] == "ciou")
    assert matched == pytest.approx(float(last["positives_per_truth_ratio_from_4"]), abs=0.1)
    said = f"of its {float(last['positives_per_truth_ratio_from_4']):.1f} anchors {good:.1f} have an IoU of .5 or more"
    assert said in page()
