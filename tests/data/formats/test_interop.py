"""Exports made by the labelling tools themselves, read by us: the same boxes, classes in the same order, same photos.

pip install -r requirements-interop.txt, in an environment of its own; each test skips without its tool.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.formats.convert import convert_coco, convert_detections
from data.labels.doctor import Settings, examine
from data.labels.tool_faults import FAULTS
from data.open.any_layout import open_data_set
from data.split import load_split
from tests.data.formats.small_sets import photo, read_back, write_json
from utils.errors import UserError

pytestmark = pytest.mark.slow

NAMES = ("zebra", "cat", "mouse")
WIDTH, HEIGHT = 640, 480
# By photo: class and xyxy; touching the edges, with fractions, and one photo without objects.
TRUTH = {
    "a": [(0, (0, 0, 100, 120)), (1, (540, 400, 640, 480))],
    "b": [(2, (10.5, 20.25, 200.5, 300.75))],
    "c": [],
    "d": [(1, (320, 0, 330, 480)), (0, (100, 100, 140, 130))],
}
HALF = 0.5


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The photos and annotations as COCO, which most tools read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, annotations = [], []
    for number, (name, objects) in enumerate(TRUTH.items(), 1):
        photo(tmp_path / "photos" / f"{name}.jpg", WIDTH, HEIGHT)
        images.append({"id": number, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in objects:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories, "info": {}, "licenses": []}
    return write_json(tmp_path / "coco.json", document)


def assert_same(found, tolerance=HALF, background=True, names=NAMES):
    """What was read is what the tool was given: photos, classes and boxes to half a pixel."""
    by_photo = {Path(name).stem: boxes for (_, name), boxes in found.items()}
    expected = {name: objects for name, objects in TRUTH.items() if background or objects}
    assert set(by_photo) == set(expected)
    for name, objects in expected.items():
        wanted = sorted((NAMES[label], *box) for label, box in objects)
        assert [row[0] for row in by_photo[name]] == [row[0] for row in wanted], name
        for own, other in zip(by_photo[name], wanted, strict=True):
            np.testing.assert_allclose(own[1:], other[1:], atol=tolerance, err_msg=name)


def opened(path, tmp_path, names=NAMES):
    spec = open_data_set(str(path), tmp_path / "root", tmp_path / "set-cache")
    assert spec.names == names
    return read_back(spec, tmp_path)


@pytest.mark.parametrize("kind", ["yolo", "yolo_ultralytics", "coco", "voc", "datumaro"])
def test_datumaro(kind, source, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    categories = datumaro.LabelCategories.from_iterable(NAMES)
    items = []
    for name, objects in TRUTH.items():
        boxes = [
            datumaro.Bbox(x1, y1, x2 - x1, y2 - y1, label=label, id=number, group=number)
            for number, (label, (x1, y1, x2, y2)) in enumerate(objects, 1)
        ]
        media = datumaro.Image.from_file(path=str(tmp_path / "photos" / f"{name}.jpg"), size=(HEIGHT, WIDTH))
        items.append(
            datumaro.DatasetItem(name, subset="val" if name > "b" else "train", media=media, annotations=boxes)
        )
    data = datumaro.Dataset.from_iterable(items, categories={datumaro.AnnotationType.label: categories})
    data.export(str(tmp_path / "out"), kind, save_media=True)
    found = opened(tmp_path / "out", tmp_path)
    assert_same(found)
    assert {Path(name).stem: split for split, name in found} == {"a": "train", "b": "train", "c": "val", "d": "val"}


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_supervision(kind, source, tmp_path):
    supervision = pytest.importorskip("supervision")
    annotations = {}
    for name, objects in TRUTH.items():
        path = str(tmp_path / "photos" / f"{name}.jpg")
        boxes = np.array([box for _, box in objects], float).reshape(-1, 4)
        labels = np.array([label for label, _ in objects], int)
        annotations[path] = supervision.Detections(xyxy=boxes, class_id=labels)
    data = supervision.DetectionDataset(classes=list(NAMES), images=list(annotations), annotations=annotations)
    out, images = tmp_path / "out", str(tmp_path / "out" / "images")
    if kind == "yolo":
        data.as_yolo(images, str(out / "labels"), str(out / "data.yaml"))
        assert_same(opened(out, tmp_path))
    elif kind == "coco":
        data.as_coco(images, str(out / "_annotations.coco.json"))
        assert_same(opened(out, tmp_path))
    else:
        data.as_pascal_voc(images, str(out / "Annotations"))
        # Its minima are raised by one and rounded: fractions may lose half a pixel more.
        assert_same(opened(out, tmp_path, tuple(sorted(NAMES))), tolerance=1.0)
        assert told_by_the_doctor(out, tmp_path) == [FAULTS["supervision VOC"]]


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_globox(kind, source, tmp_path):
    globox = pytest.importorskip("globox")
    data = globox.AnnotationSet.from_coco(source)
    out = tmp_path / "out"
    (out / "Annotations").mkdir(parents=True)
    if kind == "yolo":
        (out / "labels").mkdir()
        numbers = {name: number for number, name in enumerate(NAMES)}
        data.save_yolo_v5(out / "labels", label_to_id=numbers)
        (out / "classes.txt").write_text("\n".join(NAMES))
        (out / "images").symlink_to(tmp_path / "photos")
        assert_same(opened(out, tmp_path))
    elif kind == "coco":
        data.save_coco(tmp_path / "photos" / "out.json", auto_ids=True)
        assert_same(opened(tmp_path / "photos" / "out.json", tmp_path))
    else:
        data.save_pascal_voc(out / "Annotations")
        (out / "JPEGImages").symlink_to(tmp_path / "photos")
        assert_same(opened(out, tmp_path, tuple(sorted(NAMES))))


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc", "json", "json_min"])
def test_label_studio(kind, source, tmp_path):
    converter = pytest.importorskip("label_studio_sdk.converter")
    config = f"""<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
    {"".join(f'<Label value="{name}"/>' for name in NAMES)}</RectangleLabels></View>"""
    tasks = []
    for number, (name, objects) in enumerate(TRUTH.items(), 1):
        result = []
        for label, (x1, y1, x2, y2) in objects:
            value = {"x": x1 / WIDTH * 100, "y": y1 / HEIGHT * 100, "rotation": 0, "rectanglelabels": [NAMES[label]]}
            value |= {"width": (x2 - x1) / WIDTH * 100, "height": (y2 - y1) / HEIGHT * 100}
            shared = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
            result.append({**shared, "value": value, "original_width": WIDTH, "original_height": HEIGHT})
        annotations = [{"id": number, "result": result, "completed_by": 1}]
        tasks.append(
            {"id": number, "data": {"image": str(tmp_path / "photos" / f"{name}.jpg")}, "annotations": annotations}
        )
    (tmp_path / "tasks").mkdir()
    for number, task in enumerate(tasks):
        (tmp_path / "tasks" / f"{number}.json").write_text(json.dumps(task))
    tool = converter.Converter(config, str(tmp_path), download_resources=False)
    out, inputs = tmp_path / "out", str(tmp_path / "tasks")
    if kind == "yolo":
        tool.convert_to_yolo(inputs, str(out), is_dir=True)
    elif kind == "coco":
        tool.convert_to_coco(inputs, str(out), output_image_dir=str(out / "images"), is_dir=True)
    elif kind == "json":
        tool.convert_to_json(inputs, str(out), is_dir=True)
    elif kind == "json_min":
        tool.convert_to_json_min(inputs, str(out), is_dir=True)
    else:
        tool.convert_to_voc(inputs, str(out), output_image_dir=str(out / "images"), is_dir=True)
    bring_photos(out, tmp_path / "photos")
    # It sorts its classes, and cuts VOC's edges to whole pixels by way of percent.
    assert_same(opened(out, tmp_path, tuple(sorted(NAMES))), tolerance=2.0 if kind == "voc" else HALF)
    assert told_by_the_doctor(out, tmp_path) == [
        text for name, text in FAULTS.items() if name == f"Label Studio {kind.upper()}"
    ]


def told_by_the_doctor(path, tmp_path) -> list[str]:
    """What the doctor says that the tool itself got wrong."""
    spec = open_data_set(str(path), tmp_path / "root", tmp_path / "set-cache")
    found = examine(spec, Settings((640, 640), ((30.0, 60.0),), 4.0), tmp_path)
    return [each.details for each in found.findings if each.kind == "tool"]


def bring_photos(out: Path, photos: Path) -> None:
    """Put the photos where the tool would have downloaded them to."""
    (out / "images").mkdir(exist_ok=True, parents=True)
    for path in photos.iterdir():
        if not (out / "images" / path.name).exists():
            (out / "images" / path.name).symlink_to(path)


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_pylabel(kind, source, tmp_path):
    """It has no photos without objects but those that its COCO names; YOLO's four decimals are .05 pixels here."""
    importer = pytest.importorskip("pylabel.importer")
    data = importer.ImportCoco(str(source), path_to_images=str(tmp_path / "photos"))
    out = tmp_path / "out"
    if kind == "coco":
        data.export.ExportToCoco(output_path=str(tmp_path / "photos" / "out.json"), cat_id_index=1)
        assert_same(opened(tmp_path / "photos" / "out.json", tmp_path))
    elif kind == "yolo":
        (out / "labels").mkdir(parents=True)
        data.export.ExportToYoloV5(output_path=str(out / "labels"), yaml_file="dataset.yaml", cat_id_index=0)
        (out / "dataset.yaml").unlink()  # names a folder training/ of its own
        (out / "classes.txt").write_text("\n".join(NAMES))
        (out / "images").symlink_to(tmp_path / "photos")
        assert_same(opened(out, tmp_path))
    else:
        (out / "Annotations").mkdir(parents=True)
        data.export.ExportToVoc(output_path=str(out / "Annotations"))
        (out / "JPEGImages").symlink_to(tmp_path / "photos")
        # It cuts edges to whole pixels.
        assert_same(opened(out, tmp_path, tuple(sorted(NAMES))), tolerance=1.0)


def test_labelme(source, tmp_path):
    """It exports nothing but its own files, one a photo; a photo that was not saved has none."""
    label_file = pytest.importorskip("labelme._label_file")
    for name, objects in TRUTH.items():
        shapes = [
            {"label": NAMES[label], "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "group_id": None}
            for label, (x1, y1, x2, y2) in objects
        ]
        size = {"image_height": HEIGHT, "image_width": WIDTH}
        file = str(tmp_path / "photos" / f"{name}.json")
        if objects:
            data = (tmp_path / "photos" / f"{name}.jpg").read_bytes()
            label_file.LabelFile().save(file, shapes=shapes, image_path=f"{name}.jpg", image_data=data, **size)
    assert_same(opened(tmp_path / "photos", tmp_path, tuple(sorted(NAMES))))


def test_sahi_coco(source, tmp_path):
    coco = pytest.importorskip("sahi.utils.coco")
    data = coco.Coco.from_coco_dict_or_path(str(source), image_dir=str(tmp_path / "photos"))
    write_json(tmp_path / "photos" / "out.json", data.json)
    assert_same(opened(tmp_path / "photos" / "out.json", tmp_path))


def test_sahi_yolo(source, tmp_path):
    """It writes COCO's category ids, which begin at 1, as class ids: named by training's error and by the doctor."""
    coco = pytest.importorskip("sahi.utils.coco")
    data = coco.Coco.from_coco_dict_or_path(str(source), image_dir=str(tmp_path / "photos"))
    data.export_as_yolo(str(tmp_path / "out"), train_split_rate=1)
    spec = open_data_set(str(tmp_path / "out"), tmp_path / "root", tmp_path / "set-cache")
    assert spec.names == NAMES
    with pytest.raises(UserError, match=r"class id 3.*they look 1-based"):
        load_split(spec, "train", tmp_path)
    found = examine(spec, Settings((640, 640), ((30.0, 60.0),), 4.0), tmp_path)
    assert "they look 1-based" in next(each.details for each in found.findings if each.kind == "class id")


@pytest.mark.parametrize(("to", "kind"), [("coco", "coco"), ("voc", "voc"), ("darknet", "yolo")])
def test_datumaro_reads_what_is_written(to, kind, source, tmp_path):
    """And so CVAT, which imports by datumaro: what was detected, to be corrected, with scores where COCO has them."""
    datumaro = pytest.importorskip("datumaro")
    rows = [
        {
            "image": str(tmp_path / "photos" / f"{name}.jpg"),
            "class": label,
            "name": NAMES[label],
            "score": 0.5 + row / 10,
        }
        | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
        for name, objects in TRUTH.items()
        for row, (label, box) in enumerate(objects)
    ]
    found = write_json(tmp_path / "detections.json", rows)
    convert_detections(found, tmp_path / "out", photos=[tmp_path / "photos"], to=to)
    data = datumaro.Dataset.import_from(str(tmp_path / "out"), kind)
    classes = [each.name for each in data.categories()[datumaro.AnnotationType.label]]
    seen = {}
    for item in data:
        boxes = [each for each in item.annotations if each.type == datumaro.AnnotationType.bbox]
        seen["", f"{item.id}.jpg"] = sorted((classes[each.label], *each.points) for each in boxes)
        if kind == "coco":
            scores = sorted(each.attributes["score"] for each in boxes)
            assert scores == [0.5 + row / 10 for row in range(len(TRUTH[item.id]))]
    assert_same(seen, tolerance=0.01)


def test_sahi(source, tmp_path):
    """Slices: every box of a slice is the part of a box of the photo that lies in it."""
    slicing = pytest.importorskip("sahi.slicing")
    slicing.slice_coco(
        coco_annotation_file_path=str(source),
        image_dir=str(tmp_path / "photos"),
        output_coco_annotation_file_name="sliced",
        output_dir=str(tmp_path / "out"),
        slice_height=320,
        slice_width=320,
        overlap_height_ratio=0.2,
        overlap_width_ratio=0.2,
        verbose=False,
    )
    (file,) = (tmp_path / "out").glob("*.json")
    found = convert_coco(file, None, photos=[tmp_path / "out"])
    document = json.loads(file.read_text())
    assert sum(len(each.objects) for each in found.photos) == len(document["annotations"])
    for each in found.photos:
        with Image.open(each.photo) as image:
            assert each.size == (image.height, image.width)
