"""val.py scores a checkpoint by the settings of its own run, unless a flag says otherwise.

A flag without effect is refused.
"""

import json

import pytest

from data.data_yaml import read_data_yaml
from data.formats.convert import convert_yolo
from data.shapes.demo_set import make_shapes
from export import export
from tests.lively import lively_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.knobs import ValConfig
from utils.errors import UserError
from val import parse_flags, validate

SIZE = 96
OWN = {"conf": 0.02, "nms_iou": 0.4, "max_det": 7, "bad_labels": "clip"}
DEFAULTS = "conf 0.001  NMS IoU 0.65 per class  max_det 300  float32"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A set with a box that leaves its photo by more than one hundredth."""
    path = make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=3, train=4, val=4, size=SIZE)
    with sorted((path.parent / "labels" / "val").glob("*.txt"))[0].open("a") as file:
        file.write("0 .95 .5 .2 .2\n")
    return path


@pytest.fixture(scope="module")
def best(data, tmp_path_factory):
    """A network that has some AP, of a run with settings of its own."""
    names = read_data_yaml(str(data), data.parent).names
    path = tmp_path_factory.mktemp("models") / "best.pt"
    lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, names, (SIZE, SIZE))
    contents = load_checkpoint(path)
    contents["config"]["run"].update(OWN, data=str(data))
    save_checkpoint(path, contents)
    return path


@pytest.fixture
def measured(tmp_path):
    """Validate and return the metrics with their protocol."""

    def run(weights, **flags):
        project = tmp_path / "runs"
        shown = {"project": str(project), "exist_ok": True, "plots": False, "report": False, "workers": 0}
        metrics = validate(weights=str(weights), device="cpu", **shown, **flags)
        return metrics, json.loads((project / "exp" / "metrics.json").read_text())["protocol"]

    return run


def test_what_is_not_given_is_the_runs_own(best, measured):
    own, protocol = measured(best)
    assert "conf 0.02  NMS IoU 0.4 per class  max_det 7  float32" in protocol
    assert "(4 images, truths: labels, --bad-labels clip)" in protocol
    assert own.counts["detections"] <= 4 * OWN["max_det"]
    asked, same = measured(best, **OWN)
    assert (asked.to_json(), same) == (own.to_json(), protocol)


def test_flags_come_before_the_runs_own(best, measured):
    own, _ = measured(best)
    given, protocol = measured(best, conf=0.001, nms_iou=0.65, max_det=300, bad_labels="mend")
    assert DEFAULTS in protocol
    assert "(4 images, truths: labels)" in protocol, "what is usual is not named: stored results hold this line"
    assert given.counts["labels"] == own.counts["labels"] - 1
    assert given.counts["detections"] > own.counts["detections"]
    assert "max_det 7" in measured(best, conf=0.001)[1]


def test_a_file_is_scored_as_its_weights_are(best, data, measured):
    (file,) = export(weights=str(best))
    said = measured(file, data=str(data))[1].replace(" (onnx file)", "")
    assert "conf 0.02  NMS IoU 0.4 per class  max_det 7  float32" in said
    assert DEFAULTS not in said
    assert "max_det 300" in measured(file, data=str(data), max_det=300)[1]


def test_a_file_that_says_nothing_of_its_run_is_scored_by_the_defaults(best, data, measured):
    """As those of earlier versions."""
    onnx = pytest.importorskip("onnx", reason="onnx is absent")
    (file,) = export(weights=str(best))
    model = onnx.load(file)
    for entry in [each for each in model.metadata_props if each.key == "val_settings"]:
        model.metadata_props.remove(entry)
    onnx.save(model, file)
    assert DEFAULTS in measured(file, data=str(data))[1].replace(" (onnx file)", "")


def test_what_is_not_given_is_no_value():
    assert parse_flags([]) == {}
    settings = ValConfig()
    assert [getattr(settings, name) for name in OWN] == [None] * 4
    for name, text in (("conf", "2"), ("max_det", "0"), ("max_det", "many"), ("bad_labels", "")):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
            validate(**{name: text})


def test_what_to_do_about_bad_labels_is_refused_where_none_are_measured(best, data, measured, tmp_path):
    convert_yolo(read_data_yaml(str(data), tmp_path), tmp_path / "coco")
    named = str(tmp_path / "coco" / "data.yaml")
    with pytest.raises(
        UserError, match=r"--bad-labels skip: val is measured against .*val.json, .* leave the flag out"
    ):
        measured(best, data=named, bad_labels="skip")
    assert "truths: val.json)" in measured(best, data=named)[1], "the run's own is no flag"


def test_a_folder_of_built_in_sets_is_refused_for_other_data(best, data, measured, tmp_path):
    for flags in ({"data": str(data)}, {}):
        with pytest.raises(UserError, match="--data-root .*: for built-in data sets and archives"):
            measured(best, data_root=str(tmp_path), **flags)
