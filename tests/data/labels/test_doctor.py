"""The data set's doctor: finds one of everything, believes nothing, writes nothing into the data set."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

import data.labels.doctor
from data.check import main
from data.data_yaml import read_data_yaml
from data.formats.coco_truths import noted_truths
from data.labels.doctor import ALL, Settings, examine
from data.split import load_split
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from utils.drawing.draw import write_image
from utils.errors import UserError

SETTINGS = Settings((640, 640), ((30.0, 30.0),), 4.0)


@pytest.fixture
def sick(tmp_path):
    """A data set with one of each defect."""
    root = tmp_path / "set"
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
    random = np.random.default_rng(0)

    def photo(name):
        write_image(root / "images" / f"{name}.png", random.integers(0, 255, (100, 100, 3), np.uint8))

    labels = {
        "train/fine": "0 .5 .5 .2 .2\n1 .5 .5 .3 .1\n",
        "train/class": "7 .5 .5 .2 .2\n",
        "train/words": "0 .5 .5 .2 two\n",
        "train/pixels": "0 900 500 1920 300\n",
        "train/edge": "0 .1 .5 .21 .2\n",
        "train/flat": "0 .5 .5 .2 0\n",
        "train/twice": "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n",
        "train/tiny": "0 .5 .5 .002 .2\n",
        "train/empty": "\n",
        "train/broken": "0 .5 .5 .2 .2\n",
        "train/deep": "0 .5 .5 .2 .2\n",
        "train/turned": "0 .5 .2 .8 .5 .5 .8 .2 .5\n",
        "train/slender": "0 .5 .5 .9 .01\n",
        "val/fine": "0 .5 .5 .2 .2\n2 .5 .5 .2 .2\n",
        "val/copy": "0 .5 .5 .2 .2\n",
    }
    for name, text in labels.items():
        photo(name)
        (root / "labels" / f"{name}.txt").write_text(text)
    (root / "images" / "train" / "deep.png").unlink()
    cv2.imwrite(str(root / "images" / "train" / "deep.png"), random.integers(0, 4096, (90, 90), np.uint16))
    photo("train/unlabelled")
    write_image(root / "images" / "train" / "tiny.bmp", random.integers(0, 255, (90, 90, 3), np.uint8))
    (root / "labels" / "train" / "unseen.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "images" / "train" / "broken.png").write_bytes(b"no picture")
    shutil.copy(root / "images" / "train" / "fine.png", root / "images" / "val" / "copy.png")
    shutil.copy(root / "images" / "train" / "fine.png", root / "images" / "train" / "again.png")
    (root / "labels" / "train" / "again.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "notes.json").write_text('{"categories": [], "info": {"contributor": "Label Studio"}}')
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog, cow, owl]\n"
    )
    return root


EXPECTED = {
    "malformed line": "words.txt:1",
    "class id": "class.txt:1",
    "out of range": "pixels.txt:1",
    "slightly out of range": "edge.txt:1",
    "no area": "flat.txt:1",
    "duplicate": "twice.txt:2",
    "below 2 pixels": "tiny.txt:1",
    "deep photo": "deep.png",
    "rotated boxes": "turned.txt:1",
    "shared label": "tiny.png",
    "empty label file": "empty.txt",
    "unreadable photo": "broken.png",
    "missing label": "unlabelled.png",
    "missing photo": "unseen.txt",
    "missing split": "images/test",
    "shared photo": "val/copy.png",
    "repeated photo": "train/",
    "class not in train": "cow",
    "class without labels": "cow",
    "anchors": "data.yaml",
    "tool": "data.yaml",
}


def checkup(root, tmp_path, **options):
    return examine(read_data_yaml(str(root / "data.yaml"), tmp_path), SETTINGS, tmp_path / "cache", **options)


def contents(root):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


WHOLE = ("key points or polygons", "no label file", "no usable label", "annotations")


def test_every_kind_has_its_example():
    assert {*EXPECTED, *WHOLE} == set(data.labels.doctor.KINDS)


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_kind_is_found_where_it_is(kind, sick, tmp_path):
    found = [finding for finding in checkup(sick, tmp_path, decode=ALL).findings if finding.kind == kind]
    assert any(EXPECTED[kind] in finding.where for finding in found), found
    if kind not in ("class without labels", "below 2 pixels", "anchors"):
        assert len(found) == 1
    if kind == "out of range":
        assert "values up to 1920: pixels?" in found[0].details


def test_what_training_has_read_is_not_read_again(sick, tmp_path, monkeypatch):
    """The labels of a split that is loaded already are judged once, and the doctor says the same about them."""
    for name, text in (("class", "1 .5 .5 .2 .2\n"), ("words", "0 .5 .5 .2 .2\n")):
        (sick / "labels" / "train" / f"{name}.txt").write_text(text)
    spec = read_data_yaml(str(sick / "data.yaml"), tmp_path)
    alone = examine(spec, SETTINGS, cached=False)
    loaded = {split: load_split(spec, split, tmp_path / "labels-cache") for split in ("train", "val")}
    again = {split: load_split(spec, split, tmp_path / "labels-cache") for split in ("train", "val")}
    monkeypatch.setattr("data.labels.index.parse_labels", None)
    for indexes in (loaded, again):
        assert examine(spec, SETTINGS, tmp_path / "cache", cached=False, loaded=indexes) == alone


def test_nothing_is_written_into_a_read_only_set(sick, tmp_path):
    before = contents(tmp_path)
    for path in [*sick.rglob("*"), sick]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    checkup(sick, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    for path in [sick, *sick.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert contents(tmp_path) == before


def test_the_second_time_is_from_the_cache_until_something_changes(sick, tmp_path, monkeypatch):
    first = checkup(sick, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("data.labels.index.parse_labels", None)
        assert checkup(sick, tmp_path) == first
    (sick / "labels" / "train" / "flat.txt").write_text("0 .5 .5 .2 .25\n")
    assert "no area" not in checkup(sick, tmp_path).counts()
    for cache in (tmp_path / "cache").iterdir():
        cache.write_text("[" * 10_000)
    assert "no area" not in checkup(sick, tmp_path).counts()


@needs_shared_data
def test_coco128_as_its_readme_says(tmp_path):
    spec = read_data_yaml("coco128", SHARED_DATA)
    found = examine(spec, SETTINGS, tmp_path)
    places = {kind: [each.where for each in found.findings if each.kind == kind] for kind in found.counts()}
    assert [place[-7:] for place in places["missing label"]] == ["250.jpg", "508.jpg"]
    assert [place[-7:] for place in places["missing photo"]] == ["656.txt", "659.txt"]
    assert not found.errors
    assert "shared photo" not in places


@needs_shared_data
def test_bccd_as_its_readme_says(tmp_path):
    """Labels written here without any check: the doctor finds the two boxes without area."""
    names = ["RBC", "WBC", "Platelets"]
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").symlink_to(SHARED_DATA / "bccd" / "JPEGImages")
    for path in (SHARED_DATA / "bccd" / "Annotations").glob("*.xml"):
        lines = []
        for item in ElementTree.parse(path).iterfind("object"):
            x1, y1, x2, y2 = (int(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            box = ((x1 + x2) / 1280, (y1 + y2) / 960, (x2 - x1) / 640, (y2 - y1) / 480)
            lines.append(f"{names.index(item.findtext('name'))} {' '.join(f'{value:.6f}' for value in box)}\n")
        (tmp_path / "labels" / f"{path.stem}.txt").write_text("".join(lines))
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    assert checkup(tmp_path, tmp_path).counts()["no area"] == 2


def test_the_command_writes_csv_and_json(sick, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main(
        [
            str(sick / "data.yaml"),
            "--csv",
            str(tmp_path / "f.csv"),
            "--json",
            str(tmp_path / "f.json"),
            "--imgsz",
            "320",
        ]
    )
    said = capsys.readouterr().out
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((tmp_path / "f.json").read_text())
    assert len(rows) == len(document["findings"])
    assert document["counts"]["malformed line"] == 1
    assert document["splits"]["val"]["per_class"] == {"cat": 2, "dog": 0, "cow": 1, "owl": 0}
    assert all(kind in said for kind in document["counts"])
    with pytest.raises(UserError, match="cannot be used; the first: .*words.txt:1"):
        main([str(sick / "data.yaml"), "--bad-labels", "error"])


def test_help_and_mistakes_need_no_torch(tmp_path):
    script = "import sys\nfrom data.check import main\n"
    script += "try:\n    main(['--help'])\nexcept SystemExit:\n    assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == 0
    result = subprocess.run(
        [sys.executable, "-m", "data.check", "nowhere.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("policy", "boxes"), [("mend", 2), ("clip", 3), ("skip", 1), ("error", None)])
def test_what_is_done_about_boxes_beyond_the_photo(policy, boxes, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((100, 100, 3), np.uint8))
    (tmp_path / "a.txt").write_text("0 .5 .5 .2 .2\n0 .1 .5 .21 .2\n0 0 .5 .5 .2\n0 1.5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("val: .\nnames: [cat]\n")
    spec = read_data_yaml(str(tmp_path / "data.yaml"), tmp_path)
    if boxes is None:
        with pytest.raises(UserError, match=r"a.txt:2: box beyond the image, and 2 more"):
            load_split(spec, "val", tmp_path / "cache", policy)
        return
    index = load_split(spec, "val", tmp_path / "cache", policy)
    assert len(index.boxes) == boxes
    assert index.boxes.min() >= 0
    assert index.boxes.max() <= 100


def test_photos_that_nobody_can_decode_are_found_as_training_would_find_them(tmp_path, monkeypatch):
    """Their headers are right; a copy was cut off. A sample is decoded unless all are asked for, and that is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        write_image(path, random.integers(0, 255, (60, 60, 3), np.uint8))
        (tmp_path / "images" / f"{number}.txt").write_text("0 .5 .5 .2 .2\n")
        if number % 2:
            path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    (tmp_path / "labels").symlink_to(tmp_path / "images")
    assert not checkup(tmp_path, tmp_path).errors
    for decode in (ALL, 6):
        found = checkup(tmp_path, tmp_path, decode=decode)
        assert [Path(finding.where).name for finding in found.errors] == ["1.png", "3.png", "5.png"]
        assert {finding.details for finding in found.errors} == {"cannot be decoded"}
        assert found.splits["train"]["decoded"] == 6
    assert checkup(tmp_path, tmp_path, decode=2).splits["train"]["decoded"] == 2
    assert checkup(tmp_path, tmp_path, decode=ALL).errors
    with monkeypatch.context() as patch:
        patch.setattr("data.labels.doctor.used_bits", None)
        assert checkup(tmp_path, tmp_path, decode=ALL).errors, "from the cache"


def test_a_model_without_anchors_of_its_own_has_no_recall_and_no_finding(sick, tmp_path):
    spec = read_data_yaml(str(sick / "data.yaml"), tmp_path)
    found = examine(spec, Settings((640, 640), (), 4.0), tmp_path / "cache")
    assert "anchors" not in found.counts()
    assert [numbers["best_possible_recall"] for numbers in found.splits.values()] == [None, None]


def found_in(root, tmp_path, split):
    """What the doctor finds in one split: kind, where and details."""
    found = checkup(root, tmp_path, cached=False).findings
    return {each.kind: each[2:] for each in found if each.split == split}


POSE = "0 .5 .5 .2 .3 .45 .4 2 .55 .4 2 .55 .6 2 0 0 0\n"


def test_rows_that_training_refuses_as_unclear_are_an_error_once_a_split(sick, tmp_path):
    for name in ("fine", "copy"):
        (sick / "labels" / "val" / f"{name}.txt").write_text(f"0 .5 .5 .2 .2\n{POSE}")
    where, details = found_in(sick, tmp_path, "val")["key points or polygons"]
    assert where.endswith("copy.txt:2")
    assert details.startswith("this row, as all 2 of more than 5 numbers, could be a box with key points or a polygon")
    assert "key points or polygons" not in found_in(sick, tmp_path, "train"), "its long row is none"
    (sick / "data.yaml").write_text((sick / "data.yaml").read_text() + "task: segment\n")
    assert "key points or polygons" not in found_in(sick, tmp_path, "val")


@pytest.mark.parametrize(("bad_labels", "text"), [("mend", "0 .5 .5 0 .2\n"), ("skip", "0 .1 .5 .21 .2\n")])
def test_a_split_without_any_usable_label_is_an_error(bad_labels, text, sick, tmp_path):
    for file in (sick / "labels" / "val").iterdir():
        file.write_text(text)
    spec = read_data_yaml(str(sick / "data.yaml"), tmp_path)
    found = examine(spec, SETTINGS._replace(bad_labels=bad_labels), cached=False)
    (where,) = [each.where for each in found.errors if each.split == "val"]
    assert where.endswith("copy.txt:1")
    with pytest.raises(UserError, match=r"none of the 2 boxes in the label files can be used: .*copy.txt:1"):
        load_split(spec, "val", tmp_path / "index", bad_labels)


def test_a_split_without_label_files_is_one_error_unless_it_has_annotations(sick, tmp_path):
    shutil.rmtree(sick / "labels" / "val")
    found = found_in(sick, tmp_path, "val")
    where, details = found["no label file"]
    assert where.endswith("labels/val")
    assert details.startswith("no label file found for any of 2 images")
    assert "missing label" not in found, "one line in place of one a photo"
    (sick / "data.yaml").write_text((sick / "data.yaml").read_text() + "annotations:\n  val: val.json\n")
    assert not {"no label file", "missing label"} & set(found_in(sick, tmp_path, "val"))


def test_an_annotation_file_that_cannot_be_measured_against_is_an_error_until_it_is_mended(sick, tmp_path):
    def found(**options):
        return [each[1:] for each in checkup(sick, tmp_path, **options).findings if each.kind == "annotations"]

    path = sick / "val.json"
    (sick / "data.yaml").write_text((sick / "data.yaml").read_text() + "annotations:\n  val: val.json\n")
    ((split, where, details),) = found(truths_of=noted_truths)
    assert (split, where) == ("val", str(path))
    assert "annotations: val: no such file" in details
    photos = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(("fine", "copy"))]
    document = {"images": photos, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(document))
    ((_, _, details),) = found(truths_of=noted_truths)
    assert details.startswith("no category is called dog")
    assert found() == [], "a training opens the file itself"
    document["categories"] = [{"id": number, "name": name} for number, name in enumerate(("cat", "dog", "cow", "owl"))]
    path.write_text(json.dumps(document))
    assert found(truths_of=noted_truths) == [], "the cache knows the file's size and time"


def test_ids_that_are_counted_from_one_are_told(sick, tmp_path):
    for folder in ("train", "val"):
        for file in (sick / "labels" / folder).iterdir():
            file.write_text("1 .5 .5 .2 .2\n4 .5 .5 .1 .1\n")
    found = [each for each in checkup(sick, tmp_path).findings if each.kind == "class id"]
    assert found
    assert all("valid are 0 to 3 (they look 1-based: the first class is 0)" in each.details for each in found)
