#!/bin/sh
# map-boxes 1.0.6, mean_average_precision_for_boxes: AP is defined by matching the surest detection first, but the detections
# of a photo are matched in the order of their rows. Of two detections of one object, the doubtful one takes it where its row
# stands first, and the sure one counts as false. And a false detection on a photo without objects is never counted, although
# photos that the truth does not name are said to be left out only on demand (exclude_not_in_annotations, False by default).
# By hand: AP is 1 for the first two, whose rows differ in order alone; a surer false detection on an empty photo makes it
# 1/2. Seen: 1.0 and 0.5 for the two orders, and 1.0 with the false detection, with and without exclude_not_in_annotations.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check map-boxes==1.0.6 numpy==2.4.6 pandas==2.3.3
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np

from map_boxes import mean_average_precision_for_boxes

# Photo, class, left, right, top, bottom; a detection has its score after the class. Sides are relative.
TRUTH = np.array([["a", "cat", 0.1, 0.3, 0.1, 0.3]], dtype=object)
SURE = ["a", "cat", 0.9, 0.1, 0.3, 0.1, 0.3]
DOUBTFUL = ["a", "cat", 0.4, 0.1, 0.3, 0.1, 0.28]
NOTHING = ["b", "cat", 0.95, 0.5, 0.9, 0.5, 0.9]  # on a photo without objects


def score(rows, **options):
    return float(mean_average_precision_for_boxes(TRUTH, np.array(rows, dtype=object), verbose=False, **options)[0])


seen = {
    "the sure one's row first": score([SURE, DOUBTFUL]),
    "the doubtful one's row first": score([DOUBTFUL, SURE]),
    "a false one on an empty photo": score([SURE, NOTHING]),
    "the same, with that photo excluded": score([SURE, NOTHING], exclude_not_in_annotations=True),
}
for name, value in seen.items():
    print(f"{name}: AP {value}")
sys.exit(0 if list(seen.values()) == [1.0, 0.5, 1.0, 1.0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
