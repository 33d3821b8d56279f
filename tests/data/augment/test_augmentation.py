"""Augmentation: geometry against a slow version with a real canvas, distributions, and what becomes of the boxes."""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from data.augment.augmentation import (
    Augmentation,
    Composition,
    Draft,
    Labelled,
    Transform,
    develop,
    draw_gains,
    draw_mosaic,
    draw_share,
    draw_single,
    draw_transform,
    mosaic_corners,
    transform_boxes,
    worth_keeping,
)
from data.augment.colours import recolour
from data.augment.pixels import Layout, paint
from utils.letterbox import Letterbox

STILL = Augmentation(0, 0, 0, translate=0, scale=0, fliplr=0)
SIZES = [(96, 96), (64, 128), (160, 96)]
SETTINGS = {
    "still": STILL,
    "baseline": Augmentation(),
    "flips": replace(STILL, flipud=1, fliplr=1),
    "far": Augmentation(translate=0.9, scale=0.9, flipud=0.5),
    "turned": Augmentation(degrees=180),
    "sheared": Augmentation(degrees=10, shear=15),
    "perspective": Augmentation(degrees=10, shear=5, perspective=0.001),
    "horizon": Augmentation(perspective=0.01),
}
# Upright images whose edges lie between pixels.
ROUNDED = ("baseline", "far")
EXACT = [name for name in SETTINGS if name not in ROUNDED]


def a_part(size: tuple[int, int], rng: np.random.Generator, boxes: int = 12) -> Labelled:
    """A smooth random image that fits `size` as a photo would, with random boxes."""
    ratio = np.exp(rng.uniform(-1, 1))
    height, width = Letterbox.fit((int(1000 * ratio), 1000), size).inner
    image = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), axis=1).reshape(-1, 4) * np.tile((width, height), 2)
    return Labelled(image, corners.astype(np.float32), rng.integers(0, 80, boxes))


def made(*compositions: Composition, share: float = 1.0) -> Labelled:
    """The image of one composition, or of two blended, with its boxes."""
    (drawn,) = develop([Draft(compositions, share)])
    return drawn._replace(image=paint(drawn.image))


def a_mosaic(parts, size, settings, rng) -> Labelled:
    return made(draw_mosaic(parts, size, settings, rng))


def a_single(part, size, settings, rng) -> Labelled:
    return made(draw_single(part, size, settings, rng))


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def slow_compose(parts, corners, canvas_size, size, transform):
    """The same on a real canvas: paste, warp everything at once, and boxes one by one."""
    canvas = np.full((*canvas_size, 3), 114, np.uint8)
    painted = np.zeros(canvas_size, np.uint8)
    rows = []
    for number, (part, (left, top)) in enumerate(zip(parts, corners, strict=True), 1):
        for y in range(max(top, 0), min(top + part.image.shape[0], canvas_size[0])):
            x1, x2 = max(left, 0), min(left + part.image.shape[1], canvas_size[1])
            canvas[y, x1:x2] = part.image[y - top, x1 - left : x2 - left]
            painted[y, x1:x2] = number
        for box, label in zip(part.boxes.astype(float), part.labels, strict=True):
            moved = slow_box(box + (left, top, left, top), canvas_size, size, transform)
            if moved is not None:
                rows.append((*moved, label))
    to_output = shift(-0.5, -0.5) @ transform.matrix @ shift(0.5, 0.5)
    image = cv2.warpPerspective(canvas, to_output, size[::-1], borderValue=(114, 114, 114))
    # A pixel is at a seam unless all within two pixels of it comes from one image, or from none.
    kernel, painted = np.ones((5, 5), np.uint8), np.pad(painted, 4)
    even = (cv2.erode(painted, kernel) == cv2.dilate(painted, kernel)).astype(np.uint8) * 255
    inner = cv2.warpPerspective(even, to_output @ shift(-4, -4), size[::-1], borderValue=255) == 255
    return image, np.array(rows).reshape(-1, 5), inner


def slow_box(box, canvas_size, size, transform):
    """One box clipped to the canvas, moved, clipped to the output; None where too little of it is left."""
    limits = np.array(canvas_size[::-1] * 2)
    before = (box[2:] - box[:2]) * transform.scale
    clipped = np.clip(box, 0, limits)
    points = []
    for x in clipped[[0, 2]]:
        for y in clipped[[1, 3]]:
            px, py, w = transform.matrix @ (x, y, 1)
            if w <= 1e-6:
                return None
            points.append((px / w, py / w))
    moved = np.clip((*np.min(points, 0), *np.max(points, 0)), 0, np.array(size[::-1] * 2))
    for after in ((clipped[2:] - clipped[:2]) * transform.scale, moved[2:] - moved[:2]):
        if min(after) <= 2 or after.prod() <= 0.1 * before.prod() or max(after) >= 100 * min(after):
            return None
    return moved


def assert_same(result, oracle, tolerance=2.0):
    image, rows, inner = oracle
    assert result.image.shape == image.shape
    assert result.labels.tolist() == rows[:, 4].tolist()
    np.testing.assert_allclose(result.boxes, rows[:, :4], atol=1e-3)
    difference = np.abs(result.image.astype(int) - image)[inner]
    assert inner.mean() > 0.2
    assert difference.mean() < tolerance / 4
    # Not one pixel far off: coordinates are rounded to 1/32 pixel, and these images are smooth.
    assert np.quantile(difference, 0.999) <= 12


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", SIZES)
def test_a_mosaic_equals_one_made_on_a_canvas(size, name):
    kept = 0
    for seed in range(12):
        parts = [a_part(size, np.random.default_rng((seed, k))) for k in range(4)]
        result = a_mosaic(parts, size, SETTINGS[name], np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        centre = int(rng.uniform(0.5, 1.5) * size[1]), int(rng.uniform(0.5, 1.5) * size[0])
        canvas = 2 * size[0], 2 * size[1]
        transform = draw_transform(canvas, size, SETTINGS[name], rng)
        assert_same(result, slow_compose(parts, mosaic_corners(parts, centre), canvas, size, transform))
        kept += len(result.labels)
    assert kept > 50


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", SIZES)
def test_a_single_image_equals_its_letterbox_warped(size, name):
    for seed in range(12):
        part = a_part(size, np.random.default_rng(seed))
        result = a_single(part, size, SETTINGS[name], np.random.default_rng(seed))
        transform = draw_transform(size, size, SETTINGS[name], np.random.default_rng(seed))
        box = Letterbox.fit(part.image.shape[:2], size)
        assert_same(result, slow_compose([part], [(box.left, box.top)], size, size, transform))


class Rounding(NamedTuple):
    """A mosaic or a single image, what was drawn for it, and the layout that it was painted from."""

    parts: list[Labelled]
    corners: list[tuple[int, int]]
    canvas: tuple[int, int]
    transform: Transform
    layout: Layout
    result: Labelled


def rounded(size: tuple[int, int], settings: Augmentation, seed: int, single: bool) -> Rounding:
    parts = [a_part(size, np.random.default_rng((seed, k))) for k in range(1 if single else 4)]
    rng = np.random.default_rng(seed)
    drawn = draw_single(parts[0], size, settings, rng) if single else draw_mosaic(parts, size, settings, rng)
    (found,) = develop([Draft((drawn,))])
    result = found._replace(image=paint(found.image))
    return Rounding(parts, drawn.corners, drawn.canvas, drawn.transform, found.image.layouts[0], result)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_an_upright_image_fills_whole_pixels_less_than_one_from_its_place(size, single, name):
    seen = 0
    for seed in range(40):
        drawn = rounded(size, SETTINGS[name], seed, single)
        for corner, shown, window, matrix in zip(drawn.corners, *drawn.layout.views, strict=True):
            if window[0] >= window[2] or window[1] >= window[3]:
                continue
            seen += 1
            np.testing.assert_allclose(transform_boxes(shown[None].astype(float), matrix)[0], window, atol=1e-9)
            exact = transform_boxes(shown[None] + np.array(corner * 2, float), drawn.transform.matrix)[0]
            assert np.abs(exact - window).max() <= max(1, drawn.transform.scale) / 2 + 1e-9
    assert seen >= 20


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("size", SIZES)
def test_an_upright_image_is_its_photos_by_bilinear_look_up(size, name):
    for seed in range(20):
        drawn = rounded(size, SETTINGS[name], seed, single=False)
        expected = np.full((*size, 3), 114.0)
        for part, shown, window, matrix in zip(drawn.parts, *drawn.layout.views, strict=True):
            (left, top, right, bottom), (x1, y1, x2, y2) = shown, window
            if x1 >= x2 or y1 >= y2:
                continue
            inside = part.image[top:bottom, left:right].astype(float)
            x = ((np.arange(x1, x2) + 0.5 - matrix[0, 2]) / matrix[0, 0] - left - 0.5).clip(0, right - left - 1)
            y = ((np.arange(y1, y2) + 0.5 - matrix[1, 2]) / matrix[1, 1] - top - 0.5).clip(0, bottom - top - 1)
            for values, axis in ((y, 0), (x, 1)):
                low = np.floor(values).astype(int)
                high = (low + 1).clip(max=inside.shape[axis] - 1)
                share = (values - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
                inside = inside.take(low, axis) * (1 - share) + inside.take(high, axis) * share
            expected[y1:y2, x1:x2] = inside
        assert np.abs(drawn.result.image - expected).max() <= 1


def test_how_opencv_is_set_stays_as_it_was():
    for wanted in (True, False):
        cv2.ipp.setUseIPP_NotExact(wanted)
        before = cv2.ipp.useIPP_NotExact()
        rounded((64, 96), SETTINGS["baseline"], 0, single=False)
        assert cv2.ipp.useIPP_NotExact() == before


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("single", [True, False])
def test_boxes_move_with_their_rounded_image(single, name):
    kept = 0
    for seed in range(40):
        size = SIZES[seed % 3]
        drawn = rounded(size, SETTINGS[name], seed, single)
        rows = []
        for part, corner, shown, matrix in zip(
            drawn.parts, drawn.corners, drawn.layout.views.shown, drawn.layout.views.matrices, strict=True
        ):
            for box, label in zip(part.boxes.astype(float), part.labels, strict=True):
                offset, limits = np.array(corner * 2), np.array(drawn.canvas[::-1] * 2)
                whole = (box[2:] - box[:2]) * drawn.transform.scale
                on_canvas = np.clip(box + offset, 0, limits) * drawn.transform.scale
                cut = np.clip(box, shown[[0, 1, 0, 1]], shown[[2, 3, 2, 3]])
                ends = np.array([(matrix @ (*point, 1))[:2] for point in (cut[:2], cut[2:])])
                moved = np.array([*ends.min(0), *ends.max(0)])
                sides = [each[2:] - each[:2] for each in (on_canvas, moved)]
                if all(
                    min(each) > 2 and each.prod() > 0.1 * whole.prod() and max(each) < 100 * min(each) for each in sides
                ):
                    rows.append((*moved, label))
        expected = np.array(rows).reshape(-1, 5)
        assert drawn.result.labels.tolist() == expected[:, 4].tolist()
        np.testing.assert_allclose(drawn.result.boxes, expected[:, :4], atol=1e-3)
        kept += len(rows)
    assert kept > 50


@pytest.mark.parametrize("settings", [STILL, replace(STILL, fliplr=0.5, scale=0.2), replace(STILL, degrees=8, shear=5)])
def test_neighbours_in_a_mosaic_leave_no_crack(settings):
    size = (256, 192)
    white = Labelled(np.full((*size, 3), 255, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for seed in range(60):
        image = a_mosaic([white] * 4, size, settings, np.random.default_rng(seed)).image
        # Wherever their corner lies, four images as large as the output cover its middle.
        assert (image[64:-64, 48:-48] == 255).all()


def test_without_change_a_single_image_is_its_letterbox_and_a_flip_is_a_flip():
    size = (64, 96)
    part = a_part(size, np.random.default_rng(3))
    box = Letterbox.fit(part.image.shape[:2], size)
    same = a_single(part, size, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(same.image, box.pad(part.image))
    flipped = a_single(part, size, replace(STILL, fliplr=1), np.random.default_rng(0))
    np.testing.assert_array_equal(flipped.image, same.image[:, ::-1])
    np.testing.assert_allclose(flipped.boxes, np.array([96, 0, 96, 0]) + same.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1])
    turned = a_single(part, size, replace(STILL, flipud=1, fliplr=1), np.random.default_rng(0))
    np.testing.assert_array_equal(turned.image, same.image[::-1, ::-1])


@pytest.mark.parametrize("name", ["baseline", "turned", "sheared", "perspective"])
def test_a_coloured_square_stays_under_its_box(name):
    """The box of the pixels that an object really covers after the warp, found in the picture, is the one returned."""
    size, checked = (128, 160), 0
    for seed in range(30):
        image = np.zeros((*size, 3), np.uint8)
        image[40:80, 60:110] = 255
        part = Labelled(image, np.array([[60, 40, 110, 80]], np.float32), np.array([5]))
        result = a_mosaic([part] * 4, size, SETTINGS[name], np.random.default_rng(seed))
        for box, label in zip(result.boxes, result.labels, strict=True):
            x1, y1, x2, y2 = box
            if min(x1, y1) < 1 or x2 > size[1] - 1 or y2 > size[0] - 1:
                continue
            lit = result.image[..., 0] > 127
            lit[result.image[..., 0] == 114] = False
            around = np.zeros_like(lit)
            around[max(int(y1) - 2, 0) : int(y2) + 3, max(int(x1) - 2, 0) : int(x2) + 3] = True
            rows, columns = np.where(lit & around)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, found, atol=1.6)
            assert label == 5
            checked += 1
    assert checked >= 15


def test_the_centre_goes_where_translation_allows_and_the_scale_is_uniform():
    settings = Augmentation(translate=0.2, scale=0.4, fliplr=0.25, flipud=0.75)
    rng = np.random.default_rng(0)
    draws = [draw_transform((200, 400), (100, 300), settings, rng) for _ in range(4000)]
    centres = np.array([draw.matrix @ (200, 100, 1) for draw in draws])[:, :2] / (300, 100)
    scales = np.array([draw.scale for draw in draws])
    assert (centres.min(), centres.max()) == (pytest.approx(0.3, abs=0.005), pytest.approx(0.7, abs=0.005))
    assert (scales.min(), scales.max()) == (pytest.approx(0.6, abs=0.005), pytest.approx(1.4, abs=0.005))
    assert np.abs(np.histogram(scales, 8)[0] / 500 - 1).max() < 0.2
    flips = np.array([np.sign(np.diag(draw.matrix)[:2]) for draw in draws])
    assert (flips < 0).mean(0).tolist() == pytest.approx([0.25, 0.75], abs=0.03)
    np.testing.assert_allclose(np.abs([np.linalg.det(draw.matrix) for draw in draws]), scales**2)


def test_rotation_and_shear_stay_within_their_degrees():
    rng = np.random.default_rng(0)
    turned = [draw_transform((9, 9), (9, 9), replace(STILL, degrees=30), rng).matrix for _ in range(500)]
    angles = np.degrees([np.arctan2(matrix[0, 1], matrix[0, 0]) for matrix in turned])
    assert (angles.min(), angles.max()) == (pytest.approx(-30, abs=1), pytest.approx(30, abs=1))
    sheared = [draw_transform((9, 9), (9, 9), replace(STILL, shear=20), rng).matrix for _ in range(500)]
    for slant in (
        np.degrees(np.arctan([matrix[0, 1] for matrix in sheared])),
        np.degrees(np.arctan([matrix[1, 0] for matrix in sheared])),
    ):
        assert (slant.min(), slant.max()) == (pytest.approx(-20, abs=1), pytest.approx(20, abs=1))


def test_which_boxes_are_kept():
    before = np.array([[0, 0, 100, 100]] * 8, float)
    after = [[0, 0, 100, 11], [0, 0, 100, 9.9], [0, 0, 2, 90], [0, 0, 50, 50], [5, 5, 5, 50], [9, 9, 3, 3]]
    after += [[np.nan] * 4, [0, 0, 1000, 9]]
    assert worth_keeping(before, np.array(after)).tolist() == [True, False, False, True, False, False, False, False]


def test_boxes_beyond_the_horizon_are_nan_and_empty_lists_stay_empty():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    boxes = transform_boxes(np.array([[0.0, 0, 50, 10], [0, 0, 150, 10]]), matrix)
    assert boxes[0].tolist() == [0, 0, 100, 20]
    assert np.isnan(boxes[1]).all()
    assert transform_boxes(np.zeros((0, 4)), matrix).shape == (0, 4)


@pytest.mark.parametrize("degrees", [0, 20])
def test_images_without_boxes(degrees):
    part = Labelled(np.zeros((30, 60, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for result in (
        a_mosaic([part] * 4, (60, 60), Augmentation(degrees=degrees), np.random.default_rng(0)),
        a_single(part, (60, 60), Augmentation(degrees=degrees), np.random.default_rng(0)),
        made(*[draw_single(part, (60, 60), Augmentation(degrees=degrees), np.random.default_rng(0))] * 2, share=0.4),
    ):
        assert (result.boxes.shape, result.labels.shape) == ((0, 4), (0,))
        assert (result.boxes.dtype, result.labels.dtype, result.image.dtype) == (np.float32, np.int64, np.uint8)


def test_mixup_blends_near_the_middle_and_keeps_all_boxes():
    black, white = (
        a_part((32, 32), np.random.default_rng(k))._replace(image=np.full((32, 32, 3), v, np.uint8))
        for k, v in ((0, 0), (1, 255))
    )
    shares = [draw_share(np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.01)
    # The variance of Beta(32, 32).
    assert np.var(shares) == pytest.approx(0.25 / 65, rel=0.15)
    drawn = [draw_single(part, (32, 32), STILL, np.random.default_rng(0)) for part in (black, white)]
    alone = [made(one) for one in drawn]
    both = made(*drawn, share=shares[0])
    blended = shares[0] * alone[0].image + (1 - shares[0]) * alone[1].image
    np.testing.assert_allclose(both.image, blended, atol=0.51)
    np.testing.assert_array_equal(both.boxes, np.concatenate([each.boxes for each in alone]))
    np.testing.assert_array_equal(both.labels, np.concatenate([each.labels for each in alone]))


@pytest.mark.parametrize("order", [1, -1])
def test_drafts_developed_together_are_those_developed_alone(order):
    """Upright and slanted ones, of one photo and of four, blended, without boxes, of different sizes."""
    drafts = []
    for seed, settings in enumerate(SETTINGS.values()):
        size, rng = SIZES[seed % 3], np.random.default_rng(seed)
        parts = [a_part(size, np.random.default_rng((seed, k)), boxes=(seed + k) % 3 * 5) for k in range(4)]
        drawn = [draw_mosaic(parts, size, settings, rng), draw_single(parts[0], size, settings, rng)]
        drafts += [Draft((drawn[0],)), Draft((drawn[1],)), Draft(tuple(drawn), 0.3, np.array([1, 0.5, 1.2]))]
    drafts = drafts[::order]
    for draft, found in zip(drafts, develop(drafts), strict=True):
        (alone,) = develop([draft])
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.labels, alone.labels)
        np.testing.assert_array_equal(paint(found.image), paint(alone.image))


def test_colours_are_multiplied_by_channel_within_their_strength():
    photo = np.random.default_rng(0).integers(30, 226, (40, 40, 3), np.uint8)
    hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV).astype(float)
    for channel, name in enumerate(("hsv_h", "hsv_s", "hsv_v")):
        ratios = []
        for seed in range(200):
            gains = draw_gains(replace(STILL, **{name: 0.1}), np.random.default_rng(seed))
            image = recolour(photo.copy(), gains)
            after = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(float)
            chosen = (hsv[..., channel] > 60) & (hsv[..., channel] < 150) & (hsv[..., 1] > 60)
            ratios.append((after[..., channel][chosen] / hsv[..., channel][chosen]).mean())
            other = (channel + 2) % 3 if channel else 2
            assert np.abs(after - hsv)[..., other][chosen].mean() < 3
        assert (min(ratios), max(ratios)) == (pytest.approx(0.9, abs=0.02), pytest.approx(1.1, abs=0.02))


def test_without_strengths_no_colour_changes():
    assert draw_gains(STILL, np.random.default_rng(0)) is None


def test_parts_are_not_written_to():
    parts = [a_part((64, 64), np.random.default_rng(k)) for k in range(4)]
    before = [(part.image.copy(), part.boxes.copy()) for part in parts]
    for name in SETTINGS:
        composition = draw_mosaic(parts, (64, 64), SETTINGS[name], np.random.default_rng(1))
        (drawn,) = develop([Draft((composition,), 1.0, np.array([1, 0.5, 1.2]))])
        paint(drawn.image)
        a_single(parts[0], (64, 64), SETTINGS[name], np.random.default_rng(1))
    for part, (image, boxes) in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part.image, image)
        np.testing.assert_array_equal(part.boxes, boxes)
