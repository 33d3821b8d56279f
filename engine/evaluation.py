"""Evaluation: a detector over a split into COCO metrics; the same for an epoch's validation and for val.py."""

from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from torch import nn
from torch.utils.data import DataLoader

from data.labels import LabelIndex
from data.loader import Batch
from engine.epoch import to_device
from utils.config import Config
from utils.metrics import CocoMetrics, Metrics
from utils.progress import Progress
from utils.truths import Truths, plain_truths


def evaluate(
    detector: nn.Module,
    loader: DataLoader,
    index: LabelIndex,
    names: tuple[str, ...],
    device: torch.device,
    on_batch: Callable[[int, Batch, list], None] | None = None,
    truths: Truths | None = None,
) -> Metrics:
    """Detects on every image in full precision and scores in original pixels; see `collect`."""
    return collect(detector, loader, index, names, device, on_batch, truths).compute()


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
) -> CocoMetrics:
    """The detections on every image beside the truths, which are those of the index unless others are given.

    `on_batch(number, batch, detections)` sees each batch with its detections in pixels of the network input.
    """
    detector.eval()
    truths = truths or plain_truths(index.starts, index.boxes, index.labels, len(names))
    metrics = CocoMetrics.of(truths, names, ious)
    progress = Progress("validation", len(index))
    for number, batch in enumerate(loader):
        images, _ = to_device(batch, device)
        detections = detector(images)
        for image, letterbox, found in zip(batch.index.tolist(), batch.letterboxes, detections, strict=True):
            metrics.add(image, letterbox.undo(found["boxes"]), found["scores"], found["labels"])
        if on_batch is not None:
            on_batch(number, batch, detections)
        progress.advance(len(images))
    progress.close()
    return metrics


def protocol_line(config: Config, split: str, images: int, truths: Truths | None = None) -> str:
    """How the numbers are measured, in one line that is printed and stored with them."""
    flags = config.run
    height, width = flags.image_size
    source = truths.source if truths else "labels"
    kind = "LVIS" if truths and truths.federated else "COCO"
    return (
        f"split {split} ({images} images, truths: {source})  imgsz {height}x{width} letterbox, rect off  "
        f"conf {flags.conf:g}  NMS IoU {flags.nms_iou:g} per class  max_det {flags.max_det}  float32  "
        f"{kind} metrics by faster-coco-eval {version('faster-coco-eval')}"
    )
