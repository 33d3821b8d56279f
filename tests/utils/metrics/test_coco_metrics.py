"""The metrics against pycocotools on random detections for real truths; what pycocotools lacks, by hand."""

import contextlib
import io
import json
import math

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.paths import SHARED_DATA, needs_shared_data
from utils.metrics.coco_metrics import AREA_COLUMNS, COLUMNS, IOU_COLUMNS, CocoMetrics, Metrics

NUM_CLASSES = 80
NAMES = [f"class {number}" for number in range(NUM_CLASSES)]


def coco128_truths():
    """sizes, starts, boxes, labels of coco128, parsed here and not by the project."""
    sizes, boxes, labels, starts = [], [], [], [0]
    for path in sorted((SHARED_DATA / "coco128" / "images").rglob("*.jpg")):
        height, width = cv2.imread(str(path)).shape[:2]
        label_file = SHARED_DATA / "coco128" / "labels" / path.relative_to(SHARED_DATA / "coco128" / "images")
        label_file = label_file.with_suffix(".txt")
        lines = label_file.read_text(encoding="utf-8").splitlines() if label_file.exists() else []
        for label, x, y, w, h in (map(float, line.split()) for line in lines):
            boxes.append([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
            labels.append(int(label))
        starts.append(len(labels))
        sizes.append([height, width])
    return np.array(sizes), np.array(starts), np.array(boxes, np.float32), np.array(labels)


def random_detections(truths, seed):
    """Per image: shaken truths, wrong classes, noise, ties, sometimes nothing, sometimes 150 of one class."""
    sizes, starts, boxes, labels = truths
    generator = np.random.default_rng(seed)
    for image, (height, width) in enumerate(sizes):
        own, own_labels = boxes[starts[image] : starts[image + 1]], labels[starts[image] : starts[image + 1]]
        copies = np.repeat(np.arange(len(own)), generator.integers(0, 4, len(own)))
        sides = np.tile(own[copies, 2:] - own[copies, :2], 2)
        shaken = own[copies] + generator.normal(0, 0.1, sides.shape) * sides
        shaken_labels = np.where(generator.random(len(copies)) < 0.15, generator.integers(0, 80), own_labels[copies])
        noise = generator.integers(0, 40) if image % 5 else 150
        corner = generator.random((noise, 2)) * [width, height]
        noise_boxes = np.concatenate([corner, corner + generator.random((noise, 2)) * 200], 1)
        noise_labels = generator.integers(0, 80, noise) if image % 10 else np.full(noise, generator.integers(0, 3))
        scores = generator.random(len(copies) + noise).round(2)
        keep = slice(0, 0) if image % 13 == 7 else slice(None)
        yield (
            image,
            np.concatenate([shaken, noise_boxes])[keep].astype(np.float32),
            scores[keep].astype(np.float32),
            np.concatenate([shaken_labels, noise_labels])[keep],
        )


def annotations(image, boxes, labels, scores=None):
    """pycocotools' annotation dicts of some boxes (K, 4) xyxy."""
    for row, (box, label) in enumerate(zip(boxes.astype(float), labels.tolist(), strict=True)):
        x1, y1, x2, y2 = box.tolist()
        area = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        score = {} if scores is None else {"score": float(scores[row])}
        yield {"image_id": image, "category_id": label, "iscrowd": 0, **area, **score}


def pycocotools_evaluation(truths, detections):
    """pycocotools' COCOeval after accumulate."""
    sizes, starts, boxes, labels = truths
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set, detection_set = COCO(), COCO()
        images = [{"id": image} for image in range(len(sizes))]
        categories = [{"id": number} for number in range(NUM_CLASSES)]
        own = [
            row
            for image in range(len(sizes))
            for row in annotations(image, *(part[starts[image] : starts[image + 1]] for part in (boxes, labels)))
        ]
        found = [row for image, b, s, k in detections for row in annotations(image, b, k, s)]
        for dataset, rows in ((truth_set, own), (detection_set, found)):
            rows = [{"id": number, **row} for number, row in enumerate(rows, 1)]
            dataset.dataset = {"images": images, "categories": categories, "annotations": rows}
            dataset.createIndex()
        evaluation = COCOeval(truth_set, detection_set, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def ours(truths, detections):
    metrics = CocoMetrics(*truths, NAMES)
    for image, boxes, scores, labels in detections:
        metrics.add(image, boxes, scores, labels)
    return metrics.compute()


def defined_mean(values):
    values = values[values > -1]
    return values.mean() if values.size else math.nan


def expected_columns(evaluation, classes):
    """ap to ar of pycocotools for a slice of classes, by its own definition of the summary."""
    precision, recall = evaluation.eval["precision"][:, :, classes], evaluation.eval["recall"][:, classes]
    row = {"ap": defined_mean(precision[..., 0, -1]), "ar": defined_mean(recall[..., 0, -1])}
    row |= {key: defined_mean(precision[t, ..., 0, -1]) for t, key in enumerate(IOU_COLUMNS)}
    return row | {key: defined_mean(precision[..., a, -1]) for a, key in enumerate(AREA_COLUMNS, 1)}


def f1_by_thresholds(evaluation):
    """Confidence, mean precision, recall and F1 at the best F1, by trying every score on pycocotools' own matches."""
    scores, right, labels, total = [], [], [], np.zeros(NUM_CLASSES)
    images = len(evaluation.params.imgIds)
    for number in range(NUM_CLASSES):
        start = number * 4 * images  # evalImgs: categories, then areas ("all" first), then images
        for record in filter(None, evaluation.evalImgs[start : start + images]):
            scores += record["dtScores"]
            right += (record["dtMatches"][0] > 0).tolist()
            labels += [number] * len(record["dtScores"])
            total[number] += len(record["gtIds"])
    scores, right, labels = np.array(scores), np.array(right), np.array(labels)
    best = (-1.0,)
    for threshold in np.unique(scores)[::-1]:
        kept = scores >= threshold
        found = np.bincount(labels[kept], minlength=NUM_CLASSES)[total > 0]
        hits = np.bincount(labels[kept & right], minlength=NUM_CLASSES)[total > 0]
        f1 = (2 * hits / (found + total[total > 0])).mean()
        if f1 > best[0] + 1e-12:
            precision = np.divide(hits, found, out=np.zeros(len(hits)), where=found > 0).mean()
            best = (f1, threshold, precision, (hits / total[total > 0]).mean(), hits.sum())
    return best


@pytest.fixture(scope="module")
def scene():
    truths = coco128_truths()
    detections = list(random_detections(truths, seed=1))
    return truths, detections, pycocotools_evaluation(truths, detections), ours(truths, detections)


@needs_shared_data
def test_the_scene_holds_the_hard_cases(scene):
    (_, starts, _, labels), detections, _, _ = scene
    assert (np.diff(starts) == 0).any(), "an image without truths"
    assert len(np.unique(labels)) < NUM_CLASSES, "classes without truths"
    assert any(len(part[2]) == 0 for part in detections), "an image without detections"
    assert any(len(part[3]) and np.bincount(part[3]).max() > 100 for part in detections), "over 100 of one class"
    assert any(len(part[2]) - len(np.unique(part[2])) > 10 for part in detections), "tied scores"


@needs_shared_data
def test_overall_equals_pycocotools(scene):
    _, _, evaluation, metrics = scene
    expected = expected_columns(evaluation, slice(None))
    assert 0.02 < expected["ap"] < 0.9
    assert {key: metrics.overall[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    summary = [metrics.overall[key] for key in ("ap", "ap50", "ap75", *AREA_COLUMNS)] + [metrics.overall["ar"]]
    assert summary == pytest.approx([*evaluation.stats[:6], evaluation.stats[8]], abs=1e-6)


@needs_shared_data
def test_every_class_equals_pycocotools(scene):
    _, _, evaluation, metrics = scene
    for number, name in enumerate(NAMES):
        expected = expected_columns(evaluation, slice(number, number + 1))
        got = {key: metrics.per_class[name][key] for key in expected}
        assert got == pytest.approx(expected, abs=1e-6, nan_ok=True), name


@needs_shared_data
def test_precision_recall_and_f1_come_from_pycocotools_matches(scene):
    _, _, evaluation, metrics = scene
    f1, confidence, precision, recall, hits = f1_by_thresholds(evaluation)
    assert metrics.confidence == confidence
    got = [metrics.overall[key] for key in ("f1", "precision", "recall")]
    assert got == pytest.approx([f1, precision, recall], abs=1e-9)
    assert np.trace(metrics.confusion) == hits


@needs_shared_data
def test_confusion_matrix_counts_every_label_and_every_kept_detection_once(scene):
    (_, _, _, labels), detections, _, metrics = scene
    assert metrics.confusion[:, :-1].sum(0).tolist() == np.bincount(labels, minlength=NUM_CLASSES).tolist()
    kept = np.concatenate([part[3][part[2] >= metrics.confidence] for part in detections])
    over_the_limit = np.bincount(kept, minlength=NUM_CLASSES) - metrics.confusion[:-1].sum(1)
    assert (over_the_limit >= 0).all()
    assert over_the_limit[3:].sum() == 0  # only classes 0 to 2 have images with more than 100 detections
    off_diagonal = metrics.confusion[:-1, :-1].sum() - np.trace(metrics.confusion)
    assert off_diagonal > 0, "the scene has wrong classes on right boxes"


@needs_shared_data
def test_curves_agree_with_the_numbers(scene):
    _, _, _, metrics = scene
    with_labels = [number for number, row in enumerate(metrics.per_class.values()) if row["labels"]]
    assert metrics.curves.precision[with_labels].mean() == pytest.approx(metrics.overall["ap50"], abs=1e-9)
    at_best = np.argmin(np.abs(metrics.curves.confidence - metrics.confidence))  # scores have two digits
    assert metrics.curves.f1[with_labels, at_best].mean() == pytest.approx(metrics.overall["f1"], abs=1e-9)
    assert metrics.curves.f1[with_labels].mean(0).max() == pytest.approx(metrics.overall["f1"], abs=1e-9)
    assert np.isnan(metrics.curves.f1).all(1).sum() == NUM_CLASSES - len(with_labels)


@needs_shared_data
def test_the_order_of_images_and_the_container_do_not_matter(scene, capfd):
    truths, detections, _, metrics = scene
    shuffled = [detections[row] for row in np.random.default_rng(0).permutation(len(detections))]
    tensors = [(image, *map(torch.from_numpy, parts)) for image, *parts in shuffled]
    assert json.dumps(ours(truths, tensors).to_json()) == json.dumps(metrics.to_json())
    assert capfd.readouterr() == ("", "")


def small(truths, detections, num_classes=2) -> Metrics:
    """Metrics of one image: truths and detections as (label, box[, score])."""
    boxes, labels = [row[1] for row in truths], [row[0] for row in truths]
    names = [f"kind {number}" for number in range(num_classes)]
    metrics = CocoMetrics([[100, 100]], [0, len(truths)], np.array(boxes).reshape(-1, 4), np.array(labels, int), names)
    columns = ([row[column] for row in detections] for column in (1, 2, 0))
    metrics.add(0, *map(torch.tensor, columns))
    return metrics.compute()


BOX, OTHER, FAR = [10.0, 10, 50, 50], [10.0, 10, 50, 46], [60.0, 60, 90, 90]


def test_perfect_detections():
    metrics = small([(0, BOX), (1, FAR)], [(0, BOX, 0.9), (1, FAR, 0.8)])
    defined = {key: value for key, value in metrics.overall.items() if key != "ap_large"}
    assert defined == pytest.approx(dict.fromkeys(defined, 1.0))
    assert math.isnan(metrics.overall["ap_large"])  # no truth of 96 x 96 pixels or more
    assert metrics.confidence == pytest.approx(0.8)
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_a_lower_duplicate_is_a_false_alarm_even_at_a_better_box():
    metrics = small([(0, BOX)], [(0, OTHER, 0.9), (0, BOX, 0.8)])
    assert metrics.overall["ap50"] == pytest.approx(1)
    assert metrics.overall["ap95"] == pytest.approx(0.5)  # only the second passes IoU .95, after one false alarm
    assert metrics.confidence == pytest.approx(0.9)
    assert metrics.overall["precision"] == 1


def test_confusion_matrix_names_the_wrong_class_the_miss_and_the_false_alarm():
    metrics = small([(0, BOX), (0, FAR)], [(1, BOX, 0.9), (0, [0.0, 90, 9, 99], 0.9)])
    assert metrics.confusion.tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]


def test_a_right_class_goes_before_a_wrong_class_of_higher_score():
    metrics = small([(0, BOX)], [(1, BOX, 0.9), (0, OTHER, 0.8)])
    assert metrics.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("truths", [[], [(0, BOX)]])
def test_without_detections(truths):
    metrics = small(truths, [])
    assert metrics.confidence is None
    expected = 0.0 if truths else math.nan
    assert metrics.overall["ap"] == pytest.approx(expected, nan_ok=True)
    assert metrics.overall["f1"] == pytest.approx(expected, nan_ok=True)
    assert metrics.confusion.sum() == len(truths)


def test_without_labels_everything_is_undefined_but_counted():
    metrics = small([], [(1, BOX, 0.5)])
    assert all(math.isnan(value) for value in metrics.overall.values())
    assert metrics.counts["detections"] == 1


def test_a_class_without_labels_is_left_out_of_the_mean():
    metrics = small([(0, BOX)], [(0, BOX, 0.5), (1, BOX, 0.9)])
    assert metrics.overall["ap"] == pytest.approx(1)
    assert metrics.overall["precision"] == 1
    assert math.isnan(metrics.per_class["kind 1"]["ap"])


@pytest.mark.parametrize("chosen", [(7, 4000), (0, 4999), (4000,)])
def test_thousands_of_classes_without_labels_change_no_number(chosen):
    def scored(labels, num_classes):
        truths = [(label, box) for label in labels for box in (BOX, FAR)]
        found = [(label, *each) for label in labels for each in ((OTHER, 0.9), ([0.0, 50, 9, 59], 0.7), (FAR, 0.6))]
        return small(truths, found, num_classes)

    many, few = scored(chosen, 5000), scored(range(len(chosen)), len(chosen))
    assert many.overall == pytest.approx(few.overall, rel=1e-12, nan_ok=True)
    for number, label in enumerate(chosen):
        assert many.per_class[f"kind {label}"] == pytest.approx(few.per_class[f"kind {number}"], rel=1e-12, nan_ok=True)
        assert np.array_equal(many.curves.precision[label], few.curves.precision[number])
    assert np.isnan(many.curves.precision[np.setdiff1d(range(5000), chosen)]).all()
    assert many.counts["classes_with_labels"] == len(chosen)


def test_detections_that_are_not_finite_are_dropped_and_counted():
    metrics = small([(0, BOX)], [(0, BOX, 0.5), (0, [0.0, 0, math.inf, 9], 0.9), (0, FAR, math.nan)])
    assert metrics.overall["ap"] == pytest.approx(1)
    assert metrics.counts["non_finite_detections"] == 2
    assert metrics.counts["detections"] == 3


def test_a_data_set_without_images():
    metrics = CocoMetrics(np.zeros((0, 2)), [0], np.zeros((0, 4)), np.zeros(0, int), ["a"]).compute()
    assert metrics.counts["images"] == 0
    assert metrics.to_json()["ap"] is None


def test_json_has_the_promised_keys_and_no_nan():
    document = small([(0, BOX)], [(0, BOX, 0.5)]).to_json()
    assert set(document) == {*COLUMNS, "confidence", "counts", "per_class"}
    assert set(document["per_class"]["kind 0"]) == {*COLUMNS, "labels"}
    assert document["per_class"]["kind 1"]["ap"] is None
    assert "NaN" not in json.dumps(document)


def test_rows_for_a_csv():
    rows = small([(0, BOX)], [(0, BOX, 0.5)]).rows()
    assert [row["class"] for row in rows] == ["all", "kind 0", "kind 1"]
    assert [row["labels"] for row in rows] == [1, 1, 0]
    assert list(rows[0]) == ["class", "labels", *COLUMNS]


def test_photos_that_cannot_be_decoded_are_counted_once_whichever_process_met_them():
    metrics, other = (CocoMetrics([[9, 9]] * 3, [0] * 4, np.zeros((0, 4)), [], ["a"]) for _ in range(2))
    assert metrics.compute().counts["undecodable_images"] == 0
    metrics.note_undecodable([0, 2])
    other.note_undecodable([1, 2])
    metrics.take_over([metrics, other])
    assert metrics.compute().counts["undecodable_images"] == 3


def test_a_class_called_all_is_not_taken_for_the_mean():
    """Its number is appended, as to names that occur twice: the mean keeps its row and its place."""
    metrics = CocoMetrics([[100, 100]] * 2, [0, 1, 2], [[0, 0, 40, 20]] * 2, [0, 1], ["all", "b"], ious=(0.3,))
    metrics.add(0, [[0, 0, 40, 20]], [0.9], [0])
    scored = metrics.compute()
    assert scored.at_iou["0.3"] == {"all": pytest.approx(0.5), "all (0)": pytest.approx(1), "b": 0}
    assert [row["class"] for row in scored.rows()] == ["all", "all (0)", "b"]
    assert "AP at IoU 0.3: 50.0" in scored.table()


def test_table_fits_a_terminal_and_says_what_the_mean_is_over():
    names = ["ok", "a name far longer than the column\x1b[31m", "犬", "犬"]
    metrics = CocoMetrics([[100, 100]], [0, 1], [BOX], [0], names)
    metrics.add(0, [BOX], [0.5], [0])
    table = metrics.compute().table()
    assert max(map(len, table.splitlines())) <= 120
    assert "mean over 1 of 4 classes with labels" in table
    assert "n/a" in table
    assert "\x1b" not in table
    assert "犬 (2)" in table
    assert "犬 (3)" in table
    assert len(metrics.compute().table(per_class=False).splitlines()) == 3


@pytest.mark.parametrize(
    ("image", "boxes", "scores", "labels"),
    [(1, [BOX], [0.5], [0]), (0, [BOX], [0.5, 0.6], [0]), (0, [BOX], [0.5], [2]), (0, [BOX], [0.5], [-1])],
)
def test_our_own_mistakes_are_refused(image, boxes, scores, labels):
    metrics = CocoMetrics([[100, 100]], [0, 1], [BOX], [0], ["a", "b"])
    with pytest.raises(ValueError, match=f"image {image}"):
        metrics.add(image, boxes, scores, labels)


def test_an_image_is_added_once():
    metrics = CocoMetrics([[100, 100]], [0, 1], [BOX], [0], ["a", "b"])
    metrics.add(0, [BOX], [0.5], [0])
    with pytest.raises(ValueError, match="image 0"):
        metrics.add(0, [BOX], [0.5], [0])
