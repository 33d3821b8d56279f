"""COCO and LVIS to YOLO and back: nothing is lost but what the report lists."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from data.data_yaml import list_images, read_data_yaml
from data.formats.coco_json import read_coco
from data.formats.coco_truths import truths_of
from data.formats.convert import convert_coco, convert_yolo
from tests.data.formats.coco_files import make_coco
from tests.paths import needs_shared_data
from utils.errors import UserError

pytestmark = needs_shared_data


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco")


def truths(document):
    """Annotations by file name, class name and box to a hundredth of a pixel."""
    images = {image["id"]: image["file_name"] for image in document["images"]}
    names = {category["id"]: category["name"] for category in document["categories"]}
    return Counter(
        (images[item["image_id"]], names[item["category_id"]], *(round(side, 2) + 0.0 for side in item["bbox"]))
        for item in document["annotations"]
    )


def test_there_and_back_loses_only_what_the_report_lists(coco, tmp_path):
    path, document = coco
    there = convert_coco(path.parent.parent, tmp_path / "yolo")
    spec = read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), Path())
    assert list(spec.names) == [category["name"] for category in document["categories"]], "the file's own order"
    assert spec.annotations["val"] == path
    convert_yolo(spec, tmp_path / "back")
    back = json.loads((tmp_path / "back" / "annotations" / "val.json").read_text())
    crowds = Counter(dict.fromkeys(truths({**document, "annotations": [
        item for item in document["annotations"] if item["iscrowd"]
    ]}), 1))  # fmt: skip
    assert crowds
    reported = [finding for finding in there.findings if finding.action == "dropped"]
    assert len(reported) == sum(item["iscrowd"] for item in document["annotations"])
    assert truths(document) == truths(back), "crowds have no label, but stand in the file that the set names"
    again = {**back, "annotations": [item for item in back["annotations"] if item["iscrowd"]]}
    assert Counter(dict.fromkeys(truths(again), 1)) == crowds
    assert {image["id"]: image["file_name"] for image in back["images"]} == {
        image["id"]: image["file_name"] for image in document["images"]
    }
    assert {category["id"]: category["name"] for category in back["categories"]} == {
        category["id"]: category["name"] for category in document["categories"]
    }


def test_a_subset_is_of_the_photos_at_hand(coco, tmp_path):
    """Half of the photos are there: with --subset the set is of those, and an evaluation asks for no others."""
    path, document = coco
    names = sorted(image["file_name"] for image in document["images"])
    for name in names[1::2]:
        (path.parent.parent / "images" / "val2017" / name).unlink()
    found = convert_coco(path.parent.parent, tmp_path / "yolo", subset=True)
    assert sorted(photo.photo.name for photo in found.photos) == names[::2]
    assert not [finding for finding in found.findings if finding.action == "dropped photo"]
    assert found.facts["val2017_photos"] == "6 at hand of 12 (--subset)"
    whole = convert_coco(path.parent.parent, None)
    assert len([finding for finding in whole.findings if finding.reason.startswith("photo not found")]) == 6
    assert [photo.objects for photo in found.photos] == [photo.objects for photo in whole.photos]

    spec = read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), Path())
    photos = list_images(spec, "val")
    truths, _ = truths_of(read_coco(spec.annotations["val"]), [str(photo) for photo in photos], spec.names)
    kept = {image["id"] for image in document["images"] if image["file_name"] in names[::2]}
    assert len(photos) == 6
    assert len(truths.boxes) == sum(item["image_id"] in kept for item in document["annotations"])


def test_what_it_writes(coco, tmp_path):
    path, document = coco
    convert_coco(path, tmp_path / "out")
    out = tmp_path / "out"
    assert {each.name for each in out.iterdir()} == {
        "images", "labels", "data.yaml", "names.txt", "report.json", "report.csv", "ids.json", "overlays",
        ".written.json",
    }  # fmt: skip
    assert 1 <= len(list((out / "overlays").glob("*.jpg"))) <= 16
    assert len(list((out / "labels" / "val2017").glob("*.txt"))) == len(document["images"])
    ids = json.loads((out / "ids.json").read_text())
    assert ids["categories"] == {category["name"]: category["id"] for category in document["categories"]}
    assert ids["images"] == {f"val2017/{image['file_name']}": image["id"] for image in document["images"]}


def test_a_dry_run_writes_nothing(coco, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    conversion = convert_coco(coco[0], None)
    assert conversion.photos
    assert sorted(tmp_path.rglob("*")) == before


def change(path, document, tmp_path):
    path.write_text(json.dumps(document))
    return convert_coco(path, tmp_path / "out")


def reasons(conversion):
    return {finding.reason for finding in conversion.findings}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "bbox is not four numbers"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "bbox is not four numbers"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 0, 5], iscrowd=0), "box without area"),
        (lambda d: d["annotations"][0].update(bbox=[9000, 2, 5, 5], iscrowd=0), "box outside the photo"),
        (lambda d: d["annotations"][0].update(bbox=[-3, 2, 9, 9], iscrowd=0), "box reaches beyond the photo"),
        (lambda d: d["annotations"][0].update(category_id=4), "category_id of no category"),
        (lambda d: d["annotations"][0].update(image_id=-4), "image_id of no image"),
        (lambda d: d["annotations"].append(3), "annotation is a number"),
        (lambda d: d["images"].append(dict(d["images"][0])), "the id of another entry of images"),
        (lambda d: d["images"][0].update(file_name="../../etc/passwd"), "file name leaves the photos' folder"),
        (lambda d: d["images"][0].update(file_name="/etc/passwd"), "file name leaves the photos' folder"),
        (lambda d: d["images"][0].update(file_name="gone.jpg"), "photo not found (--photos names its folder)"),
        (lambda d: d["images"][0].update(width=10), "the annotation is of another photo or of a turned one"),
        (lambda d: d["images"][0].pop("width"), "the annotation gives no size: the photo's is used"),
        (lambda d: d["categories"][1].update(name=d["categories"][0]["name"]), "several categories of this name"),
        (lambda d: d["annotations"].append({**d["annotations"][0], "iscrowd": 0}) or d["annotations"].append(
            {**d["annotations"][0], "iscrowd": 0}), "the same box of the same class stands here twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(spoil, reason, coco, tmp_path):
    path, document = coco
    spoil(document)
    conversion = change(path, document, tmp_path)
    assert reason in reasons(conversion)
    assert any(reason in line for line in (tmp_path / "out" / "report.csv").read_text().splitlines())
    assert not list(tmp_path.glob("**/passwd*"))


def test_polygons_without_boxes_become_their_box(coco, tmp_path):
    path, document = coco
    item = document["annotations"][0]
    item.update(segmentation=[[10, 20, 50, 20, 30, 70]], iscrowd=0)
    del item["bbox"]
    conversion = change(path, document, tmp_path)
    photo = conversion.photos[0]
    height, width = photo.size
    first = photo.objects[0]
    assert first[1:5] == pytest.approx((30 / width, 45 / height, 40 / width, 50 / height))


def test_lvis_names_its_photos_by_address(coco, tmp_path):
    path, document = coco
    for image in document["images"]:
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in document["categories"]:
        category["frequency"] = "c"
    lvis = path.with_name("lvis_v1_val.json")
    lvis.write_text(json.dumps(document))
    path.unlink()
    conversion = convert_coco(lvis, tmp_path / "out", photos=[path.parent.parent / "images"])
    assert len(conversion.photos) == len(document["images"])
    assert any("LVIS" in reason for reason in reasons(conversion))


def test_lvis_as_its_built_in_yaml_expects_it(coco, tmp_path):
    path, document = coco
    photos = tmp_path / "coco-original" / "images"
    shutil.copytree(path.parent.parent / "images", photos)
    for image in document["images"]:
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in document["categories"]:
        category["frequency"] = "c"
    (tmp_path / "lvis-original").mkdir()
    for split in ("train", "val"):
        (tmp_path / "lvis-original" / f"lvis_v1_{split}.json").write_text(json.dumps(document))
    convert_coco(tmp_path / "lvis-original", tmp_path / "lvis", photos=[photos])
    spec = read_data_yaml("lvis", tmp_path)
    assert spec.names == tuple(category["name"] for category in document["categories"])
    assert spec.annotations["val"].is_file()
    assert [len(list_images(spec, split)) for split in ("train", "val")] == [len(document["images"])] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected a COCO file"),
        ('{"images": 3}', "expected a list under 'images'"),
        ('{"images": [], "categories": [], "annotations": []}', "no usable"),
        ('{"images": [{"id": 1' + "0" * 5000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_no_coco_file_is_one_line(text, message, tmp_path):
    path = tmp_path / "val.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        convert_coco(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_yolo_to_coco_lists_what_the_labels_check_drops(coco, tmp_path):
    convert_coco(coco[0], tmp_path / "yolo")
    label = sorted((tmp_path / "yolo" / "labels" / "val2017").glob("*.txt"))[0]
    label.write_text(label.read_text() + "0 1.5 .5 .2 .2\n")
    spec = read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), Path())
    conversion = convert_yolo(spec, tmp_path / "back")
    assert any(label.name in finding.file and finding.reason == "beyond the image" for finding in conversion.findings)
    assert label.name in (tmp_path / "back" / "report.csv").read_text()
