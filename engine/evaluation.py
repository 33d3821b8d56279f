"""Evaluation: a detector over a split into COCO metrics; the same for an epoch's validation and for val.py."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from data.labels import LabelIndex
from data.loader import Batch
from engine.epoch import to_device
from utils.config import Config
from utils.distributed import Group
from utils.metrics import CocoMetrics, Metrics
from utils.progress import Progress


@torch.inference_mode()
def evaluate(
    detector: nn.Module,
    loader: DataLoader,
    index: LabelIndex,
    names: tuple[str, ...],
    device: torch.device,
    on_batch: Callable[[int, Batch, list], None] | None = None,
    group: Group | None = None,
) -> Metrics:
    """Detects on every image in full precision and scores in original pixels; each process of a group takes its share.

    `on_batch(number, batch, detections)` sees each batch with its detections in pixels of the network input.
    """
    detector.eval()
    metrics = CocoMetrics(index.sizes, index.starts, index.boxes, index.labels, names)
    progress = Progress("validation", len(loader.sampler), live=group is None or group.main)
    for number, batch in enumerate(loader):
        images, _ = to_device(batch, device)
        detections = detector(images)
        for image, letterbox, found in zip(batch.index.tolist(), batch.letterboxes, detections, strict=True):
            metrics.add(image, letterbox.undo(found["boxes"]), found["scores"], found["labels"])
        if on_batch is not None:
            on_batch(number, batch, detections)
        progress.advance(len(images))
    progress.close()
    if group is None:
        return metrics.compute()
    metrics.take_over(group.gather(metrics))
    return group.share(metrics.compute() if group.main else None)


def protocol_line(config: Config, split: str, images: int) -> str:
    """How the numbers are measured, in one line that is printed and stored with them."""
    flags = config.run
    height, width = flags.image_size
    return (
        f"split {split} ({images} images)  imgsz {height}x{width} letterbox  conf {flags.conf:g}  "
        f"NMS IoU {flags.nms_iou:g} per class  max_det {flags.max_det}  float32  COCO metrics by faster-coco-eval"
    )
