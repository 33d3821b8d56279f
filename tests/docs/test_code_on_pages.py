"""What the README and the tutorials show works as typed: Python in seconds, whole sessions in the slow tests."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

from alignyolo.assign.assignment import Context
from alignyolo.registry import DENSE_ASSIGNERS, DYNAMIC_ASSIGNERS, Entry
from alignyolo.torchvision import use
from models.choices import build_assigner
from tests.alignyolo.oracles import reachable
from tests.alignyolo.scenes import random_scene
from tests.data.formats.small_sets import coco_document, photo, write_json
from tests.docs.commands_on_pages import commands, split
from tests.lively import lively_checkpoint
from tests.paths import ROOT
from utils.config.knobs import Hyperparameters

TUTORIALS = ROOT / "docs" / "tutorials"
# So that a session takes seconds for each command instead of hours.
SMALL = {
    "python train.py": ["--epochs", "1", "--imgsz", "64", "--batch-size", "4", "--workers", "0", "--no-plots"],
    "python val.py": ["--no-report"],
    "python -m studies.compare": ["--epochs", "1", "--imgsz", "64", "--seeds", "0", "--losses", "iou", "sca"],
    "python tune.py": ["--trials", "1", "--epochs", "1", "--imgsz", "64", "--batch-size", "4"],
}
# pip; what needs an interrupted run; a recipe of nine trainings.
LEFT_OUT = ("--resume", "--recipe")


def run(words, folder, timeout=600):
    """Run a program in a folder that is not the checkout, as a user's would be, and return what it printed."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout + done.stderr


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def small_set(folder: Path) -> None:
    """Photos of noise with a COCO file for each split, as a labelling tool exports them."""
    for name, count in (("train", 8), ("valid", 4), ("test", 4)):
        names = [f"{number}.jpg" for number in range(count)]
        for each in names:
            photo(folder / "mydata" / name / each)
        write_json(folder / "mydata" / name / "_annotations.coco.json", coco_document(names))
    photo(folder / "photos" / "one.jpg")
    photo(folder / "photo.jpg")


def test_the_library_works_as_the_readme_and_the_tutorial_show_it(tmp_path):
    (ten_lines,) = [block for block in blocks(TUTORIALS / "other-detectors.md", "python") if "match_boxes" in block]
    (short,) = [block for block in blocks(ROOT / "README.md", "python") if "match_boxes" in block]
    (own_loop,) = [block for block in blocks(TUTORIALS / "other-detectors.md", "python") if "loss_of" in block]
    boxes = "predicted = truths = anchors[:2].detach()\n"
    check = "assert loss.abs().max() < 1e-6\n"
    printed = run([sys.executable, "-c", ten_lines + boxes + short + check + own_loop + check], tmp_path)
    assert "tensor([-1,  0, -1])" in printed


def test_torchvisions_detector_takes_the_losses_as_the_tutorial_shows_it(tmp_path):
    (shown,) = [block for block in blocks(TUTORIALS / "other-detectors.md", "python") if "retinanet" in block]
    trained = """
import torch
targets = [{"boxes": torch.tensor([[20.0, 30.0, 120.0, 90.0]]), "labels": torch.tensor([2])}]
print(sorted(model([torch.rand(3, 64, 64)], targets)))
"""
    assert "bbox_regression" in run([sys.executable, "-c", shown + trained], tmp_path)


@pytest.fixture
def shown_assigner(tmp_path, monkeypatch):
    """The class that CONTRIBUTING.md shows, as an entry of the table that it names."""
    (shown,) = [block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if "Assignment" in block]
    (tmp_path / "shown_assigner.py").write_text(shown)
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("shown_assigner:Nearest", "the nearest anchors of every level")
    for table in (DYNAMIC_ASSIGNERS, DENSE_ASSIGNERS):
        monkeypatch.setitem(table, "nearest", entry)
    return entry


def test_an_assigner_is_added_as_contributing_shows_it(shown_assigner):
    """A YOLO head and torchvision's anchors have it, with the reach of the one and no limit of the other."""
    anchors, targets, batch_size = random_scene(np.random.default_rng(3), "yolov3-tiny", batch_size=2)
    assert len(targets.boxes) > 0
    bound = build_assigner(shown_assigner, Hyperparameters(), reach=0.5)
    assert bound.reach == 0.5
    found = bound(Context(anchors, targets, batch_size))
    can = reachable(anchors, targets.boxes.numpy(), 0.5)
    assert can[found.target.numpy(), found.anchor.numpy()].all()
    assert torch.equal(targets.image[found.target], found.image)
    free = shown_assigner.bind()(Context(anchors, targets, batch_size))
    assert len(free.anchor) >= len(found.anchor)
    model = use(fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3), assign="nearest")
    assert type(model.aligned.dynamic) is shown_assigner.load()


def test_a_model_is_loaded_as_the_readme_shows_it(tmp_path):
    small_set(tmp_path)
    lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": (4, 8, 8, 8, 16, 16, 32)}, ("cat",), (64, 64))
    (shown,) = [block for block in blocks(ROOT / "README.md", "python") if "detect" in block]
    code = shown.replace("runs/train/exp/weights/best.pt", "best.pt")
    assert "tensor" in run([sys.executable, "-c", code], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(TUTORIALS.glob("*.md"))], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_the_commands_of_a_page_work_one_after_the_other(page, tmp_path):
    small_set(tmp_path)
    ran = 0
    for words in commands(page.read_text("utf-8")):
        typed, flags = split(words)
        if not typed or any(each in flags for each in LEFT_OUT):
            continue
        program = [
            word if word == "-m" or "." in word and word[-3:] != ".py" else str(ROOT / word)
            for word in typed.split()[1:]
        ]
        run([sys.executable, *program, *flags, *SMALL.get(typed, [])], tmp_path)
        ran += 1
    assert ran
