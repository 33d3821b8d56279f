#!/bin/sh
# globox 2.9.0: iscrowd and the areas of a COCO file are dropped as it is read. A crowd, which COCO's evaluation counts neither
# as found nor as missed, is an object like the others from then on: its COCOEvaluator ("the standard COCO metrics") counts it
# as missed where no box fits it, and a COCO file that is read and saved again holds it as an object, for training too. The
# area of every object becomes that of its box, which may count it among the medium or large ones.
# Seen, of a photo with one person, found perfectly, and a crowd: AP 0.505 by globox (a recall of 1/2: 51 of 101 points), 1.0
# by pycocotools 2.0.11; saved again the crowd has iscrowd 0, and the person, whose outline covers 700, area 1500.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    globox==2.9.0 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import json
import sys
from pathlib import Path

from globox import AnnotationSet, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

root = Path(sys.argv[1])
person, crowd = [10, 10, 30, 50], [60, 10, 100, 60]
crowds = {"size": [100, 200], "counts": [6010, *[60, 40] * 99, 60, 4030]}  # by columns: before it, in it, below it
annotations = [
    {"id": 1, "bbox": person, "area": 700, "iscrowd": 0, "segmentation": [[10, 10, 40, 10, 40, 20, 20, 20, 20, 60, 10, 60]]},
    {"id": 2, "bbox": crowd, "area": 6000, "iscrowd": 1, "segmentation": crowds},
]
truth = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [each | {"image_id": 1, "category_id": 1} for each in annotations],
}
rows = [{"image_id": 1, "category_id": 1, "bbox": person, "score": 0.9}]
(root / "truth.json").write_text(json.dumps(truth))
(root / "found.json").write_text(json.dumps(rows))

objects = AnnotationSet.from_coco(root / "truth.json")
found = objects.from_results(root / "found.json")
average = round(float(COCOEvaluator(ground_truths=objects, predictions=found).ap()), 3)
with contextlib.redirect_stdout(io.StringIO()):
    judge = COCO(str(root / "truth.json"))
    evaluation = COCOeval(judge, judge.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
official = round(float(evaluation.stats[0]), 3)
print(f"AP by globox {average}, by pycocotools {official}")
saved = [(each["iscrowd"], float(each["area"])) for each in objects.to_coco()["annotations"]]
print(f"iscrowd and area, read and saved: {saved}; in the file: {[(each['iscrowd'], each['area']) for each in annotations]}")
sys.exit(0 if (average, official, saved) == (0.505, 1.0, [(0, 1500.0), (0, 6000.0)]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
