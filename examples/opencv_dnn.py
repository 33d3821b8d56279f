"""Detects in one image with OpenCV alone: python examples/opencv_dnn.py best.onnx photo.jpg 320 320 cat,dog

OpenCV does not read an ONNX file's metadata, so the input's height and width and the class names are given.
"""

import sys

import cv2
import numpy as np

CONFIDENCE, NMS_IOU = 0.25, 0.45


def main(model: str, photo: str, height: str, width: str, names: str) -> None:
    network = cv2.dnn.readNetFromONNX(model)
    height, width, names = int(height), int(width), names.split(",")
    image = cv2.imread(photo)
    scale = min(height / image.shape[0], width / image.shape[1])
    inner = round(image.shape[1] * scale), round(image.shape[0] * scale)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), 114, np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=interpolation)

    network.setInput(cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True))
    rows = network.forward()[0].T  # (A, 4 + C): cx, cy, w, h, class scores
    labels, scores = rows[:, 4:].argmax(1), rows[:, 4:].max(1)
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1)  # x, y, w, h
    for row in cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), labels.tolist(), CONFIDENCE, NMS_IOU):
        x, y, w, h = (boxes[row] - [left, top, 0, 0]) / scale
        print(f"{names[labels[row]]} {scores[row]:.3f} {x:.1f} {y:.1f} {x + w:.1f} {y + h:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
