"""report.html: whole, self-contained, and safe with any class or file name."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from data.labels.index import load_labels
from engine.validate.html_report import write_report
from utils.drawing.draw import write_image
from utils.metrics.coco_eval import COCO_IOUS, ERROR_KINDS, coco_precision_recall, precision_by_ratio, side_ratios
from utils.metrics.coco_metrics import CocoMetrics

NAMES = ["cat", "<script>alert(1)</script>", "犬"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.open, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def collected(tmp_path, detections):
    photo, label = tmp_path / "a <b>é.png", tmp_path / "a <b>é.txt"
    write_image(photo, np.full((200, 300, 3), 90, np.uint8))
    label.write_text("0 .5 .5 .2 .2\n1 .2 .2 .3 .05\n")
    index = load_labels([photo], [label], 3, tmp_path / "cache")
    metrics = CocoMetrics(index.sizes, index.starts, index.boxes, index.labels, NAMES)
    metrics.add(0, *detections)
    return metrics, index


@pytest.mark.parametrize("found", [0, 2])
def test_the_page_is_whole_and_holds_all_it_shows(found, tmp_path):
    detections = ([[120, 80, 180, 120], [10, 100, 60, 190]], [0.9, 0.8], [0, 2])
    metrics, index = collected(tmp_path, [part[:found] for part in detections] if found else (np.zeros((0, 4)), [], []))
    write_report(tmp_path / "report.html", metrics, metrics.compute(by_ratio=True, errors=True), index, "split val <x>")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.texts, "shown as text"
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) == 3 + 2 * (2 if found else 1), "three plots, and a pair for each case"
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text
    cells = [part for part in page.texts if part.strip() in ERROR_KINDS.values()]
    assert cells == list(ERROR_KINDS.values())
    cells = [part for part in page.texts if part.startswith("side ratio")]
    assert cells[-3:] == ["side ratio below 2", "side ratio 2 to 4", "side ratio from 4"]


def test_ap_by_side_ratio_is_the_ap_where_only_such_objects_are(tmp_path):
    """Over all ratios it is AP itself; within a bin neither truths nor unmatched detections of other shapes count."""
    metrics, _ = collected(
        tmp_path, ([[120, 80, 180, 120], [15, 35, 105, 45], [200, 0, 210, 190]], [0.5, 0.9, 0.95], [0, 1, 0])
    )
    truths, found = metrics.details, metrics.detections()
    everything = precision_by_ratio(truths, found, np.arange(3), [(0, 1e10)])[..., 0]
    plain = coco_precision_recall(truths, found, np.arange(3), tuple(COCO_IOUS))[0][..., 0]
    np.testing.assert_allclose(everything, plain)
    np.testing.assert_allclose(side_ratios(truths.xywh), [1.5, 9], rtol=1e-5)
    low, high = np.moveaxis(precision_by_ratio(truths, found, np.arange(3), [(0, 2), (4, 1e10)])[0], -1, 0)
    assert low[:, 0].mean() == pytest.approx(1), "the slender false alarm belongs to another bin"
    assert plain[0, :, 0].mean() == pytest.approx(0.5)
    assert np.isnan(high[:, 0]).all()
    assert high[:, 1].mean() == pytest.approx(1)
    overall = metrics.compute(by_ratio=True).overall
    # The mean over classes; the false alarm of class 0 in the last bin has no truth there to stand beside.
    assert (overall["ap_ratio_below_2"], overall["ap_ratio_from_4"]) == (pytest.approx(1), pytest.approx(1))
    assert (overall["ap50_ratio_below_2"], overall["ap75_ratio_from_4"]) == (pytest.approx(1), pytest.approx(1))
    assert np.isnan(overall["ap_ratio_2_to_4"])
    assert "AP by side ratio: below 2 100, from 4 100" in metrics.compute(by_ratio=True).table()
    assert not any("ratio" in column for column in metrics.compute().overall)


def test_an_object_on_a_limit_is_counted_in_both_rows_as_in_ap(tmp_path):
    """Sides of 2 : 1 and an area of 32 x 32: COCO's rule, by which AP is computed, takes both limits."""
    photo, label = tmp_path / "a.png", tmp_path / "a.txt"
    write_image(photo, np.full((128, 128, 3), 90, np.uint8))
    label.write_text("0 .25 .25 .25 .25\n0 .5 .75 .5 .25\n")
    index = load_labels([photo], [label], 1, tmp_path / "cache")
    metrics = CocoMetrics(index.sizes, index.starts, index.boxes, index.labels, ["cat"])
    metrics.add(0, index.boxes, [0.9, 0.8], [0, 0])
    scored = metrics.compute(by_ratio=True, errors=True)
    write_report(tmp_path / "report.html", metrics, scored, index, "split val")
    texts = [part.strip() for part in Page((tmp_path / "report.html").read_text()).texts if part.strip()]
    for row, labels, key in (
        ("side ratio below 2", "2", "ap_ratio_below_2"),
        ("side ratio 2 to 4", "1", "ap_ratio_2_to_4"),
        ("size small", "1", "ap_small"),
        ("size medium", "2", "ap_medium"),
    ):
        assert texts[texts.index(row) + 1 : texts.index(row) + 5] == [labels, "1", "1", "100.0"]
        assert scored.overall[key] == scored.overall[f"{key}_weighted"] == pytest.approx(1)
