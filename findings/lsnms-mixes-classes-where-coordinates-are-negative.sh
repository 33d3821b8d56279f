#!/bin/sh
# lsnms 0.5.0, nms with class_ids: "a class-wise NMS will be applied". The classes are moved apart by the largest coordinate
# plus 2, "to avoid any overlap between subregions", as if all coordinates were positive, which its text does not ask for
# ("in format (x0, y0, x1, y1) with x1 >= x0, y1 >= y0"). Where the largest is -2 the classes are not moved at all, and a box
# drops the boxes of other classes in its place; with other numbers a class is moved onto the places of another one. Satellite
# pictures, for which the package is made, have such coordinates: metres from a datum, or degrees west and south.
# Seen, of two boxes of two classes in one place, -12 to -2: one is kept, and both when all is shifted by 40. Of two of two
# classes that stand one below the other and do not overlap, at -30 to -14: one, and both when shifted.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Without numba's upper limit, which this does not depend on.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    lsnms==0.5.0 numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
from lsnms import nms


def kept(boxes, classes, shift):
    """Return the boxes that NMS keeps after all were shifted by one number."""
    scores = np.array([0.9, 0.8, 0.7])[: len(boxes)]
    return nms(np.array(boxes, float) + shift, scores, 0.5, 0.0, np.array(classes), backend="rust").tolist()


cases = {
    "one place, one class": ([[-12, -12, -2, -2], [-12, -12, -2, -2]], [0, 0]),
    "one place, two classes": ([[-12, -12, -2, -2], [-12, -12, -2, -2]], [0, 1]),
    "one below the other, two classes": ([[-20, -30, -10, -22], [-20, -22, -10, -14]], [0, 1]),
}
seen = {name: (kept(boxes, classes, 0), kept(boxes, classes, 40)) for name, (boxes, classes) in cases.items()}
for name, (here, shifted) in seen.items():
    print(f"{name}: kept {here}, shifted by 40 {shifted}")
sys.exit(0 if list(seen.values()) == [([0], [0]), ([0], [0, 1]), ([0], [0, 1])] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
