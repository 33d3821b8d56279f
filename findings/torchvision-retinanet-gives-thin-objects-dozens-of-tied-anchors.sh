#!/bin/sh
# torchvision 0.29.1: RetinaNet trains a thin object on dozens of anchors that hardly overlap it. Its matcher gives an object
# without an anchor of IoU .5 the best one there is, and with it every other anchor of exactly the same IoU. Anchors that
# stick out of a thin box on both sides tie all along it. So the thinner an object, the more anchors learn from it, of a
# lower IoU: the opposite of what is said of slender objects, which are said to get too few by IoU.
# Who compares another measure that tells these ties apart (GGIoU, DIoU, ATSS) measures that as well.
# Seen (224 px, the detector's own anchors): a box of 200 x 10 has 57 anchors of IoU .186, one of 200 x 5 has 38 of .129; a
# square of 100 x 100 has 47, all of .5 or more.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import torch
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

SIDE = 224
model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
levels = [torch.zeros(1, 1, -(-SIDE // stride), -(-SIDE // stride)) for stride in (8, 16, 32, 64, 128)]
(anchors,) = model.anchor_generator(ImageList(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)]), levels)
seen = []
for box in ([12.0, 100, 212, 110], [12.0, 100, 212, 105], [60.0, 60, 160, 160]):
    overlap = box_iou(torch.tensor([box]), anchors)
    matched = model.proposal_matcher(overlap) == 0
    seen.append((int(matched.sum()), int((overlap[0] >= 0.5).sum()), round(float(overlap.max()), 3)))
    size = f"{box[2] - box[0]:.0f} x {box[3] - box[1]:.0f}"
    print(f"{size}: {seen[-1][0]} anchors learn from it, {seen[-1][1]} of IoU .5 or more, the best has {seen[-1][2]}")
sys.exit(0 if seen == [(57, 0, 0.186), (38, 0, 0.129), (47, 47, 0.924)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
