"""What the benchmarks share: turns, copies of photos, and the memory and time of a process tree."""

import importlib
import json
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.measuring.photos import copy_photos, write_data_yaml
from benchmarks.measuring.side_by_side import conclude, in_turns, spread
from benchmarks.measuring.watch import run_watched, tree, tree_memory, tree_seconds
from data.data_yaml import read_data_yaml
from data.shapes.demo_set import make_shapes
from data.split import load_split
from tests.paths import ROOT
from utils.errors import UserError


def test_sides_alternate_and_rows_are_printed_and_written(tmp_path, capsys):
    order = []
    found = in_turns({"a": lambda: order.append("a") or [1.0], "b": lambda: order.append("b") or [2.0, 3.0]}, 2)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 1.0], "b": [2.0, 3.0, 2.0, 3.0]}
    assert spread(found["b"]) == {"median": 2.5, "lowest": 2.0, "highest": 3.0, "count": 4}
    conclude("sample", [{"side": "a", "img/s": 1.23456}, {"side": "b", "more": 7}], str(tmp_path))
    assert "1.235" in capsys.readouterr().out
    document = json.loads((tmp_path / "sample.json").read_text())
    assert document["rows"] == [{"side": "a", "img/s": 1.23456}, {"side": "b", "more": 7}]
    assert {"cpu", "cores", "packages", "date"} <= set(document["machine"])


@pytest.mark.parametrize(
    ("module", "given"),
    [
        ("startup", ["--turns", "0"]),
        ("training", ["--epochs", "0"]),
        ("time_to_accuracy", ["--batch", "-1"]),
        ("data_pipeline", ["--batches", "0"]),
        ("validation", ["--photos", "0"]),
        ("loss", ["--repeats", "0"]),
        ("runtimes", ["--each", "0"]),
        ("gpu", ["--photos", "many"]),
        ("inference", ["--turns", "0"]),
        ("evaluation", ["0"]),
        ("doctor", ["0"]),
    ],
)
def test_a_count_that_is_none_is_told_before_anything_else(module, given, monkeypatch):
    main = importlib.import_module(f"benchmarks.{module}").main
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(UserError, match=f"'{given[-1]}': expected a whole number from 1 on"):
        main()


def test_a_wrong_flag_of_a_benchmark_is_one_line():
    command = [sys.executable, "-m", "benchmarks.inference", "--turns", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: argument --turns: '0': expected a whole number from 1 on (--help lists all flags)"
    ]


def test_copied_photos_repeat_with_their_labels(tmp_path):
    spec = read_data_yaml(str(make_shapes(tmp_path / "shapes", train=3, val=2, size=96)), tmp_path)
    index = load_split(spec, "train", tmp_path / "cache")
    for split in ("train", "val"):
        copy_photos(index, tmp_path / "copy", split, 7)
    copied = load_split(read_data_yaml(str(write_data_yaml(tmp_path / "copy", 6)), tmp_path), "val", tmp_path / "cache")
    assert len(copied) == 7
    for number in range(7):
        for part, original in zip(copied.of(number), index.of(number % 3), strict=True):
            np.testing.assert_allclose(part, original, atol=1e-3)


def test_a_command_is_watched_and_its_failure_is_told():
    assert run_watched("this", "--help").output.startswith("The Zen of Python")
    with pytest.raises(UserError, match="No module named no_such_module"):
        run_watched("no_such_module")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_time_are_those_of_this_process():
    before = tree_memory(os.getpid())
    # Pages straight from the system: what malloc gives may have been this process's before.
    block = np.frombuffer(mmap.mmap(-1, 2**26), np.uint8)
    block.fill(1)
    assert before + 2**25 < tree_memory(os.getpid()) < 2**40
    assert 0 < tree_seconds(os.getpid()) < 2 * sum(os.times()[:4]) + 1
    assert os.getpid() in tree(os.getppid())
    assert block.any()
