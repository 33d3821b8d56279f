#!/bin/sh
# openvino 2026.4.1: by ONNX's text of NonMaxSuppression's iou_threshold, "Boxes with IoU strictly greater than this threshold
# are suppressed"; so do ONNX's reference implementation and ONNX Runtime. OpenVINO drops a box where IoU equals the threshold
# too. ONNX's default is 0, which is the IoU of boxes that are far apart, so that one box is left of a whole class: every
# other object of the photo is lost. At .5, a box and its half are enough to differ.
# Seen: of two boxes far apart, at 0, 2 are kept by onnx 1.23.2 and onnxruntime 1.32.0, and 1 by OpenVINO; of a box and its
# half (IoU exactly 1/2), at .5, again 2 and 1; at .6 all keep both.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def kept(boxes, threshold):
    """Return how many of the boxes of one class each runtime keeps."""
    feed = {"boxes": np.array([boxes], np.float32), "scores": np.array([[[0.9, 0.8]]], np.float32)}
    constants = {"limit": np.array([10], np.int64), "threshold": np.array([threshold], np.float32)}
    node = helper.make_node("NonMaxSuppression", [*feed, *constants], ["chosen"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feed.items()]
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "nms", ends, [chosen], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model)
    text = model.SerializeToString()
    core = openvino.Core()
    return {
        "onnx": len(ReferenceEvaluator(model).run(None, feed)[0]),
        "onnxruntime": len(onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0]),
        "openvino": len(core.compile_model(core.read_model(text), "CPU")(feed)[0]),
    }


apart, half = [[0, 0, 1, 1], [5, 5, 6, 6]], [[0, 0, 1, 2], [0, 0, 1, 1]]
seen = {"far apart, at 0": kept(apart, 0), "half, at .5": kept(half, 0.5), "half, at .6": kept(half, 0.6)}
for name, numbers in seen.items():
    print(f"{name}: boxes kept {numbers}")
expected = [[2, 2, 1], [2, 2, 1], [2, 2, 2]]
sys.exit(0 if [list(numbers.values()) for numbers in seen.values()] == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
