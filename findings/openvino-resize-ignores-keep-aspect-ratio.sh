#!/bin/sh
# openvino 2026.4.1: ONNX's Resize (since opset 18) can keep the shape of a photo, keep_aspect_ratio_policy "not_larger" or
# "not_smaller", as a detector does that takes photos of any size and scales them itself. OpenVINO reads such a model without
# a word and stretches the photo to the full size, so that objects are distorted and boxes end in other places. By ONNX's text
# "not_larger" of 6 x 8 within 7 x 7 is a factor of 7 / 8: 5.25 x 7, rounded 5 x 7; "not_smaller" 7 / 6: 7 x 9.33, 7 x 9.
# Seen: 5 x 7 and 7 x 9 by onnx 1.23.2 and onnxruntime 1.32.0, 7 x 7 for both by OpenVINO.
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


def sizes(policy):
    """Return height and width of a photo of 6 x 8 that each runtime scales to 7 x 7."""
    feed = {"photo": np.arange(48, dtype=np.float32).reshape(1, 1, 6, 8)}
    size = numpy_helper.from_array(np.array([7, 7], np.int64), "size")
    options = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
    node = helper.make_node("Resize", ["photo", "", "", "size"], ["scaled"], **options)
    ends = [
        helper.make_tensor_value_info("photo", TensorProto.FLOAT, [1, 1, 6, 8]),
        helper.make_tensor_value_info("scaled", TensorProto.FLOAT, [1, 1, None, None]),
    ]
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    text = model.SerializeToString()
    core = openvino.Core()
    found = {
        "onnx": ReferenceEvaluator(model).run(None, feed)[0],
        "onnxruntime": onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, feed)[0],
        "openvino": core.compile_model(core.read_model(text), "CPU")(feed)[0],
    }
    return {name: value.shape[2:] for name, value in found.items()}


seen = {policy: sizes(policy) for policy in ("not_larger", "not_smaller")}
for policy, shapes in seen.items():
    print(f"{policy}: {shapes}")
expected = [[(5, 7), (5, 7), (7, 7)], [(7, 9), (7, 9), (7, 7)]]
sys.exit(0 if [list(shapes.values()) for shapes in seen.values()] == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
