#!/bin/sh
# pybboxes 0.2.0: Annotations.load_from_coco takes a category's id for its place in the list of names, which begins at 0, while
# the ids begin at 1 in most COCO files (and have gaps in COCO's own, 1 to 90 for 80 names). So every object gets the name of
# the class behind its own, in VOC, YOLO and COCO alike; only where the last class occurs is an IndexError raised.
# Seen, of a cat (1) and a dog (2) in a file that lists cow (3) as well: the VOC file that is saved names them dog and cow; in
# YOLO they are 1 and 2 of a classes.txt that begins with cat at 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Without the old versions of these that it requires.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    pybboxes==0.2.0 pycocotools==2.0.11 pyyaml==6.0.4 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from pybboxes.annotations.base import Annotations

root = Path(sys.argv[1])
names = {1: "cat", 2: "dog", 3: "cow"}
coco = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": number, "name": name} for number, name in names.items()],
    "annotations": [
        {"id": number, "image_id": 1, "category_id": number, "bbox": [10 * number, 10, 8, 20], "area": 160, "iscrowd": 0}
        for number in (1, 2)
    ],
}
(root / "coco.json").write_text(json.dumps(coco))
annotations = Annotations("coco")
with contextlib.redirect_stdout(io.StringIO()):
    annotations.load_from_coco(str(root / "coco.json"))
annotations.save_as_voc(str(root / "voc"))
annotations.save_as_yolo(str(root / "yolo"))
found = [each.findtext("name") for each in ET.parse(root / "voc" / "a.xml").iter("object")]
classes = (root / "yolo" / "classes.txt").read_text().split()
numbers = [int(line.split()[0]) for line in (root / "yolo" / "a.txt").read_text().splitlines()]
print(f"VOC: {found}, should be ['cat', 'dog']")
print(f"YOLO: classes {numbers} of {classes}")
sys.exit(0 if (found, numbers, classes) == (["dog", "cow"], [1, 2], ["cat", "dog", "cow"]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
