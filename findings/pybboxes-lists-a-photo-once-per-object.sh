#!/bin/sh
# pybboxes 0.2.0: Annotations.save_as_coco writes the entry of a photo once for each of its objects, with one id, and none for
# a photo without objects. COCO's images are to have ids of their own: whoever goes through the list trains on a photo with
# ten objects ten times, and never on background. Saved as YOLO a second time, the same folder holds every object twice, since
# the rows are added to the files that are there.
# Seen, of two photos, of which one has three objects and one none: three images of id 0; in YOLO 3 rows, then 6.
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
from pathlib import Path

from pybboxes.annotations.base import Annotations

root = Path(sys.argv[1])
coco = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in (1, 2)],
    "categories": [{"id": 0, "name": "cat"}],
    "annotations": [
        {"id": n, "image_id": 1, "category_id": 0, "bbox": [20 * n, 10, 10, 20], "area": 200, "iscrowd": 0}
        for n in (1, 2, 3)
    ],
}
(root / "coco.json").write_text(json.dumps(coco))
annotations = Annotations("coco")
with contextlib.redirect_stdout(io.StringIO()):
    annotations.load_from_coco(str(root / "coco.json"))
annotations.save_as_coco(str(root / "saved.json"))
images = [(each["id"], each["file_name"]) for each in json.loads((root / "saved.json").read_text())["images"]]
rows = []
for _ in range(2):
    annotations.save_as_yolo(str(root / "yolo"))
    rows.append(len((root / "yolo" / "1.txt").read_text().splitlines()))
print(f"images in COCO: {images}, should be 1.jpg and 2.jpg, once each")
print(f"rows in YOLO, saved once and twice: {rows}, should be 3 and 3")
sys.exit(0 if (images, rows) == ([(0, "1.jpg")] * 3, [3, 6]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
