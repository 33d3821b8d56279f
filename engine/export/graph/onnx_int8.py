"""ONNX graphs in 8 bits by onnxruntime's own tool, with the settings that cost least AP on real photos.

Features unsigned, weights by channel, the range of features by their extremes. Signed features (the tool's default)
are slower than float32; the decode in 8 bits costs a tenth of AP and more; how many photos are shown, and other ways
to take the range, made no difference that 150 photos could show.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from engine.export.graph.onnx_parts import float_nodes
from engine.export.silent_imports import silent_onnxruntime


def to_int8(model: onnx.ModelProto, photos: Sequence[np.ndarray]) -> onnx.ModelProto:
    """Quantize a graph whose features were seen on batches (B, 3, H, W); its ends and its decode stay float32."""
    silent_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(photos)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next batch, None after the last."""
            batch = next(self.left, None)
            return None if batch is None else {name: batch}

    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the tool advises steps that were taken
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            quantize_static(
                model,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=float_nodes(model.graph),
            )
            return onnx.load(str(target))
    finally:
        logging.root.setLevel(level)
