"""Darknet's .data files (obj.data): where its lists of photos and its class names lie."""

import os
from pathlib import Path

from data.data_yaml import DataSpec
from data.formats.annotation_set import base_split
from data.photo_files import exists
from utils.errors import UserError, printable
from utils.regular_file import require_regular

SPLIT_KEYS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
LARGEST = 2**16


def read_darknet_data(path: Path) -> DataSpec:
    """Read a .data file: lines `key = value` with train, valid, names, classes; UserError where it is wrong."""
    path = Path(os.path.normpath(path.absolute()))
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{printable(path)}: expected a Darknet .data file, which is shorter")
        lines = require_regular(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(path)}: cannot be read as a Darknet .data file: {printable(error, 100)}") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        key, equals, value = (part.strip() for part in text.partition("="))
        if text and not equals:
            raise UserError(f"{printable(path)}:{number}: expected `key = value`, found {printable(text, 60)!r}")
        if text:
            values[key] = value
    splits: dict[str, tuple[Path, ...]] = {}
    for key, value in values.items():
        if value and (split := SPLIT_KEYS.get(base_split(key))):
            splits[split] = (*splits.get(split, ()), _locate(value, path.parent))
    if not splits or not values.get("names"):
        raise UserError(f"{printable(path)}: expected `train = list.txt` and `names = obj.names`")
    try:
        names = class_names(_locate(values["names"], path.parent))
    except UserError as error:
        raise UserError(f"{printable(path)}: names: {error}") from None
    count = values.get("classes", str(len(names)))
    if count != str(len(names)):
        raise UserError(f"{printable(path)}: classes = {printable(count, 20)}, but {values['names']} has {len(names)}")
    return DataSpec(path, path.parent, splits, names)


def _locate(entry: str, folder: Path) -> Path:
    """Find a file that the .data names: beside it where Darknet's own folder, such as data/, is not there."""
    parts = Path(entry.replace("\\", "/")).parts
    places = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return Path(os.path.normpath(next((place for place in places if exists(place, Path.is_file)), places[0])))


def class_names(file: Path) -> tuple[str, ...]:
    """Read a file with a class name a line, safe to print; UserError where a line is blank or stands there twice."""
    try:
        lines = require_regular(file).read_text("utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(file)}: cannot be read as class names: {printable(error, 100)}") from None
    names = [printable(line.strip()) for line in lines]
    expected = "expected a class name a line, each another one"
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            found = f"{name!r} again" if name else "a blank line"
            raise UserError(f"{printable(file)}:{number}: {expected}; found {found}")
    if not names:
        raise UserError(f"{printable(file)}: {expected}; the file is empty")
    return tuple(names)
