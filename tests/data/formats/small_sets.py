"""Tiny sets for the tests of formats: photos of noise, COCO documents, and what a set holds when read back."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.data_yaml import DataSpec, read_data_yaml
from data.split import load_split


def photo(path: Path, width: int = 128, height: int = 96, seed: int = 0) -> Path:
    """Write a photo of noise, which no other has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *str(path.name).encode()])
    Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return path


def coco_document(names, boxes=((32, 24, 64, 48),), size=(128, 96), categories=("thing",)) -> dict:
    """A COCO file of these photos, each with the boxes, of the categories by turns."""
    width, height = size
    images = [{"id": row, "file_name": name, "width": width, "height": height} for row, name in enumerate(names)]
    annotations = [
        {"image_id": row, "category_id": 1 + row % len(categories), "bbox": list(box), "area": box[2] * box[3]}
        for row in range(len(names))
        for box in boxes
    ]
    for number, entry in enumerate(annotations):
        entry |= {"id": number, "iscrowd": 0}
    kinds = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    return {"images": images, "annotations": annotations, "categories": kinds}


def write_json(path: Path, document: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def read_back(data: Path | DataSpec, cache: Path) -> dict:
    """Boxes (rounded to .001 px) with class names by split and file name, as training reads them."""
    spec = data if isinstance(data, DataSpec) else read_data_yaml(str(data), cache)
    found: dict = {}
    for split in spec.splits:
        index = load_split(spec, split, cache)
        for row, image in enumerate(index.images):
            boxes, labels = index.of(row)
            rows = zip((spec.names[label] for label in labels.tolist()), boxes.astype(float).tolist(), strict=True)
            key = (split, Path(image).name)
            found[key] = sorted((name, *(round(side, 3) for side in box)) for name, box in rows)
    return found
