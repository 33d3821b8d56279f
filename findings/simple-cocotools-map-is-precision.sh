#!/bin/sh
# simple-cocotools 1.0.2, CocoEvaluator, "A simple, modern alternative to pycocotools", whose page sets its "box mAP" beside the
# official mAP of torchvision's detectors: the scores of the detections are never read. The number called AP is the share of
# the detections that are right, AR the share of the objects that are found, each with all detections counted. COCO's AP is
# the mean precision over recalls, the surest detections first, so that doubtful false detections after the true ones cost
# nothing. Here they cost most: a detector gets a better mAP by dropping its doubtful detections, and torchvision's detectors,
# which give up to 100 a photo, get next to none. Nor can it tell a detector whose scores are turned upside down.
# Seen, of one object found with .9 and 9 false detections of .1: mAP .1, and .1 too with the scores exchanged; pycocotools
# 2.0.11 gives 1.0 and .1. Without the doubtful ones 1.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    simple-cocotools==1.0.2 pycocotools==2.0.11 numpy==2.4.6 scipy==1.17.1 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from simple_cocotools import CocoEvaluator

boxes = np.array([[20.0 * place, 10, 20.0 * place + 10, 20] for place in range(10)])  # the first is the object's


def scores(right, wrong, count):
    """Return mAP by both packages of the right detection and some false ones, with those scores."""
    names, sure = np.ones(count, int), np.array([right] + [wrong] * (count - 1))
    evaluator = CocoEvaluator()
    evaluator.update(
        [{"boxes": boxes[:count], "labels": names, "scores": sure}], [{"boxes": boxes[:1], "labels": names[:1]}]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 10, 10, 10], "area": 100, "iscrowd": 0}
            ],
        }
        truth.createIndex()
        found = [
            {"image_id": 1, "category_id": 1, "bbox": [float(box[0]), 10, 10, 10], "score": float(each)}
            for box, each in zip(boxes, sure)
        ]
        judge = COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return round(float(evaluator.summarize(verbose=False)["box"]["mAP"]), 3), round(float(judge.stats[0]), 3)


seen = {
    "true .9, nine false .1": scores(0.9, 0.1, 10),
    "true .1, nine false .9": scores(0.1, 0.9, 10),
    "the true one alone": scores(0.9, 0.1, 1),
}
for name, (ours, judge) in seen.items():
    print(f"{name}: mAP {ours}, by pycocotools {judge}")
sys.exit(0 if list(seen.values()) == [(0.1, 1.0), (0.1, 0.1), (1.0, 1.0)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
