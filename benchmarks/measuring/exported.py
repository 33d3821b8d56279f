"""What both sides of a benchmark export: an untrained YOLOv3-tiny of ours, and ultralytics' yolov3-tiny.yaml."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine.export.backend import candidates_of_decoded
from engine.export.formats.openvino import HINTS, kept_core
from engine.export.silent_imports import silent_onnxruntime, silent_openvino
from models.yolov3.build import build_network
from utils.checkpoint import save_checkpoint
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config
from utils.ultralytics_only import benchmark_peer, inference_peer

PEER_WEIGHTS = "yolov3-tiny.yaml"
# The formats and precisions that both sides are measured in.
PEER_RUNS = (("onnx", "float32"), ("openvino", "float32"), ("openvino", "bf16"), ("torchscript", "float32"))


def untrained_weights(folder: Path, size: int, classes: int) -> Path:
    """Write a checkpoint of an untrained YOLOv3-tiny, which takes as long as a trained one."""
    model = model_config("yolov3-tiny", {})
    names = tuple(f"class{number}" for number in range(classes))
    config = Config(RunConfig(imgsz=(size,), cfg="yolov3-tiny"), model, Hyperparameters(), names)
    contents = {"config": config.to_dict(), "names": list(names), "epoch": 0, "metrics": {}}
    path = folder / "ours.pt"
    save_checkpoint(path, {**contents, "model": build_network(model, classes).state_dict()})
    return path


def peer_file(folder: Path, size: int, classes: int, fmt: str = "onnx") -> Path:
    """Return the file or folder that ultralytics exports of its own yolov3-tiny.yaml, untrained."""
    if fmt == "openvino":
        silent_openvino()  # before the peer imports it
    before = Path.cwd()
    os.chdir(folder)  # it writes into the working directory
    try:
        yolo = inference_peer().YOLO(PEER_WEIGHTS)
        model = benchmark_peer().Model(PEER_WEIGHTS, nc=classes, verbose=False)
        model.args, model.task = yolo.model.args, yolo.model.task  # which its exporter asks for
        yolo.model = model
        return folder / yolo.export(format=fmt, imgsz=size, verbose=False)
    finally:
        os.chdir(before)


def onnx_session(file: Path, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Open any ONNX file in onnxruntime, on the CPU."""
    onnxruntime = silent_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda images: opened.run(None, {name: images})


def peer_session(file: Path, fmt: str, precision: str) -> Callable[[np.ndarray], object]:
    """Open a file of the peer's as ours are opened there: images (1, 3, H, W) to boxes and scores."""
    if fmt == "onnx":
        of_onnx = onnx_session(file, torch.get_num_threads())
        return lambda images: candidates_of_decoded(torch.from_numpy(of_onnx(images)[0]))
    if fmt == "openvino":
        (xml,) = file.glob("*.xml")
        request = kept_core().compile_model(str(xml), "CPU", HINTS[precision]).create_infer_request()
        return lambda images: candidates_of_decoded(torch.from_numpy(request.infer({0: images})[0].copy()))
    module = torch.jit.load(str(file), map_location="cpu")

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return candidates_of_decoded(module(torch.from_numpy(images)))

    return run
