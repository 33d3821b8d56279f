#!/bin/sh
# powerboxes 0.3.1 takes boxes of int16 and uint8 (its supported_dtypes name them), which hold the coordinates of any photo up
# to 32767, or of any of 255 pixels. boxes_areas and the distances count areas in the same type, in which they do not fit: an
# int16 ends at 32767, the area of 181 x 181. There is no message, and the results are floats, in which areas would fit.
# nms of the same package counts rightly, so that boxes that it keeps apart are one by the distance that a tracker matches by.
# Seen, of boxes of 200 x 200 of which one corner meets (IoU .032): iou_distance 0.0 instead of .968, as of a box and itself;
# of a box and one that is 10 smaller on each side 1.788 instead of .19, and by uint8 .556; the area of 200 x 200 is -25536 by
# int16, 64 by uint8. With int32 and float64 all is right.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    powerboxes==0.3.1 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
from powerboxes import boxes_areas, iou_distance, nms, supported_dtypes

corner, inside = [[0, 0, 200, 200], [150, 150, 350, 350]], [[0, 0, 200, 200], [10, 10, 190, 190]]


def numbers(boxes, kind):
    """Return the area of the first box, the distance of the two, and how many NMS keeps, in that type."""
    boxes = np.array(boxes, kind)
    kept = len(nms(boxes, np.array([0.9, 0.8]), 0.5, 0.0))
    return float(boxes_areas(boxes)[0]), round(float(iou_distance(boxes, boxes)[0, 1]), 3), kept


cases = {
    "one corner meets": (corner, ("int16", "int32", "float64")),
    "one within the other": (inside, ("int16", "uint8", "int32")),
}
seen = {(name, kind): numbers(boxes, kind) for name, (boxes, kinds) in cases.items() for kind in kinds}
for (name, kind), (area, distance, kept) in seen.items():
    print(f"{name}, {kind}: area {area:.0f}, 1 - IoU {distance}, kept by nms {kept}")
named = {np.dtype(each).name for each in supported_dtypes} >= {"int16", "uint8"}
right = (40000.0, 0.968, 2), (40000.0, 0.19, 1)
expected = [(-25536.0, 0.0, 2), right[0], right[0], (-25536.0, 1.788, 1), (64.0, 0.556, 1), right[1]]
sys.exit(0 if named and list(seen.values()) == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
