"""Anchors fitted to a data set's boxes, for `--autoanchor`."""

import torch
from torch import Tensor

from alignyolo.assign.pairs import shape_iou

RESTARTS, ROUNDS = 8, 50


def fit_anchors(sizes: Tensor, levels: int, per_level: int, seed: int = 0) -> list[list[list[float]]]:
    """Fit anchors to truth sides (T, 2) by k-means under shape IoU: [width, height] per level (YOLOv2).

    The best of several starts by mean IoU. Raises ValueError with fewer different sizes than anchors.
    """
    count = levels * per_level
    distinct = len(torch.unique(sizes, dim=0))
    if distinct < count:
        raise ValueError(f"{distinct} different box sizes for {count} anchors")
    generator = torch.Generator().manual_seed(seed)
    fits = [_refined(sizes, _start(sizes, count, generator)) for _ in range(RESTARTS)]
    means = max(fits, key=lambda fit: shape_iou(sizes[:, None], fit).amax(1).mean().item())
    return means[means.prod(1).argsort()].round(decimals=1).view(levels, per_level, 2).tolist()


def _start(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return k-means++: each further mean is drawn by how badly the ones so far fit a size."""
    means = sizes[torch.randint(len(sizes), (1,), generator=generator)]
    while len(means) < count:
        misfit = (1 - shape_iou(sizes[:, None], means).amax(1)).clamp(min=1e-9).square()
        means = torch.cat([means, sizes[torch.multinomial(misfit, 1, generator=generator)]])
    return means


def _refined(sizes: Tensor, means: Tensor) -> Tensor:
    """Return Lloyd's rounds with the median of each cluster, until nothing moves."""
    for _ in range(ROUNDS):
        nearest = shape_iou(sizes[:, None], means).argmax(1)
        clusters = [sizes[nearest == k] for k in range(len(means))]
        moved = torch.stack(
            [own.median(0).values if len(own) else mean for own, mean in zip(clusters, means, strict=True)]
        )
        if torch.equal(moved, means):
            break
        means = moved
    return means
