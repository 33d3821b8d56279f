#!/bin/sh
# label-studio-sdk 2.1.2 (Label Studio's converter): three exports of one turned rectangle hold three different boxes. For
# COCO it is turned as if percents of the width were as long as percents of the height, so that on a photo that is not square
# it comes out skewed; for YOLO and VOC it is not turned at all. Only YOLO OBB turns it in pixels.
# A photo of 200 x 100 with a rectangle of 40 x 20 whose corner is at (100, 20), turned by 90 degrees about that corner: by
# hand, and by the corners of the OBB export, it covers 80..100 across and 20..60 down. Seen: COCO 60..100 and 20..40; YOLO
# 100..140 and 20..40; VOC the same as YOLO.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check label-studio-sdk==2.1.2 numpy==2.2.6
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from label_studio_sdk.converter import Converter
from PIL import Image

root = Path(sys.argv[1])
Image.new("RGB", (200, 100)).save(root / "a.png")
labels = '<RectangleLabels name="label" toName="image"><Label value="boat"/></RectangleLabels>'
rectangle = {"x": 50, "y": 20, "width": 20, "height": 20, "rotation": 90, "rectanglelabels": ["boat"]}
region = {
    "id": "r", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
    "original_width": 200, "original_height": 100, "value": rectangle,
}  # fmt: skip
task = {"id": 1, "data": {"image": str(root / "a.png")}, "annotations": [{"id": 1, "result": [region]}]}
(root / "tasks.json").write_text(json.dumps([task]))


def export(name):
    config = f'<View><Image name="image" value="$image"/>{labels}</View>'
    Converter(config, str(root)).convert(str(root / "tasks.json"), str(root / name), name, is_dir=False)
    return root / name


x, y, width, height = json.loads((export("COCO") / "result.json").read_text())["annotations"][0]["bbox"]
seen = {"COCO": [x, y, x + width, y + height]}
x, y, width, height = map(float, (export("YOLO") / "labels" / "a.txt").read_text().split()[1:])
seen["YOLO"] = [(x - width / 2) * 200, (y - height / 2) * 100, (x + width / 2) * 200, (y + height / 2) * 100]
box = ET.parse(export("VOC") / "Annotations" / "a.xml").find("object/bndbox")
seen["VOC"] = [float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
corners = list(map(float, (export("YOLO_OBB") / "labels" / "a.txt").read_text().split()[1:]))
across, down = [200 * each for each in corners[::2]], [100 * each for each in corners[1::2]]
seen["YOLO_OBB"] = [min(across), min(down), max(across), max(down)]
seen = {name: [round(side, 3) for side in sides] for name, sides in seen.items()}
for name, sides in seen.items():
    print(f"{name}: left, top, right, bottom {sides}")
expected = {
    "COCO": [60, 20, 100, 40],
    "YOLO": [100, 20, 140, 40],
    "VOC": [100, 20, 140, 40],
    "YOLO_OBB": [80, 20, 100, 60],
}
sys.exit(0 if seen == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
