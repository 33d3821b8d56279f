"""A loaded model in Python code: arrays, nothing at all, and many threads."""

import gc
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detect import load
from export import export
from tests.lively import lively_checkpoint
from utils.errors import UserError

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read where Linux tells it")
FORMATS = ("pt", "onnx", "torchscript", "openvino")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model that sees things everywhere, and its exports."""
    path = tmp_path_factory.mktemp("models") / "best.pt"
    lively_checkpoint(path, "yolov3-tiny", {"channels": [4, 4, 8, 8, 8, 8, 8]}, ("a", "b"), (32, 32))
    made = export(weights=str(path), format=[name for name in FORMATS if name != "pt"])
    return {"pt": path, **dict(zip(FORMATS[1:], made, strict=True))}


def photos(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 30, 3), np.uint8))


def test_floats_and_bytes_of_a_photo_give_the_same_boxes(files):
    model, (photo,) = load(files["pt"], conf=0.01), photos(1)
    (expected,) = model(photo)
    assert len(expected)
    for same in (photo / 255, photo.astype(np.uint16) * 257, np.dstack([photo, photo[..., 0]])):
        assert torch.equal(model(same)[0].boxes.data, expected.boxes.data)
    with pytest.raises(UserError, match="expected RGB"):
        model(photo.astype(np.float32))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_a_picture_of_pillow_is_a_photo(mode, files):
    """A model takes what `as_photo` takes, and no picture for a path: Pillow 13 has no `__array__`."""
    model, (photo,) = load(files["pt"], conf=0.01), photos(1)
    deep = photo[..., 0].astype(np.uint16) * 257
    picture = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(photo).convert(mode)
    assert picture.mode == mode
    same = deep if mode == "I;16" else np.asarray(picture.convert("RGB"))
    (found,), (expected,) = model(picture), model(same)
    assert len(expected)
    assert torch.equal(found.boxes.data, expected.boxes.data)


@pytest.mark.parametrize("given", [None, 5, b"abc", {"a": 1}, [[1, 2]]], ids=str)
def test_what_is_neither_a_path_nor_an_array_says_what_was_expected(given, files):
    with pytest.raises(UserError, match=r"an image of type \w+: expected a path or an array: expected RGB"):
        load(files["pt"])(given)


def test_a_picture_that_is_cut_off_is_one_line(files, tmp_path):
    Image.fromarray(photos(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:1000])
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(UserError, match="no array in memory"):
        load(files["pt"])(picture)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_gives_nothing(files, name):
    model = load(files[name])
    assert model([]) == []
    (found,) = model(np.zeros((0, 7, 3), np.uint8))
    assert (len(found), found.boxes.data.shape, found.orig_shape) == (0, (0, 6), (0, 7))
    assert model.best == (0.0, "")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A model that finds more in a photo, and a file of it that does its own NMS."""
    path = tmp_path_factory.mktemp("crowded") / "best.pt"
    lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, ("a", "b"), (64, 96))
    return path, export(weights=str(path), layout="nms", conf=0.3, nms_iou=0.5, max_det=40)[0]


@pytest.fixture
def with_nms(crowded):
    return crowded[1]


def test_a_file_with_nms_follows_the_limits_that_it_can(with_nms):
    (photo,) = photos(1)
    scores = load(with_nms, conf=0.3)(photo)[0].boxes.conf
    assert len(scores) > 5
    assert torch.equal(load(with_nms, max_det=3)(photo)[0].boxes.conf, scores[:3])
    higher = float(scores[2])
    assert torch.equal(load(with_nms, conf=higher)(photo)[0].boxes.conf, scores[scores > higher])
    assert torch.equal(load(with_nms)(photo, conf=higher)[0].boxes.conf, scores[scores > higher])
    assert load(with_nms).postprocess.confidence == 0.3  # as detect.py prints it


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"conf": 0.1}, r"--conf 0\.1: .*best\.onnx does its own NMS at 0\.3"),
        ({"nms_iou": 0.6}, r"--nms-iou 0\.6: .*best\.onnx does its own NMS at 0\.5"),
        ({"max_det": 50}, r"--max-det 50: .*best\.onnx does its own NMS at 40"),
    ],
)
def test_a_file_with_nms_refuses_what_it_cannot(settings, told, with_nms):
    with pytest.raises(UserError, match=told):
        load(with_nms, **settings)
    if "conf" in settings:
        with pytest.raises(UserError, match=told):
            load(with_nms)(photos(1)[0], **settings)


@pytest.mark.parametrize("name", ["pt", "nms"])
def test_the_limit_counts_only_the_classes_that_were_asked_for(name, crowded):
    (photo,) = photos(1)
    file, settings = crowded[name == "nms"], {"conf": 0.3, "precision": "float32"}
    (every,) = load(file, **settings)(photo)
    for label in every.boxes.cls.int().unique().tolist():
        expected = every.boxes.conf[every.boxes.cls == label]
        model = load(file, max_det=2, **settings)
        found = model.detect(photo, "", wanted=[label]).boxes
        assert torch.equal(found.conf, expected[:2])
        assert set(found.cls.tolist()) == {label}
        assert model.best == (float(expected[0]), model.names[label])


def test_the_best_of_a_class_is_one_that_could_be_reported(files):
    """A box is reported for its best class alone: its second best is no score that a lower --conf would show."""
    model = load(files["pt"], precision="float32")
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.2]])
    run = lambda images: (torch.tensor([[[0.0, 0, 9, 9], [20, 20, 29, 29]]]), scores[None])  # noqa: E731
    model = replace(model, backend=replace(model.backend, run=run))
    assert len(model.detect(photos(1)[0], "", wanted=[1])) == 0
    assert model.best == (pytest.approx(0.2), "b")


class Watched(dict):
    """Notes who changes the environment, also to what it was."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.changes = []

    def __setitem__(self, key, value):
        self.changes.append(key)
        super().__setitem__(key, value)

    def __delitem__(self, key):
        self.changes.append(key)
        super().__delitem__(key)


def test_a_call_leaves_the_process_alone(files, monkeypatch):
    """Its environment, torch's print options and torch's random numbers."""
    model = load(files["pt"], conf=0.01)
    watched = Watched(os.environ._data)
    monkeypatch.setattr(os.environ, "_data", watched)
    generator = torch.get_rng_state()
    torch.set_printoptions(precision=8)
    try:
        model(photos(1)[0])
        assert torch._tensor_str.PRINT_OPTS.precision == 8
    finally:
        torch.set_printoptions(profile="default")
    assert torch.equal(generator, torch.get_rng_state())
    assert watched.changes == []


def called_in_threads(model, calls, threads=8):
    """Every thread calls one model with photos in another order; errors and differing results, and the growth."""
    images = photos(5)
    expected = [model(image)[0].boxes.data.clone() for image in images]
    best, wrong = [], []
    for image in images:
        model(image)
        best.append(model.best)

    def work(first):
        for number in range(calls):
            row = (first + number) % len(images)
            try:
                (found,) = model(images[row])
                if not torch.equal(found.boxes.data, expected[row]) or model.best != best[row]:
                    wrong.append(row)
            except Exception as error:
                wrong.append(repr(error))
                return

    def together():
        started = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
        for each in started:
            each.start()
        for each in started:
            each.join()
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = together()  # what threads need for themselves
    return wrong, together() - before


@pytest.mark.parametrize("name", FORMATS)
def test_one_model_serves_many_threads(files, name):
    wrong, _ = called_in_threads(load(files[name], conf=0.01), calls=10)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_eight_threads_with_a_thousand_calls_each_take_no_more_memory(files, name):
    wrong, growth = called_in_threads(load(files[name], conf=0.01), calls=1000)
    assert wrong == []
    assert growth < 32 * 2**20
