"""Reading photos: orientation, odd formats, odd names, broken files."""

import io
import sys
import types
from importlib.machinery import ModuleSpec

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images import FLOATS, FORMATS, ImageError, image_size, read_image, used_bits
from data.labels.index import load_labels
from data.photo_files import IMAGE_SUFFIXES
from data.pixel_limit import pixels_allowed
from tests.paths import SHARED_DATA, needs_shared_data

LOSSLESS = {"png": {}, "webp": {"lossless": True}, "tiff": {}, "jpg": {"quality": 100, "subsampling": 0}}


def a_photo(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth and without symmetry, so that every turn and flip shows, in JPEG too."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + 2 * y) * 255 / (width + 2 * height)], 2).astype(np.uint8)


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(a_photo()).save(path, exif=exif, **LOSSLESS[suffix])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    image = read_image(path)
    assert image.shape == expected.shape
    assert image_size(path) == expected.shape[:2]
    assert np.abs(image.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)
    assert expected.shape[:2] == ((40, 24) if orientation >= 5 else (24, 40))


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_of_any_orientation_is_reduced_as_it_stands(tmp_path, suffix, orientation, reduce):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(a_photo(48, 80)).save(path, exif=exif, **LOSSLESS[suffix])
    whole = read_image(path)
    expected = cv2.resize(whole, None, fx=1 / reduce, fy=1 / reduce, interpolation=cv2.INTER_AREA)
    image = read_image(path, reduce)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 12


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tail", [b"", b"\0", b"\xff" * 4])
def test_a_broken_exif_block_means_upright(tmp_path, order, tail):
    exif = b"Exif\0\0" + (b"II*\0\x08\0\0\0\xff\xff" if order == "<" else b"MM\0*\0\0\0\x08\xff\xff") + tail
    path = tmp_path / "photo.jpg"
    Image.fromarray(a_photo()).save(path, exif=exif)
    assert read_image(path).shape == (24, 40, 3)
    assert image_size(path) == (24, 40)


def test_an_orientation_outside_1_to_8_means_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(a_photo()).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png"), a_photo())


@pytest.mark.parametrize("before", [b"\xff\xc0", b"\xff\xdb", b"\xff\xda"])
def test_an_exif_block_counts_wherever_it_lies_in_a_jpeg_files_header(tmp_path, before):
    """Before the frame, before the tables, right before the scan: Pillow reads it there, and so do we."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "photo.jpg"
    Image.fromarray(a_photo()).save(path)
    start, rest = path.read_bytes().split(before, 1)
    path.write_bytes(start + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + before + rest)
    expected = ImageOps.exif_transpose(Image.open(path))
    assert read_image(path).shape[:2] == image_size(path) == expected.size[::-1] == (40, 24)


def test_a_jpeg_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path):
    path, rng = tmp_path / "photo.jpg", np.random.default_rng(0)
    Image.fromarray(a_photo()).save(path)
    whole, refused = path.read_bytes(), 0
    cuts = [whole[:length] for length in range(0, 640, 7)]
    for content in (*cuts, *(changed(whole, rng) for _ in range(300))):
        path.write_bytes(content)
        try:
            assert read_image(path).ndim == 3
        except ImageError:
            refused += 1
    assert refused > len(cuts) / 2


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """With another byte somewhere in its header."""
    place = int(rng.integers(600))
    return content[:place] + rng.bytes(1) + content[place + 1 :]


def test_a_jpeg_file_of_unusual_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.jpg"
    Image.fromarray(a_photo()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 40 // 2 - 1)
    with pytest.raises(ImageError, match="decompression bomb"):
        read_image(path)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_counts_as_an_image_can_be_read(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(a_photo()).save(path, **({"irreversible": False} if suffix == ".jp2" else {}))
    assert image_size(path) == (24, 40)
    assert np.abs(read_image(path).astype(int) - a_photo()).mean() < 6


def test_names_that_are_not_ascii(tmp_path):
    folder = tmp_path / "фото 画像 é"
    folder.mkdir()
    Image.fromarray(a_photo()).save(folder / "ñandú 🐦.png")
    assert image_size(folder / "ñandú 🐦.png") == (24, 40)
    np.testing.assert_array_equal(read_image(folder / "ñandú 🐦.png"), a_photo())


def test_grey_transparent_palette_and_16_bit_photos_become_rgb(tmp_path):
    grey = a_photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))

    alpha = np.dstack([a_photo(), np.full((24, 40), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), a_photo())

    Image.fromarray(a_photo()).quantize(256).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png"), np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    )

    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_file_that_is_no_image_raises_image_error_with_its_path(tmp_path, content, read):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.jpg: ") as caught:
        read(path)
    assert caught.value.path == str(path)
    assert ("empty" in caught.value.reason) == (content == b"")


@pytest.mark.parametrize("read", [read_image, image_size])
def test_a_missing_file_and_a_folder_raise_image_error(tmp_path, read):
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(ImageError):
            read(path)


def test_a_photo_whose_pixels_are_damaged_has_a_size_but_cannot_be_read(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (64, 64)
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(path)


@needs_shared_data
def test_real_photos_equal_pillows_decoding():
    photos = sorted((SHARED_DATA / "coco128" / "images").rglob("*.jpg"))[::16]
    assert photos
    for path in photos:
        expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
        image = read_image(path)
        assert image_size(path) == image.shape[:2] == expected.shape[:2]
        assert np.abs(image - expected).mean() < 1


def deep_photo(kind: str) -> np.ndarray:
    """A ramp from 0 to the largest value, as cameras and microscopes store it."""
    ramp = np.linspace(0, 1, 24 * 40).reshape(24, 40)
    if kind.startswith("float"):
        return (ramp * {"float of 1": 1, "float of 4095": 4095}[kind]).astype(np.float32)
    return np.rint(ramp * (2 ** int(kind.split()[0]) - 1)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["8 bits", "10 bits", "12 bits", "14 bits", "16 bits", "float of 1", "float of 4095"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_photos_are_scaled_by_the_bits_that_they_use(kind, suffix, channels, tmp_path):
    values = deep_photo(kind)
    if values.dtype == np.float32 and suffix == "png":
        pytest.skip("PNG holds no floats")
    path = tmp_path / f"deep.{suffix}"
    stored = values if channels == 1 else np.dstack([values, values[::-1], values[:, ::-1]])  # BGR
    cv2.imwrite(str(path), stored)
    if channels == 3 and values.dtype == np.float32:
        with pytest.raises(ImageError, match="no image"):  # Pillow does not know its header: left out, by name
            image_size(path)
        return
    expected = np.rint(np.linspace(0, 255, 24 * 40)).reshape(24, 40)
    image = read_image(path)
    assert image.dtype == np.uint8
    red = expected if channels == 1 else expected[:, ::-1]
    assert np.abs(image[..., 0] - red).max() <= 1
    assert np.abs(image[..., 2] - expected).max() <= 1
    assert read_image(path, reduce=2).shape == (12, 20, 3)
    assert image_size(path) == (24, 40)
    assert used_bits(path) == (FLOATS if kind == "float of 1" else int(kind.split()[0].replace("float", "12")))


def test_whole_numbers_of_32_bits(tmp_path):
    ramp = np.linspace(0, 4095, 24 * 40).reshape(24, 40).astype(np.int32)
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    assert read_image(tmp_path / "deep.tif").max() == 255
    assert used_bits(tmp_path / "deep.tif") == 12


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_deep_photos_without_a_range_are_refused_by_name(value, tmp_path):
    values = deep_photo("float of 1")
    values[3, 3] = value
    cv2.imwrite(str(tmp_path / "deep.tif"), values)
    with pytest.raises(ImageError, match="negative or infinite values: bring them to 0 to 1"):
        read_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_and_gif_are_pillows(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(a_photo()).save(tmp_path / "a.avif", exif=exif, quality=95)
    Image.fromarray(a_photo()).save(tmp_path / "b.gif")
    for name in ("a.avif", "b.gif"):
        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
        assert image_size(tmp_path / name) == expected.shape[:2]


def test_deep_photos_of_a_set_share_one_scale(tmp_path, caplog):
    """What 10 bits mean is the set's to say: a photo of fewer stays dark, one of more is white there, and named."""
    for name, largest in (("dark", 300), ("right", 1023), ("bright", 2046)):
        values = np.linspace(0, largest, 24 * 40).round().astype(np.uint16).reshape(24, 40)
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
        expected = np.rint(values * (255 / 1023)).clip(0, 255)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png", bits=10)[..., 0], expected)
    assert [record.getMessage().rpartition("/")[2] for record in caplog.records] == [
        "bright.png: uses 12 bits, photos are read as 10: brighter is white"
    ]
    fractions = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    cv2.imwrite(str(tmp_path / "fractions.tif"), fractions)
    np.testing.assert_array_equal(
        read_image(tmp_path / "fractions.tif", bits=10), read_image(tmp_path / "fractions.tif")
    )


def test_the_number_of_pixels_is_the_users_to_say(tmp_path):
    """By every way in which a photo is opened."""
    for suffix in ("jpg", "png", "gif", "webp", "tif"):
        Image.fromarray(a_photo()).save(tmp_path / f"a.{suffix}")
        path = tmp_path / f"a.{suffix}"
        for read in (image_size, read_image, used_bits):
            with pixels_allowed(24 * 40):
                read(path)
            with (
                pixels_allowed(24 * 40 - 1),
                pytest.raises(ImageError, match="has 960 pixels, more than --max-pixels 959"),
            ):
                read(path)


def as_heic(path, brand=b"heic"):
    """A file that begins as HEIC does, and goes on as a JPEG that is 64 wide and 32 high."""
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 32), (200, 0, 0)).save(jpeg, "JPEG")
    path.write_bytes((24).to_bytes(4, "big") + b"ftyp" + brand + jpeg.getvalue())
    return path


@pytest.fixture
def stand_in_for_pillow_heif(monkeypatch):
    """A pillow_heif that opens the files of `as_heic` as it would HEIC: without EXIF, `exif` is None."""

    def opened(file, name):
        image = Image.open(io.BytesIO(file.read()[12:]))
        image.info["exif"] = None
        return image

    def register_heif_opener():
        Image.register_open("HEIF", opened, lambda start: start[4:8] == b"ftyp")

    module = types.ModuleType("pillow_heif")
    module.__spec__ = ModuleSpec("pillow_heif", None)
    module.register_heif_opener = register_heif_opener
    Image.init()  # what it registers later would be lost with the copies
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr("data.images.FORMATS", [each for each in FORMATS if each != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
@pytest.mark.parametrize("read", [image_size, lambda path: read_image(path).shape[:2]])
def test_the_first_heic_of_a_process_is_read_too(read, brand, stand_in_for_pillow_heif, tmp_path):
    for name in ("a.heic", "b.heic"):
        assert read(as_heic(tmp_path / name, brand)) == (32, 64)


def test_a_set_is_read_anew_once_heic_can_be_read(stand_in_for_pillow_heif, tmp_path, monkeypatch):
    label = tmp_path / "a.txt"
    label.write_text("0 .5 .5 .2 .2\n")
    other = tmp_path / "b.png"
    Image.new("RGB", (9, 9)).save(other)
    photos, labels = [as_heic(tmp_path / "a.heic"), other], [label, label]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        index = load_labels(photos, labels, 1, cache_dir=tmp_path / "cache")
        assert [reason for _, reason in index.report.unreadable] == [
            "HEIC is not read here: pip install pillow-heif, or convert it to JPEG"
        ]
    assert len(load_labels(photos, labels, 1, cache_dir=tmp_path / "cache")) == 2


def test_avif_that_begins_as_heif_does_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("data.images.FORMATS", [each for each in FORMATS if each != "HEIF"])
    path = tmp_path / "a.avif"
    try:
        Image.new("RGB", (64, 32)).save(path)
    except (KeyError, OSError, ValueError):
        pytest.skip("this Pillow writes no AVIF")
    data = bytearray(path.read_bytes())
    data[8:12] = b"mif1"
    path.write_bytes(data)
    assert image_size(path) == (32, 64)
    assert read_image(path).shape == (32, 64, 3)
