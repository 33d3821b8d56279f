"""A detection run over a source of images, as the flags of detect.py say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.pixel_limit import pixels_allowed
from engine.predict.frames import Frames
from engine.predict.model import Model, load
from engine.predict.output import Output
from utils.checkpoint import newest
from utils.config.knobs import DetectConfig
from utils.errors import CommandError, UserError, nearest, printable
from utils.run_folder import new_run_folder


def run(settings: DetectConfig) -> Path:
    """Detect on the source as the flags say and return the run folder; UserError for wrong input."""
    with pixels_allowed(settings.max_pixels):
        return detected(settings)


def detected(settings: DetectConfig) -> Path:
    """Do the run itself."""
    weights = Path(settings.weights) if settings.weights else newest(Path("runs/train"), "best.pt")
    if not settings.source:
        raise UserError("--source: expected an image, folder, glob, list file, video, webcam number or stream address")
    limits = (settings.conf, settings.nms_iou, settings.max_det)
    model = load(weights, settings.imgsz, *limits, settings.device, settings.precision)
    wanted = wanted_classes(settings.classes, model.backend.names)
    frames = Frames(settings.source, settings.vid_stride, settings.recursive, model.backend.photo_bits)
    output: Output | None = None
    try:
        for path, frame, image in frames:
            if output is None:  # a source of which nothing can be read leaves no folder behind
                folder = new_run_folder(Path(settings.project), settings.name, settings.exist_ok)
                output = Output(folder, settings, model.backend.names, model.backend.precision, frames.files)
            found = model.detect(image, path, wanted=wanted)
            print(line(path, frame, found, model, model.postprocess.confidence))
            output.add(path, frame, image, found, frames.fps)
    finally:  # also when a webcam is stopped with Ctrl-C
        if output:
            output.close()
            print(summary(output, frames.unread, frames.files.left))
    if output is None:
        raise UserError(f"--source {printable(settings.source)}: nothing in it could be read")
    if output.lost:
        raise CommandError(f"{', '.join(printable(file) for file in output.lost)}: could not be written in full")
    return output.folder


def summary(output: Output, unread: int, left: int = 0) -> str:
    """Return what a run came to; `left` photos and videos lie in sub-folders that were not asked for."""
    images = f"{output.frames} image{'' if output.frames == 1 else 's'}"
    detections = f"{output.detections} detection{'' if output.detections == 1 else 's'}"
    skipped = f", {unread} could not be read" if unread else ""
    skipped += f", {left} in sub-folders left out (--recursive takes them)" if left else ""
    return f"{images}, {detections} in {output.precision}{skipped}; written to {printable(output.folder)}"


def wanted_classes(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Return the numbers of the classes to report, None for all; UserError with the nearest name for an unknown one."""
    for name in classes:
        if name not in names:
            raise UserError(f"--classes: no class {printable(name)!r}{nearest(name, names)}")
    return sorted({names.index(name) for name in classes}) or None


def line(path: str, frame: int | None, found: Any, model: Model, conf: float) -> str:
    """Return what was found in an image; where nothing was, how near the best came."""
    where = printable(Path(path).name or path) + ("" if frame is None else f" frame {frame}")
    counts: dict[str, int] = {}
    for label in found.boxes.cls.int().tolist():
        counts[model.names[label]] = counts.get(model.names[label], 0) + 1
    if counts:
        return f"{where}: " + ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
    score, name = model.best
    best = f"; best score {short(score)} {printable(name)!r}" if name else ""
    return f"{where}: 0 detections >= {short(conf)}{best}"


def short(number: float) -> str:
    """Write .25 for 0.25."""
    return f"{number:.2f}".removeprefix("0")
