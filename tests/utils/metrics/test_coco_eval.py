"""Crowds, difficult objects, original areas and LVIS's federated rules, against pycocotools and the lvis package."""

import contextlib
import copy
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.paths import needs_shared_data
from tests.utils.metrics.test_coco_metrics import coco128_truths, expected_columns
from utils.metrics.coco_eval import Boxes, coco_precision_recall, counted_detections, precision_by_ratio, side_ratios
from utils.metrics.coco_metrics import CocoMetrics
from utils.metrics.truths import Federated, Truths, ragged, to_xywh

NAMES = [f"class {number}" for number in range(80)]


def truths_of(document, num_classes=80):
    """Truths of a COCO document whose category ids are labels + 1, sorted by image."""
    rows = {image["id"]: row for row, image in enumerate(document["images"])}
    items = sorted(document["annotations"], key=lambda item: rows[item["image_id"]])
    xywh = np.array([item["bbox"] for item in items], float).reshape(-1, 4)
    counts = np.bincount([rows[item["image_id"]] for item in items], minlength=len(rows))
    federated = None
    if "frequency" in document["categories"][0]:
        lists = [
            [[number - 1 for number in image[key]] for image in document["images"]]
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        ]
        frequency = tuple(category["frequency"] for category in document["categories"])
        federated = Federated(*map(ragged, lists), frequency)
    return Truths(
        starts=np.cumsum([0, *counts]),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([item["category_id"] - 1 for item in items]),
        xywh=xywh,
        area=np.array([item["area"] for item in items], float),
        crowd=np.array([bool(item.get("iscrowd")) for item in items]),
        difficult=np.array([bool(item.get("ignore")) for item in items]),
        image_ids=np.array(list(rows)),
        category_ids=tuple(range(1, num_classes + 1)),
        federated=federated,
    )


def collected(document, results, num_classes=80, ious=()):
    metrics = CocoMetrics.of(truths_of(document, num_classes), NAMES[:num_classes], ious)
    for row, image in enumerate(document["images"]):
        own = [item for item in results if item["image_id"] == image["id"]]
        boxes = np.array([item["bbox"] for item in own], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        metrics.add(row, boxes, [item["score"] for item in own], [item["category_id"] - 1 for item in own])
    return metrics.compute()


def pycocotools_on(document, results, ious=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = copy.deepcopy(document)
        truth_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.iouThrs = evaluation.params.iouThrs if ious is None else np.array(ious)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


class WithDifficult(COCOeval):
    """pycocotools' evaluation, and VOC's rule: what is marked difficult is ignored, however often it is found."""

    def _prepare(self):
        super()._prepare()
        for truth in self.cocoGt.dataset["annotations"]:
            truth["ignore"] = truth["iscrowd"] or truth["difficult"]

    def computeIoU(self, image, category):
        ious = super().computeIoU(image, category)
        for truth in self.cocoGt.imgToAnns[image]:
            if truth["category_id"] == category and truth["difficult"]:
                truth["iscrowd"] = 1  # from here on: the matcher lets a crowd be found again and again
        return ious


def arrays(evaluation):
    """Precision (K, 101, C, A) and recall (K, C, A) of an oracle as ours are: NaN where there are no truths."""
    parts = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]
    return [np.where(part < 0, np.nan, part) for part in parts]


def detections_of(document, results):
    """The results as our arrays."""
    rows = {image["id"]: row for row, image in enumerate(document["images"])}
    xywh = np.array([item["bbox"] for item in results], float).reshape(-1, 4)
    return Boxes(
        np.array([rows[item["image_id"]] for item in results], int),
        np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        np.array([item["category_id"] - 1 for item in results], int),
        np.array([item["score"] for item in results], float),
    )


def scene(seed, per_image=(0, 400)):
    """coco128's truths with crowds and areas of their own, image ids in no order, and many detections with ties."""
    sizes, starts, boxes, labels = coco128_truths()
    random = np.random.default_rng(seed)
    ids = random.permutation(len(sizes) * 3)[: len(sizes)].tolist()
    images = [{"id": number} for number in ids]
    annotations, results = [], []
    for row, number in enumerate(ids):
        for box, label in zip(
            boxes[starts[row] : starts[row + 1]], labels[starts[row] : starts[row + 1]].tolist(), strict=True
        ):
            x1, y1, x2, y2 = box.round(2).astype(float).tolist()
            w, h = x2 - x1, y2 - y1
            if random.random() < 0.1:
                w, h = random.choice([[32.0, 32.0], [96.0, 96.0], [16.0, 64.0]]).tolist()  # at the area limits
            area = w * h if random.random() < 0.5 else w * h * random.uniform(0.3, 1)
            item = {"image_id": number, "category_id": label + 1, "bbox": [x1, y1, w, h], "area": area}
            annotations.append({"id": len(annotations) + 1, "iscrowd": int(random.random() < 0.15), **item})
            for _ in range(random.integers(0, 4)):
                shaken = np.array([x1, y1, w, h]) + random.normal(0, 0.12, 4) * [w, h, w, h]
                shaken[2:] = np.abs(shaken[2:])
                results.append({**item, "bbox": shaken.tolist(), "score": round(random.random(), 2)})
                del results[-1]["area"]
        height, width = sizes[row]
        label = random.integers(1, 81) if row % 4 else 1
        for _ in range(random.integers(*per_image) if row % 9 else 0):
            # Whole pixels: a detection is given by its corners, and its sides must come out exact at the limits.
            corner = [float(random.integers(0, width)), float(random.integers(0, height))]
            box = [*corner, 32.0, float(random.choice([32.0, 288.0, 70.0]))]
            kind = int(label if row % 3 else random.integers(1, 81))
            results.append({"image_id": number, "category_id": kind, "bbox": box, "score": round(random.random(), 2)})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@needs_shared_data
@pytest.mark.parametrize("seed", range(2))
def test_crowds_areas_ties_and_hundreds_of_detections_equal_pycocotools(seed):
    document, results = scene(seed)
    counts = np.bincount([item["image_id"] for item in results])
    assert counts.max() > 300
    assert sum(item["iscrowd"] for item in document["annotations"]) > 50
    evaluation = pycocotools_on(document, results)
    metrics = collected(document, results)
    classes = slice(None)
    for key, value in expected_columns(evaluation, classes).items():
        assert metrics.overall[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    for label, name in enumerate(NAMES):
        for key, value in expected_columns(evaluation, slice(label, label + 1)).items():
            assert metrics.per_class[name][key] == pytest.approx(value, abs=1e-6, nan_ok=True), (name, key)
    every = coco_precision_recall(truths_of(document), detections_of(document, results), np.arange(80))
    for ours, theirs in zip(every, arrays(evaluation), strict=True):
        np.testing.assert_array_equal(ours, theirs, "every array to the bit")


@needs_shared_data
def test_precision_and_recall_leave_out_what_lies_on_a_crowd_as_pycocotools_does():
    document, results = scene(7)
    evaluation = pycocotools_on(document, results)
    metrics = collected(document, results)
    right = found = labels = 0
    every_class = 4 * len(document["images"])
    for number in range(80):
        for record in filter(None, evaluation.evalImgs[number * every_class : number * every_class + every_class // 4]):
            counts = ~np.array(record["dtIgnore"][0], bool) & (np.array(record["dtScores"]) >= metrics.confidence)
            right += np.count_nonzero(np.array(record["dtMatches"][0])[counts])
            found += np.count_nonzero(counts)
            labels += np.count_nonzero(np.array(record["gtIgnore"]) == 0)
    assert np.trace(metrics.confusion[:-1, :-1]) == right
    assert metrics.confusion[:-1].sum() == found
    assert metrics.confusion[:, :-1].sum() == labels == metrics.counts["labels"]


@needs_shared_data
@pytest.mark.parametrize("seed", range(2))
def test_difficult_objects_and_crowds_are_pycocotools_with_vocs_rule_to_the_bit(seed):
    document, results = scene(seed, per_image=(0, 60))
    random = np.random.default_rng(seed)
    for truth in document["annotations"]:
        truth["difficult"] = truth["ignore"] = int(not truth["iscrowd"] and random.random() < 0.3)
    for item in [*results]:  # many find the same object
        if random.random() < 0.2:
            results.append({**item, "score": round(random.random(), 2)})
    truths = truths_of(document)
    assert truths.difficult.sum() > 100 and truths.crowd.sum() > 50
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = copy.deepcopy(document)
        truth_set.createIndex()
        evaluation = WithDifficult(truth_set, truth_set.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    ours = coco_precision_recall(truths, detections_of(document, results), np.arange(80))
    for mine, theirs in zip(ours, arrays(evaluation), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@needs_shared_data
def test_precision_by_side_ratio_is_pycocotools_by_another_area():
    document, results = scene(5)
    truths, found = truths_of(document), detections_of(document, results)
    limits = [(0, 2), (2, 4), (4, 1e10)]
    document = copy.deepcopy(document)
    for truth in document["annotations"]:
        truth["area"] = max(truth["bbox"][2:]) / min(truth["bbox"][2:])
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = document
        truth_set.createIndex()
        detection_set = truth_set.loadRes(copy.deepcopy(results))
        for item, ratio in zip(detection_set.dataset["annotations"], side_ratios(to_xywh(found.boxes)), strict=True):
            item["area"] = ratio
        evaluation = COCOeval(truth_set, detection_set, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = limits, ["a", "b", "c"]
        evaluation.evaluate()
        evaluation.accumulate()
    theirs = arrays(evaluation)[0]
    np.testing.assert_array_equal(precision_by_ratio(truths, found, np.arange(80), limits), theirs)
    metrics = CocoMetrics.of(truths, [str(label) for label in range(80)], ())
    for image in range(len(truths.starts) - 1):
        mine = found.take(found.image == image)
        metrics.add(image, mine.boxes, mine.scores, mine.labels)
    by_class = metrics.compute(by_ratio=True).per_class
    for place, name in enumerate(("ratio_below_2", "ratio_2_to_4", "ratio_from_4")):
        ours = [[row[f"{column}_{name}"] for row in by_class.values()] for column in ("ap", "ap50", "ap75")]
        of_bin = theirs[..., place].mean(1)
        np.testing.assert_allclose(ours, [of_bin.mean(0), of_bin[0], of_bin[5]], rtol=1e-12)


@pytest.mark.parametrize("federated", [False, True])
def test_no_detections_are_a_precision_of_zero(federated):
    document, _ = federated_scene(0)
    truths = truths_of(document, 12)
    truths = truths if federated else replace(truths, federated=None)
    none = Boxes(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    ratio = precision_by_ratio(truths, none, np.arange(12), [(0, 1e10)])
    for part in (*coco_precision_recall(truths, none, np.arange(12)), ratio):
        assert set(np.unique(part[np.isfinite(part)])) == {0.0}


def test_more_thresholds_are_reported_and_change_nothing_else():
    document = {
        "images": [{"id": 5}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
    }
    results = [{"image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 4], "score": 0.5}]
    metrics = collected(document, results, 1, ious=(0.3, 0.4, 0.97))
    assert metrics.overall["ap"] == 0
    # pycocotools' 1, to the bit: it divides by the number found and a little more, lest that be none.
    value = pycocotools_on(document, results, [0.3]).eval["precision"][0, :, 0, 0, -1].mean()
    assert metrics.at_iou["0.3"] == {"all": value, "class 0": value} == pytest.approx({"all": 1.0, "class 0": 1.0})
    assert metrics.at_iou["0.97"]["all"] == 0
    assert "AP at IoU 0.3: 100" in metrics.table()
    assert metrics.to_json()["at_iou"]["0.3"]["all"] == value


def test_difficult_objects_are_neither_found_nor_missed_however_often():
    """VOC's rule; the detections on the difficult object would otherwise be three false alarms of the highest score."""
    truth = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    document = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "bbox": [0, 0, 100, 100], "area": 1e4, **truth},
            {"id": 2, "bbox": [200, 0, 100, 100], "area": 1e4, "ignore": 1, **truth},
        ],
    }
    found = {"image_id": 1, "category_id": 1}
    results = [{"bbox": [200, 0, 100, 100 - step], "score": 0.9, **found} for step in range(3)]
    results.append({"bbox": [0, 0, 100, 100], "score": 0.5, **found})
    metrics = collected(document, results, 1)
    assert metrics.overall["ap"] == pytest.approx(1)
    assert (metrics.overall["precision"], metrics.overall["recall"]) == (1, 1)
    assert metrics.counts["labels"] == 1
    assert metrics.counts["difficult_labels"] == 1
    # Its IoU is the usual one, not a crowd's: a small box inside it stays a false alarm.
    inside = [{"bbox": [210, 10, 20, 20], "score": 0.95, **found}]
    assert collected(document, [*results, *inside], 1).overall["ap"] == pytest.approx(0.5)


def federated_scene(seed, per_image=450):
    """A small LVIS: 12 classes of three frequencies, classes that are absent or not annotated to the last object."""
    random = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for number in range(1, 25):
        present = random.choice(np.arange(1, 13), 3, replace=False).tolist()
        absent = [int(each) for each in random.choice(np.arange(1, 13), 4, replace=False) if each not in present]
        partly = present[:1] if number % 3 else []
        images.append(
            {"id": number, "height": 480, "width": 640, "neg_category_ids": absent}
            | {"not_exhaustive_category_ids": partly, "coco_url": f"http://x/val/{number}.jpg"}
        )
        for label in present:
            for _ in range(random.integers(1, 5)):
                x, y, w, h = random.uniform(0, 400), random.uniform(0, 300), *random.uniform(10, 150, 2)
                box = [float(part) for part in (x, y, w, h)]
                item = {"image_id": number, "category_id": int(label), "bbox": box}
                annotations.append({"id": len(annotations) + 1, "area": float(w * h), **item})
                for _ in range(random.integers(0, 3)):
                    shaken = np.array(box) + random.normal(0, 0.1, 4) * [w, h, w, h]
                    results.append({**item, "bbox": shaken.tolist(), "score": round(random.random(), 3)})
        for _ in range(random.integers(0, per_image)):
            box = [*random.uniform(0, 300, 2).tolist(), *random.uniform(8, 200, 2).tolist()]
            kind = int(random.integers(1, 13))
            results.append({"image_id": number, "category_id": kind, "bbox": box, "score": round(random.random(), 3)})
    categories = [
        {"id": number, "name": NAMES[number - 1], "frequency": "rcf"[number % 3], "synset": "", "image_count": 1}
        for number in range(1, 13)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def lvis_results(document, results, monkeypatch, tmp_path):
    """The numbers of the lvis package, which still uses a name that numpy has dropped."""
    import json

    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)
    path = tmp_path / "truths.json"
    path.write_text(json.dumps(document))
    truth_set = lvis.LVIS(str(path))
    found = lvis.LVISResults(truth_set, copy.deepcopy(results), max_dets=300)
    evaluation = lvis.LVISEval(truth_set, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.get_results(), evaluation.eval["precision"]


@pytest.mark.parametrize("seed", range(3))
def test_federated_evaluation_equals_the_lvis_package(seed, monkeypatch, tmp_path):
    document, results = federated_scene(seed)
    assert np.bincount([item["image_id"] for item in results]).max() > 300
    expected, precision = lvis_results(document, results, monkeypatch, tmp_path)
    metrics = collected(document, results, 12)
    for key, name in (
        ("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"), ("ap_small", "APs"), ("ap_medium", "APm"),
        ("ap_large", "APl"), ("ap_rare", "APr"), ("ap_common", "APc"), ("ap_frequent", "APf"), ("ar", "AR@300"),
    ):  # fmt: skip
        assert metrics.overall[key] == pytest.approx(expected[name], abs=1e-6), key
    for label in range(12):
        own = precision[:, :, label, 0]
        assert metrics.per_class[NAMES[label]]["ap"] == pytest.approx(own[own > -1].mean(), abs=1e-6)
    assert "AP rare" in metrics.table()
    truths, found = truths_of(document, 12), detections_of(document, results)
    ours = coco_precision_recall(truths, counted_detections(found, truths), np.arange(12))[0]
    np.testing.assert_array_equal(ours, np.where(precision < 0, np.nan, precision))


def test_a_class_with_one_slender_object_weighs_as_one_in_the_weighted_mean():
    """The mean over classes is 1/2, since one class finds all of its nine objects and the other misses its one."""
    planks = [[0, 20 * row, 100, 10] for row in range(9)]
    boxes = [(1, box) for box in planks] + [(2, [200, 0, 10, 90]), (2, [300, 0, 50, 100]), (2, [400, 400, 150, 100])]
    document = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}, {"id": 2}, {"id": 3}],
        "annotations": [
            {"image_id": 1, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for category, box in [*boxes, (1, [0, 300, 100, 10])]
        ],
    }
    document["annotations"][-1]["iscrowd"] = 1  # nothing has to find it
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in planks]
    metrics = CocoMetrics.of(truths_of(document, 3), ["plank", "pole", "none"], ())
    found = detections_of(document, results)
    metrics.add(0, found.boxes, found.scores, found.labels)
    scored = metrics.compute(by_ratio=True)
    assert scored.overall["ap_ratio_from_4"] == pytest.approx(0.5)
    assert scored.overall["ap_ratio_from_4_weighted"] == pytest.approx(0.9)
    assert scored.overall["ap_small_weighted"] == pytest.approx(9 / 10)  # 1,000 square pixels each, the pole 900
    assert scored.overall["ap_large_weighted"] == pytest.approx(0)
    assert scored.counts["labels_ratio_from_4"] == 10 and scored.counts["labels_ratio_2_to_4"] == 1
    assert scored.counts["labels_small"] == 10 and scored.counts["labels_large"] == 1
    by_class = scored.per_class
    assert [by_class[name]["labels_ratio_from_4"] for name in by_class] == [9, 1, 0]
    assert by_class["plank"]["ap75_ratio_from_4"] == pytest.approx(1) and by_class["pole"]["ap_ratio_from_4"] == 0
    assert np.isnan(by_class["none"]["ap_ratio_from_4"]) and np.isnan(by_class["plank"]["ap_ratio_below_2"])
    lines = scored.table().splitlines()
    few = "side ratio from 4: 2 of 2 classes have fewer than 10 such objects; weighted by objects, AP 90.0"
    assert few in lines
    assert set(scored.rows()[1]) <= set(scored.rows()[0]), "a table of all rows has the columns of the first"
    assert scored.rows()[0]["labels_ratio_from_4"] == 10
    assert not any("ratio" in column for row in metrics.compute().rows() for column in row)


@pytest.mark.parametrize("side", [9, 11])
def test_false_alarms_without_height_count_among_slender_ones(side):
    """A detection in the grey padding of a letterbox is cut to such a box."""
    document = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 80, 10], "area": 800, "iscrowd": 0}],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [20, 100, side, 0], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 80, 10], "score": 0.8},
    ]
    metrics = CocoMetrics.of(truths_of(document, 1), ["plank"], ())
    found = detections_of(document, results)
    metrics.add(0, found.boxes, found.scores, found.labels)
    overall = metrics.compute(by_ratio=True).overall
    assert overall["ap"] == overall["ap_ratio_from_4"] == pytest.approx(0.5)
