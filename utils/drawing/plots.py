"""The pictures of a run folder: results.csv over the epochs, the labels of a data set, curves and confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.drawing.draw import class_color, drawable
from utils.metrics.coco_metrics import IOU_COLUMNS, Metrics
from utils.run_folder import read_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Title, y label and columns of each panel; an entry that ends in * stands for all columns that begin so.
RESULTS_PANELS = (
    ("Training loss, weighted", "per step", ("loss", "box_loss", "objectness_loss", "class_loss")),
    ("Positives: raw box loss and IoU", "mean per positive", ("raw_box_loss", "mean_iou")),
    ("Average precision (validation)", "AP", ("ap", "ap50", "ap75")),
    ("AP by IoU threshold (validation)", "AP", IOU_COLUMNS),
    ("AP by object size (validation)", "AP", ("ap_small", "ap_medium", "ap_large")),
    ("At the best F1 (validation)", "fraction", ("precision", "recall", "f1", "ar")),
    ("Positives per truth, by side ratio", "positives / truth", ("positives_per_truth", "positives_per_truth_ratio*")),
    (
        "Positives per truth, by size",
        "positives / truth",
        tuple(f"positives_per_truth_{size}" for size in ("small", "medium", "large")),
    ),
    ("Truths without a positive, anchors claimed twice", "count per epoch", ("unmatched", "claimed_twice")),
    ("Learning rate", "at the end of the epoch", ("lr*",)),
    ("Speed", "images / s", ("images_per_second",)),
)
MANY_CLASSES = 20  # more have no legend, and no numbers in the confusion matrix
MOST_BARS = 400  # as artists of their own
MOST_CELLS = 1000  # along a side of the confusion matrix
DPI = 130
PNG_LEVEL = 3  # half of the time of the usual 6 for a tenth more bytes


def plot_results(csv_path: Path, path: Path) -> None:
    """Draw results.csv: losses, metrics, positives per truth, learning rate and speed over the epochs."""
    rows = read_csv(csv_path)
    names = list(rows[0]) if rows else []
    columns = {name: np.array([_number(row[name]) for row in rows]) for name in names}
    panels = [(title, label, _chosen(names, wanted)) for title, label, wanted in RESULTS_PANELS]
    panels = [panel for panel in panels if panel[2]]
    figure = _figure(15, 3.4 * max(1, -(-len(panels) // 3)))
    for number, (title, label, chosen) in enumerate(panels):
        axes = figure.add_subplot(-(-len(panels) // 3), 3, number + 1)
        for position, name in enumerate(chosen):
            color = f"C{position % 10}"
            axes.plot(columns["epoch"], columns[name], color=color, marker=".", markersize=3, linewidth=1.4, label=name)
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        finish_axes(axes, title, "epoch", label)
        axes.legend(fontsize=7, ncols=2 if len(chosen) > 5 else 1)
    _save(figure, path)


def plot_labels(boxes: ArrayLike, labels: ArrayLike, names: Sequence[str], path: Path) -> None:
    """Draw labels per class, widths against heights and side ratios: (M, 4) xyxy original pixels, (M,)."""
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    room = float(np.clip(len(names) / 25, 1, 3))  # the class names need it
    figure = _figure(5.3 * (room + 2), 5.5)
    classes, sizes, ratios = figure.subplots(1, 3, width_ratios=(room, 1, 1))
    _class_histogram(classes, np.bincount(labels, minlength=len(names)), _plain_names(names))
    _size_histogram(sizes, sides)
    _ratio_histogram(ratios, sides.max(1) / sides.min(1))
    figure.suptitle(f"{len(labels):,} labels of {len(names)} classes", fontsize=12)
    _save(figure, path)


def plot_precision_recall(metrics: Metrics, path: Path | BinaryIO) -> None:
    """Draw precision over recall at IoU .5, per class and their mean."""
    names = [f"{name}  AP50 {_short(row['ap50'])}" for name, row in _named(metrics)]
    mean = f"mean of classes with labels  AP50 {_short(metrics.overall['ap50'])}"
    figure = _figure(10, 6.5)
    axes = figure.add_subplot()
    _class_lines(axes, metrics.curves.recall, metrics.curves.precision, names, mean)
    finish_axes(axes, "Precision over recall at IoU 0.5", "recall", "precision")
    _save(figure, path)


def plot_f1(metrics: Metrics, path: Path | BinaryIO) -> None:
    """Draw F1 over the confidence threshold, per class and their mean, and the threshold that is best."""
    names = [f"{name}  F1 {_short(row['f1'])}" for name, row in _named(metrics)]
    figure = _figure(10, 6.5)
    axes = figure.add_subplot()
    if metrics.confidence is not None:
        text = f"best mean F1 at confidence {metrics.confidence:.3f}"
        axes.axvline(metrics.confidence, color="black", linestyle="--", linewidth=1, label=text)
    mean = f"mean of classes with labels  F1 {_short(metrics.overall['f1'])}"
    _class_lines(axes, metrics.curves.confidence, metrics.curves.f1, names, mean)
    finish_axes(axes, "F1 over confidence at IoU 0.5", "confidence threshold", "F1")
    _save(figure, path)


def plot_confusion_matrix(metrics: Metrics, path: Path | BinaryIO) -> None:
    """Draw the confusion matrix at the best confidence: counts, coloured by their share of the true class."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    counts = metrics.confusion
    share = _pooled(counts)
    names = _plain_names(list(metrics.per_class))
    side = float(np.clip(3.5 + 0.4 * len(names), 6, 16))
    figure = _figure(side + 1.5, side)
    axes = figure.add_subplot()
    edges = (-0.5, len(counts) - 0.5, len(counts) - 0.5, -0.5)
    colors = ScalarMappable(Normalize(0, 1), "Blues")
    # In colours already: of shares, matplotlib would look up a colour for every pixel of the picture.
    axes.imshow(colors.to_rgba(share, bytes=True), extent=edges, interpolation="nearest")
    figure.colorbar(colors, ax=axes, label="share of the column", shrink=0.8)
    if len(names) <= MANY_CLASSES:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{counts[row, column]}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    ticks = _tick_positions(len(names))
    size = float(np.clip(400 / max(len(ticks), 1), 5, 10))
    axes.set_xticks([*ticks, len(names)], [*(names[tick] for tick in ticks), "false alarm"], rotation=90, fontsize=size)
    axes.set_yticks([*ticks, len(names)], [*(names[tick] for tick in ticks), "missed"], fontsize=size)
    at = "without detections" if metrics.confidence is None else f"at confidence {metrics.confidence:.3f}"
    axes.set(xlabel="true class", ylabel="predicted class", title=f"Confusion matrix {at}, IoU 0.5")
    _save(figure, path)


def _pooled(counts: NDArray) -> NDArray:
    """Return the share (N, N) of each column's total, of thousands of classes the largest in each block of cells.

    A picture has no more cells to show, and matplotlib would take 2 GB to find that out.
    """
    step = -(-len(counts) // MOST_CELLS)
    side = -(-len(counts) // step)
    # Of 25 million cells few are counted in.
    cells = np.flatnonzero(counts)
    rows, columns = np.divmod(cells, len(counts))
    counted = counts.ravel()[cells]
    totals = np.bincount(columns, counted, minlength=len(counts))
    share = np.zeros((side, side))
    np.maximum.at(share, (rows // step, columns // step), counted / totals[columns])
    return share


def _class_histogram(axes: Axes, counts: NDArray, names: list[str]) -> None:
    """Draw labels per class; without names where they would not fit."""
    _bars(axes, counts)
    ticks = _tick_positions(len(names))
    size = float(np.clip(500 / max(len(ticks), 1), 6, 9))
    axes.set_xticks(ticks, [names[tick] for tick in ticks], rotation=90, fontsize=size)
    axes.margins(x=0.01)
    if counts.max(initial=0) > 50 * max(1, np.median(counts)):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
    finish_axes(axes, "Labels per class", "class", "labels")


def _bars(axes: Axes, counts: NDArray) -> None:
    """Draw a bar for every class in its colour; thousands of them as one shape, since 5,000 bars took eight seconds."""
    colors = [np.array(class_color(number)) / 255 for number in range(len(counts))]
    if len(counts) <= MOST_BARS:
        axes.bar(np.arange(len(counts)), counts, color=colors)
        return
    from matplotlib.collections import PolyCollection

    left, right = np.arange(len(counts)) - 0.4, np.arange(len(counts)) + 0.4
    corners = [(left, 0 * counts), (left, counts), (right, counts), (right, 0 * counts)]
    shape = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    axes.add_collection(PolyCollection(list(shape), facecolors=colors))
    margin = 0.01 * (right[-1] - left[0])
    axes.set(xlim=(left[0] - margin, right[-1] + margin), ylim=(0, 1.05 * max(counts.max(initial=0), 1)))


def _size_histogram(axes: Axes, sides: NDArray) -> None:
    """Draw widths against heights, with COCO's area limits."""
    if len(sides):
        bins = axes.hexbin(*sides.T, gridsize=50, xscale="log", yscale="log", bins="log", mincnt=1, cmap="viridis")
        axes.figure.colorbar(bins, ax=axes, label="labels")
    low, high = axes.get_xlim()
    for limit, name, style in ((32, "small | medium, 32²", "-"), (96, "medium | large, 96²", "--")):
        width = np.geomspace(max(low, 1e-3), high, 50)
        axes.plot(width, limit**2 / width, color="red", linewidth=1, linestyle=style, label=name)
    axes.set_xlim(low, high)
    if len(sides):
        axes.set_ylim(sides[:, 1].min() / 1.3, sides[:, 1].max() * 1.3)
        axes.legend(fontsize=8, loc="lower right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    finish_axes(axes, "Sizes", "width, original pixels", "height, original pixels")


def _ratio_histogram(axes: Axes, ratios: NDArray) -> None:
    """Draw long side over short side, with the limits that the reports use."""
    axes.hist(ratios.clip(1, 16), bins=np.geomspace(1, 16, 41).tolist(), color="C0")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    total = max(len(ratios), 1)
    for limit, color in ((2, "C1"), (4, "C3")):
        share = np.count_nonzero(ratios >= limit) / total
        axes.axvline(limit, color=color, linestyle="--", linewidth=1.2, label=f"{share:.1%} are {limit} or more")
    axes.legend(fontsize=8)
    finish_axes(axes, "Side ratios (16 stands for all above)", "long side / short side", "labels")


def _class_lines(axes: Axes, x: NDArray, curves: NDArray, names: list[str], mean_name: str) -> None:
    """Draw a thin line per class with labels and a thick one for their mean: x (S,), curves (C, S)."""
    defined = np.flatnonzero(np.isfinite(curves).all(1))
    for label in defined:
        if len(defined) <= MANY_CLASSES:
            red, green, blue = class_color(int(label))
            axes.plot(x, curves[label], color=(red / 255, green / 255, blue / 255), linewidth=1, label=names[label])
        else:
            axes.plot(x, curves[label], color="0.8", linewidth=1)
    if len(defined):
        axes.plot(x, curves[defined].mean(0), color="black", linewidth=3, label=mean_name)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1.02))


def finish_axes(axes: Axes, title: str, x_label: str, y_label: str, title_size: float = 10) -> None:
    """Add title (of a size in points), axis labels and a light grid."""
    axes.set_title(title, fontsize=title_size)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> Figure:
    # Loaded with the first picture: a run without any needs neither its time nor its 20 MB.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path | BinaryIO) -> None:
    """Draw a figure and write it as PNG: `savefig` would lay out all its texts twice, for the same pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    pixels.save(path, format="png", dpi=(DPI, DPI), compress_level=PNG_LEVEL)


def _chosen(names: list[str], wanted: Sequence[str]) -> list[str]:
    """Return the columns that are there, in the order wanted."""
    return [
        name
        for pattern in wanted
        for name in names
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
    ]


def _tick_positions(count: int) -> list[int]:
    """Return all classes where their names fit, else about 80 of them."""
    return list(range(0, count, -(-count // 80) or 1))


def _plain_names(names: Sequence[str]) -> list[str]:
    """Return names that the font can draw and that are not read as formulas."""
    return [drawable(name, f"class {number}").replace("$", r"\$") for number, name in enumerate(names)]


def _named(metrics: Metrics) -> list[tuple[str, dict]]:
    return list(zip(_plain_names(list(metrics.per_class)), metrics.per_class.values(), strict=True))


def _short(value: float) -> str:
    return "n/a" if value != value else f"{value:.3f}"


def _number(cell: str) -> float:
    """Return a cell of results.csv; NaN, which leaves a gap, for an empty one."""
    return float(cell) if cell else float("nan")
