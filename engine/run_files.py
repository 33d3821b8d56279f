"""What a run leaves in its folder, besides its weights: config, environment, numbers, pictures."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from data.labels.index import LabelIndex
from data.loader import Batch
from data.split import fingerprint
from engine.event_file import EventFile
from utils.config.knobs import Config
from utils.drawing.draw import draw_boxes, image_grid, write_image
from utils.drawing.plots import plot_confusion_matrix, plot_f1, plot_labels, plot_precision_recall, plot_results
from utils.errors import UserError, printable
from utils.metrics.coco_metrics import Metrics
from utils.metrics.truths import Truths
from utils.progress import clock
from utils.run_folder import ResultsCsv, write_atomically, write_csv, write_env, write_json

PICTURES = 3
PER_PICTURE = 16
SHOWN_SCORE = 0.25
CURVES = {
    "pr_curve.png": plot_precision_recall,
    "f1_curve.png": plot_f1,
    "confusion_matrix.png": plot_confusion_matrix,
}


def attempt(what: str, action: Callable[..., object], *arguments: object) -> None:
    """Run what only illustrates a run; a failure is a warning, since it must not cost the training."""
    try:
        action(*arguments)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
        print(f"warning: {what} could not be written: {printable(error)}", file=sys.stderr)


def left_out(row: Mapping[str, Any]) -> str:
    """Tell from a row of results.csv how many truths have no positive, and how many were served with one."""
    counts = [f"{row[name]:.0f} {name}" for name in ("unmatched", "served") if row.get(name)]
    return f" ({', '.join(counts)} of {row['truths']:.0f})" if counts else ""


def picture(path: Path, images: list[np.ndarray]) -> None:
    """Write up to 16 images as one picture, four in a row."""
    write_image(path, image_grid(images, columns=4))


def pixels_of(batch: Batch) -> np.ndarray:
    """Return the first images (N, H, W, 3) uint8 of a batch, as many as a picture shows."""
    assert isinstance(batch.images, Tensor)  # recipes have been painted already
    return batch.images[:PER_PICTURE].permute(0, 2, 3, 1).cpu().numpy()


def with_truths(batch: Batch, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the images of a batch with their truths drawn."""
    images, targets = pixels_of(batch), batch.targets
    own = [targets.image == row for row in range(len(images))]
    return [
        draw_boxes(image, targets.boxes[rows].numpy(), targets.labels[rows].numpy(), names)
        for image, rows in zip(images, own, strict=True)
    ]


def with_measured(batch: Batch, truths: Truths, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the images of a batch with the truths drawn that they are measured against."""
    drawn = []
    for image, row, letterbox in zip(pixels_of(batch), batch.index.tolist(), batch.letterboxes, strict=False):
        assert letterbox is not None  # only augmented images have none
        own = slice(truths.starts[row], truths.starts[row + 1])
        drawn.append(draw_boxes(image, letterbox.boxes(truths.boxes[own]), truths.labels[own], names))
    return drawn


def with_detections(batch: Batch, detections: list[dict], names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the images of a batch with the detections drawn whose score is at least .25."""
    drawn = []
    images = pixels_of(batch)
    for image, found in zip(images, detections, strict=False):
        boxes, scores, labels = (found[part].float().cpu().numpy() for part in ("boxes", "scores", "labels"))
        shown = scores >= SHOWN_SCORE
        drawn.append(draw_boxes(image, boxes[shown], labels[shown].astype(int), names, scores[shown]))
    return drawn


def write_evaluation(folder: Path, metrics: Metrics, plots: bool, protocol: str) -> None:
    """Write metrics.csv, the curves and confusion matrix at the same operating point, and metrics.json.

    metrics.json comes last: who finds it takes the run for complete.
    """
    write_csv(folder / "metrics.csv", metrics.rows())
    if plots:
        for name, plot in CURVES.items():
            attempt(name, plot, metrics, folder / name)
    write_json(folder / "metrics.json", {**metrics.to_json(), "protocol": protocol})


def taken_up(path: Path, start_epoch: int, rows: Sequence[Mapping[str, object]] | None) -> ResultsCsv:
    """Return results.csv up to where a run starts or goes on.

    One that is damaged, and no checkpoint knows, is put aside.
    """
    try:
        results = ResultsCsv(path, rows)
    except UserError as error:
        aside = path.with_suffix(".damaged.csv")
        path.replace(aside)
        print(f"warning: {error}; put aside as {printable(aside.name)}, begun anew", file=sys.stderr)
        results = ResultsCsv(path)
    results.truncate_to(start_epoch + 1)
    return results


class Board:
    """TensorBoard's file, which must not cost the run: its first failure is said, then it is left alone."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self.file: EventFile | None = None
        attempt("TensorBoard's file", self._open, folder, first_epoch)

    def _open(self, folder: Path, first_epoch: int) -> None:
        self.file = EventFile(folder, first_epoch)

    def add(self, scalars: Mapping[str, float], epoch: int) -> None:
        """Write an epoch's values."""
        file, self.file = self.file, None
        if file is not None:
            attempt("TensorBoard's file", self._add, file, scalars, epoch)

    def _add(self, file: EventFile, scalars: Mapping[str, float], epoch: int) -> None:
        file.add(scalars, epoch)
        self.file = file

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            attempt("TensorBoard's file", self.file.close)


class Records:
    """The records of a training run; `rows` are those of results.csv that its checkpoint holds.

    Pictures of the validation show `truths`, or else the labels.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        index: LabelIndex,
        start_epoch: int,
        protocol: str,
        cpu_kernels: Sequence[str] = (),
        rows: Sequence[Mapping[str, object]] | None = None,
        truths: Truths | None = None,
    ) -> None:
        self.folder, self.config, self.protocol, self.truths = folder, config, protocol, truths
        self.results = taken_up(folder / "results.csv", start_epoch, rows)
        self.seconds = float(self.results.rows[-1]["seconds"]) if self.results.rows else 0.0
        self.board = Board(folder, start_epoch + 1)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True, width=110)
        write_atomically(folder / "config.yaml", text)
        facts = {"training_data": fingerprint(index), "cpu_kernels": list(cpu_kernels)}
        write_env(folder / "env.json", sys.argv, facts)
        if config.run.plots:
            attempt("labels.png", plot_labels, index.boxes, index.labels, config.names, folder / "labels.png")

    def train_batch(self, epoch: int, step: int, batch: Batch) -> None:
        """Draw the first batches, as the network sees them."""
        if epoch == 0 and step <= PICTURES and self.config.run.plots:
            path = self.folder / f"train_batch{step - 1}.jpg"
            attempt(path.name, lambda: picture(path, with_truths(batch, self.config.names)))

    def val_batch(self, number: int, batch: Batch, detections: list[dict]) -> None:
        """Draw the first batches of the final validation, with truths and with detections."""
        if number < PICTURES and self.config.run.plots:
            write_val_batch(self.folder, number, batch, detections, self.config.names, self.truths)

    def epoch(self, epoch: int, row: dict[str, float | None], metrics: Metrics, seconds: float) -> str:
        """Add an epoch to results.csv and TensorBoard; return its line for the terminal."""
        values = {"epoch": epoch + 1, "seconds": self.seconds + seconds, **row, **metrics.overall}
        # Of an end that this run, extended, has left behind: they would be taken for those of what is trained now.
        for name in ("metrics.json", "metrics.csv"):
            (self.folder / name).unlink(missing_ok=True)
        self.results.append(values)
        scalars = {
            f"{'metrics' if name in metrics.overall else 'train'}/{name}": value
            for name, value in values.items()
            if name != "epoch" and value is not None
        }
        self.board.add(scalars, epoch + 1)
        return self.line(epoch, values)

    def rows(self) -> list[dict[str, float | int | None]]:
        """Return the rows of results.csv, for the checkpoint."""
        return self.results.plain()

    def line(self, epoch: int, values: dict[str, Any]) -> str:
        """Return the epoch in one line."""

        def shown(name: str, digits: int) -> str:
            value = values[name]
            return "-" if value is None or value != value else f"{value:.{digits}f}"

        return (
            f"epoch {epoch + 1:>3}/{self.config.run.epochs}  {clock(values['seconds']):>6}  "
            f"box {shown('box_loss', 4)} (raw {shown('raw_box_loss', 3)})  obj {shown('objectness_loss', 4)}  "
            f"cls {shown('class_loss', 4)}  IoU {shown('mean_iou', 3)}  pos/truth {shown('positives_per_truth', 1)}"
            f"{left_out(values)}  "
            f"AP {shown('ap', 4)}  AP50 {shown('ap50', 4)}  {shown('images_per_second', 1)} img/s"
        )

    def finish(self, metrics: Metrics) -> None:
        """Write the metrics and curves of the best weights, and the plot of all epochs."""
        if self.config.run.plots:
            attempt("results.png", plot_results, self.results.path, self.folder / "results.png")
        write_evaluation(self.folder, metrics, self.config.run.plots, self.protocol)
        self.board.close()


class NoRecords(Records):
    """In all processes of a run but the main one: knows the folder and writes nothing."""

    def __init__(self, folder: Path):
        self.folder = folder

    def train_batch(self, epoch: int, step: int, batch: Batch) -> None:
        """Do nothing."""

    def val_batch(self, number: int, batch: Batch, detections: list[dict]) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, row: dict[str, float | None], metrics: Metrics, seconds: float) -> str:
        """Return an empty text."""
        return ""

    def rows(self) -> list[dict[str, float | int | None]]:
        """Return no rows."""
        return []

    def finish(self, metrics: Metrics) -> None:
        """Do nothing."""


class ValRecords:
    """The records of a validation run, whose pictures show `truths`, or else the labels."""

    def __init__(self, folder: Path, config: Config, protocol: str, truths: Truths | None = None):
        self.folder, self.config, self.protocol, self.truths = folder, config, protocol, truths
        self.plots = config.run.plots

    def batch(self, number: int, batch: Batch, detections: list[dict]) -> None:
        """Draw the first batches, with truths and with detections."""
        if number < PICTURES and self.plots:
            write_val_batch(self.folder, number, batch, detections, self.config.names, self.truths)

    def finish(self, metrics: Metrics) -> None:
        """Write the metrics, curves and config."""
        write_evaluation(self.folder, metrics, self.plots, self.protocol)


def write_val_batch(
    folder: Path,
    number: int,
    batch: Batch,
    detections: list[dict],
    names: tuple[str, ...],
    truths: Truths | None = None,
) -> None:
    """Write val_batch<n>.jpg with detections and val_batch<n>_truth.jpg with truths, or labels if none are given."""
    found, truth = folder / f"val_batch{number}.jpg", folder / f"val_batch{number}_truth.jpg"
    attempt(found.name, lambda: picture(found, with_detections(batch, detections, names)))
    attempt(
        truth.name,
        lambda: picture(truth, with_measured(batch, truths, names) if truths else with_truths(batch, names)),
    )
