"""What each assigner gives the truths of a data set: positives, ignored, unreachable and forced anchors."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.assign.assignment import Context
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import near_pairs
from alignyolo.gaussian_iou import ggiou
from alignyolo.registry import ASSIGNERS
from alignyolo.targets import Targets
from data.labels.index import LabelIndex
from data.open.any_layout import root_for
from data.split import load_split
from engine.settings.configure import open_data
from engine.train.matched_gain import letterboxed_targets
from studies.charts import finish, markdown, new_figure, save_figure, save_rows
from utils.config.knobs import StudyConfig
from utils.config.sources import model_config

IMAGE_SIZE = (640, 640)
CHUNK = 32
REACH = 0.5
SLENDER, TINY_SIDE = 4.0, 16.0


@dataclass(frozen=True)
class Setting:
    """An assigner with its settings; one with thresholds has `positive`."""

    name: str
    assigner: str
    settings: dict

    @property
    def by_threshold(self) -> bool:
        """Whether the assigner compares a metric with thresholds."""
        return "positive" in self.settings

    @property
    def metric(self) -> dict:
        """Keywords of the metric."""
        if self.assigner == "iou":
            return {"alpha": 0.0, "beta": 1 / 6, "sigma": "overlap"}
        return {"alpha": self.settings.get("alpha", 0.3), "beta": 1 / 6, "sigma": "overlap"}


def thresholds(positive: float, negative: float, least: int, **more: float) -> dict:
    """Return settings of a threshold assigner."""
    return {"positive": positive, "negative": negative, "min_positives": least, **more}


SETTINGS = (
    Setting("anchor_ratio (ultralytics)", "anchor_ratio", {}),
    Setting("best_anchor (YOLOv3)", "best_anchor", {}),
    Setting("iou .5/.4, min 1", "iou", thresholds(0.5, 0.4, 1)),
    Setting("ggiou .5/.4, min 1 (paper)", "ggiou", thresholds(0.5, 0.4, 1)),
    Setting("ggiou .5/.4, min 1, alpha .5", "ggiou", thresholds(0.5, 0.4, 1, alpha=0.5)),
    Setting("ggiou .4/.3, min 3", "ggiou", thresholds(0.4, 0.3, 3)),
    Setting("ggiou .4/.3, min 6 (ggiou-yolo)", "ggiou", thresholds(0.4, 0.3, 6)),
)
# Section 3 of the project's research notes, from another implementation: (mean, share of truths with none) before any
# anchor is forced, on the same labels. `dense` counts unreachable anchors too.
EXPECTED = {
    ("yolov3", "anchor_ratio (ultralytics)", "positives_per_truth"): 13.1,
    ("yolov3", "iou .5/.4, min 1", "dense_per_truth"): 4.3,
    ("yolov3", "iou .5/.4, min 1", "dense_none"): 0.267,
    ("yolov3", "iou .5/.4, min 1", "dense_none_slender"): 0.97,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "dense_per_truth"): 3.1,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "dense_none"): 0.232,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "dense_none_slender"): 0.82,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "unforced_per_truth"): 2.2,
    ("yolov3", "ggiou .5/.4, min 1, alpha .5", "dense_per_truth"): 3.6,
    ("yolov3", "ggiou .5/.4, min 1, alpha .5", "unforced_per_truth"): 2.7,
    ("yolov3", "ggiou .4/.3, min 6 (ggiou-yolo)", "dense_per_truth"): 6.1,
    ("yolov3", "ggiou .4/.3, min 6 (ggiou-yolo)", "unforced_per_truth"): 4.0,
    ("yolov3", "iou .5/.4, min 1", "unreachable_share_stride_32"): 0.63,
    ("yolov3", "iou .5/.4, min 1", "unreachable_share_stride_16"): 0.27,
    ("yolov3", "iou .5/.4, min 1", "unreachable_share_stride_8"): 0.05,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "unreachable_share_stride_32"): 0.425,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "unreachable_share_stride_16"): 0.077,
    ("yolov3", "ggiou .5/.4, min 1 (paper)", "unreachable_share_stride_8"): 0.0,
    ("yolov3-tiny", "ggiou .5/.4, min 1 (paper)", "unreachable_share_stride_32"): 0.415,
    ("yolov3-tiny", "anchor_ratio (ultralytics)", "positives_per_truth"): 8.8,
    ("yolov3-tiny", "iou .5/.4, min 1", "dense_per_truth"): 2.7,
    ("yolov3-tiny", "ggiou .5/.4, min 1 (paper)", "dense_per_truth"): 1.9,
    ("yolov3-tiny", "ggiou .5/.4, min 1 (paper)", "unforced_per_truth"): 1.2,
}


@dataclass(frozen=True)
class Counts:
    """Per truth (T,): positives, positives without forcing, dense positives; and totals over the images.

    unreachable (L, 2): of each level's dense positives, how many cannot be decoded, and how many there are.
    """

    positives: Tensor
    unforced: Tensor
    dense: Tensor
    ignored: int
    unreachable: Tensor
    unmatched: int
    claimed_twice: int


def dense_owners(anchors: Anchors, targets: Targets, images: int, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return (anchor, truth) of every anchor at or above the threshold, reachable or not, each to its best truth."""
    metric = functools.partial(ggiou, **setting.metric)
    near = near_pairs(anchors, targets.boxes, setting.settings["positive"], Metric(**setting.metric))
    values = metric(anchors.boxes[near.anchor], targets.boxes[near.truth])
    kept = values >= setting.settings["positive"]
    truth, anchor, values = near.truth[kept], near.anchor[kept], values[kept]
    cell = targets.image[truth] * len(anchors.centers) + anchor
    best = torch.full((images * len(anchors.centers),), -1.0).scatter_reduce(0, cell, values, "amax")
    wins = (values == best[cell]).nonzero().flatten()
    owner = torch.full_like(best, -1, dtype=torch.long)
    owner[cell[wins]] = truth[wins]
    owned = (owner >= 0).nonzero().flatten()
    return owned % len(anchors.centers), owner[owned]


def unreachable_pairs(anchors: Anchors, targets: Targets, anchor: Tensor, truth: Tensor) -> Tensor:
    """Tell whether the head cannot decode the truth from its dense anchor (N,)."""
    low, high = targets.boxes[truth].split(2, dim=-1)
    apart = ((low + high) / 2 - anchors.centers[anchor]).abs() >= (0.5 + REACH) * anchors.strides[anchor, None]
    return (apart | (high - low >= 4 * anchors.sizes[anchor])).any(-1)


def count_part(anchors: Anchors, targets: Targets, images: int, setting: Setting) -> Counts:
    """Return the counts of a few images."""
    entry, context = ASSIGNERS[setting.assigner], Context(anchors, targets, images)
    assignment = entry.bind(**setting.settings)(context)
    total = len(targets.boxes)
    positives = torch.bincount(assignment.target, minlength=total)
    claimed = torch.unique(assignment.image * len(anchors.centers) + assignment.anchor).numel()
    unforced, dense, unreachable = positives, positives, torch.zeros(len(anchors.levels), 2, dtype=torch.long)
    if setting.by_threshold:
        free = entry.bind(**{**setting.settings, "min_positives": 0})(context)
        unforced = torch.bincount(free.target, minlength=total)
        anchor, truth = dense_owners(anchors, targets, images, setting)
        dense = torch.bincount(truth, minlength=total)
        far = unreachable_pairs(anchors, targets, anchor, truth)
        level = torch.bucketize(anchor, torch.tensor([each.start + each.count for each in anchors.levels]), right=True)
        levels = len(anchors.levels)
        unreachable = torch.stack(
            [torch.bincount(level[far], minlength=levels), torch.bincount(level, minlength=levels)], 1
        )
    return Counts(
        positives,
        unforced,
        dense,
        int(assignment.ignored.sum()),
        unreachable,
        int(assignment.unmatched.sum()),
        len(assignment.target) - claimed,
    )


def count(anchors: Anchors, indices: list[LabelIndex], setting: Setting) -> Counts:
    """Return the counts of whole splits."""
    parts = []
    for index in indices:
        for start in range(0, len(index), CHUNK):
            images = range(start, min(start + CHUNK, len(index)))
            parts.append(count_part(anchors, letterboxed_targets(index, images, IMAGE_SIZE), len(images), setting))
    per_truth = (torch.cat([getattr(part, name) for part in parts]) for name in ("positives", "unforced", "dense"))
    totals = ("ignored", "unreachable", "unmatched", "claimed_twice")
    return Counts(*per_truth, *(sum(getattr(part, name) for part in parts) for name in totals))


def truth_groups(indices: list[LabelIndex]) -> dict[str, Tensor]:
    """Return masks (T,) of truths by side ratio, by COCO's sizes and of those below 16 px, at the network's input."""
    boxes = torch.cat([letterboxed_targets(index, range(len(index)), IMAGE_SIZE).boxes for index in indices])
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).unbind(1)
    ratio, area = torch.maximum(width / height, height / width), width * height
    return {
        "ratio_below_2": ratio < 2,
        "ratio_2_to_4": (ratio >= 2) & (ratio < SLENDER),
        "ratio_from_4": ratio >= SLENDER,
        "small": area < 32**2,
        "medium": (area >= 32**2) & (area < 96**2),
        "large": area >= 96**2,
        "below_16px": area < TINY_SIDE**2,
    }


def row(model: str, strides: tuple[int, ...], setting: Setting, counts: Counts, groups: dict, images: int) -> dict:
    """Return one line of the census."""
    far = dict(zip(strides, counts.unreachable.tolist(), strict=True))

    def mean(values: Tensor, mask: Tensor | None = None) -> float:
        chosen = values if mask is None else values[mask]
        return chosen.float().mean().item() if len(chosen) else float("nan")

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    slender, tiny = groups["ratio_from_4"], groups["below_16px"]
    dense_none = counts.dense == 0
    return {
        "model": model,
        "assigner": setting.name,
        "truths": len(counts.positives),
        "positives_per_truth": mean(counts.positives),
        **{f"positives_{name}": mean(counts.positives, mask) for name, mask in groups.items()},
        "without_positive": mean(counts.positives == 0),
        "without_positive_slender": mean(counts.positives == 0, slender),
        "unforced_per_truth": mean(counts.unforced),
        "unforced_none": mean(counts.unforced == 0),
        "unforced_none_slender": mean(counts.unforced == 0, slender),
        "forced_per_truth": mean((counts.positives - counts.unforced).clamp(min=0)),
        "dense_per_truth": mean(counts.dense),
        "dense_none": mean(dense_none),
        "dense_none_slender": mean(dense_none, slender),
        "dense_none_below_16px": mean(dense_none, tiny),
        **{f"unreachable_share_stride_{stride}": share(*far.get(stride, (0, 0))) for stride in (8, 16, 32)},
        "ignored_per_image": counts.ignored / images,
        "unmatched": counts.unmatched,
        "claimed_twice_share": counts.claimed_twice / max(int(counts.positives.sum()), 1),
    }


def census(indices: list[LabelIndex], models: tuple[str, ...] = ("yolov3", "yolov3-tiny")) -> list[dict]:
    """Return one row per model and assigner."""
    groups, images = truth_groups(indices), sum(map(len, indices))
    rows = []
    for name in models:
        model = model_config(name, {})
        anchors = build_anchors(IMAGE_SIZE, model.strides, model.anchors)
        rows += [
            row(name, model.strides, setting, count(anchors, indices, setting), groups, images) for setting in SETTINGS
        ]
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Draw positives per truth by side ratio and by size, a panel per model and kind."""
    models = list(dict.fromkeys(each["model"] for each in rows))
    kinds = {
        "by side ratio of the truth": {
            "ratio_below_2": "< 2 : 1",
            "ratio_2_to_4": "2 : 1 to 4 : 1",
            "ratio_from_4": ">= 4 : 1",
        },
        "by size of the truth": {"small": "small, < 32² px", "medium": "medium", "large": "large, >= 96² px"},
    }
    figure = new_figure(11, 7.6)
    panels = figure.subplots(len(models), len(kinds), squeeze=False)
    for line, model in enumerate(models):
        chosen = [each for each in rows if each["model"] == model]
        for column, (title, groups) in enumerate(kinds.items()):
            axes = panels[line, column]
            for number, each in enumerate(chosen):
                places = [group + 0.11 * (number - (len(chosen) - 1) / 2) for group in range(len(groups))]
                values = [each[f"positives_{group}"] for group in groups]
                axes.bar(places, values, width=0.1, label=each["assigner"], color=f"C{number}")
            axes.set_xticks(range(len(groups)), list(groups.values()))
            finish(axes, f"{model}, {title}", "", "positive anchors per truth" if column == 0 else "")
    panels[0, 1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def open_splits(settings: StudyConfig) -> tuple[str, list[LabelIndex]]:
    """Return the name of the data set and its train and val splits.

    What was asked for, else coco128, else the shapes.
    """
    root = root_for(settings.data, settings.data_root)
    name = settings.data or ("coco128" if (root / "coco128").is_dir() else "shapes")
    spec = open_data(name, root)
    return name, [load_split(spec, split) for split in ("train", "val") if split in spec.splits]


def run(settings: StudyConfig) -> None:
    """Write assignment_census.csv, on coco128 assignment_census_expected.csv, and assignment_census.png."""
    out = Path(settings.out)
    name, indices = open_splits(settings)
    rows = census(indices)
    save_rows(rows, out / "assignment_census.csv")
    draw(rows, out / "assignment_census.png")
    shown = ("model", "assigner", "positives_per_truth", "positives_ratio_from_4", "unforced_none", "ignored_per_image")
    print(f"{name}, {sum(map(len, indices))} images at {IMAGE_SIZE[0]} px")
    print(markdown([{key: each[key] for key in shown} for each in rows], 2))
    if name == "coco128":
        found = {(each["model"], each["assigner"]): each for each in rows}
        compared = [
            {"model": model, "assigner": assigner, "what": what, "research_notes": value}
            | {"here": found[model, assigner][what]}
            for (model, assigner, what), value in EXPECTED.items()
        ]
        save_rows(compared, out / "assignment_census_expected.csv")
        print(markdown(compared))
