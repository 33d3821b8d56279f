"""Draws the README's picture of results from the CSV files in results/: differences in AP to the default."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

from studies.charts import DPI, finish, new_figure
from studies.comparison.paired import Estimate, paired_difference

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "docs" / "images" / "results.png"


class Panel(NamedTuple):
    """An experiment of results/: its title, split, baseline, and what its variants are called in the picture."""

    folder: str
    title: str
    split: str
    baseline: str
    variants: dict[str, str]


PANELS = (
    Panel(
        "bccd",
        "205 photos of round blood cells",
        "test",
        "ciou",
        {
            "iou": "--loss iou",
            "giou": "--loss giou",
            "diou": "--loss diou",
            "sca": "--loss sca",
            "assign-iou": "--assign iou",
            "assign-ggiou": "--assign ggiou",
            "ggiou-yolo": "--hyp ggiou-yolo",
        },
    ),
    Panel(
        "shapes-epochs21",
        "320 drawings, a third of their objects slender",
        "val",
        "anchor_ratio",
        {"iou": "--assign iou", "ggiou": "--assign ggiou", "ggiou-yolo": "--hyp ggiou-yolo"},
    ),
)


def differences(panel: Panel) -> dict[str, Estimate]:
    """Return by variant the mean difference in AP to the baseline over seeds, with its 95 % interval."""
    with (ROOT / "results" / panel.folder / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["scored"] == panel.split and row["state"] == "done"]

    def by_seed(variant: str) -> dict[int, float]:
        return {int(row["seed"]): 100 * float(row["ap"]) for row in rows if row["variant"] == variant}

    baseline = by_seed(panel.baseline)
    return {variant: paired_difference(by_seed(variant), baseline) for variant in panel.variants}


def numbers() -> str:
    """Return what the picture shows as JSON, which the picture carries so that a test can compare it."""
    shown = {
        panel.folder: {name: [round(value, 2) for value in (each.mean, each.low, each.high)] for name, each in found}
        for panel in PANELS
        for found in [differences(panel).items()]
    }
    return json.dumps(shown, sort_keys=True)


def draw(path: Path = CHART) -> None:
    """Draw every panel as points with intervals, red where the interval excludes zero, and write the PNG."""
    figure = new_figure(11, 3.3)
    parts = figure.subplots(1, len(PANELS), width_ratios=(1, 1))
    for axes, panel in zip(parts, PANELS, strict=True):
        for place, found in enumerate(differences(panel).values()):
            color = "#d62728" if found.excludes_zero else "#7f7f7f"
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.5)
            axes.plot(found.mean, place, "o", color="black", markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(panel.variants)), panel.variants.values(), family="monospace")
        axes.set_ylim(len(panel.variants) - 0.5, -0.5)
        finish(axes, panel.title, "points of AP above the default, with 95 % interval", "")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Description": numbers(), "Software": None})
