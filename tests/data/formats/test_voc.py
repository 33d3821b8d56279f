"""VOC folders to YOLO: the boxes come back, everything dropped is listed, and wrong input leaves nothing behind."""

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from torchvision.datasets import VOCDetection

import convert
from data.data_yaml import label_path, list_images, read_data_yaml
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_voc
from data.formats.reading import BadAnnotation
from data.formats.voc.xml_file import read_annotation
from data.formats.write import yolo as yolo_set
from data.split import load_split
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from utils.errors import UserError

BCCD = SHARED_DATA / "bccd"


BY_VOC = "<database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation><image>flickr</image>"
BY_LABELIMG = "<database>Unknown</database>"


def xml(
    *objects: str,
    size: str | None = "<width>40</width><height>20</height>",
    photo: str = "",
    source: str = BY_VOC,
) -> str:
    """An annotation; an object is `name xmin ymin xmax ymax` and may end with `difficult`."""
    parts = [f"<filename>{photo}</filename>", f"<size>{size}</size>" if size is not None else ""]
    parts.append(f"<source>{source}</source>")
    for text in objects:
        name, *corners = text.removesuffix(" difficult").split(" ")
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        difficult = int(text.endswith(" difficult"))
        parts.append(f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def make_voc(root: Path, annotations: dict[str, str], sets: dict[str, str] | None = None, photos=None) -> Path:
    """A VOC folder of 40 x 20 photos, one per annotation unless `photos` names them."""
    (root / "Annotations").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for name, text in annotations.items():
        (root / f"Annotations/{name}.xml").write_text(text, "utf-8")
    for name in photos if photos is not None else [f"{name}.jpg" for name in annotations]:
        cv2.imencode(Path(name).suffix, np.full((20, 40, 3), 99, np.uint8))[1].tofile(root / "JPEGImages" / name)
    for split, lines in (sets or {}).items():
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text(lines, "utf-8")
    return root


def convert_one(tmp_path: Path, *objects: str, **options):
    """Converts a VOC folder of one photo with these objects, and an unsuspicious box from pixel 1."""
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 40 20", *objects)})
    conversion = convert_voc(source, None, **options)
    found = [(finding.action, finding.reason, finding.object) for finding in conversion.findings]
    return [item[:5] for item in conversion.photos[0].objects[1:]], found


def pixels(label: Path, width: float, height: float) -> np.ndarray:
    """The rows (class, x1, y1, x2, y2) of a label file."""
    rows = np.loadtxt(label, ndmin=2).reshape(-1, 5)
    center, size = rows[:, 1:3] * (width, height), rows[:, 3:] * (width, height)
    return np.hstack([rows[:, :1], center - size / 2, center + size / 2])


def corners(found: dict) -> list[int]:
    """The corners of an object as torchvision's VOC reader gives it."""
    return [int(found["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]


@needs_shared_data
def test_bccd_boxes_come_back(tmp_path):
    target = tmp_path / "bccd"
    conversion = convert_voc(BCCD, target)
    spec = read_data_yaml(str(target / "data.yaml"), tmp_path)
    assert spec.names == ("Platelets", "RBC", "WBC")
    boxes = 0
    for split, count in (("train", 205), ("val", 87), ("test", 72)):
        images = list_images(spec, split)
        assert len(images) == count == conversion.counts()[split]["images"]
        assert [path.stem for path in images] == sorted((BCCD / f"ImageSets/Main/{split}.txt").read_text().split())
        for image in images:
            root = ElementTree.parse(BCCD / f"Annotations/{image.stem}.xml").getroot()
            found = VOCDetection.parse_voc_xml(root)["annotation"]
            expected = [(spec.names.index(item["name"]), *corners(item)) for item in found["object"]]
            expected = np.array([row for row in expected if row[3] > row[1] and row[4] > row[2]])
            rows = pixels(label_path(spec, image), int(found["size"]["width"]), int(found["size"]["height"]))
            np.testing.assert_allclose(rows, expected, atol=1e-3)
            boxes += len(rows)
    assert boxes == 4888 - 2
    report = json.loads((target / "report.json").read_text("utf-8"))
    assert report["pixel_origin"] == (
        "0 (0 of 364 annotations name the VOC challenge as their source; other tools, such as labelImg, count from 0)"
    )
    assert report["found"] == [{"action": "dropped", "reason": "box without area", "count": 2}]
    rows = list(csv.DictReader((target / "report.csv").open(encoding="utf-8")))
    assert {row["file"] for row in rows} == {"BloodImage_00338.xml", "BloodImage_00343.xml"}


@needs_shared_data
def test_bccd_with_names_and_one_split():
    conversion = convert_voc(BCCD, None, names=["WBC", "RBC"], splits=["test"])
    assert conversion.counts() == {"test": {"images": 72, "boxes": 876, "per_class": {"WBC": 71, "RBC": 805}}}


def test_pixels_counted_from_one_or_from_zero(tmp_path):
    objects, _ = convert_one(tmp_path / "one", "dog 11 6 20 10")
    assert objects == [(1, 15 / 40, 7.5 / 20, 10 / 40, 5 / 20)]
    objects, _ = convert_one(tmp_path / "asked", "dog 11 6 20 10", pixel_origin="0")
    assert objects == [(1, 15.5 / 40, 8 / 20, 9 / 40, 4 / 20)]
    objects, found = convert_one(tmp_path / "zero", "dog 11 6 20 10", "dog 0 3 5 9")
    assert objects == [(1, 15.5 / 40, 8 / 20, 9 / 40, 4 / 20), (1, 2.5 / 40, 6 / 20, 5 / 40, 6 / 20)]
    assert not found


@pytest.mark.parametrize(
    ("sources", "origin"),
    [
        ([BY_VOC], 1),
        (["<database>The VOC2008 Database</database><annotation>PASCAL VOC2008</annotation>"], 1),
        ([BY_LABELIMG], 0),
        ([""], 0),
        (["<database>my own VOC files</database>"], 0),
        ([BY_VOC, BY_VOC, BY_LABELIMG], 1),
        ([BY_VOC, BY_LABELIMG, BY_LABELIMG], 0),
    ],
)
def test_who_annotated_decides_where_pixels_start(sources, origin, tmp_path):
    """The coordinates are the same, from 1 to the photo's sides: labelImg writes each 0 as a 1."""
    texts = {f"{number}": xml("cat 1 1 40 20", source=source) for number, source in enumerate(sources)}
    conversion = convert_voc(make_voc(tmp_path / "voc", texts), None)
    assert conversion.facts["pixel_origin"].startswith(f"{origin} (")
    (item,) = conversion.photos[0].objects
    assert item[3:5] == ((40 - (1 - origin)) / 40, (20 - (1 - origin)) / 20)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("dog 5 5 5 9", "box without area"),
        ("dog 9 9 5 5", "box without area"),
        ("dog 41 5 60 9", "box outside the photo"),
        ("dog 5 5 x 9", "box is not four numbers"),
        ("dog 5 5 nan 9", "box is not four numbers"),
        ("dog 5 5 inf 9", "box is not four numbers"),
        ("dog 5 5 9", "box is not four numbers"),
        (" 5 5 9 9", "object without a name"),
        ("dog 5 5 9 9 difficult", "difficult (--keep-difficult keeps such objects)"),
    ],
)
def test_dropped_and_listed(tmp_path, item, reason):
    objects, found = convert_one(tmp_path, item)
    assert objects == []
    assert found == [("dropped", reason, f"2 {item.split(' ')[0]}")]


def test_clipped_and_listed(tmp_path):
    objects, found = convert_one(tmp_path, "dog 31 -4 44.5 10")
    assert objects == [(1, 35 / 40, 5 / 20, 10 / 40, 10 / 20)]
    assert found == [("clipped", "box reaches beyond the photo", "2 dog")]


def test_difficult_objects_can_be_kept(tmp_path):
    objects, found = convert_one(tmp_path, "dog 5 5 9 9 difficult", keep_difficult=True)
    assert len(objects) == 1
    assert not found


def test_other_classes_are_listed(tmp_path):
    objects, found = convert_one(tmp_path, "dog 5 5 9 9", "cow 5 5 9 9", names=["dog", "cat"])
    assert [label for label, *_ in objects] == [0]
    assert found == [("dropped", "class not among the names", "3 cow")]


@pytest.mark.parametrize("size", [None, "", "<width>0</width><height>0</height>", "<width>x</width>"])
def test_missing_size_is_read_from_the_photo(tmp_path, size):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 11 6 20 10", size=size)})
    conversion = convert_voc(source, None)
    assert [item[:5] for item in conversion.photos[0].objects] == [(0, 15 / 40, 7.5 / 20, 10 / 40, 5 / 20)]
    assert [finding.values for finding in conversion.findings] == ["40x20"]


def test_another_size_is_noted_or_refused(tmp_path):
    double, turned = "<width>80</width><height>40</height>", "<width>20</width><height>40</height>"
    source = make_voc(
        tmp_path / "voc", {"a": xml("cat 21 11 40 20", size=double), "b": xml("cat 1 1 9 9", size=turned)}
    )
    conversion = convert_voc(source, None)
    assert [[item[:5] for item in photo.objects] for photo in conversion.photos] == [
        [(0, 30 / 80, 15 / 40, 20 / 80, 10 / 40)]
    ]
    listed = [(finding.action, finding.file, finding.values) for finding in conversion.findings]
    assert ("noted", "a.jpg", "annotation 80x40, photo 40x20") in listed
    assert ("dropped photo", "b.xml", "annotation 20x40, photo 40x20") in listed


def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + xml("&b; 1 1 9 9")
    annotations = {
        "good": xml("cat 1 1 9 9"),
        "empty": xml(),
        "broken": "<annotation><object>",
        "bomb": bomb,
        "photoless": xml("cat 1 1 9 9"),
        "undecodable": xml("cat 1 1 9 9"),
        "named": xml("cat 1 1 9 9", photo="other name.png"),
        "twin": xml("cat 1 1 9 9", photo="good.jpg"),
    }
    photos = ["good.jpg", "empty.jpg", "broken.jpg", "bomb.jpg", "other name.png"]
    lines = "\n".join([*annotations, "absent  1", "../good", ""])
    source = make_voc(tmp_path / "voc", annotations, {"train": lines, "val": "good -1\r\n"}, photos)
    (source / "JPEGImages/undecodable.jpg").write_bytes(b"no photo")
    conversion = convert_voc(source, tmp_path / "out")
    assert [(photo.split, photo.photo.name) for photo in conversion.photos] == [
        ("train", "good.jpg"),
        ("train", "empty.jpg"),
        ("train", "other name.png"),
        ("val", "good.jpg"),
    ]
    assert (tmp_path / "out/labels/train/empty.txt").read_text() == ""
    listed = {finding.file: finding.reason for finding in conversion.findings}
    assert listed.pop("undecodable.xml")
    assert listed == {
        "broken.xml": "annotation is no XML",
        "bomb.xml": "annotation with a document type, entities or NUL bytes",
        "photoless.xml": "photo missing in JPEGImages",
        "twin.xml": "photo belongs to another annotation already",
        "absent.xml": "annotation missing",
        "../good.xml": "not a file name in the image set",
        "good.jpg": "the photo is in two splits",
    }


def test_entities_in_another_encoding_are_refused(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>'
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(BadAnnotation):
        read_annotation(tmp_path / "a.xml")


def test_a_huge_annotation_is_refused_unread(tmp_path):
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(BadAnnotation, match="too large"):
        read_annotation(tmp_path / "a.xml")


def test_a_devkit_gives_splits_by_year(tmp_path):
    for year in ("2007", "2012"):
        sets = {"train": f"t{year}", "val": f"v{year}", "trainval": f"t{year}\nv{year}"}
        names = {f"t{year}": xml("cat 1 1 9 9"), f"v{year}": xml("dog 1 1 9 9")}
        make_voc(tmp_path / f"in/VOCdevkit/VOC{year}", names, sets)
    conversion = convert_voc(tmp_path / "in", tmp_path / "out")
    assert list(conversion.counts()) == ["train2007", "val2007", "train2012", "val2012"]
    assert not conversion.findings
    spec = read_data_yaml(str(tmp_path / "out/data.yaml"), tmp_path)
    assert [path.name for path in list_images(spec, "train")] == ["t2007.jpg", "t2012.jpg"]
    conversion = convert_voc(tmp_path / "in/VOCdevkit", None, splits=["trainval"])
    assert {split: counts["images"] for split, counts in conversion.counts().items()} == {
        "train2007": 2,
        "train2012": 2,
    }


def test_without_image_sets_all_is_train(tmp_path):
    conversion = convert_voc(make_voc(tmp_path / "voc", {"b": xml("cat 1 1 9 9"), "a": xml()}), None)
    assert [(photo.split, photo.photo.name) for photo in conversion.photos] == [("train", "a.jpg"), ("train", "b.jpg")]
    assert "val:" in conversion.facts["validation"]


@pytest.mark.parametrize("mode", yolo_set.IMAGE_MODES)
def test_photos_are_linked_copied_or_listed(tmp_path, mode):
    source = make_voc(tmp_path / "Füße", {"ö ü": xml("cat 11 6 20 10")}, {"train": "ö ü", "val": "ö ü"})
    convert_voc(source, tmp_path / "out", images=mode)
    spec = read_data_yaml(str(tmp_path / "out/data.yaml"), tmp_path)
    (image,) = list_images(spec, "train")
    assert image.samefile(source / "JPEGImages/ö ü.jpg") == (mode != "copy")
    assert image.is_relative_to(source) == (mode == "list")
    assert image.read_bytes() == (source / "JPEGImages/ö ü.jpg").read_bytes()
    np.testing.assert_allclose(pixels(label_path(spec, image), 40, 20), [[0, 10, 5, 20, 10]], atol=1e-4)


def test_links_across_devices_become_copies(tmp_path, monkeypatch):
    def across_devices(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across_devices)
    convert_voc(make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")}), tmp_path / "out")
    assert (tmp_path / "out/images/train/a.jpg").stat().st_nlink == 1


def test_the_source_stays_as_it_is(tmp_path):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")})
    for target in (source, source / "yolo"):
        with pytest.raises(UserError, match="source folder"):
            convert_voc(source, target, exist_ok=True)
    assert sorted(path.name for path in source.iterdir()) == ["Annotations", "JPEGImages"]


def test_existing_targets(tmp_path):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")})
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").touch()
    for exist_ok in (False, True):
        with pytest.raises(UserError, match=str(target)):
            convert_voc(source, target, exist_ok=exist_ok)
    (target / "thesis.txt").unlink()
    convert_voc(source, target)
    with pytest.raises(UserError, match="--exist-ok"):
        convert_voc(source, target)
    convert_voc(source, target, names=["dog", "cat"], exist_ok=True)
    assert (target / "labels/train/a.txt").read_text().startswith("1 ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "voc"]


def test_a_failure_leaves_nothing_and_keeps_the_earlier_set(tmp_path, monkeypatch):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")})
    convert_voc(source, tmp_path / "out")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(yolo_set, "write_report", full)
    for name in ("out", "new"):
        with pytest.raises(UserError, match="No space left"):
            convert_voc(source, tmp_path / name, exist_ok=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "voc"]
    assert (tmp_path / "out/report.json").is_file()


def test_an_earlier_set_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")})
    convert_voc(source, tmp_path / "out")
    rename = Path.rename

    def refused(path, target):
        if path.name == "set":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="Permission denied"):
        convert_voc(source, tmp_path / "out", exist_ok=True)
    assert (tmp_path / "out/report.json").is_file()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"splits": ["tets"]}, "unknown split 'tets'; did you mean 'test'"),
        ({"splits": ["test"]}, "no such file: .*test.txt"),
        ({"splits": ["train", "trainval"]}, "overlap"),
        ({"names": ["cow"]}, "the annotations hold: cat"),
        ({"names": ["cat", "cat"]}, "different"),
        ({"names": ["cat", ""]}, "not empty"),
        ({"images": "lnik"}, "did you mean 'link'"),
        ({"pixel_origin": "2"}, "pixel origin"),
    ],
)
def test_wrong_choices(tmp_path, options, expected):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9")}, {"train": "a"})
    with pytest.raises(UserError, match=expected):
        convert_voc(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_convertible(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        convert_voc(tmp_path / "none", None)
    with pytest.raises(UserError, match=f"no VOC folder: expected {tmp_path}/Annotations"):
        convert_voc(tmp_path, None)
    with pytest.raises(UserError, match="first of 1 problems: a.xml: annotation is no XML"):
        convert_voc(make_voc(tmp_path / "broken", {"a": "?"}), None)
    with pytest.raises(UserError, match="no object in any"):
        convert_voc(make_voc(tmp_path / "bare", {"a": xml()}), None)
    with pytest.raises(UserError, match="box without area"):
        convert_voc(make_voc(tmp_path / "flat", {"a": xml("cat 5 5 5 5")}), None)


def test_report_and_labels_cannot_write_to_the_terminal(tmp_path, capsys):
    source = make_voc(tmp_path / "voc", {"a": xml("c\u202eat 1 1 9 9", "dog 5 5 \u009b2J 9")})
    convert.main(["voc", str(source), str(tmp_path / "out")])
    written = capsys.readouterr().out + "".join(
        (tmp_path / f"out/report.{kind}").read_text() for kind in ("csv", "json")
    )
    assert "c?at" in written
    assert not set("\u202e\u009b") & set(written)


def test_the_command(tmp_path, capsys):
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 9 9", "cat 2 2 2 2")}, {"val": "a"})
    convert.main(["voc", str(source), str(tmp_path / "out"), "--names", "dog, cat", "--dry-run"])
    assert "dry run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    convert.main(["voc", str(source), str(tmp_path / "out"), "--names", "dog, cat", "--splits", "val"])
    printed = capsys.readouterr().out
    assert f"python train.py --data {tmp_path}/out/data.yaml" in printed
    assert "dropped 1: box without area" in printed
    assert "dog 0, cat 1" in printed
    with pytest.raises(UserError, match="unknown flag --dry; did you mean '--dry-run'"):
        convert.main(["voc", "a", "b", "--dry"])


def test_a_mistake_is_one_line():
    run = subprocess.run([sys.executable, "convert.py", "voc", "none", "out"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == f"error: no such file or folder: {ROOT / 'none'}\n"


def test_difficult_objects_reach_the_evaluation(tmp_path):
    """They get no label, but stand in an annotation file that the data YAML names, as neither found nor missed."""
    source = make_voc(tmp_path / "voc", {"a": xml("cat 1 1 40 20", "dog 5 5 9 9 difficult"), "b": xml("cat 1 1 9 9")})
    (source / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (source / "ImageSets" / "Main" / "train.txt").write_text("b\n")
    (source / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    convert_voc(source, tmp_path / "out", names=["cat", "dog"])
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    index = load_split(spec, "val", tmp_path / "cache")
    truths = split_truths(spec, "val", index)
    assert index.labels.tolist() == [0]
    assert truths.labels.tolist() == [0, 1]
    assert truths.difficult.tolist() == [False, True]
    assert truths.boxes[1].tolist() == pytest.approx([4, 4, 9, 9], abs=1e-6)
    assert not (tmp_path / "out" / "annotations" / "train.json").exists()
