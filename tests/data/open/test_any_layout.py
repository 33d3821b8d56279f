"""What `--data` takes: every layout, as a folder and as the .zip that it came as, gives the same boxes."""

import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import convert
from benchmarks.measuring.photos import open_split
from data import check
from data.data_yaml import BUILT_IN, data_root, list_images, read_data_yaml
from data.formats.convert import convert_coco, convert_voc, convert_yolo
from data.labels.doctor import Settings, examine
from data.open.any_layout import open_data_set, root_for
from data.split import load_split
from studies import in_ultralytics
from studies.figures.assignment_census import open_splits
from tests.data.formats.small_sets import coco_document, photo, read_back, write_json
from tests.paths import SHARED_DATA, needs_shared_data
from train import train
from utils.config.knobs import PluginConfig, StudyConfig
from utils.errors import UserError
from val import validate

BOX = (32.0, 24.0, 96.0, 72.0)
LINE = "0 0.5 0.5 0.5 0.5\n"
XML = """<annotation><filename>{}</filename><size><width>128</width><height>96</height></size><object><name>thing</name>
<bndbox><xmin>32.0</xmin><ymin>24.0</ymin><xmax>96.0</xmax><ymax>72.0</ymax></bndbox></object></annotation>"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def yolo_photo(root: Path, name: str, labels: str | None = None) -> None:
    """A photo with a label, in `labels` instead of `images`, or beside it."""
    photo(root / f"{name}.jpg")
    put(root / f"{name.replace('images', labels) if labels else name}.txt", LINE)


def roboflow_yolo(root):
    for split in ("train", "valid"):
        yolo_photo(root, f"{split}/images/{split}", "labels")
    put(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: [thing]\n",
    )


def cvat_ultralytics(root):
    for split in ("train", "valid"):
        yolo_photo(root, f"images/{split}/{split}", "labels")
        put(root / f"{split}.txt", f"data/images/{split}/{split}.jpg\n")
    put(root / "data.yaml", "path: .\ntrain: train.txt\nval: valid.txt\nnames:\n  0: thing\n")


def supervision_yolo(root):
    for split in ("train", "valid"):
        yolo_photo(root, f"images/{split}/{split}", "labels")
    put(root / "data.yaml", "nc: 1\nnames: [thing]\n")


def label_studio_yolo(root):
    for split in ("train", "valid"):
        yolo_photo(root, f"images/{split}", "labels")
    put(root / "classes.txt", "thing\n")
    put(root / "notes.json", "{}")


def darknet(root):
    for split in ("train", "valid"):
        yolo_photo(root, f"obj_{split}_data/{split}")
        put(root / f"{split}.txt", f"data/obj_{split}_data/{split}.jpg\n")
    put(root / "obj.names", "thing\n")
    lists = "train = data/train.txt\nvalid = data/valid.txt\n"
    put(root / "obj.data", f"classes = 1\n{lists}names = data/obj.names\nbackup = b\n")


def coco(root):
    for split in ("train", "valid"):
        photo(root / "images" / split / f"{split}.jpg")
        write_json(root / "annotations" / f"instances_{split}.json", coco_document([f"{split}.jpg"]))


def roboflow_coco(root):
    for split in ("train", "valid"):
        photo(root / split / f"{split}.jpg")
        write_json(root / split / "_annotations.coco.json", coco_document([f"{split}.jpg"]))


def label_studio_coco(root):
    for split in ("train", "valid"):
        photo(root / "images" / f"{split}.jpg")
    write_json(root / "result.json", coco_document(["../upload/1/train.jpg", "../upload/1/valid.jpg"]))


def voc(root):
    for split in ("train", "valid"):
        photo(root / "JPEGImages" / f"{split}.jpg")
        put(root / "Annotations" / f"{split}.xml", XML.format(f"{split}.jpg"))
        put(root / "ImageSets" / "Main" / f"{split.removesuffix('id')}.txt", f"{split}\n")


def roboflow_voc(root):
    for split in ("train", "valid"):
        photo(root / split / f"{split}.jpg")
        put(root / split / f"{split}.xml", XML.format(f"{split}.jpg"))


def cvat_xml(root):
    images = ""
    for split in ("train", "valid"):
        photo(root / "images" / split / f"{split}.jpg")
        box = '<box label="thing" occluded="0" xtl="32.00" ytl="24.00" xbr="96.00" ybr="72.00" z_order="0"></box>'
        images += f'<image id="0" name="{split}.jpg" subset="{split}" width="128" height="96">{box}</image>'
    labels = "<labels><label><name>thing</name></label></labels>"
    meta = f"<version>1.1</version><meta><task>{labels}</task></meta>"
    put(root / "annotations.xml", f"<annotations>{meta}{images}</annotations>")


def label_studio_json(root):
    """The server's names, one with what it puts before them; a choice and a photo without regions beside the boxes."""
    tasks = []
    for split in ("train", "valid"):
        photo(root / "images" / f"{split}.jpg")
        value = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["thing"]}
        box = {"type": "rectanglelabels", "value": value, "original_width": 128, "original_height": 96}
        choice = {"type": "choices", "value": {"choices": ["good"]}, "from_name": "quality"}
        name = f"/data/upload/1/{'0a1b2c3d-' if split == 'train' else ''}{split}.jpg"
        skipped = {"was_cancelled": True, "result": []}
        tasks.append({"id": 1, "data": {"image": name}, "annotations": [skipped, {"result": [choice, box]}]})
    write_json(root / "project-1.json", tasks)


def label_studio_min(root):
    """JSON-MIN, photos by `?d=` of a local folder."""
    tasks = []
    for split in ("train", "valid"):
        photo(root / "images" / f"{split}.jpg")
        box = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["thing"]}
        box |= {"original_width": 128, "original_height": 96}
        tasks.append({"image": f"/data/local-files/?d=set/{split}.jpg", "id": 1, "label": [box], "annotator": 1})
    write_json(root / "project-1-min.json", tasks)


def datumaro_json(root):
    labels = {"label": {"labels": [{"name": "thing", "parent": "", "attributes": []}], "label_groups": []}}
    for split in ("train", "valid"):
        photo(root / "images" / split / f"{split}.jpg")
        box = {"id": 1, "type": "bbox", "label_id": 0, "bbox": [32.0, 24.0, 64.0, 48.0]}
        image = {"path": f"{split}.jpg", "size": [96, 128]}
        document = {"dm_format_version": "1.0", "infos": {}, "categories": labels}
        item = {"id": split, "annotations": [box], "image": image}
        write_json(root / "annotations" / f"{split}.json", {**document, "items": [item]})


def labelme(root):
    for split in ("train", "valid"):
        photo(root / split / f"{split}.jpg")
        box = {"label": "thing", "points": [[96, 24], [32.0, 72.0]], "group_id": None, "shape_type": "rectangle"}
        point = {"label": "thing", "points": [[1, 1]], "shape_type": "point"}
        document = {"version": "6.3.1", "flags": {}, "shapes": [box, point], "imagePath": f"{split}.jpg"}
        write_json(root / split / f"{split}.json", {**document, "imageHeight": 96, "imageWidth": 128})


YOLO = (roboflow_yolo, cvat_ultralytics, supervision_yolo, label_studio_yolo, darknet)
OTHERS = (coco, roboflow_coco, label_studio_coco, voc, roboflow_voc, cvat_xml)
OTHERS += (label_studio_json, label_studio_min, datumaro_json, labelme)
LAYOUTS = {each.__name__: each for each in (*YOLO, *OTHERS)}
UNSPLIT = ("label_studio_yolo", "label_studio_coco", "label_studio_json", "label_studio_min")


@pytest.mark.parametrize("as_archive", [False, True, "in a folder"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_boxes(layout, as_archive, tmp_path, capsys):
    source = tmp_path / "source"
    LAYOUTS[layout](source)
    if as_archive:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    file.write(path, path.relative_to(tmp_path if as_archive == "in a folder" else source))
        shutil.rmtree(source)
        source = tmp_path / "export.zip"
    before = sorted(source.rglob("*")) if source.is_dir() else None
    for _ in range(2):
        spec = open_data_set(str(source), tmp_path / "root", tmp_path / "cache")
        assert spec.names == ("thing",)
        found = read_back(
            spec if "test" not in spec.splits else read_data_yaml(str(without_test(spec.yaml)), tmp_path), tmp_path
        )
        assert found == {
            ("train", "train.jpg"): [("thing", *BOX)],
            ("train" if layout in UNSPLIT else "val", "valid.jpg"): [("thing", *BOX)],
        }
    said = capsys.readouterr().err
    assert "--data" in said
    if (tmp_path / "cache" / "sets").exists():
        assert len(list((tmp_path / "cache" / "sets").iterdir())) == 1, "converted once"
        assert " photos " in said
    assert before in (None, [path for path in sorted(source.rglob("*")) if path.name != "without_test.yaml"])


def without_test(yaml: Path) -> Path:
    lines = [line for line in yaml.read_text().splitlines() if not line.startswith("test:")]
    return put(yaml.with_name("without_test.yaml"), "\n".join(lines))


def test_a_file_is_opened_by_its_own_name_too(tmp_path):
    coco(tmp_path / "coco")
    darknet(tmp_path / "darknet")
    cvat_xml(tmp_path / "cvat")
    for name in ("coco/annotations/instances_train.json", "darknet/obj.data", "cvat/annotations.xml"):
        spec = open_data_set(str(tmp_path / name), tmp_path, tmp_path / "cache")
        assert read_back(spec, tmp_path)["train", "train.jpg"] == [("thing", *BOX)]


def test_a_changed_source_is_converted_again(tmp_path):
    voc(tmp_path / "voc")
    first = open_data_set(str(tmp_path / "voc"), tmp_path, tmp_path / "cache")
    xml = tmp_path / "voc" / "Annotations" / "train.xml"
    xml.write_text(xml.read_text().replace("96.0", "100.0"))
    second = open_data_set(str(tmp_path / "voc"), tmp_path, tmp_path / "cache")
    assert first.yaml != second.yaml
    assert read_back(second, tmp_path)["train", "train.jpg"] == [("thing", 32.0, 24.0, 100.0, 72.0)]


def test_photos_that_come_later_are_converted_too(tmp_path):
    """Where an annotation file is named, its photos lie beside its folder: in folders that are there or that come."""
    root = tmp_path / "set"
    names = ["1.jpg", "2.jpg", "deep/3.jpg", "4.jpg"]
    file = write_json(root / "annotations" / "instances_train.json", coco_document(names))
    photo(root / "images" / "1.jpg")

    def found(source=file):
        return [path.name for path in list_images(open_data_set(str(source), tmp_path, tmp_path / "cache"), "train")]

    assert found() == found(file.parent) == ["1.jpg"]
    assert found() == ["1.jpg"]
    for count, place in enumerate(("images/2.jpg", "images/deep/3.jpg", "train/4.jpg"), 2):
        photo(root / place)
        assert len(found()) == len(found(file.parent)) == count, place
    photo(root / "notes" / "5.jpg")
    before = sorted((tmp_path / "cache" / "sets").iterdir())
    assert len(found()) == 4
    assert sorted((tmp_path / "cache" / "sets").iterdir()) == before, "no photo of this set"
    (root / "images" / "2.jpg").unlink()
    assert len(found()) == 3


def test_datumaros_photos_that_come_later(tmp_path):
    """They may lie in any folder beside `annotations`."""
    datumaro_json(tmp_path / "set")
    (tmp_path / "set" / "images" / "train" / "train.jpg").rename(tmp_path / "train.jpg")
    photo(tmp_path / "set" / "far" / "other.jpg")
    item = {"id": "other", "image": {"path": "other.jpg", "size": [96, 128]}, "annotations": []}
    file = tmp_path / "set" / "annotations" / "train.json"
    document = json.loads(file.read_text())
    item["annotations"] = document["items"][0]["annotations"]
    write_json(file, {**document, "items": [*document["items"], item]})
    for expected in (["other.jpg"], ["other.jpg", "train.jpg"]):
        spec = open_data_set(str(file), tmp_path, tmp_path / "cache")
        assert [path.name for path in list_images(spec, "train")] == expected
        photo(tmp_path / "set" / "far" / "train.jpg")


@pytest.mark.parametrize(
    ("train", "val", "splits"),
    [
        ("images/train", "images/validation", {"train": 1, "val": 1}),
        ("Train/images", "Val/images", {"train": 1, "val": 1}),
        ("images/TRAIN", "images/Valid", {"train": 1, "val": 1}),
        ("images/train/deep", "test", {"train": 1, "test": 1}),
        ("images/train", "images/held-out", {"train": 1}),
        ("images", "val", {"val": 1}),
        ("images/a", "images/b", {"train": 2}),
    ],
)
@pytest.mark.parametrize("names", ["classes.txt", "data.yaml"])
def test_folders_called_as_splits(names, train, val, splits, tmp_path, capsys):
    """In any spelling; photos that belong to no split are named."""
    yolo_photo(tmp_path, f"{train}/a", "labels")
    yolo_photo(tmp_path, f"{val}/b", "labels")
    put(tmp_path / names, "thing\n" if names == "classes.txt" else "names: [thing]\n")
    spec = open_data_set(str(tmp_path), tmp_path)
    assert {split: len(list_images(spec, split)) for split in spec.splits} == splits
    assert sum(map(len, read_back(spec, tmp_path / "cache").values())) == sum(splits.values())
    said = capsys.readouterr().err
    unused = {"images/held-out": val, "val": train}.get(val)
    assert (
        (f"1 photos belong to no split, not used: {tmp_path / unused}\n" in said) if unused else "no split" not in said
    )


def test_two_spellings_of_a_split_are_both_of_it(tmp_path):
    for place in ("images/train/a", "images/val/b", "images/valid/c"):
        yolo_photo(tmp_path, place, "labels")
    (tmp_path / "images" / "test").mkdir()
    put(tmp_path / "classes.txt", "thing\n")
    spec = open_data_set(str(tmp_path), tmp_path)
    assert {split: [path.stem for path in list_images(spec, split)] for split in spec.splits} == {
        "train": ["a"],
        "val": ["b", "c"],
    }


@pytest.mark.parametrize(("text", "line"), [("cat\n\ndog\n", 2), ("cat\ndog\n dog\n", 3), ("\n", None)])
@pytest.mark.parametrize("name", ["classes.txt", "names.txt", "obj.names"])
def test_class_names_that_are_blank_or_stand_twice(name, text, line, tmp_path):
    yolo_photo(tmp_path, "images/a", "labels")
    put(tmp_path / name, text)
    place = f"{name}:{line}" if line else name
    with pytest.raises(UserError, match=f"{place}: expected a class name a line, each another one; "):
        open_data_set(str(tmp_path), tmp_path)


def test_key_points_beside_names_alone(tmp_path):
    photo(tmp_path / "images" / "train" / "a.jpg")
    put(tmp_path / "labels" / "train" / "a.txt", "0 .5 .5 .4 .4 .55 .5 2 .45 .4 2\n")
    put(tmp_path / "data.yaml", "names: [thing]\nkpt_shape: [2, 3]\n")
    assert len(load_split(open_data_set(str(tmp_path), tmp_path), "train", tmp_path / "cache").boxes) == 1


def test_an_unknown_layout_lists_what_was_looked_for(tmp_path):
    photo(tmp_path / "set" / "a.jpg")
    with pytest.raises(UserError) as error:
        open_data_set(str(tmp_path / "set"), tmp_path, tmp_path / "cache")
    looked_for = ("data YAML", ".data file", "classes.txt", "images, annotations and categories", "<annotation>")
    for word in (*looked_for, ".zip"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    for name, message in {
        str(tmp_path / "nothing.zip"): "no such file or folder: .*/nothing.zip",
        str(tmp_path / "nothing"): "no such file or folder: .*/nothing",
        str(tmp_path / "nothing.yaml"): "data YAML not found: .*/nothing.yaml",
        "mydata": "no such file or folder: .*/mydata, and no built-in data set 'mydata'",
        "shape": "did you mean 'shapes'",
    }.items():
        with pytest.raises(UserError, match=message):
            open_data_set(name, tmp_path)


def test_an_unpacked_archive_that_is_gone_is_unpacked_again(tmp_path):
    put(tmp_path / "set" / "data.yaml", "train: images\nnames: [thing]\n")
    photo(tmp_path / "set" / "images" / "a.jpg")
    put(tmp_path / "set" / "labels" / "a.txt", "0 .5 .5 .2 .2\n")
    archive = shutil.make_archive(str(tmp_path / "own"), "zip", tmp_path / "set")
    for _ in range(2):
        spec = open_data_set(archive, tmp_path / "root")
        assert len(load_split(spec, "train", tmp_path / "cache")) == 1
        shutil.rmtree(spec.root)


def test_messages_name_the_users_files_and_not_the_cache(tmp_path, capsys):
    """Of a set that was converted: the photo, and which object on it; the folder or the archive that was named."""
    voc(tmp_path / "voc")
    twice = XML.format("valid.jpg").replace("</object>", "</object><object>{}</object>")
    shape = twice.split("<object>")[1].split("</object>")[0]
    narrow = shape.replace("<xmax>96.0", "<xmax>33.0")
    put(tmp_path / "voc" / "Annotations" / "valid.xml", twice.replace("{}", narrow))
    spec = open_data_set(str(tmp_path / "voc"), tmp_path, tmp_path / "cache")
    user, photos = tmp_path / "voc", tmp_path / "voc" / "JPEGImages"
    assert spec.shown == user
    checkup = examine(spec, Settings((64, 64), ((8.0, 8.0),), 4.0), tmp_path / "labels", decode=5)
    places = [finding.where for finding in checkup.findings] + [finding.details for finding in checkup.findings]
    assert f"{photos / 'valid.jpg'}, object 2" in places, "it is narrow"
    assert not [place for place in places if "cache" in place]
    with pytest.raises(UserError, match=f"^{user}: no split 'test'; it has: train, val$"):
        load_split(spec, "test")
    (photos / "train.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError) as error:
        load_split(spec, "train", tmp_path / "labels")
    assert str(photos / "train.jpg") in str(error.value)
    assert "cache" not in str(error.value)
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", user)
    assert str(open_data_set(archive, tmp_path / "root", tmp_path / "cache").shown) == archive
    capsys.readouterr()


def test_an_archive_that_would_leave_its_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("../outside.txt", "x")
    with pytest.raises(UserError, match="leaves the target folder"):
        open_data_set(str(tmp_path / "bad.zip"), tmp_path / "root", tmp_path / "cache")
    assert not (tmp_path / "outside.txt").exists()
    assert not list((tmp_path / "root").rglob("*.done"))


def test_darknets_lists_with_a_year(tmp_path):
    darknet(tmp_path)
    file = tmp_path / "obj.data"
    file.write_text(file.read_text().replace("train =", "train2017 =").replace("valid =", "val2017 ="))
    spec = open_data_set(str(file), tmp_path)
    assert {split: [path.name for path in list_images(spec, split)] for split in spec.splits} == {
        "train": ["train.jpg"],
        "val": ["valid.jpg"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train = a.txt\nnames\n", "obj.data:2: expected `key = value`"),
        ("names = obj.names\n", "expected `train = list.txt`"),
        ("train = a.txt\nnames = gone.names\n", "names: .*gone.names"),
        ("classes = 3\ntrain = a.txt\nnames = obj.names\n", "classes = 3, but obj.names has 1"),
    ],
)
def test_a_wrong_darknet_file_is_one_line(text, message, tmp_path):
    darknet(tmp_path)
    put(tmp_path / "obj.data", text)
    with pytest.raises(UserError, match=message):
        open_data_set(str(tmp_path / "obj.data"), tmp_path)


def routes(name: str, folder: Path):
    """A shared set by each route: as it is, and converted to YOLO, COCO and a .zip of that."""
    source = SHARED_DATA / name
    if name == "coco128":
        spec = read_data_yaml("coco128", SHARED_DATA)
        yield spec
        convert_yolo(spec, folder / "darknet", to="darknet")
        yield open_data_set(str(folder / "darknet" / "obj.data"), folder, folder / "cache")
    else:
        yield open_data_set(str(source), folder, folder / "cache")
        convert_voc(source, folder / "yolo")
        spec = read_data_yaml(str(folder / "yolo" / "data.yaml"), folder)
        yield spec
    convert_yolo(spec, folder / "voc", to="voc")
    yield open_data_set(str(folder / "voc"), folder, folder / "cache")
    if name != "coco128":
        convert_voc(source, folder / "coco", to="coco")
        yield open_data_set(str(folder / "coco"), folder, folder / "cache")
        convert_coco(folder / "coco", folder / "again")
        yield read_data_yaml(str(folder / "again" / "data.yaml"), folder)
    archive = shutil.make_archive(str(folder / "export"), "zip", folder / "voc")
    yield open_data_set(archive, folder / "root", folder / "cache")


REAL = ("bccd", "neu-det")


@needs_shared_data
@pytest.mark.parametrize("name", ["coco128", *(pytest.param(each, marks=pytest.mark.slow) for each in REAL)])
def test_real_photos_by_each_route(name, tmp_path):
    expected = None
    for spec in routes(name, tmp_path):
        found = read_back(spec, tmp_path)
        expected = expected or found
        assert len(found) == {"bccd": 364, "coco128": 256, "neu-det": 1800}[name]
        assert found == expected
    assert json.dumps(sorted(map(str, expected)))


@needs_shared_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco128", *REAL])
def test_the_same_weights_have_the_same_ap_by_each_route(name, tmp_path, monkeypatch, capsys):
    """To the digit: every metric of a detector that has learnt a little, measured on the set's val split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    specs = list(routes(name, tmp_path))
    shared = {"workers": 0, "device": "cpu", "plots": False}
    demo = {"imgsz": [160], "batch_size": 8, "optimizer": "adamw", "hyp": "scratch", "amp": "off"}
    demo["set"] = ["channels=[8,16,32,64,64,128,128]"]
    epochs = {"coco128": 12, "bccd": 6, "neu-det": 3}[name]
    data = str(tmp_path / "yolo" / "data.yaml") if name != "coco128" else "coco128"
    roots = {"data_root": str(SHARED_DATA)} if name == "coco128" else {}
    run = train(data=data, epochs=epochs, project=str(tmp_path / "runs"), **demo, **shared, **roots)
    measured = {}
    for number, spec in enumerate(specs):
        flags = {"weights": str(run / "weights" / "best.pt"), "report": False, "project": str(tmp_path / "val")}
        below = roots if spec.yaml.parent == BUILT_IN else {}  # other sets lie where they are
        overall = validate(data=str(spec.yaml), name=str(number), **flags, **shared, **below).overall
        measured[number] = {key: value for key, value in overall.items() if value == value}
        with capsys.disabled():
            print(f"{name} {spec.shown.name}: AP {overall['ap']:.6f} AP50 {overall['ap50']:.6f}")
    assert measured[0]["ap50"] > 0
    for number in measured:
        assert measured[number] == measured[0], number


def test_a_datasets_root_is_refused_where_nothing_reads_it(tmp_path):
    """In every program that has --data-root; what is not there is told later, by another message."""
    folder = tmp_path / "set"
    photo(folder / "images" / "a.jpg")
    yaml = folder / "data.yaml"
    yaml.write_text("train: images\nval: images\nnames: [thing]\n")
    root = str(tmp_path / "sets")
    programs = [
        lambda: train(data=str(yaml), data_root=root),
        lambda: check.main([str(folder), "--data-root", root]),
        lambda: convert.main(["yolo", str(yaml), str(tmp_path / "out"), "--data-root", root]),
        lambda: open_splits(StudyConfig(data=str(yaml), data_root=root)),
        lambda: in_ultralytics.plan(PluginConfig(data=str(yaml), data_root=root)),
        lambda: open_split(SimpleNamespace(data=str(yaml), data_root=root)),
    ]
    for program in programs:
        with pytest.raises(
            UserError, match="--data-root .*sets: for built-in data sets and archives; .* leave the flag"
        ):
            program()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(yaml, "data.yaml")
    named = ["coco128", str(BUILT_IN / "coco128.yaml"), str(tmp_path / "set.zip"), "nowhere/data.yaml", ""]
    assert {root_for(name, root) for name in named} == {Path(root)}
    assert root_for(str(yaml), "") == data_root("")
