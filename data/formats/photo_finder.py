"""Finds the photo that an annotation names, where its path is that of another machine, folder or export."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath

from data.formats.reading import BadAnnotation
from data.photo_files import exists, is_photo_name, walk
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


SPLIT_TOKEN = re.compile(
    r"(?:valminus)?(?:mini)?(?:(train)(?:ing)?(val)?|(val)(?:id|idation)?|(test)(?:ing)?)(?:set|dev)?"
)
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}

# Tells whether a folder of this name belongs to another subset.
Foreign = Callable[[str], bool]


def splits_named(name: str) -> frozenset[str]:
    """List the splits that a name holds as whole words, without years: both of them for `trainval`."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    found = [match.groups() for word in words if (match := SPLIT_TOKEN.fullmatch(word))]
    return frozenset(split for groups in found for split in groups if split)


def foreign_to(subset: str, others: Iterable[str] = (), alias: str = "") -> Foreign:
    """Make the test whether a folder is another subset's: called like it, or after another split than this one.

    `alias` is another name of the subset.
    """
    own, called = splits_named(subset) | splits_named(alias), {subset.lower(), alias.lower()}
    taken = {other.lower() for other in others} - {*called, ""}

    def foreign(folder: str) -> bool:
        splits = splits_named(folder)
        return folder.lower() not in called and (folder.lower() in taken or bool(own and splits and not own & splits))

    return foreign


def folders_of_subset(subset: str) -> list[str]:
    """Name the folders that a subset's photos may lie in: its own name, then the other words for its split."""
    if not subset or PurePosixPath(subset).name != subset or subset == "..":
        return []
    splits = splits_named(subset)
    words = SPLIT_FOLDERS[next(iter(splits))] if len(splits) == 1 else ()
    return list(dict.fromkeys((subset, *words)))


def own_first(folders: Iterable[Path], foreign: Foreign) -> list[Path]:
    """Put the folders that the user named in order: those that are called like another subset last."""
    return sorted(folders, key=lambda folder: foreign(Path(folder).name))


class PhotosBelow:
    """The photos at and below some folders by their names; listed once, when the first is asked for.

    Where there are more than `most` folders, none is found: a search that nobody asked for must not take minutes.
    """

    def __init__(self, folders: Iterable[Path], most: float = math.inf) -> None:
        self._folders, self._most = list(dict.fromkeys(folders)), most
        self._found: dict[str, list[tuple[Path, tuple[str, ...]]]] | None = None
        self.searched: list[Path] = []  # the folders that were listed, once they were

    def called(self, name: str) -> list[tuple[Path, tuple[str, ...]]]:
        """List the photos of this file name, each with the names of the folders between it and ours."""
        if self._found is None:
            self._found = defaultdict(list)
            for folder in self._folders:
                for parent, names in walk(folder):
                    self.searched.append(parent)
                    if len(self.searched) > self._most:
                        self._found.clear()
                        return []
                    for photo in filter(is_photo_name, names):
                        self._found[photo].append((parent / photo, parent.relative_to(folder).parts))
        return self._found.get(name, [])


class PhotoFinder:
    """Looks for photos in a few folders: by their name there, else by the longest end of it that fits one photo only.

    `names` are all the file names of the annotation file: an end that two of them share names nothing. With `below` a
    photo may also lie in any of those folders, except in those that are `foreign` and that its name does not hold:
    another subset has photos of the same names. Paths with `..`, absolute ones and a server's are never followed.
    """

    def __init__(
        self,
        names: Iterable[str],
        folders: Iterable[Path],
        below: PhotosBelow | None = None,
        foreign: Foreign = lambda folder: False,
    ) -> None:
        self.folders, self._below, self._foreign = list(dict.fromkeys(folders)), below, foreign
        self._names = [self._spellings(name) for name in dict.fromkeys(names)]
        self._ends: dict[int, Counter[tuple[str, ...]]] = {}
        if (noted := _noted.get()) is not None:
            noted.append(self)

    def _spellings(self, name: str) -> Collection[str]:
        """List the names under which a photo may lie."""
        return (name,)

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
        if self._below and self._sharers(parts[-1:]) == 1 and (found := self._one(self._anywhere(parts), name)):
            return found, PurePosixPath(parts[-1])
        raise BadAnnotation(LEAVES if outside else NOT_FOUND_HINT, name if outside else "")

    def shared(self, name: str) -> bool:
        """Tell whether several of the photos may be called so."""
        return self._sharers(_parts(name)) > 1

    def places(self) -> set[Path]:
        """List the folders that were looked into; of those that are not there, the first that is missing."""
        parents = {_parts(each)[:-1] for spellings in self._names for each in spellings}
        ends = {parts[start:] for parts in parents for start in range(len(parts) + 1)}
        there: dict[Path, bool] = {}
        found = set(self._below.searched if self._below else [])
        for folder in self.folders:
            for end in ends:
                place = folder
                for part in end:
                    if not there.setdefault(place, exists(place, Path.is_dir)):
                        break
                    place /= part
                found.add(place)
        return found

    def _one(self, candidates: Iterable[Path], name: str) -> Path | None:
        found = {os.path.realpath(path): path for path in candidates if self._is_file(path)}
        if len(found) > 1:
            raise BadAnnotation(SEVERAL, f"{name}: {', '.join(map(str, list(found)[:2]))}")
        return next(iter(found.values()), None)

    def _sharers(self, end: tuple[str, ...]) -> int:
        """Count the file names that end so."""
        if len(end) not in self._ends:
            tails = [{_parts(each)[-len(end) :] for each in spellings} for spellings in self._names]
            self._ends[len(end)] = Counter(tail for own in tails for tail in own if len(tail) == len(end))
        return self._ends[len(end)][end]

    def _anywhere(self, parts: tuple[str, ...]) -> list[Path]:
        """List the photos of this name below the folders, without those that are another subset's."""
        found = self._below.called(parts[-1]) if self._below else []
        return [photo for photo, above in found if not any(self._foreign(each) for each in above if each not in parts)]

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
