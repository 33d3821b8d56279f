"""ONNX graphs: traced, with metadata, and converted to half precision on the graph itself."""

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
from torch import nn

from engine.export.graph.onnx_int8 import to_int8
from engine.export.graph.onnx_nms import append_nms
from engine.export.graph.onnx_parts import after_last_convolutions
from engine.export.job import Job
from engine.export.silent_imports import silent_onnxruntime


def build_graph(job: Job) -> onnx.ModelProto:
    """Return the ONNX graph that the flags ask for, at half precision or with NMS where they say so."""
    settings = job.settings
    model = trace_onnx(job.network(), job.example(), settings.opset, settings.dynamic)
    if settings.half:
        model = to_half(model)
    if settings.int8:
        model = to_int8(model, job.calibration)
    if settings.layout == "nms":
        model = append_nms(model, settings.conf, settings.nms_iou, settings.max_det, len(job.config.names))
    return model


def trace_onnx(network: nn.Module, example: torch.Tensor, opset: int, dynamic: bool) -> onnx.ModelProto:
    """Trace the graph of the network, simplified if onnxslim is installed."""
    buffer, axes = io.BytesIO(), {0: "batch", 2: "height", 3: "width"}
    output_axes = {0: "batch", 1: "anchors"} if network.raw else {0: "batch", 2: "anchors"}
    # How many boxes a file gives, in a detector that proposes them, depends on the image.
    given = {"images": axes, "output0": output_axes} if dynamic else {"output0": {2: "anchors"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            buffer,  # type: ignore[arg-type]  # a file, also one in memory
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes=given if dynamic or network.proposes else None,
        )
    model = onnx.load_from_string(buffer.getvalue())
    with contextlib.suppress(ImportError):
        silent_onnxruntime()  # onnxslim imports it
        import onnxslim

        model = onnxslim.slim(model)
    return with_initializers(model)


def with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn a graph's Constant nodes into initializers."""
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
    """Write the graph with its metadata."""
    del model.metadata_props[:]
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return weights and features in half precision; inputs, outputs and the decoding stay float32."""
    graph = model.graph
    decoding = after_last_convolutions(graph)
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
