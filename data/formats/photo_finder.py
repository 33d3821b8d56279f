"""Finds the photo that an annotation names, where its path is that of another machine, folder or export."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath

from data.formats.reading import BadAnnotation
from data.photo_files import exists, photos_below, walk
from utils.errors import printable

DRIVE = re.compile(r"^[A-Za-z]:")
NOT_FOUND = "photo not found"
NOT_FOUND_HINT = f"{NOT_FOUND} (--photos names its folder)"
LEAVES = "file name leaves the photos' folder"
SEVERAL = "several photos fit this file name"

_noted: ContextVar["list[PhotoFinder] | None"] = ContextVar("_noted", default=None)


@contextmanager
def finders_noted() -> "Iterator[list[PhotoFinder]]":
    """Collect the finders that are made until the block ends: what a reader finds depends on where they look."""
    found: list[PhotoFinder] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


class PhotoFinder:
    """Looks for photos in a few folders: by their name there, else by the longest end of it that fits one photo only.

    `names` are all the file names of the annotation file: an end that two of them share names nothing. With `deep` a
    photo may also lie in any folder below. Paths with `..`, absolute ones and those of a server are never followed.
    """

    def __init__(self, names: Iterable[str], folders: Sequence[Path], deep: bool = False) -> None:
        self.folders, self.deep = list(dict.fromkeys(folders)), deep
        self._names = list(names)
        self._ends: dict[int, Counter[tuple[str, ...]]] = {}
        self._below: dict[str, list[Path]] | None = None
        if (noted := _noted.get()) is not None:
            noted.append(self)

    def find(self, name: str) -> tuple[Path, PurePosixPath]:
        """Find a photo, and its place: the part of its name that was found. BadAnnotation if there is not just one."""
        path = PurePosixPath(DRIVE.sub("/", name))
        outside = path.is_absolute() or ".." in path.parts
        parts = _parts(name)
        if not parts:
            raise BadAnnotation(LEAVES if outside else "image without a file name", name)
        if not outside:
            for folder in self.folders:
                if self._is_file(folder.joinpath(*parts)):
                    return folder.joinpath(*parts), PurePosixPath(*parts)
        for length in range(len(parts) - (0 if outside else 1), 0, -1):
            end = parts[-length:]
            if self._sharers(end) > 1:
                break
            if found := self._one([folder.joinpath(*end) for folder in self.folders], name):
                return found, PurePosixPath(*end)
        if self.deep and self._sharers(parts[-1:]) == 1 and (found := self._one(self._anywhere(parts[-1]), name)):
            return found, PurePosixPath(parts[-1])
        raise BadAnnotation(LEAVES if outside else NOT_FOUND_HINT, name if outside else "")

    def places(self) -> set[Path]:
        """List the folders that were looked into; of those that are not there, the first that is missing."""
        parents = {_parts(name)[:-1] for name in self._names}
        ends = {parts[start:] for parts in parents for start in range(len(parts) + 1)}
        there: dict[Path, bool] = {}
        found = set()
        for folder in self.folders:
            for end in ends:
                place = folder
                for part in end:
                    if not there.setdefault(place, exists(place, Path.is_dir)):
                        break
                    place /= part
                found.add(place)
            if self._below is not None:
                found.update(parent for parent, _ in walk(folder))
        return found

    def _one(self, candidates: Iterable[Path], name: str) -> Path | None:
        found = {os.path.realpath(path): path for path in candidates if self._is_file(path)}
        if len(found) > 1:
            raise BadAnnotation(SEVERAL, f"{name}: {', '.join(map(str, list(found)[:2]))}")
        return next(iter(found.values()), None)

    def _sharers(self, end: tuple[str, ...]) -> int:
        """Count the file names that end so."""
        if len(end) not in self._ends:
            tails = (_parts(name)[-len(end) :] for name in dict.fromkeys(self._names))
            self._ends[len(end)] = Counter(tail for tail in tails if len(tail) == len(end))
        return self._ends[len(end)][end]

    def _anywhere(self, name: str) -> list[Path]:
        if self._below is None:
            self._below = defaultdict(list)
            for folder in self.folders:
                for photo in photos_below(folder):
                    self._below[photo.name].append(photo)
        return self._below.get(name, [])

    @staticmethod
    def _is_file(path: Path) -> bool:
        try:
            return path.is_file()
        except (OSError, ValueError) as error:
            raise BadAnnotation("file name that no file can have", printable(error)) from error


def _parts(name: str) -> tuple[str, ...]:
    """Split a file name into its folders and itself, without what leads out of the photos' folder."""
    parts = PurePosixPath(DRIVE.sub("/", name)).parts
    # What stands before the last `..` is another folder's.
    last = max((place for place, part in enumerate(parts) if part == ".."), default=-1)
    return tuple(part for part in parts[last + 1 :] if part not in ("/", "//"))
