"""Upright boxes around what tools draw turned: boxes and ellipses, in pixels, by degrees clockwise."""

import math
from collections.abc import Iterable
from typing import Any

TURNED = "rotated box: the upright box around it is used"

Corners = tuple[float, float, float, float]


def around(points: Iterable[tuple[float, float]]) -> Corners:
    """Find the upright box around points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned_around(corner: tuple[float, float], sides: tuple[float, float], degrees: float) -> Corners:
    """Find the upright box around a box that is turned about its first corner."""
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    (x, y), (wide, high) = corner, sides
    points = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in ((0, 0), (wide, 0), (wide, high), (0, high))]
    return around(points)


def turned_box(corners: Corners, degrees: float) -> Corners:
    """Find the upright box around a box that is turned about its centre; one without area stays as it is."""
    left, top, right, bottom = corners
    if not is_turned(degrees) or right <= left or bottom <= top:
        return corners
    wide, high = (right - left) / 2, (bottom - top) / 2
    cos, sin = _shares(degrees)
    return _about(((left + right) / 2, (top + bottom) / 2), (wide * cos + high * sin, wide * sin + high * cos))


def turned_ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> Corners:
    """Find the upright box around an ellipse that is turned about its centre."""
    cos, sin = _shares(degrees)
    wide, high = radii
    return _about(centre, (math.hypot(wide * cos, high * sin), math.hypot(wide * sin, high * cos)))


def is_turned(degrees: float) -> bool:
    """Tell whether a turn is none of whole circles."""
    return math.fmod(degrees, 360) != 0


def turn_of(attributes: Any) -> float:
    """Read the turn that CVAT and datumaro write among the attributes of an upright box; 0 for what is none.

    It is about the box's centre.
    """
    degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
    if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not abs(degrees) < 1e9:
        return 0.0
    return float(degrees) if is_turned(degrees) else 0.0


def _shares(degrees: float) -> tuple[float, float]:
    """Give the absolute cosine and sine: exactly 0 and 1 for quarter turns, which are most."""
    quarters, rest = divmod(degrees, 90)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    return (sin, cos) if quarters % 2 else (cos, sin)


def _about(centre: tuple[float, float], half: tuple[float, float]) -> Corners:
    return centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]
