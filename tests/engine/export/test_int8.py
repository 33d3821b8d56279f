"""export.py --int8: what is quantized and what is not, and that only a file worth having is left in place."""

from dataclasses import replace

import onnx
import pytest
import torch

from data.formats.convert import convert_voc
from data.shapes.demo_set import make_shapes
from engine.export import int8
from engine.export.job import Job
from engine.export.runtimes import open_backend
from export import export
from models.weights.read import load_detector, read_weights
from tests.lively import lively_checkpoint
from tests.paths import SHARED_DATA, needs_shared_data
from utils.checkpoint import save_checkpoint
from utils.config.export_formats import EXPORT_FORMATS
from utils.config.knobs import Config, ExportConfig
from utils.errors import ExportMismatch, UserError
from val import validate

NAMES = ("disc", "ring", "square", "triangle", "cross", "bar")
FORMATS = [name for name, entry in EXPORT_FORMATS.items() if entry.int8 is not None]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=3, train=5, val=3, size=96)


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    path = tmp_path_factory.mktemp("models é") / "best.pt"
    return lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, NAMES, (96, 96))


@pytest.fixture
def flags(best, data, tmp_path):
    return {"weights": str(best), "int8": True, "calibrate": str(data), "output": str(tmp_path / "best")}


def needs(fmt):
    for module in EXPORT_FORMATS[fmt].int8:
        pytest.importorskip(module, reason=f"pip install {EXPORT_FORMATS[fmt].int8[module]}")


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("layout", ["decoded", "nms"])
def test_a_file_in_8_bits_finds_about_the_same(fmt, layout, best, flags, tmp_path):
    needs(fmt)
    (file,) = export(**flags, format=[fmt], layout=layout, force=True)
    assert file.name == f"best_int8{EXPORT_FORMATS[fmt].suffix}"
    found = open_backend(file)
    assert found.precision == "int8"
    images = torch.rand(1, 3, 96, 96)
    if layout == "decoded":
        expected, scores = open_backend(best).run(images)[1], found.run(images)[1]
        assert scores.shape == expected.shape
        assert 0 < (scores - expected).abs().mean() < 0.05
    else:
        assert set(found.run(images)[0]) == {"boxes", "scores", "labels"}


@pytest.mark.parametrize("name", ["x_int8.onnx", "x.onnx", "x_int8", "x"])
def test_int8_stands_once_in_the_name(name, flags, tmp_path):
    (file,) = export(**flags | {"output": str(tmp_path / name)}, force=True)
    assert file == tmp_path / "x_int8.onnx"


def test_openvino_weights_have_seven_bits_so_that_sums_of_products_fit_into_16(flags):
    """A CPU without VNNI adds two products of 8 bits in 16; with weights of eight the scores here were .11 off."""
    needs("openvino")
    openvino = pytest.importorskip("openvino")
    (folder,) = export(**flags, format=["openvino"], force=True)
    model = openvino.Core().read_model(next(folder.glob("*.xml")))
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    weights = [node.data for node in constants if node.get_element_type() == openvino.Type.i8]
    assert len(weights) > 5
    assert all(abs(values.astype(int)).max() <= 64 for values in weights)


def test_the_ends_and_the_decode_stay_float(flags):
    (file,) = export(**flags, force=True)
    graph = onnx.load(file).graph
    made = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantized = [made[node.input[1]].op_type == "DequantizeLinear" for node in convolutions if node.input[1] in made]
    assert len(convolutions) - len(quantized) == 3  # the first, and that of each head
    assert all(quantized)
    initializers = {value.name: value for value in graph.initializer}
    scales = [made[node.input[1]].input[1] for node in convolutions if node.input[1] in made]
    assert all(len(initializers[name].dims) == 1 for name in scales), "a scale for each channel"
    zeros = [node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {initializers[name].data_type for name in zeros} == {onnx.TensorProto.UINT8}
    # All that follows the last convolutions, up to the output, reads no 8 bit numbers.
    todo, seen = [graph.output[0].name], set()
    while todo:
        node = made.get(todo.pop())
        if node is not None and node.op_type != "Conv" and node.output[0] not in seen:
            seen.add(node.output[0])
            assert node.op_type not in ("QuantizeLinear", "DequantizeLinear")
            todo += node.input


@pytest.mark.parametrize(
    ("ap", "ms", "message"),
    [
        ((0.4, 0.39), (10.0, 5.0), r"loses 0.0100 AP \(allowed 0.005\): kept with --force alone"),
        ((0.4, 0.4), (10.0, 11.0), "is slower than float32 on this machine: kept with --force alone"),
        ((0.4, 0.3), (10.0, 11.0), "loses 0.1000 AP .* and is slower than float32"),
        ((0.0, 0.0), (10.0, 9.0), "cannot be compared, since float32 has an AP of 0 here: kept with --force alone"),
        ((0.4, 0.396), (10.0, 9.0), None),
    ],
)
def test_a_file_not_worth_having_is_not_left(ap, ms, message, flags, tmp_path, monkeypatch, capsys):
    values = iter([*ap, *ap])
    monkeypatch.setattr(int8, "average_precision", lambda *_: next(values))
    monkeypatch.setattr(int8, "milliseconds", lambda *_: dict(zip(("float32", "int8"), ms, strict=True)))
    if message is None:
        assert export(**flags)[0].is_file()
        assert "AP 0.4000 -> 0.3960 on 3 photos of val; ms of CPU: float32 10.0, int8 9.0" in capsys.readouterr().out
        return
    with pytest.raises(ExportMismatch, match=message):
        export(**flags)
    assert not list(tmp_path.iterdir())
    assert export(**flags, force=True)[0].is_file()
    assert "kept by --force: " in capsys.readouterr().out


def test_photos_that_cannot_be_read_are_left_out(flags, tmp_path, monkeypatch, capsys):
    """Those that are taken first, of which two are cut off; then all of them."""
    monkeypatch.setattr(int8, "CALIBRATION_PHOTOS", 3)
    yaml = make_shapes(tmp_path / "shapes", seed=3, train=5, val=3, size=96)
    first, *_, last = files = sorted((yaml.parent / "images" / "train").iterdir())
    for file in (first, last):
        file.write_bytes(file.read_bytes()[:1000])
    job, _ = int8.with_calibration(a_job(flags | {"calibrate": str(yaml)}))
    assert [len(batch) for batch in job.calibration] == [1, 1, 1]
    said = capsys.readouterr().out
    assert [f"not calibrated with {file}: cannot be decoded" in said for file in files] == [1, 0, 0, 0, 1]
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"--calibrate {yaml}: no photo of its train split can be read"):
        export(**flags | {"calibrate": str(yaml)})
    assert not list(tmp_path.glob("best*"))


def test_weights_without_names_take_those_of_the_data(flags, data):
    """As Darknet's files are; another number of classes is still refused."""
    job = a_job(flags)
    job, trial = int8.with_calibration(
        replace(job, config=replace(job.config, names=tuple(f"class{number}" for number in range(len(NAMES)))))
    )
    assert len(trial.index) == 3
    with pytest.raises(UserError, match="has the classes disc"):
        int8.with_calibration(replace(job, config=replace(job.config, names=("class0", "class1"))))


def test_ap_is_that_of_val_with_the_settings_of_the_run(best, flags, data, tmp_path):
    contents = read_weights(best)
    contents["config"]["run"].update(conf=0.1, nms_iou=0.3, max_det=10, bad_labels="error", max_pixels=96 * 96)
    save_checkpoint(tmp_path / "own.pt", contents)
    job, trial = int8.with_calibration(a_job({**flags, "weights": str(tmp_path / "own.pt")}))
    settings = {"data": str(data), "plots": False, "report": False, "workers": 0, "project": str(tmp_path / "runs")}
    measured, usual = (validate(weights=str(each), **settings).overall["ap"] for each in (tmp_path / "own.pt", best))
    assert int8.average_precision(open_backend(best), job, trial) == pytest.approx(measured)
    assert usual != pytest.approx(measured, abs=1e-3)
    # What was too bad or too large to train on is so here.
    contents["config"]["run"]["max_pixels"] = 96 * 96 - 1
    save_checkpoint(tmp_path / "own.pt", contents)
    with pytest.raises(UserError, match=r"none of the 5 images can be read.*has 9,216 pixels"):
        export(**{**flags, "weights": str(tmp_path / "own.pt")})
    label = next((data.parent / "labels" / "val").iterdir())
    before = label.read_text()
    label.write_text("0 .99 .5 .5 .5\n")
    try:
        with pytest.raises(UserError, match="bad-labels"):
            int8.with_calibration(job)
    finally:
        label.write_text(before)


def a_job(flags):
    contents = read_weights(flags["weights"])
    config = Config.from_dict(contents["config"], "best.pt")
    return Job(load_detector(contents, config, "best.pt"), config, contents, ExportConfig(**flags), (96, 96))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibrate": ""}, "--int8: needs photos to see the range of features on: --calibrate data.yaml"),
        ({"half": True}, "--int8 with --half: expected one of them"),
        ({"format": ["torchscript"]}, "--int8: for onnx"),
        ({"int8": False}, "--calibrate: for --int8"),
        ({"int8": False, "calibrate": "", "force": True}, "--force: for --int8"),
        ({"calibrate": "coco128"}, "has the classes|not found|no folder|data set"),
    ],
)
def test_mistakes(changes, message, flags, tmp_path):
    with pytest.raises(UserError, match=message):
        export(**flags | changes)
    assert not list(tmp_path.iterdir())


@needs_shared_data
@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
def test_real_weights_keep_their_ap(fmt, tmp_path, capsys):
    """BCCD: within .005 on the split that decides, and on one that does not."""
    needs(fmt)
    weights = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    names = ["RBC", "WBC", "Platelets"]
    convert_voc(SHARED_DATA / "bccd", tmp_path / "bccd", names=names, splits=["train", "val", "test"])
    flags = {"weights": str(weights), "imgsz": [320], "output": str(tmp_path / "best"), "format": [fmt]}
    (file,) = export(**flags, int8=True, calibrate=str(tmp_path / "bccd" / "data.yaml"))
    settings = {"data": str(tmp_path / "bccd" / "data.yaml"), "split": "test", "plots": False, "report": False}
    settings |= {"imgsz": [320], "project": str(tmp_path / "runs")}
    exact, rounded = (validate(weights=str(each), **settings).overall["ap"] for each in (weights, file))
    assert exact - rounded < 0.005


def test_a_folder_of_built_in_sets_is_refused_for_other_data(flags, tmp_path):
    with pytest.raises(UserError, match="--data-root .*: for built-in data sets and archives"):
        int8.with_calibration(a_job({**flags, "data_root": str(tmp_path)}))
