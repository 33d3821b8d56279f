#!/bin/sh
# pycocotools 2.0.11: getCatIds(catNms="hot dog") gives the ids of dog and of hot dog. A single name is meant to be taken (a
# single id is, and the method wraps what is no list), but a text passes for a list, and each category whose name is a part
# of it is given. getImgIds of those ids asks for photos with all of them, so that a hot dog without a dog is not found. Of
# COCO's own 80 names it is so with hot dog (dog), teddy bear (bear) and carrot (car); elsewhere with every name that holds
# another.
# Seen: [18, 58] by the text and [58] by a list; of two photos with a hot dog, the one with a dog by the text, both by a list.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import contextlib
import io
import sys

from pycocotools.coco import COCO

NAMES = {18: "dog", 58: "hot dog", 62: "chair"}
OBJECTS = [(1, 58), (2, 58), (2, 18), (3, 18)]  # photo and category
coco = COCO()
coco.dataset = {
    "images": [{"id": photo, "file_name": f"{photo}.jpg", "width": 100, "height": 100} for photo in (1, 2, 3)],
    "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    "annotations": [
        {"id": n, "image_id": photo, "category_id": number, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
        for n, (photo, number) in enumerate(OBJECTS, 1)
    ],
}
with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
seen = []
for asked in ("hot dog", ["hot dog"]):
    numbers = coco.getCatIds(catNms=asked)
    photos = sorted(coco.getImgIds(catIds=numbers))
    print(f"getCatIds(catNms={asked!r}): {numbers}, their photos {photos}")
    seen.append((numbers, photos))
single = coco.getCatIds(catIds=58)
print(f"getCatIds(catIds=58): {single}")
sys.exit(0 if (seen, single) == ([([18, 58], [2]), ([58], [1, 2])], [58]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
