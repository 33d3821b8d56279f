#!/bin/sh
# ensemble-boxes 1.0.9: Soft-NMS lowers the score of a box by its overlap with a surer one, instead of dropping the box; the
# method of its paper (Bodla et al., 2017) is that lowering, and with method=2 the new score is score * exp(-IoU^2 / sigma).
# soft_nms lowers a copy of the scores, uses it to drop what falls below `thresh` (0.001 by default), and returns the scores
# as they came. So with the defaults nothing is suppressed: every duplicate of a sure detection stays as sure as it was, and
# stands above the true detections that are less sure. The linear form (method=1) is the same.
# Seen, of a box of score .9, its near duplicate of .8 (IoU .96) and a box elsewhere of .7: all three come back with .9, .8
# and .7; by the formula the duplicate has .8 * exp(-.96^2 / .5) = .127, and by method 1 .8 * (1 - .96) = .032.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Without pandas, which it requires and does not import.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    ensemble-boxes==1.0.9 numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import math
import sys

import numpy as np
from ensemble_boxes import nms, soft_nms

boxes = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.48], [0.6, 0.6, 0.9, 0.9]]
scores, overlap, sigma = [0.9, 0.8, 0.7], 0.96, 0.5


def by_box(result):
    """Return the score that each of the three boxes has in a result, by the box's number."""
    found = {tuple(np.round(box, 6)): round(float(score), 3) for box, score in zip(*result[:2])}
    return {number: found[tuple(box)] for number, box in enumerate(boxes) if tuple(box) in found}


gaussian = by_box(soft_nms([boxes], [scores], [[0, 0, 0]], method=2, iou_thr=0.5, sigma=sigma))
linear = by_box(soft_nms([boxes], [scores], [[0, 0, 0]], method=1, iou_thr=0.5))
hard = by_box(nms([boxes], [scores], [[0, 0, 0]], iou_thr=0.5))
print(f"Soft-NMS, gaussian: {gaussian}; the duplicate (1) should have {0.8 * math.exp(-(overlap**2) / sigma):.3f}")
print(f"Soft-NMS, linear:   {linear}; the duplicate (1) should have {0.8 * (1 - overlap):.3f}")
print(f"NMS:                {hard}")
given = dict(enumerate(scores))
sys.exit(0 if (gaussian, linear, hard) == (given, given, {0: 0.9, 2: 0.7}) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
