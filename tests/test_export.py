"""Exported files compute what the model computes, in every runtime; a wrong one is not left behind."""

import json
import sys

import cv2
import numpy as np
import onnx
import pytest
import torch

from data.formats.convert import convert_voc
from detect import load
from engine.export.runtimes import open_backend
from engine.export.weights import torch_backend
from export import export
from import_weights import import_weights
from models.postprocess import Postprocess
from models.weights.read import load_detector, read_weights
from models.yolov3 import export_network
from tests.lively import lively_checkpoint
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from tests.test_commands import one_line_error, run
from utils.config.export_formats import EXPORT_FORMATS
from utils.config.knobs import Config
from utils.errors import ExportMismatch, UserError
from val import validate

NAMES = ("a", "b", "c")
VARIANTS = {
    "tiny": ("yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}),
    "tiny-darknet": (
        "yolov3-tiny",
        {"channels": [8, 8, 16, 16, 32, 32, 64], "decode": "darknet", "activation": "leaky", "pool_padding": "lowest"},
    ),
    "yolov3-spp": ("yolov3-spp", {"channels": [8, 8, 8, 16, 16, 32]}),
}


def checkpoint(variant, path):
    """A narrow network whose outputs vary: fitted batch normalisation and lively heads."""
    cfg, changes = VARIANTS[variant]
    return lively_checkpoint(path, cfg, changes, NAMES, (96, 128), ap=0.5)


def unfolded(path):
    """The detector itself, with nothing done to make it fast."""
    contents = read_weights(path)
    config = Config.from_dict(contents["config"], str(path))
    return torch_backend(load_detector(contents, config, str(path)), config)


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models é")
    return {variant: checkpoint(variant, folder / f"{variant}.pt") for variant in VARIANTS}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 20, 3), np.uint8), (200, 120), interpolation=cv2.INTER_CUBIC)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    cv2.imwrite(str(path), image)
    return path


def test_replacing_an_earlier_file_is_said(best, tmp_path, capsys):
    weights, output = str(next(iter(best.values()))), str(tmp_path / "e")
    for layout, said in (("decoded", False), ("nms", True)):
        export(weights=weights, format=["onnx"], layout=layout, output=output)
        assert ("in place of the file that was there" in capsys.readouterr().out) == said


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", ["decoded", "raw"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_files_compute_what_the_model_computes(variant, layout, dynamic, best, tmp_path):
    """Against the network itself, batch normalisation not folded; dynamic ones also at another size and batch."""
    formats = ["onnx", "torchscript", "openvino"]
    files = export(
        weights=str(best[variant]), format=formats, layout=layout, dynamic=dynamic, output=str(tmp_path / "e")
    )
    reference = unfolded(best[variant])
    shapes = [(1, 96, 128)] + ([(3, 64, 160)] if dynamic else [])
    for shape in shapes:
        images = torch.rand(shape[0], 3, *shape[1:])
        boxes, scores = reference.run(images)
        for file in files:
            found = open_backend(file).run(images)
            assert torch.allclose(found[0], boxes, atol=0.05, rtol=1e-3), file
            assert torch.allclose(found[1], scores, atol=1e-4), file


@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_nms_in_the_graph(fmt, dynamic, best, tmp_path):
    limits = {"conf": 0.4, "nms_iou": 0.5, "max_det": 20}
    (file,) = export(
        weights=str(best["tiny"]),
        format=[fmt],
        layout="nms",
        dynamic=dynamic,
        batch_size=1 if dynamic else 2,
        output=str(tmp_path / "n"),
        **limits,
    )
    images = torch.rand(2, 3, 96, 128)
    boxes, scores = open_backend(best["tiny"]).run(images)
    found = open_backend(file).run(images)
    for box, score, each in zip(boxes, scores, found, strict=True):
        expected = Postprocess(0.4, 0.5, 20, multi_label=False).select(box, score)
        assert 0 < len(expected["labels"]) <= 20
        assert torch.equal(each["labels"], expected["labels"])
        assert torch.allclose(each["boxes"], expected["boxes"], atol=0.01)


def test_the_graph_is_folded_and_described(best, tmp_path):
    (file,) = export(weights=str(best["tiny"]), output=str(tmp_path / "e"))
    model = onnx.load(file)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["names"] == "{0: 'a', 1: 'b', 2: 'c'}"
    assert (metadata["stride"], metadata["task"], metadata["imgsz"]) == ("32", "detect", "[96, 128]")
    assert json.loads(metadata["metrics"]) == {"ap": 0.5}
    assert len(metadata["config_sha256"]) == 64
    assert [output.name for output in model.graph.output] == ["output0"]


@pytest.mark.parametrize("layout", ["decoded", "raw"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_half_weights_halve_the_file(layout, dynamic, best, tmp_path):
    flags = {"weights": str(best["tiny"]), "layout": layout, "dynamic": dynamic}
    (whole,) = export(**flags, output=str(tmp_path / "whole"))
    (half,) = export(**flags, half=True, output=str(tmp_path / "half"))
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    images = torch.rand(1, 3, 96, 128)
    (_, scores), found = open_backend(whole).run(images), open_backend(half).run(images)
    assert torch.allclose(found[1], scores, atol=2e-2)
    assert not torch.equal(found[1], scores)


@pytest.mark.parametrize("fmt", ["onnx", "openvino", "torchscript"])
def test_a_wrong_export_is_code_4_and_leaves_no_file(fmt, best, tmp_path, monkeypatch):
    def wrong(*arguments):
        network = engine_export_network(*arguments)
        with torch.no_grad():
            network.network.head.convs[0].bias.add_(0.5)
        return network

    engine_export_network = export_network.ExportNetwork
    monkeypatch.setattr(export_network, "ExportNetwork", wrong)
    with pytest.raises(ExportMismatch, match="differ by up to") as caught:
        export(weights=str(best["tiny"]), format=[fmt], output=str(tmp_path / "e"))
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


def test_opencv_reads_the_default_export(best, photo, tmp_path):
    for variant in VARIANTS:
        (file,) = export(weights=str(best[variant]), output=str(tmp_path / variant))
        images = torch.rand(1, 3, 96, 128)
        network = cv2.dnn.readNetFromONNX(str(file))
        network.setInput(images.numpy())
        boxes, scores = open_backend(best[variant]).run(images)
        output = network.forward()[0].T
        assert np.abs(output[:, 4:] - scores[0].numpy()).max() < 1e-3
        centers = (boxes[0, :, :2] + boxes[0, :, 2:]).numpy() / 2
        assert np.abs(output[:, :2] - centers).max() < 0.05


def rows_of(results):
    boxes = results[0].boxes
    return sorted(
        zip(boxes.cls.tolist(), boxes.conf.tolist(), boxes.xyxy.tolist(), strict=True), key=lambda row: -row[1]
    )


def assert_same(found, expected, pixels=0.5):
    assert len(found) == len(expected) > 0
    for (label, score, box), (true_label, true_score, true_box) in zip(found, expected, strict=True):
        assert label == true_label
        assert abs(score - true_score) < 1e-3
        assert np.abs(np.subtract(box, true_box)).max() < pixels


@needs_shared_data
@pytest.mark.parametrize("dynamic", [False, True])
def test_ultralytics_predicts_with_our_file(dynamic, tmp_path):
    """Square input, so that both letterbox alike, on a photo already of its size, so that both resize alike."""
    from ultralytics import YOLO  # offline and silent: detect imported the door first

    weights = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    files = export(weights=str(weights), format=["onnx"], imgsz=[320], dynamic=dynamic, output=str(tmp_path / "best"))
    photos = sorted((SHARED_DATA / "bccd" / "JPEGImages").glob("*.jpg"))[:6]
    ours = load(weights, imgsz=(320,), precision="float32")
    theirs = YOLO(str(files[0]), task="detect")
    for path in photos:
        image = cv2.imread(str(path))
        canvas = np.full((320, 320, 3), 114, np.uint8)
        canvas[40:280] = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
        expected = rows_of(ours(canvas[..., ::-1].copy()))
        found = rows_of(theirs.predict(canvas, imgsz=320, conf=0.25, iou=0.45, verbose=False, save=False))
        assert_same(found, expected)
        assert theirs.names == {0: "RBC", 1: "WBC", 2: "Platelets"}


@needs_shared_data
def test_ultralytics_validates_and_tracks_with_our_file(tmp_path):
    """On the data YAML that convert.py writes; its metric integrates otherwise, so its AP is near ours, not equal."""
    from ultralytics import YOLO

    weights = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    convert_voc(SHARED_DATA / "bccd", tmp_path / "bccd", names=["RBC", "WBC", "Platelets"], splits=["val"])
    folder = tmp_path / "bccd" / "images" / "val"
    for photo in sorted(folder.iterdir())[8:]:
        photo.unlink()
    yaml = tmp_path / "bccd" / "data.yaml"
    yaml.write_text(yaml.read_text() + "train: images/val\n")
    (file,) = export(weights=str(weights), format=["onnx"], imgsz=[320], output=str(tmp_path / "best"))
    ours = validate(weights=str(weights), data=str(yaml), imgsz=[320], project=str(tmp_path / "runs"), plots=False)
    theirs = YOLO(str(file), task="detect")
    common = {"imgsz": 320, "batch": 1, "verbose": False, "project": str(tmp_path / "theirs")}
    box = theirs.val(data=str(yaml), conf=0.001, iou=0.65, plots=False, workers=0, **common).box
    assert abs(box.map50 - ours.overall["ap50"]) < 0.03
    assert abs(box.map - ours.overall["ap"]) < 0.03
    frame = cv2.imread(str(sorted(folder.iterdir())[0]))
    first, second = (theirs.track(frame, persist=True, save=False, **common)[0].boxes.id for _ in range(2))
    assert len(first) and set(first.tolist()) <= set(second.tolist()), "the same cells keep their numbers"


@pytest.mark.parametrize("example", ["onnx_numpy.py", "opencv_dnn.py"])
def test_examples_find_what_detect_finds(example, best, photo, tmp_path):
    (file,) = export(weights=str(best["tiny"]), output=str(tmp_path / "best"))
    # Already at the network's scale: the two libraries' area filters differ by a grey level.
    image = cv2.resize(cv2.imread(str(photo)), (128, 77), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "small.png"), image)
    extra = ["96", "128", "a,b,c"] if example == "opencv_dnn.py" else []
    result = run(ROOT / "examples" / example, file, tmp_path / "small.png", *extra, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    found = [(NAMES.index(name), float(score), [float(side) for side in box]) for name, score, *box in lines]
    # The printed scores have three digits; boxes are compared within half a pixel, unclipped ones after clipping.
    clipped = [(label, score, np.clip(box, 0, [128, 77] * 2).tolist()) for label, score, box in found]
    expected = rows_of(load(best["tiny"], precision="float32")(str(tmp_path / "small.png")))
    assert len(found) == len(expected) > 0
    for label, score, box in expected:
        same = [row for row in clipped if row[0] == label and abs(row[1] - score) < 1.6e-3]
        assert any(np.abs(np.subtract(row[2], box)).max() < 0.5 for row in same), (label, score, box)


def test_safetensors_come_back(best, tmp_path):
    (file,) = export(weights=str(best["tiny"]), format=["safetensors"], output=str(tmp_path / "s"))
    back, original = read_weights(file), read_weights(best["tiny"])
    assert back["config"] == original["config"]
    assert all(torch.equal(back["model"][name], value) for name, value in original["model"].items())


@pytest.mark.parametrize(("fmt", "variant"), [("safetensors", "tiny"), ("darknet", "tiny-darknet")])
@pytest.mark.parametrize("size", [[64], [128, 64]])
def test_weights_alone_keep_the_size_that_they_were_exported_for(fmt, variant, size, best, tmp_path):
    (file,) = export(weights=str(best[variant]), format=[fmt], imgsz=size, output=str(tmp_path / "w"))
    assert open_backend(file).image_size == (size[0], size[-1])


def test_a_darknet_cfg_goes_with_darknet_weights_alone(best, tmp_path):
    (tmp_path / "x.cfg").write_text("[net]\n")
    (safe,) = export(weights=str(best["tiny"]), format=["safetensors"], output=str(tmp_path / "s"))
    for weights in (best["tiny"], safe):
        with pytest.raises(UserError, match=f"--cfg: for Darknet .weights, not {weights}"):
            export(weights=str(weights), cfg=str(tmp_path / "x.cfg"), output=str(tmp_path / "e"))
        with pytest.raises(UserError, match=f"--cutoff: for Darknet .weights, not {weights}"):
            import_weights(str(weights), cutoff=15, output=str(tmp_path / "e.pt"))
    assert {path.name for path in tmp_path.iterdir()} == {"x.cfg", "s.safetensors"}


@needs_shared_data
def test_darknet_export_is_the_imported_file(tmp_path):
    source = SHARED_DATA / "darknet" / "tiny-narrow.weights"
    (file,) = export(weights=str(source), format=["darknet"], output=str(tmp_path / "back"))
    assert file.read_bytes() == source.read_bytes()
    assert file.with_suffix(".cfg").read_bytes() == source.with_suffix(".cfg").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": ["onx"]}, "did you mean 'onnx'"),
        ({"imgsz": [100]}, "expected multiples of 32"),
        ({"format": ["torchscript"], "layout": "nms"}, "--layout nms: for onnx and openvino"),
        ({"format": ["darknet"]}, "decode: bounded"),
        ({"half": True, "layout": "nms"}, "--half with --layout nms: cannot be checked"),
        ({"half": True, "format": ["torchscript"]}, "--half: for onnx, openvino, safetensors and mnn"),
        ({"weights": "nowhere.pt"}, "weights not found"),
        ({"dynamic": True, "batch_size": 4}, "--batch-size 4: not with --dynamic, whose file takes any number"),
    ],
)
def test_mistakes(flags, message, best, tmp_path):
    with pytest.raises(UserError, match=message):
        export(**{"weights": str(best["tiny"]), "output": str(tmp_path / "e"), **flags})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "fmt"),
    [("onnx", "onnx"), ("onnx", "openvino"), ("onnxruntime", "onnx"), ("openvino", "openvino")]
    + [("safetensors.torch", "safetensors")],
)
def test_a_package_that_is_not_installed_is_named(package, fmt, best, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "engine.export.graph.onnx_graph", raising=False)
    flags = {"weights": str(best["tiny"]), "output": str(tmp_path / "e")}
    with pytest.raises(UserError, match=f"pip install {package.partition('.')[0]}"):
        export(**flags, format=[fmt])
    assert not list(tmp_path.iterdir())
    assert export(**flags, format=["torchscript"])[0].is_file()


@pytest.mark.parametrize("suffix", [".onnx", ".torchscript", ".xml", ".safetensors"])
def test_damaged_exports_end_in_one_line(suffix, photo, tmp_path):
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(b"not a model" * 20)
    result = run("detect.py", "--weights", file, "--source", photo)
    assert f"bad{suffix}" in one_line_error(result)


def test_the_folder_of_the_output_is_made_before_any_work(best, tmp_path):
    (file,) = export(weights=str(best["tiny"]), output=str(tmp_path / "new" / "deep" / "x.onnx"))
    assert file == tmp_path / "new" / "deep" / "x.onnx"
    assert file.is_file()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="--output: the folder .*taken cannot be made"):
        export(weights=str(best["tiny"]), output=str(tmp_path / "taken" / "x.onnx"))


@pytest.mark.parametrize("output", [".", "..", "/", "new/", "new/.."])
def test_an_output_is_a_file(output, best, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^--output {output}: a folder: expected a file to write"):
        export(weights=str(best["tiny"]), output=output)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_folder_without_a_slash_is_told(best, tmp_path):
    (tmp_path / "models").mkdir()
    flags = {"weights": str(best["tiny"]), "format": ["openvino"]}
    with pytest.raises(UserError, match="--output .*models: a folder: expected a file to write"):
        export(**flags, output=str(tmp_path / "models"))
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    # The folder of an earlier export is what is asked for.
    (made,) = export(**flags, output=str(tmp_path / "x"))
    assert export(**flags, output=str(made)) == [made]


@pytest.mark.parametrize("way", ["..", "link", "hard link", "its folder"])
def test_weights_are_not_replaced_by_another_name_of_theirs(way, best, tmp_path):
    (tmp_path / "deep").mkdir()
    (weights,) = export(weights=str(best["tiny"]), format=["safetensors"], output=str(tmp_path / "x"))
    before, output = weights.read_bytes(), tmp_path / "y"
    if way == "..":
        output = tmp_path / "deep" / ".." / "x"
    elif way == "link":
        output.with_suffix(".safetensors").symlink_to(weights)
    elif way == "hard link":
        output.with_suffix(".safetensors").hardlink_to(weights)
    else:
        (tmp_path / "linked").symlink_to(tmp_path)
        output = tmp_path / "linked" / "x"
    with pytest.raises(UserError, match="would replace the weights themselves: name another --output"):
        export(weights=str(weights), format=["safetensors"], output=str(output), half=True)
    assert weights.read_bytes() == before


def test_a_dot_in_the_name_of_the_output_is_no_suffix(best, tmp_path):
    for version in ("best_v1.5", "best_v1.6", "best_v1.5.safetensors"):
        export(weights=str(best["tiny"]), format=["safetensors"], output=str(tmp_path / version))
    assert {path.name for path in tmp_path.iterdir()} == {"best_v1.5.safetensors", "best_v1.6.safetensors"}


def test_no_folder_of_others_is_replaced(best, tmp_path, capsys):
    weights, output = str(best["tiny"]), str(tmp_path / "x")
    for folder in ("x.onnx", "x.cfg"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("mine")
    for fmt, folder in (("onnx", "x.onnx"), ("darknet", "x.cfg")):
        with pytest.raises(UserError, match=f"{folder}: is a folder, and would be a file: name another --output$"):
            export(weights=weights, format=[fmt], output=output)
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["mine.txt"]
    flags = {"weights": weights, "format": ["openvino"], "output": output}
    (made,) = export(**flags)
    export(**flags)
    assert "in place of the file that was there" in capsys.readouterr().out
    (made / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="x_openvino_model: holds notes.txt, not from export.py: name another"):
        export(**flags)
    assert {path.name for path in made.iterdir()} == {"x.xml", "x.bin", "metadata.yaml", "notes.txt"}
    (made / "notes.txt").unlink()
    (made / "metadata.yaml").write_text("author: somebody else\n")
    with pytest.raises(UserError, match="x_openvino_model: holds metadata.yaml, not from export.py"):
        export(**flags)
    (tmp_path / "y_openvino_model").write_text("a file")
    with pytest.raises(UserError, match="y_openvino_model: is no folder, and would be one"):
        export(**flags | {"output": str(tmp_path / "y")})
    assert (tmp_path / "y_openvino_model").read_text() == "a file"


@pytest.mark.parametrize("fmt", [name for name, entry in EXPORT_FORMATS.items() if entry.holds])
def test_a_folder_of_ours_is_replaced(fmt, best, tmp_path, capsys):
    for module, command in {**EXPORT_FORMATS[fmt].writes, **EXPORT_FORMATS[fmt].opens}.items():
        pytest.importorskip(module, reason=f"pip install {command}")
    flags = {"weights": str(best["tiny"]), "format": [fmt], "output": str(tmp_path / "x")}
    (made,) = export(**flags)
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert export(**flags) == [made]
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} == files
    assert "in place of the file that was there" in capsys.readouterr().out
