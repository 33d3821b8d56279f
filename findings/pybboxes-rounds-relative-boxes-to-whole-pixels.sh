#!/bin/sh
# pybboxes 0.2.0: convert_bbox "uses VOC format as an intermediate format", and rounds to whole pixels there, which is not
# said, also between two formats of relative sides: YOLO's centre and sides become FiftyOne's corner and sides by x - w / 2
# and y - h / 2, which needs no pixel and loses nothing. COCO's boxes, which have fractions, are rounded as well.
# A box of 7.4 x 7.4 whose corner is at (100.4, 100.4), on a photo of 640 x 640, should keep its sides of 7.4 / 640. Seen:
# sides of 8 / 640 and the corner at 100 / 640: the box and its conversion have IoU .856, so that a perfect detection fails
# COCO's two highest thresholds. COCO's [100.4, 100.4, 7.4, 7.4] becomes a YOLO box of 7 x 7 pixels.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    pybboxes==0.2.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys

import pybboxes

PHOTO, CORNER, SIDE = 640, 100.4, 7.4
centre, side = (CORNER + SIDE / 2) / PHOTO, SIDE / PHOTO
size = {"image_size": (PHOTO, PHOTO), "strict": False}
left, top, width, height = pybboxes.convert_bbox((centre, centre, side, side), "yolo", "fiftyone", **size)
found = [round(each * PHOTO, 3) for each in (left, top, width, height)]
print(f"YOLO to FiftyOne, in pixels: {found}, should be {[CORNER, CORNER, SIDE, SIDE]}")
inside = min(CORNER + SIDE, found[0] + found[2]) - max(CORNER, found[0])
overlap = round(inside**2 / (SIDE**2 + found[2] ** 2 - inside**2), 3)
print(f"IoU of the two: {overlap}")
*_, width, height = pybboxes.convert_bbox((CORNER, CORNER, SIDE, SIDE), "coco", "yolo", **size)
sides = [round(each * PHOTO, 3) for each in (width, height)]
print(f"COCO to YOLO, sides in pixels: {sides}, should be {[SIDE, SIDE]}")
sys.exit(0 if (found, overlap, sides) == ([100, 100, 8, 8], 0.856, [7, 7]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
