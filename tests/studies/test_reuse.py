"""Runs that another comparison has made are taken over, if they are the same runs."""

import csv
from pathlib import Path

import pytest
import yaml

from data.data_yaml import read_data_yaml
from data.split import fingerprint, load_split
from engine.settings.configure import open_data
from studies.combine import DIGEST
from studies.compare import compare, read_flags
from utils.errors import UserError
from utils.run_folder import read_csv

SHARED = "--imgsz 64 --batch-size 4 --epochs 1 --cache"
COLUMNS = ["variant", "seed", "scored", "state", "flags", "date", "protocol", "epochs", "ap", DIGEST]
NAMES = list("abcdef")
CIOU, SCA = "--set box_loss=ciou", "--set box_loss=sca --set sca_alpha=0.7"


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Reports without their picture."""
    monkeypatch.setattr("studies.comparison.report.draw_figures", lambda *_: None)


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Whatever is still missing is noted, and not trained."""
    missing: list[str] = []

    def noted(runs, lacking, _config):
        missing[:] = [f"{run.variant.name} {run.seed}" for run in runs if lacking(run)]

    monkeypatch.setattr("studies.compare.make_missing", noted)
    return missing


@pytest.fixture
def data(small_shapes):
    """A data set, and the sum of what is trained on."""
    index = load_split(read_data_yaml(str(small_shapes), small_shapes.parent), "train")
    return str(small_shapes), fingerprint(index)["sha256"]


def comparison(folder, runs, digest):
    """The tables of a comparison: its runs are flags by variant and seed, with AP, or the state of a run without it."""
    folder.mkdir()
    with (folder / "runs.csv").open("w", newline="") as table, (folder / "curves.csv").open("w", newline="") as curves:
        rows, epochs = csv.writer(table), csv.writer(curves)
        rows.writerow(COLUMNS)
        epochs.writerow(["variant", "seed", "epoch", "ap"])
        for (name, seed), (flags, ap) in runs.items():
            state = "done" if isinstance(ap, float) else ap
            for split, score in (("val", ap), ("train", ap / 2)) if state == "done" else (("val", ""),):
                about = [name, seed, split, state, f"{flags} --seed {seed}", "2026-01-01"]
                rows.writerow([*about, f"split {split} (4 images)", 1, score, digest])
                epochs.writerow([name, seed, 1, score])
    return str(folder)


def reuse(into, data, *folders, seeds="0", variants=None, more=""):
    """What the command writes into a folder: the rows of runs.csv that are done or diverged, and the report."""
    recipe = into.parent / "recipe.yaml"
    settings = variants or {"base": {"box_loss": "ciou", "assigner": "anchor_ratio"}, "mine": {"box_loss": "sca"}}
    recipe.write_text(yaml.safe_dump({"variants": settings}))
    given = [*["--imgsz", "64", "--batch-size", "4", "--epochs", "1", "--cache"], "--data", data, *more.split()]
    flags = ["--recipe", str(recipe), "--seeds", *seeds.split(), "--into", str(into), "--reuse", *folders, *given]
    config, shared, read = read_flags(flags)
    report = compare(config, shared, "the command", read).read_text()
    rows = [row for row in read_csv(into / "runs.csv") if row["state"] != "missing"]
    return {(row["variant"], row["seed"], row["scored"]): row for row in rows}, report


def test_a_run_of_the_same_settings_seed_and_data_is_taken_over(tmp_path, data, no_training):
    """Flags that are typed otherwise, defaults that are named, and a data set that lies elsewhere are the same."""
    name, digest = data
    theirs = {
        ("theirs", 0): (f"--batch 4 --epochs 1 --img 64 --cache ram --data elsewhere.yaml {CIOU} --no-plots", 0.4),
        ("theirs", 1): (f"{SHARED} --data {name} {CIOU}", 0.5),
        ("other", 0): (f"{SHARED} --data {name} {SCA} --set sca_alpha=0.3", 0.6),
    }
    folder = comparison(tmp_path / "theirs", theirs, digest)
    rows, report = reuse(tmp_path / "own", name, folder)
    assert rows.keys() == {("base", "0", "val"), ("base", "0", "train")}
    row = rows["base", "0", "train"]
    assert (row["ap"], row["date"], row[DIGEST]) == ("0.2", "2026-01-01", digest)
    assert row["flags"].startswith("--imgsz 64") and row["flags"].endswith(
        "--set assigner=anchor_ratio --set box_loss=ciou --seed 0"
    )
    assert [each["ap"] for each in read_csv(tmp_path / "own" / "curves.csv")] == ["0.4", "0.2"]
    assert no_training == ["mine 0"]
    assert (
        f"Taken over from other comparisons, which had made the same runs:\n\n- {tmp_path / 'theirs'}, theirs: 1"
        in report
    )
    assert "| base | 1 | 40.00 |" in report and "Missing: mine seed 0" in report


@pytest.mark.parametrize(
    "other",
    [
        "--set box_loss=iou",
        f"{CIOU} --epochs 2",
        f"{CIOU} --set assigner=ggiou",
        f"{CIOU} --cfg yolov3",
        f"{CIOU} --bad-labels drop",
        f"{CIOU} --cache device",
        # What a file says now need not be what it said then.
        f"{CIOU} --weights yolo.pt",
        f"{CIOU} --hyp FOLDER/hyp.yaml",
        # Flags of another version, and of what trains Ultralytics' detectors.
        f"{CIOU} --no-such-flag 1",
        "--model yolo26n.yaml",
    ],
)
def test_another_run_is_not(other, tmp_path, data):
    name, digest = data
    (tmp_path / "hyp.yaml").write_text("box_loss: ciou\n")
    flags = f"{SHARED} --data {name} {other}".replace("FOLDER", str(tmp_path))
    folder = comparison(tmp_path / "theirs", {("base", 0): (flags, 0.4)}, digest)
    with pytest.raises(UserError, match="no finished run with the settings, the seed and the training data"):
        reuse(tmp_path / "own", name, folder)
    assert not (tmp_path / "own" / "runs.csv").exists()


@pytest.mark.parametrize("digest", ["0" * 64, ""])
def test_a_run_of_other_data_is_not_nor_one_that_does_not_say(digest, tmp_path, data):
    folder = comparison(tmp_path / "theirs", {("base", 0): (f"{SHARED} --data {data[0]} {CIOU}", 0.4)}, digest)
    with pytest.raises(UserError, match="no finished run"):
        reuse(tmp_path / "own", data[0], folder)


def test_the_photos_that_a_seed_holds_out_are_not_those_of_another(tmp_path, data):
    """With --val the seed says which photos are trained on."""
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump({"path": str(Path(data[0]).parent), "train": "images/train", "names": NAMES}))
    flags = f"{SHARED} --data {alone} --val 0.5 {CIOU}"
    sums = [fingerprint(load_split(open_data(str(alone), tmp_path, 0.5, seed), "train"))["sha256"] for seed in (0, 1)]
    assert len(set(sums)) == 2
    folder = comparison(tmp_path / "theirs", {("a", 0): (flags, 0.1), ("a", 1): (flags, 0.2)}, sums[1])
    rows, _ = reuse(tmp_path / "own", str(alone), folder, seeds="0 1", more="--val 0.5")
    assert {key[:2] for key in rows} == {("base", "1")}


def test_what_is_not_finished_there_is_made_here(tmp_path, data, no_training):
    name, digest = data
    flags = f"{SHARED} --data {name}"
    theirs = {("a", 0): (f"{flags} {CIOU}", 0.4), ("b", 0): (f"{flags} {SCA}", "diverged")}
    folder = comparison(tmp_path / "theirs", {**theirs, ("a", 1): (f"{flags} {CIOU}", "missing")}, digest)
    variants = {"base": {"box_loss": "ciou"}, "mine": {"box_loss": "sca", "sca_alpha": 0.7}}
    rows, _ = reuse(tmp_path / "own", name, folder, seeds="0 1", variants=variants)
    assert rows.keys() == {("base", "0", "val"), ("base", "0", "train")}
    assert no_training == ["mine 0", "base 1", "mine 1"]
    # Scored on another split there: nothing of this comparison.
    table = tmp_path / "theirs" / "runs.csv"
    table.write_text(table.read_text().replace(",val,", ",test,"))
    with pytest.raises(UserError, match="no finished run"):
        reuse(tmp_path / "other", name, folder)


def test_a_run_that_is_there_or_begun_stays_and_the_first_folder_counts(tmp_path, data, no_training, capsys):
    name, digest = data
    flags = f"{SHARED} --data {name} {CIOU}"
    first = comparison(tmp_path / "first", {("a", 0): (flags, 0.1)}, digest)
    second = comparison(tmp_path / "second", {("b", 0): (flags, 0.2), ("b", 1): (flags, 0.3)}, digest)
    (tmp_path / "own" / "base" / "seed1" / "weights").mkdir(parents=True)
    rows, report = reuse(tmp_path / "own", name, first, second, seeds="0 1")
    assert rows["base", "0", "val"]["ap"] == "0.1"
    assert ("base", "1", "val") not in rows
    assert no_training == ["mine 0", "base 1", "mine 1"]
    said = capsys.readouterr().out
    assert f"1 of 4 runs taken over from {first}\n" in said and f"0 of 4 runs taken over from {second}\n" in said
    # Once more: nothing is added twice.
    again, same = reuse(tmp_path / "own", name, first, second, seeds="0 1")
    assert (again, same) == (rows, report)
    assert len(read_csv(tmp_path / "own" / "curves.csv")) == 2


def test_a_run_that_was_taken_over_says_where_it_was_made(tmp_path, data):
    """Also to the next one who takes it over, and in a report that is written again from the tables."""
    name, digest = data
    first = comparison(tmp_path / "first", {("a", 0): (f"{SHARED} --data {name} {CIOU}", 0.1)}, digest)
    reuse(tmp_path / "second", name, first)
    rows, report = reuse(tmp_path / "third", name, str(tmp_path / "second"))
    assert rows["base", "0", "val"]["reused.folder"] == first
    assert rows["base", "0", "val"]["reused.variant"] == "a"
    config, _, _ = read_flags(["--report-only", "--into", str(tmp_path / "third")])
    assert compare(config, (), "").read_text() == report


def test_folders_that_are_no_other_comparison_are_refused(tmp_path, data):
    name, digest = data
    own = comparison(tmp_path / "own", {("base", 0): (f"{SHARED} --data {name} {CIOU}", 0.1)}, digest)
    with pytest.raises(UserError, match="expected runs.csv of another comparison"):
        reuse(tmp_path / "new", name, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no effect with --report-only alone"):
        read_flags(["--report-only", "--into", own, "--reuse", own])
    (tmp_path / "own" / "runs.csv").rename(tmp_path / "runs.csv")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(UserError, match="the folder of the comparison itself"):
        reuse(tmp_path / "own", name, str(tmp_path / "link"))


def test_ultralytics_runs_are_known_by_the_name_of_their_data_alone(tmp_path, data, no_training):
    name, _ = data
    shared = "--model yolo26n.yaml --imgsz 64 --epochs 1"
    runs = {("a", 0): (f"{shared} --data {name} --loss sca", 0.1), ("b", 0): (f"{shared} --data other.yaml", 0.2)}
    folder = comparison(tmp_path / "theirs", runs, "")
    recipe = tmp_path / "recipe.yaml"
    variants = {"theirs": {}, "mine": {"loss": "sca"}}
    recipe.write_text(yaml.safe_dump({"trainer": "ultralytics", "variants": variants}))
    flags = ["--recipe", str(recipe), "--seeds", "0", "--into", str(tmp_path / "own"), "--reuse", folder]
    config, others, read = read_flags([*flags, *f"{shared} --data {name}".split()])
    compare(config, others, "the command", read)
    assert no_training == ["theirs 0"]
