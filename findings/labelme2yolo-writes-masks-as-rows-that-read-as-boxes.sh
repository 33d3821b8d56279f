#!/bin/sh
# labelme2yolo 0.4.0: labelme's masks, as its AI tools draw them, have two points, the corners of the mask, and the pixels
# beside them. With --output_format polygon the two points are written as a polygon: a class and four numbers. That is a box
# by YOLO's format, and the corners are read as its centre and sides: another place and another size. There is no message.
# A mask over 40..79 across and 20..39 down on a photo of 200 x 100: its box begins at 40 and 20, and has 40 x 20 pixels. Seen:
# with the output format bbox 40, 20 and 39 x 19 (a pixel short, the last one is not counted); with polygon a row of 0.2 0.2
# 0.395 0.39, the box that begins at 0.5 and 0.5 and has 79 x 39 pixels.
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
Image.new("RGB", (200, 100)).save(root / "labels" / "a.png")
pixels = io.BytesIO()
Image.new("1", (40, 20), 1).save(pixels, "PNG")
shape = {"label": "cat", "points": [[40, 20], [79, 39]], "group_id": None, "shape_type": "mask", "flags": {}}
shape["mask"] = base64.b64encode(pixels.getvalue()).decode()
document = {"version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": "a.png", "imageData": None}
(root / "labels" / "a.json").write_text(json.dumps(document | {"imageHeight": 100, "imageWidth": 200}))
seen = {}
for form in ("bbox", "polygon"):
    command = [root / "venv/bin/labelme2yolo", "--json_dir", root / "labels", "--output_dir", root / form]
    subprocess.run([*command, "--val_size", "0", "--output_format", form], check=True, capture_output=True)
    (file,) = (root / form / "labels" / "train").glob("*.txt")
    row = file.read_text().split()
    x, y, width, height = map(float, row[1:])  # five numbers are a class and a box
    box = [(x - width / 2) * 200, (y - height / 2) * 100, width * 200, height * 100]
    seen[form] = [round(each, 3) for each in box]
    print(f"{form}: {' '.join(row)}, the box {seen[form]}")
sys.exit(0 if seen == {"bbox": [40, 20, 39, 19], "polygon": [0.5, 0.5, 79, 39]} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
