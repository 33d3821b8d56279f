#!/bin/sh
# torchvision 0.29.1: masks_to_boxes gives the places of the last pixels as a box's right and lower side, not their far edges.
# A mask of 10 x 10 pixels gets a box of 9 x 9, by the area that torchvision's own box_area counts; one of a single row or
# column gets a box without area, which torchvision's own remove_small_boxes throws away. Its text
# says "(x1, y1, x2, y2)" and no more. By hand a mask of n pixels is n wide, and so by COCO's toBbox (pycocotools 2.0.11).
# Seen: 9 x 9 for 10 x 10, IoU .81 with the box that COCO gives; the mask of a pole, 1 x 40, is lost as a box.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
import torch
from pycocotools import mask
from torchvision.ops import box_area, box_convert, box_iou, masks_to_boxes, remove_small_boxes

masks = np.zeros((2, 100, 100), np.uint8)
masks[0, 20:30, 10:20] = 1  # 10 x 10
masks[1, 30:70, 50] = 1  # a pole of 1 x 40
boxes = masks_to_boxes(torch.from_numpy(masks))
judge = torch.tensor(np.array([mask.toBbox(mask.encode(np.asfortranarray(each))) for each in masks])).float()
overlap = [round(float(each), 3) for each in box_iou(boxes, box_convert(judge, "xywh", "xyxy")).diagonal()]
areas, kept = box_area(boxes).tolist(), remove_small_boxes(boxes, 1e-3).tolist()
print(f"boxes {boxes.tolist()}, areas {areas}, pixels {masks.sum((1, 2)).tolist()}")
print(f"by pycocotools {judge.tolist()} (x, y, width, height); IoU with those {overlap}")
print(f"left by remove_small_boxes: {kept}")
sys.exit(0 if (areas, overlap, kept) == ([81.0, 0.0], [0.81, 0.0], [0]) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
