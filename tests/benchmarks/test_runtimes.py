"""The benchmark of runtimes on a tiny network: a row for each format and precision, or why there is none."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import runtimes
from benchmarks.measuring.exported import PEER_RUNS
from data.shapes.demo_set import make_shapes
from tests.lively import lively_checkpoint
from utils.config.export_formats import EXPORT_FORMATS
from utils.device import cpu_has_bf16
from utils.errors import UserError

SIZE = 96
NAMES = ("disc", "ring", "square", "triangle", "cross", "bar")
QUICK = ["--imgsz", str(SIZE), "--turns", "2", "--each", "1"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the benchmark in this process, which keeps its cores; what it has written."""
    monkeypatch.setattr(runtimes, "is_alone", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    channels = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    weights = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", channels, NAMES, (SIZE, SIZE))

    def measure(*arguments):
        given = ["runtimes", "--weights", str(weights), *QUICK, "--out", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", given)
        assert runtimes.main() == 0
        return json.loads((tmp_path / "out" / "runtimes.json").read_text())

    return measure


def test_data_of_other_classes_is_refused_before_anything_is_written(run, tmp_path, capsys):
    data = make_shapes(tmp_path / "shapes", seed=3, train=3, val=2, size=SIZE)
    data.write_text(data.read_text().replace("ring", "wheel"))
    with pytest.raises(UserError, match=r"has the classes disc, wheel, .*best\.pt was trained on disc, ring, "):
        run("--data", str(data))
    assert not capsys.readouterr().out


def test_every_format_and_precision_has_a_row_or_a_reason(run, tmp_path, capsys):
    data = make_shapes(tmp_path / "shapes", seed=3, train=3, val=2, size=SIZE)
    document = run("--data", str(data))
    found = {(row["format"], row["precision"]): row for row in document["rows"]}
    graphs = {name: facts for name, facts in EXPORT_FORMATS.items() if facts.graph}
    wanted = {(name, precision) for name, facts in graphs.items() for precision in {*facts.precisions} - {"auto"}}
    wanted |= {(name, "half") for name, facts in graphs.items() if facts.half}
    wanted |= {(name, "int8") for name, facts in graphs.items() if facts.int8 is not None}
    assert set(found) == wanted | {("pytorch", "float32"), ("pytorch", "bf16")}
    shown = capsys.readouterr().out
    for row in document["rows"]:
        assert row["format"] in shown
        if "note" in row:
            assert "CPU ms" not in row
            continue
        assert 0 < row["lowest"] <= row["CPU ms"] <= row["highest"]
        assert row["MiB"] > 0
        assert 0 <= row["AP"] <= 1
    # What the project itself needs is always there; what is not says what to install, or why it cannot be had.
    assert {"CPU ms", "AP"} <= found["pytorch", "float32"].keys() & found["torchscript", "float32"].keys()
    for (name, precision), row in found.items():
        absent = [part for part in (graphs[name].opens if name in graphs else ()) if not there(part)]
        assert not absent or "pip install" in row["note"], (name, precision)
    assert (document["data"], document["split"], document["threads"]) == ("shapes/shapes.yaml", "val", 1)
    assert {"cpu", "features", "date", "packages", "load"} <= document["machine"].keys()


def there(module):
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def test_without_photos_there_is_no_int8(run):
    rows = {row["precision"]: row for row in run("--formats", "onnx")["rows"]}
    assert set(rows) == {"float32", "half", "int8"}
    if "CPU ms" in rows["float32"]:
        assert rows["int8"]["note"] == "needs photos to calibrate with: --data"
        assert rows["half"]["MiB"] < rows["float32"]["MiB"]
        assert "AP" not in rows["float32"]


def test_bf16_is_measured_where_the_cpu_has_it(run, monkeypatch):
    found = {row["precision"]: row for row in run("--formats", "pytorch")["rows"]}
    assert ("CPU ms" in found["bf16"]) == cpu_has_bf16()
    monkeypatch.setattr(runtimes, "cpu_has_bf16", lambda: False)
    (_, row) = run("--formats", "pytorch")["rows"]
    assert row["note"] == "this CPU does not multiply bfloat16"


def test_a_stand_in_for_a_runtime_is_not_timed(run, monkeypatch):
    monkeypatch.setattr(runtimes, "ONLY_ON", {"pytorch": "Nowhere"})
    row = run("--formats", "pytorch")["rows"][0]
    assert row["note"].startswith("its runtime is there on Nowhere alone")
    assert row["MiB"] > 0
    assert "CPU ms" not in row


def test_mistakes_are_one_line_before_anything_is_measured(run):
    with pytest.raises(UserError, match="--formats tflite: expected some of pytorch, onnx, "):
        run("--formats", "tflite")
    with pytest.raises(UserError):
        run("--formats", "pytorch", "--data", "nowhere.yaml")
    with pytest.raises(UserError, match="--imgsz 100 100: expected multiples of 32"):
        run("--formats", "pytorch", "--imgsz", "100")


def test_it_starts_itself_on_one_core_and_in_one_thread(monkeypatch):
    cores, started = [{0, 1, 5}], []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores[-1], raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, wanted: cores.append(wanted), raising=False)

    def run(command, env, check):
        started.append((command[-1], {name: env[name] for name in runtimes.ONE_THREAD}))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(runtimes.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["runtimes", "--peer"])
    assert not runtimes.is_alone()
    assert runtimes.main() == 3
    assert cores[-1] == {5}
    assert started == [("--peer", runtimes.ONE_THREAD)]
    for name, value in runtimes.ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    assert runtimes.is_alone()


@pytest.mark.slow
def test_the_peers_files_are_further_sides(run):
    for module in ("onnxruntime", "openvino"):
        pytest.importorskip(module)
    rows = run("--formats", "onnx", "torchscript", "openvino", "--peer")["rows"]
    theirs = {(row["format"], row["precision"]): row for row in rows if "ours / this" in row}
    wanted = {(fmt, precision) for fmt, precision in PEER_RUNS if precision == "float32" or cpu_has_bf16()}
    assert set(theirs) == {(f"{fmt} of ultralytics", precision) for fmt, precision in wanted}
    ours = {(row["format"], row["precision"]): row["CPU ms"] for row in rows if "CPU ms" in row}
    for (name, precision), row in theirs.items():
        assert row["ours / this"] == pytest.approx(ours[name.split()[0], precision] / row["CPU ms"], abs=0.01)
