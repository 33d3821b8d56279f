#!/bin/sh
# label-studio-sdk 2.1.2 (Label Studio's converter): where a photo was annotated twice, by a second person or anew, its YOLO
# export writes one annotation over the other in the photo's file, from the newest to the oldest, so that the oldest is left
# and the correction is lost. Its COCO export lists the photo twice, under two ids, each with one set of boxes, so that an
# evaluator takes what is there for two photos. A word of warning comes with neither.
# Seen, of an annotation with one box and a later one with two: one line in YOLO, the first annotation's; in COCO two images
# of the same file name with three boxes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check label-studio-sdk==2.1.2 numpy==2.2.6
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter
from PIL import Image

root = Path(sys.argv[1])
Image.new("RGB", (100, 100)).save(root / "a.png")
labels = '<RectangleLabels name="label" toName="image"><Label value="cat"/></RectangleLabels>'


def region(x):
    value = {"x": x, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["cat"]}
    shared = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
    return {"id": f"r{x}", "original_width": 100, "original_height": 100, "value": value, **shared}


annotations = [
    {"id": 1, "created_at": "2026-01-01T00:00:00Z", "completed_by": 1, "result": [region(10)]},
    {"id": 2, "created_at": "2026-02-01T00:00:00Z", "completed_by": 2, "result": [region(12), region(60)]},
]
task = {"id": 1, "data": {"image": str(root / "a.png")}, "annotations": annotations}
(root / "tasks.json").write_text(json.dumps([task]))
for name in ("YOLO", "COCO"):
    config = f'<View><Image name="image" value="$image"/>{labels}</View>'
    Converter(config, str(root)).convert(str(root / "tasks.json"), str(root / name), name, is_dir=False)
lines = (root / "YOLO" / "labels" / "a.txt").read_text().splitlines()
lefts = [round((float(line.split()[1]) - float(line.split()[3]) / 2) * 100) for line in lines]
coco = json.loads((root / "COCO" / "result.json").read_text())
names = [Path(image["file_name"]).name for image in coco["images"]]
owners = [annotation["image_id"] for annotation in coco["annotations"]]
print(f"YOLO: boxes that begin at {lefts}, of [10] in January and [12, 60] in February")
print(f"COCO: images {names}, the boxes belong to {owners}")
sys.exit(0 if (lefts, names, owners) == ([10], ["a.png", "a.png"], [0, 0, 1]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
