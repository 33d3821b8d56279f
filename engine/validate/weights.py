"""Opens what val.py measures: a checkpoint, or a file of export.py."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.export.backend import Backend, input_size, within_limits
from engine.export.detector import BackendDetector
from engine.export.runtimes import device_for, open_backend
from engine.export.weights import torch_backend, uses_bf16
from models.detector import AnyDetector
from models.families import family_of
from models.kernels.in_use import compile_ahead
from models.postprocess import Postprocess
from models.weights.read import load_detector, read_weights
from models.yolov3.export_network import for_detection
from utils.config.export_formats import format_of_path
from utils.config.knobs import Config, Hyperparameters, RunConfig, ValConfig, build, model_kind
from utils.errors import UserError, printable


@dataclass(frozen=True)
class Measured:
    """A detector with its config, ready to be measured on `device`."""

    detector: nn.Module
    config: Config
    device: torch.device
    precision: str  # what it computes in
    source: str  # what the weights say about themselves


def open_measured(weights: Path, settings: ValConfig) -> Measured:
    """Open a checkpoint or an exported file as the flags of val.py say; UserError for wrong input."""
    device = device_for(weights, settings.device)
    if facts := format_of_path(weights):
        return _open_exported(weights, settings, facts.name)
    checkpoint = read_weights(weights)
    config = with_flags(Config.from_dict(checkpoint["config"], str(weights)), settings)
    if not config.run.data:
        raise UserError(f"{printable(weights)}: imported weights know no data set: name one with --data")
    source = checkpoint.get("source") or f"epoch {checkpoint['epoch']}"
    trained = load_detector(checkpoint, config, str(weights))
    bf16 = uses_bf16(settings.precision, device)
    detector = at_precision(trained, trained.network.to(device), config, bf16)
    return Measured(detector, config, device, "bf16" if bf16 else "float32", source)


def at_precision(detector: AnyDetector, network: nn.Module, config: Config, bf16: bool) -> nn.Module:
    """Make a detector to be measured around a copy of `network`, which computes in float32 or bfloat16.

    One function for val.py and for the epochs of a training, so that both give the same numbers. The copy is without
    batch normalisation as a step of its own: a sixth faster.
    """
    copy: nn.Module = for_detection(network, bf16, compiled=True)
    copy.to(memory_format=torch.channels_last)
    on_cpu = next(network.parameters()).device.type == "cpu"
    if on_cpu and config.hyper.cpu_kernels == "on" and family_of(config.model).cpu_kernels:
        compile_ahead(torch.bfloat16 if bf16 else torch.float32, "evaluation")
    made = detector.with_network(copy)
    return BackendDetector(torch_backend(made, config, bf16), made.postprocess) if bf16 else made


def _open_exported(weights: Path, settings: ValConfig, name: str) -> Measured:
    """Open a file of export.py in the format `name`, which knows its classes and its size, but no data set."""
    backend = open_backend(weights, precision=settings.precision)
    if not settings.data:
        raise UserError(f"{printable(weights)}: an exported file knows no data set: name one with --data")
    model = build(model_kind(backend.model), backend.model, str(weights))
    run = RunConfig(imgsz=input_size(backend, settings.imgsz, weights), **backend.run_settings)
    config = with_flags(Config(run, model, Hyperparameters(), backend.names), settings)
    precision = f"{backend.precision} ({name} file)"
    if backend.final:
        config = replace(config, run=_within(config.run, settings, backend, weights))
        precision += ", NMS in the file"
    postprocess = Postprocess(config.run.conf, config.run.nms_iou, config.run.max_det)
    return Measured(BackendDetector(backend, postprocess), config, torch.device("cpu"), precision, "exported")


def _within(run: RunConfig, settings: ValConfig, backend: Backend, weights: Path) -> RunConfig:
    """Limit what was not given to what a file with NMS allows; UserError for a flag that the file does not allow."""
    asked = {name: getattr(run, name) for name in ("conf", "nms_iou", "max_det")}
    not_given = {name: value for name, value in asked.items() if getattr(settings, name) is None}
    kept = within_limits(backend, asked, not_given, weights)
    if kept["conf"] > run.conf:
        print(
            f"warning: {printable(weights)} leaves out what scores below {kept['conf']:g}, so its AP is lower than "
            "that of the weights; --layout decoded exports a file that can be measured in full",
            file=sys.stderr,
        )
    return replace(run, **kept)


def with_flags(config: Config, settings: ValConfig) -> Config:
    """Return the training run's config with what the flags change for this validation."""
    given = {
        "data": settings.data,
        "data_root": settings.data_root,
        "imgsz": settings.imgsz,
        "batch_size": settings.batch_size,
        "max_pixels": settings.max_pixels,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value}
    stride = max(config.model.strides)
    if any(side % stride for side in settings.imgsz):
        raise UserError(f"--imgsz {' '.join(map(str, settings.imgsz))}: expected multiples of {stride}")
    own = {name: getattr(settings, name) for name in ("conf", "nms_iou", "max_det", "bad_labels")}
    changes |= {name: value for name, value in own.items() if value is not None}
    changes["plots"] = settings.plots
    return replace(config, run=replace(config.run, **changes))
