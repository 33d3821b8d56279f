"""Postprocessing against a slow scalar NMS, and its promises."""

import pytest
import torch
from torchvision.ops import box_iou, nms

from alignyolo.anchors import build_anchors
from models.postprocess import Postprocess
from models.yolov3.decoding import Decoding

ANCHORS = build_anchors((64, 64), [16, 32], [[(10, 14), (23, 27)], [(81, 82), (135, 169)]])


def random_raw(classes=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, len(ANCHORS.centers), 5 + classes, generator=generator) * 2


def detections(postprocess, raw):
    return postprocess(*Decoding().candidates(raw, ANCHORS))


def slow_detections(raw, confidence, nms_iou, limit):
    boxes = Decoding().boxes(raw[:, :4], ANCHORS)
    candidates = []
    for box, row in zip(boxes, raw, strict=True):
        for label, logit in enumerate(row[5:]):
            score = row[4].sigmoid() * logit.sigmoid()
            if score > confidence:
                candidates.append((score.item(), label, box))
    candidates.sort(key=lambda each: -each[0])
    kept = []
    for score, label, box in candidates:
        overlaps = [box_iou(box[None], other[None]).item() for _, name, other in kept if name == label]
        if all(overlap <= nms_iou for overlap in overlaps):
            kept.append((score, label, box))
    return kept[:limit]


def test_equals_a_scalar_nms():
    raw = random_raw()
    for found, image in zip(detections(Postprocess(confidence=0.05, nms_iou=0.5), raw), raw, strict=True):
        expected = slow_detections(image, 0.05, 0.5, 300)
        assert found["labels"].tolist() == [label for _, label, _ in expected]
        assert torch.allclose(found["scores"], torch.tensor([score for score, _, _ in expected]))
        assert torch.allclose(found["boxes"], torch.stack([box for _, _, box in expected]))


def test_keeps_the_best_and_nothing_below_the_confidence():
    raw = random_raw(classes=8)
    everything = detections(Postprocess(confidence=0.0, nms_iou=1.0, max_detections=100_000), raw)[0]
    assert len(everything["scores"]) == len(ANCHORS.centers) * 8
    few = detections(Postprocess(confidence=0.0, nms_iou=1.0, max_detections=7, top_k=20), raw)[0]
    assert torch.equal(few["scores"], everything["scores"][:7])
    assert len(detections(Postprocess(confidence=0.9999), raw)[0]["boxes"]) == 0


def test_single_label_keeps_one_class_per_box():
    raw = random_raw()
    found = Postprocess(confidence=0.0, nms_iou=1.0, max_detections=10_000, multi_label=False)(
        *Decoding().candidates(raw, ANCHORS)
    )[0]
    assert len(found["scores"]) == len(ANCHORS.centers)


def test_low_precision_outputs_are_decoded_in_float32():
    found = detections(Postprocess(), random_raw().to(torch.bfloat16))[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


@pytest.mark.parametrize("boxes", [100, 1500])
@pytest.mark.parametrize("last_class", [2, 79, 1202])
def test_no_class_disturbs_another(boxes, last_class):
    """Small boxes of one class near the threshold, beside one box of the first class at the border of the photo."""
    generator = torch.Generator().manual_seed(last_class)
    for _ in range(20):
        corner = torch.rand(boxes, 2, generator=generator) * (600 if boxes > 1000 else 60)
        small = torch.cat([corner, corner + 3 + 8 * torch.rand(boxes, 2, generator=generator)], 1)
        score = (1 + torch.randperm(boxes, generator=generator)) / (2 * boxes)  # no two are equal
        scores = torch.zeros(boxes + 1, last_class + 1)
        scores[:boxes, last_class], scores[boxes, 0] = score, 0.95
        both = torch.cat([small, torch.tensor([[600.0, 600, 640, 640]])])
        found = Postprocess(0.0, 0.5, max_detections=boxes + 1).select(both, scores)
        kept = found["labels"] == last_class
        assert torch.equal(found["boxes"][kept], small[nms(small.double(), score.double(), 0.5)])
        assert (~kept).sum() == 1


@pytest.mark.parametrize("others", [0, 1500])
def test_an_overlap_that_is_the_limit_is_not_above_it(others):
    """Two boxes of IoU 24 / 40, which float32 rounds to more than .6, alone and among many of another class."""
    pair = torch.tensor([[0.0, 0, 32, 32], [8, 0, 40, 32]])
    far = 100 + 50 * torch.arange(others)[:, None] + torch.tensor([0.0, 0, 10, 10])
    scores = torch.zeros(2 + others, 2)
    scores[:2, 0], scores[2:, 1] = torch.tensor([0.9, 0.8]), 0.5
    boxes = torch.cat([pair, far])
    for limit, expected in ((0.59, 1), (0.6, 2)):
        found = Postprocess(0.1, limit, max_detections=2000).select(boxes, scores)
        assert (found["labels"] == 0).sum() == expected
        assert (found["labels"] == 1).sum() == others
