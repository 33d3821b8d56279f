"""Which files are photos, by their names, and where they lie below a folder or on the lines of a list."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from utils.errors import UserError, printable
from utils.regular_file import require_regular

IMAGE_SUFFIXES: tuple[str, ...] = (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jp2", ".mpo", ".png")
IMAGE_SUFFIXES += (".tif", ".tiff", ".webp")
# Photos too: they are listed, and those that cannot be read here are named, with what would read them.
HEIF_SUFFIXES = (".heic", ".heif")
UNREAD_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".exr", ".jxl", ".nef", ".orf", ".psd", ".raf", ".rw2")
LISTED_SUFFIXES = IMAGE_SUFFIXES + HEIF_SUFFIXES + UNREAD_SUFFIXES
ENTRIES_TRIED = 20
# What a folder of train.py and one of val.py hold; detect.py's may hold drawn photos alone.
RUNS = ({"config.yaml", "env.json"}, {"metrics.json", "metrics.csv"})
DETECTED = f"{os.sep}runs{os.sep}detect"
NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that could not be decoded
# A photo or label of a set that was converted into the cache (data/open/any_layout.py).
CONVERTED = re.compile(
    r"(?P<root>/[^\n]*?/sets/[0-9a-f]{24})/(?P<kind>images|labels)/"
    rf"(?P<name>[^\n]+?\.(?:txt|{'|'.join(suffix[1:] for suffix in LISTED_SUFFIXES)}))(?::(?P<line>\d+))?(?![\w.])",
    re.IGNORECASE,
)


def is_photo_name(name: str) -> bool:
    """Tell whether a file of this name is taken for a photo: by its suffix, and hidden files are none."""
    return name.lower().endswith(LISTED_SUFFIXES) and not name.startswith(".")


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder at or below this one with the names in it; linked ones last, and each of them once.

    So a link back up ends nowhere, and a folder keeps the path that it has without links, where it has one. Runs below
    it are left out: their pictures would be trained on.
    """
    waiting, seen = [os.fspath(folder)], set()
    while waiting:
        links: list[str] = []
        for start in waiting:
            if os.path.realpath(start) in seen:
                continue
            for parent, folders, names in os.walk(start):
                again = parent != start and os.path.realpath(parent) in seen
                if again or (parent != os.fspath(folder) and _is_run(parent, names)):
                    folders.clear()
                    continue
                seen.add(os.path.realpath(parent))
                links += [link for name in folders if os.path.islink(link := os.path.join(parent, name))]  # noqa: PTH114, PTH118 - faster
                yield Path(parent), names
        waiting = sorted(links)


def _is_run(folder: str, names: Sequence[str]) -> bool:
    """Tell whether a folder is that of a run, or the one of detect.py's runs."""
    return folder.endswith(DETECTED) or any(run.issubset(names) for run in RUNS)


def photos_below(folder: Path) -> Iterator[Path]:
    """Yield the photos at or below a folder."""
    for parent, names in walk(folder):
        for name in names:
            if is_photo_name(name):
                yield parent / name


def photos_of_list(source: Path) -> Iterator[Path]:
    """Yield the photos on the lines of a list file, relative to its folder; UserError at a line that is no photo.

    Lists are written on one machine and read on another: where a line leads nowhere but its end does, as in
    `data/images/a.jpg` (CVAT), `C:\\set\\images\\a.jpg` or `/content/set/images/a.jpg`, what stands before is left out.
    """
    lines = lines_of_list(source)
    entries = [(number, entry) for number, line in enumerate(lines, 1) if (entry := line.strip())]
    for number, entry in entries:
        if not entry.lower().endswith(LISTED_SUFFIXES):
            raise UserError(f"{printable(source)}:{number}: not an image path: {printable(entry, 80)!r}")
    before = _foreign_start([entry for _, entry in entries[:ENTRIES_TRIED]], source.parent)
    for number, entry in entries:
        if before and (parts := _parts(entry))[: len(before)] == before:
            photo = source.parent.joinpath(*parts[len(before) :])
        else:
            photo = Path(os.path.normpath(source.parent / entry))
        if NO_UTF8.search(entry) and not exists(photo):
            found = f"{printable(entry, 80)!r}, and no photo of this name is there"
            raise UserError(f"{printable(source)}:{number}: expected UTF-8, found {found}")
        yield photo


def lines_of_list(source: Path) -> list[str]:
    """Read the lines of a list of files; names that are no UTF-8 stand there as the bytes that they are on disk."""
    try:
        text = require_regular(source).read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{printable(source)}: cannot be read as a list of files: {printable(error)}") from error
    if "\0" in text:
        raise UserError(f"{printable(source)}: expected a UTF-8 list of files, found NUL bytes, as UTF-16 has them")
    return text.split("\n")


def _foreign_start(entries: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Find the first folders of the lines that are another machine's; none where one of the lines leads to a photo."""
    if any(exists(folder / entry) for entry in entries):
        return ()
    for entry in entries:
        parts = _parts(entry)
        for length in range(1, len(parts)):
            if ".." not in parts[length:] and exists(folder.joinpath(*parts[length:])):
                return parts[:length]
    return ()


def _parts(entry: str) -> tuple[str, ...]:
    """Split a path of any machine into its parts, the first of which is `.` where it is relative."""
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    return parts if parts[:1] == ("/",) or parts[0].endswith(":") else (".", *parts)


def in_users_words(text: str) -> str:
    """Name the user's photos in a text, and the objects on them, where it names what a conversion made of them."""
    return CONVERTED.sub(_users_place, text) if "/sets/" in text else text


def _users_place(found: re.Match[str]) -> str:
    photo = Path(found["root"], "images", found["name"])
    if found["kind"] == "labels":
        folder, stem = photo.parent, photo.stem
        photo = next((each for each in sorted(folder.glob("*")) if each.stem == stem), photo)
    if not photo.is_symlink():
        return found[0]
    number = f", object {found['line']}" if found["line"] else ""
    return f"{photo.resolve()}{number}"


def exists(path: Path, check: Callable[[Path], bool] = Path.exists) -> bool:
    """Tell whether there is such a path; text that no file system takes as a name (too long, NUL) means no."""
    try:
        return check(path)
    except (OSError, ValueError):
        return False
