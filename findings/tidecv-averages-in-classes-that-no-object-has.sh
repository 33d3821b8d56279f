#!/bin/sh
# tidecv 1.0.1 (TIDE): a class without objects has no recall and so no AP, and COCO leaves it out of the mean. TIDE counts it
# as AP 0 as soon as a detection names it. So:
# - its AP is not COCO's: one cat that is found perfectly, and a dog detected where nothing is, have AP 1 by pycocotools, and
#   50 of 100 by TIDE. A subset of COCO's photos lacks some classes, which detectors name all the same.
# - missed objects may cost nothing. To price misses TIDE takes the missed objects away; a class whose objects were all missed
#   is empty then, and with one false detection still has AP 0. Seen: a missed dog costs 50 of 100 where no dog was detected
#   anywhere, and 0 where a dog was detected in a wrong place besides.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    tidecv==1.0.1 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tidecv import TIDE, Data
from tidecv.errors.main_errors import MissedError

CAT, DOG = 1, 2
PLACE, ELSEWHERE = [10, 10, 20, 20], [60, 60, 20, 20]


def tide(truth, found):
    """Return TIDE's AP at IoU .5 and the price of misses; truth is photo, class, box, a detection has a score besides."""
    objects, detections = Data("truth"), Data("found")
    for data in (objects, detections):
        for photo in (1, 2):
            data.add_image(photo, str(photo))
        for number in (CAT, DOG):
            data.add_class(number, str(number))
    for photo, number, box in truth:
        objects.add_ground_truth(photo, number, box)
    for photo, number, box, score in found:
        detections.add_detection(photo, number, score, box)
    run = TIDE().evaluate(objects, detections, mode=TIDE.BOX)
    return round(float(run.ap), 2), round(float(run.fix_main_errors()[MissedError]), 2)


def judge(truth, found):
    """Return pycocotools' AP at IoU .5."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": photo, "width": 100, "height": 100} for photo in (1, 2)],
        "categories": [{"id": number, "name": str(number)} for number in (CAT, DOG)],
        "annotations": [
            {"id": n, "image_id": photo, "category_id": number, "bbox": box, "area": 400, "iscrowd": 0}
            for n, (photo, number, box) in enumerate(truth, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        rows = [{"image_id": p, "category_id": n, "bbox": box, "score": score} for p, n, box, score in found]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[1]), 2)


cat, dog = (1, CAT, PLACE), (2, DOG, PLACE)
right, wrong = (1, CAT, PLACE, 0.9), (1, DOG, ELSEWHERE, 0.5)
cases = {
    "a cat found, a dog detected where nothing is": ([cat], [right, wrong]),
    "a cat found, a dog missed": ([cat, dog], [right]),
    "the same with a dog detected where nothing is": ([cat, dog], [right, wrong]),
}
seen = []
for name, case in cases.items():
    seen.append((*tide(*case), judge(*case)))
    print(f"{name}: TIDE's AP {seen[-1][0]}, misses cost {seen[-1][1]}; pycocotools' AP {seen[-1][2]}")
sys.exit(0 if seen == [(50.0, 0.0, 1.0), (50.0, 50.0, 0.5), (50.0, 0.0, 0.5)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
