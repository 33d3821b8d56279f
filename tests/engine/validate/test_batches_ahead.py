"""Batches are the loader's own, in order and with their detections, whatever happens in which thread."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import engine.validate.batches_ahead as ahead
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


@pytest.fixture(params=["two under way", "decoded ahead"])
def in_torch(request, monkeypatch):
    """Whether torch computes, on two cores with memory enough and two threads."""
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    monkeypatch.setattr(ahead, "available_memory", lambda: 1 << 60)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield request.param == "two under way"
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("decodes ahead", "detects"))]


def looked_at(numbers, in_torch, detect=lambda batch: batch * 10, **loader):
    """Every batch with what is made of it, until something goes wrong."""
    return ahead.detected(detect, DataLoader(numbers, batch_size=None, **loader), CPU, in_torch)


def test_batches_come_in_order_and_few_are_made_ahead(in_torch):
    numbers, seen = Numbers(9), []
    # One in the hands of each of two threads beside the one that is asked for.
    ahead_of = 3 if in_torch else 1
    with looked_at(numbers, in_torch) as found:
        for batch, made in found:
            seen.append((batch, made))
            assert len(numbers.asked) <= batch + 1 + ahead_of
    assert seen == [(number, 10 * number) for number in range(9)]
    assert sorted(numbers.asked) == list(range(9))
    assert numbers.threads - {threading.current_thread()}
    assert not helpers()


def test_the_next_batch_is_made_while_one_is_used(in_torch):
    numbers = Numbers(5)
    with looked_at(numbers, in_torch) as found:
        for batch, _ in found:
            # The first shows alone what a batch takes.
            if batch < 4 and not (in_torch and batch == 0):
                numbers.wait_for(batch + 1)


def test_two_batches_are_looked_at_at_a_time_each_on_its_share_of_the_threads(in_torch):
    """Those after the first wait for each other, which one thread alone could not do."""
    meeting, threads = threading.Barrier(2), set()

    def detect(batch):
        if batch and in_torch:
            meeting.wait(PATIENCE_S)
        threads.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return batch

    with torch.inference_mode(), looked_at(Numbers(5), in_torch, detect) as found:
        assert [each for _, each in found] == [0, 1, 2, 3, 4]
    assert threads == ({(True, 2), (False, 1)} if in_torch else {(True, 2)})


def test_slow_batches_keep_their_place(in_torch):
    """Each odd batch takes until the one after it is done."""
    done = [threading.Event() for _ in range(8)]

    def detect(batch):
        if in_torch and batch % 2 and batch < 7:
            done[batch + 1].wait(PATIENCE_S)
        done[batch].set()
        return torch.is_inference_mode_enabled()

    with torch.inference_mode(), looked_at(Numbers(8), in_torch, detect) as found:
        assert list(found) == [(number, True) for number in range(8)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_thread_on_one_core(workers, in_torch, monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: 1)
    with looked_at(Numbers(3), in_torch, num_workers=workers) as found:
        assert next(found) == (0, 0)
        assert next(found) == (1, 10)
        assert not helpers()


def test_beside_loading_processes_torch_computes_on_as_many_threads_as_without(in_torch):
    """So that results are rounded alike; nobody else needs a thread there."""
    threads = {0: [], 2: []}
    for workers, seen in threads.items():

        def detect(batch, seen=seen, workers=workers):
            seen.append((batch, torch.get_num_threads()))
            assert in_torch or not workers or not helpers()
            return batch * 10

        with looked_at(Numbers(6), in_torch, detect, num_workers=workers) as found:
            assert list(found) == [(number, 10 * number) for number in range(6)]
        assert not helpers()
    assert sorted(threads[0]) == sorted(threads[2])
    assert {count for batch, count in threads[2] if batch} == {1 if in_torch else 2}


def test_one_at_a_time_has_no_more_threads_so_that_results_are_the_same(in_torch, monkeypatch):
    under_way, most, threads = [], [], set()
    monkeypatch.setattr(ahead, "available_memory", lambda: 0)

    def detect(batch):
        under_way.append(batch)
        most.append(len(under_way))
        threads.add((batch > 0, torch.get_num_threads()))
        under_way.remove(batch)

    loader = DataLoader(Numbers(6), batch_size=None)
    with ahead.detected(detect, loader, CPU, True) as found:
        assert [batch for batch, _ in found] == list(range(6))
    assert max(most) == 1
    assert threads == {(False, 2), (True, 1)}


@pytest.mark.parametrize("where", ["loading", "detecting"])
def test_what_goes_wrong_in_a_thread_is_raised_where_its_batch_is_wanted(where, in_torch):
    def detect(batch):
        if where == "detecting" and batch == 2:
            raise UserError("photo 2.jpg: gone")

    seen = []
    with (
        pytest.raises(UserError, match=r"^photo 2\.jpg: gone$"),
        looked_at(Numbers(5, broken=2 if where == "loading" else None), in_torch, detect) as found,
    ):
        for batch, _ in found:
            seen.append(batch)
    assert seen == [0, 1]
    assert not helpers()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_threads_end_when_the_main_one_is_stopped(error, in_torch):
    numbers = Numbers(100)
    with pytest.raises(error), looked_at(numbers, in_torch) as found:
        for batch, _ in found:
            if batch == 3:
                raise error
    assert not helpers()
    assert len(numbers.asked) <= 8


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_batches(count, in_torch):
    with looked_at(Numbers(count), in_torch) as found:
        assert [batch for batch, _ in found] == list(range(count))


class Echo(torch.nn.Module):
    """A stand-in for a detector: boxes and scores that hang on every pixel of the photo."""

    def forward(self, images):
        means = images.double().mean((1, 2, 3)).tolist()
        box = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
        return [{"boxes": box + m, "scores": torch.tensor([m]), "labels": torch.tensor([0])} for m in means]


def test_the_detections_are_the_same_to_the_bit(in_torch, tmp_path, monkeypatch):
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
