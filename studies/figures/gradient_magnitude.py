"""SCALoss Figure 1, left: how long the gradient of a loss is at every IoU."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from alignyolo.similarities import bound
from alignyolo.similarities.iou import iou
from alignyolo.similarities.sca import sca
from studies.charts import NAMES, STYLES, finish, new_figure, save_figure, save_rows
from utils.config.knobs import StudyConfig

BINS = 10
CHUNK = 250_000

# Read off the paper's figure, one value per IoU interval of .1.
PAPER = {
    "iou": (0.64, 0.90, 1.09, 1.28, 1.48, 1.70, 1.92, 2.16, 2.41, 2.64),
    "so": (2.04, 2.19, 2.30, 2.41, 2.51, 2.61, 2.71, 2.80, 2.89, 2.97),
    "sca": (2.31, 2.42, 2.50, 2.59, 2.67, 2.75, 2.83, 2.90, 2.95, 3.02),
}

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: bound.similarity(name) for name in ("iou", "giou", "diou", "ciou", "so", "sca")},
    "sca squared": functools.partial(sca, corner="squared"),
    "sca alpha 1": functools.partial(sca, alpha=1.0),
}


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Return xyxy boxes (count, 4) whose centre and sides are uniform in 0 to 1."""
    center = torch.rand(count, 2, generator=generator)
    half = torch.rand(count, 2, generator=generator) / 2
    return torch.cat([center - half, center + half], dim=-1)


def gradient_lengths(similarity: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> Tensor:
    """Return the length of the gradient with respect to the corners of pred: (N, 4), (N, 4) -> (N,)."""
    pred = pred.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(similarity(pred, target).sum(), pred)
    return gradient.norm(dim=-1)


def gradient_table(
    similarities: Mapping[str, Callable[[Tensor, Tensor], Tensor]], pairs: int, seed: int = 0
) -> list[dict]:
    """Return one row per IoU interval of .1: number of pairs, mean gradient length of each loss and its standard error.

    The pairs overlap; other draws are thrown away.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(BINS, dtype=torch.float64)
    sums = {name: torch.zeros(2, BINS, dtype=torch.float64) for name in similarities}
    while counts.sum() < pairs:
        pred, target = random_boxes(CHUNK, generator), random_boxes(CHUNK, generator)
        overlap = iou(pred, target)
        kept = (overlap > 0).nonzero().flatten()[: pairs - int(counts.sum())]
        pred, target = pred[kept], target[kept]
        interval = (overlap[kept] * BINS).long().clamp(max=BINS - 1)
        counts += torch.bincount(interval, minlength=BINS)
        for name, similarity in similarities.items():
            length = gradient_lengths(similarity, pred, target).double()
            sums[name][0].index_add_(0, interval, length)
            sums[name][1].index_add_(0, interval, length.square())
    rows = []
    for number in range(BINS):
        row: dict = {"iou_from": number / BINS, "iou_to": (number + 1) / BINS, "pairs": int(counts[number])}
        for name in similarities:
            mean, square = (sums[name][:, number] / counts[number]).tolist()
            row[name] = mean
            row[f"{name} standard error"] = (max(square - mean**2, 0) / float(counts[number])) ** 0.5
        rows.append(row)
    return rows


def with_paper(rows: list[dict]) -> list[dict]:
    """Return the rows with the values that were read off the paper's figure."""
    return [
        {**row, **{f"{name} (paper's figure)": values[number] for name, values in PAPER.items()}}
        for number, row in enumerate(rows)
    ]


def deviation(rows: list[dict], name: str, paper_name: str, least_pairs: int = 1) -> float:
    """Return largest relative deviation from the paper's figure over the intervals with so many pairs."""
    both = zip(rows, PAPER[paper_name], strict=True)
    return max(abs(row[name] / value - 1) for row, value in both if row["pairs"] >= least_pairs)


def draw(rows: list[dict], path: Path) -> None:
    """Draw curves of every loss, the paper's points on them."""
    figure = new_figure(9, 4.6)
    axes = figure.add_subplot()
    middle = [(row["iou_from"] + row["iou_to"]) / 2 for row in rows]
    for name in SIMILARITIES:
        axes.plot(middle, [row[name] for row in rows], linewidth=2, label=NAMES[name], **STYLES[name])
    for name, marker in (("iou", "o"), ("so", "s"), ("sca", "^")):
        label = f"paper's figure: {name.upper() if name != 'iou' else 'IoU'}"
        axes.plot(middle, PAPER[name], marker, color=STYLES[name]["color"], markeredgecolor="black", label=label)
    axes.set(xlim=(0, 1), ylim=(0, None), xticks=[number / BINS for number in range(BINS + 1)])
    finish(axes, "Length of the loss gradient, overlapping random boxes", "IoU", "mean |gradient| by the corners")
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def run(settings: StudyConfig) -> None:
    """Write gradient_magnitude.csv and .png.

    Of the paper's 1,000,000 pairs a few dozen lie above IoU .9, too few for 5 %; ten times as many give that interval.
    """
    pairs = 1_000_000 if settings.quick else 10_000_000
    rows = gradient_table(SIMILARITIES, pairs)
    out = Path(settings.out)
    save_rows(with_paper(rows), out / "gradient_magnitude.csv")
    draw(rows, out / "gradient_magnitude.png")
    print(f"{pairs:,} overlapping pairs: largest deviation from the paper's figure over all intervals, and over those")
    print("with at least 1,000 pairs")
    for name, paper_name in (("iou", "iou"), ("so", "so"), ("sca squared", "sca"), ("sca", "sca")):
        everywhere, well_known = deviation(rows, name, paper_name), deviation(rows, name, paper_name, 1000)
        print(f"  {NAMES[name]:<24}{100 * everywhere:6.1f} %{100 * well_known:6.1f} %")
    print("  The paper's SCA curve is that of squared corner distances; its Eq. 3 (not squared) gives another curve.")
