"""Which flags of export.py go together; answered before torch is imported."""

import dataclasses
from collections.abc import Callable, Collection

from utils.config.export_formats import EXPORT_FORMATS, ExportFormat, listed
from utils.config.knobs import ExportConfig
from utils.errors import UserError

TENSORRT = ("tensorrt", "engine", "trt")


def check_formats(names: Collection[str]) -> None:
    """Raise UserError for the name of TensorRT's format, which others are near to by their letters alone."""
    for name in names:
        if name.casefold() in TENSORRT:
            raise UserError(
                f"--format is {name!r}: for TensorRT export onnx, then run trtexec --onnx=best.onnx "
                f"--saveEngine=best.engine --fp16; formats: {', '.join(EXPORT_FORMATS)}"
            )


def check_combination(settings: ExportConfig) -> None:
    """Raise UserError where a format cannot be what the flags say, or where nothing that is written reads a flag."""
    chosen = [EXPORT_FORMATS[name] for name in settings.format]
    graphs = [entry for entry in chosen if entry.graph]
    for entry in graphs:
        if settings.layout not in entry.layouts:
            able = _names(lambda each: settings.layout in each.layouts)
            raise UserError(f"--layout {settings.layout}: for {able}, not {entry.name}")
        if settings.dynamic and not entry.dynamic:
            raise UserError(f"--dynamic: for {_names(lambda each: each.dynamic)}, not {entry.name}")
        if settings.batch_size > 1 and not entry.batches:
            raise UserError(f"--batch-size {settings.batch_size}: {entry.name} takes one image at a time")
    if settings.dynamic and settings.batch_size > 1 and graphs:
        raise UserError(
            f"--batch-size {settings.batch_size}: not with --dynamic, whose file takes any number of images"
        )
    if settings.half and settings.layout == "nms":
        # At half precision a box on the edge of a threshold comes or goes: no check could tell that from a mistake.
        raise UserError("--half with --layout nms: cannot be checked; export decoded or raw")
    if settings.half and not all(entry.half for entry in chosen):
        able = listed([entry.name for entry in EXPORT_FORMATS.values() if entry.half])
        raise UserError(f"--half: for {able}")
    _check_int8(settings, chosen)
    _check_all_read(settings, graphs)


def _check_int8(settings: ExportConfig, chosen: list[ExportFormat]) -> None:
    """Raise UserError for --int8 where it cannot be, and for its flags without it."""
    if settings.int8:
        if settings.half:
            raise UserError("--int8 with --half: expected one of them")
        if any(entry.int8 is None for entry in chosen):
            raise UserError(f"--int8: for {_names(lambda each: each.int8 is not None)}")
        if settings.source:
            raise UserError("--source: not with --int8, whose file is compared on the photos of --calibrate")
        if not settings.calibrate:
            raise UserError("--int8: needs photos to see the range of features on: --calibrate data.yaml")
    for name in ("calibrate", "data_root", "force"):
        if getattr(settings, name) and not settings.int8:
            raise UserError(f"--{name.replace('_', '-')}: for --int8")


def _check_all_read(settings: ExportConfig, graphs: list[ExportFormat]) -> None:
    """Raise UserError for a flag that nothing reads."""
    defaults = {each.name: each.default for each in dataclasses.fields(ExportConfig)}
    given = [name for name, default in defaults.items() if getattr(settings, name) != default]
    for name in given:
        flag = "--" + name.replace("_", "-")
        if name in ("layout", "dynamic", "batch_size") and not graphs:
            raise UserError(f"{flag}: {listed(settings.format)}: the weights alone, which have no such thing")
        if name in ("conf", "nms_iou", "max_det") and settings.layout != "nms":
            raise UserError(f"{flag}: for --layout nms")
        if name == "opset" and not any(entry.opset for entry in graphs):
            raise UserError(f"{flag}: for {_names(lambda each: each.opset)}")


def _names(able: Callable[[ExportFormat], bool]) -> str:
    """Return the formats with a graph that can do something, as a sentence has them."""
    return listed([entry.name for entry in EXPORT_FORMATS.values() if entry.graph and able(entry)])
