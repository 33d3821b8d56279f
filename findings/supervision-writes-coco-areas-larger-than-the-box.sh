#!/bin/sh
# supervision 0.31.2: DetectionDataset.as_coco writes as an object's area the pixels of its mask, and a polygon is drawn with
# all its border in it, so that a square of n x n holds (n + 1) x (n + 1) pixels: the area is larger than the box that stands
# beside it. A polygon's area is known by the shoelace formula, and COCO's own masks hold n x n pixels of such a square.
# An object's area decides whether it counts as small, medium or large (32 x 32 is the largest small one).
# Seen, of a YOLO label with a square of 32 x 32: box 32 x 32, area 1089 instead of 1024 (pycocotools 2.0.11: 1024 of the same
# polygon), so that the object is medium, not small; the smaller the object, the worse: 121 instead of 100 for 10 x 10.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import supervision as sv
from PIL import Image
from pycocotools import mask

root = Path(sys.argv[1])
(root / "images").mkdir()
(root / "labels").mkdir()
Image.new("RGB", (128, 128)).save(root / "images" / "a.png")
squares = {size: [8, 8, 8 + size, 8, 8 + size, 8 + size, 8, 8 + size] for size in (10, 32)}
lines = [" ".join(["0", *(str(each / 128) for each in square)]) for square in squares.values()]
(root / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
(root / "data.yaml").write_text("names: [cat]\nnc: 1\n")
data = sv.DetectionDataset.from_yolo(str(root / "images"), str(root / "labels"), str(root / "data.yaml"))
data.as_coco(annotations_path=str(root / "coco.json"))
seen = {}
for each in json.loads((root / "coco.json").read_text())["annotations"]:
    width, height = each["bbox"][2:]
    square = mask.merge(mask.frPyObjects([squares[round(width)]], 128, 128))
    seen[round(width)] = (width * height, each["area"], float(mask.area(square)))
for size, (box, area, judge) in seen.items():
    print(f"{size} x {size}: area of the box {box}, area written {area}, by pycocotools {judge}")
sys.exit(0 if seen == {10: (100.0, 121.0, 100.0), 32: (1024.0, 1089.0, 1024.0)} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
