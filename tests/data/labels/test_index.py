"""Labels: what is kept, clipped, dropped and refused, and that the cache never lies."""

import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from data.labels.index import load_labels
from data.labels.read_files import CHUNK, in_threads
from data.labels.yolo_text import parse_labels
from tests.paths import SHARED_DATA, needs_shared_data
from utils.errors import UserError

WIDTH, HEIGHT = 200, 100


class Split:
    """A small split on disk: `add` writes an image and, unless None, its label text; `load` reads the labels."""

    def __init__(self, folder):
        self.folder = folder
        self.images, self.labels = [], []

    def add(self, text: str | bytes | None, image: bytes | None = None):
        name = f"{len(self.images):04d}"
        self.images.append(self.folder / f"{name}.png")
        self.labels.append(self.folder / f"{name}.txt")
        if image is None:
            Image.new("RGB", (WIDTH, HEIGHT)).save(self.images[-1])
        else:
            self.images[-1].write_bytes(image)
        if text is not None:
            self.labels[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        return self

    def load(self, num_classes: int = 3):
        return load_labels(self.images, self.labels, num_classes, self.folder / "cache")


@pytest.fixture
def split(tmp_path):
    return Split(tmp_path)


def test_boxes_become_pixels_of_the_photo(split):
    index = split.add("2 0.5 0.5 0.2 0.4\n0 0.25 0.5 0.5 1\n").add("1 0.1 0.1 0.1 0.1").load()
    assert len(index) == 2
    assert index.images == tuple(map(str, split.images))
    assert index.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert index.starts.tolist() == [0, 2, 3]
    np.testing.assert_allclose(index.of(0)[0], [[80, 30, 120, 70], [0, 0, 100, 100]], atol=1e-4)
    np.testing.assert_allclose(index.of(1)[0], [[10, 5, 30, 15]], atol=1e-4)
    assert index.of(0)[1].tolist() == [2, 0]
    assert (index.boxes.dtype, index.labels.dtype, index.starts.dtype) == (np.float32, np.int64, np.int64)
    assert index.report.summary() == ""


def test_a_polygon_becomes_the_box_around_its_points(split):
    index = split.add("1 0.1 0.2 0.5 0.9 0.3 0.1\n0 0.5 0.5 0.2 0.4\n").load()
    np.testing.assert_allclose(index.of(0)[0], [[20, 10, 100, 90], [80, 30, 120, 70]], atol=1e-4)
    assert index.of(0)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    "text", ["0 .5 .5 .2 .4\r\n1 .5 .5 .4 .4\r\n", "\ufeff0\t.5 .5 .2 .4\n\n1 .5  .5 .4 .4\n\n \n"]
)
def test_windows_line_ends_byte_order_mark_blank_lines_and_tabs(split, text):
    index = split.add(text).load()
    np.testing.assert_allclose(index.of(0)[0], [[80, 30, 120, 70], [60, 30, 140, 70]], atol=1e-4)


def test_class_ids_written_as_floats(split):
    assert split.add("2.0 .5 .5 .2 .4\n1.000000 .5 .5 .2 .4").load().labels.tolist() == [2, 1]


def test_fast_and_line_by_line_parsing_agree(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(0, 80, 300), rng.random((300, 4))])
    texts = ["\n".join(" ".join(f"{value:.6g}" for value in row) for row in part) for part in np.split(rows, 10)]
    paths = [tmp_path] * 10
    fast = parse_labels([text.encode() for text in texts], paths)
    # A blank first line sends a file down the slow way, and its line numbers up by one.
    slow = parse_labels([f"\n{text}".encode() for text in texts], paths)
    np.testing.assert_array_equal(fast.values, slow.values)
    np.testing.assert_array_equal(fast.image, slow.image)
    np.testing.assert_array_equal(fast.line + 1, slow.line)
    np.testing.assert_allclose(fast.values, rows, atol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "person 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1",
        "0 0.5 0.5 0.1 0.1 0.9",
        "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4",
        "0,0.5,0.5,0.1,0.1",
    ]
    + ["0 0.5 nan 0.1 0.1", "0 inf 0.5 0.1 0.1", "0 0.1 0.1 0.2 nan 0.3 0.3", "0 0_5 0.5 0.1 0.1", "0 0.5 0.5 0.1 ½"]
    + ["nan 0.5 0.5 0.1 0.1", "1e999 0.5 0.5 0.1 0.1", "0"],
)
def test_a_malformed_line_is_named_with_its_text(split, line):
    split.add("0 .5 .5 .1 .1").add(f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(UserError) as caught:
        split.load()
    message = str(caught.value)
    assert f"{split.labels[1]}:2: " in message
    assert line in message
    assert "\n" not in message


def test_a_file_that_is_no_text_is_named_printably(split):
    with pytest.raises(UserError) as caught:
        split.add(b"\x00\x1b[31m\xff\xfe 1 2 3 4").load()
    assert f"{split.labels[0]}:1: " in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("line", "wrong"), [("3 .5 .5 .1 .1", "3"), ("-1 .5 .5 .1 .1", "-1"), ("3 0 0 1 0 1 1", "3")])
def test_a_class_id_out_of_range_is_named_with_the_valid_ones(split, line, wrong):
    split.add("0 .5 .5 .1 .1\n2 .5 .5 .1 .1").add(f"\n\n{line}")
    with pytest.raises(UserError, match="0 to 2") as caught:
        split.load()
    assert f"{split.labels[1]}:3: class id {wrong}," in str(caught.value)
    assert "1-based" not in str(caught.value)


def test_ids_that_count_from_one_are_recognised(split):
    with pytest.raises(UserError, match=r"ids used: 1-3 \(they look 1-based"):
        split.add("1 .5 .5 .1 .1\n2 .5 .5 .1 .1\n3 .5 .5 .1 .1").load()


def test_a_fractional_class_id_is_refused(split):
    with pytest.raises(UserError, match=r"0000\.txt:2: class id 0\.5 is not a whole number"):
        split.add("0 .5 .5 .1 .1\n0.5 0.5 0.5 0.1 0.1").load()


def test_overshoot_up_to_one_percent_is_clipped_and_more_costs_the_box_only(split):
    lines = [
        "0 0.5 0.5 0.2 0.2",
        "0 0.1 0.5 0.219 0.2",
        "1 0.9 0.5 0.2202 0.2",
        "1 0.5 0.95 0.2 0.13",
        "2 0.5 0.5 1.00002 1",
    ]
    index = split.add("\n".join(lines)).load()
    report = index.report
    np.testing.assert_allclose(index.boxes, [[80, 40, 120, 60], [0, 40, 41.9, 60], [0, 0, 200, 100]], atol=1e-3)
    assert (report.clipped, report.skipped, report.boxes) == (1, 2, 3)
    assert report.dropped == tuple((f"{split.labels[0]}:{line}", "beyond the image") for line in (3, 4))
    assert "1 box clipped" in report.summary()
    assert "2 boxes skipped" in report.summary()
    assert f"{split.labels[0]}:3" in report.summary()
    assert "pixels" not in report.summary()


@pytest.mark.parametrize(
    ("policy", "said"),
    [("mend", "1 box clipped, up to 1 % beyond the image;"), ("clip", "2 boxes clipped, beyond the image;")],
)
def test_how_far_clipped_boxes_may_lie_beyond_is_said_by_the_policy(policy, said, split):
    split.add("0 .1 .5 .21 .2\n0 .1 .5 .8 .2\n")
    index = load_labels(split.images, split.labels, 3, split.folder / "cache", bad_labels=policy)
    assert said in f"{index.report.summary()};"
    assert ("up to 1 %" in index.report.summary()) == (policy == "mend")


def test_labels_in_pixels_are_recognised(split):
    split.add("0 .5 .5 .1 .1\n0 960 540 1920 80\n0 90 50 20 80\n")
    assert "values up to 1920: pixels?" in split.load().report.summary()
    (split.folder / "0000.txt").write_text("0 960 540 1920 80\n")
    with pytest.raises(UserError, match=r"none of the 1 box .*0000\.txt:1 .*values up to 1920: pixels\?"):
        split.load()


def test_numbers_near_the_largest_float_are_beyond_the_image(split):
    index = split.add("0 .5 .5 .1 .1\n0 1.7e308 .5 1.7e308 .1\n0 -1.7e308 0 1.7e308 0 1.7e308 1.7e308").load()
    assert (index.report.boxes, index.report.skipped) == (1, 2)


def test_boxes_without_area_and_duplicates_are_dropped(split):
    lines = [
        "0 .5 .5 .1 .1",
        "0 .5 .5 0 .1",
        "1 .5 .5 .1 .1",
        "0 0.50 .5 .1 .1",
        "0 .5 .5 .1 -.1",
        "0 1.004 .5 .008 .1",
    ]
    lines += ["0 .5 .5 .1 .1"]
    report = split.add("\n".join(lines)).add("0 .5 .5 .1 .1").load().report
    assert (report.boxes, report.no_area, report.duplicates) == (3, 3, 2)
    lines_dropped = [(int(where.rsplit(":", 1)[1]), reason) for where, reason in report.dropped]
    assert lines_dropped == [(2, "no area"), (4, "duplicate"), (5, "no area"), (6, "no area"), (7, "duplicate")]


def test_empty_and_missing_label_files_are_background(split):
    index = split.add("").add(None).add(" \n\n").add("0 .5 .5 .1 .1").add(None).load()
    assert index.starts.tolist() == [0, 0, 0, 0, 1, 1]
    assert (index.report.missing, index.report.empty) == (2, 2)
    assert "2 of 5 images without a label file" in index.report.summary()
    assert index.of(0)[0].shape == (0, 4)
    assert index.of(0)[1].shape == (0,)


def test_a_split_of_background_only(split):
    index = split.add("").load()
    assert index.starts.tolist() == [0, 0]
    assert (index.boxes.shape, index.labels.shape) == ((0, 4), (0,))


def test_unreadable_images_are_left_out_and_listed(split):
    index = (
        split.add("0 .5 .5 .1 .1")
        .add("1 .5 .5 .1 .1\n1 .5 .5 .1 0", image=b"junk")
        .add(None, image=b"")
        .add("2 .5 .5 .1 .1")
        .load()
    )
    assert index.images == (str(split.images[0]), str(split.images[3]))
    assert index.labels.tolist() == [0, 2]
    assert index.starts.tolist() == [0, 1, 2]
    assert [path for path, _ in index.report.unreadable] == [str(split.images[1]), str(split.images[2])]
    assert (index.report.images, index.report.no_area, index.report.missing, index.report.boxes) == (2, 0, 0, 2)
    assert str(split.images[1]) in index.report.summary()


def test_no_readable_image_at_all_is_an_error(split):
    with pytest.raises(UserError, match=r"none of the 1 image can be read.*0000\.png"):
        split.add("0 .5 .5 .1 .1", image=b"junk").load()


def test_no_label_file_at_all_shows_three_examples(split):
    for _ in range(5):
        split.add(None)
    with pytest.raises(UserError) as caught:
        split.load()
    for image, label in zip(split.images[:3], split.labels[:3], strict=True):
        assert f"{image} -> {label}" in str(caught.value)
    assert str(split.images[3]) not in str(caught.value)


def test_a_turned_photo_has_its_upright_size(split):
    exif = Image.Exif()
    exif[0x0112] = 6
    split.add("0 .5 .5 .5 .5")
    Image.new("RGB", (WIDTH, HEIGHT)).save(split.images[0], exif=exif)
    index = split.load()
    assert index.sizes.tolist() == [[WIDTH, HEIGHT]]
    np.testing.assert_allclose(index.boxes, [[25, 50, 75, 150]])


def snapshot(index):
    return (
        index.images,
        *(getattr(index, name).tolist() for name in ("sizes", "starts", "boxes", "labels")),
        index.report,
    )


@pytest.fixture
def cached(split, monkeypatch):
    """A loaded split with everything that a report can hold, its index, and a list of the scans that follow."""
    split.add("0 .5 .5 .1 .1\n0 .9 .5 .5 .1\n1 .1 .1 .1 .1").add(None).add("0 .1 .1 .1 .1", image=b"junk").add("")
    index = split.load()
    scans = []
    monkeypatch.setattr("data.labels.index.parse_labels", lambda *args: scans.append(1) or parse_labels(*args))
    return split, index, scans


def test_a_cached_index_equals_the_scanned_one(cached):
    split, index, scans = cached
    assert snapshot(split.load()) == snapshot(index)
    assert not scans
    assert sorted(path.name for path in split.folder.iterdir() if path.suffix not in (".png", ".txt")) == ["cache"]


def test_a_changed_label_is_seen_even_at_the_same_size_and_time(cached):
    split, index, scans = cached
    before = split.labels[0].stat()
    text = split.labels[0].read_text()
    split.labels[0].write_text(text.replace("1 .1", "2 .1"))
    os.utime(split.labels[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert split.load().labels.tolist() == [0, 2]
    assert len(scans) == 1
    assert len(list((split.folder / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["image", "new label", "classes", "removed label"])
def test_every_other_change_is_seen(cached, change):
    split, index, scans = cached
    if change == "image":
        Image.new("RGB", (50, 50)).save(split.images[0])
    elif change == "new label":
        split.labels[1].write_text("0 .5 .5 .1 .1")
    elif change == "removed label":
        split.labels[0].unlink()
    again = split.load(5 if change == "classes" else 3)
    assert scans
    assert (snapshot(again) == snapshot(index)) == (change == "classes")


@pytest.mark.parametrize("damage", ["cut", "junk", "empty", "array", "folder", "pickle"])
def test_a_damaged_cache_is_rebuilt(cached, damage):
    split, index, scans = cached
    (file,) = (split.folder / "cache").iterdir()
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif damage == "pickle":
        with file.open("wb") as stream:
            np.savez(stream, key=np.array([{}], dtype=object))
    else:
        file.write_bytes(
            {"cut": content[: len(content) // 2], "junk": content[:500] + b"x" * 900, "empty": b""}[damage]
        )
    assert snapshot(split.load()) == snapshot(index)
    assert len(scans) == 1
    split.load()
    assert len(scans) == (2 if damage == "folder" else 1)


@pytest.mark.parametrize("bit", [0, 5, 6])
def test_a_flag_of_the_archive_that_numpy_knows_nothing_of_is_damage_too(cached, bit, capsys):
    """A flipped bit says that a part is encrypted, or patched: zipfile raises other errors for those."""
    split, index, scans = cached
    (file,) = (split.folder / "cache").iterdir()
    data = bytearray(file.read_bytes())
    for head, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(head)
        while place >= 0:
            data[place + at] |= 1 << bit
            place = data.find(head, place + 4)
    file.write_bytes(data)
    assert snapshot(split.load()) == snapshot(index)
    assert capsys.readouterr().err.count("is damaged") == 1
    assert snapshot(split.load()) == snapshot(index)
    assert (len(scans), capsys.readouterr().err) == (1, "")


def test_a_cache_folder_that_cannot_be_made_costs_nothing_but_time(split):
    (split.folder / "cache").write_text("a file where the folder should be")
    split.add("0 .5 .5 .1 .1")
    assert split.load().report.boxes == split.load().report.boxes == 1


def test_the_default_cache_lies_in_the_users_cache_folder(split, monkeypatch):
    split.add("0 .5 .5 .1 .1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(split.folder / "xdg"))
    load_labels(split.images, split.labels, 3)
    assert len(list((split.folder / "xdg" / "alignyolo").glob("labels-*.npz"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(split.folder / "home"))
    monkeypatch.setenv("USERPROFILE", str(split.folder / "home"))
    load_labels(split.images, split.labels, 3)
    assert len(list((split.folder / "home" / ".cache" / "alignyolo").glob("labels-*.npz"))) == 1


@needs_shared_data
@pytest.mark.parametrize(("name", "missing", "boxes"), [("train2017", 2, 929), ("val2017", 0, 898)])
def test_coco128_is_read_as_its_text_says(tmp_path, name, missing, boxes):
    images = sorted((SHARED_DATA / "coco128" / "images" / name).glob("*.jpg"))
    labels = [SHARED_DATA / "coco128" / "labels" / name / f"{image.stem}.txt" for image in images]
    index = load_labels(images, labels, 80, tmp_path)
    assert (index.report.missing, index.report.boxes, index.report.dropped) == (missing, boxes, ())
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        if not label.exists():
            continue
        width, height = Image.open(image).size
        values = np.loadtxt(label, ndmin=2)
        centre, side = values[:, 1:3] * (width, height), values[:, 3:] * (width, height)
        expected = np.hstack([centre - side / 2, centre + side / 2])
        np.testing.assert_allclose(index.of(i)[0], expected, atol=0.01)
        assert index.of(i)[1].tolist() == values[:, 0].tolist()


def test_threads_take_over_where_a_disk_is_waited_for():
    items = list(range(5 * CHUNK))
    computing = in_threads(lambda item: (item, threading.get_ident()), items)
    assert [item for item, _ in computing] == items

    def wait(item):
        time.sleep(0.0002)
        return item, threading.get_ident()

    waiting = in_threads(wait, items)
    assert [item for item, _ in waiting] == items
    assert {thread for _, thread in waiting[:CHUNK]} == {threading.get_ident()}
    assert threading.get_ident() not in {thread for _, thread in waiting[CHUNK:]}
    assert in_threads(wait, []) == []


POSE = ["0 0.5 0.5 0.2 0.3 0.45 0.4 0.55 0.4 0.55 0.6 0.45 0.6", "0 .5 .5 .2 .3 .45 .4 2 .55 .4 2 .55 .6 2 0 0 0"]


@pytest.mark.parametrize(("line", "numbers"), [(POSE[0], 8), (POSE[1], 12)])
def test_a_row_of_key_points_is_its_box(split, line, numbers):
    split.add(f"{line}\n1 .5 .5 .1 .1\n")
    index = load_labels(split.images, split.labels, 3, keypoints=numbers)
    np.testing.assert_allclose(index.of(0)[0], [[80, 35, 120, 65], [90, 45, 110, 55]], atol=1e-4)
    with pytest.raises(UserError, match=r"0000\.txt:1: `kpt_shape` .* 5 and 6 of key points; found 1[37]"):
        load_labels(split.images, split.labels, 3, keypoints=6)


@pytest.mark.parametrize("line", POSE)
def test_a_row_that_could_be_two_things_is_an_error(split, line):
    with pytest.raises(UserError, match=r"0000\.txt:2: .*key points or a polygon: say `kpt_shape"):
        split.add(f"1 .5 .5 .1 .1\n{line}\n").load()
    report = load_labels(split.images, split.labels, 3, keypoints=-1).report
    assert report.boxes + report.skipped == 2, "as polygons, which `task: segment` says"


@pytest.mark.parametrize(
    "odd",
    [
        "0 .5 .5 .2 .3 .45 .4 .55 .4 .55 .6 .45 .67",  # a key point 2 % beyond its box
        "0 .5 .5 .2 .3 .45 .4 0 0 .55 .6 0 0",  # key points that are not there
    ],
)
def test_an_odd_row_does_not_make_polygons_of_all(split, odd):
    with pytest.raises(UserError, match=r"0000\.txt:[12]: this row, as (9 of the|all) 10 of more than 5 numbers"):
        split.add("\n".join([odd, *[POSE[0]] * 9])).load()


def test_rows_of_which_some_could_be_key_points_are_polygons(split):
    """A small polygon in the upper left part of a photo could be a box with key points, one at the right could not."""
    split.add("0 .5 .5 .6 .5 .6 .6\n" * 2 + "0 .8 .5 .9 .5 .9 .6\n").load()


def test_turned_boxes_are_their_upright_box_and_are_counted(split):
    index = split.add("1 .5 .2 .8 .5 .5 .8 .2 .5\n1 .5 .5 .1 .1\n").load()
    np.testing.assert_allclose(index.boxes, [[40, 20, 160, 80], [90, 45, 110, 55]], atol=1e-4)
    assert "1 rotated box (4 corners a row)" in index.report.summary()


def test_photos_that_share_a_label_file_are_named(split):
    split.add("0 .5 .5 .1 .1")
    split.images.append(split.folder / "0000.jpg")
    split.labels.append(split.labels[0])
    Image.new("RGB", (WIDTH, HEIGHT)).save(split.images[1])
    report = split.load().report
    assert "1 photo shares its label file with another, the first: " in report.summary()
    assert [finding[:2] for finding in report.findings] == [("shared label", str(split.images[1]))]
