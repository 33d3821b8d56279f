"""The data YAML: what is read from it, which images and labels it leads to, and one clear line for each mistake."""

import importlib.util
import math
import time
from pathlib import Path

import pytest
import yaml
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights

from data.data_yaml import BUILT_IN, is_there, label_path, list_images, read_class_names, read_data_yaml
from tests.paths import SHARED_DATA, needs_shared_data
from utils.errors import UserError

GOOD = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three empty photos, one of them in a folder of its own."""
    for name in ("images/train/b.jpg", "images/train/deep/a.PNG", "images/val/c.jpg"):
        touch(tmp_path / name)
    return tmp_path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def read(folder: Path, text: str):
    path = folder / "set.yaml"
    path.write_text(text, "utf-8")
    return read_data_yaml(str(path), folder / "nowhere")


def complaint(folder: Path, text: str) -> str:
    """The one line that a wrong YAML gets."""
    with pytest.raises(UserError) as error:
        read(folder, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_plain_yaml(folder):
    spec = read(folder, GOOD)
    assert spec.names == ("cat", "dog")
    assert spec.num_classes == 2
    assert spec.root == folder
    assert spec.ignored == ()
    assert list_images(spec, "train") == [folder / "images/train/b.jpg", folder / "images/train/deep/a.PNG"]
    assert list_images(spec, "val") == [folder / "images/val/c.jpg"]


def test_names_by_id_in_any_order(folder):
    assert read(folder, "val: images/val\nnames: {1: dog, 0: cat, 2: 7}\nnc: 3\n").names == ("cat", "dog", "7")


def test_class_names_alone_need_no_photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNYOLO_DATA", raising=False)
    for name in ("coco", "coco.yaml", str(BUILT_IN / "coco.yaml")):
        names = read_class_names(name)
        assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")
    Path("coco.yaml").write_text("path: nowhere\nnames: names.txt\n")
    with pytest.raises(UserError, match="names: no such file: .*nowhere/names.txt"):
        read_class_names("coco.yaml")
    touch(tmp_path / "nowhere" / "names.txt").write_text("cat\ndog\n")
    assert read_class_names("coco.yaml") == ("cat", "dog")
    for wrong in ("cocos.yaml", "other/coco.yaml"):
        with pytest.raises(UserError, match="data YAML not found"):
            read_class_names(wrong)


def test_path_is_relative_to_the_yaml(folder):
    spec = read(folder / "images", "path: ../images\nval: val\nnames: [cat]\n")
    assert list_images(spec, "val") == [folder / "images/val/c.jpg"]


def test_keys_without_meaning_are_named(folder):
    spec = read(folder, GOOD + "download: https://example.org/x.zip\nroboflow: {version: 3}\ntest:\n")
    assert spec.ignored == ("download", "roboflow")
    assert "test" not in spec.splits


def test_every_key_of_the_installed_ultralytics_yamls_is_known(folder):
    """Read as files: the package itself is imported by one module alone."""
    found = importlib.util.find_spec("ultralytics")
    if found is None:
        pytest.skip("ultralytics is absent: pip install ultralytics")
    files = sorted(Path(found.submodule_search_locations[0], "cfg", "datasets").glob("*.yaml"))
    seen: set[str] = set()
    for file in files:
        values = yaml.safe_load(file.read_text("utf-8"))
        if seen >= set(values):
            continue
        seen |= set(values)
        spec = read(folder, yaml.safe_dump({**values, "path": ".", "names": ["cat"], "nc": 1}))
        assert spec.keypoints == math.prod(values.get("kpt_shape", [0])), file.name
    assert seen >= {"train", "names", "download", "kpt_shape"}


def test_validation_is_val_as_for_ultralytics(folder):
    spec = read(folder, GOOD.replace("val:", "validation:"))
    assert list_images(spec, "val") == [folder / "images/val/c.jpg"]
    assert spec == read(folder, GOOD)
    assert "val and validation both stand here" in complaint(folder, GOOD + "validation: images/train\n")


def test_a_list_that_was_copied_with_its_yaml_is_found_beside_it(folder):
    touch(folder / "val.txt").write_text("images/val/c.jpg\n")
    away = "/nowhere/split/val.txt"
    assert read(folder, f"val: {away}\nnames: [cat]\n").splits["val"] == (folder / "val.txt",)
    assert read(folder, "path: images\nval: val.txt\nnames: [cat]\n").splits["val"] == (folder / "images/val.txt",)
    assert read(folder, f"val: {away[:-7]}other.txt\nnames: [cat]\n").splits["val"] == (
        Path("/nowhere/split/other.txt"),
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", 0), ("kpt_shape: [4, 3]\n", 12), ("kpt_shape: [17, 2]\ntask: pose\n", 34), ("task: segment\n", -1)],
)
def test_what_rows_of_many_numbers_hold(folder, text, numbers):
    assert read(folder, GOOD + text).keypoints == numbers


def test_roboflow_paths(folder):
    spec = read(folder, "train: ../images/train\nval: ../images/val\nnames: [cat]\n")
    assert list_images(spec, "val") == [folder / "images/val/c.jpg"]


def test_list_file_and_list_of_sources(folder):
    lists = folder / "lists"
    lists.mkdir()
    (lists / "some.txt").write_text(f"./../images/val/c.jpg\r\n\n{folder}/images/train/b.jpg\n", "utf-8-sig")
    spec = read(folder, "train: [lists/some.txt, images/train]\nnames: [cat]\n")
    everything = ["images/train/b.jpg", "images/train/deep/a.PNG", "images/val/c.jpg"]
    assert list_images(spec, "train") == [folder / name for name in everything]


def test_resource_forks_are_no_images(folder):
    touch(folder / "images/val/._c.jpg")
    touch(folder / "images/val/notes.txt")
    assert list_images(read(folder, GOOD), "val") == [folder / "images/val/c.jpg"]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/b.jpg", "labels/train/b.txt"),
        ("train/images/b.c.jpg", "train/labels/b.c.txt"),
        ("images/images/x.png", "images/labels/x.txt"),
        ("my_images/x.png", "my_images/x.txt"),
        ("photos/x.jpg", "photos/x.txt"),
    ],
)
def test_label_beside_images(folder, image, label):
    assert label_path(read(folder, GOOD), folder / image) == folder / label


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/b.jpg", "other/train/b.txt"),
        ("train/images/b.jpg", "other/train/b.txt"),
        ("photos/deep/b.jpg", "other/photos/deep/b.txt"),
    ],
)
def test_labels_dir_mirrors_the_images(folder, image, label):
    spec = read(folder, GOOD + "labels_dir: other\n")
    assert label_path(spec, folder / image) == folder / label


def test_labels_dir_refuses_images_elsewhere(folder):
    spec = read(folder, GOOD + "labels_dir: other\n")
    with pytest.raises(UserError, match="labels_dir"):
        label_path(spec, folder.parent / "x.jpg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trian: images/train\nnames: [a]\n", "unknown key 'trian'; did you mean 'train'?"),
        ("train: images/train\n", "names: expected a list"),
        ("train: images/train\nnames: []\n", "names: expected a list"),
        ("train: images/train\nnames: 3\n", "names: expected a list"),
        ("train: images/train\nnames: cat.txt\n", "names: no such file"),
        ("train: images/train\nnames: images\n", "names: cannot be read as text"),
        ("train: images/train\nnames: [a, b]\nnc: 3\n", "nc is 3, but there are 2 names"),
        ("train: images/train\nnames: [a]\nnc: true\n", "nc is true"),
        ("train: images/train\nnames: [a, b, a]\n", "classes 0 and 2 are both called 'a'"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "ids must run from 0 to 1; 1 is missing"),
        ("train: images/train\nnames: {0: a, 0: b}\n", "set.yaml:2: not valid YAML: the key '0' stands here twice"),
        ("train: images/train\nnames: [yes, no]\n", "class 0 is true, expected a name"),
        ("train: images/train\nnames: [a, [b]]\n", "class 1 is a list"),
        ("train: 3\nnames: [a]\n", "train: expected a path, found a number"),
        ("train: []\nnames: [a]\n", "train: empty list"),
        ("train: [[x]]\nnames: [a]\n", "train: expected a path, found a list"),
        ("names: [a]\n", "no split"),
        ("labels_dir: 1\nval: x\nnames: [a]\n", "labels_dir: expected a path"),
        ("- train\n", "expected `key: value` lines"),
        ("", "found nothing"),
        ("train: [images\nnames: x\n", "set.yaml:2: not valid YAML"),
        ("train: a: b\n", "set.yaml:1: not valid YAML"),
        ("names: !!python/object/apply:os.getcwd []\n", "set.yaml:1: not valid YAML"),
        ("train: 2020-99-99\nnames: [a]\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_mistakes_get_one_clear_line(folder, text, expected):
    message = complaint(folder, text)
    assert expected in message
    assert str(folder / "set.yaml") in message


def test_missing_folder_shows_the_path_tried(folder):
    assert str(folder / "gone") in complaint(folder, "path: ./gone\n" + GOOD)
    with pytest.raises(UserError, match=str(folder / "images/none")):
        list_images(read(folder, "val: images/none\nnames: [a]\n"), "val")


def test_no_file_system_takes_such_a_name(folder):
    assert "no such folder" in complaint(folder, f"path: {'x' * 300}\n" + GOOD)
    assert "no such folder" in complaint(folder, 'path: "a\\0b"\n' + GOOD)


def test_missing_or_wrong_yaml_shows_the_path_tried(folder):
    for name in ("none.yaml", "sub/none", "coco128.yaml"):
        with pytest.raises(UserError, match=str(folder / name)):
            read_data_yaml(str(folder / name), folder)
    with pytest.raises(UserError, match="folder"):
        read_data_yaml(f"{folder}/", folder)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(UserError, match="not valid YAML"):
        read_data_yaml(str(folder / "photo.jpg"), folder)


def test_unknown_split_and_empty_split(folder):
    (folder / "empty").mkdir()
    spec = read(folder, "train: images/train\nval: empty\nnames: [a]\n")
    with pytest.raises(UserError, match=f"split 'val' is empty.*{folder}/empty"):
        list_images(spec, "val")
    with pytest.raises(UserError, match="no split 'test'; it has: train, val"):
        list_images(spec, "test")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("notes.md", "list.txt:2: not an image path: 'notes.md'"), ("", "is empty"), ("gone.jpg", "gone.jpg")],
)
def test_wrong_list_files(folder, line, expected):
    (folder / "list.txt").write_text(f"\n{line}\n", "utf-8")
    with pytest.raises(UserError, match=expected):
        list_images(read(folder, "val: list.txt\nnames: [a]\n"), "val")


def test_a_list_of_another_kind_is_refused(folder):
    touch(folder / "annotations.json")
    with pytest.raises(UserError, match=r"folder or a \.txt list"):
        list_images(read(folder, "val: annotations.json\nnames: [a]\n"), "val")


def test_names_in_a_file_of_their_own(folder):
    (folder / "obj.names").write_text("traffic light\ncat\n\n")
    assert read(folder, "val: images/val\nnames: obj.names\n").names == ("traffic light", "cat")
    (folder / "obj.names").write_text("cat\n\ndog\n")
    assert "names: class 1 is an empty text" in complaint(folder, "val: images/val\nnames: obj.names\n")


def test_names_cannot_write_to_the_terminal(folder):
    spec = read(folder, 'val: images/val\nnames: ["a\\e[31m", "b\\nc"]\n')
    assert spec.names == ("a?[31m", "b?c")
    assert "\x1b" not in complaint(folder, 'val: images/val\nnames: [x]\n"\\e[2J": 1\n')


def test_growing_aliases_do_not_explode(folder):
    doubling = "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(40))
    merging = "".join(f"m{i + 1}: &m{i + 1}\n  <<: [*m{i}, *m{i}, *m{i}, *m{i}]\n" for i in range(40))
    start = time.process_time()
    assert "unknown key" in complaint(folder, f"a0: &a0 [x]\n{doubling}names: *a40\n")
    assert "class 0 is a list" in complaint(folder, f"names:\n- &a0 [x]\n- {{{doubling}}}\n".replace("\na", ", a"))
    assert "not valid YAML" in complaint(folder, f"m0: &m0\n  x: 1\n{merging}names: [a]\n")
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("name", "way_on"), [("shapes", "train.py draws it"), ("coco128", "python -m data.download coco128 fetches it")]
)
def test_a_built_in_set_that_is_not_there_says_where_it_comes_from(name, way_on, tmp_path):
    with pytest.raises(UserError, match=f"the data set '{name}' is not there: .*{tmp_path / name} \\({way_on}; "):
        read_data_yaml(name, tmp_path)


def test_built_in_set_lies_below_the_data_root(tmp_path):
    touch(tmp_path / "coco128/images/val2017/1.jpg")
    spec = read_data_yaml("coco128", tmp_path)
    assert spec.yaml == BUILT_IN / "coco128.yaml"
    assert list_images(spec, "val") == [tmp_path / "coco128/images/val2017/1.jpg"]
    with pytest.raises(UserError, match=f"{tmp_path}/voc .*--data-root"):
        read_data_yaml("voc", tmp_path)
    with pytest.raises(UserError, match="did you mean 'coco128'"):
        read_data_yaml("coco12", tmp_path)


@pytest.mark.parametrize("path", sorted(BUILT_IN.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_yaml_reads(path, tmp_path):
    (tmp_path / path.stem).mkdir()
    (tmp_path / path.stem / "names.txt").write_text("cat\n")  # LVIS's, which convert.py writes
    spec = read_data_yaml(path.stem, tmp_path)
    assert spec.root == tmp_path / path.stem
    assert {"train", "val"} <= set(spec.splits)
    assert spec.ignored == ()


def test_class_names_are_the_published_ones(tmp_path):
    for name in ("coco", "coco128", "voc"):
        (tmp_path / name).mkdir()
    published = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    coco = tuple(name for name in published if name not in ("__background__", "N/A"))
    assert read_data_yaml("coco", tmp_path).names == read_data_yaml("coco128", tmp_path).names == coco
    voc = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:]
    assert read_data_yaml("voc", tmp_path).names == tuple(voc)


@needs_shared_data
def test_coco128_photos_and_labels():
    spec = read_data_yaml("coco128", SHARED_DATA)
    for split, labelled in (("train", 126), ("val", 128)):
        images = list_images(spec, split)
        assert len(images) == 128
        assert sum(label_path(spec, image).is_file() for image in images) == labelled


def test_ids_in_quotes_are_ids(folder):
    assert read(folder, "val: images/val\nnames: {'1': dog, '0': cat}\n").names == ("cat", "dog")
    assert "2 is missing" in complaint(folder, "val: images/val\nnames: {'0': cat, '1': dog, '3': cow}\n")


def test_a_test_split_that_is_not_there_stops_nobody_who_does_not_ask_for_it(folder):
    """Roboflow's YAML names it, its part is deleted or was never made."""
    spec = read(folder, GOOD + "test: ../test/images\n")
    assert is_there(spec, "val")
    assert not is_there(spec, "test")
    with pytest.raises(UserError, match="test: no such folder or list file"):
        list_images(spec, "test")
