#!/bin/sh
# labelme2yolo 0.4.0, its command labelme2coco: an object that labelme holds as a mask, as its AI tools draw them, is left out
# without a word ("COCO conversion process completed successfully"), while its photo is listed as one without objects: a
# detector learns it as background. The same mask gets a row from the package's other command, for YOLO.
# Seen, of a photo with a rectangle and one with a mask: two images and one annotation in COCO; one row each in YOLO.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check labelme2yolo==0.4.0 pillow==13.0.0
cat > "$folder/show.py" <<'PYTHON'
import base64
import io
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

root = Path(sys.argv[1])
(root / "labels").mkdir()
pixels = io.BytesIO()
Image.new("1", (40, 20), 1).save(pixels, "PNG")
mask = base64.b64encode(pixels.getvalue()).decode()
for name, more in {"rectangle": {}, "mask": {"mask": mask}}.items():
    Image.new("RGB", (200, 100)).save(root / "labels" / f"{name}.png")
    shape = {"label": "cat", "points": [[40, 20], [79, 39]], "group_id": None, "shape_type": name, "flags": {}, **more}
    document = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": f"{name}.png", "imageData": None}
    (root / "labels" / f"{name}.json").write_text(json.dumps(document | {"imageHeight": 100, "imageWidth": 200}))


def convert(command, folder):
    line = [root / "venv/bin" / command, "--json_dir", root / "labels", "--output_dir", folder, "--val_size", "0"]
    return subprocess.run(line, check=True, capture_output=True, text=True).stderr


said = convert("labelme2coco", root / "coco")
coco = json.loads((root / "coco" / "annotations" / "instances_train.json").read_text())
images = {each["id"]: Path(each["file_name"]).stem for each in coco["images"]}
found = [images[each["image_id"]] for each in coco["annotations"]]
convert("labelme2yolo", root / "yolo")
rows = [len(file.read_text().splitlines()) for file in (root / "yolo" / "labels" / "train").glob("*.txt")]
print(f"COCO: photos {sorted(images.values())}, objects of {found}; the mask is named: {'mask' in said}")
print(f"YOLO: rows {rows}")
sys.exit(0 if (sorted(images.values()), found, rows) == (["mask", "rectangle"], ["rectangle"], [1, 1]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
