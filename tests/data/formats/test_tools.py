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


SIDE = {"train": 10, "val": 20}  # of the one box of each subset: its boxes must be on its own photo


def two_subsets(name, folder, names=("1.jpg", "1.jpg")):
    """An export of two subsets whose photos have these names."""
    shapes = {subset: (1, 2, 1 + side, 2 + side) for subset, side in SIDE.items()}
    images = ""
    for (subset, (x1, y1, x2, y2)), own in zip(shapes.items(), names, strict=True):
        box = f'<box label="cat" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
        images += f'<image name="{own}" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">{box}</image>'
        if name == "datumaro":
            shape = {"type": "bbox", "label_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            item = {"id": own, "annotations": [shape], "image": {"path": own, "size": [HEIGHT, WIDTH]}}
            document = {"infos": {}, "categories": {"label": {"labels": [{"name": "cat"}]}}, "items": [item]}
            write_json(folder / "annotations" / f"{subset}.json", document)
        elif name == "labelme":
            shape = {"label": "cat", "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}
            document = {"shapes": [shape], "imagePath": own, "imageHeight": HEIGHT, "imageWidth": WIDTH}
            write_json(folder / "json" / subset / "1.json", document)
    if name == "cvat":
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")


def places_of(found, folder) -> dict:
    """The photo on which the box of each split came to lie."""
    sides = {each.split: [round(item.width * WIDTH) for item in each.objects] for each in found.photos}
    assert sides == {split: [SIDE[split]] for split in sides}
    return {each.split: each.photo.relative_to(folder).as_posix() for each in found.photos}


@pytest.mark.parametrize("layout", ["images/{}/1.jpg", "{}/1.jpg", "photos/{}/deep/1.jpg"])
@pytest.mark.parametrize("name", ["cvat", "datumaro", "labelme"])
def test_each_subset_has_its_own_photo_of_a_name(name, layout, tmp_path):
    for subset in SIDE:
        photo(tmp_path / layout.format(subset))
    two_subsets(name, tmp_path)
    expected = {subset: layout.format(subset) for subset in SIDE}
    if name == "labelme" and "deep" in layout:
        # It names photos by their paths, of which the last part alone is shared by two.
        with pytest.raises(UserError, match="photo not found"):
            FORMATS[name].read(tmp_path)
        return
    found = FORMATS[name].read(tmp_path)
    assert (places_of(found, tmp_path), found.findings) == (expected, [])
    if name != "labelme":
        assert places_of(FORMATS[name].read(tmp_path, photos=[tmp_path]), tmp_path) == expected


@pytest.mark.parametrize("name", ["cvat", "datumaro", "labelme"])
def test_a_photo_that_is_only_in_another_subset_is_not_found(name, tmp_path):
    photo(tmp_path / "images" / "train" / "1.jpg")
    two_subsets(name, tmp_path)
    found = FORMATS[name].read(tmp_path)
    assert places_of(found, tmp_path) == {"train": "images/train/1.jpg"}
    assert [(each.split, each.reason) for each in found.findings] == [
        ("val", "photo not found (--photos names its folder)")
    ]


def test_photos_beside_labelmes_own_that_show_the_same_are_no_background(tmp_path):
    """a.bmp beside a.jpg, also where the file of a.jpg is of another photo, or its photo has another suffix by now."""
    for name in ("a.jpg", "a.bmp", "b.png", "c.jpg"):
        photo(tmp_path / name)
    shape = {"label": "cat", "points": [[1, 2], [9, 9]], "shape_type": "rectangle"}
    for name, width in {"a.jpg": 7, "b.jpg": WIDTH}.items():
        document = {"shapes": [shape], "imagePath": name, "imageHeight": HEIGHT, "imageWidth": width}
        write_json(tmp_path / f"{name[0]}.json", document)
    write_json(tmp_path / "c.json", {**document, "imagePath": "c.jpg"})
    assert [each.name for each in FORMATS["labelme"].read(tmp_path).photos] == ["c.jpg"]


@pytest.mark.parametrize("name", ["cvat", "datumaro"])
def test_a_photo_in_two_subsets_is_noted(name, tmp_path):
    """One that lies in the folder of neither, and one of the other subset that the annotation names itself."""
    photo(tmp_path / "images" / "1.jpg")
    two_subsets(name, tmp_path)
    found = FORMATS[name].read(tmp_path)
    assert places_of(found, tmp_path) == {"train": "images/1.jpg", "val": "images/1.jpg"}
    assert found.reasons() == {("noted", "the photo is in two splits"): 1}
    (tmp_path / "images" / "1.jpg").unlink()
    photo(tmp_path / "images" / "train" / "1.jpg")
    two_subsets(name, tmp_path, ("1.jpg", "train/1.jpg"))
    assert places_of(FORMATS[name].read(tmp_path), tmp_path) == dict.fromkeys(SIDE, "images/train/1.jpg")


def task(name, *regions):
    return {"data": {"image": name}, "annotations": [{"result": list(regions)}]}


def twice(name, folder, other="1.jpg", size=(HEIGHT, WIDTH)):
    """Two annotations of 1.jpg, the second under another name or of another size; one of two boxes is in both."""
    corners = [[(1, 2, 31, 42)], [(1, 2, 31, 42), (50, 50, 60, 70)]]
    images, tasks = "", []
    for number, (boxes, own, (height, width)) in enumerate(
        zip(corners, ("1.jpg", other), ((HEIGHT, WIDTH), size), strict=True)
    ):
        inner = "".join(f'<box label="cat" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>' for a, b, c, d in boxes)
        images += f'<image name="{own}" width="{width}" height="{height}">{inner}</image>'
        regions = [region("rectangle", rectangle(a, b, c - a, d - b)) for a, b, c, d in boxes]
        scaled = [{**each, "original_width": width, "original_height": height} for each in regions]
        tasks.append(task(own, *scaled))
        shapes = [{"label": "cat", "points": [[a, b], [c, d]], "shape_type": "rectangle"} for a, b, c, d in boxes]
        if name == "labelme":
            document = {"shapes": shapes, "imagePath": own, "imageHeight": height, "imageWidth": width}
            write_json(folder / f"{number}.json", document)
    if name == "label_studio":
        write_json(folder / "tasks.json", tasks)
    if name == "cvat":
        (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")


@pytest.mark.parametrize("name", ["cvat", "label_studio", "labelme"])
def test_annotations_of_one_photo_are_joined(name, tmp_path):
    photo(tmp_path / "1.jpg")
    twice(name, tmp_path)
    found = FORMATS[name].read(tmp_path)
    assert [len(each.objects) for each in found.photos] == [2], "the box that is in both counts once"
    assert found.reasons() == {
        ("noted", "the photo is annotated several times: joined"): 1,
        ("dropped", "the same box of the same class stands here twice"): 1,
    }


@pytest.mark.parametrize("other", ["name", "size"])
@pytest.mark.parametrize("name", ["cvat", "label_studio", "labelme"])
def test_a_second_annotation_of_another_name_or_size_is_named(name, other, tmp_path):
    """It may be another photo's."""
    photo(tmp_path / "1.jpg")
    if other == "name":
        twice(name, tmp_path, other="sub/../1.jpg" if name == "labelme" else "C:\\1.jpg")
    else:
        twice(name, tmp_path, size=(2 * HEIGHT, 2 * WIDTH))
    found = FORMATS[name].read(tmp_path)
    assert len(found.photos) == 1
    said = {(each.action, each.reason, each.values) for each in found.findings}
    if other == "name" and name == "labelme":
        assert ("noted", "the photo is annotated several times: joined", "") in said, "the same path, spelt otherwise"
    elif other == "name":
        assert {each.action for each in found.findings} <= {"dropped", "dropped photo"}
        assert found.findings
    else:
        assert ("dropped", "photo belongs to another annotation already", "2 boxes") in said


def test_two_uploads_of_one_name_are_never_guessed(tmp_path):
    """Two photos were called 1.jpg before they were uploaded: which of them the one at hand is, nobody knows."""
    for name in ("1.jpg", "2.jpg"):
        photo(tmp_path / name)
    box = region("rectangle", rectangle(10, 20, 30, 40))
    names = ["abcdef01-1.jpg", "abcdef02-1.jpg", "abcdef03-2.jpg"]
    write_json(tmp_path / "tasks.json", [task(name, box) for name in names])
    found = FORMATS["label_studio"].read(tmp_path)
    assert [each.name for each in found.photos] == ["2.jpg"]
    reason = "several photos have this name without the prefix of their upload"
    assert [(each.file, each.reason) for each in found.findings] == [(name, reason) for name in names[:2]]
    for name in names[:2]:
        photo(tmp_path / name)
    assert [each.name for each in FORMATS["label_studio"].read(tmp_path).photos] == [*names[:2], "2.jpg"]


def test_label_studios_labels_that_no_box_can_have(tmp_path):
    """A second label, and a rectangle without one; not the halves of a region, nor what is no shape."""
    photo(tmp_path / "a.jpg")
    drawn = {"original_width": WIDTH, "original_height": HEIGHT}
    bare, other = rectangle(1, 2, 8, 9), rectangle(40, 40, 8, 9)
    results = [
        region("rectangle", rectangle(10, 20, 30, 40), ["cat", "sick"]),
        {"id": "r1", "type": "rectangle", "value": bare, **drawn},
        {"id": "r1", "type": "choices", "value": {**bare, "choices": ["old"]}, **drawn},
        {"id": "r2", "type": "rectangle", "value": other, **drawn},
        {"id": "r2", "type": "labels", "value": {**other, "labels": ["dog"]}, **drawn},
        {"id": "r3", "type": "choices", "value": {"choices": ["good"]}},
    ]
    write_json(tmp_path / "tasks.json", [task("a.jpg", *results)])
    found = FORMATS["label_studio"].read(tmp_path)
    np.testing.assert_allclose([row[1:] for row in boxes_of(found)["a"]], [(10, 20, 40, 60), (40, 40, 48, 49)])
    assert [(each.action, each.reason, each.values) for each in found.findings] == [
        ("dropped", "several labels on one shape: the first is used", "cat, sick"),
        ("dropped", "rectangle: drawn without a label", "1"),
    ]
    flat = [{**rectangle(10, 20, 30, 40), "rectanglelabels": ["cat", "sick"], **drawn}, {**bare, **drawn}]
    write_json(tmp_path / "tasks.json", [{"image": "a.jpg", "label": flat, "id": 1, "annotator": 1}])
    found = FORMATS["label_studio"].read(tmp_path)
    assert [each.reason for each in found.findings] == [
        "several labels on one shape: the first is used",
        "region: drawn without a label",
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_a_mistyped_source_is_named(name, tmp_path, monkeypatch):
    """No file of the folder in which the command runs is read instead."""
    photo(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    for target in (None, tmp_path / "out"):
        with pytest.raises(UserError, match=f"^no such file or folder: {tmp_path / 'nowhere'}$"):
            convert(name, "nowhere", target)


@pytest.mark.parametrize("name", ["label_studio", "datumaro", "labelme"])
def test_a_folder_without_the_tools_files_is_told_so(name, tmp_path):
    photo(tmp_path / "a.jpg")
    write_json(tmp_path / "other.json", {"a": 1})
    with pytest.raises(UserError, match=f"^no {FORMATS[name].title.split(chr(39))[0]} JSON file in {tmp_path}: "):
        convert(name, tmp_path, None)


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
