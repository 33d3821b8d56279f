"""Drawn videos: whole as soon as the next one begins, and none that cannot be played."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from engine.predict.output import Output
from engine.predict.videos import Video, frames_of
from utils.config.knobs import DetectConfig
from utils.ultralytics_only import result

SIZE = (64, 48)


def frame(number, size=SIZE):
    return np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)


@contextmanager
def full_disk(limit):
    """Let no file grow beyond `limit` bytes, which looks to a program as a full disk does."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def output(tmp_path):
    return Output(tmp_path, DetectConfig(), ("a",), "float32")


def add(output, path, number):
    image = frame(number)
    none = result(image, path, {0: "a"}, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
    output.add(path, number, image, none, 25.0)


def test_a_video_can_be_played_as_soon_as_the_next_one_begins(output, tmp_path):
    for name in ("one.mp4", "two.mp4"):
        for number in (1, 2, 3):
            add(output, name, number)
    assert frames_of(tmp_path / "one.mp4") == 3
    output.close()
    assert frames_of(tmp_path / "two.mp4") == 3
    assert output.lost == []


def test_a_full_disk_leaves_no_video_that_cannot_be_played(tmp_path, capsys):
    video = Video(tmp_path / "a.mp4", SIZE, 25)
    with full_disk(20_000):
        for number in range(40):
            video.add(frame(number))
        assert not video.finish()
    assert not (tmp_path / "a.mp4").exists()
    said = capsys.readouterr().err
    assert f"{tmp_path / 'a.mp4'}: could not be written (is the disk full? It held 0 of 40 frames); removed" in said


def test_a_stream_that_comes_back_in_another_size_keeps_its_frames(tmp_path):
    video = Video(tmp_path / "a.mp4", SIZE, 25)
    for number, size in enumerate((SIZE, (32, 24), (128, 96), SIZE)):
        video.add(frame(number, size))
    assert video.finish()
    assert frames_of(tmp_path / "a.mp4") == 4


def test_what_cannot_be_opened_is_said_once(tmp_path, capfd):
    video = Video(tmp_path / "nowhere" / "a.mp4", SIZE, 25)
    video.add(frame(0))
    assert video.finish()
    assert "a.mp4: cannot be written (64x48 at 25 frames a second); left out" in capfd.readouterr().err
