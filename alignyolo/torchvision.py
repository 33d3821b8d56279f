"""This package's losses and matching inside torchvision's stock detectors: RetinaNet, FCOS, SSD and Faster R-CNN.

    from torchvision.models.detection import retinanet_resnet50_fpn
    from alignyolo.torchvision import use

    model = use(retinanet_resnet50_fpn(num_classes=3), loss="sca", assign="ggiou")

The model is changed in place; its weights, names of losses and everything that is not asked for stay as they are. It is
imported by who asks for it alone, and needs torchvision.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from alignyolo.assign.dense import match_boxes
from alignyolo.gaussian_iou import ggiou
from alignyolo.registry import PROPOSAL_ASSIGNERS, SIMILARITIES
from alignyolo.similarities.bound import Similarity

Losses = dict[str, Tensor]


def use(model: nn.Module, loss: str | None = None, assign: str | None = None, **settings: Any) -> nn.Module:
    """Give a detector of torchvision a box loss and a matching, and return it.

    A loss that keeps a running mean has it in `model.aligned.similarity.state_dict()`.

    Args:
        model: RetinaNet, FCOS, SSD or Faster R-CNN; it is changed in place.
        loss: Any name of `--loss`; None leaves torchvision's own.
        assign: `iou` or `ggiou`, at the thresholds that the model has; None leaves torchvision's own.
        settings: Keywords of the loss's function.

    Returns:
        The same model.

    Raises:
        ValueError: A name is unknown, or FCOS is to match, which has no anchors.
    """
    if loss is not None and loss not in SIMILARITIES:
        raise ValueError(f"loss {loss!r}: expected one of {', '.join(SIMILARITIES)}")
    if assign is not None and assign not in PROPOSAL_ASSIGNERS:
        raise ValueError(f"assign {assign!r}: expected one of {', '.join(PROPOSAL_ASSIGNERS)}")
    kinds: dict[type, Callable[[Any, Aligned], None]] = {
        RetinaNet: _into_retinanet,
        FCOS: _into_fcos,
        SSD: _into_ssd,
        FasterRCNN: _into_faster_rcnn,
    }
    for kind, put in kinds.items():
        if isinstance(model, kind):
            similarity = None if loss is None else Similarity(SIMILARITIES[loss], **settings)
            aligned = Aligned(similarity, assign)
            detector: Any = model
            detector.aligned = aligned
            detector.transform.register_forward_hook(aligned.look)
            put(detector, aligned)
            return model
    raise ValueError(f"{type(model).__name__}: expected {', '.join(kind.__name__ for kind in kinds)}")


class Aligned:
    """What `use` put into a model: the similarity and the matching, None where torchvision's own stay."""

    def __init__(self, similarity: Similarity | None, assign: str | None) -> None:
        self.similarity, self.assign = similarity, assign
        self.image_size = (0, 0)

    def look(self, transform: nn.Module, given: Any, output: Any) -> None:
        """Note the size of the batch's images after their resizing."""
        height, width = output[0].tensors.shape[-2:]
        self.image_size = (height, width)

    def loss(self, boxes: Tensor, truths: Tensor) -> Tensor:
        """Return the summed loss of boxes (P, 4) and truths (P, 4)."""
        assert self.similarity is not None
        around = {"over_ranks": over_ranks, "training": torch.is_grad_enabled(), "image_size": self.image_size}
        return (1 - self.similarity(boxes, truths, **around)).sum()

    def matches(self, matcher: Any, boxes: Tensor, truths: Tensor, forced: str) -> Tensor:
        """Match anchors (A, 4) with truths (T, 4) at a torchvision matcher's thresholds."""
        limits = {"positive": matcher.high_threshold, "negative": matcher.low_threshold, "forced": forced}
        return match_boxes(boxes, truths, metric=self.assign or "iou", **limits)


def over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over the processes of the run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


def _positives(coder: Any, codes: Tensor, boxes: Tensor, truths: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
    """Decode the matched codes (A, 4) of one image's anchors (A, 4), and pick their truths."""
    positive = (match >= 0).nonzero().flatten()
    return coder.decode_single(codes[positive], boxes[positive]), truths[match[positive]]


def _into_retinanet(model: Any, aligned: Aligned) -> None:
    stock_head = model.head.compute_loss

    def head_loss(targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
        losses = stock_head(targets, outputs, anchors, matches)
        if aligned.similarity is not None:
            coder, parts = model.head.regression_head.box_coder, []
            for target, codes, boxes, match in zip(targets, outputs["bbox_regression"], anchors, matches, strict=True):
                found = _positives(coder, codes, boxes, target["boxes"], match)
                parts.append(aligned.loss(*found) / max(1, len(found[0])))
            losses["bbox_regression"] = torch.stack(parts).mean()
        return losses

    def compute_loss(targets: list, outputs: dict, anchors: list) -> Losses:
        pairs = zip(anchors, targets, strict=True)
        matches = [aligned.matches(model.proposal_matcher, boxes, each["boxes"], "best") for boxes, each in pairs]
        return model.head.compute_loss(targets, outputs, anchors, matches)

    model.head.compute_loss = head_loss
    if aligned.assign is not None:
        model.compute_loss = compute_loss


def _into_fcos(model: Any, aligned: Aligned) -> None:
    if aligned.assign is not None:
        raise ValueError(f"assign {aligned.assign!r}: FCOS has no anchors to match; leave it out")
    stock_head = model.head.compute_loss

    def head_loss(targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
        losses = stock_head(targets, outputs, anchors, matches)
        parts = []
        for target, codes, boxes, match in zip(targets, outputs["bbox_regression"], anchors, matches, strict=True):
            positive = (match >= 0).nonzero().flatten()
            predicted = model.box_coder.decode(codes[positive], boxes[positive])
            parts.append((aligned.loss(predicted, target["boxes"][match[positive]]), len(positive)))
        losses["bbox_regression"] = sum(part for part, _ in parts) / max(1, sum(count for _, count in parts))
        return losses

    if aligned.similarity is not None:
        model.head.compute_loss = head_loss


def _into_ssd(model: Any, aligned: Aligned) -> None:
    stock = model.compute_loss

    def compute_loss(targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
        if aligned.assign is not None:
            pairs = zip(anchors, targets, strict=True)
            matches = [aligned.matches(model.proposal_matcher, boxes, each["boxes"], "claim") for boxes, each in pairs]
        losses = stock(targets, outputs, anchors, matches)
        if aligned.similarity is not None:
            images = zip(targets, outputs["bbox_regression"], anchors, matches, strict=True)
            found = [_positives(model.box_coder, codes, boxes, t["boxes"], match) for t, codes, boxes, match in images]
            count = sum(len(boxes) for boxes, _ in found)
            losses["bbox_regression"] = sum(aligned.loss(*each) for each in found) / max(1, count)
        return losses

    model.compute_loss = compute_loss


def _into_faster_rcnn(model: Any, aligned: Aligned) -> None:
    heads = model.roi_heads
    seen: dict[str, Tensor] = {}
    stock_samples = heads.select_training_samples

    def pairwise(truths: Tensor, boxes: Tensor) -> Tensor:
        return ggiou(boxes, truths[:, None], alpha=0.0 if aligned.assign == "iou" else 0.3)

    def samples(proposals: list, targets: list) -> tuple:
        answer = stock_samples(proposals, targets)
        # An image without truths says 0 for every proposal's.
        padded = [torch.cat([each["boxes"], each["boxes"].new_zeros(1, 4)]) for each in targets]
        truths = [boxes[rows] for boxes, rows in zip(padded, answer[1], strict=True)]
        seen.update(proposals=torch.cat(answer[0]), truths=torch.cat(truths), labels=torch.cat(answer[2]))
        return answer

    def note(predictor: nn.Module, given: Any, output: tuple) -> None:
        seen["codes"] = output[1]

    def replace_loss(roi_heads: nn.Module, given: Any, output: tuple) -> tuple:
        if "loss_box_reg" in output[1]:
            labels, codes = seen["labels"], seen["codes"].unflatten(1, (-1, 4))
            positive = (labels > 0).nonzero().flatten()
            boxes = heads.box_coder.decode_single(codes[positive, labels[positive]], seen["proposals"][positive])
            output[1]["loss_box_reg"] = aligned.loss(boxes, seen["truths"][positive]) / len(labels)
        return output

    if aligned.assign is not None:
        model.rpn.box_similarity = heads.box_similarity = pairwise
    if aligned.similarity is not None:
        heads.select_training_samples = samples
        heads.box_predictor.register_forward_hook(note)
        heads.register_forward_hook(replace_loss)
