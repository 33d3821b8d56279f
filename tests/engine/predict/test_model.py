"""A loaded model in Python code: arrays, nothing at all, and many threads."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_gives_nothing(files, name):
    model = load(files[name])
    assert model([]) == []
    (found,) = model(np.zeros((0, 7, 3), np.uint8))
    assert (len(found), found.boxes.data.shape, found.orig_shape) == (0, (0, 6), (0, 7))
    assert model.best == (0.0, "")


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
