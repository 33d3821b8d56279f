"""The embedded demo set: always the same, an ordinary data set, boxes tight to the drawing, rich in slender objects."""

import cv2
import numpy as np
import pytest

from data.data_yaml import label_path, list_images, read_data_yaml
from data.shapes import demo_set as shapes
from data.shapes.demo_set import SHAPE_CLASSES, ensure_shapes, make_shapes
from data.shapes.scene import LEAST_VISIBLE, SLENDER, SMALLEST_SIDE, Shape, _without_hidden, draw_scene
from utils.errors import UserError

SMALL = {"train": 3, "val": 2, "size": 160}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng([7, index]), 320) for index in range(120)]


@pytest.fixture
def few(monkeypatch):
    """Lets ensure_shapes draw a small set."""
    monkeypatch.setattr(shapes.make_shapes, "__defaults__", (0, 3, 2, 160))


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def sides(scenes):
    boxes = np.concatenate([scene.boxes for scene in scenes])
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def test_equal_seeds_give_equal_bytes(tmp_path):
    make_shapes(tmp_path / "a", **SMALL)
    make_shapes(tmp_path / "b", **SMALL)
    make_shapes(tmp_path / "c", seed=1, **SMALL)
    first, second, other = (files(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == 2 * (3 + 2) + 2
    pictures = [name for name in first if name.endswith(".jpg")]
    assert all(first[name] != other[name] for name in pictures)
    assert len({first[name] for name in pictures}) == 5


def test_it_is_an_ordinary_data_set(tmp_path):
    spec = read_data_yaml(str(make_shapes(tmp_path / "deep/shapes", **SMALL)), tmp_path / "elsewhere")
    assert spec.names == SHAPE_CLASSES
    for split, number in (("train", 0), ("val", 1)):
        images = list_images(spec, split)
        assert len(images) == SMALL[split]
        for index, path in enumerate(images):
            image = cv2.imread(str(path))
            scene = draw_scene(np.random.default_rng([0, number, index]), 160)
            assert np.abs(image[..., ::-1].astype(int) - scene.image).mean() < 8
            rows = np.loadtxt(label_path(spec, path), ndmin=2)
            center, size = rows[:, 1:3] * 160, rows[:, 3:] * 160
            assert (rows[:, 0] == scene.labels).all()
            np.testing.assert_allclose(np.hstack([center - size / 2, center + size / 2]), scene.boxes, atol=1e-3)


def test_boxes_are_tight_to_the_drawn_pixels(scenes):
    for scene in scenes:
        for box, shape in zip(scene.boxes, scene.shapes, strict=True):
            left, top, width, height = cv2.boundingRect(shape.mask(320).astype(np.uint8))
            assert box.tolist() == [left, top, left + width, top + height]
        assert (scene.boxes >= 0).all()
        assert (scene.boxes <= 320).all()


def test_nothing_labelled_is_hidden(scenes):
    shares = []
    for scene in scenes:
        for index, shape in enumerate(scene.shapes):
            seen = scene.seen == index
            assert not (seen & ~shape.mask(320)).any()
            shares.append(seen.sum() / (shape.coverage >= 64).sum())
    assert min(shares) >= LEAST_VISIBLE
    assert np.mean(np.array(shares) < 0.9) > 0.1, "occlusion is part of the set"


def test_a_shape_hidden_by_more_than_70_percent_is_not_labelled():
    whole = np.full((10, 10), 255, np.uint8)
    shapes = [Shape(label, whole, 20 * label, 5) for label in range(3)]
    seen = np.full((64, 64), -1)
    for index, rows in enumerate((10, 2, 3)):
        seen[5 : 5 + rows, 20 * index : 20 * index + 10] = index
    scene = _without_hidden(np.zeros((64, 64, 3), np.uint8), shapes, seen)
    assert scene.labels.tolist() == [0, 2]
    assert [(scene.seen == index).sum() for index in (0, 1)] == [100, 30]


def test_pixels_show_the_shape_that_the_label_means(scenes):
    """A disc fills pi/4 of its box, a bar all of it, and so on, so that no class is drawn under another's name."""
    filled = {name: [] for name in SHAPE_CLASSES}
    for scene in scenes:
        for shape in scene.shapes:
            if min(shape.coverage.shape) > 30:
                filled[SHAPE_CLASSES[shape.label]].append((shape.coverage >= 128).mean())
    expected = {"disc": (0.77, 0.8), "bar": (0.97, 1), "square": (0.6, 1), "ring": (0.4, 0.65)}
    expected |= {"triangle": (0.35, 0.55), "cross": (0.35, 0.65)}
    for name, (low, high) in expected.items():
        assert filled[name], name
        assert low <= min(filled[name]), name
        assert max(filled[name]) <= high, name


def test_slender_objects_tiny_and_large_ones_and_all_classes(scenes):
    width, height = sides(scenes)
    ratio = np.maximum(width / height, height / width)
    assert (ratio >= 4).mean() >= 0.3
    assert ratio.max() < 11
    assert ((ratio >= 4) & (width > height)).mean() > 0.1
    assert ((ratio >= 4) & (width < height)).mean() > 0.1
    assert SMALLEST_SIDE <= np.minimum(width, height).min() <= SMALLEST_SIDE + 2
    assert np.maximum(width, height).max() > 0.9 * 320
    labels = np.concatenate([scene.labels for scene in scenes])
    assert np.bincount(labels, minlength=6).min() > 0.05 * len(labels)
    slender = [SHAPE_CLASSES.index(name) for name in SLENDER]
    assert set(labels[ratio >= 4]) == set(slender)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_small_pictures_hold_what_fits(size):
    scenes = [draw_scene(np.random.default_rng(index), size) for index in range(40)]
    assert sum(len(scene.shapes) for scene in scenes) > 40
    assert all(scene.boxes.max(initial=0) <= size for scene in scenes)


def test_some_shapes_cover_others(scenes):
    hidden = [
        (scene.seen == index).sum() < 0.95 * shape.mask(len(scene.image)).sum()
        for scene in scenes
        for index, shape in enumerate(scene.shapes)
    ]
    assert 0.1 < np.mean(hidden) < 0.4


def test_colour_does_not_give_the_class_away(scenes):
    """Mean colours of the classes differ by less than a third of the spread within a class."""
    colors = {name: [] for name in SHAPE_CLASSES}
    for scene in scenes:
        for index, shape in enumerate(scene.shapes):
            colors[SHAPE_CLASSES[shape.label]].append(scene.image[scene.seen == index].mean(0))
    means = np.array([np.mean(group, 0) for group in colors.values()])
    spread = np.mean([np.std(group, 0) for group in colors.values()])
    assert means.std(0).max() < spread / 3


def test_an_existing_set_is_used_again(tmp_path, few):
    path = ensure_shapes(tmp_path)
    assert path == tmp_path / "shapes/shapes.yaml"
    before = (tmp_path / "shapes/images/train/000000.jpg").stat().st_mtime_ns
    assert ensure_shapes(tmp_path) == path
    assert (tmp_path / "shapes/images/train/000000.jpg").stat().st_mtime_ns == before
    assert read_data_yaml("shapes", tmp_path).root == tmp_path / "shapes"


def test_another_folder_of_that_name_is_left_alone(tmp_path, few):
    (tmp_path / "shapes").mkdir()
    with pytest.raises(UserError, match=str(tmp_path / "shapes")):
        ensure_shapes(tmp_path)
    assert not any((tmp_path / "shapes").iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path, few, monkeypatch):
    drawn = []

    def interrupted(generator, size):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(size)
        return draw_scene(generator, size)

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_shapes(tmp_path / "root")
    assert len(drawn) == 2
    assert not any((tmp_path / "root").iterdir())


def test_two_processes_at_once(tmp_path, few, monkeypatch):
    """The slower of two runs finds the other's set in place and takes it."""

    def overtaken(root, *arguments):
        if not (tmp_path / "shapes").exists():
            (tmp_path / "shapes").mkdir()
            (tmp_path / "shapes/README.txt").write_text(shapes.STAMP + "\n", "utf-8")
            (tmp_path / "shapes/shapes.yaml").touch()
        return write(root, *arguments)

    write = shapes._write_split
    monkeypatch.setattr(shapes, "_write_split", overtaken)
    assert ensure_shapes(tmp_path) == tmp_path / "shapes/shapes.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_place_that_cannot_be_written(tmp_path, few):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        ensure_shapes(tmp_path / "file")
