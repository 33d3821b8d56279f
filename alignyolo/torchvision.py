"""This package's losses and matching inside torchvision's stock detectors: RetinaNet, FCOS, SSD and Faster R-CNN.

    from torchvision.models.detection import retinanet_resnet50_fpn
    from alignyolo.torchvision import use

    model = use(retinanet_resnet50_fpn(num_classes=3), loss="sca", assign="ggiou")

The model is changed in place; its weights, names of losses and everything that is not asked for stay as they are.
`copy.deepcopy` and `torch.save` of the model keep what was put in. `torch.jit.script` does not read it: script a fresh
model with the trained one's `state_dict()`. It is imported by who asks for it alone, and needs torchvision.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.models.detection.ssd import SSD

from alignyolo.anchors import DenseAnchors
from alignyolo.assign.assignment import Context, Predictions
from alignyolo.assign.dense import BACKGROUND, IGNORED, match_boxes
from alignyolo.assign.dynamic.candidates import inside
from alignyolo.registry import DENSE_ASSIGNERS, PROPOSAL_ASSIGNERS, SIMILARITIES, Entry
from alignyolo.similarities.bound import Similarity
from alignyolo.targets import Targets

Losses = dict[str, Tensor]
FCOS_SIDE = 8  # strides: the side of ATSS's squares on FCOS


def use(model: nn.Module, loss: str | None = None, assign: str | None = None, **settings: Any) -> nn.Module:
    """Give a detector of torchvision a box loss and a matching, and return it.

    A loss that keeps a running mean has it in `model.aligned.similarity.state_dict()`. A second `use` replaces the
    first and keeps nothing of it: neither its loss or matching where None is given now, nor its running mean.

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
            first stage. The model is then as it was.
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
    kind = next((kind for kind in kinds if isinstance(model, kind)), None)
    if kind is None:
        raise ValueError(f"{type(model).__name__}: expected {', '.join(kind.__name__ for kind in kinds)}")
    aligned = Aligned(None if loss is None else Similarity(SIMILARITIES[loss], **settings), assign)
    _check_assigner(kind, aligned)
    detector: Any = model
    if isinstance(getattr(detector, "aligned", None), Aligned):
        detector.aligned.take_out()
    detector.aligned = aligned
    aligned.hook(detector.transform, aligned.look)
    if aligned.dynamic is not None:
        generator = detector.rpn.anchor_generator if kind is FasterRCNN else detector.anchor_generator
        aligned.hook(generator, aligned.look_at_levels)
    kinds[kind](detector, aligned)
    return model


def _check_assigner(kind: type, aligned: "Aligned") -> None:
    """Raise ValueError where a kind of detector cannot have the chosen matching."""
    if kind is FCOS and aligned.assign is not None and aligned.dynamic is None:
        names = ", ".join(_dynamic())
        raise ValueError(f"assign {aligned.assign!r}: FCOS has no anchors to match by a threshold; it takes {names}")
    if kind is FasterRCNN and aligned.dynamic is not None and aligned.dynamic.needs_predictions:
        names = ", ".join(name for name, entry in _dynamic().items() if not entry.bind().needs_predictions)
        raise ValueError(f"assign {aligned.assign!r}: Faster R-CNN assigns before it predicts; it takes {names}")


def _dynamic() -> dict[str, Entry]:
    """Return the assigners that are no threshold on one number, those that somebody added among them."""
    return {name: entry for name, entry in DENSE_ASSIGNERS.items() if name not in PROPOSAL_ASSIGNERS}


class Method:
    """Stand in for a method of a model's part.

    It finds model and part by its own attributes, so that the copy of a model has methods of its own.
    """

    def __init__(self, model: Any, part: nn.Module, name: str, function: Callable) -> None:
        self.model, self.part, self.name, self.function = model, part, name, function
        self.before = vars(part).get(name)  # what somebody else had put there
        setattr(part, name, self)

    def __call__(self, *given: Any) -> Any:
        """Call the function with the model and the method that was there before."""
        return self.function(self.model, self.stock, *given)

    def stock(self, *given: Any) -> Any:
        """Call the method that was there before."""
        if self.before is not None:
            return self.before(*given)
        return getattr(type(self.part), self.name)(self.part, *given)

    def take_out(self) -> None:
        """Put back what was there before."""
        if vars(self.part).get(self.name) is self:
            delattr(self.part, self.name)
            if self.before is not None:
                setattr(self.part, self.name, self.before)


class Aligned:
    """What `use` put into a model: the similarity and the matching, None where torchvision's own stay."""

    def __init__(self, similarity: Similarity | None, assign: str | None) -> None:
        self.similarity, self.assign = similarity, assign
        self.image_size = (0, 0)
        self.dynamic = _dynamic()[assign].bind() if assign in _dynamic() else None
        self.counts: tuple[int, ...] = ()
        self.strides: tuple[float, ...] = ()
        self.seen: dict[str, Tensor] = {}
        self.put: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a step under way: its tensors cannot be copied."""
        return {**vars(self), "seen": {}}

    def replace(self, model: Any, part: nn.Module, name: str, function: Callable) -> None:
        """Have a function in the place of a method of one of the model's parts."""
        self.put.append(Method(model, part, name, function))

    def hook(self, part: nn.Module, function: Callable) -> None:
        """Have a function called after the forward pass of one of the model's parts."""
        self.put.append(part.register_forward_hook(function))

    def take_out(self) -> None:
        """Give the model its own methods back, the last that was replaced first."""
        for each in reversed(self.put):
            if isinstance(each, Method):
                each.take_out()
            else:
                each.remove()

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

    def look_at_codes(self, predictor: nn.Module, given: Any, output: tuple) -> None:
        """Note the box codes of Faster R-CNN's second stage for the samples of a training step."""
        if self.seen:
            self.seen["codes"] = output[1]

    def replace_roi_loss(self, heads: Any, given: Any, output: tuple) -> tuple:
        """Put the loss of the noted samples in the place of Faster R-CNN's."""
        seen, self.seen = self.seen, {}
        if "loss_box_reg" in output[1]:
            labels, codes = seen["labels"], seen["codes"].unflatten(1, (-1, 4))
            positive = (labels > 0).nonzero().flatten()
            own = _wide(codes[positive, labels[positive]])
            boxes = heads.box_coder.decode_single(own, seen["proposals"][positive])
            output[1]["loss_box_reg"] = self.loss(boxes, seen["truths"][positive]).sum() / len(labels)
        return output

    def loss(self, boxes: Tensor, truths: Tensor) -> Tensor:
        """Return the losses (P,) of a whole batch's boxes (P, 4) and truths (P, 4): each call moves a running mean."""
        assert self.similarity is not None
        around = {"over_ranks": over_ranks, "training": torch.is_grad_enabled(), "image_size": self.image_size}
        return 1 - self.similarity(boxes, truths, **around)

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

    def matches(self, matcher: Matcher, boxes: Tensor, truths: Tensor) -> Tensor:
        """Match anchors (A, 4) with truths (T, 4) at a torchvision matcher's thresholds, forcing what it forces."""
        forced = "best" if matcher.allow_low_quality_matches else "none"
        if isinstance(matcher, SSDMatcher):
            forced = "claim"
        limits = {"positive": matcher.high_threshold, "negative": matcher.low_threshold, "forced": forced}
        return match_boxes(boxes, truths, metric=self.assign or "iou", **limits)


def over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over the processes of the run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


def _wide(codes: Tensor) -> Tensor:
    """Return codes in float32 or wider: in bf16 the boxes decoded from them move in steps of 2 to 8 pixels."""
    return codes.to(torch.promote_types(codes.dtype, torch.float32))


def _decoded(coder: Any, codes: Tensor, anchors: list[Tensor]) -> Tensor:
    """Decode the codes (B, A, 4) of all anchors, a list of (A, 4)."""
    wide = _wide(codes.detach())
    return torch.stack([coder.decode_single(each, boxes) for each, boxes in zip(wide, anchors, strict=True)])


def _box_losses(
    aligned: Aligned, decode: Callable, targets: list, outputs: dict, anchors: list, matches: list
) -> tuple[Tensor, ...]:
    """Return the losses (P,) of every image's matched anchors, out of one call for the batch."""
    positives = [(match >= 0).nonzero().flatten() for match in matches]
    codes = zip(outputs["bbox_regression"], anchors, positives, strict=True)
    boxes = torch.cat([decode(_wide(each[rows]), own[rows]) for each, own, rows in codes])
    owners = zip(targets, matches, positives, strict=True)
    truths = torch.cat([target["boxes"][match[rows]] for target, match, rows in owners])
    return aligned.loss(boxes, truths).split([len(rows) for rows in positives])


def _over_positives(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the sum of all images' losses over the number of positives."""
    every = torch.cat(parts)
    return every.sum() / max(1, len(every))


def _into_retinanet(model: Any, aligned: Aligned) -> None:
    if aligned.similarity is not None:
        aligned.replace(model, model.head, "compute_loss", _retinanet_head_loss)
    if aligned.assign is not None:
        aligned.replace(model, model, "compute_loss", _retinanet_loss)


def _retinanet_head_loss(
    model: Any, stock: Callable, targets: list, outputs: dict, anchors: list, matches: list
) -> Losses:
    losses = stock(targets, outputs, anchors, matches)
    decode = model.head.regression_head.box_coder.decode_single
    parts = _box_losses(model.aligned, decode, targets, outputs, anchors, matches)
    losses["bbox_regression"] = torch.stack([part.sum() / max(1, len(part)) for part in parts]).mean()
    return losses


def _retinanet_loss(model: Any, stock: Callable, targets: list, outputs: dict, anchors: list) -> Losses:
    aligned = model.aligned
    if aligned.dynamic is not None:
        boxes = _decoded(model.head.regression_head.box_coder, outputs["bbox_regression"], anchors)
        matches = aligned.assigned(anchors[0], targets, boxes, outputs["cls_logits"].float().sigmoid())
    else:
        pairs = zip(anchors, targets, strict=True)
        matches = [aligned.matches(model.proposal_matcher, boxes, each["boxes"]) for boxes, each in pairs]
    return model.head.compute_loss(targets, outputs, anchors, matches)


def _into_fcos(model: Any, aligned: Aligned) -> None:
    if aligned.similarity is not None:
        aligned.replace(model, model.head, "compute_loss", _fcos_head_loss)
    if aligned.dynamic is not None:
        aligned.replace(model, model, "compute_loss", _fcos_loss)


def _fcos_head_loss(model: Any, stock: Callable, targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
    losses = stock(targets, outputs, anchors, matches)
    parts = _box_losses(model.aligned, model.box_coder.decode, targets, outputs, anchors, matches)
    losses["bbox_regression"] = _over_positives(parts)
    return losses


def _fcos_loss(model: Any, stock: Callable, targets: list, outputs: dict, anchors: list, counts: list) -> Losses:
    boxes = model.box_coder.decode(_wide(outputs["bbox_regression"].detach()), torch.stack(anchors))
    # ATSS compares anchors with truths: squares of FCOS_SIDE strides, as in its paper, around the points.
    low, high = anchors[0].split(2, dim=-1)
    center, half = (low + high) / 2, (high - low) * (FCOS_SIDE / 2)
    squares = torch.cat([center - half, center + half], dim=-1)
    matches = model.aligned.assigned(squares, targets, boxes, outputs["cls_logits"].float().sigmoid())
    for match, target in zip(matches, targets, strict=True):
        # Outside of its truth a point has no distances to the sides, and no centerness.
        positive = (match >= 0).nonzero().flatten()
        match[positive[~inside(center[positive], target["boxes"][match[positive]])]] = BACKGROUND
    return model.head.compute_loss(targets, outputs, anchors, matches)


def _into_ssd(model: Any, aligned: Aligned) -> None:
    aligned.replace(model, model, "compute_loss", _ssd_loss)


def _ssd_loss(model: Any, stock: Callable, targets: list, outputs: dict, anchors: list, matches: list) -> Losses:
    aligned = model.aligned
    if aligned.dynamic is not None:
        boxes = _decoded(model.box_coder, outputs["bbox_regression"], anchors)
        matches = aligned.assigned(anchors[0], targets, boxes, outputs["cls_logits"].float().softmax(-1))
    elif aligned.assign is not None:
        pairs = zip(anchors, targets, strict=True)
        matches = [aligned.matches(model.proposal_matcher, boxes, each["boxes"]) for boxes, each in pairs]
    losses = stock(targets, outputs, anchors, matches)
    if aligned.similarity is not None:
        parts = _box_losses(aligned, model.box_coder.decode_single, targets, outputs, anchors, matches)
        losses["bbox_regression"] = _over_positives(parts)
    return losses


def _into_faster_rcnn(model: Any, aligned: Aligned) -> None:
    heads = model.roi_heads
    # For a small object all values of GGIoU can be 0, and to torchvision's matcher every anchor would be its best one.
    if aligned.assign is not None:
        aligned.replace(model, model.rpn, "assign_targets_to_anchors", _assign_anchors)
    if aligned.assign is not None and aligned.dynamic is None:
        aligned.replace(model, heads, "assign_targets_to_proposals", _assign_proposals)
    if aligned.similarity is not None:
        aligned.replace(model, heads, "select_training_samples", _samples)
        aligned.hook(heads.box_predictor, aligned.look_at_codes)
        aligned.hook(heads, aligned.replace_roi_loss)


def _samples(model: Any, stock: Callable, proposals: list, targets: list) -> tuple:
    answer = stock(proposals, targets)
    # An image without truths says 0 for every proposal's.
    padded = [torch.cat([each["boxes"], each["boxes"].new_zeros(1, 4)]) for each in targets]
    truths = [boxes[rows] for boxes, rows in zip(padded, answer[1], strict=True)]
    model.aligned.seen.update(proposals=torch.cat(answer[0]), truths=torch.cat(truths), labels=torch.cat(answer[2]))
    return answer


def _assign_anchors(model: Any, stock: Callable, anchors: list, targets: list) -> tuple[list[Tensor], list[Tensor]]:
    aligned = model.aligned
    if aligned.dynamic is not None:
        matches = aligned.assigned(anchors[0], targets)
    else:
        pairs = zip(anchors, targets, strict=True)
        matches = [aligned.matches(model.rpn.proposal_matcher, each, own["boxes"]) for each, own in pairs]
    padded = [torch.cat([each["boxes"], each["boxes"].new_zeros(1, 4)]) for each in targets]
    boxes = [rows[match.clamp(min=0)] for rows, match in zip(padded, matches, strict=True)]
    return [(match + 1).clamp(-1, 1).float() for match in matches], boxes


def _assign_proposals(
    model: Any, stock: Callable, proposals: list, truths: list, classes: list
) -> tuple[list[Tensor], list[Tensor]]:
    rows, labels = [], []
    for boxes, own, known in zip(proposals, truths, classes, strict=True):
        match = model.aligned.matches(model.roi_heads.proposal_matcher, boxes, own)
        rows.append(match.clamp(min=0))
        labels.append(torch.where(match >= 0, torch.cat([known, known.new_zeros(1)])[rows[-1]], match + 1))
    return rows, labels
