"""The numbers of many runs as one CSV."""

import csv
import json
from pathlib import Path

import pytest

from studies.scores import parse_flags, write_scores
from tests.paths import ROOT
from utils.errors import UserError


def scores(tmp_path, *folders):
    """The rows that are written of some folders."""
    into = tmp_path / "made" / "scores.csv"
    write_scores(parse_flags(["--runs", *map(str, folders), "--into", str(into)]))
    with into.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path, text="", **values):
    """A file of metrics, as val.py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(text or json.dumps(values))


def test_every_metrics_file_is_a_row(tmp_path):
    metrics(tmp_path / "a" / "seed1", ap=0.5, ap_large=None, counts={"images": 3}, protocol="split val")
    metrics(tmp_path / "a" / "seed0" / "test", ap=0.25, ap90=0.125, protocol="split test, NMS .6")
    metrics(tmp_path / "b", ap=1)
    rows = scores(tmp_path, tmp_path / "a", tmp_path / "b")
    assert [row["folder"] for row in rows] == [
        f"{tmp_path.as_posix()}/{name}" for name in ("a/seed0/test", "a/seed1", "b")
    ]
    assert [row["folder"] for row in scores(tmp_path, tmp_path / "a")] == ["seed0/test", "seed1"]
    assert [row["folder"] for row in scores(tmp_path, tmp_path / "b")] == ["."]
    assert [row["protocol"] for row in rows] == ["split test, NMS .6", "split val", ""]
    assert [(row["ap"], row["ap90"]) for row in rows] == [("0.25", "0.125"), ("0.5", ""), ("1.0", "")]
    assert "counts" not in rows[0]


def test_the_kept_runs_are_scored_at_both_nms_thresholds():
    with (ROOT / "results" / "bccd" / "runs.csv").open(newline="") as file:
        found = {(row["variant"], row["seed"], row["scored"]): row for row in csv.DictReader(file)}
    runs = [key for key, row in found.items() if key[2] == "test" and row["state"] == "done"]
    assert len(runs) >= 22
    for variant, seed, _ in runs:
        assert "NMS IoU 0.65" in found[variant, seed, "test"]["protocol"]
        assert "NMS IoU 0.6 " in found[variant, seed, "test06"]["protocol"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_what_is_no_metrics_file_is_named(tmp_path, text):
    if text:
        metrics(tmp_path / "run", text)
    with pytest.raises(UserError, match="metrics" if text else "expected a folder with metrics.json"):
        scores(tmp_path, tmp_path / "run")
    assert not (tmp_path / "made").exists()
