"""From boxes and scores to detections: confidence threshold, class-aware NMS."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms


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
        keep = batched_nms(box, score, label, self.nms_iou)[: self.max_detections]
        return {"boxes": box[keep], "scores": score[keep], "labels": label[keep]}
