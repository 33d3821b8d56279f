"""From boxes and scores to detections: confidence threshold, class-aware NMS."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

# Up to so many boxes a CPU compares those of all classes sooner than class by class.
FEW = 1000


@dataclass(frozen=True)
class Postprocess:
    """Apply class-aware NMS, without a time limit, to the `top_k` best over `confidence`, keeping `max_detections`.

    A score is objectness x class probability. With `multi_label` a box may be reported for several classes.
    """

    confidence: float = 0.001
    nms_iou: float = 0.65
    max_detections: int = 300
    top_k: int = 4096
    multi_label: bool = True

    @torch.no_grad()
    def __call__(self, boxes: Iterable[Tensor], scores: Iterable[Tensor]) -> list[dict[str, Tensor]]:
        """Pick per image from boxes (A, 4) and scores (A, C): {boxes (N, 4), scores (N,), labels (N,)}, best first."""
        return [self.select(*image) for image in zip(boxes, scores, strict=True)]

    def select(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """Pick the detections of one image among boxes (A, 4) with scores (A, C)."""
        if self.multi_label:
            anchor, label = (scores > self.confidence).nonzero(as_tuple=True)
            score = scores[anchor, label]
        else:
            # Few boxes pass, and the best class is searched for these alone.
            anchor = (scores.amax(1) > self.confidence).nonzero().flatten()
            score, label = scores[anchor].max(1)
        # A stable sort makes ties, and with them the metrics, independent of the machine.
        order = score.argsort(descending=True, stable=True)[: self.top_k]
        box, score, label = boxes[anchor[order]], score[order], label[order]
        keep = nms_by_class(box, score, label, self.nms_iou)[: self.max_detections]
        return {"boxes": box[keep], "scores": score[keep], "labels": label[keep]}


def nms_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Return the rows (K,) that NMS keeps within each class, of boxes (N, 4) whose scores (N,) fall.

    torchvision's `batched_nms` moves classes apart in float32: at a thousand classes few digits of a pixel are left.
    In float64 an IoU that is the limit is not above it, as .6 is in float32.
    """
    boxes, scores = boxes.double(), scores.double()
    if len(boxes) <= FEW or boxes.device.type != "cpu":
        # All classes at once, moved apart. On a GPU a call for each class would wait for the device.
        apart = labels[:, None] * (boxes.amax() - boxes.amin() + 1) if len(boxes) else 0
        return nms(boxes + apart, scores, iou)
    order = labels.argsort(stable=True)
    counts = labels.unique(return_counts=True)[1].tolist()
    parts = zip(order.split(counts), boxes[order].split(counts), scores[order].split(counts), strict=True)
    return torch.cat([rows[nms(box, score, iou)] for rows, box, score in parts]).sort().values
