"""What an epoch of training logs: losses, and how the assigner treated the truths."""

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment
from alignyolo.targets import Targets, occurrences
from engine.run_files import left_out
from utils.distributed import Group
from utils.metrics.coco_eval import RATIO_BINS

# COCO's areas, at the size of the network input.
SIZE_BINS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}


class Observer:
    """Passes what the losses tell on to the report of the epoch that is running."""

    def __init__(self) -> None:
        self.report = EpochReport()

    def __call__(self, assignment: Assignment, targets: Targets, ious: Tensor, similarities: Tensor) -> None:
        self.report.observe(assignment, targets, ious, similarities)


class EpochReport:
    """Sums over an epoch; `observe` fits DetectionLoss, `add` takes the weighted losses of a step."""

    def __init__(self):
        self.sums: dict[str, Tensor | float] = {}
        self.images = 0
        self.steps = 0

    def _count(self, **values: Tensor | float) -> None:
        """Add values to their sums, without a device sync."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Count a step's weighted losses; one that is not finite counts as 0, since its step is skipped."""
        self._count(**{f"{name}_loss": value.detach().nan_to_num(0, 0, 0) for name, value in losses.items()})
        self.images += images
        self.steps += 1

    def observe(self, assignment: Assignment, targets: Targets, ious: Tensor, similarities: Tensor) -> None:
        """Count the positives of a batch by the side ratio and size of their truths."""
        anchors = assignment.ignored.shape[1]
        width, height = (targets.boxes[:, 2:] - targets.boxes[:, :2]).clamp(min=1e-6).unbind(1)
        positives = occurrences(assignment.target, len(width))
        claimed = torch.zeros_like(assignment.ignored).flatten()
        claimed.index_fill_(0, assignment.image * anchors + assignment.anchor, True)
        self._count(
            positives=float(len(assignment.target)),
            truths=float(len(width)),
            unmatched=assignment.unmatched.sum(),
            claimed_twice=len(assignment.target) - claimed.sum(),
            ignored=assignment.ignored.sum(),
            iou=ious.nan_to_num(0, 0, 0).sum(),
            raw_box=(1 - similarities).nan_to_num(0, 0, 0).sum(),
        )
        if assignment.served is not None:
            self._count(served=assignment.served.sum())
        for values, bins in ((torch.maximum(width / height, height / width), RATIO_BINS), (width * height, SIZE_BINS)):
            for name, (low, high) in bins.items():
                inside = (values >= low) & (values < high)
                self._count(**{f"positives_{name}": (positives * inside).sum(), f"truths_{name}": inside.sum()})

    def merge(self, group: Group) -> None:
        """Sum up what all processes of a group have counted."""
        names = sorted(self.sums)
        counted = torch.tensor([float(self.sums[name]) for name in names] + [self.images], dtype=torch.float64)
        *sums, self.images = group.sum(counted).tolist()
        self.sums = dict(zip(names, sums, strict=True))
        self.steps *= group.world_size

    def row(self) -> dict[str, float | None]:
        """Return the epoch's means: losses per step, the rest per positive or per truth; None where there was none."""
        sums = {name: float(value) for name, value in self.sums.items()}

        def mean(total: str, count: str) -> float | None:
            return sums.get(total, 0.0) / sums[count] if sums.get(count) else None

        row = {name: sums.get(name, 0.0) / max(self.steps, 1) for name in ("box_loss", "objectness_loss", "class_loss")}
        row["loss"] = sum(row.values())
        row["raw_box_loss"] = mean("raw_box", "positives")
        row["mean_iou"] = mean("iou", "positives")
        row["positives_per_truth"] = mean("positives", "truths")
        for name in (*RATIO_BINS, *SIZE_BINS):
            row[f"positives_per_truth_{name}"] = mean(f"positives_{name}", f"truths_{name}")
        for name in ("truths", "unmatched", "claimed_twice", "ignored"):
            row[name] = sums.get(name, 0.0)
        if "served" in sums:  # a column of runs that serve alone: older ones are resumed without it
            row["served"] = sums["served"]
        return row

    def line(self) -> str:
        """Return the running means for the progress line."""
        row = self.row()

        def shown(name: str, digits: int) -> str:
            return "-" if row[name] is None else f"{row[name]:.{digits}f}"

        return (
            f"box {shown('box_loss', 4)} (raw {shown('raw_box_loss', 3)}, IoU {shown('mean_iou', 3)})  "
            f"obj {shown('objectness_loss', 4)}  cls {shown('class_loss', 4)}  "
            f"pos/truth {shown('positives_per_truth', 1)}{left_out(row)}"
        )
