"""The table of export formats: every entry is whole, and flags that nothing would read are refused before torch."""

from pathlib import Path

import pytest

from engine.export.format import Format, format_named
from export import export
from utils.config.export_formats import EXPORT_FORMATS, format_of_path, without_suffix
from utils.errors import UserError


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_entry_has_a_writer_and_an_opener(name):
    found = format_named(name)
    assert isinstance(found, Format)
    assert (found.facts.name, callable(found.writer), callable(found.opener)) == (name, True, True)


def test_a_file_is_told_by_its_name(tmp_path):
    suffixes = [entry.suffix for entry in EXPORT_FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes)
    for name, entry in EXPORT_FORMATS.items():
        found = format_of_path(Path(f"best{entry.suffix}"))
        assert found is (EXPORT_FORMATS[name] if entry.graph else None)
    assert format_of_path(Path("best_openvino_model/best.xml")).name == "openvino"
    assert format_of_path(Path("best.pt")) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": ["safetensors"], "layout": "raw"}, "--layout: safetensors: the weights alone"),
        ({"format": ["darknet", "safetensors"], "dynamic": True}, "--dynamic: darknet and safetensors: the weights"),
        ({"format": ["safetensors"], "batch_size": 2}, "--batch-size: safetensors"),
        ({"format": ["torchscript"], "opset": 17}, "--opset: for onnx"),
        ({"conf": 0.5}, "--conf: for --layout nms"),
        ({"nms_iou": 0.5}, "--nms-iou: for --layout nms"),
        ({"max_det": 5}, "--max-det: for --layout nms"),
        ({"int8": True, "calibrate": "shapes", "source": "photos"}, "--source: not with --int8, whose file"),
    ],
)
def test_a_flag_that_nothing_reads_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        export(weights="nowhere.pt", **flags)


@pytest.mark.parametrize("name", ["tensorrt", "TensorRT", "engine"])
def test_tensorrt_is_sent_to_onnx_and_trtexec(name):
    """It is near to `safetensors` by its letters alone."""
    with pytest.raises(UserError, match=rf"--format is '{name}': for TensorRT export onnx, then run trtexec ") as error:
        export(weights="nowhere.pt", format=["onnx", name])
    assert all(each in str(error.value).partition("formats:")[2] for each in EXPORT_FORMATS)


@pytest.mark.parametrize("name", ["best", "best_v1.5", "best.v2", "yolov3.conv.15"])
def test_only_a_known_suffix_is_cut_off(name):
    for suffix in ("", ".pt", ".PT", ".pth", *(entry.suffix for entry in EXPORT_FORMATS.values())):
        assert without_suffix(name + suffix) == name
    assert without_suffix(".pt") == ".pt"


def test_a_folder_is_described_by_its_files():
    for entry in EXPORT_FORMATS.values():
        assert bool(entry.holds) == entry.suffix.endswith(("_model", ".mlpackage"))
