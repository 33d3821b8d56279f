"""Batches decoded ahead are the loader's own, one ahead and no more, whatever happens to either side."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import engine.validate.decode_ahead as ahead
from data.dataset import DetectionDataset
from data.labels.index import load_labels
from data.loader import build_loader
from engine.validate.collect import collect
from utils.drawing.draw import write_image
from utils.errors import UserError

CPU = torch.device("cpu")
PATIENCE_S = 30


class Numbers:
    """A stand-in for a data set: numbers, with a note of which were asked for and in which thread."""

    def __init__(self, count, broken=None):
        self.count, self.broken, self.asked, self.threads = count, broken, [], set()
        self.news = threading.Condition()

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        with self.news:
            self.asked.append(number)
            self.threads.add(threading.current_thread())
            self.news.notify_all()
        if number == self.broken:
            raise UserError(f"photo {number}.jpg: gone")
        return number

    def wait_for(self, number):
        with self.news:
            assert self.news.wait_for(lambda: number in self.asked, PATIENCE_S)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decodes ahead")]


def test_the_next_batch_is_made_while_one_is_used_and_no_other(two_cores):
    numbers = Numbers(5)
    seen = []
    with ahead.decoded_ahead(DataLoader(numbers, batch_size=None), CPU) as batches:
        for batch in batches:
            seen.append(batch)
            if batch < 4:
                numbers.wait_for(batch + 1)
            assert numbers.asked == list(range(min(batch + 2, 5)))
    assert seen == [0, 1, 2, 3, 4]
    assert threading.current_thread() not in numbers.threads
    assert not decoders()


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 2)])
def test_no_thread_on_one_core_nor_beside_loading_processes(cores, workers, monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    with ahead.decoded_ahead(DataLoader(Numbers(3), batch_size=None, num_workers=workers), CPU) as batches:
        assert next(batches) == 0
        assert not decoders()


def test_what_goes_wrong_in_the_thread_is_raised_where_its_batch_is_wanted(two_cores):
    seen = []
    with (
        pytest.raises(UserError, match=r"^photo 2\.jpg: gone$"),
        ahead.decoded_ahead(DataLoader(Numbers(5, broken=2), batch_size=None), CPU) as batches,
    ):
        for batch in batches:
            seen.append(batch)
    assert seen == [0, 1]
    assert not decoders()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_when_the_main_one_is_stopped(error, two_cores):
    numbers = Numbers(100)
    with pytest.raises(error), ahead.decoded_ahead(DataLoader(numbers, batch_size=None), CPU) as batches:
        for batch in batches:
            if batch == 3:
                raise error
    assert not decoders()
    assert len(numbers.asked) <= 5


class Echo(torch.nn.Module):
    """A stand-in for a detector: boxes and scores that hang on every pixel of the photo."""

    def forward(self, images):
        means = images.double().mean((1, 2, 3)).tolist()
        box = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
        return [{"boxes": box + m, "scores": torch.tensor([m]), "labels": torch.tensor([0])} for m in means]


def test_the_detections_are_the_same_to_the_bit(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    photos, labels = [], []
    for number in range(7):
        photo, label = tmp_path / f"{number}.png", tmp_path / f"{number}.txt"
        write_image(photo, rng.integers(0, 256, (60, 80 + number, 3), np.uint8))
        label.write_text("0 .5 .5 .4 .4\n")
        photos.append(photo)
        labels.append(label)
    index = load_labels(photos, labels, 1, tmp_path / "cache")
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(ahead, "usable_cores", lambda cores=cores: cores)
        loader = build_loader(DetectionDataset(index, (64, 64)), 2, 0, shuffle=False, seed=0)
        for _ in range(2):  # an epoch's validation comes again
            seen = []
            collect(Echo(), loader, index, ("thing",), CPU, lambda *each, seen=seen: seen.append(each))
            found.append(seen)
    first = found[0]
    for other in found[1:]:
        for (number, batch, detections), (number2, batch2, detections2) in zip(first, other, strict=True):
            assert number == number2
            assert torch.equal(batch.images, batch2.images)
            assert batch.index.tolist() == batch2.index.tolist()
            for one, two in zip(detections, detections2, strict=True):
                assert all(torch.equal(one[key], two[key]) for key in one)
