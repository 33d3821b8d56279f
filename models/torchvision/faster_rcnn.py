"""torchvision's Faster R-CNN with our matching in both stages and any box loss in the second."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from alignyolo.assign.assignment import Assignment
from alignyolo.assign.dense import DenseThreshold
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets
from models.detector import AnyDetector
from models.torchvision.dense_loss import BoxTerm

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Proposals(NamedTuple):
    """What the second stage says of proposals: those of all images in one list, image by image.

    Boxes (N, 4) xyxy, `counts` of them per image, class logits (N, 1 + C) with the background first, a box code per
    class (N, 1 + C, 4). `image_size` is (height, width). In training each has a label (N,), 0 for the background, and
    the row (N,) of its truth.
    """

    boxes: Tensor
    counts: list[int]
    image_size: tuple[int, int]
    logits: Tensor
    codes: Tensor
    labels: Tensor | None = None
    rows: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """The image of every proposal (N,)."""
        counts = torch.tensor(self.counts, device=self.boxes.device)
        return torch.repeat_interleave(torch.arange(len(self.counts), device=self.boxes.device), counts)


class MatchedRPN(RegionProposalNetwork):
    """torchvision's region proposal network, its anchors matched by `matcher`."""

    def __init__(self, matcher: DenseThreshold, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.matcher = matcher

    def assign_targets_to_anchors(self, anchors, targets):
        """Match per image: labels (A,) 1, 0 or -1 = ignored, and truths (A, 4), anything where there is none."""
        labels, boxes = [], []
        for each, target in zip(anchors, targets, strict=True):
            matches, truths = self.matcher.match(each, target["boxes"]), target["boxes"]
            labels.append((matches + 1).clamp(-1, 1).to(each.dtype))
            boxes.append(truths[matches.clamp(min=0)] if len(truths) else torch.zeros_like(each))
        return labels, boxes


class MatchedRoIHeads(RoIHeads):
    """torchvision's second stage, its proposals matched by `matcher`, without losses and postprocessing."""

    def __init__(self, matcher: DenseThreshold, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.matcher = matcher

    def assign_targets_to_proposals(self, proposals, gt_boxes, gt_labels):
        """Match per image: the truth (N,), 0 where there is none, and the label (N,): 0 background, -1 ignored."""
        rows, labels = [], []
        for boxes, truths, classes in zip(proposals, gt_boxes, gt_labels, strict=True):
            matches = self.matcher.match(boxes, truths)
            known = classes[matches.clamp(min=0)] if len(classes) else torch.zeros_like(matches)
            rows.append(matches.clamp(min=0))
            labels.append(torch.where(matches >= 0, known, matches + 1))
        return rows, labels

    def forward(self, features, proposals, image_shapes, targets=None) -> Proposals:
        """Return what the heads say of all proposals, in training of a sample of them."""
        labels = rows = None
        if self.training:
            proposals, matched, sampled, _ = self.select_training_samples(proposals, targets)
            known = [target["row"] if len(target["row"]) else target["row"].new_zeros(1) for target in targets]
            rows = torch.cat([row[match] for row, match in zip(known, matched, strict=True)])
            labels = torch.cat(sampled)
        logits, codes = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        counts = [len(boxes) for boxes in proposals]
        codes = codes.unflatten(1, (-1, 4))
        return Proposals(torch.cat(proposals), counts, image_shapes[0], logits, codes, labels, rows)


class FasterRCNNNetwork(GeneralizedRCNN):
    """Faster R-CNN from images (B, 3, H, W) in [0, 1] to the second stage's proposals and the first one's losses."""

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[Proposals, dict[str, Tensor]]:
        """Return the proposals, and in training {loss_objectness, loss_rpn_box_reg}.

        The labels of `targets` count from 0.
        """
        height, width = images.shape[-2:]
        sizes = [(height, width)] * len(images)
        features = self.backbone(self.transform.normalize(images))
        devices = [images.device] if images.device.type == "cuda" else []
        # torchvision makes and decodes boxes in the features' precision; bf16 would move them by pixels.
        with torch.autocast(images.device.type, enabled=False), torch.random.fork_rng(devices, enabled=self.training):
            features = {name: each.to(images.dtype) for name, each in features.items()}
            per_image = None
            if self.training and targets is not None:
                torch.manual_seed(self.sampling_seed(targets))
                per_image = per_image_targets(targets, len(images), images.dtype)
            boxes, losses = self.rpn(ImageList(images, sizes), features, per_image)
            return self.roi_heads(features, boxes, sizes, per_image), losses

    def sampling_seed(self, targets: Targets) -> int:
        """Seed the draw of anchors and proposals by weights and truths, so that a resumed run draws the same."""
        state = self.rpn.head.cls_logits.bias.double().sum() + targets.boxes.double().sum()
        return hash(state.item()) & 0x7FFFFFFF


def per_image_targets(targets: Targets, batch_size: int, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Return the truths as torchvision takes them: per image boxes, labels from 1, and each one's row in `targets`."""
    answer = []
    for image in range(batch_size):
        row = (targets.image == image).nonzero().flatten()
        answer.append({"boxes": targets.boxes[row].to(dtype), "labels": targets.labels[row] + 1, "row": row})
    return answer


def faster_rcnn(
    backbone: BackboneWithFPN, num_classes: int, rpn: DenseThreshold, roi: DenseThreshold
) -> FasterRCNNNetwork:
    """Return Faster R-CNN on a feature pyramid with torchvision's settings, randomly initialised."""
    channels = backbone.out_channels
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = RPNHead(channels, generator.num_anchors_per_location()[0])
    kept = ({"training": 2000, "testing": 1000}, {"training": 2000, "testing": 1000})
    first = MatchedRPN(rpn, generator, head, rpn.positive, rpn.negative, 256, 0.5, *kept, nms_thresh=0.7)
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    heads = (TwoMLPHead(channels * 7**2, 1024), FastRCNNPredictor(1024, num_classes + 1))
    # The last three, for torchvision's own postprocessing, are never read.
    second = MatchedRoIHeads(roi, pool, *heads, roi.positive, roi.negative, 512, 0.25, None, 0.05, 0.5, 100)
    return FasterRCNNNetwork(backbone, first, second, GeneralizedRCNNTransform(800, 1333, *IMAGENET))


@dataclass(frozen=True)
class TwoStageLoss:
    """Both stages' losses: any box loss in the second, over all sampled proposals as torchvision averages it.

    `observe` gets (assignment of the sampled proposals, targets, ious (P,), 1 - losses (P,)), all detached.
    """

    box: BoxTerm
    box_gain: float = 1.0
    obj_gain: float = 1.0
    cls_gain: float = 1.0
    observe: Callable[[Assignment, Targets, Tensor, Tensor], None] | None = None
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values

    def __call__(self, proposals: Proposals, first: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return scalar losses {box, objectness, class}; objectness is the region proposal network's two losses."""
        labels, owners = proposals.labels, proposals.rows
        assert labels is not None
        assert owners is not None
        positive = (labels > 0).nonzero().flatten()
        rows = owners[positive]
        truths = targets.boxes[rows].to(proposals.boxes.dtype)
        codes = proposals.codes[positive, labels[positive]]
        around = {
            "image_size": proposals.image_size,
            "over_ranks": self.over_ranks,
            "training": torch.is_grad_enabled(),
        }
        value, boxes = self.box(codes, proposals.boxes[positive], truths, **around)
        boxes = boxes.detach()
        box = (self.box.weight(boxes, truths, **around) * value).sum() / len(labels)
        classes = functional.cross_entropy(proposals.logits, labels)
        if self.observe is not None:
            assignment = sampled_assignment(proposals, positive, rows, len(targets.boxes))
            self.observe(assignment, targets, iou(boxes, truths), 1 - value.detach())
        return {
            "box": box * self.box_gain,
            "objectness": torch.stack(list(first.values())).sum() * self.obj_gain,
            "class": classes * self.cls_gain,
        }


def sampled_assignment(proposals: Proposals, positive: Tensor, rows: Tensor, num_truths: int) -> Assignment:
    """Return the positives (P,) among the sampled proposals, which stand in the place of anchors, for the log."""
    overlap = torch.zeros(len(positive), device=positive.device)
    ignored = torch.zeros(len(proposals.counts), len(proposals.boxes), dtype=torch.bool, device=positive.device)
    unmatched = torch.ones(num_truths, dtype=torch.bool, device=positive.device)
    unmatched[rows] = False
    return Assignment(positive, proposals.image[positive], rows, overlap, ignored, unmatched)


class TwoStageDetector(AnyDetector):
    """Faster R-CNN with its loss and its postprocessing."""

    network: Any  # a FasterRCNNNetwork

    @torch.no_grad()
    def candidates(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return per image boxes (M, 4) and scores (M, C), one class each, of the `top_k` best pairs."""
        proposals, _ = self.network(images)
        coder = self.network.roi_heads.box_coder
        boxes = coder.decode_single(proposals.codes.flatten(1), proposals.boxes).unflatten(1, (-1, 4))[:, 1:]
        scores = proposals.logits.softmax(-1)[:, 1:]
        parts = zip(boxes.split(proposals.counts), scores.split(proposals.counts), strict=True)
        answer = [best_pairs(*part, self.postprocess.top_k) for part in parts]
        return [boxes for boxes, _ in answer], [scores for _, scores in answer]

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Compute {box, objectness, class} of images (B, 3, H, W) in [0, 1]."""
        targets = targets.to(images.device)
        return self.loss(*self.network(images, targets), targets)


def best_pairs(boxes: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Split boxes (N, C, 4) and scores (N, C) into at most `most` boxes (M, 4) of a single class each."""
    best = scores.flatten().topk(min(most, scores.numel())).indices
    proposal, label = best // scores.shape[1], best % scores.shape[1]
    single = scores.new_zeros(len(best), scores.shape[1])
    single[torch.arange(len(best), device=best.device), label] = scores[proposal, label]
    return boxes[proposal, label], single
