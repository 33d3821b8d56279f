"""JSON files of labelling tools: which there are, how they begin, numbers that are numbers."""

import math
from pathlib import Path

from utils.regular_file import require_regular

HEAD = 2**16


def json_files(source: Path, deep: bool = False) -> list[Path]:
    """List a JSON file itself, or those of a folder, or with `deep` of its sub-folders too."""
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" else []
    if not source.is_dir():
        return []
    return sorted(source.rglob("*.json") if deep else source.glob("*.json"))


def head_of(path: Path) -> bytes:
    """Read the beginning of a file, spaces left out; nothing where it cannot be read."""
    try:
        with require_regular(path).open("rb") as file:
            return file.read(HEAD).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return b""


def number(value: object) -> float:
    """Read a finite number of a JSON file; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e9:
        raise ValueError("no number")
    return float(value)


def pixels(height: object, width: object) -> tuple[int, int]:
    """Read a photo's (height, width); zeros for what is none."""
    sides = [side if type(side) is int and 0 < side < 10**6 else 0 for side in (height, width)]
    return (sides[0], sides[1]) if all(sides) else (0, 0)
