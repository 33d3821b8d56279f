#!/bin/sh
# ultralytics 8.4.142 and later: YOLO26, the detector that is described as free of NMS, predicts and validates with NMS by
# default, from its other branch. Up to 8.4.141 the same weights gave the rows of the branch without NMS. So the same file
# finds other boxes, and its AP is another number, after a patch release, without a message; `nms=False` brings the first
# behaviour back. Seen: the head gives (1, 300, 6) with 8.4.141 and (1, 84, 1344) with 8.4.142; the detections of one picture
# differ, and agree with nms=False.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export YOLO_OFFLINE=1 YOLO_VERBOSE=False YOLO_AUTOINSTALL=0 YOLO_CONFIG_DIR="$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ultralytics==8.4.141 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import torch
import ultralytics
from ultralytics import YOLO

folder = Path(sys.argv[1])
weights = folder / "some.pt"
if not weights.exists():
    torch.manual_seed(0)
    model = YOLO("yolo26n.yaml", task="detect")
    with torch.no_grad():  # an untrained head, made sure enough of itself to detect something
        for layer in model.model.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None and layer.out_channels == 80:
                layer.bias += torch.randn(80) * 4
    model.save(weights)
model = YOLO(weights, task="detect")
with torch.no_grad():
    output = model.model.eval()(torch.zeros(1, 3, 256, 256))
rows = output[0] if isinstance(output, tuple) else output
picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
way = {"nms": False} if "nms=False" in sys.argv else {}
boxes = YOLO(weights, task="detect").predict(picture, imgsz=256, conf=0.001, verbose=False, **way)[0].boxes.data
print(f"ultralytics {ultralytics.__version__}, {way or 'defaults'}: the head gives {tuple(rows.shape)}; {len(boxes)} boxes")
torch.save(boxes, folder / f"{ultralytics.__version__}{'-without' if way else ''}.pt")
PYTHON
show() { "$folder/venv/bin/python" "$folder/show.py" "$folder" "$@" 2> "$folder/log" || { cat "$folder/log"; exit 1; }; }
show
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps ultralytics==8.4.142
show
show nms=False
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch

before, now, without = (torch.load(Path(sys.argv[1]) / f"{name}.pt") for name in ("8.4.141", "8.4.142", "8.4.142-without"))
same = before.shape == now.shape and torch.allclose(before, now, atol=1e-3)
again = before.shape == without.shape and torch.allclose(before, without, atol=1e-3)
print(f"8.4.142 finds what 8.4.141 found: {same}; with nms=False: {again}")
sys.exit(0 if again and not same else 1)
PYTHON
