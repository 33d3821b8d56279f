#!/bin/sh
# labelme2yolo 0.4.0, whose package also brings a command labelme2coco: the COCO file that it writes numbers its categories
# from 1, but the category_id of its annotations from 0. So every object has the name of the class before its own, and those
# of the first class have a category that the file does not list. By COCO's format category_id is the id of a category.
# Seen, of a cat and a zebra: the categories 1 zebra and 2 cat; the cat's category_id is 1, which is zebra, the zebra's 0.
# (Which of the two is first depends on the order in which the files are read; both are one off in either.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check labelme2yolo==0.4.0 pillow==13.0.0
cat > "$folder/show.py" <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

root = Path(sys.argv[1])
(root / "labels").mkdir()
boxes = {"cat": [[10, 10], [30, 30]], "zebra": [[50, 50], [90, 90]]}
for name, points in boxes.items():
    Image.new("RGB", (100, 100)).save(root / "labels" / f"{name}.png")
    shape = {"label": name, "points": points, "group_id": None, "shape_type": "rectangle", "flags": {}}
    document = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": f"{name}.png", "imageData": None}
    (root / "labels" / f"{name}.json").write_text(json.dumps(document | {"imageHeight": 100, "imageWidth": 100}))
command = [root / "venv/bin/labelme2coco", "--json_dir", root / "labels", "--output_dir", root / "out", "--val_size", "0"]
subprocess.run(command, check=True, capture_output=True)
coco = json.loads((root / "out" / "annotations" / "instances_train.json").read_text())
categories = {each["id"]: each["name"] for each in coco["categories"]}
files = {each["id"]: Path(each["file_name"]).stem for each in coco["images"]}
seen = {files[each["image_id"]]: each["category_id"] for each in coco["annotations"]}
print(f"categories: {categories}")
for drawn, number in sorted(seen.items()):
    print(f"drawn as {drawn}: category_id {number}, which is {categories.get(number, 'not listed')}")
shifted = {name: categories.get(number + 1) for name, number in seen.items()}
sys.exit(0 if shifted == {name: name for name in boxes} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
