"""Arrays that a model is called with, as photos: grey or colour, of bytes, 16 bits or fractions."""

from typing import Any

import numpy as np

from utils.errors import UserError, printable

EXPECTED = "expected RGB (h, w, 3), grey (h, w), or with alpha (h, w, 4), of uint8, uint16, or floats from 0 to 1"
# What resizing may leave beyond 0 and 1 by rounding.
ROUNDING = 1e-3


def is_array(source: Any) -> bool:
    """Tell whether a source is an array, a tensor or a picture in memory, and no path."""
    # Pillow from 13 on has the latter alone. It decodes the picture when asked for it, which its class does not.
    return hasattr(source, "__array__") or hasattr(type(source), "__array_interface__")


def as_photo(source: Any, bits: int = 0) -> np.ndarray:
    """Turn an array into a photo (h, w, 3) of uint8 RGB without alpha; UserError for what has no meaning.

    uint16 is scaled by `bits`, as files are (data/images.py), or with 0 by all 16.
    """
    # Pillow's pictures may have a palette. Those of 16 bits (I;16), 32 (I) or floats (F) are arrays as they are: Pillow
    # would clip them at 255 instead of scaling them.
    try:
        if hasattr(source, "convert") and not getattr(source, "mode", "").startswith(("I", "F")):
            source = source.convert("RGB")
        array = np.asarray(source)
    except (TypeError, RuntimeError, OSError, ValueError) as error:  # a tensor on a GPU, a picture cut off or closed
        raise UserError(f"an image that is no array in memory ({printable(error, 80)}): {EXPECTED}") from None
    if not array.size:
        return np.zeros((*array.shape[:2], 3) if array.ndim == 3 else (0, 0, 3), np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise UserError(f"an array of shape {np.shape(source)}: {EXPECTED}; several images as a list")
    pixels = _bytes(array.astype(array.dtype.newbyteorder("="), copy=False), bits or 16)
    colours = 1 if array.shape[2] <= 2 else 3
    return np.ascontiguousarray(np.broadcast_to(pixels[..., :colours], (*array.shape[:2], 3)))


def _bytes(array: np.ndarray, bits: int) -> np.ndarray:
    """Return pixels of any accepted type as uint8, the whole range of the type, or of uint16's `bits`, on 0 to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        top = 2 ** min(bits, 16) - 1
        return ((array.astype(np.uint32).clip(0, top) * 255 + top // 2) // top).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"an array of {array.dtype}: {EXPECTED}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also where one of them is not a number
        raise UserError(f"an array of {array.dtype} with values from {low:g} to {high:g}: {EXPECTED}")
    return np.rint(array.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
