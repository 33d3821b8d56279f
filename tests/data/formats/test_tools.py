"""Labelling tools' own files: what their shapes mean, and what of them cannot be used is named."""

import math

import numpy as np
import pytest

from convert import TARGETS, TOOLS, main
from data.formats.convert import convert
from data.formats.registry import FORMATS, WRITERS, recognise
from tests.data.formats.small_sets import photo, write_json
from tests.data.open.test_any_layout import LAYOUTS
from utils.errors import UserError

WIDTH, HEIGHT = 128, 96


def boxes_of(found) -> dict:
    """Class and xyxy pixels of every object, by photo."""
    found_boxes = {}
    for each in found.photos:
        rows = []
        for item in each.objects:
            x, y, w, h = item.x * WIDTH, item.y * HEIGHT, item.width * WIDTH / 2, item.height * HEIGHT / 2
            rows.append((found.names[item.label], *(round(side, 9) for side in (x - w, y - h, x + w, y + h))))
        found_boxes[each.photo.stem] = rows
    return found_boxes


def region(kind, value, labels=("cat",)):
    own = {"type": f"{kind}labels", "value": {**value, f"{kind}labels": list(labels)}}
    return {**own, "original_width": WIDTH, "original_height": HEIGHT}


def rectangle(x, y, width, height, rotation=0):
    """In percent, as Label Studio writes pixels."""
    across, down = 100 / WIDTH, 100 / HEIGHT
    return {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": rotation}


def test_label_studios_regions(tmp_path):
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    points = {"points": [[10 * 100 / WIDTH, 20 * 100 / HEIGHT], [30 * 100 / WIDTH, 50 * 100 / HEIGHT], [50, 50]]}
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 0}
    results = {
        "a": [region("rectangle", rectangle(10, 20, 30, 40)), region("polygon", points, ["dog"])],
        "b": [region("rectangle", rectangle(60, 20, 40, 20, rotation=90)), region("ellipse", ellipse, ["dog"])],
        "c": [],
        "d": [region("brush", {"format": "rle", "rle": [1, 2]}), region("keypoint", {"x": 1, "y": 1, "width": 1})],
    }
    tasks = [
        {"data": {"text": "no photo.", "image": f"s3://bucket/{name}.jpg"}, "annotations": [{"result": result}]}
        for name, result in results.items()
    ]
    tasks += [{"data": {"image": "e.jpg"}, "annotations": []}, {"data": {"text": "nothing"}, "annotations": []}]
    write_json(tmp_path / "tasks.json", tasks)
    found = FORMATS["label_studio"].read(tmp_path)
    assert found.names == ("cat", "dog")
    boxes = boxes_of(found)
    assert boxes["c"] == boxes["d"] == []
    np.testing.assert_allclose([row[1:] for row in boxes["a"]], [(10, 20, 40, 60), (10, 20, 64, 50)])
    # A quarter turn clockwise about the first corner: what was to the right is below, what was below to the left.
    np.testing.assert_allclose([row[1:] for row in boxes["b"]], [(40, 20, 60, 60), (32, 38.4, 96, 57.6)])
    reasons = {reason for _, reason in found.reasons()}
    assert "rotated box: the upright box around it is used" in reasons
    assert "brush: no box can be made of it" in reasons
    assert "no annotation, or a skipped one: not labelled yet" in reasons
    assert "the task names no photo" in reasons


@pytest.mark.parametrize("degrees", [0, 15, 45, 90, 200, 359])
def test_a_turned_box_is_the_upright_box_of_its_corners(degrees, tmp_path):
    """By complex numbers."""
    photo(tmp_path / "a.jpg")
    result = [region("rectangle", rectangle(60, 40, 16, 8, rotation=degrees))]
    write_json(tmp_path / "tasks.json", [{"data": {"image": "a.jpg"}, "annotations": [{"result": result}]}])
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    corners = [complex(60, 40) + turn * side for side in (0, 16, 16 + 8j, 8j)]
    xs, ys = [each.real for each in corners], [each.imag for each in corners]
    ((_, *box),) = boxes_of(FORMATS["label_studio"].read(tmp_path))["a"]
    np.testing.assert_allclose(box, (min(xs), min(ys), max(xs), max(ys)), atol=1e-9)


@pytest.mark.parametrize("kept", ["über näh.jpg", "bbbbbbbb-über näh.jpg", "bbbbbbbb-%C3%BCber%20n%C3%A4h.jpg"])
@pytest.mark.parametrize("folder", ["/data/upload/1/", "../upload/1/", ""])
def test_label_studios_names_that_the_server_quoted(kept, folder, tmp_path):
    """Uploads are named by a quoted path; what is not there is said to be missing."""
    photo(tmp_path / "images" / kept)
    result = [region("rectangle", rectangle(10, 20, 30, 40))]
    names = [f"{folder}bbbbbbbb-%C3%BCber%20n%C3%A4h.jpg", "/data/upload/1/cccccccc-gone.jpg", "/data/gone.jpg"]
    tasks = [{"data": {"image": name}, "annotations": [{"result": result}]} for name in names]
    write_json(tmp_path / "tasks.json", tasks)
    found = FORMATS["label_studio"].read(tmp_path)
    assert boxes_of(found) == {kept.removesuffix(".jpg"): [("cat", 10, 20, 40, 60)]}
    assert [finding.reason for finding in found.findings] == ["photo not found (--photos names its folder)"] * 2


ELLIPSES = [(0, (20, 10)), (90, (10, 20)), (-90, (10, 20)), (180, (20, 10)), (45, (250**0.5,) * 2)]


@pytest.mark.parametrize(("degrees", "half"), ELLIPSES)
def test_a_turned_ellipse_in_label_studio_and_cvat(degrees, half, tmp_path):
    """Turned about its centre, in pixels: at 45 degrees both half sides are the root of the squares' mean."""
    photo(tmp_path / "a.jpg")
    value = {"x": 50, "y": 50, "radiusX": 20 * 100 / WIDTH, "radiusY": 10 * 100 / HEIGHT, "rotation": degrees}
    tasks = [{"data": {"image": "a.jpg"}, "annotations": [{"result": [region("ellipse", value)]}]}]
    write_json(tmp_path / "tasks.json", tasks)
    shape = f'<ellipse label="cat" cx="64.00" cy="48.00" rx="20.00" ry="10.00" rotation="{degrees:.2f}"/>'
    (tmp_path / "annotations.xml").write_text(
        f'<annotations><image name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shape}</image></annotations>'
    )
    for name in ("label_studio", "cvat"):
        found = FORMATS[name].read(tmp_path)
        ((_, *box),) = boxes_of(found)["a"]
        np.testing.assert_allclose(box, (64 - half[0], 48 - half[1], 64 + half[0], 48 + half[1]), atol=1e-9)
        assert (("noted", "rotated box: the upright box around it is used") in found.reasons()) == bool(degrees)


@pytest.mark.parametrize("name", ["cvat", "datumaro", "voc"])
def test_a_box_that_cvat_turned_in_each_of_its_exports(name, tmp_path):
    """A quarter about the centre: the sides are exchanged, though the export has the box before it was turned."""
    photo(tmp_path / "JPEGImages" / "a.jpg")
    if name == "datumaro":
        shape = {"type": "bbox", "label_id": 0, "bbox": [54.0, 43.0, 20.0, 10.0], "attributes": {"rotation": 90.0}}
        items = [{"id": "a", "annotations": [shape], "image": {"path": "a.jpg", "size": [HEIGHT, WIDTH]}}]
        labels = {"label": {"labels": [{"name": "cat"}]}}
        write_json(tmp_path / "train.json", {"infos": {}, "categories": labels, "items": items})
    elif name == "cvat":
        shape = '<box label="cat" xtl="54" ytl="43" xbr="74" ybr="53" rotation="90.00"/>'
        (tmp_path / "annotations.xml").write_text(
            f'<annotations><image name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shape}</image></annotations>'
        )
    else:
        box = "<bndbox><xmin>54</xmin><ymin>43</ymin><xmax>74</xmax><ymax>53</ymax></bndbox>"
        turn = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "Annotations" / "a.xml").write_text(
            f"<annotation><filename>a.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"<object><name>cat</name>{box}{turn}</object></annotation>"
        )
    found = FORMATS[name].read(tmp_path)
    assert boxes_of(found) == {"a": [("cat", 59.0, 38.0, 69.0, 58.0)]}
    assert ("noted", "rotated box: the upright box around it is used") in found.reasons()


@pytest.mark.parametrize("name", ["cvat", "datumaro"])
def test_a_subset_with_a_year_is_its_split(name, tmp_path):
    """What came from COCO has train2017 and val2017: validation photos must not be trained on."""
    subsets = {"train2017": "train", "val2017": "val", "Validation": "val", "default": "train"}
    for number, subset in enumerate(subsets):
        photo(tmp_path / "images" / subset / f"{number}.jpg")
        shape = {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]}
        item = {"id": f"{number}", "annotations": [shape], "image": {"path": f"{number}.jpg", "size": [HEIGHT, WIDTH]}}
        labels = {"label": {"labels": [{"name": "cat"}]}}
        document = {"infos": {}, "categories": labels, "items": [item]}
        if name == "datumaro":
            write_json(tmp_path / "annotations" / f"{subset}.json", document)
    if name == "cvat":
        box = '<box label="cat" xtl="1" ytl="2" xbr="4" ybr="6"/>'
        images = "".join(
            f'<image name="{number}.jpg" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">{box}</image>'
            for number, subset in enumerate(subsets)
        )
        (tmp_path / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    found = FORMATS[name].read(tmp_path)
    assert {each.photo.parent.name: each.split for each in found.photos} == subsets


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (
            '<track id="0" label="cat"><box frame="0" xtl="1" ytl="2" xbr="30" ybr="40"/></track>',
            "found the tracks of CVAT for video: export the task as CVAT for images",
        ),
        ("", "expected <image> with shapes, found none"),
    ],
)
def test_cvat_without_images_is_told_what_it_is(inner, reason, tmp_path):
    (tmp_path / "annotations.xml").write_text(f"<annotations><meta/>{inner}</annotations>")
    with pytest.raises(UserError, match=f"annotations.xml: .*{reason}"):
        recognise(tmp_path).read(tmp_path)


def test_datumaros_items(tmp_path):
    """The order of the classes is datumaro's; a mask has no box, a photo without annotations is background."""
    for name in ("a", "sub_b"):
        photo(tmp_path / "images" / "val" / f"{name}.jpg")
    labels = [{"name": name, "parent": "", "attributes": []} for name in ("zebra", "cat")]
    shared = {"attributes": {}, "group": 0, "z_order": 0}
    annotations = [
        {"type": "bbox", "label_id": 1, "bbox": [1.0, 2.0, 10.0, 12.5], **shared},
        {"type": "polygon", "label_id": 0, "points": [10, 10, 50, 10, 50, 40], **shared},
        {"type": "mask", "label_id": 0, "rle": {"counts": "0PP3", "size": [96, 128]}, **shared},
        {"type": "label", "label_id": 0, **shared},
    ]
    items = [
        {"id": "a", "annotations": annotations, "image": {"path": "a.jpg", "size": [96, 128]}},
        {"id": "sub/b", "annotations": [], "image": {"path": "sub_b.jpg", "size": [96, 128]}},
    ]
    document = {"infos": {}, "categories": {"label": {"labels": labels}}, "items": items}
    write_json(tmp_path / "annotations" / "val.json", document)
    assert recognise(tmp_path).name == "datumaro"
    found = FORMATS["datumaro"].read(tmp_path)
    assert found.names == ("zebra", "cat")
    assert {each.split for each in found.photos} == {"val"}
    assert boxes_of(found) == {
        "a": [("cat", 1.0, 2.0, 11.0, 14.5), ("zebra", 10.0, 10.0, 50.0, 40.0)],
        "sub_b": [],
    }
    assert {reason for _, reason in found.reasons()} == {
        "mask: no box can be made of it",
        "label: no box can be made of it",
    }


def test_labelmes_shapes(tmp_path):
    """A rectangle drawn from its last corner, a circle, a polygon; photos that have no file are background."""
    for name in ("a", "b"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    shapes = [
        {"label": "cat", "points": [[40, 60], [10, 20]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[50, 50], [53, 54]], "shape_type": "circle"},
        {"label": "dog", "points": [[1, 2], [30, 2], [7, 40]], "shape_type": "polygon"},
        {"label": "dog", "points": [[1, 2], [30, 2]], "shape_type": "line"},
        {"label": "dog", "points": "no points", "shape_type": "polygon"},
    ]
    document = {"version": "5.5.0", "shapes": shapes, "imagePath": "..\\photos\\a.jpg", "imageData": None}
    write_json(tmp_path / "json" / "a.json", {**document, "imageHeight": HEIGHT, "imageWidth": WIDTH})
    found = FORMATS["labelme"].read(tmp_path)
    assert boxes_of(found) == {
        "a": [("cat", 10.0, 20.0, 40.0, 60.0), ("dog", 45.0, 45.0, 55.0, 55.0), ("dog", 1.0, 2.0, 30.0, 40.0)],
        "b": [],
    }
    assert {reason for _, reason in found.reasons()} == {
        "line: no box can be made of it",
        "polygon: no box can be made of it",
        "no labelme file: taken as background",
        "the annotation gives no size: the photo's is used",
    }


def test_a_photo_of_the_same_name_in_another_folder_is_labelmes_background(tmp_path):
    """Only the photo that a file means has a file; of one that fits several, none is taken for background."""
    for name in ("a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg"):
        photo(tmp_path / "set" / name)
    shapes = [{"label": "cat", "points": [[10, 20], [40, 60]], "shape_type": "rectangle"}]
    own = {"version": "5.5.0", "shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    write_json(tmp_path / "set" / "a" / "1.json", {**own, "imagePath": "1.jpg"})
    write_json(tmp_path / "set" / "2.json", {**own, "imagePath": "C:\\photos\\2.jpg"})
    found = FORMATS["labelme"].read(tmp_path / "set")
    assert {each.name: len(each.objects) for each in found.photos} == {"a/1.jpg": 1, "b/1.jpg": 0}
    findings = {each.file: each.reason for each in found.findings}
    assert findings["b/1.jpg"] == "no labelme file: taken as background"
    assert findings["C:/photos/2.jpg"] == "several photos fit this file name"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "a" / "1.jpg").rename(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "set" / "b" / "1.jpg").unlink()
    found = FORMATS["labelme"].read(tmp_path / "set", photos=[tmp_path / "elsewhere"])
    assert [len(each.objects) for each in found.photos] == [1], "photos that lie outside of the set's folder"


def test_the_command_knows_every_tool_and_writer(tmp_path, capsys):
    assert set(TOOLS) <= set(FORMATS)
    assert set(TARGETS) == set(WRITERS)
    layouts = {"cvat": "cvat_xml", "label_studio": "label_studio_json", "datumaro": "datumaro_json"}
    for name in TOOLS:
        LAYOUTS[layouts.get(name, name)](tmp_path / name)
        main([name, str(tmp_path / name), str(tmp_path / f"{name}-yolo")])
        assert (tmp_path / f"{name}-yolo" / "data.yaml").is_file()
        assert " boxes   thing " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["label_studio", "datumaro", "labelme"])
def test_a_file_with_a_mistake_is_one_line(name, tmp_path):
    photo(tmp_path / "a.jpg")
    broken = {
        "label_studio": '[{"data": {"image": "a.jpg"}, "annotations": [',
        "datumaro": '{"dm_format_version": "1.0", "categories": {}, "items": []}',
        "labelme": '{"shapes": [], "imagePath": 3}',
    }
    (tmp_path / "file.json").write_text(broken[name])
    with pytest.raises(UserError) as error:
        convert(name, tmp_path, None)
    assert "file.json" in str(error.value)
    assert "\n" not in str(error.value)
