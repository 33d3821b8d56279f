"""A training step gives a GPU its work without waiting for it: no value is read back, no shape depends on one."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import engine.train.divergence
from alignyolo.registry import BASE_SIMILARITIES
from alignyolo.targets import Targets
from data.augment.on_device import Recipes, paint_batch
from data.data_yaml import read_data_yaml
from data.dataset import DetectionDataset
from data.shapes.demo_set import make_shapes
from data.split import load_split
from engine.settings.configure import plan_run
from engine.train.divergence import Guard
from engine.train.epoch import train_one_epoch
from engine.train.epoch_report import EpochReport
from models.families import build_detector
from models.yolov3.loss import DetectionLoss
from tests.data.augment.test_on_device import SETTINGS, SIZE
from tests.engine.conftest import NARROW
from utils.config.knobs import ASSIGNER_NAMES
from utils.optim import Schedule, build_optimizer

# What makes the host wait for a GPU, by itself or because the next shape depends on what it finds.
WAITING = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "item",
    "lift_fresh",
    "masked_scatter",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waited(AssertionError):
    """An operation would have waited."""


class NoWaiting(TorchDispatchMode):
    """Raises Waited where an operation on a GPU would make the host wait."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name, options = operation._schema.name.removeprefix("aten::"), options or {}
        if name in WAITING:
            raise Waited(name)
        if name in INDEXING:
            indices = [index for index in arguments[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                raise Waited(f"{name} with a mask")
            given = dict(zip(("self", "indices", "values", "accumulate", "unsafe"), arguments, strict=False)) | options
            # To add up, index_put_ sorts the indices, and checks on the host whether they are in range.
            if given.get("accumulate") and not given.get("unsafe"):
                raise Waited(f"{name} that reads its indices")
        return operation(*arguments, **options)


@contextlib.contextmanager
def nothing_waits(patch, mode=None):
    """The block may not wait, but for what is the host's by design: assigning, and the verdict on a step before."""

    def on_the_host(function):
        def free(*arguments):
            with _disable_current_modes():
                return function(*arguments)

        return free

    patch.setattr(DetectionLoss, "assign", on_the_host(DetectionLoss.assign))
    patch.setattr(engine.train.divergence.Verdict, "read", on_the_host(engine.train.divergence.Verdict.read))
    with mode or NoWaiting():
        yield


class Images:
    """What train_one_epoch needs to know of a batch."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets


class Always(torch.nn.Module):
    """A network whose output is known."""

    def __init__(self, raw):
        super().__init__()
        self.raw = [raw]

    def forward(self, images):
        return self.raw[0]


def a_batch(seed, truths=20, side=64):
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(truths, 2, generator=generator) * side
    half = (torch.rand(truths, 2, generator=generator) * 20 + 3) / 2
    boxes = torch.cat([center - half, center + half], 1).clamp(0, side)
    image = torch.randint(4, (truths,), generator=generator).sort().values
    labels = torch.randint(6, (truths,), generator=generator)
    images = torch.randint(256, (4, 3, side, side), generator=generator, dtype=torch.uint8)
    return Images(images, Targets(boxes, labels, image))


def trainer_of(settings, optimizer="sgd", device="cpu"):
    """A function that trains on batches, with all that a step does, and the report."""
    config = plan_run({"imgsz": [64], "set": [*NARROW, "nominal_batch=8", *settings]}).config
    report = EpochReport()
    detector = build_detector(config, report.observe).train().to(device)
    schedule = Schedule(4, 10, 0.01, 1.0, False, 0.9, 0.0, 0.9, 0.0, 2.0)
    parts = build_optimizer(optimizer, detector.network, 0.01, 0.9, 0.0005), schedule
    guard = Guard(detector.network, patience=3)

    def train(batches):
        train_one_epoch(detector, batches, *parts, 0, report, guard, device=torch.device(device), grad_clip=10.0)

    return train, report


LOSSES = (*BASE_SIMILARITIES, "inner_wiou_v3", "focaler_sca")  # Compositions have their code in common.
EVERY = [*(f"box_loss={loss}" for loss in LOSSES), *(f"assigner={assigner}" for assigner in ASSIGNER_NAMES)]


@pytest.mark.parametrize("setting", EVERY)
def test_a_step_does_not_wait(setting, small_shapes, monkeypatch):
    train, report = trainer_of([setting])
    train([a_batch(0)])
    batches = [a_batch(seed, truths) for seed, truths in ((1, 20), (2, 0), (3, 1))]
    with nothing_waits(monkeypatch):
        train(batches)
    assert report.row()["truths"] == 41
    assert report.row()["positives_per_truth"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        ["ggiou_gamma=1", "ggiou_wloc=auto"],
        ["ggiou_gamma=1", "balance_metric=iou", "ggiou_wloc=2.0"],
        ["fl_gamma=1.5", "label_smoothing=0.1", "cls_pw=2", "obj_pw=0.5"],
        ["obj_target=similarity", "decode=darknet"],
        ["obj_target=one", "sca_corner=squared", "box_loss=sca"],
    ],
    ids=" ".join,
)
def test_no_option_of_the_loss_waits(settings, small_shapes, monkeypatch):
    train, _ = trainer_of(settings, optimizer="adamw")
    train([a_batch(0)])
    with nothing_waits(monkeypatch):
        train([a_batch(1), a_batch(2)])


@pytest.mark.parametrize("action", ["item", "mask", "nonzero", "unique", "add up", "new tensor", "backward"])
def test_the_test_sees_what_waits(action):
    values = torch.arange(5.0)
    actions = {
        "item": lambda: float(values.sum()),
        "mask": lambda: values[values > 2],
        "nonzero": lambda: (values > 2).nonzero(),
        "unique": lambda: values.unique(),
        "add up": lambda: values.index_put_((torch.zeros_like(values).long(),), values, accumulate=True),
        "new tensor": lambda: values.new_tensor([1, 2]),
        "backward": lambda: (parameter * 2).sum().backward(),
    }
    parameter = values.clone().requires_grad_()
    parameter.register_hook(lambda gradient: float(gradient.sum()))
    with pytest.raises(Waited), NoWaiting():
        actions[action]()


def test_painting_a_batch_does_not_wait(tmp_path, monkeypatch):
    data_yaml = make_shapes(tmp_path / "shapes", seed=2, train=8, val=4, size=120)
    index = load_split(read_data_yaml(str(data_yaml), tmp_path), "train", tmp_path / "cache")
    dataset = DetectionDataset(index, SIZE, SETTINGS["everything"][0])
    pixels = dataset.store(torch.device("cpu"))
    recipes = Recipes.stack([dataset[0, row].image for row in range(8)])
    with NoWaiting():
        paint_batch(pixels, recipes)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = paint_batch(pixels.to("cuda"), recipes.to(torch.device("cuda")))
    assert (there.device.type, there.shape) == ("cuda", (8, 3, *SIZE))


@pytest.mark.parametrize("assigner", ASSIGNER_NAMES)
def test_no_part_of_the_loss_lies_on_another_device(assigner, small_shapes, monkeypatch):
    """On torch's imitation of a GPU, which computes shapes alone and refuses to mix devices or to tell a value."""
    config = plan_run({"imgsz": [64], "set": [*NARROW, f"assigner={assigner}"]}).config
    detector, targets = build_detector(config, EpochReport().observe).train(), a_batch(0).targets
    if detector.loss.assigner.needs_predictions:
        pytest.skip("it looks at predicted values, which the imitation of a GPU does not have")
    anchors = detector.anchors((64, 64), targets.boxes.device).centers
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with nothing_waits(monkeypatch, FakeTensorMode(allow_non_fake_inputs=True)):
        raw = torch.zeros(4, len(anchors), 11, device="cuda", requires_grad=True)
        detector.network = Always(raw)
        losses = detector(torch.zeros(4, 3, 64, 64, device="cuda"), targets)
    assert {value.device.type for value in losses.values()} == {"cuda"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("assigner", ASSIGNER_NAMES)
def test_a_step_on_a_gpu_does_not_wait(assigner, small_shapes):
    train, report = trainer_of([f"assigner={assigner}"], device="cuda")
    train([a_batch(0)])
    torch.cuda.set_sync_debug_mode("error")
    try:
        train([a_batch(seed) for seed in range(1, 4)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert report.row()["truths"] == 80
