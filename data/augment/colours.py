"""Colours of an augmented image: hue, saturation and value, multiplied by OpenCV."""

from collections.abc import Callable

import cv2
import numpy as np

BAND = 128


def recolour(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the image (h, w, 3) uint8 RGB with hue, saturation and value multiplied by gains (3,), in place."""
    multiply = _channel_multiplier(gains, image.shape[1])
    # In bands that stay in the processor's cache from one operation to the next.
    for first in range(0, len(image), BAND):
        band = image[first : first + BAND]
        cv2.cvtColor(band, cv2.COLOR_RGB2HSV, dst=band)
        multiply(band)
        cv2.cvtColor(band, cv2.COLOR_HSV2RGB, dst=band)
    return image


def beyond_bytes(gains: np.ndarray) -> bool:
    """Tell whether a hue, which OpenCV counts in half degrees, times its gain can exceed what a byte holds."""
    return gains[0] * 180 > 255


def as_factors(gains: np.ndarray) -> tuple[np.ndarray, float]:
    """Return gains (3,) as whole factors (3,) uint8 times one unit: the hue's exactly, the others to about 1/150."""
    unit = gains[0] / max(int(255 * gains[0] / gains.max()), 1)
    return (gains / unit).round().clip(0, 255).astype(np.uint8), unit


def _channel_multiplier(gains: np.ndarray, width: int) -> Callable[[np.ndarray], object]:
    """Make a function that multiplies hue, saturation and value of (h, width, 3) uint8 in place, h <= BAND.

    As a product of two pictures and one number, which OpenCV computes in a third of the time that a table takes. A hue
    may go beyond 180; only where it would go beyond 255 it takes a table after all.
    """
    if beyond_bytes(gains):
        table = np.arange(256)[:, None] * gains
        table[:, 0] %= 180
        table = table.clip(0, 255).astype(np.uint8)[None]
        return lambda band: cv2.LUT(band, table, dst=band)
    whole, unit = as_factors(gains)
    factors = np.empty((BAND, width, 3), np.uint8)
    factors[:] = np.tile(whole, (width, 1))
    return lambda band: cv2.multiply(band, factors[: len(band)], dst=band, scale=unit)
