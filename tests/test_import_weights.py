"""import_weights.py and the inspector as a person runs them."""

import struct
from pathlib import Path

import pytest
import torch

from import_weights import class_names, import_weights
from tests.paths import SHARED_DATA, needs_shared_data
from tests.test_commands import one_line_error, run
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

CHECKPOINTS = SHARED_DATA / "checkpoints"


@needs_shared_data
def test_imported_inspected_and_loaded_by_torch_alone(tmp_path):
    source = CHECKPOINTS / "ultralytics-yolov3-tiny-bccd.pt"
    result = run("import_weights.py", source, "--output", tmp_path / "ours.pt")
    assert result.returncode == 0, result.stderr
    assert torch.load(tmp_path / "ours.pt", weights_only=True)["names"] == ["RBC", "WBC", "Platelets"]
    told = run("-m", "utils.checkpoint", tmp_path / "ours.pt")
    assert told.returncode == 0, told.stderr
    shown = "yolov3-tiny", "3: RBC, WBC, Platelets", "8,680,875 numbers", "33.1 MiB", "trained  elsewhere", source.name
    for part in shown:
        assert part in told.stdout
    assert "exists" in one_line_error(run("import_weights.py", source, "--output", tmp_path / "ours.pt"))


def test_nothing_is_written_of_what_cannot_be_described(tmp_path):
    config = {"run": {}, "model": {}, "hyper": {}, "names": ["a"]}
    save_checkpoint(tmp_path / "odd.pt", {"config": config, "names": ["a"], "epoch": 1, "model": {}})
    with pytest.raises(UserError, match="its config is none of a model here"):
        import_weights(str(tmp_path / "odd.pt"), output=str(tmp_path / "new.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["odd.pt"]
    with pytest.raises(UserError, match=f"--output {tmp_path}: a folder: expected a file to write"):
        import_weights(str(tmp_path / "odd.pt"), output=str(tmp_path), exist_ok=True)
    (tmp_path / "link.pt").symlink_to(tmp_path / "odd.pt")
    for name in ("odd.pt", "link.pt"):
        with pytest.raises(UserError, match=f"{name}: would replace the weights themselves"):
            import_weights(str(tmp_path / "odd.pt"), output=str(tmp_path / name), exist_ok=True)


@needs_shared_data
def test_darknet_names_come_from_a_flag(tmp_path):
    source = SHARED_DATA / "darknet" / "tiny-narrow.weights"
    wrong = run("import_weights.py", source, "--output", tmp_path / "d.pt", "--names", "a,b")
    assert "2 names for a model of 5 classes" in one_line_error(wrong)
    assert not list(tmp_path.iterdir())
    result = run("import_weights.py", source, "--output", tmp_path / "d.pt", "--names", "a,b,c,d,e")
    assert result.returncode == 0, result.stderr
    assert torch.load(tmp_path / "d.pt", weights_only=True)["config"]["names"] == list("abcde")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("a, b", ["a", "b"]),
        ("a,,b", "--names a,,b: class 1 has no name"),
        ("a,", "--names a,: class 1 has no name"),
        ("a,b, a", "--names: classes 0 and 2 are both called 'a'"),
    ],
)
def test_names_are_there_and_unlike(names, found):
    if isinstance(found, list):
        assert class_names(names) == found
        return
    with pytest.raises(UserError, match=f"^{found}$"):
        class_names(names)


@pytest.mark.parametrize("names", ["coco", "coco.yaml"])
def test_names_of_a_built_in_set_need_none_of_its_photos(names, tmp_path, monkeypatch):
    """As the guide has it; the length of Darknet's yolov3-tiny of 80 classes tells the model."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.weights").write_bytes(struct.pack("<iiiq", 0, 2, 0, 0) + bytes(4 * 8_858_734))
    names = torch.load(import_weights("tiny.weights", names=names), weights_only=True)["names"]
    assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")


@pytest.mark.parametrize("command", [["import_weights.py"], ["-m", "utils.checkpoint"], ["val.py", "--weights"]])
@pytest.mark.parametrize("kind", ["empty.pt", "text.pt", "short.weights", "missing.pt"])
def test_damaged_weights_end_in_one_line(command, kind, tmp_path):
    file = tmp_path / kind
    if kind != "missing.pt":
        file.write_bytes({"e": b"", "t": b"hello " * 100, "s": struct.pack("<iiii", 0, 2, 0, 0)}[kind[0]])
    assert kind in one_line_error(run(*command, file))


@needs_shared_data
def test_imported_weights_need_a_data_set():
    source = CHECKPOINTS / "ultralytics-yolov3-tiny-bccd.pt"
    assert "--data" in one_line_error(run("val.py", "--weights", source))


@pytest.mark.slow
@needs_shared_data
@pytest.mark.parametrize(("split", "ap", "ap50"), [("test", 0.3706, 0.7104), ("val", 0.3925, 0.7384)])
def test_val_gives_the_reference_metrics(split, ap, ap50, tmp_path):
    """Its truths count pixels from 0, as `--pixel-origin auto` finds; counted from 1, AP on test would be .3765."""
    import json

    names = ["--names", "RBC,WBC,Platelets", "--images", "list"]
    assert run("convert.py", "voc", SHARED_DATA / "bccd", tmp_path / "bccd", *names).returncode == 0
    flags = ["--weights", CHECKPOINTS / "ultralytics-yolov3-tiny-bccd.pt", "--data", tmp_path / "bccd" / "data.yaml"]
    flags += ["--split", split, "--imgsz", "320", "--conf", ".001", "--nms-iou", ".6", "--no-plots", "--workers", "0"]
    result = run("val.py", *flags, "--project", tmp_path, "--name", "v")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "v" / "metrics.json").read_text())
    assert abs(metrics["ap"] - ap) < 0.003
    assert abs(metrics["ap50"] - ap50) < 0.003
