#!/bin/sh
# mean-average-precision 2024.1.5.0, whose guide shows the thresholds, the 101 points and mpolicy="soft" as "COCO mAP":
# - IoU counts a pixel more on each side, as VOC did with whole pixels; COCO's boxes are continuous, and the package's own
#   text defines IoU by areas. The upper two thirds of an object of 6 x 6 have IoU 24 / 36 = .667 and pass four thresholds;
#   here it is 35 / 49 = .714, and five are passed.
# - A class that no object has counts as AP 0 in the mean; COCO leaves it out, so that a perfect detection has AP 1.
# pycocotools 2.0.11 is the judge. Seen: mAP .5 instead of .4 for that object, .5 instead of 1.0 with an empty second class.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    mean-average-precision==2024.1.5.0 pycocotools==2.0.11 numpy==2.4.6 pandas==2.3.3
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys

import numpy as np
from mean_average_precision import MetricBuilder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def package(truth, found, classes):
    """Return mAP of one photo as the package's guide computes COCO's; sides are left, top, right, bottom."""
    metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=classes)
    metric.add(
        np.array([[*box, 0, 0.9] for box in found], float), np.array([[*box, 0, 0, 0] for box in truth], float)
    )
    thresholds, points = np.arange(0.5, 1.0, 0.05), np.arange(0.0, 1.01, 0.01)
    return round(float(metric.value(iou_thresholds=thresholds, recall_thresholds=points, mpolicy="soft")["mAP"]), 3)


def judge(truth, found, classes):
    """Return pycocotools' mAP of the same."""
    boxes = [[[x, y, right - x, bottom - y] for x, y, right, bottom in each] for each in (truth, found)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, box in enumerate(boxes[0], 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes[1]]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


cases = {
    "the upper two thirds of an object of 6 x 6": ([[10, 10, 16, 16]], [[10, 10, 16, 14]], 1),
    "a perfect detection, one class of two without objects": ([[10, 10, 50, 50]], [[10, 10, 50, 50]], 2),
}
seen = []
for name, case in cases.items():
    seen.append((package(*case), judge(*case)))
    print(f"{name}: mAP {seen[-1][0]}, pycocotools {seen[-1][1]}")
sys.exit(0 if seen == [(0.5, 0.4), (0.5, 1.0)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
