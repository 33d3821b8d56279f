"""Annotations of other formats, converted to YOLO labels in the cache: once for as long as nothing changes."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.data_yaml import DataSpec, read_data_yaml
from data.formats.annotation_set import summary
from data.formats.photo_finder import finders_noted
from data.formats.registry import FORMATS, recognise
from data.formats.write.yolo import write_yolo_set
from data.labels.read_files import cache_folder, stamp
from data.photo_files import is_photo_name, walk
from data.pixel_limit import part_of_key
from utils.errors import UserError, printable

SCHEMA = 6  # one more whenever something else is made of the same files
NOT_CONTENT = (".DS_Store", "Thumbs.db")
CONVERTED = "sets"  # in the cache folder
PLACES = "places"


def open_converted(path: Path, root: Path, cache_dir: Path | None) -> DataSpec:
    """Convert what another format holds into the cache, once for as long as no file of it and no photo changes."""
    known = recognise(path)
    if known is None:
        looked = "; ".join(each.known_by for each in FORMATS.values())
        raise UserError(
            f"{printable(path)}: no data set that is known; looked for: a data YAML; Darknet's .data file; photos with "
            f"labels and a classes.txt; {looked}; or a .zip of one of them"
        )
    folder = cache_folder(cache_dir)
    if folder is None:
        raise UserError(f"{printable(path)}: no cache folder to convert it into: convert.py {known.name} converts it")
    print(f"--data {printable(path)}: {known.title}", file=sys.stderr)
    own = _digest(path, known.name)
    list_file = folder / PLACES / f"{own}.json"
    target = folder / CONVERTED / _with_places(own, _read_places(list_file))
    if not (target / "data.yaml").is_file():
        with finders_noted() as finders:
            found = known.read(path)
        print("\n".join(summary(found)), file=sys.stderr)
        top = _top(path)
        places = {place for finder in finders for place in finder.places() if not place.is_relative_to(top)}
        target = folder / CONVERTED / _with_places(own, sorted(places))
        try:
            write_yolo_set(found, target, "symlink")
        except UserError:
            if not (target / "data.yaml").is_file():  # another process may have been faster
                raise
        _write_places(list_file, sorted(places))
    print(f"  as YOLO labels in {printable(target)}; report.csv there lists what was dropped", file=sys.stderr)
    return read_data_yaml(str(target / "data.yaml"), root)


def _top(path: Path) -> Path:
    """Return the folder whose files are all looked at for changes."""
    return path if path.is_dir() else path.parent


def _digest(path: Path, kind: str) -> str:
    """Make a digest of all files' names, sizes and times, which a conversion depends on."""
    digest = hashlib.sha256(os.fsencode(f"{SCHEMA} {kind} {path}{part_of_key()}"))
    for parent, names in walk(_top(path)):
        for name in sorted(names):
            if name not in NOT_CONTENT:
                digest.update(os.fsencode(f"\0{parent}\0{name}\0{stamp(parent / name)}"))
    return digest.hexdigest()[:24]


def _with_places(own: str, places: Sequence[Path]) -> str:
    """Add to a digest the photos in folders outside: an annotation file names photos beside its own folder."""
    if not places:
        return own
    digest = hashlib.sha256(own.encode())
    for place in places:
        names = _photos_in(place)
        digest.update(os.fsencode(f"\0\0{place}\0{names is None}"))
        for name in names or ():
            digest.update(os.fsencode(f"\0{name}\0{stamp(place / name)}"))
    return digest.hexdigest()[:24]


def _photos_in(place: Path) -> list[str] | None:
    try:
        return sorted(filter(is_photo_name, os.listdir(place)))  # noqa: PTH208 - faster
    except OSError:
        return None


def _read_places(file: Path) -> list[Path]:
    """List the folders outside that the last conversion looked into; none where there was no conversion."""
    try:
        return list(map(Path, json.loads(file.read_text("utf-8"))))
    except (OSError, ValueError, TypeError):
        return []


def _write_places(file: Path, places: Sequence[Path]) -> None:
    if list(places) == _read_places(file):
        return
    draft = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(list(map(str, places))), "utf-8")
        draft.replace(file)
    except OSError as error:
        raise UserError(f"{printable(file)}: cannot be written: {printable(error)}") from None
