"""A validation run, from a checkpoint to its numbers, tables and pictures."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from data.data_yaml import DataSpec, data_root
from data.dataset import DetectionDataset
from data.formats.coco_truths import split_truths
from data.labels.index import LabelIndex
from data.loader import Batch, build_loader
from data.open.any_layout import root_for
from data.pixel_limit import pixels_allowed
from data.split import load_split
from engine.failures import explained
from engine.parent_process import end_with_parent
from engine.resources import loading_processes
from engine.run_files import ValRecords, attempt
from engine.settings.configure import open_data
from engine.validate.collect import collect, protocol_line
from engine.validate.html_report import write_report
from engine.validate.result_files import planned_files, room_for_results, write_coco_files, write_texts
from engine.validate.weights import Measured, open_measured
from models.kernels.kept_memory import freed_memory_kept, share_one_heap
from models.weights.class_rows import names_on
from utils.checkpoint import newest
from utils.config.knobs import ValConfig
from utils.errors import UserError, printable
from utils.metrics.coco_metrics import Metrics
from utils.metrics.diagnosis import diagnose
from utils.metrics.truths import Truths
from utils.run_folder import new_run_folder


def run(settings: ValConfig) -> Metrics:
    """Validate a checkpoint as the flags say and write a run folder; UserError for wrong input.

    Where a comparison has started it, it ends with that.
    """
    weights = Path(settings.weights) if settings.weights else newest(Path("runs/train"), "best.pt")
    share_one_heap()
    over = end_with_parent()
    try:
        measured = open_measured(weights, settings)
        with pixels_allowed(measured.config.run.max_pixels):
            return validated(settings, weights, measured)
    finally:
        over.set()


def opened_split(spec: DataSpec, settings: ValConfig, bad_labels: str) -> tuple[LabelIndex, Truths]:
    """Return the photos of the split and what it is measured against; UserError for a flag that has no effect on it."""
    file = spec.annotations.get(settings.split)
    if settings.bad_labels is not None and file:
        raise UserError(
            f"--bad-labels {bad_labels}: {settings.split} is measured against {printable(file)}, whose boxes are taken "
            "as they are: leave the flag out"
        )
    index = load_split(spec, settings.split, bad_labels=bad_labels)
    if said := index.report.summary(needed=file is None):
        print(f"{settings.split} {said}", file=sys.stderr)
    return index, split_truths(spec, settings.split, index)


def validated(settings: ValConfig, weights: Path, measured: Measured) -> Metrics:
    """Return the validation of weights that are open."""
    config, device = measured.config, measured.device

    # A held-out split belongs to the data it was taken from, and leaves the test split as it is.
    share = 0.0 if settings.data or settings.split == "test" else config.run.val
    root = root_for(config.run.data, settings.data_root) if settings.data_root else data_root(config.run.data_root)
    spec = open_data(config.run.data, root, share, config.run.seed, weights.absolute().parent.parent)
    classes = names_on(config.names, spec.names)
    spec.check_classes(classes, str(weights))
    if classes != tuple(config.names):
        config = replace(config, names=classes)
    index, truths = opened_split(spec, settings, config.run.bad_labels)
    dataset = DetectionDataset(index, config.run.image_size, None, config.run.seed, photo_bits=config.run.photo_bits)
    workers, _ = loading_processes(settings.workers, config.run.batch_size, config.run.image_size)
    loader = build_loader(dataset, config.run.batch_size, workers, shuffle=False, seed=config.run.seed)

    folder = new_run_folder(Path(settings.project), settings.name, settings.exist_ok)
    planned = planned_files(settings, truths.source == "labels")
    own = room_for_results(folder, planned, settings.save_txt, spec.annotations.values())
    protocol = protocol_line(config, settings.split, len(index), truths, measured.precision)
    print(f"weights {printable(weights)} ({measured.source})\n{protocol}")
    records = ValRecords(folder, config, protocol, truths)
    start = time.perf_counter()
    names = (index, config.names, device)
    with explained(lambda: f"at --batch-size {config.run.batch_size}"), freed_memory_kept() as keep:

        def on_batch(number: int, batch: Batch, detections: list) -> None:
            if device.type == "cpu" and config.hyper.cpu_kernels == "on":
                keep()
            records.batch(number, batch, detections)

        collected = collect(measured.detector, loader, *names, on_batch, truths, settings.iou_list)
    metrics = collected.compute(by_ratio=True, errors=True)
    speed = len(index) / (time.perf_counter() - start)
    print(metrics.table(settings.per_class))
    if not metrics.overall["ap50"] > 0:
        print(diagnose(collected, measured.precision))
    if settings.report:
        attempt("report.html", write_report, folder / "report.html", collected, metrics, index, protocol)
    if settings.save_json:
        write_coco_files(folder, collected, index)
    if settings.save_txt:
        write_texts(own, collected, index)
    records.finish(metrics)
    for name in planned:
        own.end(folder / name)
    print(f"{speed:.1f} images/s, metrics included; written to {printable(folder)}")
    return metrics
