"""The truths that a split is measured against: its original COCO or LVIS file where the data YAML names one."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from data.data_yaml import DataSpec
from data.formats.coco_json import CocoFile, CocoImage, read_coco, some
from data.labels.index import LabelIndex
from utils.errors import UserError, printable
from utils.metrics.truths import Federated, Truths, plain_truths, ragged


def split_truths(spec: DataSpec, split: str, index: LabelIndex) -> Truths:
    """Load the truths of a split's images, in the order of the index; UserError if the file does not fit the images.

    What of the file is left out, or of another size, is printed.
    """
    truths, notes = noted_truths(spec, split, index)
    for note in notes:
        print(f"{split} truths: {note}", file=sys.stderr)
    return truths


def noted_truths(spec: DataSpec, split: str, index: LabelIndex) -> tuple[Truths, list[str]]:
    """Load the truths as `split_truths` does; the notes are returned."""
    path = spec.annotations.get(split)
    if path is None:
        return plain_truths(index.starts, index.boxes, index.labels, spec.num_classes), []
    if not path.is_file():
        raise UserError(
            f"{printable(spec.shown)}: annotations: {split}: no such file: {printable(path)} "
            "(without that line the split is measured against its labels)"
        )
    file = read_coco(path)
    truths, notes = truths_of(file, index.images, spec.names)
    truths, other = _scaled(truths, file, index)
    if other:
        said = f"{len(other)} photos are of another size than {path.name} says, whose boxes are scaled"
        notes.append(f"{said}: {some(other)}")
    return truths, notes


def _scaled(truths: Truths, file: CocoFile, index: LabelIndex) -> tuple[Truths, list[str]]:
    """Bring truths to the pixels of photos that are larger or smaller than the file says; name those photos.

    UserError where a photo is of another shape: it is another photo, or a turned one.
    """
    declared = {image.id: image.size for image in file.images}
    factors, other = np.ones((len(index), 2)), []
    for row, (photo, number) in enumerate(zip(index.images, truths.image_ids.tolist(), strict=True)):
        (height, width), size = declared[number], tuple(index.sizes[row].tolist())
        if (height, width) in ((0, 0), size):
            continue
        if abs(height * size[1] - width * size[0]) > 0.01 * width * size[0]:
            raise UserError(
                f"{printable(file.path)}: {printable(Path(photo).name)} is {width}x{height} there, but the photo is "
                f"{size[1]}x{size[0]}: another photo or a turned one"
            )
        factors[row] = size[1] / width, size[0] / height
        other.append(Path(photo).name)
    if not other:
        return truths, other
    scale = np.tile(np.repeat(factors, np.diff(truths.starts), axis=0), 2)
    area = truths.area * scale[:, 0] * scale[:, 1]
    boxes, xywh = truths.boxes * scale, truths.xywh * scale
    return replace(truths, boxes=boxes, xywh=xywh, area=area, factors=factors), other


def truths_of(file: CocoFile, images: Sequence[str], names: Sequence[str]) -> tuple[Truths, list[str]]:
    """Return the file's truths for these images and classes, and what of the file is left out.

    UserError where they differ.
    """
    category_ids, label_of, notes = _match_classes(file, names)
    rows = _match_images(file, images)
    left = len(file.images) - len(set(rows))
    if left:
        notes.append(f"{left} of the {len(file.images)} images of {file.path.name} are not in the split: left out")
    if file.problems:
        first = file.problems[0]
        notes.append(
            f"{len(file.problems)} entries of {file.path.name} left out, the first: {first.where}: {first.reason}"
        )
    photos = [file.images[row] for row in rows]
    by_image = defaultdict(list)
    for item in file.objects:
        if item.category in label_of:
            by_image[item.image].append(item)
    items = [item for photo in photos for item in by_image[photo.id]]
    xywh = np.array([item.xywh for item in items], np.float64).reshape(-1, 4)
    truths = Truths(
        starts=np.cumsum([0, *(len(by_image[photo.id]) for photo in photos)]),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([label_of[item.category] for item in items], np.int64),
        xywh=xywh,
        area=np.array([item.area for item in items], np.float64),
        crowd=np.array([item.crowd for item in items], bool),
        difficult=np.array([item.difficult for item in items], bool),
        image_ids=np.array([photo.id for photo in photos], np.int64),
        category_ids=category_ids,
        source=file.path.name,
        federated=_federated(file, photos, label_of, category_ids),
    )
    return truths, notes


def _match_classes(file: CocoFile, names: Sequence[str]) -> tuple[tuple[int, ...], dict[int, int], list[str]]:
    """Return the category id of each class by its name, the label of each category id, and notes."""
    by_name: dict[str, int] = {}
    for category in file.categories:
        if by_name.setdefault(category.name, category.id) != category.id:
            raise UserError(f"{printable(file.path)}: two categories are called {category.name!r}")
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(
            f"{printable(file.path)}: no category is called {some(missing)}; it has {some(by_name)}: "
            "the names in the data YAML must be those of the file"
        )
    ids = tuple(by_name[name] for name in names)
    others = [category.name for category in file.categories if category.id not in ids]
    notes = [f"{len(others)} classes of {file.path.name} are not in the data YAML: {some(others)}"] if others else []
    return ids, {category: label for label, category in enumerate(ids)}, notes


def _match_images(file: CocoFile, images: Sequence[str]) -> list[int]:
    """Find for each image the row of its entry in the file by its file name; UserError where there is not just one."""
    by_name = defaultdict(list)
    for row, image in enumerate(file.images):
        by_name[PurePosixPath(image.file_name).name].append(row)
    rows, unknown = [], []
    for path in images:
        own = by_name.get(Path(path).name, [])
        if len(own) > 1:  # names in several folders: the longest common end decides
            posix = PurePosixPath("/", Path(path).as_posix())
            parts = {row: PurePosixPath(file.images[row].file_name.lstrip("/")).parts for row in own}
            own = [row for row in own if posix.parts[-len(parts[row]) :] == parts[row]]
            longest = max((len(parts[row]) for row in own), default=0)
            own = [row for row in own if len(parts[row]) == longest]
        if len(own) > 1:
            raise UserError(f"{printable(file.path)}: {len(own)} images are called {printable(Path(path).name)}")
        rows += own
        if not own:
            unknown.append(Path(path).name)
    if unknown:
        raise UserError(
            f"{printable(file.path)}: {len(unknown)} of {len(images)} images of the split are not in it: "
            f"{some(unknown)}; it has {some(image.file_name for image in file.images)}"
        )
    if len(set(rows)) < len(rows):
        raise UserError(f"{printable(file.path)}: several images of the split have the same file name")
    return rows


def _federated(
    file: CocoFile, photos: Sequence[CocoImage], label_of: dict[int, int], category_ids: Sequence[int]
) -> Federated | None:
    if not file.federated:
        return None
    frequency = {category.id: category.frequency for category in file.categories}

    def pairs(key: str) -> np.ndarray:
        lists = (getattr(photo, key) for photo in photos)
        return ragged([[label_of[each] for each in own if each in label_of] for own in lists])

    return Federated(pairs("absent"), pairs("not_exhaustive"), tuple(frequency[each] for each in category_ids))
