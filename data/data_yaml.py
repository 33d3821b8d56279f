"""The data YAML: where a data set's images and labels lie and what its classes are called."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.photo_files import IMAGE_SUFFIXES, exists, photos_below, photos_of_list
from utils.config.yaml_file import kind_of, read_mapping
from utils.errors import UserError, nearest, printable
from utils.regular_file import require_regular

DIGITS = re.compile("0|[1-9][0-9]{0,5}")
BUILT_IN = Path(__file__).resolve().parent
SPLITS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
KEYS: tuple[str, ...] = ("path", *SPLITS, "names", "nc", "labels_dir", "annotations", "downloads", "after_download")
ROW_KEYS = ("kpt_shape", "task")
KEYS += ROW_KEYS
WITHOUT_MEANING: tuple[str, ...] = (
    "author",
    "channels",
    "date",
    "depth_scale",
    "description",
    "download",
    "flip_idx",
    "kpt_names",
    "label_mapping",
    "license",
    "links",
    "map",
    "masks_dir",
    "max_depth",
    "minival",
)
WITHOUT_MEANING += ("roboflow", "version")


@dataclass(frozen=True)
class DataSpec:
    """A checked data YAML: folders or list files (absolute) per split, class names by id, keys without meaning here.

    `annotations` are the original COCO or LVIS files (absolute) of the splits that are measured against one.
    `keypoints` is how many numbers follow a box in a label row: 0 where the YAML does not say, -1 for polygons. `rows`
    are the keys that say so, `kpt_shape` and `task`, for another YAML of the same labels.
    `source` is what the user named, where this is a conversion of it in the cache.
    """

    yaml: Path
    root: Path
    splits: dict[str, tuple[Path, ...]]
    names: tuple[str, ...]
    labels_dir: str | None = None
    ignored: tuple[str, ...] = ()
    annotations: dict[str, Path] = field(default_factory=dict)
    keypoints: int = 0
    source: Path | None = None
    rows: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> Path:
        """The file or folder that messages name: the user's own."""
        return self.source or self.yaml

    @property
    def num_classes(self) -> int:
        """How many classes there are; ids run from 0 to num_classes - 1."""
        return len(self.names)

    def check_classes(self, names: Sequence[str], weights: str) -> None:
        """Raise UserError where weights, which messages call `weights`, were trained on classes of other names."""
        if tuple(names) != self.names:
            raise UserError(
                f"{printable(self.shown)} has the classes {printable(', '.join(self.names), 120)}, but "
                f"{printable(weights)} was trained on {printable(', '.join(names), 120)}"
            )


def data_root(flag: str) -> Path:
    """Return the folder of the built-in data sets: the flag, $ALIGNYOLO_DATA, or datasets/ in the current folder."""
    return Path(flag or os.environ.get("ALIGNYOLO_DATA") or "datasets").expanduser().absolute()


def data_yaml_values(path: Path) -> dict[Any, Any]:
    """Read what a YAML holds; nothing if it is none, or no data YAML."""
    try:
        values = read_mapping(path)
    except UserError:
        return {}
    return values if "names" in values else {}


def read_data_yaml(name_or_path: str, data_root: Path, splitless: bool = False) -> DataSpec:
    """Read a YAML by path or, with its data below data_root, a built-in one by its name; UserError if it is wrong.

    One that names classes alone is wrong too, unless `splitless`.
    """
    path = find_data_yaml(str(name_or_path))
    values = _val_by_its_key(read_mapping(path), path)
    for key in values:
        if key not in KEYS and key not in WITHOUT_MEANING:
            raise _wrong(path, f"unknown key {printable(key)!r}{nearest(str(key), KEYS)}")
    root = _read_root(values, path, data_root)
    names = _read_names(values, path, root)
    splits = {
        split: _read_split(values[split], split, root, path) for split in SPLITS if values.get(split) not in (None, "")
    }
    if not splits and not splitless:
        raise _wrong(path, "no split; expected at least one of train, val, test")
    labels_dir = values.get("labels_dir")
    if labels_dir is not None:
        labels_dir = _text(labels_dir, "labels_dir", path)
    ignored = tuple(key for key in values if key in WITHOUT_MEANING)
    annotations, keypoints = _read_annotations(values, root, path), _read_keypoints(values, path)
    rows = {key: values[key] for key in ROW_KEYS if values.get(key) is not None}
    return DataSpec(path, root, splits, names, labels_dir, ignored, annotations, keypoints, rows=rows)


def read_class_names(name_or_path: str) -> tuple[str, ...]:
    """Read the class names of a YAML, whether its photos are there or not; UserError if it is wrong.

    `coco` and, where no such file is, `coco.yaml` are the built-in one.
    """
    named = Path(name_or_path)
    built_in = named.name == f"{named.stem}.yaml" and not exists(named) and exists(BUILT_IN / str(named))
    path = find_data_yaml(named.stem if built_in else name_or_path)
    values = read_mapping(path)
    return _read_names(values, path, _root_of(values, path, data_root("")))


def list_images(spec: DataSpec, split: str) -> list[Path]:
    """Return absolute paths of a split's images, sorted, each once.

    UserError when split, folder or images are missing.
    """
    if split not in spec.splits:
        raise _wrong(spec.shown, f"no split {printable(split)!r}; it has: {', '.join(spec.splits)}")
    images: dict[str, Path] = {}
    for source in spec.splits[split]:
        images.update((os.fspath(image), image) for image in _images_of(source, spec, split))
    where = ", ".join(printable(source) for source in spec.splits[split])
    if not images:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise _wrong(spec.shown, f"split {split!r} is empty: no images ({suffixes}) in {where}")
    ordered = sorted(images.values(), key=lambda image: image.parts)
    if not any(exists(image) for image in ordered):
        raise UserError(f"{where}: none of the {len(ordered)} images exists; the first is {printable(ordered[0])}")
    return ordered


def is_there(spec: DataSpec, split: str) -> bool:
    """Tell whether one of a split's folders and list files exists: exports name a test split that they lack."""
    return any(exists(source) for source in spec.splits[split])


def label_path(spec: DataSpec, image: Path) -> Path:
    """Return an image's label file: in `labels/` for the last `images/` of its path, else beside it.

    Or below labels_dir.
    """
    file = f"{image.stem}.txt"
    if spec.labels_dir is None:
        return Path(*exchange_images(image.parent.parts, ("labels",)), file)
    if not image.is_relative_to(spec.root):
        raise UserError(f"labels_dir serves images below {printable(spec.root)} only, not {printable(image)}")
    folders = image.parent.relative_to(spec.root).parts
    return (spec.root / spec.labels_dir).joinpath(*exchange_images(folders, ()), file)


def label_paths(spec: DataSpec, images: Sequence[Path]) -> list[Path]:
    """Return the label files of many images: `label_path`, asked once for each folder."""
    folders: dict[str, Path] = {}
    paths = []
    for image in images:
        folder, name = os.path.split(image)
        if folder not in folders:
            folders[folder] = label_path(spec, image).parent
        paths.append(folders[folder] / f"{os.path.splitext(name)[0]}.txt")  # noqa: PTH122 - faster, and it counts
    return paths


def exchange_images(folders: tuple[str, ...], by: tuple[str, ...]) -> tuple[str, ...]:
    """Exchange the last `images` among folders: where a photo's label lies."""
    if "images" not in folders:
        return folders
    last = len(folders) - 1 - folders[::-1].index("images")
    return folders[:last] + by + folders[last + 1 :]


def find_data_yaml(name: str) -> Path:
    """Return the file that a short name or a path stands for."""
    built_in = sorted(path.stem for path in BUILT_IN.glob("*.yaml"))
    short = not Path(name).suffix and "/" not in name and "\\" not in name
    if short and name not in built_in:
        known = f"no built-in data set {printable(name)!r}{nearest(name, built_in)}"
        raise UserError(f"no such file or folder: {printable(Path(name).absolute())}, and {known}")
    if short:
        return BUILT_IN / f"{name}.yaml"
    path = Path(os.path.normpath(Path(name).absolute()))
    if exists(path, Path.is_dir):
        raise UserError(f"data YAML expected, but this is a folder: {printable(path)}")
    if not exists(path):
        hint = f"; the built-in set of this name is --data {path.stem}" if path.stem in built_in else ""
        what = "data YAML not found" if path.suffix.lower() in YAML_SUFFIXES else "no such file or folder"
        raise UserError(f"{what}: {printable(path)}{hint}")
    return path


def _val_by_its_key(values: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Call `validation:` val, as ultralytics does; UserError where the YAML has both."""
    if "validation" not in values:
        return values
    if values.get("val") not in (None, ""):
        raise _wrong(path, "val and validation both stand here; expected one of them")
    return {**{key: value for key, value in values.items() if key != "validation"}, "val": values["validation"]}


def _read_names(values: dict[Any, Any], path: Path, root: Path) -> tuple[str, ...]:
    """Return class names by id, safe to print; a text is the name of a file with one of them a line."""
    names = values.get("names")
    if isinstance(names, str) and names:
        names = _read_names_file(_locate(names, root), path)
    if isinstance(names, dict):
        # Quoted ids ('0': cat) are texts.
        names = {
            int(key) if isinstance(key, str) and DIGITS.fullmatch(key) else key: name for key, name in names.items()
        }
        missing = [index for index in range(len(names)) if index not in names]
        if missing:
            raise _wrong(path, f"names: ids must run from 0 to {len(names) - 1}; {missing[0]} is missing")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        expected = "a list of class names, `id: name` lines, or a text file with a name a line"
        raise _wrong(path, f"names: expected {expected}, found {kind_of(names)}")
    ids: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str | int | float) or isinstance(name, bool) or name == "":
            raise _wrong(
                path, f"names: class {index} is {kind_of(name)}, expected a name (put words like no in quotes)"
            )
        first = ids.setdefault(printable(name), index)
        if first < index:
            raise _wrong(path, f"names: classes {first} and {index} are both called {printable(name)!r}")
    num_classes = values.get("nc")
    if num_classes is not None and (isinstance(num_classes, bool) or num_classes != len(ids)):
        shown = num_classes if type(num_classes) in (int, float) else kind_of(num_classes)
        raise _wrong(path, f"nc is {shown}, but there are {len(ids)} names; correct one of them")
    return tuple(ids)


def _read_names_file(file: Path, path: Path) -> list[str]:
    """Return the lines of a names file such as Darknet's and convert.py's; blank ones at its end do not count."""
    try:
        return require_regular(file).read_text("utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read as text"
        raise _wrong(path, f"names: {reason}: {printable(file)} (a class name a line; convert.py writes it)") from None


def _root_of(values: dict[Any, Any], path: Path, data_root: Path) -> Path:
    """Return the folder that `path:` names, whether it is there or not."""
    base = data_root if path.resolve().parent == BUILT_IN else path.parent
    value = values.get("path")
    folder = "." if value is None else _text(value, "path", path)
    return Path(os.path.normpath((base / folder).absolute()))


def _read_root(values: dict[Any, Any], path: Path, data_root: Path) -> Path:
    """Return the folder that `path:` names; it must exist."""
    root = _root_of(values, path, data_root)
    if exists(root, Path.is_dir):
        return root
    if path.resolve().parent == BUILT_IN:
        fetch = f"python -m data.download {path.stem} fetches it; " if values.get("downloads") else ""
        fetch = "train.py draws it; " if path.stem == "shapes" else fetch
        raise UserError(
            f"the data set {path.stem!r} is not there: expected its folder at {printable(root)} "
            f"({fetch}--data-root or $ALIGNYOLO_DATA moves the datasets root)"
        )
    raise _wrong(path, f"path: no such folder: {printable(root)} (relative to the YAML's own folder)")


def _read_split(value: Any, split: str, root: Path, path: Path) -> tuple[Path, ...]:
    """Return the absolute folders and list files of a split; whether they exist is checked when the split is used."""
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise _wrong(path, f"{split}: empty list; expected a folder or a list file")
    return tuple(_beside(_locate(_text(entry, split, path), root), path, entry) for entry in entries)


def _read_annotations(values: dict[Any, Any], root: Path, path: Path) -> dict[str, Path]:
    """Return the original annotation file of each split that has one; whether it exists is checked when it is used."""
    files = values.get("annotations") or {}
    if not isinstance(files, dict):
        raise _wrong(path, f"annotations: expected lines such as `val: file.json`, found {kind_of(files)}")
    for split in files:
        if split not in SPLITS:
            raise _wrong(path, f"annotations: no split {printable(split)!r}{nearest(str(split), SPLITS)}")
    return {split: _locate(_text(file, f"annotations: {split}", path), root) for split, file in files.items()}


def _read_keypoints(values: dict[Any, Any], path: Path) -> int:
    """Read how many numbers of key points follow a box in a label row: `kpt_shape: [points, 2 or 3]`, or `task`."""
    shape, task = values.get("kpt_shape"), values.get("task")
    if shape is not None:
        right = isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape)
        if not right or not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3):
            raise _wrong(path, "kpt_shape: expected [number of points, 2 or 3], as in `kpt_shape: [17, 3]`")
        return shape[0] * shape[1]
    if task == "pose":
        raise _wrong(path, "task is pose: `kpt_shape: [points, 2 or 3]` must say how long a label row is")
    return -1 if task in ("segment", "obb") else 0


def _locate(entry: str, root: Path) -> Path:
    place = Path(os.path.normpath(root / entry))
    if entry.startswith("../") and not exists(place):
        # Roboflow's exports write ../train/images for the folder train/images beside the YAML.
        beside = Path(os.path.normpath(root / entry[3:]))
        return beside if exists(beside) else place
    return place


def _beside(place: Path, path: Path, entry: str) -> Path:
    """Take a list that is not where its absolute path leads from beside the YAML: the two were copied together."""
    copied = path.parent / place.name
    moved = Path(entry).is_absolute() and place.suffix.lower() == ".txt" and not exists(place)
    return copied if moved and exists(copied, Path.is_file) else place


def _images_of(source: Path, spec: DataSpec, split: str) -> Iterator[Path]:
    """Yield the images in a folder, however deep, or on the lines of a list file, relative to that file's folder."""
    if exists(source, Path.is_dir):
        yield from photos_below(source)
        return
    if not exists(source):
        raise _wrong(spec.shown, f"{split}: no such folder or list file: {printable(source)}")
    if source.suffix.lower() != ".txt":
        raise _wrong(spec.shown, f"{split}: expected a folder or a .txt list of images: {printable(source)}")
    yield from photos_of_list(source)


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"{printable(path)}: {what}")


def _text(value: Any, key: str, path: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(path, f"{key}: expected a path, found {kind_of(value)}")
    return value
