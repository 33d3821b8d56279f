"""Which folders are looked in for the photos of a split: its own, never those of another split."""

import pytest

from data.formats.convert import convert_coco
from data.formats.photo_finder import PhotosBelow, folders_of_subset, foreign_to, splits_named
from data.formats.registry import recognise
from tests.data.formats.small_sets import coco_document, photo, write_json

NAME = "000001.jpg"


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("train", {"train"}),
        ("train2017", {"train"}),
        ("TrainImages", {"train"}),
        ("valid", {"val"}),
        ("my-validation_set", {"val"}),
        ("valminusminival2014", {"val"}),
        ("test-dev2017", {"test"}),
        ("trainval", {"train", "val"}),
        ("latest", set()),
        ("interval", set()),
        ("photos", set()),
    ],
)
def test_the_splits_that_a_folder_is_called_after(name, splits):
    assert splits_named(name) == splits


@pytest.mark.parametrize(
    ("subset", "folder", "foreign"),
    [
        ("val", "train", True),
        ("val2017", "val2014", True),
        ("val", "validation", False),
        ("val", "trainval", False),
        ("val", "photos", False),
        ("batch2", "Batch1", True),
        ("batch2", "train", False),
        ("", "batch1", True),
        ("", "val", False),
    ],
)
def test_folders_of_other_subsets(subset, folder, foreign):
    assert foreign_to(subset, ["val2014", "batch1", "batch2"])(folder) == foreign


def test_no_folder_of_a_subset_leads_elsewhere():
    assert folders_of_subset("valid") == ["valid", "val", "validation"]
    assert folders_of_subset("batch1") == ["batch1"]
    assert [folders_of_subset(name) for name in ("", "..", "../up", "/up")] == [[]] * 4


def coco(folder, photos, splits=("train", "val"), **names):
    """A file a split, with a box of another size each, and the photos."""
    for place in photos:
        photo(folder / place)
    for number, split in enumerate(splits, 1):
        document = coco_document([names.get(split, NAME)], [(10, 10, 10 * number, 10 * number)])
        write_json(folder / "annotations" / f"instances_{split}.json", document)


def places(found, folder):
    """The photo of each split, by the side of its box, and what was not found."""
    own = {
        each.split: (each.photo.relative_to(folder).as_posix(), round(each.objects[0].width * 128))
        for each in found.photos
    }
    return own, [(each.split, each.reason) for each in found.findings if each.action == "dropped photo"]


NOT_FOUND = "photo not found (--photos names its folder)"


@pytest.mark.parametrize(
    "own", ["valid", "val", "validation", "images/valid", "images/val", "photos/valid", "val_images"]
)
def test_each_splits_boxes_are_on_its_own_photo(own, tmp_path):
    other = own.replace("validation", "train").replace("valid", "train").replace("val", "train")
    coco(tmp_path, [f"{other}/{NAME}", f"{own}/{NAME}"])
    expected = {"train": (f"{other}/{NAME}", 10), "val": (f"{own}/{NAME}", 20)}
    for options in ({}, {"photos": [tmp_path]}, {"photos": [(tmp_path / other).parent]}):
        assert places(convert_coco(tmp_path, None, **options), tmp_path) == (expected, []), options
    both = [tmp_path / other, tmp_path / own]
    assert places(convert_coco(tmp_path, None, photos=both), tmp_path) == (expected, [])


@pytest.mark.parametrize("photos", [False, True])
@pytest.mark.parametrize("folder", ["train", "images/train2017", "photos/train"])
def test_a_photo_of_another_split_is_not_taken(folder, photos, tmp_path):
    coco(tmp_path, [f"{folder}/{NAME}"])
    found = convert_coco(tmp_path, None, photos=[tmp_path] if photos else ())
    assert places(found, tmp_path) == ({"train": (f"{folder}/{NAME}", 10)}, [("val", NOT_FOUND)])


def test_a_photo_of_another_splits_folder_that_the_file_names(tmp_path):
    """LVIS measures on photos of train2017. Where both splits have a photo, that is noted."""
    coco(tmp_path, [f"train/{NAME}"], val=f"train/{NAME}")
    found = convert_coco(tmp_path, None)
    assert places(found, tmp_path)[0] == {"train": (f"train/{NAME}", 10), "val": (f"train/{NAME}", 20)}
    assert found.reasons() == {("noted", "the photo is in two splits"): 1}


def test_train_and_val_in_one_file_have_the_photos_of_both(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        photo(tmp_path / split / f"{number}.jpg")
    write_json(tmp_path / "annotations" / "instances_trainval.json", coco_document(["0.jpg", "1.jpg", "2.jpg"]))
    found = convert_coco(tmp_path, None)
    assert [each.photo.parent.name for each in found.photos] == ["train", "val"]
    assert [(each.file, each.reason) for each in found.findings] == [("2.jpg", NOT_FOUND)]


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("labels.json", "data/1.jpg"),
        ("annotations/train.json", "photos/1.jpg"),
        ("annotations/train.json", "a/b/train/c/1.jpg"),
        ("x.json", "val/1.jpg"),
    ],
)
def test_photos_anywhere_below(file, place, tmp_path):
    """FiftyOne's layout, and others: by the folder, and by the file."""
    photo(tmp_path / place)
    path = write_json(tmp_path / file, coco_document(["1.jpg"]))
    assert recognise(tmp_path).name == "coco"
    for source in (tmp_path, path, path.parent):
        assert [each.photo for each in convert_coco(source, None).photos] == [tmp_path / place]


def test_of_several_photos_below_none_is_guessed(tmp_path):
    for place in ("a/1.jpg", "b/1.jpg", "a/2.jpg"):
        photo(tmp_path / place)
    write_json(tmp_path / "labels.json", coco_document(["1.jpg", "2.jpg"]))
    found = convert_coco(tmp_path, None)
    assert [each.photo for each in found.photos] == [tmp_path / "a" / "2.jpg"]
    assert [(each.file, each.reason) for each in found.findings] == [("1.jpg", "several photos fit this file name")]


def test_a_search_in_too_many_folders_finds_nothing(tmp_path):
    for place in ("a", "b", "c"):
        photo(tmp_path / place / "1.jpg")
    assert len(PhotosBelow([tmp_path], most=4).called("1.jpg")) == 3
    assert PhotosBelow([tmp_path], most=3).called("1.jpg") == []
