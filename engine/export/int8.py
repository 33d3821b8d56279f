"""What an int8 file is worth: its AP and its time beside the same file in float32, on this machine."""

import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data.dataset import DetectionDataset
from data.formats.coco_truths import split_truths
from data.images import ImageError, read_image
from data.labels.index import LabelIndex
from data.loader import build_loader
from data.open.any_layout import root_for
from data.split import load_split
from engine.export.backend import Backend
from engine.export.check import batches, spread
from engine.export.detector import BackendDetector
from engine.export.format import Format
from engine.export.job import Job
from engine.export.weights import torch_backend
from engine.settings.configure import open_data
from models.postprocess import Postprocess
from models.weights.class_rows import names_on
from models.yolov3.export_network import for_detection
from utils.device import cpu_has_bf16
from utils.errors import ExportMismatch, UserError, printable
from utils.letterbox import Letterbox
from utils.metrics.coco_metrics import CocoMetrics
from utils.metrics.truths import Truths

CALIBRATION_PHOTOS = 32
LARGEST_LOSS = 0.005  # of AP
TURNS, EACH = 7, 3


@dataclass(frozen=True)
class Trial:
    """The split that AP is measured on."""

    index: LabelIndex
    truths: Truths


def with_calibration(job: Job) -> tuple[Job, Trial]:
    """Take photos of the training split into the job, and the validation split to measure on; UserError for both."""
    settings, config = job.settings, job.config
    spec = open_data(settings.calibrate, root_for(settings.calibrate, settings.data_root))
    spec.check_classes(names_on(config.names, spec.names), settings.weights or "the newest best.pt")
    train, val = (load_split(spec, split, bad_labels=config.run.bad_labels) for split in ("train", "val"))
    boxed = list(itertools.islice(_readable(train, job), CALIBRATION_PHOTOS))
    if not boxed:
        raise UserError(f"--calibrate {printable(settings.calibrate)}: no photo of its train split can be read")
    shown = tuple(batch.numpy() for batch in batches(boxed, settings.batch_size))
    return replace(job, calibration=shown), Trial(val, split_truths(spec, "val", val))


def _readable(train: LabelIndex, job: Job) -> Iterator[np.ndarray]:
    """Yield photos letterboxed (H, W, 3), from all over the split first, then the others; skip what cannot be read."""
    for row in spread(len(train), CALIBRATION_PHOTOS):
        try:
            photo = read_image(train.images[row], bits=job.config.run.photo_bits)
        except ImageError as error:
            print(f"not calibrated with {printable(error)}")
            continue
        yield Letterbox.fit(photo.shape[:2], job.size).apply(photo)


def compare(chosen: Format, path: Path, job: Job, trial: Trial) -> str:
    """Measure an int8 file beside a float32 one; the figures as text, ExportMismatch where it is not worth keeping."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / f"float32{chosen.facts.suffix}"
        chosen.writer(plain, replace(job, settings=replace(job.settings, int8=False)))
        sides = {"float32": chosen.open(plain), **_bf16(chosen, plain, job), "int8": chosen.open(path)}
        times = milliseconds(sides, torch.from_numpy(job.calibration[0]))
        before, after = (average_precision(sides[name], job, trial) for name in ("float32", "int8"))
    wrong = []
    if not before:
        wrong.append("cannot be compared, since float32 has an AP of 0 here")
    if before - after > LARGEST_LOSS:
        wrong.append(f"loses {before - after:.4f} AP (allowed {LARGEST_LOSS:g})")
    if times["int8"] > times["float32"]:
        wrong.append("is slower than float32 on this machine")
    beside = ", ".join(f"{name} {value:.1f}" for name, value in times.items())
    told = f"AP {before:.4f} -> {after:.4f} on {len(trial.index)} photos of val; ms of CPU: {beside}"
    if wrong and not job.settings.force:
        name = path.name.removeprefix(".exporting-")
        raise ExportMismatch(f"{name}: {' and '.join(wrong)}: kept with --force alone; {told}")
    return told + (f"; kept by --force: {' and '.join(wrong)}" if wrong else "")


def _bf16(chosen: Format, plain: Path, job: Job) -> dict[str, Backend]:
    """Open the model in bf16 where this CPU has it: by the format's runtime, or else by PyTorch."""
    if not cpu_has_bf16():
        return {}
    if "bf16" in chosen.facts.precisions:
        return {"bf16": chosen.open(plain, "bf16")}
    network = for_detection(job.detector.network, bf16=True).to(memory_format=torch.channels_last)
    return {"bf16 in PyTorch": torch_backend(job.detector.with_network(network), job.config, bf16=True)}


def milliseconds(sides: Mapping[str, Backend], images: torch.Tensor) -> dict[str, float]:
    """Return the median CPU time of a batch (B, 3, H, W) on each side, in turns, so that other work hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, side in sides.items():
            for _ in range(EACH):
                start = time.process_time()
                side.run(images)
                if turn:  # the first one warms up
                    found[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(values) for name, values in found.items()}


def average_precision(backend: Backend, job: Job, trial: Trial) -> float:
    """Return AP of a backend on the split, as val.py measures it."""
    dataset = DetectionDataset(trial.index, job.size, None, 0, photo_bits=job.config.run.photo_bits)
    run = job.config.run
    detector = BackendDetector(backend, Postprocess(run.conf, run.nms_iou, run.max_det))
    metrics = CocoMetrics.of(trial.truths, job.config.names)
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in build_loader(dataset, 16, 0, shuffle=False, seed=0):
            found = detector(batch.images.float() / 255)
            for image, letterbox, each in zip(batch.index.tolist(), batch.letterboxes, found, strict=True):
                metrics.add(image, letterbox.undo(each["boxes"]), each["scores"], each["labels"])
    value = metrics.compute().overall["ap"]
    if value is None:
        raise UserError(f"--calibrate {printable(job.settings.calibrate)}: its val split has no labels")
    return value
