"""report.html: what a validation found, in one file that opens offline."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images import ImageError, read_image
from data.labels.index import LabelIndex
from utils.drawing.draw import draw_boxes
from utils.drawing.plots import plot_confusion_matrix, plot_f1, plot_precision_recall
from utils.metrics.coco_eval import RATIO_BINS, counted_detections, side_ratios
from utils.metrics.coco_metrics import COLUMNS, TABLE_HEADS, CocoMetrics, Matches, Metrics, match_truths

GALLERY = 12
FULL_WIDTH_FROM = 20  # classes, of a readable confusion matrix
SHOWN_SIDE = 440
SIZE_BINS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
BINS_NOTE = "percent; side ratio: long over short side; sizes are COCO's, with limits at 32 x 32 and 96 x 96 pixels"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { opacity: .75; } code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .4rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; max-width: 22ch; overflow: hidden; text-overflow: ellipsis; }
tr.all td { font-weight: 600; border-bottom: 2px solid; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.cards div { border: 1px solid #8886; border-radius: 6px; padding: .5rem 1rem; }
.cards b { display: block; font-size: 1.4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 1rem; }
.plots .full { grid-column: 1 / -1; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figure { margin: 0 0 1.4rem; } figcaption { font-size: .9rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 1rem; }
"""


class Case(NamedTuple):
    """A miss or a false alarm: the image's row, what to say, and the box (4,) that it is about."""

    image: int
    caption: str
    box: NDArray


def write_report(path: Path, collected: CocoMetrics, metrics: Metrics, index: LabelIndex, protocol: str) -> None:
    """Writes the report of a validation, whose metrics are by side ratio too; its gallery leaves out broken photos."""
    found = collected.detections()
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    counted = counted_detections(found.take(finite), collected.details)
    matches = match_truths(counted, collected.truths, collected.details, collected.num_classes)
    sections = [
        f"<h1>Validation report</h1><p><code>{_text(protocol)}</code></p>",
        _cards(metrics),
        _section("Classes, best AP first", _class_table(metrics), "percent; n/a: no labels"),
        _section("AP by side ratio and by size", _bins_table(collected, metrics), BINS_NOTE),
        _section("Curves and confusion matrix", _plots(metrics), _point(metrics)),
        _gallery(
            "Worst misses: large objects that nothing found", _misses(matches, metrics), collected, metrics, index
        ),
        _gallery(
            "Worst false alarms: the surest wrong detections",
            _false_alarms(matches, metrics),
            collected,
            metrics,
            index,
        ),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>Validation report</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>"
    )
    path.write_text(page, "utf-8", "replace")


def _section(title: str, body: str, note: str = "") -> str:
    shown = f'<p class="note">{_text(note)}</p>' if note else ""
    return f"<h2>{_text(title)}</h2>{shown}{body}"


def _cards(metrics: Metrics) -> str:
    counts = metrics.counts
    values = [(name, _percent(metrics.overall[key])) for name, key in zip(TABLE_HEADS, COLUMNS, strict=True)]
    shown = [pair for pair in values if pair[0] in ("AP", "50", "75", "90", "AR", "P", "R", "F1")]
    cards = "".join(f"<div><b>{value}</b>{'AP' + name if name.isdigit() else name}</div>" for name, value in shown)
    extra = "".join(
        f", {counts[f'{kind}_labels']} {kind}" for kind in ("crowd", "difficult") if counts[f"{kind}_labels"]
    )
    facts = (
        f"{counts['images']:,} images, {counts['labels']:,} labels{extra}, {counts['detections']:,} detections; "
        f"mean over {counts['classes_with_labels']} of {counts['classes']} classes with labels"
    )
    return f'<div class="cards">{cards}</div><p>{_text(facts)}</p>'


def _class_table(metrics: Metrics) -> str:
    rows = sorted(metrics.per_class.items(), key=lambda item: (item[1]["ap"] != item[1]["ap"], -item[1]["ap"]))
    body = [("all", metrics.counts["labels"], *(_percent(metrics.overall[key]) for key in COLUMNS))]
    body += [(name, row["labels"], *(_percent(row[key]) for key in COLUMNS)) for name, row in rows]
    return _table(("class", "labels", *TABLE_HEADS), body, mark_first=True)


def _bins_table(collected: CocoMetrics, metrics: Metrics) -> str:
    """AP, AP50 and AP75 by side ratio, and AP by size."""
    truths, rows = collected.details, []
    ratio, counts = side_ratios(truths.xywh), ~truths.ignored
    for name, (low, high) in RATIO_BINS.items():
        inside = (ratio >= low) & (ratio < high) & counts
        cells = (_percent(metrics.overall[f"{column}_{name}"]) for column in ("ap", "ap50", "ap75"))
        rows.append((f"side {name.replace('_', ' ')}", int(inside.sum()), *cells))
    for name, (low, high) in SIZE_BINS.items():
        inside = (truths.area >= low) & (truths.area < high) & counts
        rows.append((f"size {name}", int(inside.sum()), _percent(metrics.overall[f"ap_{name}"]), "", ""))
    return _table(("objects", "labels", "AP", "AP50", "AP75"), rows)


def _plots(metrics: Metrics) -> str:
    pictures = []
    for name, plot in (
        ("Precision over recall", plot_precision_recall),
        ("F1 over confidence", plot_f1),
        ("Confusion matrix", plot_confusion_matrix),
    ):
        buffer = io.BytesIO()
        plot(metrics, buffer)
        full = ' class="full"' if plot is plot_confusion_matrix and len(metrics.per_class) > FULL_WIDTH_FROM else ""
        pictures.append(f'<img{full} alt="{name}" src="data:image/png;base64,{_base64(buffer.getvalue())}">')
    return f'<div class="plots">{"".join(pictures)}</div>'


def _point(metrics: Metrics) -> str:
    if metrics.confidence is None:
        return "no detections"
    return f"P, R, F1 and the confusion matrix all stand at confidence {metrics.confidence:.3f} (best mean F1), IoU .5"


def _misses(matches: Matches, metrics: Metrics) -> Iterable[Case]:
    """Truths that no detection of the operating point found, largest first, one an image."""
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
    """Detections that match no truth of their class, surest first."""
    wrong = np.flatnonzero(matches.truth < 0)
    names = list(metrics.per_class)
    for row in wrong[np.argsort(-matches.detections.scores[wrong], kind="stable")].tolist():
        found = matches.detections
        yield Case(int(found.image[row]), f"{names[found.labels[row]]} {found.scores[row]:.2f}", found.boxes[row])


def _gallery(title: str, cases: Iterable[Case], collected: CocoMetrics, metrics: Metrics, index: LabelIndex) -> str:
    """Truth and prediction side by side for the first cases, one an image."""
    figures: list[str] = []
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
    return _section(title, f'<div class="gallery">{"".join(figures)}</div>' if figures else "<p>none</p>")


def _figure(case: Case, photo: NDArray, collected: CocoMetrics, metrics: Metrics, index: LabelIndex) -> str:
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
    name = Path(index.images[case.image]).name
    images = "".join(
        f'<img alt="{kind}" width="{width}" height="{height}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
        for kind, picture in (("truth", truth), ("prediction", predicted))
    )
    caption = f"<b>{_text(case.caption)}</b> in {_text(name)} (left truth, right prediction; framed: this one)"
    return f'<figure><figcaption>{caption}</figcaption><div class="pair">{images}</div></figure>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], mark_first: bool = False) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{_text(f'{cell:,}' if isinstance(cell, int) else cell)}</td>" for cell in row)
        body += f"<tr{' class=all' if mark_first and not number else ''}>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _percent(value: float) -> str:
    return "n/a" if value != value else f"{100 * value:.1f}"


def _text(value: object) -> str:
    return html.escape(str(value))


def _jpeg(image: NDArray) -> str:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return _base64(encoded.tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
