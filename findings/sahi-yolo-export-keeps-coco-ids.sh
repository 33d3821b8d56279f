#!/bin/sh
# SAHI 0.12.8: Coco.export_as_yolo writes COCO's category ids as class ids, which begin at 1 in most COCO files, while the
# names in the data.yml that it writes are numbered from 0. Every class is called what its neighbour is, and the last id
# has no name. (The path of the split that is not written stands there as an empty text.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sahi==0.12.8
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from PIL import Image

from sahi.utils.coco import Coco

root = Path(sys.argv[1])
(root / "photos").mkdir()
Image.new("RGB", (100, 100)).save(root / "photos" / "a.jpg")
names = ["zebra", "cat", "mouse"]
document = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    "annotations": [
        {"id": n, "image_id": 1, "category_id": n, "bbox": [10 * n, 10, 10, 20], "area": 200, "iscrowd": 0}
        for n in (1, 2, 3)
    ],
}
(root / "coco.json").write_text(json.dumps(document))
Coco.from_coco_dict_or_path(str(root / "coco.json"), image_dir=str(root / "photos")).export_as_yolo(str(root / "out"))
print((root / "out" / "data.yml").read_text())
(label,) = (root / "out").rglob("*.txt")
print(label.read_text())
ids = [int(line.split()[0]) for line in label.read_text().splitlines()]
print(f"class ids {ids} beside {len(names)} names, which are 0 to {len(names) - 1}")
sys.exit(0 if ids == [1, 2, 3] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
