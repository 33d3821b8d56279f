"""The embedded demo set: pictures of shapes drawn from a seed, written as an ordinary YOLO data set."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from data.shapes.scene import SHAPE_CLASSES, Scene, draw_scene
from utils.errors import UserError, printable

__all__ = ["SHAPE_CLASSES", "ensure_shapes", "make_shapes"]

TEMPLATE = Path(__file__).resolve().parents[1] / "shapes.yaml"
STAMP = "AlignYOLO shapes, version 4"
JPEG_QUALITY = 95
README = """{stamp}
Drawn by data/shapes from seed {seed}: {train} pictures to train on and {val} to validate on, {size} x {size} pixels.
shapes.yaml explains the files. Delete this folder to have it drawn anew.
"""


def ensure_shapes(data_root: Path) -> Path:
    """Return the YAML of the set at data_root/shapes, drawn first if it is not there.

    UserError if something else is.
    """
    root = Path(data_root).absolute() / "shapes"
    if not root.exists():
        return make_shapes(root)
    if _is_current(root):
        return root / TEMPLATE.name
    raise UserError(f"{printable(root)} is not the set that this version draws ({STAMP}); move or delete that folder")


def make_shapes(root: Path, seed: int = 0, train: int = 320, val: int = 160, size: int = 256) -> Path:
    """Draw a set of size x size pictures into the new folder root, all or nothing; returns its YAML."""
    root = Path(root).absolute()
    if root.exists():
        raise UserError(f"{printable(root)} exists already")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shapes-", dir=root.parent) as temporary:
            draft = Path(temporary) / "shapes"
            for number, (split, count) in enumerate({"train": train, "val": val}.items()):
                _write_split(draft, split, count, size, [seed, number])
            yaml = TEMPLATE.read_text("utf-8").replace("\npath: shapes\n", "\n")
            (draft / TEMPLATE.name).write_text(yaml, "utf-8")
            readme = README.format(stamp=STAMP, train=train, val=val, size=size, seed=seed)
            (draft / "README.txt").write_text(readme, "utf-8")
            _publish(draft, root)
    except OSError as error:
        raise UserError(f"the shapes set cannot be written to {printable(root)}: {printable(error)}") from error
    return root / TEMPLATE.name


def _is_current(root: Path) -> bool:
    readme = root / "README.txt"
    return readme.is_file() and readme.read_text("utf-8").startswith(f"{STAMP}\n") and (root / TEMPLATE.name).is_file()


def _publish(draft: Path, root: Path) -> None:
    """Rename the finished set to its place, unless another process has just put the same there."""
    try:
        draft.rename(root)
    except OSError:
        if not _is_current(root):
            raise


def _write_split(root: Path, split: str, count: int, size: int, seed: list[int]) -> None:
    """Write pictures and labels 000000 ... of one split; each draws from a generator of its own."""
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)

    def draw(index: int) -> None:
        scene = draw_scene(np.random.default_rng([*seed, index]), size)
        _, encoded = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (images / f"{index:06}.jpg").write_bytes(encoded.tobytes())
        (labels / f"{index:06}.txt").write_text(_label_lines(scene), "utf-8")

    with ThreadPoolExecutor(2) as pool:  # more would wait for Python's lock
        for _ in pool.map(draw, range(count)):
            pass


def _label_lines(scene: Scene) -> str:
    """Return one `class cx cy w h` line per shape, in fractions of the picture."""
    lines = []
    for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes / len(scene.image), strict=True):
        lines.append(f"{label} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    return "".join(lines)
