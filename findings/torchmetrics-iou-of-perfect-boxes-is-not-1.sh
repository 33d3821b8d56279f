#!/bin/sh
# torchmetrics 1.9.0, detection.IntersectionOverUnion: boxes are not matched. The mean is over every pair of a detection and an
# object of one class on a photo, so that n objects of a class, each found by its very box, have 1 / n; and an object that is
# not found costs nothing where its class has no detection. The function of the same name takes the diagonal, and gives 1. Its
# sibling GeneralizedIntersectionOverUnion does the same: two cats in opposite corners have GIoU -.98, and (2 - 1.96) / 4.
# Seen, of two cats far apart that are found perfectly: 0.5, and GIoU 0.01; of four cats 0.25; of a perfect cat and a dog that
# was not found 1.0. The function gives 1.0 for the two cats.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import torch
from torchmetrics.detection import GeneralizedIntersectionOverUnion, IntersectionOverUnion
from torchmetrics.functional.detection import intersection_over_union

PLACES = torch.tensor([[0.0, 0, 10, 10], [90, 90, 100, 100], [90, 0, 100, 10], [0, 90, 10, 100]])
CAT, DOG = 0, 1


def score(metric, labels, found):
    """Return the metric of objects of these labels, of which the first `found` are detected by their very boxes."""
    labels = torch.tensor(labels)
    objects = {"boxes": PLACES[: len(labels)], "labels": labels}
    detections = {"boxes": PLACES[:found], "labels": labels[:found], "scores": torch.ones(found)}
    (value,) = metric()([detections], [objects]).values()
    return round(float(value), 3)


seen = {
    "two cats, both found": score(IntersectionOverUnion, [CAT] * 2, 2),
    "the same by GIoU": score(GeneralizedIntersectionOverUnion, [CAT] * 2, 2),
    "four cats, all found": score(IntersectionOverUnion, [CAT] * 4, 4),
    "a cat found, a dog missed": score(IntersectionOverUnion, [CAT, DOG], 1),
    "the function, two cats": round(float(intersection_over_union(PLACES[:2], PLACES[:2])), 3),
}
for name, value in seen.items():
    print(f"{name}: {value}")
sys.exit(0 if list(seen.values()) == [0.5, 0.01, 0.25, 1.0, 1.0] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
