"""SCALoss Figure 4: IoU and GIoU against side overlap, with the bounds that can be proved.

Let a and b be the signed overlaps of the two axes over their enclosing lengths, so that SO = a + b, and measure areas
in units of the enclosing box. The widths add up to 1 + a, the heights to 1 + b, and each lies between |a| or |b|, where
the boxes overlap on that axis, and 1. Hence

    overlapping pairs   union u = w1 h1 + w2 h2 - ab lies between a + b - ab (boxes that cross) and 1 (boxes that nest)
        IoU  = ab / u           so  ab <= IoU <= ab / (a + b - ab)
        GIoU = ab / u + u - 1,  which rises with u >= sqrt(ab), so  ab / (a + b - ab) + a + b - ab - 1 <= GIoU <= ab
    with SO = s given:          max(0, s - 1) <= IoU <= s / (4 - s);  s - 1 <= GIoU <= s^2 / 4
    separate pairs, s < 0:      GIoU = u - 1 <= (1 + s / 2)^2 - 1;  GIoU > -1 >= s - 1 where s <= 0
    separate pairs, s >= 0:     (1 + a) b <= u <= 1 + a with a < 0 <= b, so  s - 1 <= GIoU <= 0

The lower bound is the paper's claim (SO <= GIoU + 1 <= IoU + 1); the upper ones are not in the paper.
"""

from pathlib import Path

import torch
from matplotlib.colors import LogNorm
from torch import Tensor

from alignyolo.similarities.iou import giou, iou
from alignyolo.similarities.sca import so
from studies.charts import finish, new_figure, save_figure, save_rows
from studies.figures.gradient_magnitude import random_boxes
from utils.config.knobs import StudyConfig

ROUNDING = 1e-6
CHUNK = 1_000_000


def iou_bounds(side_overlap: Tensor, overlapping: Tensor) -> tuple[Tensor, Tensor]:
    """Return least and largest IoU that boxes of this SO (N,) can have; without overlap it is 0."""
    upper = torch.where(overlapping, side_overlap / (4 - side_overlap), 0.0)
    return (side_overlap - 1).clamp(min=0), upper


def giou_bounds(side_overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Return least and largest GIoU that boxes of this SO (N,) can have."""
    below_zero = (1 + side_overlap / 2).square() - 1
    return (side_overlap - 1).clamp(min=-1), torch.where(side_overlap < 0, below_zero, side_overlap.square() / 4)


def random_pairs(count: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return pairs of random boxes (count, 4), float64; with a `spread` above 1 most of them lie apart."""
    generator = torch.Generator().manual_seed(seed)
    pred, target = (random_boxes(count, generator).double() for _ in range(2))
    shift = (torch.rand(count, 2, generator=generator).double() - 0.5) * 2 * (spread - 1)
    return pred + torch.cat([shift, shift], dim=-1), target


def violations(pred: Tensor, target: Tensor) -> dict[str, int]:
    """Count the pairs that break a bound."""
    side_overlap, overlap, generalized = so(pred, target) + 1, iou(pred, target), giou(pred, target)
    (iou_low, iou_high), (giou_low, giou_high) = iou_bounds(side_overlap, overlap > 0), giou_bounds(side_overlap)
    broken = {
        "SO - 1 <= GIoU": side_overlap - 1 > generalized + ROUNDING,
        "GIoU <= IoU": generalized > overlap + ROUNDING,
        "IoU above its lower bound": overlap < iou_low - ROUNDING,
        "IoU below its upper bound": overlap > iou_high + ROUNDING,
        "GIoU above its lower bound": generalized < giou_low - ROUNDING,
        "GIoU below its upper bound": generalized > giou_high + ROUNDING,
    }
    return {name: int(pairs.sum()) for name, pairs in broken.items()}


def shape_similarity(pred: Tensor, target: Tensor) -> Tensor:
    """Return smaller over larger width times smaller over larger height (N,)."""
    size, other = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    return (torch.minimum(size, other) / torch.maximum(size, other)).prod(-1)


def gap_by_shape(pred: Tensor, target: Tensor, bins: int = 10) -> list[dict]:
    """Return the mean gap IoU + 1 - SO of overlapping pairs by the similarity of their shapes.

    Tighter on average only.
    """
    overlap = iou(pred, target)
    kept = overlap > 0
    gap = (overlap - so(pred, target))[kept]
    shape = shape_similarity(pred, target)[kept]
    interval = (shape * bins).long().clamp(max=bins - 1)
    return [
        {
            "shape_similarity_from": number / bins,
            "shape_similarity_to": (number + 1) / bins,
            "pairs": int((interval == number).sum()),
            "mean_gap": gap[interval == number].mean().item(),
            "largest_gap": gap[interval == number].max().item(),
        }
        for number in range(bins)
    ]


def examples() -> list[dict]:
    """Return pairs that say where the paper's sentences about SO hold and where not."""
    unit = (0.0, 0.0, 1.0, 1.0)
    cases = {
        "same shape, shifted by half in both axes: wide gap": ((0.5, 0.5, 1.5, 1.5), unit),
        "width x .9, concentric: no gap": ((0.05, 0.0, 0.95, 1.0), unit),
        "apart by 10 in x alone: SO goes to 0, not to -2": ((10.0, 0.0, 11.0, 1.0), unit),
        "apart by 1000 in x alone": ((1000.0, 0.0, 1001.0, 1.0), unit),
        "apart by 1000 in both axes: SO goes to -2": ((1000.0, 1000.0, 1001.0, 1001.0), unit),
    }
    rows = []
    for name, (pred, target) in cases.items():
        pair = torch.tensor([pred], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
        row = {"case": name, "so": so(*pair).item() + 1, "iou": iou(*pair).item(), "giou": giou(*pair).item()}
        rows.append({**row, "gap_iou_plus_1": row["iou"] + 1 - row["so"]})
    return rows


def draw(path: Path, pairs: int) -> None:
    """Draw the density of the pairs and the bounds."""
    parts = [random_pairs(pairs // 2, 0), random_pairs(pairs - pairs // 2, 1, spread=3.0)]
    pred, target = (torch.cat(part) for part in zip(*parts, strict=True))
    side_overlap = (so(pred, target) + 1).numpy()
    line = torch.linspace(-2, 2, 401, dtype=torch.float64)
    figure = new_figure(10, 4.6)
    panels = figure.subplots(1, 2)
    kinds = (("IoU", iou(pred, target), iou_bounds(line, line > 0)), ("GIoU", giou(pred, target), giou_bounds(line)))
    for axes, (name, values, (low, high)) in zip(panels, kinds, strict=True):
        lowest = -1.02 if name == "GIoU" else -0.02
        _, _, _, picture = axes.hist2d(
            side_overlap, values.numpy(), bins=160, range=((-2, 2), (lowest, 1.0)), norm=LogNorm(), cmap="Blues"
        )
        axes.plot(line, low, color="#d62728", linewidth=2, label="lower bound: SO - 1 (the paper's)")
        upper = "SO / (4 - SO)" if name == "IoU" else "SO²/4; (1 + SO/2)² - 1 below 0"
        axes.plot(line, high, color="#2ca02c", linewidth=2, linestyle="--", label=f"upper bound: {upper}")
        axes.set(xlim=(-2, 2.02), ylim=(lowest, 1.05))
        finish(axes, f"{name} against side overlap, {pairs:,} random pairs", "SO", name)
        axes.legend(fontsize=9, loc="upper left")
    figure.colorbar(picture, ax=panels, label="pairs", shrink=0.9)
    save_figure(figure, path)


def run(settings: StudyConfig) -> None:
    """Write bounds.csv, bounds_gap.csv, bounds_examples.csv and bounds.png."""
    out, pairs = Path(settings.out), CHUNK if settings.quick else 4 * CHUNK
    rows = []
    for name, spread in (("as in Figure 1", 1.0), ("mostly apart", 3.0)):
        total: dict[str, int] = {}
        for seed in range(pairs // CHUNK):
            found = violations(*random_pairs(CHUNK, seed, spread))
            total = {bound: total.get(bound, 0) + count for bound, count in found.items()}
        rows += [{"pairs": name, "drawn": pairs, "bound": bound, "violations": total[bound]} for bound in total]
    save_rows(rows, out / "bounds.csv")
    save_rows(gap_by_shape(*random_pairs(CHUNK, 0)), out / "bounds_gap.csv")
    save_rows(examples(), out / "bounds_examples.csv")
    draw(out / "bounds.png", CHUNK)
    broken = sum(row["violations"] for row in rows)
    print(f"{broken} violations of six bounds in 2 x {pairs:,} pairs")
