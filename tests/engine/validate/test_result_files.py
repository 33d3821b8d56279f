"""The files that val.py leaves: whole ones, metrics.json last, none of another validation, none lost."""

import shutil
from pathlib import Path

import pytest

from data.data_yaml import read_data_yaml
from data.formats.convert import convert_yolo
from data.shapes.demo_set import make_shapes
from engine.own_files import FOLDER
from engine.validate import html_report
from engine.validate.result_files import text_names
from tests.lively import lively_checkpoint
from utils.errors import UserError
from val import validate

SIZE = 96


@pytest.fixture
def data(tmp_path):
    return make_shapes(tmp_path / "shapes", seed=3, train=4, val=3, size=SIZE)


@pytest.fixture
def measure(data, tmp_path):
    """Validate into one folder, again and again, and return it."""
    names = read_data_yaml(str(data), tmp_path).names
    best = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, names, (SIZE, SIZE)
    )

    def run(**flags):
        given = {"data": str(data), "plots": False, "report": False, "workers": 0, "device": "cpu", **flags}
        validate(weights=str(best), project=str(tmp_path), name="out", exist_ok=True, **given)
        return tmp_path / "out"

    return run


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and FOLDER not in path.parts
    }


def test_nothing_of_an_earlier_validation_stays_beside_the_new_numbers(measure):
    first = files(measure(save_json=True, save_txt=True, report=True, plots=True))
    assert {"report.html", "detections.json", "ground_truth.json", "pr_curve.png", "val_batch0_truth.jpg"} < first
    assert sum(name.startswith("labels/") for name in first) == 3
    assert files(measure()) == {"metrics.json", "metrics.csv"}


def test_what_others_have_put_into_the_folder_stays(measure, data, tmp_path):
    convert_yolo(read_data_yaml(str(data), tmp_path), tmp_path / "coco")
    shutil.copytree(data.parent / "labels" / "val", tmp_path / "out" / "labels")
    truths = shutil.move(tmp_path / "coco" / "annotations" / "val.json", tmp_path / "out" / "ground_truth.json")
    named = tmp_path / "coco" / "data.yaml"
    named.write_text(named.read_text().replace(str(tmp_path / "coco" / "annotations" / "val.json"), str(truths)))
    before = files(tmp_path / "out")
    assert len(before) == 4
    assert files(measure(data=str(named))) == before | {"metrics.json", "metrics.csv"}
    with pytest.raises(UserError, match="--save-txt: .*labels holds labels that are not from val.py"):
        measure(save_txt=True)
    assert before < files(tmp_path / "out")


def test_metrics_are_written_last_and_no_file_in_parts(measure, monkeypatch, tmp_path):
    """Whoever finds metrics.json takes the validation for complete."""
    measure(report=True, save_json=True, save_txt=True)
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    assert max(times, key=times.__getitem__) == "metrics.json"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    measure(report=True, save_json=True, save_txt=True)
    monkeypatch.setattr(html_report, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(report=True)
    assert files(tmp_path / "out") == set()


def test_photos_of_one_stem_have_texts_of_their_own(measure, data):
    photos = sorted((data.parent / "images" / "val").iterdir())
    shutil.copy(photos[0], photos[1].with_suffix(".jpeg"))
    names = {
        path.relative_to("labels").as_posix() for path in map(Path, files(measure(save_txt=True))) if path.parts[1:]
    }
    alone = {f"{path.stem}.txt" for path in (photos[0], photos[2])}
    assert names == alone | {f"{photos[1].name}.txt", f"{photos[1].stem}.jpeg.txt"}


def test_no_two_photos_have_their_texts_under_one_name():
    photos = [Path(name) for name in ("x.jpg.png", "x.jpg", "x.png", "a.jpg", "a.jpg.png", "b/x.jpg", "x.jpg.png.tif")]
    expected = ["x.jpg.png", "x.jpg", "x.png", "a", "a.jpg", "b/x", "x.jpg.png.tif"]
    assert text_names(photos) == [Path(f"{name}.txt") for name in expected]
