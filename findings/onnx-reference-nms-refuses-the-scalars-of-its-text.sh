#!/bin/sh
# onnx 1.23.2: of NonMaxSuppression's max_output_boxes_per_class and score_threshold ONNX's text says "It is a scalar", of
# iou_threshold "It is scalar". A detector exported that way passes onnx.checker and runs in onnxruntime 1.32.0, but ONNX's
# own reference implementation raises "IndexError: too many indices for array: array is 0-dimensional, but 1 were indexed":
# it takes tensors of shape (1,) only. So an export with NMS inside cannot be checked against the reference.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def results(shape):
    """Return what the reference and onnxruntime make of two equal boxes, with a limit and a threshold of this shape."""
    feed = {
        "boxes": np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]], np.float32),
        "scores": np.array([[[0.9, 0.8]]], np.float32),
    }
    constants = {"limit": np.full(shape, 10, np.int64), "threshold": np.full(shape, 0.5, np.float32)}
    node = helper.make_node("NonMaxSuppression", [*feed, *constants], ["chosen"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feed.items()]
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "nms", ends, [chosen], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    try:
        reference = ReferenceEvaluator(model).run(None, feed)[0].tolist()
    except IndexError as error:
        reference = f"IndexError: {error}"
    return reference, session.run(None, feed)[0].tolist()


text = [each.description for each in defs.get_schema("NonMaxSuppression", 11).inputs[2:]]
print(*text, sep="\n")
scalar, vector = results(()), results((1,))
print(f"scalars: reference {scalar[0]}, onnxruntime {scalar[1]}\nshape (1,): reference {vector[0]}, onnxruntime {vector[1]}")
right = [[0, 0, 0]]
said = all(" scalar." in each for each in text)
refused = isinstance(scalar[0], str) and "0-dimensional" in scalar[0]
sys.exit(0 if said and refused and scalar[1] == right and vector == (right, right) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
