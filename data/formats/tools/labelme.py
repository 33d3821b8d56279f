"""labelme's JSON files, one a photo, read as an annotation set."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data.formats.annotation_set import FOLDER_SPLITS, AnnotationSet, Finding
from data.formats.coco_json import load_json
from data.formats.photo_finder import PhotoFinder
from data.formats.reading import BadAnnotation
from data.formats.tools.json_files import head_of, json_files, number, pixels
from data.formats.tools.shapes import DrawnPhoto, Shape, absolute, annotation_set, subset_finders, used_names
from data.formats.turned import Corners, around
from data.photo_files import photos_below
from utils.errors import UserError, printable

SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
PHOTO = re.compile(rb'"image(Path|Height|Data)"')
LOOKED_AT = 5
WITHOUT_BOX = ("point", "points", "line", "linestrip")
BACKGROUND = "no labelme file: taken as background"


def looks_like_labelme(path: Path) -> bool:
    """Tell whether a JSON file, or one of the first in a folder or its sub-folders, begins as labelme's."""
    return any(_begins(file) for file in (json_files(path) or json_files(path, deep=True))[:LOOKED_AT])


def _begins(file: Path) -> bool:
    head = head_of(file)
    return head.startswith(b"{") and bool(SHAPES.search(head)) and bool(PHOTO.search(head + _end_of(file)))


def _end_of(file: Path) -> bytes:
    """Read the end of a file: labelme's name of the photo may stand behind the shapes of many points."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 4096))
        return opened.read()


def read_labelme_set(source: Path, photos: Sequence[Path] = ()) -> AnnotationSet:
    """Read the files of labelme below a folder, which name a photo each; UserError if nothing can be used.

    Folders train, val and test are splits; photos that no file names are background, and noted.
    """
    source = absolute(source)
    files = [file for file in json_files(source, deep=True) if SHAPES.search(head_of(file))]
    if not files:
        raise UserError(f"no labelme JSON file in {printable(source)}: expected files with shapes and imagePath")
    root = source if source.is_dir() else source.parent
    drawn = [_drawn(file, root) for file in files]
    finders = subset_finders(drawn, root, photos, before=[root], after=sorted(_folders(root)))
    background = [] if source.is_file() else _background(root, drawn, finders)
    own = PhotoFinder([], [root])  # background is named by its path below the folder
    finders |= {photo.subset: own for photo in background if photo.subset not in finders}
    found = annotation_set(source, used_names(drawn), [*drawn, *background], finders)
    places = {os.path.realpath(root / photo.name) for photo in background}
    found.findings += [
        Finding("noted", photo.split, printable(photo.name), "", BACKGROUND)
        for photo in found.photos
        if os.path.realpath(photo.photo) in places
    ]
    return found


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if path.is_dir())


def _background(root: Path, drawn: Sequence[DrawnPhoto], finders: Mapping[str, PhotoFinder]) -> list[DrawnPhoto]:
    """List the photos that are no file's, nor can be: where a file's photo is not found, not those of its name.

    Nor those beside a file's photo that differ from it in their suffix alone: they show what it shows.
    """
    used: set[str] = set()
    unknown: set[str] = set()
    for each in drawn:
        try:
            used.add(_without_suffix(finders[each.subset].find(each.name)[0]))
        except BadAnnotation:
            unknown.add(PurePosixPath(each.name).stem)
    others = [photo for photo in photos_below(root) if photo.stem not in unknown and _without_suffix(photo) not in used]
    names = sorted(photo.relative_to(root).as_posix() for photo in others)
    return [DrawnPhoto(name, FOLDER_SPLITS.get(_subset(name), "train"), (0, 0), [], _subset(name)) for name in names]


def _without_suffix(photo: Path) -> str:
    return os.fspath(Path(os.path.realpath(photo)).with_suffix(""))


def _subset(name: str) -> str:
    """Find the folder of a path that is called like a split; nothing where there is none."""
    return next((part.lower() for part in PurePosixPath(name).parts[:-1] if part.lower() in FOLDER_SPLITS), "")


def _drawn(file: Path, root: Path) -> DrawnPhoto:
    document = load_json(file)
    path = document.get("imagePath") if isinstance(document, Mapping) else None
    shapes = document.get("shapes") if isinstance(document, Mapping) else None
    if not isinstance(path, str) or not path or not isinstance(shapes, list):
        raise UserError(f"{printable(file)}: expected labelme's imagePath and shapes")
    beside = os.path.normpath(os.path.join(file.parent.relative_to(root), path.replace("\\", "/")))  # noqa: PTH118
    size = pixels(document.get("imageHeight"), document.get("imageWidth"))
    subset = _subset(file.relative_to(root).as_posix())
    shapes = [_shape(each) for each in shapes]
    return DrawnPhoto(beside, FOLDER_SPLITS.get(subset, "train"), size, shapes, subset)


def _shape(entry: Any) -> Shape:
    if not isinstance(entry, Mapping):
        return Shape("", None, "?")
    kind = str(entry.get("shape_type") or "polygon")
    try:
        corners = _corners([(number(x), number(y)) for x, y in entry["points"]], kind)
    except (ValueError, TypeError, KeyError):
        corners = None
    return Shape(printable(entry.get("label") or ""), corners, kind, "rotat" in kind or "orient" in kind)


def _corners(points: list[tuple[float, float]], kind: str) -> Corners | None:
    """Find the upright box around a shape's points; a circle has its centre and a point of its edge."""
    if kind in WITHOUT_BOX or len(points) < 2:
        return None
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    return around(points)
