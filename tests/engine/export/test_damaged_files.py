"""Exports that cannot be written, exported files that are damaged or not ours: one line, nothing half-written."""

import zipfile
from pathlib import Path

import pytest

from engine.export.backend import from_metadata
from engine.export.runtimes import open_backend
from export import export
from tests.lively import lively_checkpoint
from utils.errors import UserError

OURS = {
    "names": "{0: 'a'}", "imgsz": "[96, 96]", "batch": "1", "stride": "32", "args": "{'dynamic': False}",
    "layout": "decoded", "model": '{"decode": "bounded", "xy_reach": 0.5}',
}  # fmt: skip


@pytest.fixture
def best(tmp_path):
    return lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, ("a", "b"), (32, 32))


@pytest.mark.parametrize(
    "changes",
    [{"names": "['a']"}, {"names": "3"}, {"names": "{1: 'a'}"}, {"args": "[]"}, {"model": "[1]"}, {"imgsz": "x("}],
    ids=str,
)
def test_metadata_that_is_not_ours_is_one_line(changes):
    assert from_metadata(Path("x"), OURS, lambda images: []).names == ("a",)
    with pytest.raises(UserError, match="x: not exported by this project"):
        from_metadata(Path("x"), {**OURS, **changes}, lambda images: [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"val_settings": "{'conf': 7}"}, "conf is 7.0: expected 0 to 1"),
        ({"val_settings": "{'nms_iou': 'a\\nb'}"}, "nms_iou is 'a.b': expected a number"),
        ({"val_settings": "{'max_det': True}"}, "max_det is 'True'"),
        ({"val_settings": "{'max_pixels': 0}"}, "max_pixels is 0"),
        ({"val_settings": "{'bad_labels': 'hide'}"}, "bad_labels is 'hide'"),
        ({"val_settings": "{'project': '/'}"}, "val_settings 'project'"),
        ({"val_settings": "[1]"}, r"val_settings \[1\]"),
        ({"photo_bits": "-4"}, "photo_bits is -4: expected 0 to 32"),
        ({"photo_bits": "3"}, "photo_bits is 3"),
    ],
    ids=str,
)
def test_settings_of_the_run_that_cannot_be_are_one_line(changes, told):
    """Those of a file without them, as older versions wrote, are the defaults."""
    assert from_metadata(Path("x"), OURS, lambda images: []).run_settings == {"photo_bits": 0}
    with pytest.raises(UserError, match=f"x: not exported by this project .*{told}") as caught:
        from_metadata(Path("x"), {**OURS, **changes}, lambda images: [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torchscript", "safetensors"])
def test_a_full_disk_leaves_the_file_of_before(name, best, monkeypatch):
    (path,) = export(weights=str(best), format=[name])
    before = path.read_bytes()

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        export(weights=str(best), format=[name])
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} == {"best.pt", path.name}


def test_a_flipped_bit_of_a_torchscript_file_is_seen(best):
    (path,) = export(weights=str(best), format=["torchscript"])
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda each: each.file_size)
    whole[part.header_offset + 500] ^= 4
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"damaged \(the check sum of "):
        open_backend(path)
