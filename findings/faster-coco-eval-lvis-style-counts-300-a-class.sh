#!/bin/sh
# faster-coco-eval 1.8.0: COCOeval_faster(lvis_style=True) with params.maxDets = [300] counts the 300 surest detections of each
# class on a photo. LVIS counts the 300 surest of a photo, of all its classes together (the lvis package: "max number of
# detections per image. The official value of max_dets for LVIS is 300"). With LVIS's 1203 classes that is up to 1203 times as
# many, and a detector that floods photos with doubtful boxes gets an AP that LVIS does not give it.
# Seen, of one photo with 300 sure detections of one class and a doubtful one of another: lvis 0.5.3 gives AP 0.5, since the
# 301st is cut off, faster-coco-eval 1.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    faster-coco-eval==1.8.0 lvis==0.5.3 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import json
import sys

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

np.float = float  # lvis 0.5.3 still asks numpy for it
from lvis import LVIS, LVISEval, LVISResults  # noqa: E402

path = f"{sys.argv[1]}/truth.json"
truth = {
    "info": {},
    "images": [
        {"id": 1, "width": 4000, "height": 40, "file_name": "a.jpg"}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    ],
    "categories": [
        {"id": number, "name": str(number), "frequency": "f", "image_count": 200, "instance_count": 200}
        for number in (1, 2)
    ],
    "annotations": [
        {"id": number, "image_id": 1, "category_id": number, "bbox": [0, 20 * number - 20, 10, 10]}
        | {"area": 100, "iscrowd": 0, "segmentation": []}
        for number in (1, 2)
    ],
}
with open(path, "w") as file:
    json.dump(truth, file)
# Class 1: the object, and 299 places where nothing is, ever less sure. Class 2: the object, least sure of all.
found = [{"image_id": 1, "category_id": 1, "bbox": [12 * n, 0, 10, 10], "score": 1 - n / 1000} for n in range(300)]
found.append({"image_id": 1, "category_id": 2, "bbox": [0, 20, 10, 10], "score": 0.1})

lvis = LVIS(path)
judge = LVISEval(lvis, LVISResults(lvis, json.loads(json.dumps(found))), "bbox")
judge.run()
official = round(float(judge.get_results()["AP"]), 3)

coco = COCO(path)
evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", lvis_style=True, print_function=lambda *_: None)
evaluation.params.maxDets = [300]
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
other = round(float(evaluation.stats[0]), 3)
print(f"AP by lvis: {official}; by faster-coco-eval in LVIS's style: {other}")
sys.exit(0 if (official, other) == (0.5, 1.0) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
