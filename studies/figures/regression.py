"""SCALoss Figure 1, right, and Figure 5b: anchors that move to a truth by gradient descent on a loss alone."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from alignyolo.similarities import bound
from alignyolo.similarities.iou import iou
from alignyolo.similarities.sca import iou_cd, sca
from studies.charts import NAMES, STYLES, finish, new_figure, save_figure, save_rows
from utils.config.knobs import StudyConfig

Similarity = Callable[[Tensor, Tensor], Tensor]

STEPS = 1500
RECORD_EVERY = 50
# The paper's anchors and truths; the width of the grid and the area of the truths are not given there. These make the
# mean initial IoU that of the figure.
GRID_CELLS, GRID_WIDTH, TRUTH_AREA = 20, 13.42, 16.0
ANCHOR_SIDES, ANCHOR_RATIOS, TRUTH_RATIOS = (2.0, 4.0, 6.0), (2.0, 1.0, 0.5), (4.0, 2.0, 1.0, 0.5, 0.25)

SIMILARITIES: dict[str, Similarity] = {
    **{name: bound.similarity(name) for name in ("iou", "giou", "diou", "ciou", "so", "sca")},
    "sca squared": functools.partial(sca, corner="squared"),
}
# Figure 1, right: "the loss weight of corner alignment is 0.5x as center alignment".
ALIGNMENTS: dict[str, Similarity] = {
    "IoU + centre (DIoU)": bound.similarity("diou"),
    "IoU + .5 corner": functools.partial(iou_cd, alpha=0.5),
    "IoU + .75 corner": functools.partial(iou_cd, alpha=0.75),
    "IoU + .5 corner, squared": functools.partial(iou_cd, alpha=0.5, corner="squared"),
}
PAPER_CENTER = {0: 0.05, 200: 0.28, 400: 0.495, 600: 0.66, 800: 0.785, 1000: 0.87, 1200: 0.92, 1500: 0.965}


@dataclass(frozen=True)
class Descent:
    """How a step is taken: `rate` x gradient, times 2 - IoU where `weighted` (DIoU's rule).

    `matched` divides the rate by how much larger the mean initial loss is than that of IoU.
    """

    rate: float
    weighted: bool = False
    matched: bool = False


DESCENTS = {"plain, rate .2": Descent(0.2), "DIoU's rule, rate .1 x (2 - IoU)": Descent(0.1, weighted=True)}
MATCHED = {"plain, rate .2 / (initial loss / IoU's)": Descent(0.2, matched=True)}


def sides(lengths: tuple[float, ...], ratios: tuple[float, ...]) -> Tensor:
    """Return width and height (K, 2) of every length (root of the area) with every side ratio."""
    root = torch.tensor(ratios).sqrt()
    length = torch.tensor(lengths)[:, None]
    return torch.stack([length * root, length / root], dim=-1).reshape(-1, 2)


def anchors_and_truths(limit: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the 20 x 20 x 3 x 3 anchors paired with each of the 5 truths.

    (18000, 4) twice, or a random `limit` of them.
    """
    line = ((torch.arange(GRID_CELLS) + 0.5) / GRID_CELLS - 0.5) * GRID_WIDTH
    y, x = torch.meshgrid(line, line, indexing="ij")
    center = torch.stack([x, y], dim=-1).reshape(-1, 1, 1, 2)
    half = sides(ANCHOR_SIDES, ANCHOR_RATIOS).reshape(1, -1, 1, 2) / 2
    truth_half = sides((TRUTH_AREA**0.5,), TRUTH_RATIOS).reshape(1, 1, -1, 2) / 2
    anchors = torch.cat([center - half, center + half], dim=-1)
    truths = torch.cat([-truth_half, truth_half], dim=-1)
    shape = (anchors.shape[0], anchors.shape[1], truths.shape[2], 4)
    pairs = anchors.expand(shape).reshape(-1, 4), truths.expand(shape).reshape(-1, 4)
    if limit is None:
        return pairs
    chosen = torch.randperm(len(pairs[0]), generator=torch.Generator().manual_seed(seed))[:limit]
    return pairs[0][chosen], pairs[1][chosen]


def step(boxes: Tensor, truths: Tensor, similarity: Similarity, descent: Descent) -> Tensor:
    """Return the boxes (N, 4) after one step of gradient descent on 1 - similarity by their corners."""
    boxes = boxes.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(similarity(boxes, truths).sum(), boxes)
    boxes = boxes.detach()
    weight = 2 - iou(boxes, truths)[:, None] if descent.weighted else 1.0
    return boxes + descent.rate * weight * gradient


def converge(
    boxes: Tensor, truths: Tensor, similarity: Similarity, descent: Descent, steps: int = STEPS
) -> tuple[dict[int, float], Tensor]:
    """Return the mean IoU at every 50th step, and the last IoUs (N,)."""
    curve = {}
    for number in range(steps + 1):
        if number % RECORD_EVERY == 0:
            curve[number] = iou(boxes, truths).mean().item()
        if number < steps:
            boxes = step(boxes, truths, similarity, descent)
    return curve, iou(boxes, truths)


def curves(
    similarities: Mapping[str, Similarity], descent: Descent, limit: int | None, steps: int = STEPS
) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Return the mean IoU by step for every similarity, and the share of boxes that end below an IoU of .01."""
    boxes, truths = anchors_and_truths(limit)
    initial_iou_loss = (1 - iou(boxes, truths)).mean().item()
    found = {}
    for name, similarity in similarities.items():
        ratio = (1 - similarity(boxes, truths)).mean().item() / initial_iou_loss if descent.matched else 1.0
        slowed = replace(descent, rate=descent.rate / ratio)
        found[name] = converge(boxes, truths, similarity, slowed, steps)
    stranded = {name: (last < 0.01).float().mean().item() for name, (_, last) in found.items()}
    return {name: curve for name, (curve, _) in found.items()}, stranded


def ordering_holds(at_step: Mapping[str, float]) -> bool:
    """Return the paper's order of mean IoUs: SCA > SO > GIoU and DIoU, and those > IoU."""
    middle = (at_step["giou"], at_step["diou"])
    return at_step["sca"] > at_step["so"] > max(middle) and min(middle) > at_step["iou"]


def table(by_name: Mapping[str, dict[int, float]]) -> list[dict]:
    """Return one row per recorded step."""
    steps = next(iter(by_name.values()))
    return [{"step": number, **{name: curve[number] for name, curve in by_name.items()}} for number in steps]


def draw_alignment(by_name: Mapping[str, dict[int, float]], path: Path) -> None:
    """Draw Figure 1, right: centre against corners."""
    figure = new_figure(9, 4.2)
    axes = figure.add_subplot()
    looks = ({"color": "#2ca02c"}, {"color": "#8c564b"}, {"color": "#e377c2"}, {"color": "#8c564b", "linestyle": "--"})
    for look, (name, curve) in zip(looks, by_name.items(), strict=True):
        axes.plot(curve.keys(), curve.values(), linewidth=2, label=name, **look)
    axes.plot(
        PAPER_CENTER.keys(), PAPER_CENTER.values(), "o", color="#2ca02c", markeredgecolor="black", label="paper: centre"
    )
    axes.set(xlim=(0, STEPS), ylim=(0, 1.02))
    finish(axes, "Aligning centres or corners, besides IoU", "step of gradient descent", "mean IoU with the truth")
    axes.legend(fontsize=9, loc="lower right")
    save_figure(figure, path)


def draw(by_descent: Mapping[str, Mapping[str, dict[int, float]]], path: Path) -> None:
    """Draw Figure 5b in every set-up."""
    figure = new_figure(13, 4.2)
    panels = figure.subplots(1, len(by_descent), sharey=True)
    for axes, (title, by_name) in zip(panels, by_descent.items(), strict=True):
        for name, curve in by_name.items():
            axes.plot(curve.keys(), curve.values(), linewidth=2, label=NAMES[name], **STYLES[name])
        axes.axvline(400, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, STEPS), ylim=(0, 1.02))
        finish(axes, title, "step of gradient descent", "mean IoU with the truth" if axes is panels[0] else "")
    panels[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def run(settings: StudyConfig) -> None:
    """Write regression_alignment.csv and .png (Figure 1, right); regression.csv, _stranded.csv, .png (Figure 5b)."""
    limit, out = 1200 if settings.quick else None, Path(settings.out)
    alignment, _ = curves(ALIGNMENTS, DESCENTS["DIoU's rule, rate .1 x (2 - IoU)"], limit)
    save_rows(table(alignment), out / "regression_alignment.csv")
    draw_alignment(alignment, out / "regression_alignment.png")
    center = alignment["IoU + centre (DIoU)"]
    worst = max(abs(center[number] - value) for number, value in PAPER_CENTER.items())
    print(f"centre curve: at most {worst:.3f} in mean IoU from the paper's figure")

    by_descent, rows, lost = {}, [], []
    for title, descent in {**DESCENTS, **MATCHED}.items():
        by_descent[title], stranded = curves(SIMILARITIES, descent, limit)
        rows += [{"setup": title, **row} for row in table(by_descent[title])]
        lost.append({"setup": title, **stranded})
        at_400 = {name: curve[400] for name, curve in by_descent[title].items()}
        holds = "holds" if ordering_holds(at_400) else "does NOT hold"
        print(f"{title}: SCA > SO > GIoU, DIoU > IoU at step 400 {holds}; mean IoU")
        print("  " + "  ".join(f"{NAMES[name]} {value:.3f}" for name, value in at_400.items()))
    save_rows(rows, out / "regression.csv")
    save_rows(lost, out / "regression_stranded.csv")
    draw(by_descent, out / "regression.png")
