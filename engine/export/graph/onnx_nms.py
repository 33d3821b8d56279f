"""NMS as nodes of an ONNX graph, so that the file gives detections."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SUPPRESSED = -1.0


class _Writer:
    """Collects nodes and constants under names that the decoded graph does not use."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: object, dtype: type) -> str:
        """Add a constant and return its name; the same name again is the same constant."""
        name = f"nms_{name}"
        if all(each.name != name for each in self.constants):
            self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def axis(self, number: int) -> str:
        """Return a constant of one integer."""
        return self.constant(f"int{number}", [number], np.int64)

    def op(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Add a node and return its first output."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=f"nms/{outputs[0]}", **attributes))
        return outputs[0]


def append_nms(
    model: onnx.ModelProto, confidence: float, iou: float, max_detections: int, num_classes: int
) -> onnx.ModelProto:
    """Add class-aware NMS of every box's best class, with fixed-size outputs, to the graph (B, 4 + C, A).

    detections (B, M, 6) xyxy pixels, score, label, as ultralytics takes them, and the same in parts:
    boxes (B, M, 4), scores (B, M), labels (B, M) and count (B,): best first, zeros after `count`.
    """
    write = _Writer()
    columns = _select(write, confidence, iou, max_detections, num_classes)
    _rank_by_image(write, columns[0], max_detections)
    _write_outputs(write, columns, max_detections)

    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    batch = batch.dim_param or batch.dim_value
    graph.node.extend(write.nodes)
    graph.initializer.extend(write.constants)
    del graph.output[:]
    for name, kind, shape in (
        ("detections", TensorProto.FLOAT, [batch, max_detections, 6]),
        ("boxes", TensorProto.FLOAT, [batch, max_detections, 4]),
        ("scores", TensorProto.FLOAT, [batch, max_detections]),
        ("labels", TensorProto.INT64, [batch, max_detections]),
        ("count", TensorProto.INT64, [batch]),
    ):
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model


def _select(write: _Writer, confidence: float, iou: float, max_detections: int, num_classes: int) -> list[str]:
    """Add NMS over all images: their columns image, label and anchor, and nms_score, of all that is kept."""
    split = write.constant("split", [4, num_classes], np.int64)
    write.op("Split", ["output0", split], "nms_cxcywh", "nms_scores", axis=1)
    write.op("Transpose", ["nms_cxcywh"], "nms_rows", perm=[0, 2, 1])
    limits = [
        write.constant("max", max_detections, np.int64),
        write.constant("iou", iou, np.float32),
        write.constant("confidence", confidence, np.float32),
    ]
    write.op("ArgMax", ["nms_scores"], "nms_top_class", axis=1)
    classes = write.constant("classes", np.arange(num_classes)[None, :, None], np.int64)
    write.op("Equal", ["nms_top_class", classes], "nms_is_top")
    write.op("Where", ["nms_is_top", "nms_scores", write.constant("zero_float", 0.0, np.float32)], "nms_top_scores")
    write.op("NonMaxSuppression", ["nms_rows", "nms_top_scores", *limits], "nms_selected", center_point_box=1)
    write.op("GatherND", ["nms_scores", "nms_selected"], "nms_score")
    return [
        write.op("Gather", ["nms_selected", write.constant(f"c{i}", i, np.int64)], f"nms_{part}", axis=1)
        for i, part in enumerate(("image", "label", "anchor"))
    ]


def _rank_by_image(write: _Writer, image: str, max_detections: int) -> None:
    """Rank each image's own detections above all others, and keep the best: nms_best, nms_place."""
    zero, one = write.constant("zero", 0, np.int64), write.constant("one", 1, np.int64)
    empty = write.constant("padding", np.full(max_detections, SUPPRESSED), np.float32)
    below = write.constant("below", SUPPRESSED, np.float32)
    write.op("Shape", ["nms_rows"], "nms_shape")
    write.op("Gather", ["nms_shape", zero], "nms_batch", axis=0)
    write.op("Range", [zero, "nms_batch", one], "nms_images")
    write.op("Unsqueeze", ["nms_images", write.axis(1)], "nms_images_column")
    write.op("Equal", ["nms_images_column", image], "nms_mine")
    write.op("Where", ["nms_mine", "nms_score", below], "nms_own")
    write.op("Unsqueeze", ["nms_batch", write.axis(0)], "nms_batch1")
    write.op("Concat", ["nms_batch1", write.axis(max_detections)], "nms_padding_shape", axis=0)
    write.op("Expand", [empty, "nms_padding_shape"], "nms_padded")
    write.op("Concat", ["nms_own", "nms_padded"], "nms_all", axis=1)
    write.op("TopK", ["nms_all", write.axis(max_detections)], "nms_best", "nms_place")


def _write_outputs(write: _Writer, columns: list[str], max_detections: int) -> None:
    """Write the outputs boxes, scores, labels and count, zero beyond the detections of an image."""
    zero, nothing = write.constant("zero", 0, np.int64), write.constant("zero_float", 0.0, np.float32)
    zeros = write.constant("zeros", np.zeros(max_detections), np.int64)
    write.op("Greater", ["nms_best", nothing], "nms_valid")
    filled = [write.op("Concat", [column, zeros], f"{column}_filled", axis=0) for column in columns[1:]]
    label, anchor = (write.op("Gather", [column, "nms_place"], f"{column}_best", axis=0) for column in filled)
    write.op("Unsqueeze", [anchor, write.axis(2)], "nms_anchor_column")
    write.op("GatherND", ["nms_rows", "nms_anchor_column"], "nms_boxes", batch_dims=1)
    center, size = (
        write.op(
            "Slice",
            ["nms_boxes", write.axis(low), write.constant(f"to{low}", [low + 2], np.int64), write.axis(2)],
            f"nms_{low}",
        )
        for low in (0, 2)
    )
    write.op("Mul", [size, write.constant("half", 0.5, np.float32)], "nms_half_size")
    write.op("Sub", [center, "nms_half_size"], "nms_low")
    write.op("Add", [center, "nms_half_size"], "nms_high")
    write.op("Concat", ["nms_low", "nms_high"], "nms_xyxy", axis=2)
    write.op("Unsqueeze", ["nms_valid", write.axis(2)], "nms_valid_column")
    write.op("Where", ["nms_valid_column", "nms_xyxy", nothing], "boxes")
    write.op("Where", ["nms_valid", "nms_best", nothing], "scores")
    write.op("Where", ["nms_valid", label, zero], "labels")
    write.op("Cast", ["labels"], "nms_labels_float", to=TensorProto.FLOAT)
    columns = [
        write.op("Unsqueeze", [part, write.axis(2)], f"{part}_column") for part in ("scores", "nms_labels_float")
    ]
    write.op("Concat", ["boxes", *columns], "detections", axis=2)
    write.op("Cast", ["nms_valid"], "nms_valid_int", to=TensorProto.INT64)
    write.op("ReduceSum", ["nms_valid_int", write.axis(1)], "count", keepdims=0)
