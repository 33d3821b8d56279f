"""A validation split taken from train: its share of every class, no photo on both sides, the same for the same seed."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import convert
from data.data_yaml import list_images, read_data_yaml
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_coco, convert_voc
from data.open.hold_out import choose_held_out, hold_out, keep_split, same_photos
from data.split import load_split
from tests.data.formats.small_sets import coco_document, photo, read_back, write_json
from tests.paths import SHARED_DATA, needs_shared_data
from utils.errors import UserError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """120 smooth photos, each of its own content, a copy of every tenth, and one a little changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(120):
        coarse = random.integers(0, 255, (6, 6, 3), np.uint8)
        image = cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03d}.png")
        if number % 10 == 0:
            shutil.copy(tmp_path / "images" / f"{number:03d}.png", tmp_path / "images" / f"copy{number:03d}.png")
            Image.fromarray(image).resize((80, 80)).save(tmp_path / "images" / f"near{number:03d}.jpg", quality=60)
    return sorted((tmp_path / "images").iterdir())


def originals(paths):
    return [int("".join(filter(str.isdigit, path.stem))) for path in paths]


def test_copies_and_near_copies_are_the_same_photo_and_others_are_not(photos):
    groups = same_photos(photos)
    expected = np.array(originals(photos))
    np.testing.assert_array_equal(groups[:, None] == groups, expected[:, None] == expected)


def fixed_cameras(folder, cameras, each):
    """Photos of fixed cameras with noise, in which two squares have moved; the first and the second of each are one."""
    random, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for camera in range(cameras):
        still = cv2.resize(random.integers(40, 200, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
        for number in range(each):
            if number != 1:
                image = still.copy()
                for left, top in random.integers(0, (290, 210), (2, 2)).tolist():
                    image[top : top + 30, left : left + 30] = random.integers(0, 255, 3)
            noisy = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
            paths.append(folder / f"{camera}_{number:02d}.jpg")
            Image.fromarray(noisy).save(paths[-1], quality=80)
    return paths


@pytest.mark.parametrize("cameras", [1, 2])
def test_photos_of_a_fixed_camera_give_their_share(cameras, tmp_path):
    """All of a camera are nearly the same: they would stay on one side, which none of a fifth can be."""
    paths = fixed_cameras(tmp_path / "images", cameras, 40 // cameras)
    held = choose_held_out(paths, [{0}] * 40, 0.2, 0)
    assert 7 <= held.sum() <= 9
    assert all(held[start] == held[start + 1] for start in range(0, 40, 40 // cameras)), "in these nothing has moved"


def test_too_few_held_back_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(10):
        copy = photo(tmp_path / "images" / ("x.jpg" if number < 9 else "y.jpg"))
        copy.rename(tmp_path / "images" / f"{number}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{number}.txt").write_text("0 .5 .5 .2 .2\n")
    for _ in range(2):
        hold_out(yaml_of(tmp_path, "train: images"), 0.4, 0)
        said = capsys.readouterr().err
        assert "warning: --val 0.4 holds back 1 of 10 photos, not 4: most of them are nearly the same" in said
    hold_out(yaml_of(tmp_path, "train: images"), 0.1, 0)
    assert capsys.readouterr().err == ""


@needs_shared_data
def test_real_photos_are_told_apart(tmp_path):
    paths = sorted((SHARED_DATA / "neu-det" / "JPEGImages").glob("patches_*.jpg"))
    groups = same_photos(paths)
    shared = [group for group, count in Counter(groups.tolist()).items() if count > 1]
    named = {paths[row].stem for group in shared for row in np.flatnonzero(groups == group)}
    assert {"patches_101", "patches_105"} <= named, "the same photo, as the data's README says"
    assert len(named) <= 8


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_keeps_its_share_and_no_photo_is_on_both_sides(share, seed, photos):
    random = np.random.default_rng(7)
    classes = [set(np.flatnonzero(random.random(5) < (0.6, 0.3, 0.2, 0.1, 0.05)).tolist()) for _ in photos]
    held = choose_held_out(photos, classes, share, seed)
    assert abs(held.mean() - share) < 0.06
    for label in range(5):
        having = np.array([label in own for own in classes])
        assert abs((held & having).sum() - share * having.sum()) <= max(2.5, 0.25 * share * having.sum()), label
    sides = {False: set(), True: set()}
    for original, side in zip(originals(photos), held.tolist(), strict=True):
        sides[side].add(original)
    assert not sides[False] & sides[True]
    np.testing.assert_array_equal(held, choose_held_out(photos, classes, share, seed))
    assert (held != choose_held_out(photos, classes, share, seed + 10)).any()


def test_the_split_of_a_run_stays_what_it_was(photos, tmp_path):
    (tmp_path / "labels").mkdir()
    for number, path in enumerate(photos):
        (tmp_path / "labels" / f"{path.stem}.txt").write_text(f"{number % 2} .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a, b]\n")
    spec = read_data_yaml(str(tmp_path / "data.yaml"), tmp_path)
    split = hold_out(spec, 0.25, 3)
    assert hold_out(spec, 0.25, 3) == split
    lists = {name: list_images(split, name) for name in ("train", "val")}
    assert sorted(lists["train"] + lists["val"]) == photos
    assert len(load_split(split, "val", tmp_path / "labels-cache").boxes) == len(lists["val"])
    run = tmp_path / "run"
    run.mkdir()
    keep_split(split, run)
    keep_split(spec, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    shutil.copytree(split.yaml.parent, tmp_path / "splits" / "fold0")
    keep_split(read_data_yaml(str(tmp_path / "splits" / "fold0" / "data.yaml"), tmp_path), tmp_path / "other")
    assert not (tmp_path / "other").exists(), "a user's own folder of splits"
    photo(tmp_path / "images" / "new.jpg")
    shutil.rmtree(tmp_path / "cache")
    again = hold_out(spec, 0.25, 3, run)
    assert {name: list_images(again, name) for name in ("train", "val")} == lists
    with pytest.raises(UserError, match="has a validation split already"):
        hold_out(split, 0.25, 3)


@pytest.mark.parametrize("named", [["test"], ["train", "test"]])
def test_what_annotation_files_know_of_difficult_objects_is_kept(named, photos, tmp_path):
    """An ignored object of the test split is no false alarm, whether val was there or was taken from train."""
    for split, names in (("train", photos), ("test", [photo(tmp_path / "held" / "images" / "t.jpg")])):
        document = coco_document([path.name for path in names], size=Image.open(names[0]).size)
        for item in document["annotations"]:
            item["ignore"] = 1
        write_json(tmp_path / f"{split}.json", document)
    for path in [*photos, tmp_path / "held" / "images" / "t.jpg"]:
        label = path.parent.parent / "labels" / f"{path.stem}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 .5 .5 .5 .5\n")
    lines = "".join(f"  {split}: {split}.json\n" for split in named)
    text = "train: images\ntest: held/images\nnames: [thing]\n"
    (tmp_path / "data.yaml").write_text(text)
    before = hold_out(read_data_yaml(str(tmp_path / "data.yaml"), tmp_path), 0.25, 3)
    assert before.annotations == {}
    (tmp_path / "data.yaml").write_text(f"{text}annotations:\n{lines}")
    spec = hold_out(read_data_yaml(str(tmp_path / "data.yaml"), tmp_path), 0.25, 3)
    files = {"test": "test.json", **({"train": "train.json", "val": "train.json"} if "train" in named else {})}
    assert spec.annotations == {split: tmp_path / file for split, file in files.items()}
    assert read_data_yaml(str(spec.yaml), tmp_path).annotations == spec.annotations
    assert list_images(spec, "val") == list_images(before, "val")
    for split in set(files) - {"train"}:
        truths = split_truths(spec, split, load_split(spec, split, tmp_path / "labels-cache"))
        assert truths.difficult.tolist() == [True] * len(list_images(spec, split)), split


def test_a_converted_set_without_val_keeps_its_ignored_objects_for_what_is_held_out(photos, tmp_path):
    """As `train.py --data VOC_FOLDER --val .25` opens it: labels hold no difficult objects."""
    boxes = ((32, 24, 64, 48), (4, 4, 24, 24))
    document = coco_document([path.name for path in photos], boxes, Image.open(photos[0]).size)
    for item in document["annotations"][1::2]:
        item["ignore"] = 1
    source = tmp_path / "source"
    (source / "train").mkdir(parents=True)
    for path in photos:
        shutil.copy(path, source / "train" / path.name)
    write_json(source / "annotations" / "instances_train.json", document)
    convert_coco(source, tmp_path / "yolo")
    spec = hold_out(read_data_yaml(str(tmp_path / "yolo" / "data.yaml"), tmp_path), 0.25, 3)
    index = load_split(spec, "val", tmp_path / "labels-cache")
    assert len(index.boxes) == len(index)
    truths = split_truths(spec, "val", index)
    assert truths.difficult.sum() == len(index) == len(truths.difficult) / 2


def labelled_set(folder, photos, text, row=".5 .5 .2 .2"):
    """A data YAML for the photos, whose labels are rows of two classes, and a photo in each of two other folders."""
    photo(folder / "held" / "t.jpg")
    photo(folder / "other" / "t.jpg")
    for number, path in enumerate([*photos, folder / "held" / "t.jpg", folder / "other" / "t.jpg"]):
        label = Path(str(path.parent).replace("images", "labels"), f"{path.stem}.txt")
        label.parent.mkdir(exist_ok=True)
        label.write_text(f"{number % 2} {row}\n")
    return yaml_of(folder, text)


def yaml_of(folder, text):
    (folder / "data.yaml").write_text(f"{text}\nnames: [a, b]\n")
    return read_data_yaml(str(folder / "data.yaml"), folder)


def test_what_else_the_yaml_says_is_what_it_says_now(photos, tmp_path):
    """Its test split, its labels' rows and its photos' folder: in the run, and in what the run writes down."""
    (tmp_path / "run").mkdir()
    spec = labelled_set(tmp_path, photos, "train: images\ntest: held")
    keep_split(hold_out(spec, 0.25, 3), tmp_path / "run")
    for number, test in enumerate(("test: other", "", "test: [held, other]")):
        spec = yaml_of(tmp_path, f"train: images\n{test}")
        for split in (hold_out(spec, 0.25, 3), hold_out(spec, 0.25, 3, tmp_path / "run")):
            assert split.splits.get("test") == spec.splits.get("test")
        (tmp_path / f"run{number}").mkdir()
        keep_split(hold_out(spec, 0.25, 3), tmp_path / f"run{number}")
        written = read_data_yaml(str(tmp_path / f"run{number}" / "split" / "data.yaml"), tmp_path)
        assert written.splits.get("test") == spec.splits.get("test")
    for name in ("images", "labels"):
        shutil.copytree(tmp_path / name, tmp_path / "second" / name)
    moved = list_images(hold_out(yaml_of(tmp_path, "train: second/images"), 0.25, 3), "train")
    assert {path.parent for path in moved} == {tmp_path / "second" / "images"}


@pytest.mark.parametrize("labels_dir", [None, "rows"])
def test_the_split_of_a_run_needs_no_other_folder(labels_dir, photos, tmp_path):
    """Not the cache, which people empty, and not the run's own place: a run that was copied has its split with it."""
    rows, text = "kpt_shape: [2, 3]", "train: images\ntest: held"
    spec = labelled_set(tmp_path, photos, f"{text}\n{rows}", ".5 .5 .4 .4 .55 .5 2 .45 .4 2")
    if labels_dir:
        (tmp_path / "labels").rename(tmp_path / labels_dir)
        spec = yaml_of(tmp_path, f"{text}\n{rows}\nlabels_dir: {labels_dir}")
    (tmp_path / "runs" / "exp").mkdir(parents=True)
    split = hold_out(spec, 0.25, 3)
    expected = {name: list_images(split, name) for name in split.splits}
    keep_split(split, tmp_path / "runs" / "exp")
    shutil.rmtree(tmp_path / "cache" / "alignyolo" / "splits")
    for folder in (tmp_path / "runs" / "exp", tmp_path / "elsewhere"):
        written = read_data_yaml(str(folder / "split" / "data.yaml"), tmp_path)
        assert {name: list_images(written, name) for name in written.splits} == expected
        index = load_split(written, "val", tmp_path / "labels-cache")
        assert (len(index.boxes), index.report.turned) == (len(index), 0), "boxes with key points, no polygons"
        if folder != tmp_path / "elsewhere":
            folder.rename(tmp_path / "elsewhere")


def test_photos_whose_names_are_no_utf8(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        name = os.fsdecode(b"caf\xe9%d" % number)
        photo(tmp_path / "images" / "x.jpg", seed=number).rename(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    spec = hold_out(yaml_of(tmp_path, "train: images"), 0.5, 0)
    assert [len(load_split(spec, split).boxes) for split in ("train", "val")] == [2, 2]


def test_too_few_photos(tmp_path):
    with pytest.raises(UserError, match="1 photos .* are too few to divide"):
        choose_held_out([photo(tmp_path / "a.jpg")], [{0}], 0.2, 0)


def test_convert_takes_a_share_too(tmp_path, capsys):
    names = [f"{number}.jpg" for number in range(20)]
    for name in names:
        photo(tmp_path / "in" / name)
    source = write_json(tmp_path / "in" / "all.json", coco_document(names))
    convert.main(["coco", str(source), str(tmp_path / "out"), "--val", ".2"])
    assert "4 of 20 photos of train, by seed 0 (--val 0.2)" in capsys.readouterr().out
    spec = read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path)
    assert {split: len(list_images(spec, split)) for split in spec.splits} == {"train": 16, "val": 4}
    assert spec.annotations["val"] == source
    assert len(read_back(spec, tmp_path)) == 20
    assert sorted(json.loads((tmp_path / "out" / "ids.json").read_text())["images"].values()) == list(range(20))
    with pytest.raises(UserError, match="expected a share"):
        convert.main(["coco", str(source), str(tmp_path / "other"), "--val", "20"])
    with pytest.raises(UserError, match="expected a train split and no val"):
        convert.main(["coco", str(source), str(tmp_path / "other"), "--val", ".2", "--splits", "val"])


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_each_side_of_a_mended_file_has_its_own_photos(to, tmp_path):
    """The photos are found by the end of their names, so the file is a new one: one for each side."""
    names = [f"{number}.jpg" for number in range(10)]
    for name in names:
        photo(tmp_path / "in" / "images" / name)
    document = coco_document([f"../upload/1/{name}" for name in names])
    source = write_json(tmp_path / "in" / "train2017.json", document)
    convert.main(["coco", str(source), str(tmp_path / "out"), "--val", ".3", "--to", to])
    found = {}
    for split in ("train2017", "val2017"):
        file = tmp_path / "out" / "annotations" / (f"instances_{split}.json" if to == "coco" else f"{split}.json")
        held = json.loads(file.read_text())
        found[split] = {image["file_name"] for image in held["images"]}
        assert found[split] == {path.name for path in (tmp_path / "out" / "images" / split).iterdir()}
        assert {item["image_id"] for item in held["annotations"]} == {image["id"] for image in held["images"]}
    assert sorted(found["train2017"] | found["val2017"]) == names
    assert len(found["val2017"]) == 3
    assert not found["train2017"] & found["val2017"]


@needs_shared_data
def test_classes_of_real_photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    convert_voc(SHARED_DATA / "bccd", tmp_path / "out", splits=["trainval"], images="list")
    spec = hold_out(read_data_yaml(str(tmp_path / "out" / "data.yaml"), tmp_path), 0.2, 0)
    counts = {}
    for split in ("train", "val"):
        index = load_split(spec, split, tmp_path / "labels")
        counts[split] = np.bincount(index.labels, minlength=3)
        assert Path(index.images[0]).is_relative_to(SHARED_DATA)
    share = counts["val"] / (counts["val"] + counts["train"])
    assert np.abs(share - 0.2).max() < 0.05
