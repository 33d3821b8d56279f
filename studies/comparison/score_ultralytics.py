"""Measures a detector of Ultralytics with this project's photos, NMS and metrics: the same as val.py for ours."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.data_yaml import DataSpec
from data.dataset import DetectionDataset
from data.formats.coco_truths import split_truths
from data.loader import build_loader
from data.split import load_split
from engine.run_files import write_evaluation
from engine.validate.collect import collect, protocol_line
from models.postprocess import Postprocess
from utils.config.knobs import Config
from utils.metrics.coco_metrics import Metrics


class UltralyticsDetector(nn.Module):
    """A DetectionModel of Ultralytics, called as a detector is: images (B, 3, H, W) to detections per image.

    A head that has chosen its boxes itself (YOLO26 without NMS) has no NMS here either.
    """

    def __init__(self, model: nn.Module, postprocess: Postprocess):
        super().__init__()
        self.model, self.postprocess = model, postprocess

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Run a batch; boxes are xyxy pixels of the network input."""
        outputs: Any = self.model(images)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        head: Any = list(self.model.children())[-1][-1]
        if getattr(head, "end2end", False):
            return [self.chosen(rows) for rows in outputs]
        center, size, scores = outputs.transpose(1, 2).split([2, 2, outputs.shape[1] - 4], dim=2)
        return self.postprocess(torch.cat([center - size / 2, center + size / 2], dim=2), scores)

    def chosen(self, rows: Tensor) -> dict[str, Tensor]:
        """Keep rows (N, 6) of box, score and label above the confidence, best first."""
        rows = rows[rows[:, 4] > self.postprocess.confidence]
        rows = rows[rows[:, 4].argsort(descending=True, stable=True)][: self.postprocess.max_detections]
        return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}


def measure(
    model: nn.Module, spec: DataSpec, split: str, config: Config, device: torch.device, folder: Path
) -> Metrics:
    """Measure a DetectionModel on a split, and write metrics.json and metrics.csv as val.py does."""
    run = config.run
    index = load_split(spec, split)
    truths = split_truths(spec, split, index)
    dataset = DetectionDataset(index, run.image_size, None, run.seed)
    loader = build_loader(dataset, run.batch_size, 0, shuffle=False, seed=run.seed)
    postprocess = Postprocess(run.conf, run.nms_iou, run.max_det)
    detector = UltralyticsDetector(model.float().to(device).eval(), postprocess)
    collected = collect(detector, loader, index, config.names, device, None, truths)
    metrics = collected.compute(by_ratio=True, errors=True)
    write_evaluation(folder, metrics, False, protocol_line(config, split, len(index), truths))
    return metrics
