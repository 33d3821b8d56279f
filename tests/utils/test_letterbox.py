"""Letterbox: where the photo lands, and boxes there and back."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from utils.letterbox import PADDING, Letterbox

SIZES = [((480, 640), (640, 640)), ((640, 480), (320, 416)), ((100, 100), (64, 96)), ((37, 91), (256, 320))]
SIZES += [((1, 3000), (64, 64)), ((333, 500), (640, 640))]


@pytest.mark.parametrize(("original", "size"), SIZES)
def test_the_photo_fills_exactly_the_place_that_its_own_box_maps_to(original, size):
    box = Letterbox.fit(original, size)
    image = box.apply(np.full((*original, 3), 255, np.uint8))
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    rows, columns = np.where((image != PADDING).all(axis=2))
    whole = box.boxes(np.array([[0, 0, original[1], original[0]]], np.float64))[0]
    assert whole.tolist() == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (image[rows, columns] == 255).all()


@pytest.mark.parametrize(("original", "size"), SIZES)
def test_the_padding_is_even_and_one_side_has_none(original, size):
    box = Letterbox.fit(original, size)
    height, width = box.inner
    rest = size[0] - height, size[1] - width
    assert min(rest) == 0
    assert (box.top, box.left) == (rest[0] // 2, rest[1] // 2)
    assert box.scale == min(size[0] / original[0], size[1] / original[1])


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32, torch.float64])
@pytest.mark.parametrize(("original", "size"), SIZES)
def test_undo_brings_boxes_back(original, size, kind):
    corners = np.sort(np.random.default_rng(0).uniform(0, 1, (50, 2, 2)), axis=1).reshape(50, 4)
    boxes = corners * np.tile((original[1], original[0]), 2)
    boxes = torch.tensor(boxes, dtype=kind) if isinstance(kind, torch.dtype) else boxes.astype(kind)
    box = Letterbox.fit(original, size)
    back = box.undo(box.boxes(boxes))
    assert type(back) is type(boxes)
    assert back.dtype == boxes.dtype
    np.testing.assert_allclose(back, boxes, atol=2e-6 * max(original) * max(1, 1 / box.scale))


def test_undo_clips_to_the_photo():
    box = Letterbox.fit((100, 200), (64, 64))
    assert box.undo(torch.tensor([[-50.0, -50, 500, 500]])).tolist() == [[0, 0, 200, 100]]
    assert box.undo(torch.zeros(0, 4)).shape == (0, 4)


def test_a_white_square_in_the_photo_is_where_its_box_says():
    photo = np.zeros((200, 400, 3), np.uint8)
    photo[40:120, 100:300] = 255
    box = Letterbox.fit((200, 400), (96, 160))
    x1, y1, x2, y2 = box.boxes(np.array([[100.0, 40, 300, 120]]))[0]
    image = box.apply(photo)[..., 0] > 128
    rows, columns = np.where(image & (np.arange(96)[:, None] >= box.top) & (np.arange(96)[:, None] < 96 - box.top))
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx([x1, y1, x2, y2], abs=0.51)


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    photo = np.repeat(checks[..., None].astype(np.uint8), 3, axis=2)
    small = Letterbox.fit((64, 64), (16, 16)).apply(photo)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_growing_is_bilinear_as_torch_does_it():
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = Letterbox.fit((20, 30), (50, 75)).apply(photo)
    planes = torch.from_numpy(photo).permute(2, 0, 1)[None].double()
    expected = functional.interpolate(planes, size=(50, 75), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(image, expected[0].permute(1, 2, 0), atol=1.01)
