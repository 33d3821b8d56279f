"""GGIoU Figure 1: IoU and GGIoU of an anchor over the plane of its centre's shifts, and where they cross thresholds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignyolo.gaussian_iou import ggiou
from studies.charts import finish, markdown, new_figure, save_figure, save_rows
from utils.config.knobs import StudyConfig

ALPHAS = (0.0, 0.3, 0.5)  # 0 is IoU
POSITIVE, NEGATIVE = 0.5, 0.4
# Read from the paper: IoU and GGIoU of the eight anchors of Figure 1 (a), in its order.
FIGURE_1A = (
    (0.296, 0.454),
    (0.375, 0.510),
    (0.404, 0.529),
    (0.429, 0.546),
    (0.441, 0.554),
    (0.429, 0.546),
    (0.375, 0.510),
    (0.167, 0.351),
)


@dataclass(frozen=True)
class Shape:
    """A truth and an anchor of different shapes: width and height of each."""

    name: str
    truth: tuple[float, float]
    anchor: tuple[float, float]


SHAPES = (
    Shape("square truth, equal anchor", (1, 1), (1, 1)),
    Shape("slender truth 4 : 1, equal anchor", (2, 0.5), (2, 0.5)),
    Shape("slender truth 4 : 1, anchor 2 : 1", (2, 0.5), (2**0.5, 0.5**0.5)),
    Shape("slender truth 4 : 1, square anchor", (2, 0.5), (1, 1)),
)


def centered(size: tuple[float, float], shift: Tensor) -> Tensor:
    """Return boxes (..., 4) of one size around shifted centres (..., 2)."""
    half = shift.new_tensor(size) / 2
    return torch.cat([shift - half, shift + half], dim=-1)


def metric_at(shape: Shape, shift: Tensor, alpha: float) -> Tensor:
    """Return the metric of anchors shifted by (..., 2) from their truth: (...)."""
    return ggiou(centered(shape.anchor, shift), centered(shape.truth, torch.zeros_like(shift)), alpha=alpha)


def crossing(metric: Callable[[float], float], threshold: float, low: float = 0.0, high: float = 4.0) -> float | None:
    """Find where a falling metric reaches a threshold, by bisection; None where it starts below."""
    if metric(low) < threshold:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if metric(middle) >= threshold else (low, middle)
    return low


def crossings(shape: Shape) -> list[dict]:
    """Shift along x, along y and along the diagonal (per axis) at which each metric falls below each threshold."""
    rows = []
    for alpha in ALPHAS:
        for threshold in (POSITIVE, NEGATIVE):
            row: dict = {"shape": shape.name, "alpha": alpha, "threshold": threshold}
            for direction, unit in {"x": (1, 0), "y": (0, 1), "diagonal": (1, 1)}.items():
                step = torch.tensor(unit, dtype=torch.float64)
                row[direction] = crossing(
                    lambda shift, step=step, alpha=alpha: metric_at(shape, shift * step, alpha).item(), threshold
                )
            rows.append(row)
    return rows


def area_above(shape: Shape, alpha: float, threshold: float, cells: int = 800, extent: float = 2.0) -> float:
    """Return the area of the shifts with a metric at or above a threshold, in areas of the truth.

    Anchors it gets where dense.
    """
    line = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * extent
    y, x = torch.meshgrid(line, line, indexing="ij")
    above = metric_at(shape, torch.stack([x, y], dim=-1), alpha) >= threshold
    return above.double().mean().item() * (2 * extent) ** 2 / (shape.truth[0] * shape.truth[1])


def figure_1a() -> list[dict]:
    """Return the paper's eight pairs.

    The ceiling IoU^(1 - alpha), Dc at alpha .5, and GGIoU redone at alpha .3 with it.
    """
    rows = []
    for overlap, printed in FIGURE_1A:
        gaussian = printed**2 / overlap
        rows.append(
            {
                "iou": overlap,
                "ggiou_in_the_paper": printed,
                "ceiling_at_alpha_.3": overlap**0.7,
                "dc_if_alpha_.5": gaussian,
                "ggiou_at_alpha_.3_with_that_dc": overlap**0.7 * gaussian**0.3,
            }
        )
    return rows


def fitted_exponent() -> float:
    """Return 1 - alpha by least squares of ln GGIoU on ln IoU over the first seven pairs, whose Dc is one."""
    points = torch.tensor(FIGURE_1A[:7], dtype=torch.float64).log()
    x, y = (points - points.mean(0)).unbind(1)
    return ((x * y).sum() / x.square().sum()).item()


def draw_planes(path: Path, cells: int = 241) -> None:
    """Draw heat maps, a row per metric and a column per shape, with both thresholds as contours."""
    figure = new_figure(11, 7.6)
    panels = figure.subplots(len(ALPHAS), len(SHAPES), sharex=True, sharey=True)
    line = ((torch.arange(cells) + 0.5) / cells * 2 - 1) * 1.2
    y, x = torch.meshgrid(line, line, indexing="ij")
    for row, alpha in enumerate(ALPHAS):
        for column, shape in enumerate(SHAPES):
            axes = panels[row, column]
            values = metric_at(shape, torch.stack([x, y], dim=-1), alpha).numpy()
            picture = axes.pcolormesh(line, line, values, vmin=0, vmax=1, cmap="viridis", shading="nearest")
            for threshold, style in ((POSITIVE, "solid"), (NEGATIVE, "dashed")):
                if values.max() >= threshold:
                    axes.contour(line, line, values, levels=[threshold], colors="white", linestyles=style)
            axes.text(-1.15, 1.0, f"at best {values.max():.2f}", color="white", fontsize=9, va="top")
            axes.set_aspect("equal")
            if row == 0:
                axes.set_title(shape.name.replace(", ", ",\n"), fontsize=10)
            if row == len(ALPHAS) - 1:
                axes.set_xlabel("shift of the centre in x")
            if column == 0:
                name = "IoU" if alpha == 0 else f"GGIoU, alpha {alpha}"
                axes.set_ylabel(f"{name}\nshift in y")
    bar = figure.colorbar(picture, ax=panels, label="metric; contours: .5 solid, .4 dashed", shrink=0.7)
    bar.ax.axhline(POSITIVE, color="white")
    bar.ax.axhline(NEGATIVE, color="white", linestyle="--")
    figure.suptitle("IoU and GGIoU over the plane of centre shifts (truth of area 1)", fontsize=12)
    save_figure(figure, path)


def draw_figure_1a(rows: list[dict], path: Path) -> None:
    """Draw bars of the eight anchors: IoU, GGIoU as printed, GGIoU at the paper's own default alpha."""
    figure = new_figure(9, 3.8)
    axes = figure.add_subplot()
    kinds = {
        "iou": ("IoU", "#7f7f7f"),
        "ggiou_in_the_paper": ("GGIoU as printed (fits alpha .5)", "#1f77b4"),
        "ggiou_at_alpha_.3_with_that_dc": ("GGIoU at the default alpha .3, same centres", "#d62728"),
    }
    for number, (key, (label, color)) in enumerate(kinds.items()):
        places = [anchor + 0.27 * (number - 1) for anchor in range(1, len(rows) + 1)]
        axes.bar(places, [row[key] for row in rows], width=0.25, color=color, label=label)
    axes.axhline(POSITIVE, color="black", linewidth=1.2, label="positive threshold .5")
    axes.axhline(NEGATIVE, color="black", linewidth=1.2, linestyle="--", label="negative threshold .4")
    axes.set(ylim=(0, 0.85), xticks=range(1, len(rows) + 1))
    finish(axes, "The eight anchors of GGIoU's Figure 1 (a)", "anchor", "metric")
    axes.legend(fontsize=9, ncols=2, loc="upper center")
    save_figure(figure, path)


def draw(folder: Path) -> None:
    """Draw ggiou_plane.png and ggiou_figure_1a.png into a folder."""
    draw_planes(folder / "ggiou_plane.png")
    draw_figure_1a(figure_1a(), folder / "ggiou_figure_1a.png")


def run(settings: StudyConfig) -> None:
    """Write ggiou_crossings.csv, ggiou_areas.csv, ggiou_figure_1a.csv, ggiou_plane.png and ggiou_figure_1a.png."""
    out = Path(settings.out)
    save_rows([row for shape in SHAPES for row in crossings(shape)], out / "ggiou_crossings.csv")
    cells = 400 if settings.quick else 1200
    areas = [
        {"shape": shape.name, "alpha": alpha}
        | {f"area_above_{limit}": area_above(shape, alpha, limit, cells) for limit in (POSITIVE, NEGATIVE)}
        for shape in SHAPES
        for alpha in ALPHAS
    ]
    save_rows(areas, out / "ggiou_areas.csv")
    eight = figure_1a()
    save_rows(eight, out / "ggiou_figure_1a.csv")
    draw(out)
    print(markdown(crossings(SHAPES[0]), 4))
    print(markdown(eight))
    passing = sum(row["ggiou_at_alpha_.3_with_that_dc"] >= POSITIVE for row in eight)
    print(f"Figure 1 (a) fits 1 - alpha = {fitted_exponent():.3f}; at alpha .3 {passing} of 8 anchors pass .5")
