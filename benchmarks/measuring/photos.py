"""A copy of a data set that both sides of a benchmark read."""

import argparse
import shutil
from pathlib import Path

from data.data_yaml import read_data_yaml
from data.labels.index import LabelIndex
from data.open.any_layout import root_for
from data.split import load_split


def open_split(settings: argparse.Namespace, split: str = "train") -> LabelIndex:
    """Return the photos and labels that a benchmark runs on; UserError where they are not at hand."""
    return load_split(read_data_yaml(settings.data, root_for(settings.data, settings.data_root)), split)


def copy_photos(index: LabelIndex, folder: Path, split: str, count: int = 0) -> Path:
    """Copy `count` photos (0 = all; repeated where there are fewer) with their labels to folder/images/split.

    Copies, because the peer writes beside what it reads and mends damaged JPEG files in place.
    """
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count or len(index)):
        row = number % len(index)
        source, (height, width) = Path(index.images[row]), index.sizes[row].tolist()
        shutil.copyfile(source, images / f"{number:06}{source.suffix}")
        lines = [
            f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
            for (x1, y1, x2, y2), label in zip(*map(list, index.of(row)), strict=True)
        ]
        (labels / f"{number:06}.txt").write_text("".join(lines))
    return images


def write_data_yaml(folder: Path, num_classes: int) -> Path:
    """Return a data YAML of the splits `train` and `val` in a folder, which this project and the peer both read."""
    names = "".join(f"  {number}: class {number}\n" for number in range(num_classes))
    path = folder / "data.yaml"
    path.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return path
