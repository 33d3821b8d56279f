#!/bin/sh
# pnnx 20261020 and ncnn 1.0.20261020: padding with -inf, which Darknet's max-pool of stride 1 means, is converted without
# a word. The .param that pnnx writes holds the text "-inf", which ncnn, of the same day and the same makers, cannot read:
# load_param says "invalid numeric value" and returns -1. With a finite number in its place (float16's lowest) it loads.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pnnx==20261020 ncnn==1.0.20261020 onnx==1.23.2 numpy==2.4.6 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/show.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import ncnn
import numpy as np
import onnx
import pnnx
from onnx import TensorProto, helper, numpy_helper


def loaded(number, folder):
    """Convert a pad and a 2x2 max-pool of stride 1, and return what ncnn's load_param says of the result."""
    folder.mkdir()
    shape = [1, 4, 8, 8]
    sides = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "sides")
    value = numpy_helper.from_array(np.array(number, np.float32), "value")
    nodes = [
        helper.make_node("Pad", ["x", "sides", "value"], ["padded"], mode="constant"),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[2, 2], strides=[1, 1]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "pool", ends[:1], ends[1:], [sides, value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    command = [pnnx.EXEC_PATH, "model.onnx", "inputshape=[1,4,8,8]", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    param = folder / "model.ncnn.param"
    print(f"padding with {number}: pnnx ended with {done.returncode}")
    print("".join(line for line in param.read_text().splitlines(True) if "Pad" in line), end="")
    result = ncnn.Net().load_param(str(param))
    print(f"ncnn's load_param: {result}\n")
    return result


root = Path(sys.argv[1])
infinite, finite = loaded(-np.inf, root / "infinite"), loaded(-65504.0, root / "finite")
sys.exit(0 if (infinite, finite) == (-1, 0) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"
