"""Every export format with trained weights on photos: the detections and the AP of PyTorch, fixed and of any size."""

import numpy as np
import pytest

from data.formats.convert import convert_voc
from data.images import read_image
from engine.export.check import TOLERANCES, batches
from engine.export.detector import BackendDetector
from engine.export.runtimes import open_backend
from export import export
from models.postprocess import Postprocess
from tests.paths import SHARED_DATA, needs_shared_data
from utils.config.export_formats import EXPORT_FORMATS
from utils.letterbox import Letterbox
from val import validate

WEIGHTS = str(SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt")
SIZE, OTHER_SIZE = (320, 320), (256, 352)
PHOTOS, CONFIDENCE = 32, 0.25
CASES = [
    (name, shape)
    for name, entry in EXPORT_FORMATS.items()
    for shape in ("fixed", *(["dynamic"] if entry.graph and entry.dynamic else []), *(["half"] if entry.half else []))
]


@pytest.fixture(scope="module")
def bccd(tmp_path_factory):
    """The data set, and what PyTorch makes of it."""
    folder = tmp_path_factory.mktemp("bccd") / "bccd"
    convert_voc(SHARED_DATA / "bccd", folder, names=["RBC", "WBC", "Platelets"], splits=["test"])
    return folder


def photos(bccd, size):
    files = sorted((bccd / "images" / "test").iterdir())
    rows = np.linspace(0, len(files) - 1, PHOTOS).round().astype(int)
    images = [read_image(files[row]) for row in rows]
    return batches([Letterbox.fit(image.shape[:2], size).apply(image) for image in images], 1)


def average_precision(weights, bccd, folder):
    settings = {"data": str(bccd / "data.yaml"), "split": "test", "imgsz": [SIZE[0]], "workers": 0}
    settings |= {"plots": False, "report": False, "project": str(folder)}
    return validate(weights=str(weights), **settings).overall["ap"]


@pytest.fixture(scope="module")
def reference(bccd, tmp_path_factory):
    return average_precision(WEIGHTS, bccd, tmp_path_factory.mktemp("reference"))


def apart(expected, found, score_limit):
    """How far a detection is from the nearest of its class on the other side, in score and pixels; the most of all.

    One whose score is so near the threshold that the other side's may lie below it needs none.
    """
    worst = np.zeros(2)
    for one, other in ((expected, found), (found, expected)):
        for box, score, label in zip(one["boxes"], one["scores"], one["labels"], strict=True):
            if score < CONFIDENCE + score_limit:
                continue
            same = other["labels"] == label
            assert same.any(), "a class that the other side does not find"
            pixels, scores = (other["boxes"][same] - box).abs().amax(-1), other["scores"][same]
            nearest = pixels.argmin()
            worst = np.maximum(worst, [float((scores[nearest] - score).abs()), float(pixels[nearest])])
    return worst


@pytest.mark.slow
@needs_shared_data
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_same_detections_and_ap(name, shape, bccd, reference, tmp_path):
    entry = EXPORT_FORMATS[name]
    if name == "darknet":
        pytest.skip("this model is none of Darknet's; its writer is a file of this project")
    for module, command in {**entry.writes, **entry.opens}.items():
        pytest.importorskip(module, reason=f"pip install {command}")
    flags = {} if shape == "fixed" else {shape: True}
    (file,) = export(weights=WEIGHTS, format=[name], imgsz=[SIZE[0]], output=str(tmp_path / "best"), **flags)
    chosen = Postprocess(CONFIDENCE, 0.45, 300, multi_label=False)
    exact, exported = (BackendDetector(open_backend(each), chosen) for each in (WEIGHTS, file))
    limits = TOLERANCES["float16" if shape == "half" else "float32"]
    worst, count = np.zeros(2), 0
    for size in (SIZE, *([OTHER_SIZE] if shape == "dynamic" else [])):
        for image in photos(bccd, size):
            (expected,), (found,) = exact(image), exported(image)
            count += len(expected["scores"])
            worst = np.maximum(worst, apart(expected, found, limits[0]))
    ap = average_precision(file, bccd, tmp_path / "runs")
    print(
        f"\n{name:12}{shape:9}{count} boxes, scores {worst[0]:.1e}, {worst[1]:.1e} px, AP {ap:.4f} for {reference:.4f}"
    )
    assert count > PHOTOS * 5
    assert (worst <= limits).all()
    assert abs(ap - reference) <= (0.005 if shape == "half" else 0.003)
