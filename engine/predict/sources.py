"""The files of a source that is no stream: photos and videos of a folder, a glob, a list or a path."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data.photo_files import LISTED_SUFFIXES, walk
from utils.errors import UserError, printable
from utils.ultralytics_only import video_suffixes

ANIMATED = ".gif"  # a photo of a data set, and here a video


class Files(NamedTuple):
    """Absolute paths of photos and of videos, how many lie in sub-folders that were not asked for, and the folder.

    `again` counts what the source names another time, and is taken once.
    """

    photos: list[str]
    videos: list[str]
    left: int
    folder: Path | None
    again: int = 0


def files_of(source: str, recursive: bool, listed: Iterable[str] | None = None) -> Files:
    """Find the photos and videos of a source, or of the entries of a list file; UserError where there are none.

    Of a folder, those at its top, or with `recursive` those in all sub-folders too.
    """
    folder = Path(source) if listed is None and Path(source).is_dir() else None
    if recursive and folder is None:
        raise UserError(f"--recursive: expected --source to be a folder, not {printable(source)}")
    entries = [source] if listed is None else list(listed)
    found: list[str] = []
    left = 0
    for entry in entries:
        paths, below = _expanded(entry, recursive)
        found += paths
        left += below
    once: dict[str, str] = {}
    for path in found:
        once.setdefault(os.path.normpath(path), path)
    videos = [path for path in once.values() if path.lower().endswith((*video_suffixes(), ANIMATED))]
    photos = [path for path in once.values() if _is_photo(path)]
    if not photos and not videos:
        hint = f", but {left} in its sub-folders: --recursive takes them" if left else "."
        raise UserError(f"--source {printable(source)}: No images or videos found in {printable(source)}{hint}")
    return Files(photos, videos, left, folder, len(found) - len(once))


def is_there(entry: str) -> bool:
    """Tell whether a path, or something that a glob means, exists."""
    return bool(glob.glob(entry, recursive=True)) if "*" in entry else Path(entry).exists()  # noqa: PTH207


def is_listed(path: str) -> bool:
    """Tell by its suffix whether a file is a photo or a video."""
    return path.lower().endswith((*LISTED_SUFFIXES, *video_suffixes()))


def _is_photo(path: str) -> bool:
    return path.lower().endswith(LISTED_SUFFIXES) and not path.lower().endswith(ANIMATED)


def _expanded(entry: str, recursive: bool) -> tuple[list[str], int]:
    """List the files that an entry means, and count the photos and videos that it leaves out."""
    path = Path(entry)
    if "*" in entry:
        return sorted(str(Path(each).absolute()) for each in glob.glob(entry, recursive=True)), 0  # noqa: PTH207
    if path.is_dir():
        every = _files_below(path.absolute())
        chosen = sorted(str(each) for each in every if recursive or each.parent == path.absolute())
        return chosen, len(every) - len(chosen)
    if not path.exists():
        raise UserError(f"--source {printable(entry)}: {printable(entry)} does not exist")
    return [str(path.absolute())], 0


def _files_below(folder: Path) -> list[Path]:
    """List the photos and videos at or below a folder, hidden ones left out."""
    found = ((parent / name) for parent, names in walk(folder) for name in names if not name.startswith("."))
    return [path for path in found if is_listed(path.name)]
