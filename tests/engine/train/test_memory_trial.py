"""The rehearsed step: it changes nothing, tells the memory it took, and finds a batch size that fits."""

import re
from pathlib import Path

import pytest
import torch

import engine.resources
import engine.train.memory_trial
import engine.train.run
from data.split import load_split
from engine.resources import plan_resources
from engine.settings.configure import plan_run
from engine.train.epoch_report import Observer
from engine.train.memory_trial import Line, Rehearsal, power_of_two, rehearsed
from engine.train.trainer import Trainer
from models.families import build_detector
from models.yolov3.network import Network
from tests.engine.conftest import FAMILIES, SSD_SIDE
from train import train
from utils.checkpoint import load_checkpoint
from utils.config.knobs import RunConfig
from utils.distributed import Group
from utils.errors import CommandError, UserError
from utils.optim import build_optimizer

CPU = torch.device("cpu")


@pytest.fixture
def planned(flags, tmp_path):
    def build(**changes):
        plan = plan_run({**flags, **changes})
        return plan.config, load_split(plan.data, "train", tmp_path / "cache")

    return build


def last_of(folder):
    return load_checkpoint(folder / "weights" / "last.pt")


def test_training_is_the_same_with_and_without_it(flags, tmp_path, monkeypatch, capsys):
    """Weights, averaged weights with their statistics, optimiser and generators, to the bit."""
    changes = {"multi_scale": True, "epochs": 1}
    with_it = last_of(train(**{**flags, **changes, "project": str(tmp_path / "with")}))
    assert re.search(r"memory \d+\.\d GiB for --batch-size 8 at 128x192 px \(about", capsys.readouterr().out)
    generator = torch.get_rng_state()
    monkeypatch.setattr(engine.train.run, "rehearsed", lambda config, *rest: (config, 0))
    without = last_of(train(**{**flags, **changes, "project": str(tmp_path / "without")}))
    assert torch.equal(generator, torch.get_rng_state())
    for part in ("network", "model"):
        assert all(torch.equal(value, without[part][name]) for name, value in with_it[part].items())
    states = zip(with_it["optimizer"]["state"].values(), without["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(first["momentum_buffer"], second["momentum_buffer"]) for first, second in states)


@pytest.mark.parametrize(
    "cfg", [pytest.param(cfg, marks=pytest.mark.slow if cfg == "ssd300_vgg16" else ()) for cfg in FAMILIES]
)
def test_the_trial_takes_a_copy_that_no_other_process_has_to_answer(cfg, planned, monkeypatch):
    """Of the whole detector: its weights, its statistics and what it reports to stay as they are."""
    changes = {"imgsz": [SSD_SIDE]} if cfg == "ssd300_vgg16" else {}
    config, index = planned(cfg=cfg, set=FAMILIES[cfg], batch_size=2, **changes)
    observer, group = Observer(), Group(world_size=2)
    detector = build_detector(config, observer, group).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: pytest.fail("asked the other process"))
    trial = Rehearsal(config, detector, index, CPU, group)
    trial.step(2)
    trial.validate(2)
    assert observer.report.sums == {}
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    moved = trial.detector.state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in before.items())


def test_a_run_builds_its_detector_once(flags, monkeypatch):
    built, build = [], Network.__init__

    def counted(self, *arguments, **keywords):
        built.append(1)
        build(self, *arguments, **keywords)

    monkeypatch.setattr(Network, "__init__", counted)
    train(**{**flags, "epochs": 1})
    assert len(built) == 1


def test_the_first_peaks_grow_with_the_batch(planned):
    config, index = planned(imgsz=[320])
    line = Line(Rehearsal(config, build_detector(config), index, CPU, Group()))
    assert line.measured
    # What earlier tests left free in this process may serve the first image.
    assert line.first >= 0
    assert line.at(8) > line.at(2) >= line.first + 1
    assert line.at(line.most(line.at(20))) <= line.at(20) < line.at(2 * line.most(line.at(20)))


def test_an_input_of_one_cell_trains_unless_a_batch_is_of_one_image(flags):
    """Normalisation over a single value has no variance: said before anything is written, and never in the trial."""
    smallest = {**flags, "imgsz": [32], "epochs": 1}
    drawn = {"batch_size": 23, "imgsz": [64], "multi_scale": True}
    for changes, least in (({"batch_size": 23}, 32), ({"batch_size": 1}, 32), (drawn, 64)):
        words = " with --multi-scale, which draws 32 px," if changes is drawn else ":"
        found = rf"{words} a batch of one image .* the last of 24 images .* sides above {least}$"
        with pytest.raises(UserError, match=found):
            train(**{**smallest, **changes})
    assert not Path(flags["project"]).exists()
    train(**{**smallest, "batch_size": 8})
    train(**{**smallest, "imgsz": [32, 64], "batch_size": 23})


@pytest.mark.parametrize("place", ["nowhere.pt", "."])
def test_missing_weights_are_said_before_anything_is_tried(place, flags, tmp_path, monkeypatch):
    """Also a detector's backbone: plan_run reads nothing of a data set before."""
    monkeypatch.setattr("engine.settings.configure.open_data", lambda *rest: pytest.fail("the data were opened"))
    path = str(tmp_path / place)
    for changes in (
        {"weights": path},
        {"cfg": "retinanet_resnet18_fpn", "imgsz": [128], "set": [f"backbone_weights={path}"]},
    ):
        kind = "a folder" if place == "." else "no such file"
        with pytest.raises(UserError, match=rf"weights: weights not found: .* \({kind}\)"):
            train(**{**flags, **changes})


class FakeDevice(Rehearsal):
    """A device that counts its memory itself, has room for `room` images, and runs out of it as GPUs do."""

    room = 6

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.exact = True

    def peak(self, images, validation):
        if images > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return images * 2**30


def test_out_of_memory_names_what_was_tried_and_what_fits(planned, monkeypatch, flags):
    monkeypatch.setattr(engine.train.memory_trial, "Rehearsal", FakeDevice)
    config, index = planned(batch_size=16, multi_scale=True)
    with pytest.raises(UserError, match=r"--batch-size 16 at 128x192 px: out of memory on cpu; --batch-size 4 fits"):
        rehearsed(config, build_detector(config), index, CPU, Group())
    with pytest.raises(UserError, match="--batch-size 8 fits"):
        rehearsed(config, build_detector(config), index, CPU, Group(world_size=2))
    with pytest.raises(UserError):
        train(**{**flags, "batch_size": 16})
    assert not Path(flags["project"]).exists()
    monkeypatch.setattr(FakeDevice, "room", 0)
    with pytest.raises(UserError, match="not even one image fits: try a smaller --imgsz"):
        rehearsed(config, build_detector(config), index, CPU, Group())


def test_a_batch_beyond_the_memory_is_refused_on_a_cpu(planned, monkeypatch):
    config, index = planned(batch_size=4096)
    monkeypatch.setattr(engine.resources, "available_memory", lambda: 2**28)
    monkeypatch.setattr(Rehearsal, "peak", lambda self, images, validation: images * 2**24)
    with pytest.raises(UserError, match=r"4096 at 96x128 px does not fit.* 0.2 GiB are free; --batch-size 16 fits"):
        rehearsed(config, build_detector(config), index, CPU, Group())
    small, _ = planned(batch_size=8)
    assert rehearsed(small, build_detector(small), index, CPU, Group()) == (small, 8 * 2**24)


def test_minus_one_finds_a_batch_size_and_the_checkpoint_keeps_it(flags, monkeypatch):
    monkeypatch.setattr(engine.resources, "available_memory", lambda: 2**28)
    monkeypatch.setattr(Rehearsal, "peak", lambda self, images, validation: images * 2**24)
    folder = train(**{**flags, "batch_size": -1, "epochs": 1})
    # 60 % of 256 MiB are 9 images; the nominal batch of the flags is 8.
    assert last_of(folder)["config"]["run"]["batch_size"] == 8
    assert "batch_size: 8" in (folder / "config.yaml").read_text()
    monkeypatch.setattr(engine.resources, "available_memory", lambda: 2**26)
    resumed = train(resume=str(folder), epochs=2)
    assert last_of(resumed)["config"]["run"]["batch_size"] == 8
    smaller = train(**{**flags, "batch_size": -1, "epochs": 1})
    assert last_of(smaller)["config"]["run"]["batch_size"] == 2


def test_zero_is_no_batch_size(flags):
    with pytest.raises(UserError, match="--batch-size is 0: expected at least 1, or -1"):
        plan_run({**flags, "batch_size": 0})


def test_powers_of_two():
    assert [power_of_two(number) for number in (1, 2, 3, 4, 31, 32)] == [1, 2, 2, 4, 16, 32]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_out_of_memory_in_training_is_one_line_and_leaves_the_checkpoint(error, flags, monkeypatch):
    original, calls = Trainer.train_epoch, []

    def second_fails(self, epoch, records):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return original(self, epoch, records)

    monkeypatch.setattr(Trainer, "train_epoch", second_fails)
    with pytest.raises(CommandError, match=r"^out of memory at --batch-size 8; .*half the --batch-size") as told:
        train(**flags)
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)
    assert last_of(Path(flags["project"]) / "exp")["epoch"] == 1


def test_resources_by_shared_memory_and_memory(planned, monkeypatch):
    config, index = planned(cache=True, workers=4)
    splits = {"train": index, "val": index}
    batch = 8 * 3 * 96 * 128
    monkeypatch.setattr(engine.resources, "free_shared_memory", lambda: 2 * 3 * batch)
    monkeypatch.setattr(engine.resources, "available_memory", lambda: 2**30)
    found = plan_resources(config.run, splits, Group(), cores=8)
    assert (found.workers, found.cached) == (2, {"train", "val"})
    assert "2 loading processes" in found.said and "4 would need" in found.said
    assert plan_resources(config.run, splits, Group(world_size=2, local_size=2), cores=8).workers == 1

    monkeypatch.setattr(engine.resources, "free_shared_memory", lambda: None)
    photos = 24 * 96 * 96 * 3
    monkeypatch.setattr(engine.resources, "available_memory", lambda: int(photos * 1.5 / 0.8))
    found = plan_resources(config.run, splits, Group(), cores=8)
    assert (found.workers, found.cached) == (4, {"train"})
    assert "--cache: the val photos would take" in found.said
    assert not plan_resources(config.run, splits, Group(), reserved=photos, cores=8).cached
    assert plan_resources(RunConfig(), splits, Group(), cores=8).workers == 4
    assert plan_resources(RunConfig(), splits, Group(local_size=4), cores=8).workers == 1


def test_photos_on_the_device_are_refused_where_they_do_not_fit(planned, monkeypatch):
    config, index = planned(cache="device")
    splits = {"train": index, "val": index}
    monkeypatch.setattr(engine.resources, "available_memory", lambda: 2**30)
    found = plan_resources(config.run, splits, Group())
    assert (found.on_device, found.cached) == (True, {"val"})
    photos, batch = 24 * 96 * 96 * 3, 256 * 8 * 96 * 128
    room = int((photos + batch) / 0.95) + 2
    monkeypatch.setattr(engine.resources, "available_memory", lambda: room)
    assert plan_resources(config.run, splits, Group()).on_device
    for group, reserved in ((Group(), 10), (Group(world_size=2, local_size=2), 0)):
        with pytest.raises(UserError, match=r"^--cache device: the 24 training photos take .* are free on cpu"):
            plan_resources(config.run, splits, group, reserved)


def test_sync_bn_keeps_the_names_of_the_weights_and_their_decay(planned):
    config, _ = planned()
    network = build_detector(config).network
    groups = build_optimizer("sgd", network, 0.1, 0.9, 0.1).param_groups
    state = {name: value.clone() for name, value in network.state_dict().items()}
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert state.keys() == converted.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in converted.state_dict().items())
    again = build_optimizer("sgd", converted, 0.1, 0.9, 0.1).param_groups
    assert [len(group["params"]) for group in groups] == [len(group["params"]) for group in again]


def test_sync_bn_is_refused_where_it_means_nothing(flags, monkeypatch):
    with pytest.raises(UserError, match="--sync-bn: torch synchronises batch statistics on GPUs only"):
        plan_run({**flags, "sync_bn": True})
    with pytest.raises(UserError, match="one process has nothing to synchronise"):
        plan_run({**flags, "sync_bn": True, "device": ""})
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = plan_run({**flags, "sync_bn": True, "device": ""})
    with pytest.raises(UserError, match="expected several processes on GPUs, found 2 on cpu"):
        engine.train.run.check_group(plan.config, Group(world_size=2), CPU)
