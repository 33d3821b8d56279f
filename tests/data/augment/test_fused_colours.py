"""The compiled pass for colours and flips gives what OpenCV gives, to the bit, or is not used."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

import data.augment.fused_colours as fused_module
import data.augment.pixels as pixels
from data.augment.augmentation import Augmentation, Draft, develop, draw_gains, draw_mosaic, draw_single
from data.augment.colours import recolour
from data.augment.fused_colours import fused_colours
from tests.data.augment.test_augmentation import a_part

needs_pass = pytest.mark.skipif(fused_colours(640) is None, reason="no compiled pass here: no llvmlite, or no FMA")
STRENGTHS = Augmentation(hsv_h=0.3, hsv_s=0.9, hsv_v=0.9)


@needs_pass
def test_every_colour_becomes_what_opencv_makes_of_it():
    levels = np.arange(256, dtype=np.uint8)
    colours = np.empty((256, 256, 256, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = levels[:, None, None], levels[:, None], levels
    colours = colours.reshape(8192, 2048, 3)
    gains = np.array([1.011, 1.37, 0.81])
    out = fused_colours(2048)(colours, gains, False, False, np.empty_like(colours))
    assert np.array_equal(out, recolour(colours, gains))


@needs_pass
@pytest.mark.parametrize("width", [64, 100, 416, 640])
@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
def test_any_gains_and_flips_are_opencvs(width, flip_x, flip_y):
    rng = np.random.default_rng(width)
    image = rng.integers(0, 256, (37, width, 3), np.uint8)
    before = image.copy()
    for _ in range(40):
        gains = draw_gains(STRENGTHS, rng)
        flipped = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        expected = recolour(flipped.copy(), gains)
        out = np.zeros_like(image)
        assert np.array_equal(fused_colours(width)(image, gains, flip_x, flip_y, out), expected)
    assert np.array_equal(image, before)


@needs_pass
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (96, 160), (90, 200)])
@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(fliplr=0.5, flipud=0.5),
        Augmentation(fliplr=0.5, flipud=0.5, degrees=10),
        replace(STRENGTHS, translate=0.9, scale=0.9, fliplr=1),
        Augmentation(hsv_h=0.9, fliplr=0.5),
        Augmentation(hsv_h=0, hsv_s=0, hsv_v=0),
    ],
)
@pytest.mark.parametrize("photos", ["mosaic", "single", "blended"])
def test_painted_images_are_those_of_opencv_alone(size, settings, photos, monkeypatch):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        parts = [a_part(size, rng) for _ in range(4)]
        drawn = [draw_mosaic(parts, size, settings, rng), draw_mosaic(parts[::-1], size, settings, rng)]
        if photos != "blended":
            drawn = drawn[:1] if photos == "mosaic" else [draw_single(parts[0], size, settings, rng)]
        (image,) = develop([Draft(tuple(drawn), 0.4, draw_gains(settings, rng))])
        painted = pixels.paint(image.image)
        with monkeypatch.context() as patched:
            patched.setattr(pixels, "fused_colours", lambda width: None)
            assert np.array_equal(painted, pixels.paint(image.image))


@pytest.fixture
def afresh():
    fused_colours.cache_clear()
    yield
    fused_colours.cache_clear()


@needs_pass
def test_where_opencv_computes_otherwise_the_pass_is_not_used(afresh, monkeypatch):
    def one_pixel_off(image, gains):
        image = recolour(image, gains)
        image[-1, -1, 0] ^= 1
        return image

    monkeypatch.setattr(fused_module, "recolour", one_pixel_off)
    assert fused_colours(640) is None
    monkeypatch.setattr(pixels, "recolour", lambda image, gains: cv2.bitwise_not(image))
    image = pixels.Recipe((pixels.Layout((), pixels.Views(*map(np.zeros, ((0, 4), (0, 4), (0, 3, 3)))), (64, 640)),))
    assert (pixels.paint(image._replace(gains=np.ones(3))) == 255 - 114).all()


def test_without_llvmlite_there_is_no_pass(afresh, monkeypatch):
    monkeypatch.setattr(fused_module.importlib.util, "find_spec", lambda name: None)
    fused_module._compiled.cache_clear()
    assert fused_colours(640) is None
    fused_module._compiled.cache_clear()


def test_an_image_narrower_than_a_block_has_no_pass():
    assert fused_colours(32) is None
