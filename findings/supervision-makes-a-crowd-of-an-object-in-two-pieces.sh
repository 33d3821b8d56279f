#!/bin/sh
# supervision 0.31.2: DetectionDataset.as_coco writes iscrowd 1 for an object whose mask has two pieces or a hole, such as a
# car behind a post. In COCO's format a single object has iscrowd 0 and may need several polygons, "for example if occluded";
# 1 means a group that nobody told apart. Evaluators then leave the object out, and most training code does. as_coco's text
# speaks of RLE for such masks, "complying with COCO dataset standards", and of no crowd.
# Seen, of a labelme file whose two polygons share a group, which supervision reads as one object: iscrowd 1, and pycocotools
# 2.0.11 counts no object (AP -1) where the detections are the truth itself; without the post iscrowd 0 and AP 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import json
import sys
from pathlib import Path

import supervision as sv
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def seen(pieces, folder):
    """Return how many objects are read, their iscrowd in COCO, and pycocotools' AP of detections that are the truth."""
    folder.mkdir()
    Image.new("RGB", (100, 100)).save(folder / "a.png")
    shapes = [
        {"label": "car", "shape_type": "polygon", "group_id": 1, "flags": {}}
        | {"points": [[left, 40], [right, 40], [right, 60], [left, 60]]}
        for left, right in pieces
    ]
    document = {"version": "5.5.0", "flags": {}, "imagePath": "a.png", "imageData": None, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(document | {"imageHeight": 100, "imageWidth": 100}))
    data = sv.DetectionDataset.from_labelme(str(folder), str(folder))
    data.as_coco(annotations_path=str(folder / "coco.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "coco.json"))
        annotations = list(truth.anns.values())
        rows = [
            {"image_id": each["image_id"], "category_id": each["category_id"], "bbox": each["bbox"], "score": 0.9}
            for each in annotations
        ]
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [each["iscrowd"] for each in annotations], round(float(evaluation.stats[0]), 3)


root = Path(sys.argv[1])
whole, hidden = seen([(10, 80)], root / "whole"), seen([(10, 40), (50, 80)], root / "hidden")
print(f"a car: iscrowd {whole[0]}, AP {whole[1]}")
print(f"a car behind a post: iscrowd {hidden[0]}, AP {hidden[1]}")
sys.exit(0 if (whole, hidden) == (([0], 1.0), ([1], -1.0)) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
