"""Random batches of truths on small images, for comparing assigners with their slow twins."""

from typing import NamedTuple

import numpy as np
import torch

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.targets import Targets

FAMILIES = {
    "yolov3": (
        [8, 16, 32],
        [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]],
    ),
    "yolov3-tiny": ([16, 32], [[(10, 14), (23, 27), (37, 58)], [(81, 82), (135, 169), (344, 319)]]),
    # So few anchors that truths fight for them, and so small that large truths are out of reach.
    "scarce": ([32], [[(20, 24), (16, 40)]]),
}


class Scene(NamedTuple):
    """One batch: the anchors of its image size and the truths of `batch_size` images."""

    anchors: Anchors
    targets: Targets
    batch_size: int


def random_scene(rng: np.random.Generator, family: str, batch_size: int = 4, most: int = 60) -> Scene:
    """A batch of images of one random size (96 to 256 px, height unlike width) with 0 to `most` truths each."""
    height, width = rng.choice(np.arange(96, 257, 32), size=2, replace=False).tolist()
    strides, sizes = FAMILIES[family]
    boxes = [random_boxes(rng, height, width, random_count(rng, most)) for _ in range(batch_size)]
    labels = [torch.from_numpy(rng.integers(0, 5, len(part))) for part in boxes]
    targets = Targets.stack([torch.from_numpy(part) for part in boxes], labels)
    return Scene(build_anchors((height, width), strides, sizes), targets, batch_size)


def random_count(rng: np.random.Generator, most: int) -> int:
    """No truth, a few, or up to `most`."""
    kind = rng.integers(0, 5)
    if kind == 0:
        return 0
    return int(rng.integers(1, 6 if kind < 4 else most + 1))


def random_boxes(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """`count` float32 xyxy boxes of every size and place below, many of them coincident, centred in the image."""
    boxes: list[np.ndarray] = []
    copies = rng.choice([0.0, 0.2, 0.8])
    snapped = rng.random() < 0.5
    for _ in range(count):
        if boxes and rng.random() < copies:
            box = boxes[rng.integers(len(boxes))]
            boxes.append(box + (rng.integers(-2, 3, 4) if rng.random() < 0.3 else 0))
            continue
        center, size = random_center(rng, height, width), random_size(rng, height, width)
        box = np.concatenate([center - size / 2, center + size / 2])
        boxes.append(np.round(box) if snapped else box)
    array = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    array[:, 2:] = np.maximum(array[:, 2:], array[:, :2])
    # A box that was moved must keep its centre in the image: no label file holds others.
    centers = (array[:, :2] + array[:, 2:]) / 2
    shift = np.clip(centers, 0, np.float32([width, height])) - centers
    return (array + np.concatenate([shift, shift], axis=1)).astype(np.float32)


def random_center(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A point (x, y) anywhere, on the image's border or corner, or on the grid of cell corners or cell centres."""
    point = rng.uniform(0, [width, height])
    kind = rng.integers(0, 8)
    if kind == 0:
        side = rng.integers(0, 2)
        point[side] = rng.choice([0, [width, height][side]])
    elif kind == 1:
        point = np.array([rng.choice([0, width]), rng.choice([0, height])], dtype=float)
    elif kind == 2:
        point = np.round(point / 16) * 16
    elif kind == 3:
        point = np.floor(point / 16) * 16 + 8
    return point


def random_size(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Width and height: ordinary, slender (ratio 4 to 40), tiny (1 to 4 px), large, an anchor's own, or no area."""
    kind = rng.choice(["ordinary", "slender", "tiny", "large", "anchor", "flat"], p=[0.4, 0.2, 0.15, 0.1, 0.13, 0.02])
    if kind == "slender":
        long = rng.uniform(24, max(height, width))
        size = np.array([long, max(1.0, long / rng.uniform(4, 40))])
        return size if rng.random() < 0.5 else size[::-1]
    if kind == "tiny":
        return rng.uniform(1, 4, 2)
    if kind == "large":
        return rng.uniform(0.5, 1, 2) * [width, height]
    if kind == "anchor":
        levels = FAMILIES[str(rng.choice(["yolov3", "yolov3-tiny", "scarce"]))][1]
        level = levels[rng.integers(len(levels))]
        return np.array(level[rng.integers(len(level))], dtype=float)
    if kind == "flat":
        return rng.uniform(0, 20, 2) * rng.permutation([0.0, 1.0])
    return np.exp(rng.uniform(np.log(6), np.log(max(height, width)), 2))
