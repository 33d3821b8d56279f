#!/bin/sh
# pycocotools 2.0.11: an annotation whose id is 0 is never found. COCOeval marks what matched by the id of its partner and
# takes 0 for "no match", so the detection on that object counts as false and the object as missed, without a message.
# COCO's format asks for an integer as an id, no more, and many converters count from 0. Two objects and two detections
# that are their very boxes have AP 1. Seen: AP and AR are 1.000 with the ids 1 and 2, but AP 0.252 and AR 0.500 with 0
# and 1, from the same boxes and scores: a precision of 1/2 up to a recall of 1/2, at 51 of 101 points.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOXES = ([10, 10, 20, 20], [50, 10, 20, 20])


def scores(first):
    """Return AP and AR of detections that are the truth itself, whose annotations are numbered from `first`."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
            for number, box in enumerate(BOXES, first)
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in zip(BOXES, (0.9, 0.8), strict=True)
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    average, recall = (round(float(evaluation.stats[place]), 3) for place in (0, 8))
    print(f"ids from {first}: AP {average:.3f}, AR {recall:.3f}; a warning: {'warn' in said.getvalue().lower()}")
    return average, recall


seen = [scores(1), scores(0)]
sys.exit(0 if seen == [(1.0, 1.0), (0.252, 0.5)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
