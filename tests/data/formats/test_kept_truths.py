"""YOLO sets with an annotation file, converted: what the file knows besides the labels is kept, or told as lost."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convert import main
from data.data_yaml import read_data_yaml
from data.formats.convert import convert, convert_coco, convert_yolo

SIZE = (300, 400)  # height, width


def box(number, image, category, left, top, side, area, **more):
    known = {"id": number, "image_id": image, "category_id": category, "bbox": [left, top, side, side]}
    outline = [[left, top, left + side, top, left, top + side]]
    return {**known, "area": area, "iscrowd": 0, "segmentation": outline, **more}


@pytest.fixture
def coco(tmp_path):
    """Masks of half their boxes, which COCO counts as small and medium where the boxes are medium and large."""
    (tmp_path / "photos").mkdir()
    images = []
    for number in (31, 17):
        name = f"photo{number}.png"
        cv2.imwrite(str(tmp_path / "photos" / name), np.full((*SIZE, 3), number, np.uint8))
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    annotations = [
        box(1, 31, 9, 10, 20, 40, 800.5), box(2, 31, 4, 100.25, 30, 120, 7200.25), box(3, 31, 9, 360, 200, 80, 2222),
        box(4, 17, 4, 30, 40, 50, 900, iscrowd=1, segmentation={"counts": [0, 9], "size": [3, 3]}),
        box(5, 17, 9, 120, 90, 44, 950, ignore=1), box(6, 17, 9, 10.5, 99.75, 44, 970), box(7, 17, 4, 200, 9, 99, 9801),
    ]  # fmt: skip
    categories = [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}]
    file = tmp_path / "val.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.fixture
def yolo(coco, tmp_path):
    convert_coco(coco, tmp_path / "yolo", photos=[tmp_path / "photos"])
    return tmp_path / "yolo" / "data.yaml"


def known(file):
    """Everything that an evaluation reads of a file, by photo and in no order."""
    document = json.loads(file.read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    photos = {each["id"]: each["file_name"] for each in document["images"]}
    return sorted(
        (photos[each["image_id"]], names[each["category_id"]], *each["bbox"], each["area"], each["iscrowd"],
         each.get("ignore", 0)) for each in document["annotations"]
    )  # fmt: skip


def scores(file, found, tmp_path):
    """The twelve numbers of pycocotools."""
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_a_converted_set_is_measured_as_before(to, coco, yolo, tmp_path):
    convert_yolo(read_data_yaml(str(yolo), tmp_path), tmp_path / "out", to=to)
    written = tmp_path / "out" / "annotations" / "val.json"
    assert known(written) == known(coco)
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    assert spec.annotations == {"val": written}
    rows = [each for each in json.loads(coco.read_text())["annotations"] if not each["iscrowd"]]
    found = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "score": 1 / (2 + number),
         "bbox": [side + number % 3 * 4 for side in row["bbox"]]} for number, row in enumerate(rows)
    ]  # fmt: skip
    before = scores(coco, found, tmp_path)
    assert 0 < before[3] < 1
    assert scores(written, found, tmp_path) == before


def test_labels_decide_which_objects_there_are(coco, yolo, tmp_path):
    labels = sorted((yolo.parent / "labels" / "val").iterdir())
    assert [len(each.read_text().splitlines()) for each in labels] == [2, 3]
    lines = labels[1].read_text().splitlines()
    moved = lines[1].split()
    moved[1] = f"{float(moved[1]) + 1 / SIZE[1]:.10f}"  # by one pixel
    labels[1].write_text("\n".join([" ".join(moved), lines[2]]))
    found = convert_yolo(read_data_yaml(str(yolo), tmp_path), tmp_path / "out")
    changed = ("photo31.png", "dog", 101.25, 30, 120, 120, 14400, 0, 0)
    rows = known(tmp_path / "out" / "annotations" / "val.json")
    (ours,) = (row for row in rows if row[:2] == changed[:2])
    assert ours == pytest.approx(changed, abs=0.01)
    gone = {("photo31.png", "cat", 10), ("photo31.png", "dog", 100.25)}
    assert rows == sorted([ours, *(row for row in known(coco) if row[:3] not in gone)])
    counts = {finding.reason.partition(":")[0]: finding.values for finding in found.findings}
    assert counts["labels that the annotation file lacks"] == "1"
    assert counts["objects of the annotation file without a label"] == "2"


def test_what_lvis_knows_of_classes_is_kept(coco, yolo, tmp_path):
    document = json.loads(coco.read_text())
    for each, frequency in zip(document["categories"], "rf", strict=True):
        each["frequency"] = frequency
    for image, absent, partly in zip(document["images"], ([9], []), ([], [4]), strict=True):
        image |= {"neg_category_ids": absent, "not_exhaustive_category_ids": partly}
    coco.write_text(json.dumps(document))
    convert_yolo(read_data_yaml(str(yolo), tmp_path), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations" / "val.json").read_text())
    by_name = {each["file_name"]: each for each in written["images"]}
    assert written["categories"] == document["categories"]
    assert [by_name[image["file_name"]] for image in document["images"]] == document["images"]


def said(capsys, *arguments):
    main([str(each) for each in arguments])
    return capsys.readouterr().out


def test_outlines_are_told_to_be_lost(coco, yolo, tmp_path, capsys):
    """Where the areas are those of masks; else there is nothing that an evaluation would miss."""
    told = "noted 1: objects with a mask: its area is written, its outline is not"
    assert told in said(capsys, "yolo", yolo, tmp_path / "one")
    assert told in said(capsys, "coco", coco, tmp_path / "two", "--to", "coco", "--photos", tmp_path / "photos")
    document = json.loads(coco.read_text())
    for each in document["annotations"]:
        each["area"] = each["bbox"][2] * each["bbox"][3]
    coco.write_text(json.dumps(document))
    assert "mask" not in said(capsys, "coco", coco, tmp_path / "three", "--to", "coco", "--photos", tmp_path / "photos")


def test_ignored_objects_that_a_format_cannot_hold_are_told(coco, yolo, tmp_path, capsys):
    assert "crowd regions: a VOC folder has no place for them" in said(
        capsys, "yolo", yolo, tmp_path / "v", "--to", "voc"
    )
    lost = "dropped 1: crowd regions and difficult objects: Darknet's layout has no place for them"
    assert lost in said(capsys, "yolo", yolo, tmp_path / "d", "--to", "darknet")
    back = convert("voc", tmp_path / "v", None)
    assert sum(len(photo.ignored) for photo in back.photos) == 1
    assert lost in said(capsys, "voc", tmp_path / "v", tmp_path / "w", "--to", "darknet")
