"""ONNX files: traced, with metadata; then NMS appended, or converted to half precision, on the graph itself."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from models.exported import ExportNetwork

SUPPRESSED = -1.0


def trace_onnx(network: ExportNetwork, example: torch.Tensor, opset: int, dynamic: bool) -> onnx.ModelProto:
    """The graph of the network, simplified if onnxslim is installed."""
    buffer, axes = io.BytesIO(), {0: "batch", 2: "height", 3: "width"}
    output_axes = {0: "batch", 1: "anchors"} if network.raw else {0: "batch", 2: "anchors"}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes={"images": axes, "output0": output_axes} if dynamic else None,
        )
    model = onnx.load_from_string(buffer.getvalue())
    with contextlib.suppress(ImportError):
        import onnxslim

        model = onnxslim.slim(model)
    return with_initializers(model)


def with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its Constant nodes as initializers."""
    graph, nodes = model.graph, []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = onnx.TensorProto()
            value.CopyFrom(node.attribute[0].t)
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def write_onnx(model: onnx.ModelProto, path: Path, metadata: Mapping[str, object]) -> None:
    """Writes the graph with its metadata."""
    del model.metadata_props[:]
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and features in half precision; inputs, outputs and the decoding stay float32."""
    graph = model.graph
    decoding = _after_last_convolutions(graph)
    features = [node for node in graph.node if node.output[0] not in decoding]
    initializers = {value.name: value for value in graph.initializer}
    image, halved = graph.input[0].name, set()
    for node in features:
        kept = range(1, 3) if node.op_type == "Resize" else ()  # its scales are float32 by definition
        for place, name in enumerate(node.input):
            value = initializers.get(name)
            if name == image:
                node.input[place] = f"{image}_half"
            elif value is not None and value.data_type == TensorProto.FLOAT and place not in kept:
                if name not in halved:
                    halved.add(name)
                    half = numpy_helper.to_array(value).astype(np.float16)
                    graph.initializer.append(numpy_helper.from_array(half, f"{name}_half"))
                node.input[place] = f"{name}_half"
    nodes = [helper.make_node("Cast", [image], [f"{image}_half"], name="half/images", to=TensorProto.FLOAT16)]
    outputs = {name for node in features if node.op_type == "Conv" for name in node.output}
    widened = set()
    for node in graph.node:
        if node.output[0] in decoding:
            for place, name in enumerate(node.input):
                if name in outputs:
                    if name not in widened:
                        widened.add(name)
                        nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
                    node.input[place] = f"{name}_float"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept_values = [value for value in graph.initializer if value.name in used]
    return helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, kept_values),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )


def _after_last_convolutions(graph: onnx.GraphProto) -> set[str]:
    """The nodes between the outputs and the last convolutions, by their first output."""
    producers = {name: node for node in graph.node for name in node.output}
    after, todo = set(), [value.name for value in graph.output]
    while todo:
        node = producers.get(todo.pop())
        if node is not None and node.op_type != "Conv" and node.output[0] not in after:
            after.add(node.output[0])
            todo += node.input
    return after


def append_nms(
    model: onnx.ModelProto, confidence: float, iou: float, max_detections: int, num_classes: int
) -> onnx.ModelProto:
    """The decoded graph (B, 4 + C, A) followed by class-aware NMS, with fixed-size outputs.

    boxes (B, M, 4) xyxy pixels, scores (B, M), labels (B, M) and count (B,): best first, zeros after `count`.
    """
    nms, graph = NmsNodes(max_detections), model.graph
    columns = nms.select(confidence, iou, num_classes)
    nms.best_per_image(columns[0])
    nms.outputs(columns[1], columns[2])

    batch = graph.input[0].type.tensor_type.shape.dim[0]
    batch = batch.dim_param or batch.dim_value
    graph.node.extend(nms.nodes)
    graph.initializer.extend(nms.constants)
    del graph.output[:]
    for name, kind, shape in (
        ("boxes", TensorProto.FLOAT, [batch, max_detections, 4]),
        ("scores", TensorProto.FLOAT, [batch, max_detections]),
        ("labels", TensorProto.INT64, [batch, max_detections]),
        ("count", TensorProto.INT64, [batch]),
    ):
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model


class NmsNodes:
    """The nodes and constants of the NMS; nodes name each other's outputs."""

    def __init__(self, max_detections: int):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.max_detections = max_detections
        self.zero, self.no_score = self.constant("zero", 0, np.int64), self.constant("zero_float", 0.0, np.float32)
        self.ints = {number: self.constant(f"int{number}", [number], np.int64) for number in (0, 1, 2)}

    def constant(self, name: str, value: object, dtype: type) -> str:
        """A constant and its name in the graph."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), f"nms_{name}"))
        return f"nms_{name}"

    def op(self, kind: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        """A node; returns the name of its first output."""
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), name=f"nms/{outputs[0]}", **attributes))
        return outputs[0]

    def select(self, confidence: float, iou: float, num_classes: int) -> list[str]:
        """Class-aware NMS over the whole batch: the image, label and anchor (K,) of every detection, and its score."""
        split = self.constant("split", [4, num_classes], np.int64)
        self.op("Split", ["output0", split], "nms_cxcywh", "nms_scores", axis=1)
        self.op("Transpose", ["nms_cxcywh"], "nms_rows", perm=[0, 2, 1])
        limits = [
            self.constant("max", self.max_detections, np.int64),
            self.constant("iou", iou, np.float32),
            self.constant("confidence", confidence, np.float32),
        ]
        self.op("NonMaxSuppression", ["nms_rows", "nms_scores", *limits], "nms_selected", center_point_box=1)
        self.op("GatherND", ["nms_scores", "nms_selected"], "nms_score")
        return [
            self.op("Gather", ["nms_selected", self.constant(f"column{i}", i, np.int64)], f"nms_{part}", axis=1)
            for i, part in enumerate(("image", "label", "anchor"))
        ]

    def best_per_image(self, image: str) -> None:
        """Per image, the scores of its own detections, others pushed below all, then the best M of them."""
        below = self.constant("below", SUPPRESSED, np.float32)
        empty = self.constant("padding", np.full(self.max_detections, SUPPRESSED), np.float32)
        count = self.constant("count", [self.max_detections], np.int64)
        self.op("Shape", ["nms_rows"], "nms_shape")
        self.op("Gather", ["nms_shape", self.zero], "nms_batch", axis=0)
        self.op("Range", [self.zero, "nms_batch", self.constant("one", 1, np.int64)], "nms_images")
        self.op("Unsqueeze", ["nms_images", self.ints[1]], "nms_images_column")
        self.op("Equal", ["nms_images_column", image], "nms_mine")
        self.op("Where", ["nms_mine", "nms_score", below], "nms_own")
        self.op("Unsqueeze", ["nms_batch", self.ints[0]], "nms_batch1")
        self.op("Concat", ["nms_batch1", count], "nms_padding_shape", axis=0)
        self.op("Expand", [empty, "nms_padding_shape"], "nms_padded")
        self.op("Concat", ["nms_own", "nms_padded"], "nms_all", axis=1)
        self.op("TopK", ["nms_all", count], "nms_best", "nms_place")
        self.op("Greater", ["nms_best", self.no_score], "nms_valid")

    def outputs(self, label: str, anchor: str) -> None:
        """boxes, scores, labels and count of the best, zeros where there are fewer."""
        zeros = self.constant("zeros", np.zeros(self.max_detections), np.int64)
        for column in (label, anchor):
            self.op("Concat", [column, zeros], f"{column}_filled", axis=0)
            self.op("Gather", [f"{column}_filled", "nms_place"], f"{column}_best", axis=0)
        self.op("Unsqueeze", [f"{anchor}_best", self.ints[2]], "nms_anchor_column")
        self.op("GatherND", ["nms_rows", "nms_anchor_column"], "nms_boxes", batch_dims=1)
        end = self.constant("end", [4], np.int64)
        center = self.op("Slice", ["nms_boxes", self.ints[0], self.ints[2], self.ints[2]], "nms_center")
        size = self.op("Slice", ["nms_boxes", self.ints[2], end, self.ints[2]], "nms_size")
        self.op("Mul", [size, self.constant("half", 0.5, np.float32)], "nms_half_size")
        self.op("Sub", [center, "nms_half_size"], "nms_low")
        self.op("Add", [center, "nms_half_size"], "nms_high")
        self.op("Concat", ["nms_low", "nms_high"], "nms_xyxy", axis=2)
        self.op("Unsqueeze", ["nms_valid", self.ints[2]], "nms_valid_column")
        self.op("Where", ["nms_valid_column", "nms_xyxy", self.no_score], "boxes")
        self.op("Where", ["nms_valid", "nms_best", self.no_score], "scores")
        self.op("Where", ["nms_valid", f"{label}_best", self.zero], "labels")
        self.op("Cast", ["nms_valid"], "nms_valid_int", to=TensorProto.INT64)
        self.op("ReduceSum", ["nms_valid_int", self.ints[1]], "count", keepdims=0)
