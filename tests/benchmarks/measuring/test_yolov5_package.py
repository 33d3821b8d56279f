"""The peer that is there only where somebody has installed it."""

import importlib.util
import sys

import pytest

from benchmarks import data_pipeline, loss
from utils.errors import UserError


@pytest.mark.parametrize("benchmark", [data_pipeline, loss])
def test_a_peer_that_is_not_installed_is_one_line(benchmark, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--yolov5"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--yolov5: no such package"):
        benchmark.main()
