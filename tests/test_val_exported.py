"""val.py and detect.py on files of export.py: the same table as of the weights, in the precision that they say."""

import json

import pytest
import torch

from data.data_yaml import read_data_yaml
from data.shapes.demo_set import make_shapes
from detect import detect, load
from engine.export.runtimes import open_backend
from export import export
from tests.lively import lively_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.export_formats import EXPORT_FORMATS
from utils.device import cpu_has_bf16
from utils.errors import UserError
from val import validate

SIZE = 96


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=3, train=4, val=7, size=SIZE)


@pytest.fixture(scope="module")
def best(data, tmp_path_factory):
    """An untrained network that sees things everywhere, and so has some AP."""
    names = read_data_yaml(str(data), data.parent).names
    path = tmp_path_factory.mktemp("models é") / "best.pt"
    return lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, names, (SIZE, SIZE))


@pytest.fixture
def measure(data, tmp_path):
    def run(weights, **flags):
        settings = {"data": str(data), "project": str(tmp_path / "runs"), "plots": False, "report": False, **flags}
        return validate(weights=str(weights), workers=0, **settings).overall

    return run


GRAPHS = [name for name, entry in EXPORT_FORMATS.items() if entry.graph]


@pytest.mark.parametrize("fmt", GRAPHS)
@pytest.mark.parametrize("shape", [{}, {"layout": "raw", "batch_size": 3}, {"dynamic": True}], ids=str)
def test_a_file_measures_as_its_weights(fmt, shape, best, measure, tmp_path, capsys):
    """Seven images in batches of three, the last one filled up."""
    entry = EXPORT_FORMATS[fmt]
    if shape.get("dynamic") and not entry.dynamic or shape.get("batch_size", 1) > 1 and not entry.batches:
        pytest.skip("has no such shapes")
    for module, command in {**entry.writes, **entry.opens}.items():
        pytest.importorskip(module, reason=f"pip install {command}")
    (file,) = export(weights=str(best), format=[fmt], output=str(tmp_path / "best"), **shape)
    capsys.readouterr()
    expected, found = measure(best, name="weights"), measure(file, name="file", batch_size=3)
    assert expected["ap50"] > 0
    for key, value in expected.items():
        assert found[key] == (None if value is None else pytest.approx(value, abs=2e-3, nan_ok=True)), key
    said = capsys.readouterr().out
    protocol = json.loads((tmp_path / "runs" / "file" / "metrics.json").read_text())["protocol"]
    assert protocol in said
    assert f"  float32 ({fmt} file)" in protocol


@pytest.fixture(scope="module")
def own(best, tmp_path_factory):
    """The same network of a run with thresholds of its own, which change its numbers."""
    contents = load_checkpoint(best)
    contents["config"]["run"].update(OWN)
    path = tmp_path_factory.mktemp("own") / "best.pt"
    save_checkpoint(path, contents)
    return path


OWN = {"conf": 0.1, "nms_iou": 0.3, "max_det": 40, "bad_labels": "clip", "max_pixels": 200_000_000}


@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "openvino"])
def test_a_file_keeps_the_thresholds_of_the_run(fmt, own, best, measure, tmp_path):
    (file,) = export(weights=str(own), format=[fmt], output=str(tmp_path / "best"))
    expected, found = measure(own, name="weights"), measure(file, name="file")
    assert {key: found[key] for key in ("ap", "ar")} == pytest.approx({key: expected[key] for key in ("ap", "ar")})
    assert measure(best, name="other")["ar"] != pytest.approx(expected["ar"], abs=1e-3)
    folders = (tmp_path / "runs" / name for name in ("weights", "file"))
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert second["protocol"] == first["protocol"].replace("  float32", f"  float32 ({fmt} file)")
    assert "conf 0.1  NMS IoU 0.3 per class  max_det 40" in second["protocol"]
    assert open_backend(file).run_settings == {**OWN, "photo_bits": 0}
    assert measure(file, name="flag", max_det=300)["ar"] == measure(own, name="flag 2", max_det=300)["ar"]


def test_a_file_with_nms_has_limits_of_its_own_beside_the_runs(own, measure, tmp_path, capsys):
    limits = {"conf": 0.2, "nms_iou": 0.5, "max_det": 50}
    (file,) = export(weights=str(own), layout="nms", output=str(tmp_path / "best"), **limits)
    measure(file, name="file")
    protocol = json.loads((tmp_path / "runs" / "file" / "metrics.json").read_text())["protocol"]
    assert "conf 0.2  NMS IoU 0.5 per class  max_det 40" in protocol
    assert "leaves out what scores below 0.2, so its AP is lower" in capsys.readouterr().err
    (file,) = export(weights=str(own), layout="nms", output=str(tmp_path / "low"), **{**limits, "conf": 0.05})
    measure(file, name="low")
    assert "leaves out" not in capsys.readouterr().err, "what the run itself leaves out"


def test_what_export_returns_is_taken_by_the_other_functions(best, data, tmp_path):
    (file,) = export(weights=best, output=tmp_path / "best")
    flags = {"workers": 0, "plots": False, "report": False, "project": tmp_path / "runs"}
    assert validate(weights=file, data=data, **flags).overall["ap50"] is not None
    assert detect(weights=file, source=data.parent / "images" / "val", project=tmp_path / "d").is_dir()


def test_a_file_without_names_takes_those_of_the_data(best, measure, data, tmp_path):
    """As one that was exported from Darknet's weights."""
    names = tuple(f"class{number}" for number in range(len(read_data_yaml(str(data), data.parent).names)))
    channels = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    unnamed = lively_checkpoint(tmp_path / "unnamed.pt", "yolov3-tiny", channels, names, (SIZE, SIZE))
    (file,) = export(weights=str(unnamed))
    assert measure(file, name="file")["ap50"] == pytest.approx(measure(best, name="weights")["ap50"], abs=2e-3)
    fewer = lively_checkpoint(tmp_path / "fewer.pt", "yolov3-tiny", channels, names[:2], (SIZE, SIZE))
    with pytest.raises(UserError, match="has the classes disc"):
        measure(export(weights=str(fewer))[0])


def test_a_file_with_nms_measures_what_it_was_exported_with(best, measure, tmp_path, capsys):
    limits = {"conf": 0.2, "nms_iou": 0.5, "max_det": 50}
    (file,) = export(weights=str(best), layout="nms", output=str(tmp_path / "best"), **limits)
    found = measure(file, name="file")
    # The file reports every box for its best class alone, as detect.py does; val.py of weights may report two.
    assert 0 < found["ap50"] <= measure(best, name="weights", **limits)["ap50"] + 0.05
    protocol = json.loads((tmp_path / "runs" / "file" / "metrics.json").read_text())["protocol"]
    assert "conf 0.2  NMS IoU 0.5 per class  max_det 50" in protocol
    assert "NMS in the file" in protocol
    assert "leaves out what scores below 0.2, so its AP is lower" in capsys.readouterr().err
    defaults = [{"conf": 0.001}, {"nms_iou": 0.65}, {"max_det": 300}]
    for flags in ({"conf": 0.1}, {"nms_iou": 0.6}, {"max_det": 100}, *defaults):
        with pytest.raises(UserError, match=f"--{next(iter(flags)).replace('_', '-')} .*does its own NMS at"):
            measure(file, name="wrong", **flags)
    # What the file would keep may be left out.
    assert measure(file, name="fewer", conf=0.5, max_det=20)["ap50"] <= found["ap50"]


def test_bf16_is_near_float32_and_said(best, measure, data, tmp_path, capsys):
    exact, rounded = measure(best, name="exact"), measure(best, name="rounded", precision="bf16")
    assert exact != rounded
    assert rounded["ap50"] == pytest.approx(exact["ap50"], abs=0.05)
    assert "  bf16  " in json.loads((tmp_path / "runs" / "rounded" / "metrics.json").read_text())["protocol"]
    capsys.readouterr()
    flags = {"weights": str(best), "source": str(data.parent / "images" / "val"), "project": str(tmp_path / "d")}
    for precision, ran in (("bf16", "bf16"), ("float32", "float32"), ("auto", "bf16" if cpu_has_bf16() else "float32")):
        folder = detect(**flags, precision=precision, save_json=True, save=False, device="cpu")
        assert f" in {ran}; written to" in capsys.readouterr().out
        rows = json.loads((folder / "detections.json").read_text())
        assert {row["precision"] for row in rows} == {ran}


def test_bf16_scores_are_those_of_a_network_in_bf16(best):
    """Near float32 for most boxes; lively random heads blow some up."""
    images = torch.rand(2, 3, SIZE, SIZE)
    (boxes, scores), found = open_backend(best).run(images), open_backend(best, precision="bf16").run(images)
    assert not torch.equal(found[1], scores)
    assert (found[1] - scores).abs().mean() < 5e-3
    sides = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True)
    assert ((found[0] - boxes).abs() / sides).mean() < 0.02


def test_openvino_says_what_it_ran_in(best, tmp_path):
    (file,) = export(weights=str(best), format=["openvino"], output=str(tmp_path / "best"))
    assert open_backend(file).precision == "float32"
    chosen = open_backend(file, precision="auto")
    assert chosen.precision == ("bf16" if cpu_has_bf16() else "float32")
    if not cpu_has_bf16():
        with pytest.raises(UserError, match="computes in float32 on this CPU"):
            open_backend(file, precision="bf16")
        return
    images = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(open_backend(file, precision="bf16").run(images)[1], chosen.run(images)[1])
    assert not torch.equal(open_backend(file).run(images)[1], chosen.run(images)[1])


def test_what_a_file_cannot_do_is_one_line(best, measure, tmp_path):
    (file,) = export(weights=str(best), output=str(tmp_path / "best"))
    for flags, message in (
        ({"precision": "bf16"}, "for weights and openvino; .*best.onnx runs as it was exported"),
        ({"imgsz": [64]}, "was exported for 96x96 px alone"),
        ({"data": ""}, "an exported file knows no data set: name one with --data"),
        ({"device": "meta"}, "runs on the CPU here"),
    ):
        with pytest.raises(UserError, match=message):
            measure(file, **flags)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="runs as it was exported"):
        load(file, precision="bf16")
