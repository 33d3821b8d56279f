"""Photos on disk: their pixels and their size, EXIF orientation applied."""

import io
import logging
import math
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from data.photo_files import UNREAD_SUFFIXES
from data.pixel_limit import pixel_limit
from utils.config.knobs import LARGEST_PHOTO
from utils.errors import printable
from utils.regular_file import require_regular

# The usual ones first: they are tried in this order.
FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000"]
# What OpenCV does not read, or not always: by the first bytes.
GIF, ISO_MEDIA, HEIF_BRANDS = b"GIF8", b"ftyp", (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc")
TIFF, PNG = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), b"\x89PNG"
PNG_DEPTH = 24  # the byte that holds the bits of a PNG file's values
BITS_PER_SAMPLE = 258  # a tag of TIFF
FLOATS = 0
DEPTHS = (8, 10, 12, 14, 16, 24, 32)
MOST_TOLD = 20
ORIENTATION = 0x0112
# Markers of a JPEG file. Frames are those of all ways of coding; three numbers among them mean other things.
START_OF_FRAME, START_OF_SCAN, APP1 = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA, 0xE1

log = logging.getLogger(__name__)
_told: set[str] = set()


class ImageError(Exception):
    """A photo that cannot be read; the data set goes on without it."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# A JPEG decoder makes a half, a quarter or an eighth of the size in less time, and with a good filter.
# The reductions named GRAYSCALE are the bare factors; those named COLOR would ask for BGR too.
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def read_image(path: str | os.PathLike, reduce: int = 1, bits: int = 0) -> np.ndarray:
    """Read a photo as (h, w, 3) uint8 RGB, upright, its sides divided by `reduce` (1, 2, 4, 8), rounded up or down.

    Deep photos (`read_deep`) are scaled by `bits`, or with 0 by the bits that they use. ImageError if it cannot be
    decoded.
    """
    try:
        with require_regular(path).open("rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    if data[:4] == GIF or data[4:8] == ISO_MEDIA:
        return _reduced(_decode_with_pillow(path, data), reduce)
    orientation = 1 if _is_plain_jpeg(data) else _header(path, io.BytesIO(data))[1]
    if _may_be_deep(data):
        deep = read_deep(path, data, bits)
        if deep is not None:
            return _reduced(_upright(deep.image, orientation), reduce)
    # Of a TIFF that is turned by 90 degrees OpenCV's reduced image has the sides of the one that is not turned.
    later = reduce if data[:4] in TIFF else 1
    try:
        flags = REDUCED[reduce // later] | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(path, f"cannot be decoded ({error.err})") from error
    if image is None:
        _header(path, io.BytesIO(data))  # may know why
        raise ImageError(path, "cannot be decoded")
    return _reduced(_upright(image, orientation), later)


def used_bits(path: str | os.PathLike) -> int:
    """Decode a photo, and say how many bits its values use: 8, or of a deep one up to 32, or FLOATS."""
    bits = bits_if_deep(path)
    if bits is None:
        read_image(path)
        return 8
    return bits


def bits_if_deep(path: str | os.PathLike) -> int | None:
    """Say how many bits the values of a deep photo use, or FLOATS; None, and nothing is decoded, for other photos."""
    try:
        with require_regular(path).open("rb") as file:
            data = file.read(PNG_DEPTH + 1)
            data += file.read() if data[:4] in TIFF or _may_be_deep(data) else b""
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    if not _may_be_deep(data):
        return None
    _header(path, io.BytesIO(data))  # refuses too many pixels
    deep = read_deep(path, data)
    return 16 if deep is None else deep.bits


def _may_be_deep(data: bytes) -> bool:
    """Tell whether a file is a PNG of 16 bits, or a TIFF of more than 8."""
    if data[:4] == PNG:
        return data[PNG_DEPTH : PNG_DEPTH + 1] == b"\x10"
    if data[:4] not in TIFF:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            bits = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
            return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    except (OSError, ValueError, TypeError, SyntaxError, struct.error, Image.DecompressionBombError):
        return True  # Pillow does not know all of TIFF


class Deep(NamedTuple):
    """A photo of more than 8 bits: (h, w, 3) uint8 RGB, not yet upright, and how many bits its own values use."""

    image: np.ndarray
    bits: int


def read_deep(path: str | os.PathLike, data: bytes, bits: int = 0) -> Deep | None:
    """Scale a TIFF or PNG file of 16 or 32 bits, or of floats, to 8 bits; None for 8 bits, or 16 to be scaled as 16.

    Cameras put 10, 12 or 14 bits into 16: 0 to the largest number of `bits` bits becomes 0 to 255, what is above is
    white, and said. With 0 the file's own largest value tells how many bits are used. Floats up to 1 are fractions,
    larger ones are taken as whole numbers are. ImageError for negative values.
    """
    try:
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        image = _deep_with_pillow(data)
    if image is None or image.dtype in (np.uint8, np.int8):
        return None
    used = _bits_of(path, image)
    chosen = bits if bits and used != FLOATS else used
    if used > chosen:
        _tell_clipped(path, used, chosen)
    if image.dtype == np.uint16 and chosen == 16:
        return None
    top = 1.0 if chosen == FLOATS else float(2**chosen - 1)
    scaled = np.rint(image.astype(np.float64) * (255 / top)).clip(0, 255).astype(np.uint8)
    channels = 1 if scaled.ndim == 2 else scaled.shape[2]
    if channels >= 3:
        return Deep(np.ascontiguousarray(scaled[..., 2::-1]), used)
    return Deep(np.repeat(scaled.reshape(*scaled.shape[:2], channels)[..., :1], 3, axis=2), used)


def _bits_of(path: str | os.PathLike, image: np.ndarray) -> int:
    """Tell how many bits the values of a deep photo use, FLOATS for fractions; ImageError for what has no range."""
    if not np.isfinite(image).all() or image.min() < 0:
        raise ImageError(path, "holds negative or infinite values: bring them to 0 to 1, or to whole numbers")
    largest = float(image.max())
    if image.dtype.kind == "f" and largest <= 1:
        return FLOATS
    bits = next((depth for depth in DEPTHS if largest < 2**depth), 0)
    if not bits:
        raise ImageError(path, f"holds values up to {largest:g}: bring them to 0 to 1, or below 2^32")
    return bits


def _tell_clipped(path: str | os.PathLike, used: int, chosen: int) -> None:
    """Say once of a photo, and of the first photos only, that it is brighter than the set's photos can be."""
    if str(path) not in _told and len(_told) < MOST_TOLD:
        _told.add(str(path))
        log.warning("%s: uses %d bits, photos are read as %d: brighter is white", printable(path), used, chosen)


def _deep_with_pillow(data: bytes) -> np.ndarray | None:
    """Decode what OpenCV does not: 32-bit whole numbers."""
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            return np.asarray(image) if image.mode in ("I", "F", "I;16", "I;16B") else None
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        return None


def _decode_with_pillow(path: str | os.PathLike, data: bytes) -> np.ndarray:
    """Decode AVIF, the first frame of GIF, and HEIF where pillow-heif is installed; upright."""
    _header(path, io.BytesIO(data))  # refuses too many pixels, and lets Pillow know HEIF
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(path, f"cannot be decoded ({printable(error, 100)})") from error


def _opened(path: str | os.PathLike, source: Path | io.BytesIO) -> Image.Image:
    """Open a photo with Pillow, and where it does not know it, with pillow-heif: AVIF may have HEIF's first bytes."""
    try:
        return Image.open(source, formats=FORMATS)
    except (Image.UnidentifiedImageError, ValueError):
        if not _know_heif(path, source):
            raise
        return Image.open(source, formats=FORMATS)


def _know_heif(path: str | os.PathLike, source: Path | io.BytesIO) -> bool:
    """Let Pillow read HEIF by way of pillow-heif; tell whether it is news to it and the file may be HEIF.

    ImageError that names the package where it is not installed.
    """
    start = _first_bytes(source)
    if start[4:8] != ISO_MEDIA or start[8:12] not in HEIF_BRANDS or "HEIF" in FORMATS:
        return False
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(path, "HEIC is not read here: pip install pillow-heif, or convert it to JPEG") from None
    register_heif_opener()
    FORMATS.append("HEIF")
    return True


def _first_bytes(source: Path | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:12]
    with source.open("rb") as file:
        return file.read(12)


def _reduced(image: np.ndarray, reduce: int) -> np.ndarray:
    """Divide the sides of a decoded photo, as a JPEG decoder does while it decodes."""
    if reduce == 1:
        return image
    size = (-(-image.shape[1] // reduce), -(-image.shape[0] // reduce))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Read the (h, w) of the upright photo from its header alone; ImageError if there is none."""
    (height, width), orientation = _header(path, path if isinstance(path, Path) else Path(path))
    return (width, height) if orientation >= 5 else (height, width)


def _header(path: str | os.PathLike, source: Path | io.BytesIO) -> tuple[tuple[int, int], int]:
    """Read the stored (h, w) and the orientation, 1 to 8, that is still to be applied to the decoder's output."""
    if pixel_limit() > LARGEST_PHOTO:
        Image.MAX_IMAGE_PIXELS = pixel_limit()  # Pillow's own, which warns from there on and refuses the double
    try:
        if isinstance(source, Path):
            require_regular(source)
        with _opened(path, source) as image:
            if not image.height or not image.width:
                raise ImageError(path, "has no pixels")
            if image.height * image.width > pixel_limit():
                raise ImageError(path, _too_large(image.height * image.width))
            # TIFF orientation is no EXIF block: both Pillow and OpenCV apply it themselves.
            return (image.height, image.width), _orientation(image.info.get("exif") or b"")
    except Image.UnidentifiedImageError as error:
        raise ImageError(path, "the file is empty" if _is_empty(source) else _why_unread(path)) from error
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise ImageError(path, _too_large(int(found[0]) if found else 0)) from error
    except (SyntaxError, ValueError, struct.error) as error:
        raise ImageError(path, str(error)) from error


def _too_large(pixels: int) -> str:
    return f"has {pixels:,} pixels, more than --max-pixels {pixel_limit()} allows (a decompression bomb?)"


def _why_unread(path: str | os.PathLike) -> str:
    """Say why a file has no header that is known: a kind that is not read here, or a damaged one."""
    suffix = Path(path).suffix.lower()
    if suffix in UNREAD_SUFFIXES:
        return f"{suffix[1:].upper()} is not read here: convert it to PNG, TIFF or JPEG"
    return "no image, or one whose header is damaged"


def _is_plain_jpeg(data: bytes) -> bool:
    """Tell whether it is a JPEG file of usual size without an EXIF block.

    Known in a tenth of the time that Pillow takes.
    """
    place, pixels = 2, 0
    while data.startswith(b"\xff\xd8") and data[place : place + 1] == b"\xff":
        marker = int.from_bytes(data[place + 1 : place + 2], "big")
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == START_OF_SCAN:
            return 0 < pixels < min(Image.MAX_IMAGE_PIXELS or math.inf, pixel_limit())
        if (marker == APP1 and data.startswith(b"Exif", place + 4)) or length < 2:
            return False
        if marker in START_OF_FRAME:
            pixels = math.prod(struct.unpack_from(">HH", data.ljust(place + 9), place + 5))
        place += 2 + length
    return False


def _is_empty(source: Path | io.BytesIO) -> bool:
    return not (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes)


def _orientation(exif: bytes) -> int:
    """Return the orientation tag, 1 to 8, of an EXIF block; 1 (upright) where it is absent or unreadable."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(count):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, directory + 2 + 12 * entry)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", tiff, directory + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    if orientation in (3, 4, 7, 8):
        image = cv2.flip(image, 0)
    return image
