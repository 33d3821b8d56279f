"""Evaluation: a detector over a split beside its truths; the same for an epoch's validation and for val.py."""

from collections.abc import Callable, Sequence, Sized
from importlib.metadata import version
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from data.labels.index import LabelIndex
from data.loader import Batch
from engine.batches import to_device
from engine.validate.batches_ahead import detected
from utils.config.knobs import Config, RunConfig
from utils.distributed import Group
from utils.metrics.coco_metrics import CocoMetrics
from utils.metrics.truths import Truths, plain_truths
from utils.progress import Progress


@torch.inference_mode()
def collect(
    detector: nn.Module,
    loader: DataLoader,
    index: LabelIndex,
    names: tuple[str, ...],
    device: torch.device,
    on_batch: Callable[[int, Batch, list], None] | None = None,
    truths: Truths | None = None,
    ious: Sequence[float] = (),
    group: Group | None = None,
) -> CocoMetrics:
    """Return the detections on every image beside the truths: the index's unless others are given.

    Each process of a group takes its share of the images; the main one collects all.

    `on_batch(number, batch, detections)` sees each batch with its detections in pixels of the network input.
    """
    detector.eval()
    truths = truths or plain_truths(index.starts, index.boxes, index.labels, len(names))
    metrics = CocoMetrics.of(truths, names, ious)
    progress = Progress("validation", len(cast(Sized, loader.sampler)), live=group is None or group.main)

    def detect(batch: Batch) -> list:
        images, _ = to_device(batch, device)
        return detector(images)

    backend = getattr(detector, "backend", None)
    with detected(detect, loader, device, backend is None or backend.in_torch) as batches:
        for number, (batch, detections) in enumerate(batches):
            for image, letterbox, found in zip(batch.index.tolist(), batch.letterboxes, detections, strict=True):
                assert letterbox is not None  # only augmented images have none
                metrics.add(image, letterbox.undo(found["boxes"]), found["scores"], found["labels"])
            if on_batch is not None:
                on_batch(number, batch, detections)
            progress.advance(len(detections))
    progress.close()
    metrics.note_undecodable(getattr(loader.dataset, "undecodable_rows", ()))
    if group is not None:
        metrics.take_over(group.gather(metrics))
    return metrics


def protocol_line(
    config: Config, split: str, images: int, truths: Truths | None = None, precision: str = "float32"
) -> str:
    """Say how the numbers are measured, in one line that is printed and stored with them."""
    flags = config.run
    height, width = flags.image_size
    source = truths.source if truths else "labels"
    kind = "LVIS" if truths and truths.federated else "COCO"
    if source == "labels" and flags.bad_labels != RunConfig.bad_labels:
        source += f", --bad-labels {flags.bad_labels}"
    return (
        f"split {split} ({images} images, truths: {source})  imgsz {height}x{width} letterbox, rect off  "
        f"conf {flags.conf:g}  NMS IoU {flags.nms_iou:g} per class  max_det {flags.max_det}  {precision}  "
        f"{kind} metrics by hotcoco {version('hotcoco')}"
    )
