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

from alignyolo.anchors import DenseAnchors
from alignyolo.assign.assignment import Context, Predictions
from alignyolo.assign.dense import BACKGROUND, IGNORED, match_boxes
from alignyolo.assign.dynamic.candidates import inside
from alignyolo.registry import DENSE_ASSIGNERS, DYNAMIC_ASSIGNERS, SIMILARITIES
from alignyolo.similarities.bound import Similarity
from alignyolo.targets import Targets

Losses = dict[str, Tensor]
FCOS_SIDE = 8  # strides: the side of ATSS's squares on FCOS


def use(model: nn.Module, loss: str | None = None, assign: str | None = None, **settings: Any) -> nn.Module:
    """Give a detector of torchvision a box loss and a matching, and return it.

    A loss that keeps a running mean has it in `model.aligned.similarity.state_dict()`.

    Args:
        model: RetinaNet, FCOS, SSD or Faster R-CNN; it is changed in place.
        loss: Any name of `--loss`; None leaves torchvision's own.
        assign: `iou` or `ggiou`, at the thresholds that the model has, or `atss`, `atss_ggiou`, `simota`, `tal`,
            `tal_ggiou`; None leaves torchvision's own.
        settings: Keywords of the loss's function.

    Returns:
        The same model.

    Raises:
        ValueError: A name is unknown, settings come without a loss, or the model cannot have what was chosen: FCOS has
            no anchors for a threshold; Faster R-CNN assigns before it predicts, so that it takes ATSS alone, in its
            first stage.
    """
    if settings and loss is None:
        raise ValueError(f"{', '.join(settings)}: settings of a loss, and no loss is given")
    if loss is not None and loss not in SIMILARITIES:
        raise ValueError(f"loss {loss!r}: expected one of {', '.join(SIMILARITIES)}")
    if assign is not None and assign not in DENSE_ASSIGNERS:
        raise ValueError(f"assign {assign!r}: expected one of {', '.join(DENSE_ASSIGNERS)}")
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
            if aligned.dynamic is not None:
                generator = detector.rpn.anchor_generator if kind is FasterRCNN else detector.anchor_generator
                generator.register_forward_hook(aligned.look_at_levels)
            put(detector, aligned)
            return model
    raise ValueError(f"{type(model).__name__}: expected {', '.join(kind.__name__ for kind in kinds)}")


class Aligned:
    """What `use` put into a model: the similarity and the matching, None where torchvision's own stay."""

    def __init__(self, similarity: Similarity | None, assign: str | None) -> None:
        self.similarity, self.assign = similarity, assign
        self.image_size = (0, 0)
        self.dynamic = DYNAMIC_ASSIGNERS[assign].bind() if assign in DYNAMIC_ASSIGNERS else None
        self.counts: tuple[int, ...] = ()
        self.strides: tuple[float, ...] = ()

    def look(self, transform: nn.Module, given: Any, output: Any) -> None:
        """Note the size of the batch's images after their resizing."""
        height, width = output[0].tensors.shape[-2:]
        self.image_size = (height, width)

    def look_at_levels(self, generator: Any, given: tuple, output: list[Tensor]) -> None:
        """Note how many anchors the batch's feature maps have, and their strides."""
        grids = [feature.shape[-2:] for feature in given[1]]
        each = generator.num_anchors_per_location()
        self.counts = tuple(rows * columns * n for (rows, columns), n in zip(grids, each, strict=True))
        self.strides = tuple(self.image_size[0] / rows for rows, _ in grids)

    def loss(self, boxes: Tensor, truths: Tensor) -> Tensor:
        """Return the summed loss of boxes (P, 4) and truths (P, 4)."""
        assert self.similarity is not None
        around = {"over_ranks": over_ranks, "training": torch.is_grad_enabled(), "image_size": self.image_size}
        return (1 - self.similarity(boxes, truths, **around)).sum()

    def assigned(
        self, anchors: Tensor, targets: list, boxes: Tensor | None = None, scores: Tensor | None = None
    ) -> list[Tensor]:
        """Assign the truths of a batch to its anchors (A, 4) as torchvision's matches, one (A,) an image.

        ATSS asks for no predictions; the others for decoded boxes (B, A, 4) and a score (B, A, C) for every label.
        """
        assert self.dynamic is not None
        if self.dynamic.needs_predictions and (boxes is None or scores is None):
            raise ValueError(f"assign {self.assign!r} needs predictions, which this stage has not made yet")
        predictions = None if boxes is None or scores is None else Predictions(boxes.detach().float(), scores.detach())
        dense = DenseAnchors(anchors.float(), self.counts, self.image_size, self.strides)
        truths = Targets.stack([each["boxes"].float() for each in targets], [each["labels"] for each in targets])
        truths = truths._replace(image=truths.image.to(anchors.device))
        found = self.dynamic(Context(dense, truths, len(targets), predictions))
        matches = torch.where(found.ignored, IGNORED, BACKGROUND)
        first = torch.tensor([0, *(len(each["boxes"]) for each in targets)], device=anchors.device).cumsum(0)
        matches[found.image, found.anchor] = found.target - first[found.image]
        return list(matches)

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


def _decoded(coder: Any, codes: Tensor, anchors: list[Tensor]) -> Tensor:
    """Decode the codes (B, A, 4) of all anchors, a list of (A, 4)."""
    return torch.stack([coder.decode_single(each, boxes) for each, boxes in zip(codes.detach(), anchors, strict=True)])


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
        if aligned.dynamic is not None:
            boxes = _decoded(model.head.regression_head.box_coder, outputs["bbox_regression"], anchors)
            matches = aligned.assigned(anchors[0], targets, boxes, outputs["cls_logits"].float().sigmoid())
        else:
            pairs = zip(anchors, targets, strict=True)
            matches = [aligned.matches(model.proposal_matcher, boxes, each["boxes"], "best") for boxes, each in pairs]
        return model.head.compute_loss(targets, outputs, anchors, matches)

    model.head.compute_loss = head_loss
    if aligned.assign is not None:
        model.compute_loss = compute_loss


def _into_fcos(model: Any, aligned: Aligned) -> None:
    if aligned.assign is not None and aligned.dynamic is None:
        names = ", ".join(DYNAMIC_ASSIGNERS)
        raise ValueError(f"assign {aligned.assign!r}: FCOS has no anchors to match by a threshold; it takes {names}")
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

    def compute_loss(targets: list, outputs: dict, anchors: list, counts: list) -> Losses:
        boxes = model.box_coder.decode(outputs["bbox_regression"], torch.stack(anchors))
        # ATSS compares anchors with truths: squares of FCOS_SIDE strides, as in its paper, around the points.
        low, high = anchors[0].split(2, dim=-1)
        center, half = (low + high) / 2, (high - low) * (FCOS_SIDE / 2)
        squares = torch.cat([center - half, center + half], dim=-1)
        matches = aligned.assigned(squares, targets, boxes, outputs["cls_logits"].float().sigmoid())
        for match, target in zip(matches, targets, strict=True):
            # Outside of its truth a point has no distances to the sides, and no centerness.
            positive = (match >= 0).nonzero().flatten()
            match[positive[~inside(center[positive], target["boxes"][match[positive]])]] = BACKGROUND
        return model.head.compute_loss(targets, outputs, anchors, matches)

    if aligned.similarity is not None:
        model.head.compute_loss = head_loss
    if aligned.dynamic is not None:
        model.compute_loss = compute_loss


def _into_ssd(model: Any, aligned: Aligned) -> None:
    stock = model.compute_loss

    def compute_loss(targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
        if aligned.dynamic is not None:
            boxes = _decoded(model.box_coder, outputs["bbox_regression"], anchors)
            matches = aligned.assigned(anchors[0], targets, boxes, outputs["cls_logits"].float().softmax(-1))
        elif aligned.assign is not None:
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
    if aligned.dynamic is not None and aligned.dynamic.needs_predictions:
        raise ValueError(
            f"assign {aligned.assign!r}: Faster R-CNN assigns before it predicts; it takes atss, atss_ggiou"
        )
    heads = model.roi_heads
    seen: dict[str, Tensor] = {}
    stock_samples = heads.select_training_samples

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

    def assign_anchors(anchors: list, targets: list) -> tuple[list[Tensor], list[Tensor]]:
        if aligned.dynamic is not None:
            matches = aligned.assigned(anchors[0], targets)
        else:
            pairs = zip(anchors, targets, strict=True)
            matches = [aligned.matches(model.rpn.proposal_matcher, each, own["boxes"], "best") for each, own in pairs]
        padded = [torch.cat([each["boxes"], each["boxes"].new_zeros(1, 4)]) for each in targets]
        boxes = [rows[match.clamp(min=0)] for rows, match in zip(padded, matches, strict=True)]
        return [(match + 1).clamp(-1, 1).float() for match in matches], boxes

    def assign_proposals(proposals: list, truths: list, classes: list) -> tuple[list[Tensor], list[Tensor]]:
        rows, labels = [], []
        for boxes, own, known in zip(proposals, truths, classes, strict=True):
            match = aligned.matches(heads.proposal_matcher, boxes, own, "none")
            rows.append(match.clamp(min=0))
            labels.append(torch.where(match >= 0, torch.cat([known, known.new_zeros(1)])[rows[-1]], match + 1))
        return rows, labels

    # For a small object all values of GGIoU can be 0, and to torchvision's matcher every anchor would be its best one.
    if aligned.assign is not None:
        model.rpn.assign_targets_to_anchors = assign_anchors
    if aligned.assign is not None and aligned.dynamic is None:
        heads.assign_targets_to_proposals = assign_proposals
    if aligned.similarity is not None:
        heads.select_training_samples = samples
        heads.box_predictor.register_forward_hook(note)
        heads.register_forward_hook(replace_loss)
