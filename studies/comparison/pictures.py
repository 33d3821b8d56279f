"""The pictures of a comparison, four in one file: curves, differences, IoU thresholds, groups of objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from studies.charts import finish, new_figure, save_figure
from studies.comparison.paired import CONFIDENCE
from studies.comparison.results import Results, curve
from studies.comparison.tables import Row
from utils.metrics.coco_metrics import IOU_COLUMNS, WEIGHTED


def draw_figures(results: Results, curves: Sequence[Row], path: Path) -> None:
    """Write all pictures that the results allow as one PNG."""
    figure = new_figure(18, 8.8 + 0.2 * max(len(results.others) - 4, 0))
    parts: Any = figure.subfigures(2, 2)
    (first, second), (third, fourth) = parts
    draw_curves(curves, results, first)
    if results.others:
        draw_differences(results, second)
        draw_thresholds(results, third)
    draw_groups(results, fourth)
    save_figure(figure, path)


def draw_curves(curves: Sequence[Row], results: Results, figure: Any) -> None:
    """Draw AP over the epochs: mean line, standard deviation as a band."""
    axes = figure.add_subplot()
    for variant in results.variants:
        by_epoch = curve(curves, variant)
        epochs, found = list(by_epoch), list(by_epoch.values())
        means = [100 * each.mean for each in found]
        spread = [100 * each.sd if each.sd == each.sd else 0.0 for each in found]
        axes.plot(epochs, means, color=results.color(variant), linewidth=1.8, label=variant)
        low, high = ([mean + side * each for mean, each in zip(means, spread, strict=True)] for side in (-1, 1))
        axes.fill_between(epochs, low, high, color=results.color(variant), alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, "AP on the validation split, mean and standard deviation over seeds", "epoch", "AP, percent")
    legend(axes)


def draw_differences(results: Results, figure: Any) -> None:
    """Draw AP, AP50, AP75 and AP90 of every variant minus the baseline, with intervals."""
    columns = [column for column in ("ap", "ap50", "ap75", "ap90") if column in results.values]
    names = results.others
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True):
        for place, variant in enumerate(names):
            difference = results.difference(column, variant)
            if difference.n >= 2:
                color = "#d62728" if difference.excludes_zero else "#7f7f7f"
                axes.plot([100 * difference.low, 100 * difference.high], [place, place], color=color, linewidth=2)
            axes.plot(100 * difference.mean, place, "o", color="black", markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        finish(axes, column.upper(), "points", "")
    title = f"minus {results.baseline}; line: {CONFIDENCE:.0%} interval, red where it excludes zero"
    figure.suptitle(title, fontsize=11)


def draw_thresholds(results: Results, figure: Any) -> None:
    """Draw the difference to the baseline at every IoU threshold, with intervals."""
    axes = figure.add_subplot()
    names = results.others
    for number, variant in enumerate(names):
        found = [results.difference(column, variant) for column in IOU_COLUMNS]
        places = [float(column[2:]) / 100 + 0.004 * (number - (len(names) - 1) / 2) for column in IOU_COLUMNS]
        reach = [100 * (each.high - each.mean) if each.n >= 2 else 0.0 for each in found]
        means = [100 * each.mean for each in found]
        axes.errorbar(
            places, means, reach, fmt="o-", color=results.color(variant), capsize=2, markersize=4, label=variant
        )
    axes.axhline(0, color="black", linewidth=0.8)
    finish(axes, f"AP minus that of {results.baseline} by IoU threshold", "IoU threshold", "points, 95 % interval")
    legend(axes)


def draw_groups(results: Results, figure: Any) -> None:
    """Draw AP by size, and by side ratio where it was measured: means with standard deviations."""
    columns = [column for column in results.groups if not column.endswith(WEIGHTED)]
    axes = figure.add_subplot()
    width = 0.8 / max(len(results.variants), 1)
    for number, variant in enumerate(results.variants):
        found = [results.estimate(column, variant) for column in columns]
        places = [group + width * (number - (len(results.variants) - 1) / 2) for group in range(len(columns))]
        # NaN, which draws nothing, where one seed has no deviation.
        spread = [100 * each.sd for each in found]
        heights = [100 * each.mean for each in found]
        axes.bar(places, heights, width * 0.92, yerr=spread, capsize=2, color=results.color(variant), label=variant)
    axes.set_xticks(range(len(columns)), [column.removeprefix("ap_").replace("_", " ") for column in columns])
    finish(axes, "AP by object size and side ratio, mean and standard deviation", "", "AP, percent")
    legend(axes)


def legend(axes: Axes) -> None:
    """Write the names of the variants right of the picture."""
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
