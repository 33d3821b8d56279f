"""Every runtime finds the same: one model, exported; the same photos; the same NMS; class, score and box compared."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from data.images import read_image
from engine.export.backend import candidates_of_decoded
from engine.export.runtimes import open_backend
from export import export
from models.postprocess import Postprocess
from tests.by_heart import PHOTOS, learn_by_heart
from tests.paths import SHARED_DATA, needs_shared_data
from utils.letterbox import Letterbox

CONFIDENCE, NMS_IOU = 0.05, 0.45
SCORE, PIXELS = 1e-3, 0.5
# Before its NMS ultralytics moves boxes by label x 7680 pixels, where float32 holds 1/32 of a pixel: an overlap this
# close to the threshold may fall on either side of it.
OVERLAP = 2e-3
SQUARE, WIDE = (320, 320), (256, 416)
RUNTIMES = ("onnxruntime", "torchscript", "openvino", "opencv", "ultralytics")

Rows = np.ndarray  # (N, 6): label, score, x1, y1, x2, y2


def rows_of(boxes: torch.Tensor, scores: torch.Tensor) -> list[Rows]:
    """The detections of boxes (B, A, 4) and scores (B, A, C), by the NMS that all share."""
    postprocess = Postprocess(CONFIDENCE, NMS_IOU, multi_label=False)
    found = [postprocess.select(*image) for image in zip(boxes, scores, strict=True)]
    return [torch.cat([f["labels"][:, None], f["scores"][:, None], f["boxes"]], 1).numpy() for f in found]


def as_batch(photos: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255


def opencv(file: Path) -> Callable:
    """OpenCV's dnn module, told the pixels by its own blobFromImages."""
    network = cv2.dnn.readNetFromONNX(str(file))

    def run(photos: list[np.ndarray]) -> list[Rows]:
        network.setInput(cv2.dnn.blobFromImages([photo[..., ::-1] for photo in photos], 1 / 255, swapRB=True))
        return rows_of(*candidates_of_decoded(torch.from_numpy(network.forward())))

    return run


def ultralytics(file: Path) -> Callable:
    """ultralytics.YOLO with its own preprocessing and NMS; the photos have the network's size already."""
    from ultralytics import YOLO  # offline and silent: engine.export.runtimes imported utils.ultralytics_only first

    model = YOLO(str(file), task="detect")

    def run(photos: list[np.ndarray]) -> list[Rows]:
        size = photos[0].shape[:2]
        settings = {"imgsz": size, "conf": CONFIDENCE, "iou": NMS_IOU, "batch": len(photos), "verbose": False}
        found = model.predict([np.ascontiguousarray(photo[..., ::-1]) for photo in photos], save=False, **settings)
        return [torch.cat([f.boxes.cls[:, None], f.boxes.conf[:, None], f.boxes.xyxy], 1).numpy() for f in found]

    return run


def backend(file: Path) -> Callable:
    """A file as detect.py runs it: PyTorch, onnxruntime, TorchScript, OpenVINO."""
    opened = open_backend(file)
    return lambda photos: rows_of(*opened.run(as_batch(photos)))


def runtimes(weights: Path, size: tuple, dynamic: bool, batch: int, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Each runtime with its file."""
    flags = {"imgsz": list(size), "dynamic": dynamic, "output": str(folder / "best")}
    flags |= {} if dynamic else {"batch_size": batch}
    onnx, script, openvino = export(weights=str(weights), format=["onnx", "torchscript", "openvino"], **flags)
    yield from (("onnxruntime", backend(onnx)), ("torchscript", backend(script)), ("openvino", backend(openvino)))
    yield "ultralytics", ultralytics(onnx)
    if not dynamic:  # OpenCV 4 reads graphs of a fixed shape
        yield "opencv", opencv(onnx)


def clipped(rows: Rows, size: tuple[int, int]) -> Rows:
    """Boxes end at the photo's edge, as in detect.py and in ultralytics."""
    return np.concatenate([rows[:, :2], rows[:, 2:].clip(0, [size[1], size[0]] * 2)], axis=1)


def undecided(row: np.ndarray, rows: Rows) -> bool:
    """Whether a detection is so close to the score threshold, or its overlap with another to NMS's, that both hold."""
    others = torch.from_numpy(rows[(rows[:, 0] == row[0]) & (rows[:, 1] != row[1])])
    overlaps = box_iou(torch.from_numpy(row[None, 2:]), others[:, 2:])
    return row[1] <= CONFIDENCE + SCORE or bool(((overlaps - NMS_IOU).abs() < OVERLAP).any())


def differences(found: Rows, expected: Rows) -> np.ndarray:
    """The largest difference of scores and of box sides, and how many detections have no partner of their class."""
    worst, left = np.zeros(2), list(range(len(found)))
    alone = 0
    for row in expected:
        partners = [each for each in left if found[each, 0] == row[0] and abs(found[each, 1] - row[1]) <= SCORE]
        partner = min(partners, key=lambda each: np.abs(found[each, 2:] - row[2:]).max(), default=None)
        if partner is None:
            alone += not undecided(row, expected)
            continue
        left.remove(partner)
        parts = np.abs(found[partner, 1:] - row[1:])
        worst = np.maximum(worst, [parts[0], parts[1:].max()])
    alone += sum(not undecided(found[each], found) for each in left)
    return np.array([*worst, alone])


def compare(weights: Path, size: tuple, dynamic: bool, batch: int, count: int, folder: Path) -> dict[str, np.ndarray]:
    """The largest differences from PyTorch per runtime, on the first `count` photos."""
    files = sorted(PHOTOS.iterdir())[:count]
    photos = [Letterbox.fit(image.shape[:2], size).apply(image) for image in map(read_image, files)]
    batches = [photos[start : start + batch] for start in range(0, count, batch)]
    reference = backend(weights)
    expected = [clipped(rows, size) for photo in photos for rows in reference([photo])]
    total = sum(len(rows) for rows in expected)
    assert total > count, "too few detections to compare"
    worst = {}
    for name, run in runtimes(weights, size, dynamic, batch, folder):
        found = [clipped(rows, size) for each in batches for rows in run(each)]
        worst[name] = np.max([differences(*pair) for pair in zip(found, expected, strict=True)], axis=0)
        score, pixels, alone = worst[name]
        shape = f"{size[0]}x{size[1]} batch {batch} {'dynamic' if dynamic else 'fixed'}"
        print(f"{shape}  {name:<12} {total} detections: score {score:.1e}, box {pixels:.1e} px, alone {alone:.0f}")
    return worst


def assert_agree(worst: dict[str, np.ndarray]) -> None:
    for name, (score, pixels, alone) in worst.items():
        assert (score <= SCORE, pixels <= PIXELS, alone) == (True, True, 0), (name, score, pixels, alone)


@needs_shared_data
@pytest.mark.parametrize(("size", "dynamic", "batch"), [((128, 192), False, 2), ((160, 160), True, 2)])
def test_runtimes_agree_on_a_few_photos(size, dynamic, batch, tmp_path):
    weights = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    assert_agree(compare(weights, size, dynamic, batch, 4, tmp_path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A YOLOv3-tiny trained here until it knows something about the photos that it is compared on."""
    folder = tmp_path_factory.mktemp("trained")
    run = learn_by_heart(folder, photos=32, size=256, epochs=50)
    return run / "weights" / "best.pt"


@pytest.mark.slow
@needs_shared_data
@pytest.mark.parametrize("kind", ["trained", "imported"])
@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("batch", [1, 8])
def test_runtimes_agree(kind, size, dynamic, batch, request, tmp_path):
    imported = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"
    weights = imported if kind == "imported" else request.getfixturevalue("trained")
    assert_agree(compare(weights, size, dynamic, batch, 32, tmp_path))


def test_differences_are_counted_and_only_the_undecided_may_be_alone():
    strong, near, far = (
        np.array([[3, score, 0, 0, width, 10]], np.float32) for score, width in ((0.9, 10), (0.5, 22.2), (0.4, 50))
    )
    assert abs(10 / 22.2 - NMS_IOU) < OVERLAP
    both = np.concatenate([strong, near])
    assert differences(strong, both)[2] == differences(both, strong)[2] == 0, "overlap at the threshold"
    both = np.concatenate([strong, far])
    assert differences(strong, both)[2] == differences(both, strong)[2] == 1
    weak = np.array([[3, CONFIDENCE + SCORE / 2, 0, 0, 50, 10]], np.float32)
    assert differences(strong, np.concatenate([strong, weak]))[2] == 0
    moved = strong + np.array([[0, 0.0005, 0, 0, 0.25, 0]], np.float32)
    assert differences(moved, strong) == pytest.approx([0.0005, 0.25, 0], abs=1e-6)
    other = strong + np.array([[1, 0, 0, 0, 0, 0]], np.float32)
    assert differences(other, strong)[2] == 2
