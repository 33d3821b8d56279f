"""What an exported file may differ by: more where float32 itself does, in proportion for boxes beyond the image."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from engine.export import check as checking
from engine.export.backend import Backend
from engine.export.check import MOST, TOLERANCE, allowed, check, differences, photos
from engine.export.job import Job
from engine.export.weights import torch_backend
from export import export
from models.postprocess import Postprocess
from models.weights.read import load_detector, read_weights
from tests.lively import lively_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.knobs import Config, ExportConfig
from utils.errors import ExportMismatch, UserError


def test_rounding_widens_the_tolerance_up_to_a_limit():
    score, pixels = TOLERANCE
    assert allowed(TOLERANCE, np.zeros(2)).tolist() == [score, pixels]
    assert allowed(TOLERANCE, np.array([1e-3, 0.25])) == pytest.approx([3e-3, 0.75])
    assert allowed(TOLERANCE, np.array([np.inf, 1e9])) == pytest.approx([MOST * score, MOST * pixels])


def backend(boxes, scores):
    return Backend(("a",), (100, 100), None, True, lambda images: (torch.tensor(boxes), torch.tensor(scores)))


def test_boxes_beyond_the_image_count_in_proportion():
    """4 px on a box of 400 px in an image of 100 px is 1 px; on one of 50 px it is 4; a score below .05 counts not."""
    images, postprocess = torch.zeros(1, 3, 100, 100), Postprocess(0.25)
    for side, score, expected in ((400.0, 0.9, 1.0), (50.0, 0.9, 4.0), (50.0, 0.04, 0.0)):
        right = backend([[[0.0, 0.0, side, 10.0]]], [[[score]]])
        wrong = backend([[[4.0, 0.0, side, 10.0]]], [[[score]]])
        assert differences(wrong, right, images, postprocess).tolist() == pytest.approx([0.0, expected])


def test_a_file_with_nms_is_compared_with_every_box(tmp_path):
    """Beyond the 4,096 that detection looks at: 6,000 boxes above the threshold, all of which the file may keep."""
    path = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [4, 4, 8, 8, 8, 8, 8]}, ("a",), (640, 640)
    )
    contents = read_weights(path)
    config = Config.from_dict(contents["config"], str(path))
    settings = ExportConfig(layout="nms", conf=0.0, nms_iou=1.0, max_det=10_000)
    job = Job(load_detector(contents, config, str(path)), config, contents, settings, (640, 640))
    network = torch_backend(job.detector, config)
    every = Postprocess(0.0, 1.0, 10_000, top_k=10_000, multi_label=False)
    exported = replace(network, final=True, run=lambda images: every(*network.run(images)))
    images = list(photos("", (640, 640)))[:1]
    assert len(exported.run(torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None] / 255)[0]["scores"]) == 6000
    assert "1 photos, scores differ by up to 0.0e+00" in check(exported, path, job, images, nullcontext)


def with_nms(boxes, scores, labels):
    """A file that does its own NMS and always finds this in one image."""
    found = {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}
    return replace(backend([], []), final=True, run=lambda images: [found])


def spread(count, scores):
    """Boxes that lie apart, alternately of two classes: as raw outputs, and as NMS sorts them."""
    boxes = [[20.0 * number, 0.0, 20.0 * number + 10, 10.0] for number in range(count)]
    rows = [[score, 0.0] if number % 2 == 0 else [0.0, score] for number, score in enumerate(scores)]
    return backend([boxes], [rows]), (boxes, list(scores), [number % 2 for number in range(count)])


def test_a_file_with_nms_may_order_equal_scores_otherwise():
    """By rounding: two scores that are nearly equal have changed places, with boxes and classes of their own."""
    right, (boxes, scores, labels) = spread(3, [0.9, 0.5, 0.5 - 1e-7])
    swapped = [[each[row] for row in (0, 2, 1)] for each in (boxes, [0.9, 0.5, 0.5], labels)]
    images, postprocess = torch.zeros(1, 3, 100, 100), Postprocess(0.25, multi_label=False)
    assert (differences(with_nms(boxes, scores, labels), right, images, postprocess) == 0).all()
    assert (differences(with_nms(*swapped), right, images, postprocess) < 1e-4).all()
    moved = [[[0.0, 4.0, 10.0, 14.0], *boxes[1:]], scores, labels]
    other_class = [boxes, scores, [1, 1, 0]]
    for wrong in (moved, other_class):
        found = differences(with_nms(*wrong), right, images, postprocess)
        assert (found > np.array(TOLERANCE)).any()


def test_of_a_file_with_nms_one_detection_in_fifty_may_be_left_out_and_no_more():
    """One at the threshold may be there or not, by rounding; where NMS is left out, boxes stand there twice."""
    scores = np.linspace(0.9, 0.26, 60).tolist()
    right, (boxes, scores, labels) = spread(60, scores)
    images, postprocess = torch.zeros(1, 3, 1200, 1200), Postprocess(0.25, multi_label=False)
    shorter = with_nms(boxes[:-1], scores[:-1], labels[:-1])
    assert (differences(shorter, right, images, postprocess) <= np.array(TOLERANCE)).all()
    for wrong in (with_nms(boxes[:-4], scores[:-4], labels[:-4]), with_nms(boxes * 2, scores * 2, labels * 2)):
        assert np.isinf(differences(wrong, right, images, postprocess)).any()


def test_a_check_needs_a_photo(tmp_path):
    (tmp_path / "cut.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()[:40])
    (tmp_path / "clip.mp4").write_bytes(b"no photo")
    for source in (tmp_path, tmp_path / "cut.png", tmp_path / "clip.mp4"):
        with pytest.raises(UserError, match=f"^--source {source}: expected photos to check .*, none can be read$"):
            list(photos(str(source), (32, 32)))
    (tmp_path / "whole.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    assert [image.shape for image in photos(str(tmp_path), (32, 32))] == [(32, 32, 3)]


def test_a_correct_network_with_strong_heads_passes(tmp_path, capsys):
    """Its scores differ by more than the plain tolerance from one float32 arithmetic to another."""
    path = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, ("cat", "dog"), (96, 96)
    )
    contents = load_checkpoint(path)
    for name, value in contents["model"].items():
        if name.startswith("head"):
            value.mul_(10_000)
    save_checkpoint(path, {key: value for key, value in contents.items() if key not in ("format", "version")})
    export(weights=str(path), format=["onnx", "torchscript"])
    said = [line for line in capsys.readouterr().out.splitlines() if "checked: " in line]
    scores = [float(line.partition("up to ")[2].partition(",")[0]) for line in said]
    assert max(scores) > TOLERANCE[0]


def swapped(model):
    """A graph with NMS whose boxes are x2, y2, x1, y1."""
    (place,) = (place for place, node in enumerate(model.graph.node) if "boxes" in node.output)
    model.graph.node[place].output[0] = "boxes_as_they_were"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3, 0, 1]), "swapped"))
    model.graph.node.insert(place + 1, helper.make_node("Gather", ["boxes_as_they_were", "swapped"], ["boxes"], axis=2))
    onnx.checker.check_model(model)
    return model


def test_a_file_with_nms_is_compared_also_where_nothing_scores_its_confidence(tmp_path, capsys, monkeypatch):
    """No score is above 1: its NMS is looked at with a lower confidence, and a wrong one is found."""
    from engine.export.graph import onnx_graph

    path = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, ("cat", "dog"), (96, 96)
    )
    flags = {"weights": str(path), "layout": "nms", "conf": 1.0}
    export(**flags)
    said = capsys.readouterr().out
    assert "checked: 4 photos" in said
    assert "(no score above --conf 1: compared above " in said
    (tmp_path / "best.onnx").unlink()
    append_nms = onnx_graph.append_nms
    monkeypatch.setattr(onnx_graph, "append_nms", lambda *given: swapped(append_nms(*given)))
    with pytest.raises(ExportMismatch, match="best.onnx: 4 photos, .* allowed for float32"):
        export(**flags)
    assert [each.name for each in tmp_path.iterdir()] == ["best.pt"]


@pytest.fixture
def checked(monkeypatch):
    """Checks a file that finds `found`, each boxes and scores of an image, beside a network that finds `expected`."""

    def outcome(expected, found, proposes=False):
        boxes, scores = (torch.tensor(each)[None] for each in expected)
        reference = replace(
            backend([], []), run=lambda images: (list(boxes), list(scores)) if proposes else (boxes, scores)
        )
        monkeypatch.setattr(checking, "torch_backend", lambda *given: reference)
        monkeypatch.setattr(checking, "for_detection", lambda network: network)
        detector = SimpleNamespace(network=None, with_network=lambda network: None)
        job = SimpleNamespace(detector=detector, config=None, settings=ExportConfig(), size=(96, 96))
        exported = replace(backend(*([each] for each in found)), batch=1, dynamic=False)
        return check(exported, Path("best.onnx"), job, [np.zeros((96, 96, 3), np.uint8)], nullcontext)

    return outcome


@pytest.mark.parametrize(("proposes", "usual"), [(False, "0.05"), (True, "0.25")])
def test_boxes_are_compared_also_where_no_score_counts(checked, proposes, usual):
    boxes, scores = [[10.0, 10.0, 30.0, 40.0], [50.0, 50.0, 80.0, 60.0]], [[0.04], [0.01]]
    said = checked((boxes, scores), (boxes, scores), proposes)
    assert said.startswith("checked: 1 photos, scores differ by up to 0.0e+00")
    assert f"(no score above {usual}: compared above " in said
    with pytest.raises(ExportMismatch, match="best.onnx: 1 photos"):
        checked((boxes, scores), ([[30.0, 40.0, 10.0, 10.0], boxes[1]], scores), proposes)


@pytest.mark.parametrize("proposes", [False, True])
def test_what_has_no_score_at_all_is_not_called_checked(checked, proposes):
    boxes, scores = [[10.0, 10.0, 30.0, 40.0]], [[0.0]]
    said = checked((boxes, scores), (boxes, scores), proposes)
    assert said.startswith("not compared: nothing on 1 photos scores more than 0.")
    assert said.endswith("name others by --source")
    with pytest.raises(ExportMismatch):
        checked((boxes, scores), (boxes, [[0.9]]), proposes)


def test_a_large_folder_is_checked_with_some_of_it(tmp_path, monkeypatch, capsys):
    """From all over it; one that cannot be read has another in its place."""
    monkeypatch.setattr(checking, "MOST_PHOTOS", 3)
    for number in range(7):
        picture = cv2.imencode(".png", np.full((32, 32, 3), number, np.uint8))[1].tobytes()
        (tmp_path / f"{number}.png").write_bytes(picture)
    assert [int(image[0, 0, 0]) for image in photos(str(tmp_path), (32, 32))] == [0, 3, 6]
    assert f"--source {tmp_path}: checked with 3 photos of 7, evenly spaced" in capsys.readouterr().out
    (tmp_path / "3.png").write_bytes(b"")
    assert [int(image[0, 0, 0]) for image in photos(str(tmp_path), (32, 32))] == [0, 6, 1]
    for number in range(3, 7):
        (tmp_path / f"{number}.png").unlink()
    capsys.readouterr()
    assert [int(image[0, 0, 0]) for image in photos(str(tmp_path), (32, 32))] == [0, 1, 2]
    assert capsys.readouterr().out == ""
