"""Opens what `--data` names: a data YAML, or a data set in a layout that people have, known by what it holds."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data.data_yaml import BUILT_IN, SPLITS, YAML_SUFFIXES, DataSpec, data_root, data_yaml_values, read_data_yaml
from data.open.archive import is_archive, unpack
from data.open.darknet_data import class_names, read_darknet_data
from data.photo_files import exists, is_photo_name, photos_below, walk
from utils.errors import UserError, printable

# Where class names stand beside labels that have no data YAML: Label Studio, labelImg, CVAT.
NAMES_FILES = ("classes.txt", "obj.names", "names.txt")
UNPACKED = "unpacked"
MOST_NAMED = 3


def root_for(name: str, flag: str) -> Path:
    """Return the datasets root, which `--data-root` moves; UserError where that has no effect on the data set `name`.

    Built-in sets lie there, and archives are unpacked there.
    """
    path = Path(name).expanduser()
    elsewhere = exists(path) and not is_archive(path.name) and path.resolve().parent != BUILT_IN
    if flag and name and elsewhere and not _is_built_in(name):
        raise UserError(
            f"--data-root {printable(flag)}: for built-in data sets and archives; {printable(path)} lies where it is: "
            "leave the flag out"
        )
    return data_root(flag)


def _is_built_in(name: str) -> bool:
    """Tell whether a short name is that of a built-in data set."""
    return not Path(name).suffix and "/" not in name and "\\" not in name and (BUILT_IN / f"{name}.yaml").is_file()


def open_data_set(name: str, root: Path, cache_dir: Path | None = None) -> DataSpec:
    """Open a data set by its built-in name, its YAML, or its folder, archive or annotation file; UserError if unknown.

    An archive is unpacked below the datasets root, and annotations of other formats are converted to YOLO labels in
    the cache folder, both once for as long as nothing changes. What was recognised is said on stderr.
    """
    path = Path(os.path.normpath(Path(name).expanduser().absolute()))
    if _is_built_in(name) or path.suffix.lower() in YAML_SUFFIXES or not exists(path):
        return read_data_yaml(name, root)
    named = path
    if exists(path, Path.is_file) and is_archive(path.name):
        path = _unpacked(path, root)
    if exists(path, Path.is_dir):
        path = _inner(path)
        spec = _own_labels(path, root)
        if spec is not None:
            return spec
    elif path.suffix.lower() == ".data":
        return _said(read_darknet_data(path), "Darknet .data")
    from data.open.converted import open_converted  # here, because most runs read a YAML and need none of the formats

    return replace(open_converted(path, root, cache_dir), source=named)


def _own_labels(folder: Path, root: Path) -> DataSpec | None:
    """Open a folder that holds YOLO labels: by its data YAML, its obj.data, or class names beside the labels."""
    for file in _yamls(folder):
        values = data_yaml_values(file)
        if any(values.get(split) for split in ("train", "val", "validation", "test")):
            return _said(read_data_yaml(str(file), root), f"the data YAML {file.name}")
        if isinstance(values.get("names"), list | dict) and _has_labels(folder):
            # supervision writes names alone.
            return _said(
                _labelled(replace(read_data_yaml(str(file), root, splitless=True), root=folder)), "YOLO labels"
            )
    for file in sorted(folder.glob("*.data")):
        return _said(read_darknet_data(file), f"Darknet's {file.name}")
    for name in NAMES_FILES:
        if (folder / name).is_file() and _has_labels(folder):
            return _said(_labelled(DataSpec(folder / name, folder, {}, class_names(folder / name))), "YOLO labels")
    return None


def _yamls(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in YAML_SUFFIXES)
    return sorted(files, key=lambda path: path.stem not in ("data", "dataset"))


def _has_labels(folder: Path) -> bool:
    """Tell whether there is a label file for the first photos found: in labels/ for images/, or beside them."""
    from data.data_yaml import label_path

    spec = DataSpec(folder, folder, {}, ())
    looked = 0
    for parent, names in walk(folder):
        for name in sorted(filter(is_photo_name, names)):
            if label_path(spec, parent / name).is_file():
                return True
            looked += 1
            if looked == 100:
                return False
    return False


def _labelled(named: DataSpec) -> DataSpec:
    """Find the splits of photos with labels and names: folders called train, val and so on, else all is train.

    Photos in none of the splits are named on stderr, by their folders.
    """
    # Here, because most runs read a YAML and need none of the formats.
    from data.formats.annotation_set import FOLDER_SPLITS

    folder, splits = named.root, dict[str, tuple[Path, ...]]()
    images = folder / "images" if (folder / "images").is_dir() else folder
    for base in dict.fromkeys((images, folder)):
        found: dict[str, tuple[Path, ...]] = {}
        for part in sorted(path for path in base.iterdir() if path.is_dir()):
            split = FOLDER_SPLITS.get(part.name.lower())
            if split and any(photos_below(part)):
                found[split] = (*found.get(split, ()), part)
        splits = found | splits
    splits = {split: splits[split] for split in SPLITS if split in splits} or {"train": (images,)}
    _tell_unused(folder, [part for parts in splits.values() for part in parts])
    return replace(named, splits=splits)


def _tell_unused(folder: Path, used: Sequence[Path]) -> None:
    """Name the folders whose photos lie below none of those that are used."""
    tops = [Path(os.path.realpath(each)) for each in used]
    unused: dict[Path, int] = {}
    for parent, names in walk(folder):
        place = Path(os.path.realpath(parent))
        photos = sum(map(is_photo_name, names))
        if photos and not any(place.is_relative_to(top) for top in tops):
            unused[parent] = photos
    if unused:
        shown = ", ".join(printable(each) for each in list(unused)[:MOST_NAMED])
        more = f" and {len(unused) - MOST_NAMED} folders more" if len(unused) > MOST_NAMED else ""
        print(f"--data: {sum(unused.values()):,} photos belong to no split, not used: {shown}{more}", file=sys.stderr)


def _unpacked(archive: Path, root: Path) -> Path:
    """Unpack an archive below the datasets root, once for as long as it does not change; guarded as downloads are."""
    found = archive.stat()
    key = hashlib.sha256(os.fsencode(f"{archive} {found.st_size} {found.st_mtime_ns}")).hexdigest()[:12]
    target = root / UNPACKED / f"{archive.name.split('.')[0]}-{key}"
    done = target.with_name(f"{target.name}.done")
    if not done.is_file() or not target.is_dir():
        count = unpack(archive, target)
        try:
            done.write_text(f"{archive}\n", "utf-8", "replace")
        except OSError as error:
            raise UserError(f"{printable(done)}: cannot be written: {printable(error)}") from None
        print(f"--data {printable(archive)}: {count:,} files unpacked to {printable(target)}", file=sys.stderr)
    return target


def _inner(folder: Path) -> Path:
    """Enter the one folder that an archive often holds and nothing beside it."""
    entries = list(_visible(folder))
    while len(entries) == 1 and entries[0].is_dir() and entries[0].name not in ("images", "Annotations", "annotations"):
        folder, entries = entries[0], list(_visible(entries[0]))
    return folder


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _said(spec: DataSpec, what: str) -> DataSpec:
    print(f"--data: {what} in {printable(spec.yaml.parent)}", file=sys.stderr)
    return spec
