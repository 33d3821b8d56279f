"""Ultralytics' detectors in comparisons: trained by the plug-in, measured as ours, killed, and gone on with."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.shapes.demo_set import make_shapes
from models.postprocess import Postprocess
from studies.compare import compare, parse_flags
from studies.comparison.recipe import read_recipe
from studies.comparison.score_ultralytics import UltralyticsDetector
from studies.in_ultralytics import finish, plan, resume, train
from studies.in_ultralytics import parse_flags as plugin_flags
from tests.paths import ROOT
from utils.errors import UserError
from utils.ultralytics_only import inference_peer

pytestmark = pytest.mark.filterwarnings("ignore")
MODULE = [sys.executable, "-m", "studies.in_ultralytics"]
SMALL = ["--imgsz", "64", "--batch-size", "4", "--device", "cpu"]
RECIPE = """
trainer: ultralytics
baseline: own
train: {model: yolo26n.yaml}
variants: {own: {}, sca-ggiou: {loss: sca, assign: ggiou}}
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=2, train=8, val=4, size=64)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def choices_of(folder):
    """What a run's checkpoint says it was asked of the plug-in."""
    arguments = inference_peer().YOLO(folder / "weights" / "best.pt").ckpt["train_args"]
    return {key: value for key, value in arguments.items() if key in ("align_loss", "align_assign")}


def test_a_recipe_compares_ultralytics_with_and_without_us(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the command is found from any folder
    (tmp_path / "mine.yaml").write_text(RECIPE)
    given = ["--recipe", "mine.yaml", "--seeds", "0", "--into", "out", "--threads", "1"]
    config, shared = parse_flags([*given, *SMALL, "--data", str(shapes), "--epochs", "2"])
    compare(config, shared, "the command")
    found = {(row["variant"], row["scored"]): row for row in rows_of(tmp_path / "out" / "runs.csv")}
    assert set(found) == {("own", "val"), ("sca-ggiou", "val")}
    for (name, _), row in found.items():
        folder = tmp_path / "out" / name / "seed0"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert float(row["ap"]) == metrics["ap"] >= 0
        assert int(row["counts.images"]) == 4
        assert "tide_localisation" in row
        wanted = {} if name == "own" else {"align_loss": "sca", "align_assign": "ggiou"}
        assert choices_of(folder) == wanted
    curves = rows_of(tmp_path / "out" / "curves.csv")
    assert [row["epoch"] for row in curves] == ["1", "2"] * 2
    assert len({row["box_loss"] for row in curves}) == 4
    # Finished runs are not made again.
    times = [path.stat().st_mtime_ns for path in tmp_path.glob("out/*/seed0/metrics.json")]
    compare(config, shared, "the command")
    assert times == [path.stat().st_mtime_ns for path in tmp_path.glob("out/*/seed0/metrics.json")]


@pytest.mark.slow
def test_a_killed_training_goes_on_with_its_choices(shapes, tmp_path):
    given = [*SMALL, "--data", str(shapes), "--epochs", "40", "--loss", "sca"]
    given += ["--project", str(tmp_path), "--name", "run"]
    # What starts it as a comparison does: names itself as the process to end with.
    starter = (
        "import os, subprocess, sys; os.environ['ALIGNYOLO_PARENT'] = str(os.getpid()); subprocess.run(sys.argv[1:])"
    )
    command = [sys.executable, "-c", starter, *MODULE, *given]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = tmp_path / "run"
    while not (folder / "weights" / "best.pt").is_file():
        assert started.poll() is None
        time.sleep(0.05)
    started.kill()
    started.communicate(timeout=60)  # until the last process that writes there has ended
    # A checkpoint that Ultralytics was writing when it was killed is told as such: a comparison then begins again.
    last = folder / "weights" / "last.pt"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    done = subprocess.run([*MODULE, "--resume", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "last.pt: cannot be read as a checkpoint" in done.stderr
    last.write_bytes(whole)
    before = len(rows_of(folder / "results.csv"))
    assert 0 < before < 40
    # It goes on in a copy, and leaves the folder that its checkpoint names alone.
    first, folder = folder, tmp_path / "copy"
    shutil.copytree(first, folder)
    for _ in range(2):  # the second time the training has ended, and is measured again
        (folder / "metrics.json").unlink(missing_ok=True)
        subprocess.run([*MODULE, "--resume", str(folder)], cwd=ROOT, check=True)
        assert (folder / "metrics.json").is_file()
    assert len(rows_of(first / "results.csv")) == before and last.read_bytes() == whole
    assert choices_of(folder) == {"align_loss": "sca"}
    subprocess.run([*MODULE, "--score", str(folder), "--split", "train"], cwd=ROOT, check=True)
    scored = {name: json.loads((folder / name / "metrics.json").read_text()) for name in ("", "train")}
    assert [metrics["counts"]["images"] for metrics in scored.values()] == [4, 8]
    rows = rows_of(folder / "results.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(1, 41))
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("name", ["data.yaml", "weights/best.pt", "results.csv"])
def test_exist_ok_replaces_no_files_of_a_folder_that_is_no_run(name, shapes, tmp_path):
    """Such as the folder of the data set itself, whose data.yaml would have become the run's."""
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("somebody's")
    given = ["--data", str(shapes), "--epochs", "1", "--project", str(tmp_path), "--name", "mine", "--exist-ok"]
    with pytest.raises(UserError, match=rf"its {name.split('/')[0]} would be replaced; expected another --name"):
        train(plugin_flags([*given, *SMALL]))
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [tmp_path / "mine" / name]
    assert (tmp_path / "mine" / name).read_text() == "somebody's"


def test_a_training_goes_on_in_its_folder_wherever_that_lies_now(tmp_path, monkeypatch):
    (tmp_path / "moved" / "weights").mkdir(parents=True)
    for name in ("plug_in.json", "weights/last.pt"):
        (tmp_path / "moved" / name).write_text("{}")
    asked = []
    model = SimpleNamespace(ckpt={"epoch": 3}, train=lambda **settings: asked.append(settings))
    monkeypatch.setattr("studies.in_ultralytics.ready", lambda weights, config: model)
    monkeypatch.setattr("studies.in_ultralytics.finish", lambda folder: folder)
    monkeypatch.chdir(tmp_path)
    resume(Path("moved"))
    here = tmp_path / "moved"
    assert asked == [{"resume": True, "data": str(here / "data.yaml"), "save_dir": str(here)}]


THEIR_COLUMNS = "epoch,   time, train/box_loss, train/cls_loss, metrics/mAP50-95(B), metrics/mAP50(B)\n"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Writes results.csv as Ultralytics does, of epochs with times; its run's measures are not made."""
    monkeypatch.setattr("studies.in_ultralytics.score", lambda folder, wanted: None)

    def write(*epochs):
        lines = [f"{epoch}, {time}, {number}, 1, .1, .2\n" for number, (epoch, time) in enumerate(epochs)]
        (tmp_path / "results.csv").write_text(THEIR_COLUMNS + "".join(lines))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([(1, "100.5"), (2, "200")], [("1", "100.5", "0"), ("2", "200", "1")]),
        # Killed between two epochs, then between the row of an epoch and its checkpoint.
        (
            [(1, 100), (2, 200), (3, 95), (4, 190), (4, 90), (5, 180)],
            [("1", "100", "0"), ("2", "200", "1"), ("3", "295", "2"), ("4", "385", "4"), ("5", "475", "5")],
        ),
        # The second start of an epoch took longer than all before it.
        ([(1, 100), (2, 200), (2, 300)], [("1", "100", "0"), ("2", "400", "2")]),
        ([(1, 100), (1, 110), (2, 200)], [("1", "110", "1"), ("2", "200", "2")]),
    ],
)
def test_the_epochs_of_a_resumed_training_are_counted_once_and_their_seconds_go_on(epochs, expected, trained):
    folder = trained(*epochs)
    finish(folder)
    assert [(row["epoch"], row["seconds"], row["box_loss"]) for row in rows_of(folder / "results.csv")] == expected
    assert len(rows_of(folder / "ultralytics.csv")) == len(epochs)


def test_a_finished_training_survives_an_interruption_while_its_table_is_written(trained, monkeypatch):
    folder = trained((1, 100), (2, 200))
    whole = (folder / "results.csv").read_bytes()

    def interrupted(path, rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.run_folder.write_csv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finish(folder)
    assert (folder / "results.csv").read_bytes() == whole
    # As it was left by a version that moved Ultralytics' file away first.
    (folder / "results.csv").replace(folder / "ultralytics.csv")
    for _ in range(2):
        finish(folder)
        assert [row["seconds"] for row in rows_of(folder / "results.csv")] == ["100", "200"]
        assert (folder / "ultralytics.csv").read_bytes() == whole


@pytest.mark.parametrize("without_nms", [False, True])
@pytest.mark.parametrize("cfg", ["yolo11n.yaml", "yolo26n.yaml"])
def test_detections_are_those_that_ultralytics_predicts(cfg, without_nms):
    if without_nms and "26" not in cfg:
        pytest.skip("this head has one way")
    torch.manual_seed(3)
    yolo = inference_peer().YOLO(cfg, task="detect")
    with torch.no_grad():
        for module in yolo.model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None and module.out_channels == 80:
                module.bias += 8 + torch.randn(80) * 2  # confident, so that there is something to compare
    yolo.model.end2end = without_nms
    image = torch.rand(2, 3, 96, 96)
    detector = UltralyticsDetector(yolo.model.eval(), Postprocess(0.3, 0.65, 20, multi_label=False)).eval()
    with torch.inference_mode():
        found = detector(image)
    way = {"nms": False} if without_nms else {}  # its default is NMS, also for YOLO26
    # Not .6, which is the IoU of two boxes of one size a quarter apart: theirs computes it in float32, and drops some.
    expected = yolo.predict(image, conf=0.3, iou=0.65, max_det=20, verbose=False, **way)
    for ours, theirs in zip(found, expected, strict=True):
        assert 5 < len(ours["scores"]) == len(theirs.boxes)
        assert torch.allclose(ours["scores"], theirs.boxes.conf, atol=1e-4)
        assert torch.equal(ours["labels"], theirs.boxes.cls.long())
        assert torch.allclose(ours["boxes"].clamp(0, 96), theirs.boxes.xyxy, atol=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "scaa"], "did you mean 'sca'"),
        (["--assign", "iou"], "--assign"),
        (["--split", "test"], "--split has no effect without --score"),
        (["--resume", "a", "--epochs", "3"], "--epochs has no effect with --resume"),
        (["--score", "a", "--resume", "b"], "has no effect with"),
    ],
)
def test_flags_without_meaning_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        plugin_flags(flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data: expected"),
        (["--model", "yolo26n.pt"], "expected a model YAML"),
        (["--imgsz", "100"], "expected a multiple of 32"),
        (["--data", "nowhere/data.yaml"], "not found"),
    ],
)
def test_mistakes_are_told_before_torch(flags, message, shapes):
    data = [] if "--data" in flags or not flags else ["--data", str(shapes)]
    with pytest.raises(UserError, match=message):
        plan(plugin_flags([*data, *flags]))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--resume", "empty"], "expected plug_in.json and weights/last.pt"),
        (["--score", "empty"], "cannot be read as a run's settings"),
        (["--data", "DATA", "--model", "yolo99.yaml"], "Ultralytics has no model YAML of this name"),
        (["--data", "DATA", "--model", "headless.yaml"], "headless.yaml: cannot be read as a model YAML"),
    ],
)
def test_a_folder_or_a_model_that_is_none_is_one_line(command, message, shapes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "headless.yaml").write_text("nc: 3\nbackbone: []\n")
    given = [str(shapes) if each == "DATA" else each for each in command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*MODULE, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ultralytics", "ultralytic"), "did you mean 'ultralytics'"),
        (("loss: sca", "box_loss: sca"), "unknown key 'box_loss'"),
        (("model:", "optimizer: adamw, model:"), "unknown key 'optimizer'"),
    ],
)
def test_mistakes_in_a_recipe(change, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(UserError, match=message):
        read_recipe(str(path))
