#!/bin/sh
# powerboxes 0.3.1: diou_distance and ciou_distance name the paper of DIoU and CIoU (arXiv 1911.08287) as their definition: the
# distance is 1 - IoU + d^2 / c^2, d between the centres, c the diagonal of the smallest box around both. It is meant for boxes
# that do not meet, which IoU tells nothing about. Here boxes that do not meet have 1.0, however far apart they are, by both;
# and where they meet, diou_distance is another number than the paper's, up to 1.875 for a box within a box, which has at most
# 1.25 by the paper. So a tracker or an assignment that uses it cannot tell a near miss from a far one.
# Seen, of squares of 10 with a gap of 1, 10 and 1000 between them: 1.0 for all, where the paper gives 1.224, 1.4 and 1.98; of
# a square and one half behind it .867 instead of .744; of a square within a box four times as wide 1.875 instead of .882.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    powerboxes==0.3.1 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
from powerboxes import ciou_distance, diou_distance, iou_distance


def paper(a, b):
    """Return the distance of two boxes by the paper."""
    a, b = np.array(a, float), np.array(b, float)
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    centres = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    around = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    return 1 - inner / union + (centres @ centres) / (around @ around)


square = [0, 0, 10, 10]
cases = {
    "the box itself": square,
    "a gap of 1": [11, 0, 21, 10],
    "a gap of 10": [20, 0, 30, 10],
    "a gap of 1000": [1010, 0, 1020, 10],
    "half behind": [5, 0, 15, 10],
    "within a wide one": [0, 0, 40, 10],
}
seen = []
for name, box in cases.items():
    pair = np.array([square], float), np.array([box], float)
    row = [round(float(each), 3) for each in (iou_distance(*pair)[0, 0], diou_distance(*pair)[0, 0], paper(square, box))]
    seen.append((*row, round(float(ciou_distance(*pair)[0, 0]), 3)))
    print(f"{name}: 1 - IoU {row[0]}, diou_distance {row[1]}, by the paper {row[2]}, ciou_distance {seen[-1][3]}")
expected = [0.0, 1.0, 1.0, 1.0, 0.867, 1.875]
correct = [0.0, 1.224, 1.4, 1.98, 0.744, 0.882]
apart = [row[3] for row in seen[1:4]]
sys.exit(0 if ([row[1] for row in seen], [row[2] for row in seen], apart) == (expected, correct, [1.0] * 3) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
