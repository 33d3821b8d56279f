"""Every plot is drawn from real-looking data, without a warning, and shows the numbers that it was given."""

import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest

from tests.paths import ROOT
from utils.drawing import plots
from utils.errors import UserError
from utils.metrics.coco_metrics import IOU_COLUMNS, CocoMetrics
from utils.run_folder import write_csv

NAMES = ["person", "Größe $x$", "犬", "never labelled"]


@pytest.fixture(autouse=True)
def no_warnings():
    """A missing glyph, an empty axis or a division by zero would only be a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they are saved."""
    figures = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def scene(names=NAMES, images=20):
    """Boxes, labels and metrics of random truths, of which detections find about half."""
    generator = np.random.default_rng(0)
    corner = generator.random((images * 6, 2)) * 300
    boxes = np.concatenate([corner, corner + 10 * 2 ** (4 * generator.random((images * 6, 2)))], 1)
    labels = generator.integers(0, len(names) - 1, images * 6)
    metrics = CocoMetrics(np.full((images, 2), 640), np.arange(images + 1) * 6, boxes, labels, names)
    for image in range(images):
        own = slice(6 * image, 6 * image + 6)
        found = np.concatenate([boxes[own] + generator.normal(0, 3, (6, 4)), boxes[own] + 400])
        metrics.add(image, found, generator.random(12), np.tile(labels[own], 2))
    return boxes, labels, metrics.compute()


def is_picture(path):
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    return min(image.shape[:2]) > 300 and image.std() > 5


def results_rows():
    rows = []
    for epoch in range(4):
        row = {"epoch": epoch, "loss": 5 - epoch, "box_loss": 2.0 - epoch / 4, "lr": 0.01, "lr_bias": 0.1}
        row |= {"positives_per_truth": 13.0, "positives_per_truth_ratio_from_4": None if epoch == 1 else 4.0}
        rows.append(row | {"ap": 0.1 * epoch, "ap_small": None} | dict.fromkeys(IOU_COLUMNS, 0.1 * epoch))
    return rows


def test_results_shows_every_column_it_knows_and_gaps_where_there_is_nothing(tmp_path, drawn):
    write_csv(tmp_path / "results.csv", results_rows())
    plots.plot_results(tmp_path / "results.csv", tmp_path / "results é.png")
    assert is_picture(tmp_path / "results é.png")
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    lines = {line.get_label(): line.get_ydata() for axes in drawn[0].axes for line in axes.get_lines()}
    assert lines.keys() == results_rows()[0].keys() - {"epoch"}
    assert lines["loss"].tolist() == [5, 4, 3, 2]
    assert np.isnan(lines["positives_per_truth_ratio_from_4"]).tolist() == [False, True, False, False]
    assert np.isnan(lines["ap_small"]).all()
    learning_rate = panels["Learning rate"]
    assert [text.get_text() for text in learning_rate.get_legend().get_texts()] == ["lr", "lr_bias"]
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in drawn[0].axes)


def test_results_of_one_epoch_and_of_a_broken_file(tmp_path):
    write_csv(tmp_path / "results.csv", results_rows()[:1])
    plots.plot_results(tmp_path / "results.csv", tmp_path / "results.png")
    assert is_picture(tmp_path / "results.png")
    with pytest.raises(UserError, match=r"absent\.csv"):
        plots.plot_results(tmp_path / "absent.csv", tmp_path / "results.png")


def test_labels_counts_classes_and_slender_objects(tmp_path, drawn):
    boxes, labels, _ = scene()
    plots.plot_labels(boxes, labels, NAMES, tmp_path / "labels.png")
    assert is_picture(tmp_path / "labels.png")
    classes, sizes, ratios = drawn[0].axes[:3]
    assert [bar.get_height() for bar in classes.patches] == np.bincount(labels, minlength=4).tolist()
    assert [text.get_text() for text in classes.get_xticklabels()] == [NAMES[0], r"Größe \$x\$", "class 2", NAMES[3]]
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    share = np.mean(np.maximum(width, height) / np.minimum(width, height) >= 4)
    assert f"{share:.1%} are 4 or more" in [text.get_text() for text in ratios.get_legend().get_texts()]
    assert sum(bar.get_height() for bar in ratios.patches) == len(labels)
    assert "pixels" in sizes.get_xlabel()


@pytest.mark.parametrize("most", [3000, pytest.param(2, marks=pytest.mark.slow)], ids=["one above all", "evenly"])
def test_bars_of_many_classes_are_those_of_matplotlib(most, tmp_path, monkeypatch):
    labels = np.concatenate([np.arange(500), np.zeros(most, int), np.arange(0, 500, 7)])
    boxes = np.tile([0, 0, 30.0, 20.0], (len(labels), 1))
    names = [str(number) for number in range(500)]
    pictures = []
    for limit in (plots.MOST_BARS, 500):
        monkeypatch.setattr(plots, "MOST_BARS", limit)
        plots.plot_labels(boxes, labels, names, tmp_path / "labels.png")
        pictures.append(cv2.imread(str(tmp_path / "labels.png")).astype(int))
    first, second = pictures
    assert first.shape == second.shape
    # The edges of bars a pixel wide are smoothed in another way.
    assert np.abs(first - second).mean() < 1


@pytest.mark.parametrize("count", [0, 1])
def test_labels_of_hardly_any_box(tmp_path, count):
    plots.plot_labels(np.array([[0, 0, 0, 5.0]])[:count], np.zeros(count, int), NAMES, tmp_path / "labels.png")
    assert is_picture(tmp_path / "labels.png")


def test_curves_show_the_metrics_of_classes_with_labels(tmp_path, drawn):
    _, _, metrics = scene()
    plots.plot_precision_recall(metrics, tmp_path / "pr.png")
    plots.plot_f1(metrics, tmp_path / "f1.png")
    assert is_picture(tmp_path / "pr.png")
    assert is_picture(tmp_path / "f1.png")
    precision, f1 = (figure.axes[0] for figure in drawn)
    assert len(precision.get_lines()) == 3 + 1
    assert np.mean(precision.get_lines()[-1].get_ydata()) == pytest.approx(metrics.overall["ap50"])
    assert precision.get_lines()[-1].get_label().endswith(f"{metrics.overall['ap50']:.3f}")
    assert f1.get_lines()[0].get_xdata()[0] == metrics.confidence
    assert max(f1.get_lines()[-1].get_ydata()) <= metrics.overall["f1"] + 1e-9


def test_confusion_matrix_shows_counts_misses_and_false_alarms(tmp_path, drawn):
    _, _, metrics = scene()
    plots.plot_confusion_matrix(metrics, tmp_path / "confusion.png")
    assert is_picture(tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    shown = {text.get_position(): int(text.get_text().split("\n")[0]) for text in axes.texts}
    rows, columns = np.nonzero(metrics.confusion)
    assert shown == {(x, y): metrics.confusion[y, x] for y, x in zip(rows, columns, strict=True)}
    assert axes.get_yticklabels()[-1].get_text() == "missed"
    assert axes.get_xticklabels()[-1].get_text() == "false alarm"
    assert f"{metrics.confidence:.3f}" in axes.get_title()


def test_many_classes_and_no_detections(tmp_path):
    names = [f"class number {number}" for number in range(200)]
    boxes, labels, metrics = scene(names)
    plots.plot_labels(boxes, labels, names, tmp_path / "labels.png")
    empty = CocoMetrics([[9, 9]], [0, 0], np.zeros((0, 4)), [], NAMES).compute()
    for number, values in enumerate((metrics, empty)):
        for plot in (plots.plot_precision_recall, plots.plot_f1, plots.plot_confusion_matrix):
            plot(values, tmp_path / f"{number}.png")
            assert is_picture(tmp_path / f"{number}.png") or values is empty


def test_no_global_plotting_state_is_used_and_matplotlib_comes_with_the_first_picture(tmp_path):
    code = "import sys, utils.drawing.plots; print('matplotlib.figure' in sys.modules); import numpy as np; "
    code += f"utils.drawing.plots.plot_labels(np.ones((1, 4)), [0], ['a'], {str(tmp_path / 'labels.png')!r}); "
    code += "print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


def test_a_confusion_of_thousands_of_classes_keeps_its_largest_shares():
    counts = np.random.default_rng(0).integers(0, 5, (2501, 2501))
    totals = np.maximum(counts.sum(0), 1)
    pooled = plots._pooled(counts)
    padded = np.pad(counts / totals, ((0, 1), (0, 1)))[:2502, :2502]
    assert np.array_equal(pooled, padded.reshape(834, 3, 834, 3).max((1, 3)))
    few = counts[:9, :9]
    few[:, 4] = 0  # a class without labels
    assert np.array_equal(plots._pooled(few), few / np.maximum(few.sum(0), 1))
