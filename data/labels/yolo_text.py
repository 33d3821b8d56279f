"""The text of YOLO label files: `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...` per line, fractions of the image."""

import math
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError, printable


class Rows(NamedTuple):
    """Label lines in order: values (M, 5) float64 class cx cy w h, image (M,) and line (M,) where each stands."""

    values: np.ndarray
    image: np.ndarray
    line: np.ndarray

    def where(self, paths: Sequence[Path], row: int) -> str:
        """The `file:line` of a row."""
        return f"{paths[self.image[row]]}:{self.line[row]}"


def parse_labels(
    texts: Sequence[bytes | None], paths: Sequence[Path], wrong: list[tuple[int, int, str]] | None = None
) -> Rows:
    """The lines of all texts (None = no file), polygons as their box; UserError names file and line of a wrong one.

    With a list `wrong` such lines are left out and added to it instead: (row of the file, line, what is wrong).
    """
    values, image, line = array("d"), array("q"), array("q")
    for i, (text, path) in enumerate(zip(texts, paths, strict=True)):
        if not text:
            continue
        rows = [row.split() for row in text.removeprefix(b"\xef\xbb\xbf").splitlines()]
        found = _plain_numbers(rows)
        if found is not None:
            values.extend(found)
            line.extend(range(1, len(rows) + 1))
            image.extend([i] * len(rows))
            continue
        for number, tokens in enumerate(rows, 1):
            if not tokens:
                continue
            try:
                parsed = _parse_line(tokens, path, number)
            except UserError as error:
                if wrong is None:
                    raise
                wrong.append((i, number, str(error).removeprefix(f"{printable(path)}:{number}: ")))
                continue
            values.extend(parsed)
            line.append(number)
            image.append(i)
    return Rows(*(np.array(part) for part in (np.array(values).reshape(-1, 5), image, line)))


def _plain_numbers(rows: list[list[bytes]]) -> list[float] | None:
    """All numbers of a file in which every line is `class cx cy w h`; None if one line is anything else."""
    if any(len(row) != 5 for row in rows):
        return None
    tokens = list(chain.from_iterable(rows))
    try:
        numbers = list(map(float, tokens))
    except ValueError:
        return None
    plain = all(map(math.isfinite, numbers)) and not any(b"_" in token for token in tokens)
    return numbers if plain else None


def _parse_line(tokens: list[bytes], path: Path, line: int) -> tuple[float, ...]:
    """One label line, a box or a polygon, as class cx cy w h; UserError if it is neither."""
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
        return tuple(numbers)
    if len(numbers) < 7 or len(numbers) % 2 == 0:
        raise UserError(
            f"{where}: expected `class cx cy w h`, or a class and the x y of at least 3 points; "
            f"found {len(numbers)} numbers: {text!r}"
        )
    label, *points = numbers
    xs, ys = points[0::2], points[1::2]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def check_classes(rows: Rows, paths: Sequence[Path], num_classes: int) -> None:
    """UserError at the first class id that is no whole number from 0 to num_classes - 1."""
    ids = rows.values[:, 0]
    wrong = np.flatnonzero((ids != np.floor(ids)) | (ids < 0) | (ids >= num_classes))
    if not len(wrong):
        return
    row = wrong[0]
    where = rows.where(paths, row)
    if ids[row] != math.floor(ids[row]):
        raise UserError(f"{printable(where)}: class id {ids[row]:g} is not a whole number")
    used = np.unique(ids)
    one_based = used[0] == 1 and used[-1] == num_classes
    hint = " (they look 1-based: the first class is 0)" if one_based else ""
    raise UserError(
        f"{printable(where)}: class id {ids[row]:.15g}, valid are 0 to {num_classes - 1} ({num_classes} classes); "
        f"ids used: {_ranges(used)}{hint}"
    )


def _ranges(ids: np.ndarray, limit: int = 12) -> str:
    """Ascending whole numbers as text such as `0-3, 7`."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    texts = [f"{run[0]:.15g}" if len(run) == 1 else f"{run[0]:.15g}-{run[-1]:.15g}" for run in runs]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")
