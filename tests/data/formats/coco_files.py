"""COCO files for the tests, made from coco128's photos and labels with ids that no built-in table knows."""

import json
import shutil

import numpy as np
from PIL import Image

from tests.paths import SHARED_DATA

COCO128 = SHARED_DATA / "coco128"


def coco_names():
    import yaml

    from tests.paths import ROOT

    names = yaml.safe_load((ROOT / "data" / "coco128.yaml").read_text())["names"]
    return [names[number] for number in range(80)]


def make_coco(folder, photos=12, seed=0):
    """annotations/instances_val2017.json and images/val2017 with a few photos; crowds, odd ids, rounded boxes."""
    random = np.random.default_rng(seed)
    names = coco_names()
    order = random.permutation(80).tolist()
    ids = {label: 3 * place + 7 for place, label in enumerate(order)}
    images, annotations = [], []
    (folder / "images" / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    paths = sorted((COCO128 / "images" / "val2017").glob("*.jpg"))[:photos]
    for path, number in zip(paths, random.permutation(5000)[:photos].tolist(), strict=True):
        shutil.copy(path, folder / "images" / "val2017")
        with Image.open(path) as photo:
            width, height = photo.size
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        text = (COCO128 / "labels" / "val2017" / f"{path.stem}.txt").read_text().splitlines()
        for line in text:
            label, x, y, w, h = map(float, line.split())
            left, top = round((x - w / 2) * width, 2), round((y - h / 2) * height, 2)
            box = [max(left, 0), max(top, 0), round(w * width, 2), round(h * height, 2)]
            box[2:] = [min(box[2], round(width - box[0], 2)), min(box[3], round(height - box[1], 2))]
            crowd = int(random.random() < 0.1)
            area = round(box[2] * box[3] * (0.6 if len(annotations) % 2 else 1), 4)
            entry = {"id": len(annotations) + 11, "image_id": number, "category_id": ids[int(label)]}
            annotations.append({**entry, "bbox": box, "area": area, "iscrowd": crowd})
    categories = [{"id": ids[label], "name": names[label]} for label in order]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(document))
    return path, document
