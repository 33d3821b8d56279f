"""Whatever an array of pixels looks like: the photo that it means, or one clear line."""

import numpy as np
import pytest
import torch
from PIL import Image

from engine.predict.arrays import as_photo
from utils.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = np.full((5, 7, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (RGB.astype(np.float32) / 255, RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float16), RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (np.concatenate([RGB, ALPHA], axis=2), RGB),
        (GREY, np.stack([GREY] * 3, axis=2)),
        (GREY[..., None] / 255, np.stack([GREY] * 3, axis=2)),
        (np.stack([GREY, GREY // 2], axis=2), np.stack([GREY] * 3, axis=2)),
        (torch.from_numpy(RGB), RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY).convert("P"), np.stack([GREY] * 3, axis=2)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, axis=2)),
        (Image.frombytes("I;16B", (7, 5), (GREY.astype(">u2") * 257).tobytes()), np.stack([GREY] * 3, axis=2)),
        (Image.fromarray((GREY / 255).astype(np.float32)), np.stack([GREY] * 3, axis=2)),
        (Image.fromarray(GREY > 100), np.stack([(GREY > 100) * np.uint8(255)] * 3, axis=2)),
        (RGB.astype(">u2") * 257, RGB),
        ((RGB / 255).astype(">f4"), RGB),
        (np.array([[[1 + 1e-5, 0, -1e-5]]]), np.array([[[255, 0, 0]]], np.uint8)),
    ],
    ids=lambda value: f"{getattr(value, 'dtype', getattr(value, 'mode', ''))}{np.shape(value)}",
)
def test_what_an_array_means(given, expected):
    photo = as_photo(given)
    assert (photo.dtype, photo.shape) == (np.uint8, expected.shape)
    assert photo.flags.c_contiguous
    assert np.array_equal(photo, expected)


def test_sixteen_bits_are_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(as_photo(values)[..., 0], np.rint(values / 257).astype(np.uint8))
    assert np.array_equal(as_photo(Image.fromarray(values)), as_photo(values))
    twelve = values >> 4  # as a camera of 12 bits has them
    assert np.array_equal(as_photo(Image.fromarray(twelve), bits=12), as_photo(twelve, bits=12))


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 5, 3), (4, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_nothing_is_a_photo_of_nothing(shape, kind):
    photo = as_photo(np.zeros(shape, kind))
    assert (photo.size, photo.ndim, photo.shape[2]) == (0, 3, 3)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (RGB.astype(np.float32), "values from 0 to 2"),
        (RGB / 255 - 0.5, "values from -0.5"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.full((4, 4, 3), np.inf), "inf"),
        (RGB.astype(np.int64), "an array of int64"),
        (Image.fromarray(GREY.astype(np.int32)), "an array of int32"),
        (Image.fromarray(GREY.astype(np.float32)), "an array of float32 with values from 1 to 2"),
        (RGB > 100, "an array of bool"),
        (RGB.astype(complex), "an array of complex128"),
        (RGB.astype(object), "an array of object"),
        (RGB[None], r"shape \(1, 5, 7, 3\)"),
        (RGB.transpose(2, 0, 1), r"shape \(3, 5, 7\)"),
        (np.uint8(3), r"shape \(\)"),
        (np.zeros(9, np.uint8), r"shape \(9,\)"),
        (torch.zeros(4, 4, 3, device="meta"), "no array in memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_meaning_says_what_was_expected(given, why):
    with pytest.raises(UserError, match=f"{why}.*expected RGB") as told:
        as_photo(given)
    assert "\n" not in str(told.value)
