"""VOC sets as tools write them: layouts, image sets, photos without XML, and where pixels are counted from."""

import os

import numpy as np
import pytest

from data.data_yaml import read_data_yaml
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_voc
from data.formats.voc.xml_file import Seen, choose_origin
from data.open.any_layout import open_data_set
from data.split import load_split
from tests.data.formats.small_sets import photo, read_back
from utils.errors import UserError

SMALL = "<size><width>7</width><height>9</height></size>"
BOX = [("p", 10.0, 20.0, 40.0, 60.0)]


def xml(name, *boxes, size="<size><width>128</width><height>96</height></size>", database="x", folder="y"):
    boxes = boxes or ((10.0, 20.0, 40.0, 60.0),)
    objects = "".join(
        f"<object><name>p</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    source = f"<folder>{folder}</folder><source><database>{database}</database></source>"
    return f"<annotation><filename>{name}</filename>{source}{size}{objects}</annotation>"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


LAYOUTS = {
    "VOC's own": ("Annotations/{}.xml", "JPEGImages/{}.jpg"),
    "Label Studio: images beside Annotations": ("Annotations/{}.xml", "images/{}.jpg"),
    "a public set: annots beside images": ("annots/{}.xml", "images/{}.jpg"),
    "XML beside the photo, as labelImg saves it": ("{}.xml", "{}.jpg"),
    "both in a folder": ("all/{}.xml", "all/{}.jpg"),
    "photos in folders": ("Annotations/sub/{}.xml", "JPEGImages/sub/{}.jpg"),
    "an upper-case suffix": ("Annotations/{}.XML", "JPEGImages/{}.JPG"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_known_by_what_they_hold(layout, tmp_path):
    annotation, place = LAYOUTS[layout]
    for name in ("a", "b"):
        write(tmp_path / "in" / annotation.format(name), xml(f"{name}.jpg"))
        photo(tmp_path / "in" / place.format(name))
    convert_voc(tmp_path / "in", tmp_path / "out")
    found = read_back(tmp_path / "out" / "data.yaml", tmp_path)
    assert {(split, name.lower()): boxes for (split, name), boxes in found.items()} == {
        ("train", "a.jpg"): BOX,
        ("train", "b.jpg"): BOX,
    }


def test_roboflows_splits_with_xml_beside_the_photo(tmp_path):
    for folder in ("train", "valid", "test"):
        write(tmp_path / "in" / folder / f"{folder}.xml", xml(f"{folder}.jpg"))
        photo(tmp_path / "in" / folder / f"{folder}.jpg")
    convert_voc(tmp_path / "in", tmp_path / "out")
    found = read_back(tmp_path / "out" / "data.yaml", tmp_path)
    assert found == {("train", "train.jpg"): BOX, ("val", "valid.jpg"): BOX, ("test", "test.jpg"): BOX}


def test_image_sets_that_name_photos_in_folders(tmp_path):
    """datumaro and CVAT: `sub/a` in the image set, Annotations/sub/a.xml, JPEGImages/sub/a.jpg."""
    for name in ("sub/a", "other/a"):
        write(tmp_path / "in" / "Annotations" / f"{name}.xml", xml(f"{name}.jpg"))
        photo(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
    write(tmp_path / "in" / "ImageSets" / "Main" / "train.txt", "sub/a\nother/a\n")
    found = convert_voc(tmp_path / "in", tmp_path / "out")
    assert [photo.name for photo in found.photos] == ["sub/a.jpg", "other/a.jpg"]
    assert len(list((tmp_path / "out" / "labels" / "train").rglob("a.txt"))) == 2


@pytest.mark.parametrize("split", ["default", "train", "my subset", None])
def test_photos_without_an_annotation_are_background_and_noted(split, tmp_path):
    """datumaro and Label Studio write no XML for a photo without objects; CVAT calls an unsplit set `default`."""
    for name in ("a", "b", "c"):
        photo(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
    write(tmp_path / "in" / "Annotations" / "a.xml", xml("a.jpg"))
    write(tmp_path / "in" / "Annotations" / "c.xml", "<annotation><object>")
    if split:
        write(tmp_path / "in" / "ImageSets" / "Main" / f"{split}.txt", "a\nb\nc\n")
    found = convert_voc(tmp_path / "in", tmp_path / "out")
    assert read_back(tmp_path / "out" / "data.yaml", tmp_path) == {("train", "a.jpg"): BOX, ("train", "b.jpg"): []}
    listed = {(finding.action, finding.file): finding.reason for finding in found.findings}
    assert listed == {
        ("noted", "b.jpg"): "no annotation: taken as background",
        ("dropped photo", "c.xml"): "annotation is no XML",
    }


def test_photos_in_no_image_set_are_counted(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "in" / "Annotations" / f"{name}.xml", xml(f"{name}.jpg"))
    write(tmp_path / "in" / "ImageSets" / "Main" / "val.txt", "a\n")
    assert convert_voc(tmp_path / "in", None).facts["left_out"] == "1 photos are in no image set that is read"


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"train2017": "a", "val2017": "b"}, {"a": "train", "b": "val"}),
        ({"train2017": "a", "trainval2017": "ab"}, {"a": "train"}),
        ({"train": "a", "val2017": "b"}, {"a": "train"}),
        ({"train0": "a", "val0": "b"}, {"a": "train", "b": "train"}),
    ],
)
def test_image_sets_with_a_year(lists, splits, tmp_path):
    """Exports of COCO's subsets; beside a train.txt, or with the number of a fold, they are something else."""
    for name in ("a", "b"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "Annotations" / f"{name}.xml", xml(f"{name}.jpg"))
    for name, photos in lists.items():
        write(tmp_path / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{each}\n" for each in photos))
    found = convert_voc(tmp_path, None)
    assert {each.photo.stem: each.split for each in found.photos} == splits


def test_two_photos_that_would_share_a_label_file(tmp_path):
    write(tmp_path / "in" / "Annotations" / "a.xml", xml("a.jpg"))
    for name in ("a.jpg", "a.png"):
        photo(tmp_path / "in" / "JPEGImages" / name)
    found = convert_voc(tmp_path / "in", tmp_path / "out")
    assert [photo.name for photo in found.photos] == ["a.jpg"]
    assert ("dropped photo", "another photo would have the same label file") in found.reasons()


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("other", ["a.CR2", "a.bmp", "a.heic"])
def test_an_annotation_is_of_the_photo_that_it_names(other, listed, tmp_path):
    """RAW+JPG of a camera, a.bmp beside a.jpg: the other one is no photo without objects."""
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "in" / name)
    if other == "a.bmp":
        photo(tmp_path / "in" / other, 32, 32)
    else:
        (tmp_path / "in" / other).write_bytes(b"raw")
    write(tmp_path / "in" / "a.xml", xml("a.jpg"))
    write(tmp_path / "in" / "b.xml", xml("b.jpg"))
    if listed:
        write(tmp_path / "in" / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    found = convert_voc(tmp_path / "in", tmp_path / "out")
    assert read_back(tmp_path / "out" / "data.yaml", tmp_path) == {("train", "a.jpg"): BOX, ("train", "b.jpg"): BOX}
    said = [(each.action, each.file, each.reason, each.values) for each in found.findings]
    assert said == [("dropped photo", other, "another photo would have the same label file", "a.jpg")]


def test_where_the_named_photo_is_gone_the_first_one_that_is_read_counts(tmp_path):
    for name in ("a.CR2", "a.HEIC"):
        write(tmp_path / "in" / name, "raw")
    photo(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "a.xml", xml("a.jpg"))
    assert [each.photo.name for each in convert_voc(tmp_path / "in", None).photos] == ["a.png"]


@pytest.mark.parametrize("wrong", ["<annotation><object>", xml("a.jpg", size=SMALL)])
def test_photos_beside_one_whose_annotation_is_refused_are_no_background(wrong, tmp_path):
    for name in ("a.bmp", "a.jpg", "b.jpg"):
        photo(tmp_path / "in" / name)
    write(tmp_path / "in" / "a.xml", wrong)
    write(tmp_path / "in" / "b.xml", xml("b.jpg"))
    assert [each.photo.name for each in convert_voc(tmp_path / "in", None).photos] == ["b.jpg"]


@pytest.mark.parametrize("line", ["{}", "{} 1", "{}  -1", "{}.jpg", "{}.xml", '"{}"', "{}.jpg 0", "{}.JPG"])
@pytest.mark.parametrize("name", ["a", "frame 0", "frame 1", "b.c"])
def test_lines_of_image_sets(name, line, tmp_path):
    """A mark, a suffix or quotes are left out, but not what is a part of a photo's name."""
    photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    write(tmp_path / "Annotations" / f"{name}.xml", xml(f"{name}.jpg"))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", f"{line.format(name)}\n")
    found = convert_voc(tmp_path, None)
    assert [(each.photo.name, len(each.objects)) for each in found.photos] == [(f"{name}.jpg", 1)]


@pytest.mark.parametrize("images", ["link", "list"])
@pytest.mark.parametrize("to", ["yolo", "voc", "darknet"])
def test_names_that_are_no_utf8_come_back(to, images, tmp_path, monkeypatch):
    """Photos of an old archive; the lists that name them hold the bytes of their names."""
    if images == "list" and to != "yolo":
        pytest.skip("lists are written for YOLO alone")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b"):
        name = os.fsdecode(name.encode() + b"\xe9")
        photo(tmp_path / "in" / "JPEGImages" / "x.jpg").rename(tmp_path / "in" / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "in" / "Annotations" / f"{name}.xml", xml("x.jpg"))
    convert_voc(tmp_path / "in", tmp_path / "out", to=to, images=images)
    source = {"yolo": "data.yaml", "darknet": "obj.data"}.get(to, "")
    found = read_back(open_data_set(str(tmp_path / "out" / source), tmp_path), tmp_path)
    assert found == {("train", os.fsdecode(name + b"\xe9.jpg")): BOX for name in (b"a", b"b")}


def test_an_image_set_in_utf16_is_one_line(tmp_path):
    photo(tmp_path / "JPEGImages" / "a.jpg")
    write(tmp_path / "Annotations" / "a.xml", xml("a.jpg"))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n", "utf-16")
    with pytest.raises(UserError, match=r"train.txt: expected a UTF-8 list of files, found NUL bytes"):
        convert_voc(tmp_path, None)


def test_the_order_of_a_labelmap(tmp_path):
    photo(tmp_path / "in" / "JPEGImages" / "a.jpg")
    write(tmp_path / "in" / "Annotations" / "a.xml", xml("a.jpg"))
    write(tmp_path / "in" / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nz:1,1,1::\np:::\n")
    assert convert_voc(tmp_path / "in", None).names == ("z", "p")


def test_xml_of_another_kind_is_no_voc(tmp_path):
    write(tmp_path / "in" / "annotations.xml", "<annotations><image/></annotations>")
    with pytest.raises(UserError, match="no VOC folder"):
        convert_voc(tmp_path / "in", None)


def test_supervision_counts_from_one(tmp_path):
    """What supervision 0.31.2 writes for (540, 400, 640, 480) and (0, 0, 100, 120): minima raised by one."""
    photo(tmp_path / "in" / "JPEGImages" / "a.jpg", 640, 480)
    size = "<size><width>640</width><height>480</height><depth>3</depth></size>"
    boxes = [(541, 401, 640, 480), (1, 1, 100, 120)]
    write(
        tmp_path / "in" / "Annotations" / "a.xml", xml("a.jpg", *boxes, size=size, database="roboflow.ai", folder="VOC")
    )
    convert_voc(tmp_path / "in", tmp_path / "out")
    (found,) = read_back(tmp_path / "out" / "data.yaml", tmp_path).values()
    assert found == [("p", 0.0, 0.0, 100.0, 120.0), ("p", 540.0, 400.0, 640.0, 480.0)]


def drawn_boxes(writer, count=4000, seed=0):
    """Boxes of whole pixels cut off at the photo's borders, as a tool of this kind writes them; none starts at 0."""
    random = np.random.default_rng(seed)
    centre, side = random.uniform(0, 200, (count, 2)), random.uniform(5, 60, (count, 2))
    edges = np.rint(np.concatenate([centre - side / 2, centre + side / 2], 1)).clip(0, 200)
    # Hands do not meet the border exactly: most by a pixel or two.
    missed = random.geometric(0.5, edges.shape) - 1
    edges = np.where(edges <= 0, missed, np.where(edges >= 200, 200 - missed, edges))
    edges = edges[((edges[:, 2:] - edges[:, :2]) > 3).all(1)]
    first = edges[:, :2] + 1 if writer == "from 1" else edges[:, :2].clip(1)
    return [tuple(map(float, row)) for row in np.concatenate([first, edges[:, 2:]], 1)]


@pytest.mark.parametrize(("writer", "origin"), [("from 1", 1), ("from 0, which it writes as 1", 0)])
@pytest.mark.parametrize("seed", range(5))
def test_the_borders_tell_where_pixels_start(writer, origin, seed):
    """Where no source is named: as many objects are cut off at the left and top as at the right and bottom."""
    boxes = drawn_boxes(writer, seed=seed)
    found, reason = choose_origin([Seen(boxes, (200, 200), False, "")], "auto")
    assert found == origin, reason
    assert choose_origin([Seen(boxes, (200, 200), False, "")], "0") == (0, "as asked")


def test_fractions_and_few_boxes_tell_nothing():
    boxes = drawn_boxes("from 1")
    assert choose_origin([Seen(boxes[:10], (200, 200), False, "")], "auto")[0] == 0
    assert choose_origin([Seen([*boxes, (1.5, 1, 9, 9)], (200, 200), False, "")], "auto")[0] == 0


def test_an_object_that_stands_twice_counts_once_in_labels_and_truths(tmp_path):
    """Labels would drop it when they are read: the truths that know the difficult objects must not keep it."""
    photo(tmp_path / "voc" / "JPEGImages" / "a.jpg")
    entry = "<object><name>cat</name><difficult>{}</difficult><bndbox><xmin>10</xmin><ymin>20</ymin>"
    entry += "<xmax>50</xmax><ymax>60</ymax></bndbox></object>"
    entries = entry.format(0) * 2 + entry.replace("<xmin>10", "<xmin>5").format(1) * 2
    for folder, text in (
        ("Annotations/a.xml", f"<annotation>{entries}</annotation>"),
        ("ImageSets/Main/val.txt", "a\n"),
    ):
        (tmp_path / "voc" / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "voc" / folder).write_text(text)
    found = convert_voc(tmp_path / "voc", tmp_path / "yolo")
    assert found.reasons()["dropped", "the same box of the same class stands here twice"] == 2
    spec = read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), tmp_path)
    index = load_split(spec, "val", tmp_path)
    truths = split_truths(spec, "val", index)
    assert (len(index.labels), index.report.duplicates) == (1, 0)
    assert sorted(truths.difficult.tolist()) == [False, True]


TURNED_SIZE = "<size><width>96</width><height>128</height></size>"
REFUSED = {
    "a turned size": xml("{}", size=TURNED_SIZE),
    "broken text": xml("{}").replace("</annotation>", ""),
    "a document type": "<!DOCTYPE x>" + xml("{}"),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize(
    ("annotation", "place"),
    [
        ("Annotations/2.xml", "JPEGImages/2.jpg"),
        ("Annotations/ann_1.xml", "JPEGImages/p&1.jpg"),
        ("Annotations/2.xml", "images/a/2.jpg"),
        ("train/annotations/2.xml", "train/images/2.jpg"),
    ],
)
def test_a_photo_whose_annotation_is_refused_is_no_background(annotation, place, text, tmp_path):
    """Its objects would be trained on as background."""
    name = place.rsplit("/", 1)[1]
    write(tmp_path / annotation, text.format(name.replace("&", "&amp;")))
    photo(tmp_path / place)
    write((tmp_path / annotation).with_name("1.xml"), xml("1.jpg"))
    for own in ("1.jpg", "empty.jpg"):
        photo((tmp_path / place).with_name(own))
    found = convert_voc(tmp_path, None)
    assert {each.photo.name: len(each.objects) for each in found.photos} == {"1.jpg": 1, "empty.jpg": 0}
    assert sum(each.action == "dropped photo" for each in found.findings) == 1
    noted = [each.file for each in found.findings if each.reason.startswith("no annotation")]
    assert noted == ["empty.jpg"]


def test_a_refused_annotation_of_one_split_says_nothing_of_another(tmp_path):
    write(tmp_path / "train" / "1.xml", xml("1.jpg", size=TURNED_SIZE))
    write(tmp_path / "train" / "2.xml", xml("2.jpg"))
    write(tmp_path / "valid" / "2.xml", xml("2.jpg"))
    for place in ("train/1.jpg", "train/2.jpg", "valid/1.jpg", "valid/2.jpg"):
        photo(tmp_path / place)
    found = convert_voc(tmp_path, None)
    places = [each.photo.relative_to(tmp_path).as_posix() for each in found.photos]
    assert places == ["train/2.jpg", "valid/2.jpg", "valid/1.jpg"]


@pytest.mark.parametrize("name", ["1.jpg", "b/1.jpg", "b\\1.jpg", ""])
@pytest.mark.parametrize("folder", ["y", "b"])
def test_an_annotation_that_several_photos_fit(name, folder, tmp_path):
    """The folder that it names decides; where it names none, no photo is guessed and none is background."""
    for place in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        photo(tmp_path / "images" / place)
    write(tmp_path / "Annotations" / "1.xml", xml(name, folder=folder))
    write(tmp_path / "Annotations" / "2.xml", xml("2.jpg"))
    found = convert_voc(tmp_path, None)
    objects = {each.name: len(each.objects) for each in found.photos}
    if folder == "b" or name[1:2] in ("/", "\\"):
        assert objects == {"b/1.jpg": 1, "b/2.jpg": 1, "a/1.jpg": 0}
    else:
        assert objects == {"b/2.jpg": 1}
        assert ("dropped photo", "several photos fit this file name") in found.reasons()


def test_a_labelmap_with_odd_names(tmp_path):
    """Colons and a leading # belong to a name; a comment has no colons."""
    (tmp_path / "Annotations").mkdir()
    photo(tmp_path / "JPEGImages" / "1.jpg")
    write(tmp_path / "Annotations" / "1.xml", xml("1.jpg"))
    lines = "# label:color_rgb:parts:actions\n# a comment\nz:1:0,0,0::\n#2:::\np:128,0,0:head,hand:\nlast\n"
    write(tmp_path / "labelmap.txt", lines)
    assert convert_voc(tmp_path, None).names == ("z:1", "#2", "p", "last")


def test_a_labelmap_that_lacks_a_class_is_noted(tmp_path):
    photo(tmp_path / "JPEGImages" / "1.jpg")
    write(tmp_path / "Annotations" / "1.xml", xml("1.jpg"))
    write(tmp_path / "labelmap.txt", "q:::\n")
    found = convert_voc(tmp_path, None)
    assert found.names == ("p",)
    assert [(each.file, each.values) for each in found.findings if "sorted by name" in each.reason] == [
        ("labelmap.txt", "p")
    ]
    assert not [each for each in convert_voc(tmp_path, None, names=["p"]).findings if "sorted" in each.reason]
