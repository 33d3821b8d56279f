"""Opens what `--data` names: a data YAML, or a data set in a layout that people have, known by what it holds."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data.data_yaml import BUILT_IN, DataSpec, data_root, data_yaml_values, read_data_yaml
from data.open.archive import is_archive, unpack
from data.open.darknet_data import read_darknet_data
from data.photo_files import exists, is_photo_name, walk
from data.pixel_limit import part_of_key
from utils.errors import UserError, printable
from utils.regular_file import require_regular

YAML_SUFFIXES = (".yaml", ".yml")
# Where class names stand beside labels that have no data YAML: Label Studio, labelImg, CVAT.
NAMES_FILES = ("classes.txt", "obj.names", "names.txt")
UNPACKED = "unpacked"
SCHEMA = 5  # one more whenever something else is made of the same files
NOT_CONTENT = (".DS_Store", "Thumbs.db")


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
    return replace(_converted(path, root, cache_dir), source=named)


def _own_labels(folder: Path, root: Path) -> DataSpec | None:
    """Open a folder that holds YOLO labels: by its data YAML, its obj.data, or class names beside the labels."""
    for file in _yamls(folder):
        values = data_yaml_values(file)
        if any(values.get(split) for split in ("train", "val", "test")):
            return _said(read_data_yaml(str(file), root), f"the data YAML {file.name}")
        if isinstance(values.get("names"), list | dict) and _has_labels(folder):
            # supervision writes names alone.
            return _said(_labelled(folder, file, read_data_yaml(str(file), root, splitless=True).names), "YOLO labels")
    for file in sorted(folder.glob("*.data")):
        return _said(read_darknet_data(file), f"Darknet's {file.name}")
    for name in NAMES_FILES:
        if (folder / name).is_file() and _has_labels(folder):
            lines = require_regular(folder / name).read_text("utf-8-sig", "replace").rstrip().splitlines()
            return _said(
                _labelled(folder, folder / name, tuple(printable(each.strip()) for each in lines)), "YOLO labels"
            )
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


def _labelled(folder: Path, where: Path, names: tuple[str, ...]) -> DataSpec:
    """Describe photos with labels and names: folders train, val, valid and test are splits, else all is train."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    splits: dict[str, tuple[Path, ...]] = {}
    for split, words in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
        found = [base / word for word in words for base in (images, folder) if (base / word).is_dir()]
        if found:
            splits[split] = (found[0],)
    return DataSpec(where, folder, splits if "train" in splits else {"train": (images,)}, names)


def _converted(path: Path, root: Path, cache_dir: Path | None) -> DataSpec:
    """Convert what another format holds into the cache, once for as long as no file of it changes."""
    # Here, because most runs read a YAML and need none of the formats.
    from data.formats.annotation_set import summary
    from data.formats.registry import FORMATS, recognise
    from data.formats.write.yolo import write_yolo_set
    from data.labels.read_files import cache_folder

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
    target = folder / "sets" / _digest(path, known.name)
    print(f"--data {printable(path)}: {known.title}", file=sys.stderr)
    if not (target / "data.yaml").is_file():
        found = known.read(path)
        print("\n".join(summary(found)), file=sys.stderr)
        try:
            write_yolo_set(found, target, "symlink")
        except UserError:
            if not (target / "data.yaml").is_file():  # another process may have been faster
                raise
    print(f"  as YOLO labels in {printable(target)}; report.csv there lists what was dropped", file=sys.stderr)
    return read_data_yaml(str(target / "data.yaml"), root)


def _digest(path: Path, kind: str) -> str:
    """Make a digest of all files' names, sizes and times, which a conversion depends on."""
    digest = hashlib.sha256(os.fsencode(f"{SCHEMA} {kind} {path}{part_of_key()}"))
    for parent, names in walk(path if path.is_dir() else path.parent):
        for name in sorted(names):
            if name not in NOT_CONTENT:
                found = (parent / name).stat() if exists(parent / name) else None
                stamp = (found.st_size, found.st_mtime_ns) if found else (-1, -1)
                digest.update(os.fsencode(f"\0{parent}\0{name}\0{stamp}"))
    return digest.hexdigest()[:24]


def _unpacked(archive: Path, root: Path) -> Path:
    """Unpack an archive below the datasets root, once for as long as it does not change; guarded as downloads are."""
    found = archive.stat()
    key = hashlib.sha256(os.fsencode(f"{archive} {found.st_size} {found.st_mtime_ns}")).hexdigest()[:12]
    target = root / UNPACKED / f"{archive.name.split('.')[0]}-{key}"
    done = target.with_name(f"{target.name}.done")
    if not done.is_file():
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
