"""How many pixels a photo may have: a damaged or hostile header can promise more than memory holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from utils.config.knobs import LARGEST_PHOTO

_most = LARGEST_PHOTO


def allow_pixels(most: int) -> None:
    """Let this process read photos of up to `most` pixels (`--max-pixels`); larger ones are refused by name."""
    global _most
    _most = most


@contextmanager
def pixels_allowed(most: int) -> Iterator[None]:
    """Let this process read photos of up to `most` pixels until the block ends."""
    before = _most
    allow_pixels(most)
    try:
        yield
    finally:
        allow_pixels(before)


def pixel_limit() -> int:
    """Tell how many pixels a photo may have in this process."""
    return _most


def part_of_key() -> str:
    """Add what decides which photos can be read to what a cache depends on: another limit, and pillow-heif's HEIC."""
    limit = "" if _most == LARGEST_PHOTO else f" {_most} pixels"
    return limit + (" HEIC" if find_spec("pillow_heif") else "")
