"""Reading photos: orientation, odd formats, odd names, broken files."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.data_yaml import IMAGE_SUFFIXES
from data.images import ImageError, image_size, read_image
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
