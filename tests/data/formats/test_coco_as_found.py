"""COCO files as people have them: what the labels hold and what val.py measures against is one and the same."""

import math

import numpy as np
import pytest

from data.data_yaml import read_data_yaml
from data.formats.coco import _split_names
from data.formats.coco_json import read_coco
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_coco
from data.split import load_split
from tests.data.formats.small_sets import coco_document, photo, read_back, write_json
from utils.errors import UserError

BOX = [("thing", 32.0, 24.0, 96.0, 72.0)]


def converted(folder, document, name="instances_val.json", **options):
    """The conversion of a document beside its photos, the set's index and its truths."""
    found = convert_coco(write_json(folder / name, document), folder.parent / "out", **options)
    spec = read_data_yaml(str(folder.parent / "out" / "data.yaml"), folder)
    index = load_split(spec, "val", folder.parent / "cache")
    return found, index, split_truths(spec, "val", index)


def assert_same(index, truths):
    """The truths are the labels, box for box."""
    np.testing.assert_array_equal(truths.starts, index.starts)
    np.testing.assert_allclose(truths.boxes, index.boxes, atol=1e-3)
    np.testing.assert_array_equal(truths.labels, index.labels)
    np.testing.assert_allclose(truths.area, (truths.xywh[:, 2] * truths.xywh[:, 3]), rtol=1e-6)


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        photo(tmp_path / "set" / f"{number}.jpg")
    return tmp_path / "set"


NAMES = [f"{number}.jpg" for number in range(4)]


def test_photos_of_another_size_than_the_file_says(folder):
    """The annotation was made on photos of twice the size: labels and truths are both of the photos at hand."""
    found, index, truths = converted(folder, coco_document(NAMES, [(64, 48, 128, 96)], size=(256, 192)))
    np.testing.assert_allclose(index.boxes, [[32, 24, 96, 72]] * 4, atol=1e-3)
    assert_same(index, truths)
    assert {photo.size for photo in found.photos} == {(96, 128)}
    assert "annotations of another size are scaled" in found.facts["val_truths"]


def test_a_truth_file_of_another_size_that_a_data_yaml_names(folder, capsys):
    """Not by way of convert.py: a file that the user named is scaled too, or refused where the shape is another."""
    converted(folder, coco_document(NAMES))
    path = write_json(folder / "large.json", coco_document(NAMES, [(64, 48, 128, 96)], size=(256, 192)))
    text = f"val: {folder.parent / 'out' / 'images' / 'val'}\nnames: [thing]\nannotations: {{val: {path}}}\n"
    (folder / "own.yaml").write_text(text)
    spec = read_data_yaml(str(folder / "own.yaml"), folder)
    index = load_split(spec, "val", folder / "cache")
    assert_same(index, split_truths(spec, "val", index))
    assert "4 photos are of another size than large.json says, whose boxes are scaled" in capsys.readouterr().err
    write_json(path, coco_document(NAMES, size=(96, 128)))
    with pytest.raises(UserError, match="0.jpg is 96x128 there, but the photo is 128x96: another photo or a turned"):
        split_truths(spec, "val", index)


def test_an_object_that_stands_twice_counts_once_in_labels_and_truths(folder):
    """As reading labels has it; a crowd over the same box is another thing."""
    document = coco_document(NAMES)
    first = document["annotations"][0]
    document["annotations"] += [{**first, "id": 90}, {**first, "id": 91, "iscrowd": 1}]
    found, index, truths = converted(folder, document)
    assert found.reasons()["dropped", "the same box of the same class stands here twice"] == 1
    assert "objects that stand twice count once" in found.facts["val_truths"]
    assert (len(index.labels), index.report.duplicates) == (4, 0)
    assert len(truths.xywh) == 5
    untouched, _, _ = converted(folder, coco_document(NAMES), exist_ok=True)
    assert "val_truths" not in untouched.facts


def test_a_photo_that_is_listed_under_two_ids_is_joined(folder):
    document = coco_document(NAMES)
    document["images"].append({"id": 9, "file_name": "0.jpg", "width": 128, "height": 96})
    box = {"category_id": 1, "image_id": 9, "iscrowd": 0}
    document["annotations"] += [
        {**box, "id": 90, "bbox": [32, 24, 64, 48], "area": 3072},
        {**box, "id": 91, "bbox": [1, 2, 30, 40], "area": 1200},
    ]
    found, index, truths = converted(folder, document)
    assert np.diff(index.starts).tolist() == [2, 1, 1, 1], "the same object once, the other one too"
    assert_same(index, truths)
    assert ("noted", "the photo is listed under several ids: joined") in found.reasons()


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ("latest.json", "train"),
        ("contest_interval.json", "train"),
        ("cocoval.json", "train"),
        ("instances_trainval.json", "train"),
        ("instances_trainval2017.json", "train2017"),
        ("train_val.json", "train"),
        ("training.json", "train"),
        ("instances_val2017.json", "val2017"),
        ("instances_minival2014.json", "val2014"),
        ("instances_valminusminival2014.json", "val2014"),
        ("instancesValidation.json", "val"),
        ("lvis_v1_image_info_test_dev.json", "test"),
        ("image_info_test-dev2017.json", "test2017"),
        ("valset_v2.json", "val"),
        ("valid/latest.json", "val"),
        ("validate_train2017.json", "train2017"),
        ("cocotrain.json cocoval2017.json", "train val2017"),
        ("train/latest.json val/latest.json", "train val"),
        ("my_train_data/cocotest.json my_train_data/cocotrainval.json", "test train"),
        ("train/_annotations.coco.json valid/_annotations.coco.json test/_annotations.coco.json", "train val test"),
        ("instances_minitrain2017.json instances_val2017.json", "train2017 val2017"),
    ],
)
def test_the_split_that_a_name_holds(files, splits, tmp_path):
    """Whole words; parts of words only where several files have to be told apart."""
    paths = [tmp_path / "annotations" / file for file in files.split()]
    assert _split_names(paths, []) == splits.split()


@pytest.mark.parametrize("degrees", [90, -270.0, 45.0, 30.0])
def test_cvats_turned_boxes_are_upright_in_labels_and_truths(degrees, folder):
    """CVAT writes the box before it was turned, and the turn as an attribute; the corners here are complex numbers."""
    document = coco_document(NAMES, [(54, 43, 20, 10)])
    attributes = [
        {"rotation": degrees, "occluded": False},
        {"rotation": 360.0},
        {"rotation": "90"},
        {"rotation": degrees},
    ]
    for item, own in zip(document["annotations"], attributes, strict=True):
        item |= {"attributes": own, "segmentation": []}
    document["annotations"][3]["segmentation"] = [[54, 43, 74, 43, 74, 53, 54, 53]]
    found, index, truths = converted(folder, document)
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    corners = [complex(64, 48) + turn * side for side in (-10 - 5j, 10 - 5j, 10 + 5j, -10 + 5j)]
    xs, ys = [each.real for each in corners], [each.imag for each in corners]
    expected = [[min(xs), min(ys), max(xs), max(ys)]] + [[54, 43, 74, 53]] * 3
    np.testing.assert_allclose(index.boxes, expected, atol=1e-3)
    np.testing.assert_allclose(truths.boxes, expected, atol=1e-6)
    assert truths.area.tolist() == [200] * 4, "the object's own"
    assert found.reasons()["noted", "rotated box: the upright box around it is used"] == 1
    assert "rotated boxes are upright" in found.facts["val_truths"]


def test_two_categories_of_one_name(folder):
    found, index, truths = converted(folder, coco_document(NAMES, categories=("cat", "cat")))
    assert found.names == ("cat (1)", "cat (2)")
    assert index.labels.tolist() == [0, 1, 0, 1]
    assert_same(index, truths)


def test_ids_that_are_texts(folder):
    document = coco_document(NAMES)
    for image, item in zip(document["images"], document["annotations"], strict=True):
        image["id"] = item["image_id"] = f"cam1_{image['id']}"
        item["category_id"] = "c"
    document["categories"][0]["id"] = "c"
    document["images"][0]["id"] = document["annotations"][0]["image_id"] = "0007"
    _, index, truths = converted(folder, document)
    assert truths.image_ids.tolist() == [7, 8, 9, 10]
    assert_same(index, truths)


@pytest.mark.parametrize(
    ("prefix", "place"),
    [("images/", "images"), ("../upload/1/", "images"), ("/data/upload/1/", "images"), ("C:\\data\\", "images")]
    + [("deep/images/", "deep/images"), ("train2017/", "images/train2017"), ("", "images/deep/er"), ("images/", ".")],
)
def test_photos_are_found_by_the_end_of_their_names(prefix, place, tmp_path):
    """What convert.py writes is what the trainer reads, whatever folders a tool put before the photos' names."""
    for name in NAMES:
        photo(tmp_path / "set" / place / name)
    document = coco_document([f"{prefix}{name}" for name in NAMES])
    document["images"][1] |= {"width": None, "height": None}
    folders = [tmp_path / "set" / "images"] if place != "." and not place.startswith("deep") else []
    convert_coco(write_json(tmp_path / "set" / "result.json", document), tmp_path / "out", photos=folders)
    assert read_back(tmp_path / "out" / "data.yaml", tmp_path) == {("train", name): BOX for name in NAMES}


def test_lvis_names_beside_a_named_photos_folder(tmp_path):
    """`val2017/x.jpg`, and --photos names the folder val2017 itself."""
    for name in NAMES:
        photo(tmp_path / "coco" / "val2017" / name)
    document = coco_document(NAMES)
    for image in document["images"]:
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
    path = write_json(tmp_path / "lvis_v1_val.json", document)
    for folder in ("coco/val2017", "coco"):
        assert len(convert_coco(path, None, photos=[tmp_path / folder]).photos) == 4


def test_an_end_that_fits_two_photos_is_reported_and_never_guessed(tmp_path):
    for name in ("a/0.jpg", "b/0.jpg", "c/1.jpg", "2.jpg"):
        photo(tmp_path / "set" / "images" / name)
    names = ["/x/a/0.jpg", "/x/b/0.jpg", "/y/c/1.jpg", "/y/d/1.jpg", "q/2.jpg"]
    found = convert_coco(write_json(tmp_path / "set" / "x.json", coco_document(names)), tmp_path / "out")
    assert [photo.name for photo in found.photos] == ["a/0.jpg", "b/0.jpg", "c/1.jpg", "2.jpg"]
    dropped = {finding.file: finding.reason for finding in found.findings if finding.action == "dropped photo"}
    assert dropped == {"/y/d/1.jpg": "file name leaves the photos' folder"}


def test_mended_lvis_keeps_what_is_absent(tmp_path):
    for name in NAMES:
        photo(tmp_path / "set" / name)
    document = coco_document(NAMES, size=(256, 192), boxes=[(64, 48, 128, 96)])
    for image in document["images"]:
        image.update(neg_category_ids=[1], not_exhaustive_category_ids=[])
    document["categories"][0]["frequency"] = "r"
    convert_coco(write_json(tmp_path / "set" / "lvis_val.json", document), tmp_path / "out")
    mended = read_coco(tmp_path / "out" / "annotations" / "val.json")
    assert mended.federated
    assert {image.absent for image in mended.images} == {(1,)}
    assert {item.xywh for item in mended.objects} == {(32, 24, 64, 48)}


def test_the_same_entries_in_another_spelling_are_the_same(tmp_path):
    """Numbers as texts, whole numbers as floats, flags as truth values: read the slow way, to the same objects."""
    document = coco_document(NAMES, [(1.5, 2, 30, 40.25), (0, 0, 128, 96)], categories=("cat", "dog"))
    document["annotations"][0]["iscrowd"] = 1
    plain = read_coco(write_json(tmp_path / "plain.json", document))
    for item in document["annotations"]:
        item |= {"image_id": str(item["image_id"]), "category_id": float(item["category_id"]), "ignore": 0}
        item["iscrowd"] = bool(item["iscrowd"])
    assert read_coco(write_json(tmp_path / "other.json", document)).objects == plain.objects
    assert [item.crowd for item in plain.objects] == [True] + [False] * 7
