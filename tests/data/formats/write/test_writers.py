"""Every writer: what it writes is read back by our own readers as it was, box for box."""

import json
import shutil

import numpy as np
import pytest

from data.data_yaml import list_images, read_data_yaml
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_coco, convert_detections, convert_voc, convert_yolo
from data.formats.registry import WRITERS
from data.open.any_layout import open_data_set
from data.open.hold_out import hold_out
from data.split import load_split
from tests.data.formats.small_sets import coco_document, photo, read_back, write_json
from tests.paths import SHARED_DATA, needs_shared_data
from utils.errors import UserError


@pytest.fixture
def coco(tmp_path):
    """A COCO set with folders, a photo without objects, fractions of pixels, two splits and classes out of order."""
    boxes = [(0, 0, 30.25, 40.5), (100.123, 50, 27.877, 46), (10, 10.5, 5, 5)]
    for split in ("train", "val"):
        names = [f"{split}0.jpg", f"deep/{split}1.jpg", f"{split}2.png"]
        document = coco_document(names, boxes, categories=("zebra", "cat", "mouse"))
        document["annotations"] = [item for item in document["annotations"] if item["image_id"] != 2]
        for number, item in enumerate(document["annotations"]):
            item["category_id"] = 1 + number % 2
        for name in names:
            photo(tmp_path / "in" / "images" / split / name)
        write_json(tmp_path / "in" / "annotations" / f"instances_{split}.json", document)
    return tmp_path / "in"


@pytest.mark.parametrize("images", ["link", "copy", "symlink"])
@pytest.mark.parametrize("to", WRITERS)
def test_what_is_written_is_read_back(to, images, coco, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    convert_coco(coco, tmp_path / "yolo")
    expected = read_back(tmp_path / "yolo" / "data.yaml", tmp_path)
    assert sum(map(len, expected.values())) == 12
    assert sum(not boxes for boxes in expected.values()) == 2
    convert_coco(coco, tmp_path / "out", to=to, images=images)
    source = {"yolo": "data.yaml", "darknet": "obj.data"}.get(to, "")
    spec = open_data_set(str(tmp_path / "out" / source), tmp_path)
    assert read_back(spec, tmp_path) == expected
    assert spec.names == ("zebra", "cat", "mouse")
    for file in (tmp_path / "out").rglob("*.jpg"):
        if "overlays" not in file.parts:
            assert file.is_symlink() == (images == "symlink")


@pytest.mark.parametrize("to", WRITERS)
def test_a_failure_leaves_nothing(to, coco, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"data.formats.write.{to}.write_report", full)
    with pytest.raises(UserError, match="No space left"):
        convert_coco(coco, tmp_path / "out", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@needs_shared_data
@pytest.mark.parametrize("to", ["voc", "coco", "darknet"])
def test_real_labels_survive_every_format(to, tmp_path, monkeypatch):
    """The 48 photos of neu-det's first classes: VOC to another format and back are the boxes of VOC to YOLO."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for xml in sorted((SHARED_DATA / "neu-det" / "Annotations").glob("*_1[0-7].xml")):
        photo_file = SHARED_DATA / "neu-det" / "JPEGImages" / f"{xml.stem}.jpg"
        for file, folder in ((xml, "Annotations"), (photo_file, "JPEGImages")):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "in" / folder)
    convert_voc(tmp_path / "in", tmp_path / "yolo")
    expected = read_back(tmp_path / "yolo" / "data.yaml", tmp_path)
    assert len(expected) == 48
    convert_yolo(read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), tmp_path), tmp_path / "out", to=to)
    source = "data.yaml" if to == "coco" else "obj.data" if to == "darknet" else ""
    assert read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path) == expected


@pytest.fixture
def detections(tmp_path):
    """What detect.py --save-json writes for two photos and a video."""
    for name in ("a", "b", "none"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    rows = [
        {
            "image": str(tmp_path / "photos" / f"{name}.jpg"),
            "frame": None,
            "class": label,
            "name": "cat" if label == 0 else "dog",
        }
        | {"score": score, "x1": 10.5, "y1": 20.25, "x2": 40.0, "y2": 60.0}
        for name, label, score in (("a", 0, 0.9), ("a", 1, 0.1), ("b", 1, 0.5))
    ]
    rows.append({**rows[0], "image": "clip.mp4", "frame": 3})
    (tmp_path / "detections.json").write_text(json.dumps(rows))
    return tmp_path / "detections.json"


@pytest.mark.parametrize("to", WRITERS)
def test_detections_become_a_set_to_correct(to, detections, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = convert_detections(detections, tmp_path / "out", to=to, photos=[tmp_path / "photos"])
    source = {"yolo": "data.yaml", "darknet": "obj.data"}.get(to, "")
    assert read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path) == {
        ("train", "a.jpg"): [("cat", 10.5, 20.25, 40.0, 60.0)],
        ("train", "b.jpg"): [("dog", 10.5, 20.25, 40.0, 60.0)],
        ("train", "none.jpg"): [],
    }
    assert [finding.file for finding in found.findings] == ["clip.mp4"]
    if to == "coco":
        document = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
        assert [item["score"] for item in document["annotations"]] == [0.9, 0.5]


def test_detections_are_not_replaced_by_what_is_made_of_them(detections, tmp_path):
    convert_detections(detections, tmp_path / "out", photos=[tmp_path / "photos"])
    shutil.copy(detections, tmp_path / "out" / "detections.json")
    with pytest.raises(UserError, match=r"detections.json lies in .*out, which is replaced"):
        convert_detections(
            tmp_path / "out" / "detections.json", tmp_path / "out", photos=[tmp_path / "photos"], exist_ok=True
        )


def test_detections_are_not_written_among_the_photos(detections, tmp_path):
    with pytest.raises(UserError, match="lies below .*photos"):
        convert_detections(detections, tmp_path / "photos" / "out", photos=[tmp_path / "photos"])
    assert not (tmp_path / "photos" / "out").exists()


def test_what_detections_do_not_say(detections):
    rows = [row for row in json.loads(detections.read_text()) if row["class"] == 1]
    detections.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="class 0 was never found, so its name is not known: give all with --names"):
        convert_detections(detections, None)
    assert convert_detections(detections, None, names=["cat", "dog"]).names == ("cat", "dog")
    for names in (["cat", "dog", ""], ["cat", "dog", "cat"]):
        with pytest.raises(UserError, match="must be different from each other and not empty"):
            convert_detections(detections, None, names=names)
    with pytest.raises(UserError, match="--names: class 1 is called 'dog'"):
        convert_detections(detections, None, names=["dog", "cat"])
    with pytest.raises(UserError, match="has a score of 0.95 or more"):
        convert_detections(detections, None, names=["cat", "dog"], conf=0.95)
    detections.write_text("[3]")
    with pytest.raises(UserError, match="row 0: expected image, class, name, score"):
        convert_detections(detections, None)


@pytest.mark.parametrize("to", ["coco", "voc"])
def test_difficult_objects_survive_a_set_of_labels(to, coco, tmp_path, monkeypatch):
    """A YOLO set has no labels for them, but its validation split's annotation file knows them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = coco / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    document["annotations"][1]["ignore"] = 1
    write_json(file, document)
    convert_coco(coco, tmp_path / "yolo")
    spec = read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), tmp_path)
    found = convert_yolo(spec, tmp_path / "out", to=to)
    (item,) = [item for photo in found.photos for item in photo.ignored]
    assert item.kind == "difficult"
    spec = open_data_set(str(tmp_path / "out" / ("data.yaml" if to == "coco" else "")), tmp_path)
    truths = split_truths(spec, "val", load_split(spec, "val", tmp_path))
    assert truths.difficult.sum() == 1
    expected = [100.123, 50, 128, 96]
    assert truths.boxes[truths.difficult].tolist() == [pytest.approx(expected, abs=1e-3)]


def labelled(place, name, label):
    """A photo below `place` and its label file; the box tells which it is."""
    photo(place / "images" / name)
    file = (place / "labels" / name).with_suffix(".txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{label} .5 .5 .25 .5\n")


@pytest.mark.parametrize("train", ["train", "[a/images, b/images]", "[a, b]"])
@pytest.mark.parametrize("to", WRITERS)
def test_folders_called_images_below_a_split_cost_no_label(to, train, tmp_path, monkeypatch):
    """A label lies where the last `images` of a path is exchanged: there must not be one of them below a split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label, place in enumerate(["train"] if train == "train" else ["a", "b"]):
        for number in range(2):
            labelled(tmp_path / "in" / place, f"{label}{number}.jpg", label)
    (tmp_path / "in" / "data.yaml").write_text(f"train: {train}\nnames: [cat, dog]\n")
    spec = read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path)
    expected = read_back(spec, tmp_path)
    assert all(expected.values())
    convert_yolo(spec, tmp_path / "out", to=to)
    source = {"voc": ""}.get(to, "obj.data" if to == "darknet" else "data.yaml")
    assert read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path) == expected


def with_rows(root, name, rows):
    """A photo below images/ and its label file with these rows."""
    photo(root / "images" / name)
    file = (root / "labels" / name).with_suffix(".txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(rows)


def test_coco_files_beside_labels_with_key_points(tmp_path, monkeypatch):
    """The new data YAML says what the rows hold, as the old one does: else they would be taken for polygons."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(3):
        with_rows(tmp_path / "in", f"val/{number}.jpg", "0 .5 .5 .4 .4 .55 .5 2 .45 .4 2\n")
    text = "val: images/val\nnames: [cat]\nkpt_shape: [2, 3]\ntask: pose\n"
    (tmp_path / "in" / "data.yaml").write_text(text)
    spec = read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path)
    convert_yolo(spec, tmp_path / "out")
    again = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    assert (again.keypoints, again.rows) == (6, {"kpt_shape": [2, 3], "task": "pose"})
    assert read_back(again, tmp_path / "cache") == read_back(spec, tmp_path / "cache")


def test_photos_of_one_name_in_folders_within_each_other(tmp_path, monkeypatch):
    """A set is measured against the program's own COCO file of it: of the ends that fit, the longest decides."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, name in enumerate(("1.jpg", "sub/1.jpg", "sub/deep/1.jpg", "other/1.jpg")):
        with_rows(tmp_path / "in", name, f"0 .5 .5 .{number + 1} .5\n")
    (tmp_path / "in" / "data.yaml").write_text("val: images\nnames: [cat]\n")
    convert_yolo(read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path), tmp_path / "out")
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    index = load_split(spec, "val")
    np.testing.assert_allclose(split_truths(spec, "val", index).boxes, index.boxes, atol=1e-3)


def test_names_with_brackets_are_no_patterns(tmp_path):
    document = coco_document([f"cam{folder}/img[{number}].jpg" for folder in range(2) for number in range(2)])
    for image in document["images"]:
        with_rows(tmp_path, image["file_name"], "0 .5 .5 .5 .5\n")
    write_json(tmp_path / "val.json", document)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [thing]\nannotations: {val: val.json}\n")
    spec = read_data_yaml(str(tmp_path / "data.yaml"), tmp_path)
    assert split_truths(spec, "val", load_split(spec, "val", tmp_path / "cache")).image_ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("to", WRITERS)
def test_a_split_of_a_folder_and_a_list_keeps_all_photos(to, tmp_path, monkeypatch):
    """The list's photos may have the names of those in the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, name in enumerate(("val/0.jpg", "val/1.jpg", "0.jpg", "1.jpg", "train/0.jpg")):
        with_rows(tmp_path / "in", name, f"0 .5 .5 .5 .{number + 1}\n")
    (tmp_path / "in" / "extra.txt").write_text("images/0.jpg\nimages/1.jpg\n")
    (tmp_path / "in" / "data.yaml").write_text("train: images/train\nval: [images/val, extra.txt]\nnames: [thing]\n")
    found = convert_yolo(read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path), tmp_path / "out", to=to)
    assert found.findings == []
    source = {"yolo": "data.yaml", "coco": "data.yaml", "darknet": "obj.data"}.get(to, "")
    spec = open_data_set(str(tmp_path / "out" / source), tmp_path)
    index = load_split(spec, "val", tmp_path / "labels-cache")
    heights = (index.boxes[:, 3] - index.boxes[:, 1]).tolist()
    assert sorted(heights) == pytest.approx([9.6, 19.2, 28.8, 38.4], abs=1e-3)


@pytest.mark.parametrize(
    ("train", "target"), [(".", "coco"), ("images/train", "images/train/coco"), ("../in/images", "images/new")]
)
@pytest.mark.parametrize("to", ["coco", "darknet"])
def test_nothing_is_written_among_the_photos(to, train, target, tmp_path, monkeypatch):
    """The pictures with boxes would be background of the next training."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with_rows(tmp_path / "in", "train/a.jpg", "0 .5 .5 .4 .5\n")
    (tmp_path / "in" / "data.yaml").write_text(f"train: {train}\nnames: [cat]\n")
    spec = read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path)
    before = sorted(tmp_path.joinpath("in").rglob("*"))
    with pytest.raises(UserError, match="lies (below|in the source)"):
        convert_yolo(spec, tmp_path / "in" / target, to=to)
    assert sorted(tmp_path.joinpath("in").rglob("*")) == before
    if train != ".":
        convert_yolo(spec, tmp_path / "in" / "coco")
        assert [path.name for path in list_images(spec, "train")] == ["a.jpg"]


def test_no_source_is_replaced_by_what_is_made_of_it(coco, tmp_path):
    """`--exist-ok` replaces an earlier conversion, but not one that is converted, or whose photos are."""
    convert_coco(coco, tmp_path / "out", to="coco")
    file, photos = tmp_path / "out" / "annotations" / "instances_train.json", tmp_path / "out" / "images"
    shutil.copy(file, tmp_path / "own.json")
    before = sorted(tmp_path.joinpath("out").rglob("*"))
    for to in WRITERS:
        with pytest.raises(UserError, match=r"instances_train.json lies in .*out, which is replaced; choose another"):
            convert_coco(file, tmp_path / "out", exist_ok=True, to=to)
        with pytest.raises(UserError, match=r"images lies in .*out, which is replaced"):
            convert_coco(tmp_path / "own.json", tmp_path / "out", photos=[photos], exist_ok=True, to=to)
    assert sorted(tmp_path.joinpath("out").rglob("*")) == before


@pytest.mark.parametrize("to", WRITERS)
def test_no_work_in_an_earlier_conversion_is_replaced(to, coco, tmp_path):
    """Labels that were corrected there, also with as many letters, and files that were put there."""
    out = tmp_path / "out"
    convert_coco(coco, out, to=to)
    (out / "labels.cache").write_text("of ultralytics")
    convert_coco(coco, out, to=to, exist_ok=True)
    pattern = {"yolo": "labels/**/*.txt", "voc": "Annotations/**/*.xml", "coco": "annotations/*.json"}
    label = sorted(out.glob(pattern.get(to, "obj_*_data/*.txt")))[0]
    before = label.read_text()
    for path, text in (
        (label, before.translate(str.maketrans("0123456789", "1234567890"))),
        (out / "notes.md", "mine"),
    ):
        path.write_text(text)
        with pytest.raises(
            UserError, match=rf"{path.name} is new or changed since convert.py wrote it; choose another"
        ):
            convert_coco(coco, out, to=to, exist_ok=True)
        assert path.read_text() == text
        label.write_text(before)
    (out / "notes.md").unlink()
    convert_coco(coco, out, to=to, exist_ok=True)


def test_no_list_or_data_yaml_is_replaced_by_what_is_made_of_it(tmp_path):
    source = voc_of_two_years(tmp_path / "in")
    convert_voc(source, tmp_path / "out", images="list")
    for place in ("out/data.yaml", "data.yaml"):
        shutil.copy(tmp_path / "out" / "data.yaml", tmp_path / "data.yaml")
        with pytest.raises(UserError, match=r"lies in .*out, which is replaced"):
            convert_yolo(read_data_yaml(str(tmp_path / place), tmp_path), tmp_path / "out", exist_ok=True, to="yolo")


def test_darknets_labels_beside_photos_below_images(coco, tmp_path):
    """They would be looked for below `labels`; other formats have folders of their own."""
    with pytest.raises(UserError, match="would not be found again below a folder called images"):
        convert_coco(coco, tmp_path / "images" / "out", to="darknet")
    assert not (tmp_path / "images").exists()
    convert_coco(coco, tmp_path / "images" / "out", to="yolo")
    assert sum(map(len, read_back(tmp_path / "images" / "out" / "data.yaml", tmp_path).values())) == 12


def test_photos_whose_places_meet_in_a_new_set(tmp_path):
    """The later one is left out and named, unless they shared a label file before; ids are those of the source."""
    root = tmp_path / "in"
    labelled(root, "x.jpg", 0)
    photo(root / "images" / "x.png")
    labelled(root, "y.jpg", 1)
    photo(root / "x.jpg")
    (root / "x.txt").write_text("1 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("train: .\nnames: [cat, dog]\n")
    # A conversion's keys begin with the split's folder.
    ids = {f"in/{name}": number for number, name in enumerate(["x.jpg", "images/x.jpg"], 70)}
    write_json(root / "ids.json", {"categories": {"cat": 5, "dog": 9}, "images": ids})
    spec = read_data_yaml(str(root / "data.yaml"), tmp_path)
    found = convert_yolo(spec, tmp_path / "out", to="yolo")
    assert [(each.action, each.file, each.values) for each in found.findings] == [
        ("dropped photo", "x.jpg", "images/x.jpg")
    ]
    assert found.ids == {"categories": {"cat": 5, "dog": 9}, "images": {"train/x.jpg": 71}}
    assert read_back(tmp_path / "out" / "data.yaml", tmp_path) == {
        ("train", "x.jpg"): [("cat", 48.0, 24.0, 80.0, 72.0)],
        ("train", "x.png"): [("cat", 48.0, 24.0, 80.0, 72.0)],
        ("train", "y.jpg"): [("dog", 48.0, 24.0, 80.0, 72.0)],
    }
    beside = convert_yolo(spec, tmp_path / "coco", to="coco")
    assert [each.name for each in beside.photos] == ["images/x.jpg", "images/x.png", "images/y.jpg", "x.jpg"]


@pytest.mark.parametrize("to", WRITERS)
def test_splits_with_a_year_are_read_back(to, coco, tmp_path, monkeypatch):
    """Darknet and VOC know train and val, not train2017."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "val"):
        (coco / "annotations" / f"instances_{split}.json").rename(coco / "annotations" / f"instances_{split}2017.json")
        (coco / "images" / split).rename(coco / "images" / f"{split}2017")
    convert_coco(coco, tmp_path / "out", to=to)
    source = {"yolo": "data.yaml", "darknet": "obj.data"}.get(to, "")
    found = read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path)
    assert {(split, name): len(boxes) for (split, name), boxes in found.items()} == {
        (split, f"{split}{number}.{'png' if number == 2 else 'jpg'}"): 0 if number == 2 else 3
        for split in ("train", "val")
        for number in range(3)
    }


@pytest.mark.parametrize("to", ["yolo", "voc", "darknet"])
def test_two_years_become_one_split(to, tmp_path, monkeypatch):
    """VOC2007 and VOC2012: their photos of one name stay two."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for year in ("2007", "2012"):
        folder = tmp_path / "in" / f"VOC{year}"
        for name in ("000001", "000002"):
            photo(folder / "JPEGImages" / f"{name}.jpg", seed=int(year))
            box = f"<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>{year[-2:]}.5</xmax><ymax>40</ymax></bndbox>"
            xml = f"<annotation><object><name>thing</name>{box}</object></annotation>"
            (folder / "Annotations").mkdir(exist_ok=True)
            (folder / "Annotations" / f"{name}.xml").write_text(xml.replace("07.5", "27.5"))
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        for number, split in enumerate(("train", "val"), 1):
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"00000{number}\n")
    convert_voc(tmp_path / "in", tmp_path / "out", to=to, pixel_origin="0")
    source = {"yolo": "data.yaml", "darknet": "obj.data"}.get(to, "")
    spec = open_data_set(str(tmp_path / "out" / source), tmp_path)
    assert set(spec.splits) == {"train", "val"}
    for split in spec.splits:
        index = load_split(spec, split, tmp_path)
        assert sorted(index.boxes[:, 2].tolist()) == [pytest.approx(12.5, abs=1e-3), pytest.approx(27.5, abs=1e-3)]


def voc_of_two_years(folder):
    """VOC2007 and VOC2012, whose photos have the same names: a cat and a difficult dog, wider in 2012."""
    box = "<bndbox><xmin>{}</xmin><ymin>20</ymin><xmax>{}</xmax><ymax>40</ymax></bndbox>"
    for year, right in (("2007", 30), ("2012", 50)):
        for number, split in enumerate(("train", "val"), 1):
            root, name = folder / f"VOC{year}", f"00000{number}"
            photo(root / "JPEGImages" / f"{name}.jpg", seed=int(year))
            objects = f"<object><name>cat</name>{box.format(10, right)}</object>"
            dog = f"<object><name>dog</name><difficult>1</difficult>{box.format(60, 60 + right)}</object>"
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}{dog}</annotation>")
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{name}\n")
    return folder


@pytest.mark.parametrize("images", ["link", "list"])
def test_difficult_objects_of_two_years_are_no_false_alarms(images, tmp_path):
    """Two annotation files cannot be named for one val: there is one for both, in which the photos are told apart."""
    convert_voc(voc_of_two_years(tmp_path / "in"), tmp_path / "out", names=["cat", "dog"], images=images)
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    assert set(spec.annotations) == {"val"}
    truths = split_truths(spec, "val", load_split(spec, "val", tmp_path / "cache"))
    assert truths.difficult.tolist() == [False, True] * 2
    assert truths.xywh[:, 2].tolist() == pytest.approx([20, 30, 40, 50], abs=1)
    assert len(set(truths.image_ids.tolist())) == 2


def test_training_photos_of_two_years_keep_their_difficult_objects_for_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = voc_of_two_years(tmp_path / "in")
    convert_voc(source, tmp_path / "out", names=["cat", "dog"], splits=["train"])
    spec = hold_out(read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path), 0.5, 0)
    assert split_truths(spec, "val", load_split(spec, "val")).difficult.tolist() == [False, True]


@pytest.fixture
def lvis(tmp_path):
    """Two LVIS files whose category ids differ: areas of masks, frequencies, classes that are absent or unclear."""
    for year, add in (("2014", 0), ("2017", 100)):
        document = coco_document(["a.jpg", "b.jpg"], categories=("zebra", "cat"))
        for entry in document["categories"]:
            entry |= {"id": entry["id"] + add, "frequency": "rc"[entry["id"] - 1]}
        for entry in document["images"]:
            entry |= {"neg_category_ids": [1 + add], "not_exhaustive_category_ids": [2 + add]}
        for entry in document["annotations"]:
            entry |= {"category_id": entry["category_id"] + add, "area": 1000 + add}
        document["images"].append({**document["images"][0], "id": 7, "file_name": "not here.jpg"})
        for name in ("a.jpg", "b.jpg"):
            photo(tmp_path / "in" / f"val{year}" / name, seed=int(year))
        write_json(tmp_path / "in" / "annotations" / f"instances_val{year}.json", document)
    return tmp_path / "in"


def test_two_years_of_lvis_are_measured_as_lvis(lvis, tmp_path):
    convert_coco(lvis, tmp_path / "out")
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    truths = split_truths(spec, "val", load_split(spec, "val", tmp_path / "cache"))
    assert truths.area.tolist() == [1000, 1000, 1100, 1100]
    assert truths.labels.tolist() == [0, 1, 0, 1]
    assert truths.category_ids == (1, 2)
    assert truths.federated.frequency == ("r", "c")
    assert truths.federated.absent.tolist() == [[row, 0] for row in range(4)]
    assert truths.federated.not_exhaustive.tolist() == [[row, 1] for row in range(4)]


def test_a_coco_file_keeps_what_the_sources_file_says(lvis, tmp_path):
    """Areas of masks and LVIS's lists, which labels do not hold; photos that are not there are not in it."""
    convert_coco(
        lvis / "annotations" / "instances_val2017.json", tmp_path / "out", to="coco", photos=[lvis / "val2017"]
    )
    written = json.loads((tmp_path / "out" / "annotations" / "instances_val2017.json").read_text())
    assert [each["file_name"] for each in written["images"]] == ["a.jpg", "b.jpg"]
    assert [each["neg_category_ids"] for each in written["images"]] == [[101]] * 2
    assert [each["not_exhaustive_category_ids"] for each in written["images"]] == [[102]] * 2
    assert [each["frequency"] for each in written["categories"]] == ["r", "c"]
    assert [each["area"] for each in written["annotations"]] == [1100, 1100]


@pytest.mark.parametrize("to", WRITERS)
def test_photos_that_share_a_label_file(to, tmp_path, monkeypatch):
    """cat.jpg and cat.png of one cat.txt are two photos in every format, and so they come back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in {"cat.jpg": (100, 80), "cat.png": (200, 100), "cat_png.jpg": (64, 64)}.items():
        photo(tmp_path / "in" / "images" / "train" / name, *size)
    for name in ("cat", "cat_png"):
        label = tmp_path / "in" / "labels" / "train" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "in" / "data.yaml").write_text("train: images/train\nnames: [thing]\n")
    found = convert_yolo(read_data_yaml(str(tmp_path / "in" / "data.yaml"), tmp_path), tmp_path / "out", to=to)
    source = {"yolo": "data.yaml", "coco": "data.yaml", "darknet": "obj.data"}.get(to, "")
    back = read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path)
    boxes = (
        [("thing", 25.0, 20.0, 75.0, 60.0)],
        [("thing", 50.0, 25.0, 150.0, 75.0)],
        [("thing", 16.0, 16.0, 48.0, 48.0)],
    )
    names = ("cat.jpg", "cat_png_.png" if to == "voc" else "cat.png", "cat_png.jpg")
    assert back == {("train", name): own for name, own in zip(names, boxes, strict=True)}
    renamed = [(each.file, each.values) for each in found.findings if each.reason.startswith("another photo of")]
    assert renamed == ([("cat.png", "cat_png_.png")] if to == "voc" else [])


def test_a_photo_of_two_splits_with_other_objects_has_two_annotations(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photo(tmp_path / "in" / "a.jpg")
    for number, split in enumerate(("train", "val"), 1):
        document = coco_document(["a.jpg"], [(0, 0, 32 * number, 24 * number)])
        write_json(tmp_path / "in" / "annotations" / f"instances_{split}.json", document)
    convert_coco(tmp_path / "in", tmp_path / "out", to="voc")
    assert read_back(open_data_set(str(tmp_path / "out"), tmp_path), tmp_path) == {
        ("train", "a.jpg"): [("thing", 0.0, 0.0, 32.0, 24.0)],
        ("val", "a.jpg"): [("thing", 0.0, 0.0, 64.0, 48.0)],
    }


def test_voc_keeps_the_order_of_odd_class_names(tmp_path):
    names = ("zebra:grevy", "#1", "a:b:c", "ape")
    photos = [f"{number}.jpg" for number in range(4)]
    for name in photos:
        photo(tmp_path / "in" / name)
    write_json(tmp_path / "in" / "x.json", coco_document(photos, categories=names))
    convert_coco(tmp_path / "in", tmp_path / "out", to="voc")
    assert convert_voc(tmp_path / "out", None).names == names
