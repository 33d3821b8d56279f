"""The text of YOLO label files, fractions of the image: a line is one of

class cx cy w h                   a box
class x1 y1 x2 y2 x3 y3 ...       a polygon, or the four corners of a turned box: the upright box around its points
class cx cy w h  x y (v) ...      a box with key points, where the data YAML says `kpt_shape`: its box
"""

import math
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError, printable

# How `keypoints` says that nothing is known about rows of many numbers, or that they are polygons for sure.
NO_KEYPOINTS, POLYGONS = 0, -1
# Bits of a row's kind; a plain box has none.
POLYGON, CORNERS, KEYPOINTS, LIKE_POSE = 1, 2, 4, 8
INSIDE = 0.01
# Of the long rows, from which on they are unclear. Rows of key points may have some beyond their box; of small polygons
# all over the photos about .45 are like them.
SHARE_LIKE_POSE = 0.75


class Rows(NamedTuple):
    """Label lines in order: values (M, 5) float64 class cx cy w h, kind (M,), image (M,) and line (M,) of each."""

    values: np.ndarray
    image: np.ndarray
    line: np.ndarray
    kind: np.ndarray

    def only(self, mask: np.ndarray) -> "Rows":
        """Take the rows where the mask (M,) is true."""
        return Rows(*(part[mask] for part in self))

    def where(self, paths: Sequence[Path], row: int) -> str:
        """Return the `file:line` of a row."""
        return f"{paths[self.image[row]]}:{self.line[row]}"


def parse_labels(
    texts: Sequence[bytes | None],
    paths: Sequence[Path],
    wrong: list[tuple[int, int, str]] | None = None,
    keypoints: int = NO_KEYPOINTS,
) -> Rows:
    """Read the lines of all texts (None = no file); UserError names file and line of a wrong one.

    With a list `wrong` such lines are left out and added to it instead: (row of the file, line, what is wrong).
    """
    values, image, line, kind = array("d"), array("q"), array("q"), array("B")
    for i, (text, path) in enumerate(zip(texts, paths, strict=True)):
        if not text:
            continue
        rows = [row.split() for row in text.removeprefix(b"\xef\xbb\xbf").splitlines()]
        found = _plain_numbers(rows)
        if found is not None:
            values.extend(found)
            line.extend(range(1, len(rows) + 1))
            image.extend([i] * len(rows))
            kind.extend([0] * len(rows))
            continue
        for number, tokens in enumerate(rows, 1):
            if not tokens:
                continue
            try:
                parsed, form = _parse_line(tokens, path, number, keypoints)
            except UserError as error:
                if wrong is None:
                    raise
                wrong.append((i, number, str(error).removeprefix(f"{printable(path)}:{number}: ")))
                continue
            values.extend(parsed)
            line.append(number)
            image.append(i)
            kind.append(form)
    return Rows(*(np.array(part) for part in (np.array(values).reshape(-1, 5), image, line, kind)))


def _plain_numbers(rows: list[list[bytes]]) -> list[float] | None:
    """Return all numbers of a file in which every line is `class cx cy w h`; None if one line is anything else."""
    if any(len(row) != 5 for row in rows):
        return None
    tokens = list(chain.from_iterable(rows))
    try:
        numbers = list(map(float, tokens))
    except ValueError:
        return None
    plain = all(map(math.isfinite, numbers)) and not any(b"_" in token for token in tokens)
    return numbers if plain else None


def _parse_line(tokens: list[bytes], path: Path, line: int, keypoints: int) -> tuple[tuple[float, ...], int]:
    """Read one label line as class cx cy w h, and its kind; UserError if it is neither box nor polygon."""
    text = printable(b" ".join(tokens).decode("utf-8", "replace"), 80)
    where = f"{printable(path)}:{line}"
    try:
        # float() would take the underscores of Python's own numbers.
        numbers = [float(token.replace(b"_", b"?")) for token in tokens]
    except ValueError:
        raise UserError(f"{where}: expected numbers, `class cx cy w h`, found {text!r}") from None
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: a number that is not finite: {text!r}")
    if len(numbers) == 5:
        return tuple(numbers), 0
    if keypoints > 0:
        if len(numbers) == 5 + keypoints:
            return tuple(numbers[:5]), KEYPOINTS
        raise UserError(
            f"{where}: `kpt_shape` in the data YAML makes a row 5 numbers, or 5 and {keypoints} of key points; "
            f"found {len(numbers)}: {text!r}"
        )
    if len(numbers) < 7 or len(numbers) % 2 == 0:
        raise UserError(
            f"{where}: expected `class cx cy w h`, or a class and the x y of at least 3 points; "
            f"found {len(numbers)} numbers: {text!r}"
        )
    label, *points = numbers
    xs, ys = points[0::2], points[1::2]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    kind = POLYGON | (CORNERS if len(xs) == 4 else 0) | (LIKE_POSE if _like_pose(numbers) else 0)
    return (label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), kind


def _like_pose(numbers: list[float]) -> bool:
    """Tell whether a row could be a box that lies in the image and key points that lie in the box."""
    _, x, y, w, h, *rest = numbers
    if min(x - w / 2, y - h / 2) < -INSIDE or max(x + w / 2, y + h / 2) > 1 + INSIDE or min(w, h) <= 0:
        return False

    def inside(points: Sequence[tuple[float, ...]]) -> bool:
        # A point that is not there has zeros, or 0 as its visibility.
        placed = [point for point in points if any(point[:2]) and (len(point) == 2 or point[2] != 0)]
        return bool(placed) and all(
            abs(point[0] - x) <= w / 2 + INSIDE and abs(point[1] - y) <= h / 2 + INSIDE for point in placed
        )

    pairs = list(zip(rest[::2], rest[1::2], strict=False))
    triples = list(zip(rest[::3], rest[1::3], rest[2::3], strict=False)) if len(rest) % 3 == 0 else []
    seen = triples and all(point[2] in (0, 1, 2) for point in triples)
    return inside(pairs) or bool(seen and inside(triples))


def unclear_kinds(rows: Rows, keypoints: int) -> tuple[int, str] | None:
    """Return the first row and what to say where most rows of many numbers could be key points as well as polygons."""
    many = np.flatnonzero(rows.kind & POLYGON)
    like = np.flatnonzero(rows.kind & LIKE_POSE)
    if keypoints or not len(many) or len(like) < SHARE_LIKE_POSE * len(many):
        return None
    shown = "all" if len(like) == len(many) else f"{len(like)} of the"
    return int(like[0]), (
        f"this row, as {shown} {len(many)} of more than 5 numbers, could be "
        "a box with key points or a polygon: say `kpt_shape: [points, 2 or 3]` or `task: segment` (or obb) in the "
        "data YAML"
    )


def check_kinds(rows: Rows, paths: Sequence[Path], keypoints: int) -> None:
    """Refuse labels most of whose rows of many numbers could be key points as well as polygons."""
    unclear = unclear_kinds(rows, keypoints)
    if unclear:
        row, why = unclear
        raise UserError(f"{printable(rows.where(paths, row))}: {why}")


def wrong_classes(rows: Rows, num_classes: int) -> np.ndarray:
    """Tell which rows (M,) have a class id that is no whole number from 0 to num_classes - 1."""
    ids = rows.values[:, 0]
    return (ids != np.floor(ids)) | (ids < 0) | (ids >= num_classes)


def check_classes(rows: Rows, paths: Sequence[Path], num_classes: int) -> None:
    """Raise UserError at the first class id that is no whole number from 0 to num_classes - 1."""
    ids = rows.values[:, 0]
    wrong = np.flatnonzero(wrong_classes(rows, num_classes))
    if not len(wrong):
        return
    row = wrong[0]
    where = rows.where(paths, row)
    if ids[row] != math.floor(ids[row]):
        raise UserError(f"{printable(where)}: class id {ids[row]:g} is not a whole number")
    raise UserError(
        f"{printable(where)}: class id {ids[row]:.15g}, valid are 0 to {num_classes - 1} ({num_classes} classes); "
        f"ids used: {_ranges(np.unique(ids))}{one_based(rows, num_classes)}"
    )


def one_based(rows: Rows, num_classes: int) -> str:
    """Say so where class ids look as if they were counted from 1; nothing else."""
    ids = rows.values[:, 0]
    from_one = len(ids) > 0 and ids.min() == 1 and ids.max() == num_classes
    return " (they look 1-based: the first class is 0)" if from_one else ""


def _ranges(ids: np.ndarray, limit: int = 12) -> str:
    """Return ascending whole numbers as text such as `0-3, 7`."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    texts = [f"{run[0]:.15g}" if len(run) == 1 else f"{run[0]:.15g}-{run[-1]:.15g}" for run in runs]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")
