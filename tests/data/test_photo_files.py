"""Which files are photos, and where: linked folders, lists from other machines, kinds that are not read here."""

import os

import pytest
from PIL import Image

from data.data_yaml import label_paths, list_images, read_data_yaml
from data.photo_files import HEIF_SUFFIXES, UNREAD_SUFFIXES, photos_below, photos_of_list
from data.split import load_split
from tests.data.formats.small_sets import photo
from utils.errors import UserError


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in photos_below(folder))


def touched(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_linked_folders_are_followed_once(tmp_path):
    photo(tmp_path / "set" / "deep" / "a.jpg")
    photo(tmp_path / "elsewhere" / "b.jpg")
    photo(tmp_path / "elsewhere" / "deeper" / "c.jpg")
    (tmp_path / "set" / "aaa").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "deep" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere" / "deeper")
    (tmp_path / "set" / "a-link-to-a-folder-of-its-own").symlink_to(tmp_path / "set" / "deep")
    assert below(tmp_path / "set") == ["aaa/b.jpg", "aaa/deeper/c.jpg", "deep/a.jpg"]


def test_photos_below_a_linked_folder_keep_their_labels(tmp_path):
    for name in ("images/a.jpg", "other/images/b.jpg"):
        photo(tmp_path / name)
        label = (tmp_path / name.replace("images", "labels")).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "images" / "more").symlink_to(tmp_path / "other" / "images")
    (tmp_path / "labels" / "more").symlink_to(tmp_path / "other" / "labels")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    index = load_split(read_data_yaml(str(tmp_path / "data.yaml"), tmp_path), "train", tmp_path / "cache")
    assert len(index.boxes) == len(index) == 2


def test_the_pictures_of_runs_are_no_photos_of_the_set(tmp_path):
    """`cd set; python train.py --data .` twice: the second run would train on the first one's pictures."""
    runs = {
        "runs/train/exp": ("config.yaml", "env.json", "labels.png"),
        "my runs/exp": ("config.yaml", "env.json", "split/x.jpg"),
        "runs/val/exp": ("metrics.json", "metrics.csv", "val_batch0.jpg"),
        "runs/detect/exp": ("a.jpg", "crops/0_a/a_0.jpg"),
    }
    for folder, names in runs.items():
        for name in names:
            photo(tmp_path / folder / "x.png").replace(touched(tmp_path / folder / name))
    for name in ("a.jpg", "detect/b.jpg", "runs/c.jpg"):
        photo(tmp_path / name)
    (tmp_path / "linked").symlink_to(tmp_path / "my runs" / "exp")
    assert below(tmp_path) == ["a.jpg", "detect/b.jpg", "runs/c.jpg"]
    assert below(tmp_path / "runs" / "train" / "exp") == ["labels.png"], "that is what was asked for"
    assert below(tmp_path / "runs" / "detect" / "exp") == ["a.jpg", "crops/0_a/a_0.jpg"]


STARTS = {
    "CVAT": "data/obj_train_data/",
    "CVAT, with a dot": "./data/obj_train_data/",
    "another machine": "/content/darknet/obj_train_data/",
    "Windows": "C:\\Users\\me\\set\\obj_train_data\\",
    "Windows, relative": "obj_train_data\\",
    "as it is": "obj_train_data/",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_lists_that_were_written_elsewhere(start, tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "obj_train_data" / f"{name}.jpg")
    lines = [f"{start}{name}.jpg" for name in ("gone", "a", "b")]
    (tmp_path / "train.txt").write_text("\r\n".join([*lines, ""]))
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [a]\n")
    folder = tmp_path / "obj_train_data"
    assert list(photos_of_list(tmp_path / "train.txt")) == [folder / f"{name}.jpg" for name in ("gone", "a", "b")]
    spec = read_data_yaml(str(tmp_path / "data.yaml"), tmp_path)
    images = list_images(spec, "train")
    assert label_paths(spec, images)[0] == folder / "a.txt"


def test_names_that_are_no_utf8_are_the_bytes_that_they_are_on_disk(tmp_path):
    photo(tmp_path / "x.jpg").rename(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.jpg\n")
    assert [path.name for path in photos_of_list(tmp_path / "train.txt")] == [os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg\ncafé.jpg\n".encode("latin-1"), r"train.txt:2: expected UTF-8, found 'caf.*jpg', and no photo of this"),
        ("a.jpg\n".encode("utf-16"), "train.txt: expected a UTF-8 list of files, found NUL bytes, as UTF-16 has them"),
    ],
)
def test_a_list_in_another_encoding_is_one_line(text, message, tmp_path):
    for name in ("a", "café"):
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "train.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        list(photos_of_list(tmp_path / "train.txt"))


def test_a_line_that_leads_to_a_photo_is_taken_as_it_stands(tmp_path):
    photo(tmp_path / "lists" / "a.jpg")
    photo(tmp_path / "data" / "a.jpg")
    (tmp_path / "lists" / "train.txt").write_text(f"{tmp_path}/data/a.jpg\n../data/a.jpg\ngone/a.jpg\n")
    found = list(photos_of_list(tmp_path / "lists" / "train.txt"))
    assert found == [tmp_path / "data" / "a.jpg"] * 2 + [tmp_path / "lists" / "gone" / "a.jpg"]


@pytest.mark.parametrize("suffix", (*HEIF_SUFFIXES, *UNREAD_SUFFIXES))
def test_photos_that_are_not_read_here_are_named_with_a_way_on(suffix, tmp_path, monkeypatch):
    """They are listed, and left out by name; nothing vanishes."""
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    photo(tmp_path / "a.jpg")
    heif = (24).to_bytes(4, "big") + b"ftypheic" + bytes(12)
    (tmp_path / f"b{suffix}").write_bytes(heif if suffix in HEIF_SUFFIXES else b"some camera's raw data")
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [a]\n")
    index = load_split(read_data_yaml(str(tmp_path / "data.yaml"), tmp_path), "train", tmp_path / "cache")
    ((path, reason),) = index.report.unreadable
    assert os.path.basename(path) == f"b{suffix}"  # noqa: PTH119
    assert ("pip install pillow-heif" if suffix in HEIF_SUFFIXES else "convert it to PNG") in reason


@pytest.mark.parametrize("suffix", ["jfif", "mpo", "avif", "gif"])
def test_photos_of_phones_and_browsers_are_read(suffix, tmp_path):
    photo(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / f"b.{suffix}")
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [a]\n")
    index = load_split(read_data_yaml(str(tmp_path / "data.yaml"), tmp_path), "train", tmp_path / "cache")
    assert index.sizes.tolist() == [[96, 128]]
