"""Detects in one image with onnxruntime and NumPy alone: python examples/onnx_numpy.py best.onnx photo.jpg"""

import ast
import os
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: else it reports to its makers
import onnxruntime  # noqa: E402

CONFIDENCE, NMS_IOU = 0.25, 0.45


def main(model: str, photo: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, (height, width) = ast.literal_eval(metadata["names"]), ast.literal_eval(metadata["imgsz"])

    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    scale = min(height / image.height, width / image.width)
    inner = round(image.width * scale), round(image.height * scale)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), 114, np.float32)
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    canvas[top : top + inner[1], left : left + inner[0]] = image.resize(inner, resampling)

    (output,) = session.run(None, {"images": canvas.transpose(2, 0, 1)[None] / np.float32(255)})
    rows = output[0].T  # (A, 4 + C): cx, cy, w, h, class scores
    labels, scores = rows[:, 4:].argmax(1), rows[:, 4:].max(1)
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)

    order = [row for row in np.argsort(-scores, kind="stable") if scores[row] > CONFIDENCE]
    while order:
        best, *order = order
        x1, y1, x2, y2 = (boxes[best] - [left, top, left, top]) / scale
        print(f"{names[labels[best]]} {scores[best]:.3f} {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}")
        order = [row for row in order if labels[row] != labels[best] or iou(boxes[row], boxes[best]) <= NMS_IOU]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    inside = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return inside / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inside)


if __name__ == "__main__":
    main(*sys.argv[1:])
