"""report.html: what a validation found, in one file that opens offline, by jinja2."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from data.images import ImageError, read_image
from data.labels.index import LabelIndex
from utils.drawing.draw import draw_boxes
from utils.drawing.plots import plot_confusion_matrix, plot_f1, plot_precision_recall
from utils.metrics.coco_eval import ERROR_KINDS, RATIO_BINS, SIZE_BINS, counted_detections
from utils.metrics.coco_metrics import (
    COLUMNS,
    FEW_LABELS,
    GROUP_LABELS,
    TABLE_HEADS,
    WEIGHTED,
    CocoMetrics,
    Matches,
    Metrics,
    match_truths,
)
from utils.run_folder import write_atomically

GALLERY = 12
FULL_WIDTH_FROM = 20  # classes, of a readable confusion matrix
SHOWN_SIDE = 440
BINS_NOTE = (
    "percent; side ratio: long over short side; sizes are COCO's, with limits at 32 x 32 and 96 x 96 pixels; "
    "by COCO's rule an object exactly on a limit counts in both rows; AP is a mean over the classes with such objects, "
    "of which those with few decide as much as the others; weighted, a class counts as often as it has objects there"
)
ERRORS_NOTE = (
    "AP50 lost: percentage points that AP50 would gain if all errors of the kind were mended, each kind by itself; "
    "counts are over all confidences; a class of which every object is missed has none left once misses are mended, "
    "drops out of the mean and costs nothing under missed: see the count"
)
MEANINGS = {
    "classification": "IoU of .5 or more with an object of another class",
    "localisation": "right class, IoU from .1 to .5",
    "both": "another class, IoU from .1 to .5",
    "duplicate": "an object that a surer detection found",
    "background": "IoU below .1 with every object",
    "missed": "an object without any detection of the first two kinds",
}
TEMPLATE = Path(__file__).with_name("report_template.html")


class Case(NamedTuple):
    """A miss or a false alarm: the image's row, what to say, and the box (4,) that it is about."""

    image: int
    caption: str
    box: NDArray


class Table(NamedTuple):
    """A table of the report: its rows have a cell for each head; with mark_first the first one stands out."""

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    mark_first: bool = False


def write_report(path: Path, collected: CocoMetrics, metrics: Metrics, index: LabelIndex, protocol: str) -> None:
    """Write the report of a validation, whose metrics are by side ratio too; its gallery leaves out broken photos."""
    found = collected.detections()
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    counted = counted_detections(found.take(finite), collected.details)
    matches = match_truths(counted, collected.truths, collected.details, collected.num_classes)
    galleries = {
        "Worst misses: large objects that nothing found": _misses(matches, metrics),
        "Worst false alarms: the surest wrong detections": _false_alarms(matches, metrics),
    }
    # Names of classes and files are anybody's: autoescape turns them into text.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        protocol=protocol,
        cards=_cards(metrics),
        facts=_facts(metrics),
        tables=[_class_table(metrics), _errors_table(metrics), _bins_table(metrics)],
        plots=_plots(metrics),
        point=_point(metrics),
        galleries=[
            {"title": title, "figures": _figures(cases, collected, metrics, index)}
            for title, cases in galleries.items()
        ],
    )
    write_atomically(path, page.encode("utf-8", "replace").decode("utf-8"))


def _cards(metrics: Metrics) -> list[tuple[str, str]]:
    """Return the numbers at the top: name and percentage."""
    values = [(name, _percent(metrics.overall[key])) for name, key in zip(TABLE_HEADS, COLUMNS, strict=True)]
    return [
        ("AP" + name if name.isdigit() else name, value)
        for name, value in values
        if name in ("AP", "50", "75", "90", "AR", "P", "R", "F1")
    ]


def _facts(metrics: Metrics) -> str:
    """Say how much was counted, in one line."""
    counts = metrics.counts
    extra = "".join(
        f", {counts[f'{kind}_labels']} {kind}" for kind in ("crowd", "difficult") if counts[f"{kind}_labels"]
    )
    return (
        f"{counts['images']:,} images, {counts['labels']:,} labels{extra}, {counts['detections']:,} detections; "
        f"mean over {counts['classes_with_labels']} of {counts['classes']} classes with labels"
    )


def _class_table(metrics: Metrics) -> Table:
    """Return all columns of every class, best AP first."""
    classes = sorted(metrics.per_class.items(), key=lambda item: (item[1]["ap"] != item[1]["ap"], -item[1]["ap"]))
    every = [("all", {"labels": metrics.counts["labels"], **metrics.overall}), *classes]
    rows = [(name, f"{row['labels']:,}", *(_percent(row[key]) for key in COLUMNS)) for name, row in every]
    return Table("Classes, best AP first", "percent; n/a: no labels", ("class", "labels", *TABLE_HEADS), rows, True)


def _errors_table(metrics: Metrics) -> Table:
    """Return what each kind of error costs in AP50, and how many there are."""
    rows = [
        (name, MEANINGS[name], f"{metrics.error_counts[name]:,}", _percent(metrics.overall[f"tide_{name}"]))
        for name in ERROR_KINDS.values()
    ]
    return Table("Errors by kind (TIDE)", ERRORS_NOTE, ("error", "meaning", "count", "AP50 lost"), rows)


def _bins_table(metrics: Metrics) -> Table:
    """Return AP, AP50 and AP75 by side ratio, and AP by size, each with how many classes it is a mean of."""
    rows = []
    for name in (*RATIO_BINS, *SIZE_BINS):
        title = f"side {name.replace('_', ' ')}" if name in RATIO_BINS else f"size {name}"
        counts = (metrics.counts[f"{GROUP_LABELS}{name}"], *metrics.classes_of(name))
        # AP50 and AP75 by size are no measures of COCO's.
        parts = [metrics.overall.get(f"{part}_{name}") for part in ("ap", "ap50", "ap75")]
        cells = ("" if part is None else _percent(part) for part in parts)
        weighted = _percent(metrics.overall[f"ap_{name}{WEIGHTED}"])
        rows.append((title, *(f"{count:,}" for count in counts), *cells, weighted))
    few_head = f"fewer than {FEW_LABELS}"
    heads = ("objects", "labels", "classes", few_head, "AP", "AP50", "AP75", "AP weighted")
    return Table("AP by side ratio and by size", BINS_NOTE, heads, rows)


def _plots(metrics: Metrics) -> list[dict[str, object]]:
    """Return the curves and the confusion matrix as PNG."""
    pictures: list[dict[str, object]] = []
    for name, plot in (
        ("Precision over recall", plot_precision_recall),
        ("F1 over confidence", plot_f1),
        ("Confusion matrix", plot_confusion_matrix),
    ):
        buffer = io.BytesIO()
        plot(metrics, buffer)
        full = plot is plot_confusion_matrix and len(metrics.per_class) > FULL_WIDTH_FROM
        pictures.append({"name": name, "png": _base64(buffer.getvalue()), "full": full})
    return pictures


def _point(metrics: Metrics) -> str:
    """Say where precision, recall and F1 stand."""
    if metrics.confidence is None:
        return "no detection of a class that has labels"
    return f"P, R, F1 and the confusion matrix all stand at confidence {metrics.confidence:.3f} (best mean F1), IoU .5"


def _misses(matches: Matches, metrics: Metrics) -> Iterable[Case]:
    """Return truths that no detection of the operating point found, largest first, one an image."""
    kept = matches.detections.scores >= (2 if metrics.confidence is None else metrics.confidence)
    missed = np.setdiff1d(np.arange(len(matches.truths.labels)), matches.truth[kept])
    boxes = matches.truths.boxes[missed]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    names = list(metrics.per_class)
    for row in missed[np.argsort(-area, kind="stable")].tolist():
        box = matches.truths.boxes[row]
        width, height = (box[2:] - box[:2]).tolist()
        caption = f"{names[matches.truths.labels[row]]}, {width:.0f} x {height:.0f} pixels"
        yield Case(int(matches.truths.image[row]), caption, box)


def _false_alarms(matches: Matches, metrics: Metrics) -> Iterable[Case]:
    """Return detections that match no truth of their class, surest first."""
    wrong = np.flatnonzero(matches.truth < 0)
    names = list(metrics.per_class)
    for row in wrong[np.argsort(-matches.detections.scores[wrong], kind="stable")].tolist():
        found = matches.detections
        yield Case(int(found.image[row]), f"{names[found.labels[row]]} {found.scores[row]:.2f}", found.boxes[row])


def _figures(
    cases: Iterable[Case], collected: CocoMetrics, metrics: Metrics, index: LabelIndex
) -> list[dict[str, object]]:
    """Return truth and prediction side by side for the first cases, one an image; unreadable photos are left out."""
    figures: list[dict[str, object]] = []
    seen: set[int] = set()
    for case in cases:
        if len(figures) == GALLERY or len(seen) == 4 * GALLERY:
            break
        if case.image in seen:
            continue
        seen.add(case.image)
        try:
            photo = read_image(index.images[case.image])
        except ImageError:
            continue
        figures.append(_figure(case, photo, collected, metrics, index))
    return figures


def _figure(
    case: Case, photo: NDArray, collected: CocoMetrics, metrics: Metrics, index: LabelIndex
) -> dict[str, object]:
    """Return what the template says of a case: caption, file name, size and both pictures."""
    scale = min(1.0, SHOWN_SIDE / max(photo.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    truths = collected.truths.take(collected.truths.image == case.image)
    found = collected.detections_of(case.image)
    shown = found.scores >= (metrics.confidence or 0)
    truth = draw_boxes(photo, truths.boxes * scale, truths.labels, collected.names)
    predicted = draw_boxes(photo, found.boxes[shown] * scale, found.labels[shown], collected.names, found.scores[shown])
    for picture in (truth, predicted):
        x1, y1, x2, y2 = (case.box * scale).round().astype(int).tolist()
        cv2.rectangle(picture, (x1 - 3, y1 - 3), (x2 + 3, y2 + 3), (255, 255, 255), 3)
        cv2.rectangle(picture, (x1 - 3, y1 - 3), (x2 + 3, y2 + 3), (255, 0, 60), 1)
    return {
        "caption": case.caption,
        "photo": Path(index.images[case.image]).name,
        "width": width,
        "height": height,
        "pictures": [{"name": "truth", "jpeg": _jpeg(truth)}, {"name": "prediction", "jpeg": _jpeg(predicted)}],
    }


def _percent(value: float) -> str:
    return "n/a" if value != value else f"{100 * value:.1f}"


def _jpeg(image: NDArray) -> str:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return _base64(encoded.tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
