"""A split of a data set, ready to train or validate on: images, checked labels, and what was wrong with them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.data_yaml import DataSpec, label_paths, list_images
from data.labels.index import LabelIndex, load_labels
from data.photo_files import in_users_words
from utils.errors import UserError


def load_split(spec: DataSpec, split: str, cache_dir: Path | None = None, bad_labels: str = "mend") -> LabelIndex:
    """Find and read a split's images and labels; UserError where there is nothing to learn or to measure.

    A split with an original annotation file can be measured without labels.
    """
    images = list_images(spec, split)
    try:
        index = load_labels(
            images,
            label_paths(spec, images),
            spec.num_classes,
            cache_dir,
            required=split not in spec.annotations,
            bad_labels=bad_labels,
            keypoints=spec.keypoints,
        )
    except UserError as error:
        raise UserError(in_users_words(str(error))) from None
    return replace(index, report=index.report.reworded(in_users_words)) if spec.source else index


def fingerprint(index: LabelIndex) -> dict[str, Any]:
    """Return what tells whether a split is still the same.

    Its counts, and a hash of file names, sizes, boxes and labels.
    """
    digest = hashlib.sha256("\n".join(Path(image).name for image in index.images).encode("utf-8", "surrogateescape"))
    for part in (index.sizes, index.starts, index.boxes, index.labels):
        digest.update(part.tobytes())
    return {"images": len(index), "boxes": len(index.labels), "sha256": digest.hexdigest()}
