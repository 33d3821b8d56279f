"""The sides of the data pipeline's benchmark."""

import importlib.util
import sys

import pytest

from benchmarks import data_pipeline
from utils.errors import UserError


def test_a_peer_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data_pipeline", "--yolov5"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--yolov5: no such package"):
        data_pipeline.main()


def test_the_peers_get_our_augmentation():
    shared = data_pipeline.same_augmentation()
    assert (shared["translate"], shared["scale"], shared["hsv_s"]) == (0.1, 0.5, 0.7)
    assert (shared["fliplr"], shared["mosaic"], shared["mixup"]) == (0.5, 1.0, 0.0)
