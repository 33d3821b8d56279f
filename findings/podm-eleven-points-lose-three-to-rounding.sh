#!/bin/sh
# object-detection-metrics 0.4.post1 (podm), VOC's AP of eleven points: the points are the recalls 0, .1, .2 to 1, and a recall
# that reaches a point counts there. They are made by numpy.linspace, by which .3, .6 and .7 are a little more than that:
# 0.30000000000000004, 0.6000000000000001, 0.7000000000000001. Where 3, 6 or 7 of 10 objects are found the point is missed.
# By hand: with k of 10 objects found, all detections right, k + 1 points have precision 1, and AP is (k + 1) / 11. Seen: so
# for k = 1, 2, 4, 5, 8, 9, 10; but 3 / 11, 6 / 11 and 7 / 11 for k = 3, 6, 7, which is 9 points of 100 too little.
# (shapely is named here because the package imports it and does not require it.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    object-detection-metrics==0.4.post1 shapely==2.2.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

from podm.metrics import BoundingBox, MethodAveragePrecision, get_pascal_voc_metrics

BOX = (0, 0, 10, 10)
seen = {}
for count in range(1, 11):
    truth = [BoundingBox.of_bbox(f"{photo}.jpg", "cat", *BOX) for photo in range(10)]
    found = [BoundingBox.of_bbox(f"{photo}.jpg", "cat", *BOX, 1 - photo / 100) for photo in range(count)]
    method = MethodAveragePrecision.ElevenPointsInterpolation
    seen[count] = round(float(get_pascal_voc_metrics(truth, found, 0.5, method)["cat"].ap) * 11, 6)
    print(f"{count} of 10 found, none wrong: AP {seen[count]:g} / 11, should be {count + 1} / 11")
wrong = {count: points for count, points in seen.items() if points != count + 1}
sys.exit(0 if wrong == {3: 3, 6: 6, 7: 7} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
