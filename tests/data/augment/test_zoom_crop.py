"""SSD's windows: what the paper asks of them, on random photos, and what becomes of the boxes in them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from data.augment.augmentation import Augmentation, Draft, Labelled, develop, draw_single, draw_view, draw_window
from data.augment.pixels import paint
from data.augment.zoom_crop import LEAST_OVERLAPS, Window, centre_inside, iou_crop, zoom_out
from utils.letterbox import PADDING

STILL = Augmentation(0, 0, 0, translate=0, scale=0, fliplr=0)
WHOLE = Window(0, 0, 120, 80)


def random_boxes(rng, count=5, size=(80, 120)):
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(-1, 4) * np.tile(size[::-1], 2)
    return corners.astype(np.float32)


def test_zooming_out_keeps_the_photo_and_its_shape():
    rng, zooms = np.random.default_rng(0), []
    for _ in range(2000):
        left, top, right, bottom = zoom_out(WHOLE, rng)
        assert left <= 0 and top <= 0 and right >= 120 and bottom >= 80
        zooms.append((right - left) / 120)
        assert (bottom - top) / 80 == pytest.approx(zooms[-1], abs=2 / 80)
    assert 1 <= min(zooms) < 1.05 and 3.95 < max(zooms) <= 4
    assert np.mean(zooms) == pytest.approx(2.5, abs=0.05)


def test_a_crop_holds_a_centre_and_overlaps_as_drawn():
    """Every limit occurs: the largest IoU of an object whose centre is inside is at least the limit's."""
    rng, largest, wholes = np.random.default_rng(0), [], 0
    for _ in range(600):
        boxes = random_boxes(rng)
        crop = iou_crop(WHOLE, boxes, rng)
        left, top, right, bottom = crop
        assert 0 <= left < right <= 120 and 0 <= top < bottom <= 80
        if crop == WHOLE:
            wholes += 1
            continue
        width, height = right - left, bottom - top
        assert width >= 0.3 * 120 - 1 and height >= 0.3 * 80 - 1 and max(width, height) <= 2 * min(width, height)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > (left, top)) & (centres < (right, bottom))).all(1)
        assert inside.any() and inside.tolist() == centre_inside(crop, boxes).tolist()
        overlaps = box_iou(torch.tensor([crop]).float(), torch.from_numpy(boxes))[0].numpy()
        largest.append(overlaps[inside].max())
    assert 600 / 7 * 0.8 < wholes < 600 * 0.5
    assert all((np.array(largest) >= limit).mean() > least for limit, least in ((0.1, 0.7), (0.5, 0.2), (0.7, 0.04)))


@pytest.mark.parametrize("limit", LEAST_OVERLAPS)
def test_every_limit_is_met(limit, monkeypatch):
    monkeypatch.setattr("data.augment.zoom_crop.LEAST_OVERLAPS", (limit,))
    rng, crops = np.random.default_rng(1), 0
    for _ in range(300):
        boxes = np.concatenate([random_boxes(rng), np.array([[8, 6, 112, 74]], np.float32)])
        crop = iou_crop(WHOLE, boxes, rng)
        inside = centre_inside(crop, boxes)
        if crop != WHOLE:
            crops += 1
            best = box_iou(torch.tensor([crop]).float(), torch.from_numpy(boxes))[0].numpy()[inside].max()
            assert best >= limit - 1e-6
    assert crops >= 30


def test_nothing_to_overlap_leaves_the_photo_whole():
    rng = np.random.default_rng(0)
    assert all(iou_crop(WHOLE, np.zeros((0, 4), np.float32), rng) == WHOLE for _ in range(20))


def test_a_tiny_photo_is_cropped_without_complaint():
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = iou_crop(zoom_out(Window(0, 0, 1, 3), rng), np.array([[0, 0, 1, 2]], np.float32), rng)
        assert min(crop.size) >= 1


def made(composition) -> Labelled:
    """The image of a composition with its boxes."""
    (drawn,) = develop([Draft((composition,))])
    return drawn._replace(image=paint(drawn.image))


def painted(boxes):
    """Black with every object full in a channel of its own, so that a box can be found again in the picture."""
    image = np.zeros((80, 120, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        image[y1:y2, x1:x2, number] = 255
    return Labelled(image, boxes, np.arange(len(boxes)))


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_boxes_stay_on_their_objects(size, flip):
    boxes = np.array([[4, 6, 40, 30], [50, 10, 110, 40], [20, 44, 70, 76]], np.float32)
    part, settings = painted(boxes), replace(STILL, zoom_out=0.5, iou_crop=1.0, fliplr=flip)
    kept = 0
    for seed in range(60):
        found = made(draw_single(part, size, settings, np.random.default_rng(seed)))
        assert found.image.shape == (*size, 3) and found.boxes.dtype == np.float32
        assert (found.boxes >= 0).all() and (found.boxes <= np.tile(size[::-1], 2)).all()
        for box, label in zip(found.boxes, found.labels.tolist(), strict=True):
            ys, xs = (found.image[..., label] > 127).nonzero()
            np.testing.assert_allclose(box, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=1)
            kept += 1
    assert kept > 60


def test_the_window_decides_which_boxes_stay():
    boxes = np.array([[0, 0, 20, 20], [50, 20, 70, 60], [58, 0, 120, 80]], np.float32)
    found = made(draw_view(painted(boxes), Window(40, 10, 80, 70), (60, 40), STILL, np.random.default_rng(0)))
    # The second alone has its centre inside; the third's lies at x 89.
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[10, 10, 30, 50]])


def test_a_window_is_the_photo_resized():
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (120, 80), interpolation=cv2.INTER_CUBIC)
    part = Labelled(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    found = made(draw_view(part, Window(20, 10, 80, 50), (80, 120), STILL, rng)).image
    expected = cv2.resize(image[10:50, 20:80], (120, 80), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found.astype(int) - expected)[4:-4, 4:-4].max() <= 4
    beyond = made(draw_view(part, Window(-60, -40, 180, 120), (80, 120), STILL, rng)).image
    assert (beyond[:19] == PADDING).all() and (beyond[:, :29] == PADDING).all() and beyond[40, 60].tolist() != [114] * 3


def test_probabilities_and_the_generator():
    """Each as often as asked; with both off no number is drawn, so that other runs stay as they were."""
    part = painted(np.array([[4, 6, 40, 30]], np.float32))
    rng = np.random.default_rng(0)
    shown = [draw_window(part, replace(STILL, zoom_out=0.3), rng) for _ in range(1000)]
    assert 0.25 < np.mean([window != WHOLE for window in shown]) < 0.35
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    draw_single(part, (96, 96), Augmentation(), first)
    draw_single(part, (96, 96), replace(Augmentation(), mosaic=0), second)
    assert first.random() == second.random()
