"""Drawing: boxes where they belong, readable text for any name, and files on any path."""

import cv2
import numpy as np
import pytest
import torch

from utils.drawing.draw import class_color, draw_boxes, drawable, image_grid, write_image
from utils.errors import UserError

NAMES = ["cat", "dog", "Größe", "犬"]


def canvas(height=120, width=200):
    return np.full((height, width, 3), 50, np.uint8)


def changed(before, after):
    """Left, top, right, bottom of the changed pixels."""
    rows, columns = np.nonzero((before != after).any(2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_box_is_outlined_in_its_colour_and_the_input_is_left_alone():
    image = canvas()
    picture = draw_boxes(image, [[20, 40, 120, 100]], [1], NAMES)
    assert (image == 50).all()
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    for row, column in ((100, 60), (70, 20), (70, 120), (40, 110)):
        assert tuple(picture[row, column]) == class_color(1)
    assert tuple(picture[70, 60]) == (50, 50, 50), "the inside stays visible"
    left, _, right, bottom = changed(image, picture)
    assert (left, right, bottom) == (20, 120, 100)


def test_text_stands_in_a_filled_patch_above_the_box_or_inside_at_the_edge():
    image = canvas()
    above = changed(image, draw_boxes(image, [[20, 40, 60, 100]], [0], NAMES))
    assert 20 <= above[1] < 40
    at_top = changed(image, draw_boxes(image, [[20, 0, 60, 30]], [0], NAMES))
    assert at_top[1] == 0
    at_right = draw_boxes(image, [[195, 40, 199, 100]], [0], NAMES, [0.5])
    patch = at_right[30:38, 100:200].reshape(-1, 3)
    assert (patch == class_color(0)).all(1).any(), "the patch is shifted into the image"


@pytest.mark.parametrize("label", [2, 3])
def test_every_name_gives_text(label):
    plain, named = canvas(), draw_boxes(canvas(), [[10, 60, 150, 110]], [label], NAMES)
    patch = named[44:58, 11:40]
    assert (patch == class_color(label)).all(2).any()
    assert (patch != class_color(label)).any(2).any()
    assert (plain[:40] == named[:40]).all()


def test_names_beyond_the_font_become_class_numbers():
    assert drawable("Größe", "class 2") == "Größe"
    assert drawable("собака", "class 2") == "собака"
    assert drawable("犬", "class 3") == "class 3"
    assert "\x1b" not in drawable("a\x1b[31m", "class 3")


def test_boxes_beyond_the_image_or_not_finite_do_not_fail():
    boxes = torch.tensor([[-1e9, -50, 1e9, 500], [float("nan")] * 4, [0, 0, float("inf"), 5], [90, 90, 30, 30]])
    picture = draw_boxes(canvas(), boxes, torch.tensor([0, 1, 1, 2]), NAMES, torch.tensor([0.5, 0.6, 0.7, 0.8]))
    assert tuple(picture[60, 0]) == tuple(picture[60, -1]) == class_color(0)
    assert not (picture == class_color(1)).all(2).any()
    assert (draw_boxes(canvas(), np.zeros((0, 4)), [], NAMES) == canvas()).all()


def test_the_surest_box_lies_on_top():
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        picture = draw_boxes(canvas(), [[20, 40, 120, 100]] * 2, [0, 1], NAMES, scores)
        assert tuple(picture[100, 60]) == class_color(top)


def test_lines_grow_with_the_image():
    small, large = (draw_boxes(canvas(side, side), [[0, 0, side, side]], [0], NAMES) for side in (160, 1280))
    width = [
        (picture[-20:, side // 2] == class_color(0)).all(1).sum() for picture, side in ((small, 160), (large, 1280))
    ]
    assert width == [1, 4]


def test_neighbouring_classes_differ_in_colour():
    colors = np.array([class_color(label) for label in range(20)], float)
    distance = np.linalg.norm(colors[:, None] - colors, axis=2) + 999 * np.eye(20)
    assert distance.min() > 25
    assert class_color(1203) == class_color(1203)


def test_grid_places_pictures_of_any_size_row_by_row():
    images = [
        np.full((height, width, 3), value, np.uint8) for height, width, value in ((4, 6, 1), (2, 2, 2), (4, 4, 3))
    ]
    grid = image_grid(images, 2)
    assert grid.shape == (8, 12, 3)
    assert [int((grid == value).sum()) // 3 for value in (1, 2, 3)] == [24, 4, 16]
    assert (grid[:4, :6] == 1).all()
    assert (grid[1:3, 8:10] == 2).all()
    assert (grid[4:, 1:5] == 3).all()
    assert image_grid(images[:1], 4).shape == (4, 6, 3)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 6)])
def test_files_hold_rgb_and_take_any_path(tmp_path, suffix, tolerance, capfd):
    folder = tmp_path / "Bilder 犬"
    folder.mkdir()
    image = np.zeros((32, 48, 3), np.uint8)
    image[:] = (200, 100, 30)
    write_image(folder / f"é{suffix}", image)
    back = cv2.imdecode(np.fromfile(folder / f"é{suffix}", np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - image).max() <= tolerance
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match="absent"):
        write_image(tmp_path / "absent" / f"a{suffix}", image)


def test_what_a_jpg_cannot_hold_becomes_a_png(tmp_path):
    image = np.arange(3 * 65501, dtype=np.uint32).astype(np.uint8).reshape(1, -1, 3)
    for shape in ((1, 65501, 3), (65501, 1, 3)):
        written = write_image(tmp_path / "a.b.jpg", image.reshape(shape))
        assert written == tmp_path / "a.b.png"
        assert (cv2.imdecode(np.fromfile(written, np.uint8), 1)[..., ::-1] == image.reshape(shape)).all()
    assert write_image(tmp_path / "c.jpg", image[:, :65500]) == tmp_path / "c.jpg"
    with pytest.raises(UserError, match="d.png: a picture of 0x0 px cannot be written as .png"):
        write_image(tmp_path / "d.png", np.zeros((0, 0, 3), np.uint8))
