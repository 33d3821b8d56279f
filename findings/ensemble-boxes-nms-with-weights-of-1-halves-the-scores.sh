#!/bin/sh
# ensemble-boxes 1.0.9, nms and soft_nms: "weights: list of weights for each model. Default: None, which means weight == 1 for
# each model". With weights=[1, 1] every score is divided by 2, with a weight of 1 for each of five models by 5; None leaves
# the scores alone. And the lower scores are written into the caller's own list, so that the next call divides them again: a
# search for the best threshold, which calls nms over and over, works with scores that fade away, and a floor on the scores
# (soft_nms's `thresh` too) drops detections that it should keep. Its non_maximum_weighted leaves list and scores alone.
# Seen, of three boxes far apart from two models: .9, .8 and .7 with None; .45, .4 and .35 with [1, 1], half of that by the
# second call with the same list, a quarter by the third.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Without pandas, which it requires and does not import.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    ensemble-boxes==1.0.9 numba==0.68.1 llvmlite==0.50.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

from ensemble_boxes import nms, non_maximum_weighted

boxes = [[[0.0, 0.0, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3]], [[0.5, 0.5, 0.6, 0.6]]]
scores, labels = [[0.9, 0.8], [0.7]], [[0, 0], [0]]


def rounded(result):
    """Return the scores of a result, the surest first."""
    return sorted((round(float(score), 4) for score in result[1]), reverse=True)


default = rounded(nms(boxes, scores, labels))
sibling = rounded(non_maximum_weighted(boxes, scores, labels, weights=[1, 1]))
calls = [rounded(nms(boxes, scores, labels, weights=[1, 1])) for _ in range(3)]
print(f"nms without weights {default}, non_maximum_weighted with weights of 1 {sibling}")
for number, each in enumerate(calls, 1):
    print(f"nms with weights of 1, call {number}: {each}")
print(f"the caller's scores after that: {[[round(float(score), 4) for score in each] for each in scores]}")
expected = [[0.45, 0.4, 0.35], [0.225, 0.2, 0.175], [0.1125, 0.1, 0.0875]]
sys.exit(0 if default == sibling == [0.9, 0.8, 0.7] and calls == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
