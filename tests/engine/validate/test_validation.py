"""val.py against original COCO files: the same number by three routes, and what its files hold."""

import contextlib
import io
import json
import types

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import engine.validate.run
import models.kernels.kept_memory
from data.data_yaml import read_data_yaml
from data.dataset import DetectionDataset
from data.formats.coco_truths import split_truths
from data.formats.convert import convert_coco, convert_voc, convert_yolo
from data.images import read_image
from data.loader import build_loader
from data.split import load_split
from engine.run_files import ValRecords, with_measured, with_truths
from engine.validate.weights import Measured
from tests.data.formats.coco_files import make_coco
from tests.paths import SHARED_DATA, needs_shared_data
from utils.config.knobs import LARGEST_PHOTO, Hyperparameters, ValConfig
from utils.errors import UserError
from utils.metrics.coco_metrics import CocoMetrics
from utils.metrics.diagnosis import diagnose

pytestmark = needs_shared_data


@pytest.fixture(scope="module")
def bccd(tmp_path_factory):
    """bccd by two routes: YOLO labels, and the COCO files that they convert to."""
    folder = tmp_path_factory.mktemp("bccd")
    convert_voc(SHARED_DATA / "bccd", folder / "yolo")
    spec = read_data_yaml(str(folder / "yolo" / "data.yaml"), folder)
    convert_yolo(spec, folder / "coco")
    return folder


class ShakenTruths(torch.nn.Module):
    """A stand-in for a detector: the truths of a split, in the order of its images, shaken, and some noise."""

    def __init__(self, index, size):
        super().__init__()
        self.index, self.size, self.row = index, size, 0
        self.network = torch.nn.Linear(1, 1)
        self.random = np.random.default_rng(3)

    def forward(self, images):
        from utils.letterbox import Letterbox

        found = []
        for _ in images:
            boxes, labels = self.index.of(self.row)
            boxes = Letterbox.fit(self.index.sizes[self.row].tolist(), self.size).boxes(boxes)
            self.row += 1
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            noise = self.random.uniform(0, 120, (20, 2))
            boxes = np.concatenate(
                [boxes + self.random.normal(0, 0.08, sides.shape) * sides, np.tile(noise, 2) + [0, 0, 60, 60]]
            )
            labels = np.append(labels, self.random.integers(0, 3, 20))
            scores = self.random.random(len(labels)).round(2)
            found.append({"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)})
        return found


def validate(monkeypatch, folder, data, split="test", detector=None, cpu_kernels="on", **flags):
    """engine.validate.run.run with a detector that needs no training."""
    spec = read_data_yaml(str(data), folder)
    index = load_split(spec, split)
    size = (160, 160)
    run = types.SimpleNamespace(
        data=str(data), data_root="", image_size=size, batch_size=16, seed=0, conf=0.001, nms_iou=0.65, max_det=300,
        plots=False, val=0.0, max_pixels=LARGEST_PHOTO, photo_bits=0, bad_labels="mend",
    )  # fmt: skip
    model, hyper = types.SimpleNamespace(strides=(32,)), Hyperparameters(cpu_kernels=cpu_kernels)
    config = types.SimpleNamespace(run=run, names=spec.names, model=model, hyper=hyper)
    detector = detector or ShakenTruths(index, size)
    measured = Measured(detector, config, torch.device("cpu"), "float32", "epoch 1")
    monkeypatch.setattr(engine.validate.run, "open_measured", lambda *_: measured)
    settings = ValConfig(weights="x.pt", split=split, workers=0, device="cpu", project=str(folder), **flags)
    return engine.validate.run.run(settings)


def pycocotools_stats(truths, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO(str(truths))
        evaluation = COCOeval(truth_set, truth_set.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_bccd_gives_the_same_number_by_three_routes(bccd, monkeypatch, tmp_path):
    flags = {"save_json": True, "report": False}
    labels = validate(monkeypatch, tmp_path, bccd / "yolo" / "data.yaml", name="labels", **flags)
    coco = validate(monkeypatch, tmp_path, bccd / "coco" / "data.yaml", name="coco", **flags)
    assert 0.1 < labels.overall["ap"] < 0.9
    assert coco.to_json() | {"counts": 0} == labels.to_json() | {"counts": 0}
    own = pycocotools_stats(tmp_path / "labels" / "ground_truth.json", tmp_path / "labels" / "detections.json")
    file = pycocotools_stats(bccd / "coco" / "annotations" / "test.json", tmp_path / "coco" / "detections.json")
    for stats in (own, file):
        for position, key in ((0, "ap"), (1, "ap50"), (2, "ap75"), (4, "ap_medium"), (5, "ap_large"), (8, "ar")):
            assert stats[position] == pytest.approx(labels.overall[key], abs=1e-9), key
    assert not (tmp_path / "coco" / "ground_truth.json").exists(), "the original file is the truth"


def test_detections_fit_a_file_that_knows_photos_in_another_size(bccd, monkeypatch, tmp_path):
    """Every other photo has twice the sides that the file says."""
    document = json.loads((bccd / "coco" / "annotations" / "test.json").read_text())
    smaller = {image["id"] for image in document["images"][::2]}
    for image in document["images"]:
        if image["id"] in smaller:
            image |= {side: image[side] // 2 for side in ("width", "height")}
    for item in document["annotations"]:
        if item["image_id"] in smaller:
            item |= {"bbox": [number / 2 for number in item["bbox"]], "area": item["area"] / 4}
    file = tmp_path / "smaller.json"
    file.write_text(json.dumps(document))
    data = tmp_path / "data.yaml"
    named = str(bccd / "coco" / "annotations" / "test.json")
    data.write_text((bccd / "coco" / "data.yaml").read_text().replace(named, str(file)))
    metrics = validate(monkeypatch, tmp_path, data, save_json=True, report=False)
    stats = pycocotools_stats(file, tmp_path / "exp" / "detections.json")
    assert 0.1 < metrics.overall["ap"] < 0.9
    for position, key in ((0, "ap"), (1, "ap50"), (2, "ap75"), (8, "ar")):
        assert stats[position] == pytest.approx(metrics.overall[key], abs=1e-9), key


def test_the_text_files_and_the_protocol(bccd, monkeypatch, tmp_path, capsys):
    metrics = validate(
        monkeypatch,
        tmp_path,
        bccd / "coco" / "data.yaml",
        save_txt=True,
        iou_list=(0.3,),
        per_class=False,
        report=False,
    )
    said = capsys.readouterr().out
    assert "truths: test.json" in said
    assert "AP at IoU 0.3" in said
    assert "RBC" not in said
    texts = sorted((tmp_path / "exp" / "labels").glob("*.txt"))
    assert len(texts) == 72
    lines = [line.split() for path in texts for line in path.read_text().splitlines()]
    assert len(lines) == metrics.counts["detections"]
    assert all(len(line) == 6 and 0 <= float(line[1]) <= 1 for line in lines)
    assert "truths: test.json" in json.loads((tmp_path / "exp" / "metrics.json").read_text())["protocol"]


@pytest.fixture
def coco(tmp_path):
    path, document = make_coco(tmp_path / "coco")
    convert_coco(path, tmp_path / "yolo")
    return path, document, tmp_path / "yolo" / "data.yaml"


def test_truths_are_the_files_own(coco, tmp_path):
    path, document, data = coco
    spec = read_data_yaml(str(data), tmp_path)
    index = load_split(spec, "val")
    truths = split_truths(spec, "val", index)
    ids = {image["file_name"]: image["id"] for image in document["images"]}
    assert truths.image_ids.tolist() == [ids[image.rsplit("/", 1)[-1]] for image in index.images]
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert [names[number] for number in truths.category_ids] == list(spec.names)
    own = sorted(
        (item["image_id"], item["category_id"], item["area"], item["iscrowd"]) for item in document["annotations"]
    )
    categories = np.array(truths.category_ids)[truths.labels].tolist()
    got = zip(
        truths.image_ids[truths.image].tolist(), categories, truths.area.tolist(), truths.crowd.tolist(), strict=True
    )
    assert sorted(got) == own
    assert truths.crowd.any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d["images"].pop(0), "1 of 12 images of the split are not in it"),
        (lambda d: d["categories"][2].update(name="something else"), "no category is called"),
        (lambda d: d["categories"][2].update(name=d["categories"][1]["name"]), "two categories are called"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(spoil, message, coco, tmp_path):
    path, document, data = coco
    spoil(document)
    path.write_text(json.dumps(document))
    spec = read_data_yaml(str(data), tmp_path)
    with pytest.raises(UserError, match=message) as error:
        split_truths(spec, "val", load_split(spec, "val"))
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="annotations: val: no such file"):
        split_truths(spec, "val", load_split(spec, "val"))


def test_what_the_file_has_and_the_split_has_not_is_said(coco, tmp_path, capsys):
    path, document, data = coco
    document["images"].append({"id": 99999, "file_name": "other.jpg", "height": 10, "width": 10})
    document["images"][0]["height"] += 1
    path.write_text(json.dumps(document))
    spec = read_data_yaml(str(data), tmp_path)
    split_truths(spec, "val", load_split(spec, "val"))
    said = capsys.readouterr().err
    assert "1 of the 13 images" in said
    assert "1 photos are of another size" in said


def test_a_split_with_a_coco_file_needs_no_labels(coco, tmp_path):
    _, document, data = coco
    for label in (tmp_path / "yolo" / "labels").rglob("*.txt"):
        label.unlink()
    spec = read_data_yaml(str(data), tmp_path)
    truths = split_truths(spec, "val", load_split(spec, "val"))
    assert len(truths.labels) == len(document["annotations"])


def test_pictures_show_the_truths_of_the_file_and_missing_labels_are_no_news(coco, tmp_path):
    """Its boxes are not in the label files, which a measurement against a file does not need."""
    _, _, data = coco
    spec = read_data_yaml(str(data), tmp_path)
    for label in (tmp_path / "yolo" / "labels").rglob("*.txt"):
        label.unlink()
    index = load_split(spec, "val")
    assert "without a label file" in index.report.summary()
    assert "without a label file" not in index.report.summary(needed=False)
    truths = split_truths(spec, "val", index)
    batch = next(iter(build_loader(DetectionDataset(index, (160, 160)), 4, 0, shuffle=False, seed=0)))
    shown = {}
    for name, given in (("labels", ()), ("file", (truths,))):
        (tmp_path / name).mkdir()
        config = types.SimpleNamespace(run=types.SimpleNamespace(plots=True), names=spec.names)
        ValRecords(tmp_path / name, config, "split val", *given).batch(0, batch, [])
        shown[name] = read_image(str(tmp_path / name / "val_batch0_truth.jpg"))
    assert np.abs(shown["file"].astype(int) - shown["labels"]).max() > 100
    bare, drawn = with_truths(batch, spec.names), with_measured(batch, truths, spec.names)
    changed = [not np.array_equal(one, other) for one, other in zip(bare, drawn, strict=True)]
    assert changed == [bool(count) for count in np.diff(truths.starts)[:4]]
    assert any(changed)


BOX = [10, 10, 60, 60]


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([], [(BOX, 0.9, 0)], "the split has no labels"),
        ([(BOX, 0)], [], "no score passed the confidence threshold"),
        ([(BOX, 0)], [(BOX, 0.9, 1)], "boxes match, classes do not"),
        ([(BOX, 0)], [([200, 200, 260, 260], 0.9, 0)], "confident but in the wrong places"),
        ([(BOX, 0)], [([200, 200, 260, 260], 0.002, 0)], "no score is above .01"),
        ([(BOX, 0)], [([float("nan")] * 4, 0.9, 0)], "boxes or scores are NaN"),
    ],
)
def test_the_diagnosis_names_the_cause(truth, found, expected):
    metrics = CocoMetrics(
        [[300, 300]], [0, len(truth)], [t[0] for t in truth] or np.zeros((0, 4)), [t[1] for t in truth], "ab"
    )
    metrics.add(0, *([part[column] for part in found] for column in range(3)))
    text = diagnose(metrics, "float32")
    assert expected in text
    assert "precision float32" in text
    assert f"{len(truth)} labels" in text


def test_a_validation_of_zero_explains_itself(bccd, monkeypatch, tmp_path, capsys):
    class Elsewhere(ShakenTruths):
        def forward(self, images):
            return [
                {**found, "boxes": found["boxes"] * 0 + torch.tensor(BOX[:2] * 2)} for found in super().forward(images)
            ]

    index = load_split(read_data_yaml(str(bccd / "yolo" / "data.yaml"), tmp_path), "test")
    metrics = validate(
        monkeypatch, tmp_path, bccd / "yolo" / "data.yaml", detector=Elsewhere(index, (160, 160)), report=False
    )
    assert metrics.overall["ap50"] == 0
    assert "AP50 is 0: 945 labels" in capsys.readouterr().out


@pytest.mark.parametrize("fails", [False, True])
def test_memory_is_kept_from_the_first_batch_to_the_last(bccd, fails, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(models.kernels.kept_memory, "keep_freed_memory", lambda: calls.append("keep") or True)
    monkeypatch.setattr(models.kernels.kept_memory, "give_freed_memory_back", lambda: calls.append("give back"))
    monkeypatch.setattr(
        engine.validate.run.ValRecords, "batch", lambda _, number, *__: calls.append(number) or 1 / (not fails)
    )
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        validate(monkeypatch, tmp_path, bccd / "yolo" / "data.yaml", report=False)
    assert calls == (["keep", 0, "give back"] if fails else ["keep", 0, 1, 2, 3, 4, "give back"])


def test_no_memory_is_kept_with_the_kernels_off(bccd, monkeypatch, tmp_path):
    monkeypatch.setattr(models.kernels.kept_memory, "keep_freed_memory", lambda: pytest.fail("has been kept"))
    validate(monkeypatch, tmp_path, bccd / "yolo" / "data.yaml", report=False, cpu_kernels="off")
