"""Training: every loss with every assigner learns, resuming changes nothing, the folder holds what it promises."""

import csv
import itertools
import json
import re
import shutil
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import engine.train.trainer
from alignyolo.registry import BASE_SIMILARITIES
from alignyolo.targets import Targets
from data.dataset import DetectionDataset
from data.loader import build_loader
from data.split import load_split
from engine.settings.configure import plan_run
from engine.settings.epochs import closing_epochs
from engine.train.banner import epochs_line, next_steps
from engine.train.divergence import Guard
from engine.train.epoch import resized, train_one_epoch
from engine.train.epoch_report import EpochReport
from engine.train.resume import change_of_schedule
from engine.train.trainer import frozen_modules
from models.families import build_detector
from models.kernels import compiled
from models.kernels.compiled_winograd import bf16_pays
from tests.engine.conftest import ALL_FAMILIES, FAMILIES, SSD_SIDE
from train import train
from utils.config.knobs import ASSIGNER_NAMES, RunConfig
from utils.device import cpu_has_bf16
from utils.errors import UserError
from utils.optim import Schedule, build_optimizer
from val import validate

STEPS = 40


def constant_schedule(lr):
    return Schedule(1, 1000, lr, 1.0, "linear", 0.9, 0.0, 0.9, 0.0, 1.0)


@pytest.fixture(scope="module")
def fixed_batch(small_shapes, tmp_path_factory):
    plan = plan_run({"data": str(small_shapes), "imgsz": [96, 128]})
    index = load_split(plan.data, "train", tmp_path_factory.mktemp("cache"))
    return next(iter(build_loader(DetectionDataset(index, (96, 128)), 8, workers=0, shuffle=False, seed=0)))


FIRST_LOSSES, FIRST_ASSIGNERS = ("iou", "giou", "diou", "ciou", "sca"), ("anchor_ratio", "best_anchor", "iou", "ggiou")
LEARNERS_OF = [
    *itertools.product(FIRST_LOSSES, FIRST_ASSIGNERS),
    *(("sca", name) for name in ASSIGNER_NAMES if name not in FIRST_ASSIGNERS),
    *zip(
        [name for name in BASE_SIMILARITIES if name not in FIRST_LOSSES], itertools.cycle(ASSIGNER_NAMES), strict=False
    ),
    ("inner_sca", "tal"),
    ("focaler_ciou", "atss_ggiou"),
]


@pytest.mark.parametrize(
    ("loss", "assigner"),
    [
        *LEARNERS_OF,
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in itertools.product(BASE_SIMILARITIES, ASSIGNER_NAMES)
            if pair not in LEARNERS_OF
        ),
    ],
)
def test_every_loss_with_every_assigner_learns(loss, assigner, fixed_batch, flags):
    config = plan_run({**flags, "loss": loss, "assign": assigner}).config
    detector = build_detector(config).train()
    optimizer = build_optimizer("sgd", detector.network, 0.05, 0.9, 0.0)
    guard = Guard(detector.network, patience=1)
    totals, boxes = [], []
    for _ in range(STEPS):
        report = EpochReport()
        train_one_epoch(
            detector, [fixed_batch], optimizer, constant_schedule(0.05), 0, report, guard, device=torch.device("cpu")
        )
        row = report.row()
        totals.append(row["loss"])
        boxes.append(row["box_loss"])
    assert sum(totals[-5:]) < 0.95 * sum(totals[:5])
    if loss not in ("focal_eiou", "piou_v2"):  # Their losses are 0 for hopeless boxes, and rise as these get better.
        assert sum(boxes[-5:]) < sum(boxes[:5])


def thirty_steps(cfg, batch, flags, lr):
    """The report's rows of 30 steps on one batch."""
    config = plan_run({**flags, "cfg": cfg}).config
    detector = build_detector(config, lambda *seen: report.observe(*seen)).train()
    optimizer, rows = build_optimizer("adamw", detector.network, lr, 0.9, 0.0), []
    guard, schedule = Guard(detector.network, patience=1), constant_schedule(lr)
    for _ in range(30):
        report = EpochReport()
        train_one_epoch(
            detector, [batch], optimizer, schedule, 0, report, guard, device=torch.device("cpu"), grad_clip=10.0
        )
        rows.append(report.row())
    return rows


def first_images(batch, count, size):
    """The first images of a batch with their targets, at another size."""
    images, targets = resized(batch.images[:count].float(), batch.targets, size)
    few = Targets(*(part[targets.image < count] for part in targets))
    return batch._replace(images=images.round().byte(), targets=few)


def assert_falls(rows, name, least):
    values = [row[name] for row in rows]
    print(f"{name}: {values[0]:.3f} -> {values[-1]:.3f}")
    assert sum(values[-5:]) < least * sum(values[:5])


PAIRS = list(itertools.product(("smooth_l1", "giou", "sca"), ("iou", "ggiou")))
LEARNERS = {**FAMILIES, "retinanet_resnet50_fpn": FAMILIES["retinanet_resnet18_fpn"]}


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [cfg for cfg in LEARNERS if cfg not in ("yolov3-tiny", "ssd300_vgg16")])
@pytest.mark.parametrize(("loss", "assigner"), PAIRS)
def test_torchvisions_detectors_learn(cfg, loss, assigner, fixed_batch, flags):
    settings = [*LEARNERS[cfg], "nominal_batch=1"]
    batch = first_images(fixed_batch, 4, (96, 128))
    rows = thirty_steps(cfg, batch, {**flags, "loss": loss, "assign": assigner, "set": settings}, 0.001)
    assert_falls(rows, "loss", 0.9)
    assert_falls(rows, "raw_box_loss", 0.95)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "assigner"), PAIRS)
def test_ssd_learns(loss, assigner, fixed_batch, flags):
    """One image a step: VGG16 cannot be made narrower, nor its input smaller."""
    batch = first_images(fixed_batch, 1, (SSD_SIDE, SSD_SIDE))
    flags = {**flags, "imgsz": [SSD_SIDE], "loss": loss, "assign": assigner, "set": ["nominal_batch=1"]}
    rows = thirty_steps("ssd300_vgg16", batch, flags, 0.0001)
    assert_falls(rows, "loss", 0.9)
    assert_falls(rows, "raw_box_loss", 0.95)


@pytest.fixture(scope="module")
def finished(small_shapes, tmp_path_factory):
    """A run of four epochs with mosaic, averaging, accumulation and workers."""
    flags = resumable_flags(small_shapes, tmp_path_factory.mktemp("whole"))
    return train(**flags, epochs=4)


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def finished_family(request, data_of, tmp_path_factory):
    """A finished run of every kind of model, and its name."""
    if request.param == "yolov3-tiny":
        return request.getfixturevalue("finished"), request.param
    flags = resumable_flags(data_of(request.param), tmp_path_factory.mktemp(request.param), request.param)
    return train(**flags, epochs=4), request.param


def resumable_flags(data, folder, cfg="yolov3-tiny"):
    # torchvision's detectors have no mosaic by default, in which two photos could be mixed.
    mosaics = ["mixup=0.2"] if cfg == "yolov3-tiny" else ["mosaic=0.5", "mixup=0.2"]
    return {
        "cfg": cfg,
        "data": str(data),
        "imgsz": [SSD_SIDE] if cfg == "ssd300_vgg16" else [96, 128],
        "batch_size": 4,
        "workers": 2,
        "device": "cpu",
        "project": str(folder),
        "amp": "off",
        "plots": False,
        "set": [*FAMILIES[cfg], "nominal_batch=8", *mosaics],
    }


def comparable_rows(folder):
    rows = list(csv.DictReader((folder / "results.csv").open()))
    timed = ("seconds", "images_per_second")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def in_two_parts(folder, stopped_before, **flags):
    """The run folder of a run that was stopped before an epoch and resumed."""

    class Stopped(Exception):
        pass

    from engine.train.trainer import Trainer

    original = Trainer.train_epoch

    def stop(self, epoch, records):
        if epoch == stopped_before:
            raise Stopped
        return original(self, epoch, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop)
        with pytest.raises(Stopped):
            train(**flags)
    return train(resume=str(folder / "exp"))


def test_resuming_changes_nothing(finished_family, data_of, tmp_path):
    """Four epochs at once equal two and two, to the bit; the learning rate is that of the whole run."""
    finished, cfg = finished_family
    resumed = in_two_parts(tmp_path, stopped_before=2, **resumable_flags(data_of(cfg), tmp_path, cfg), epochs=4)
    whole, parts = (torch.load(each / "weights" / "last.pt", weights_only=True) for each in (finished, resumed))
    assert whole["epoch"] == parts["epoch"] == 4
    for part in ("network", "model"):
        assert all(torch.equal(value, parts[part][name]) for name, value in whole[part].items())
    for index, state in whole["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], parts["optimizer"]["state"][index]["momentum_buffer"])
    assert comparable_rows(finished) == comparable_rows(resumed)


def test_resuming_changes_nothing_with_a_loss_that_keeps_a_mean(small_shapes, tmp_path):
    """WIoU's running mean is in both checkpoints and goes on where it was."""
    flags = {**resumable_flags(small_shapes, tmp_path), "workers": 0, "epochs": 2, "loss": "inner_wiou_v3"}
    whole = train(**{**flags, "project": str(tmp_path / "whole")})
    resumed = in_two_parts(tmp_path, stopped_before=1, **flags)
    first, second = (torch.load(each / "weights" / "last.pt", weights_only=True) for each in (whole, resumed))
    assert 0 < first["similarity"]["mean"] < 1
    assert torch.equal(first["similarity"]["mean"], second["similarity"]["mean"])
    assert all(torch.equal(value, second["network"][name]) for name, value in first["network"].items())
    assert comparable_rows(whole) == comparable_rows(resumed)
    assert "mean" in torch.load(whole / "weights" / "best.pt", weights_only=True)["similarity"]


def test_resuming_changes_nothing_with_photos_on_the_device(small_shapes, tmp_path, capsys):
    flags = {**resumable_flags(small_shapes, tmp_path), "workers": 0, "epochs": 2, "cache": "device"}
    whole = train(**{**flags, "project": str(tmp_path / "whole")})
    assert "GiB of photos on cpu" in capsys.readouterr().out
    resumed = in_two_parts(tmp_path, stopped_before=1, **flags)
    first, second = (torch.load(each / "weights" / "last.pt", weights_only=True) for each in (whole, resumed))
    for part in ("network", "model"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    assert comparable_rows(whole) == comparable_rows(resumed)
    with pytest.raises(UserError, match=r"--no-cache \(the run has device\) would change it"):
        train(resume=str(resumed), epochs=3, cache=False)


def test_the_number_of_workers_changes_nothing(finished, small_shapes, tmp_path):
    other = train(**{**resumable_flags(small_shapes, tmp_path), "workers": 0, "cache": True}, epochs=4)
    weights = [torch.load(each / "weights" / "best.pt", weights_only=True)["model"] for each in (finished, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.skipif(not compiled.available(), reason="compiled kernels need numba and an OpenMP that is torch's")
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_with_compiled_kernels_neither_loading_processes_nor_a_resume_change_a_bit(
    amp, small_shapes, tmp_path, monkeypatch
):
    """At full width and with two threads, where the kernels of every kind are really called."""
    if amp == "bf16" and not cpu_has_bf16():
        pytest.skip("this CPU does not multiply bfloat16")
    called, run_together = set(), compiled.run_together

    def counted(kernel, *work):
        called.add(kernel.partition(".")[0])
        run_together(kernel, *work)

    monkeypatch.setattr(compiled, "run_together", counted)
    flags = {**resumable_flags(small_shapes, tmp_path / "parts"), "amp": amp, "epochs": 2}
    flags |= {"imgsz": [160], "batch_size": 8, "set": ["nominal_batch=16", "mixup=0.2"]}
    whole = train(**{**flags, "project": str(tmp_path / "whole")})
    parts = in_two_parts(tmp_path / "parts", stopped_before=1, **{**flags, "workers": 0})
    assert called == {"norm_loops", *(["tile_loops"] if amp == "off" or bf16_pays() else [])}
    first, second = (torch.load(each / "weights" / "last.pt", weights_only=True) for each in (whole, parts))
    for part in ("network", "model"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    assert comparable_rows(whole) == comparable_rows(parts)


def test_resume_says_what_it_cannot_do(finished, tmp_path):
    with pytest.raises(UserError, match="all 4 epochs are done; --epochs N"):
        train(resume=str(finished))
    with pytest.raises(UserError, match=r"--loss giou \(the run has ciou\) would change it"):
        train(resume=str(finished), loss="giou", epochs=9)
    with pytest.raises(UserError, match=r"--set box=1 lr0=.1 would change it: only --epochs, --device, --workers"):
        train(resume=str(finished), set=["box=1", "lr0=.1"])
    with pytest.raises(UserError, match="weights only"):
        train(resume=str(finished / "weights" / "best.pt"))
    with pytest.raises(UserError, match="not found"):
        train(resume=str(tmp_path / "nowhere.pt"))


def test_more_epochs_say_how_the_schedule_changes(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    folder = train(resume=str(tmp_path / "run"), epochs=5)
    # Linear from .01: after 4 of 4 epochs at its end, 1 % of it; after 4 of 5 at 20.8 %.
    said = (
        "--epochs 5 instead of 4: the learning rate now decays until epoch 5, without mosaic from here on; "
        "it goes on at 0.00208, not 0.0001"
    )
    assert said in capsys.readouterr().out
    assert len(comparable_rows(folder)) == 5


def test_more_epochs_move_the_steps_that_are_fractions(flags):
    def run(epochs, steps):
        return plan_run(
            {**flags, "close_mosaic": 0, "epochs": epochs, "set": ["lr_schedule=steps", f"lr_steps={steps}"]}
        ).config

    moved = change_of_schedule(run(6, "[0.667]"), run(12, "[0.667]"), 5, 3, 9)
    assert "now: lr 0.01, times 0.1 after epoch 8 of 12 epochs; it goes on at 0.01, not 0.001" in moved
    assert "it goes on at 0.001, not 0.001" in change_of_schedule(run(6, "[4]"), run(12, "[4]"), 5, 3, 9)


@pytest.fixture
def with_changed_data(finished, tmp_path):
    """A function that copies a run, with its data, and takes an object from a split's first photo."""

    def changed(split, forget=()):
        weights = tmp_path / "run" / "weights"
        shutil.copytree(finished / "weights", weights)
        contents = torch.load(weights / "last.pt", weights_only=True)
        shutil.copytree(Path(contents["config"]["run"]["data"]).parent, tmp_path / "data")
        first = min((tmp_path / "data" / "labels" / split).iterdir())
        first.write_text("\n".join(first.read_text().splitlines()[1:]) + "\n")
        contents["config"]["run"]["data"] = str(tmp_path / "data" / "shapes.yaml")
        torch.save({name: value for name, value in contents.items() if name not in forget}, weights / "last.pt")
        return tmp_path / "run"

    return changed


@pytest.mark.parametrize(("split", "told"), [("train", "training split"), ("val", "validation split")])
def test_changed_data_is_not_resumed(split, told, with_changed_data):
    with pytest.raises(UserError, match=rf"{told} has changed since the run began \(\d+ images, .*; now \d+ images"):
        train(resume=str(with_changed_data(split)), epochs=5)


def test_a_checkpoint_that_does_not_know_its_validation_split_goes_on(with_changed_data):
    folder = train(resume=str(with_changed_data("val", forget=["val_data"])), epochs=5)
    assert torch.load(folder / "weights" / "last.pt", weights_only=True)["epoch"] == 5


def test_the_epochs_validation_equals_val(finished_family, monkeypatch, tmp_path):
    """metrics.json, the best epoch's row in results.csv and val.py agree to the digit."""
    finished, _ = finished_family
    result = validate(weights=str(finished / "weights" / "best.pt"), project=str(tmp_path), workers=0, plots=False)
    written = json.loads((finished / "metrics.json").read_text())
    again = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert written["per_class"] == again["per_class"]
    assert all(again[name] == written[name] for name in result.overall)
    rows = list(csv.DictReader((finished / "results.csv").open()))
    best = max(rows, key=lambda row: float(row["ap"] or 0))
    epoch = torch.load(finished / "weights" / "best.pt", weights_only=True)["epoch"]
    assert float(rows[epoch - 1]["ap"]) == float(best["ap"]) == written["ap"]


def test_epochs_in_bf16_equal_val_in_bf16_and_the_end_equals_val(flags, tmp_path, capsys):
    """To the digit: what is trained in bf16 on a CPU is validated in it, and in float32 at the end."""
    finished = train(**{**flags, "amp": "bf16", "epochs": 3})
    said = capsys.readouterr().out
    assert "epochs are validated in bf16" in said
    assert re.search(r"best.pt = epoch \d \(AP .* in bf16, averaged weights\)", said)
    best = str(finished / "weights" / "best.pt")
    epoch = torch.load(best, weights_only=True)["epoch"]
    row = list(csv.DictReader((finished / "results.csv").open()))[epoch - 1]
    rounded, exact = (
        validate(weights=best, project=str(tmp_path), name=precision, workers=0, plots=False, precision=precision)
        for precision in ("bf16", "float32")
    )
    columns = [name for name in rounded.overall if name in row]
    assert len(columns) > 15
    assert rounded.overall["ap50"] > 0 and rounded.overall != exact.overall, "there is something to compare"
    for name in columns:
        assert float(row[name] or "nan") == pytest.approx(rounded.overall[name], rel=0, abs=0, nan_ok=True), name
    written = json.loads((finished / "metrics.json").read_text())
    assert written == {**exact.to_json(), "protocol": written["protocol"]}
    assert "  float32  " in written["protocol"]


def test_the_folder_holds_what_it_promises(finished):
    for name in ("config.yaml", "env.json", "results.csv", "metrics.json", "weights/best.pt", "weights/last.pt"):
        assert (finished / name).stat().st_size > 0
    header = (finished / "results.csv").read_text().splitlines()[0].split(",")
    wanted = {"epoch", "ap", "ap50", "ap95", "ap_small", "precision", "f1", "box_loss", "raw_box_loss", "mean_iou"}
    assert wanted | {"positives_per_truth", "unmatched", "claimed_twice", "lr"} <= set(header)
    assert all(name == name.strip() for name in header)
    assert list(finished.glob("events.out.tfevents*"))


def test_best_pt_loads_in_an_empty_folder(finished, tmp_path, monkeypatch):
    shutil.copy(finished / "weights" / "best.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    contents = torch.load("best.pt", weights_only=True)
    assert contents["names"] == contents["config"]["names"]
    assert contents["config"]["hyper"]["box_loss"] == "ciou"


def test_weights_of_another_run_start_a_run(finished, flags, small_shapes, tmp_path, capsys):
    renamed = tmp_path / "renamed.yaml"
    text = Path(small_shapes).read_text()
    renamed.write_text(f"path: {Path(small_shapes).parent}\n{text}  6: extra\n")
    folder = train(**{**flags, "data": str(renamed), "epochs": 1}, weights=str(finished / "weights" / "best.pt"))
    said = capsys.readouterr().out
    assert "classes: 6 of 7 taken by their names; started afresh: extra" in said
    assert said.count("docs/concepts/glossary.md") == 1
    assert "another shape" not in said
    assert torch.load(folder / "weights" / "best.pt", weights_only=True)["config"]["names"][-1] == "extra"


def test_weights_that_are_none_are_said_before_the_memory_is_tried(flags, tmp_path, monkeypatch):
    (tmp_path / "no.pt").write_text("no weights")
    monkeypatch.setattr("engine.train.run.rehearsed", lambda *rest: pytest.fail("tried before"))
    with pytest.raises(UserError, match="no.pt: not a checkpoint"):
        train(**flags, weights=str(tmp_path / "no.pt"))


def test_frozen_parts_keep_their_weights(flags, finished):
    folder = train(**{**flags, "epochs": 1}, weights=str(finished / "weights" / "best.pt"), freeze="backbone")
    before, after = (torch.load(f / "weights" / "last.pt", weights_only=True)["model"] for f in (finished, folder))
    start = torch.load(finished / "weights" / "best.pt", weights_only=True)["model"]
    for name, value in after.items():
        if name.startswith("backbone") and value.is_floating_point():
            assert torch.allclose(value, start[name], atol=1e-6), name
    assert not torch.equal(after["head.convs.0.weight"], start["head.convs.0.weight"])
    assert before.keys() == after.keys()


def test_what_has_no_weights_cannot_be_frozen():
    network = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 1), pool=nn.MaxPool2d(2), head=nn.Conv2d(8, 1, 1)))
    with pytest.raises(UserError, match="--freeze: pool has no weights to keep; leave it out"):
        frozen_modules(network, "stem,pool")
    with pytest.raises(UserError, match="no part 'zzz' in the network; expected one of: head, pool, stem$"):
        frozen_modules(network, "zzz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"freeze": "spine"}, "no part 'spine'"), ({"freeze": "backbone,neck,head"}, "nothing is left to train")],
)
def test_freeze_mistakes(changes, message, flags):
    with pytest.raises(UserError, match=message):
        train(**flags, **changes)
    assert not Path(flags["project"]).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": "bf16"},
        {"multi_scale": True},
        {"optimizer": "adamw", "set": ["lr0=0.001"]},
        {"cos_lr": True, "close_mosaic": 1},
        {"set": ["lr_schedule=steps", "lr_steps=1"]},
        {"autoanchor": True},
        {"imgsz": [96], "hyp": "ggiou-yolo"},
        {"hyp": "sca", "set": ["ggiou_gamma=1.4"]},
        {"set": ["fl_gamma=1.5", "label_smoothing=0.1", "degrees=10", "shear=3", "perspective=0.0005", "flipud=0.5"]},
        {"set": ["decode=darknet", "activation=leaky"], "assign": "ggiou"},
        {"patience": 1},
    ],
    ids=str,
)
def test_every_option_trains(changes, flags):
    combined = {**flags, **changes, "set": [*flags["set"], *changes.get("set", [])]}
    folder = train(**combined)
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) in (1, 2)
    assert all(torch.isfinite(torch.tensor(float(row["loss"]))) for row in rows)


@pytest.mark.parametrize("stops", [False, True], ids=["finished", "stopped"])
def test_a_run_gives_back_the_memory_that_it_had_kept(stops, flags, monkeypatch):
    calls = []
    monkeypatch.setattr(
        engine.train.trainer, "keep_freed_memory", lambda processes: calls.append(f"keep {processes}") or True
    )
    monkeypatch.setattr(engine.train.trainer, "give_freed_memory_back", lambda: calls.append("give back"))
    if stops:
        monkeypatch.setattr(engine.train.trainer.Trainer, "validate", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError) if stops else nullcontext():
        train(**{**flags, "epochs": 1})
    assert calls == ["keep 1", "give back"]


@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_record_says_which_kernels_were_on(switch, flags, monkeypatch):
    monkeypatch.setattr(engine.train.trainer, "keep_freed_memory", lambda _: switch == "on" or pytest.fail("is off"))
    monkeypatch.setattr(engine.train.trainer, "give_freed_memory_back", lambda: None)
    folder = train(**{**flags, "epochs": 1, "set": [*flags["set"], f"cpu_kernels={switch}"]})
    used = json.loads((folder / "env.json").read_text())["cpu_kernels"]
    assert any("Winograd" in name for name in used) == any("memory" in name for name in used) == (switch == "on")
    assert bool(used) == (switch == "on")


def test_a_single_class_trains(flags, tmp_path):
    source = Path(flags["data"]).parent
    copy = tmp_path / "one"
    shutil.copytree(source, copy)
    for file in copy.rglob("labels/*/*.txt"):
        lines = [line.split() for line in file.read_text().splitlines()]
        file.write_text("".join(f"0 {' '.join(line[1:])}\n" for line in lines))
    (copy / "one.yaml").write_text("train: images/train\nval: images/val\nnames: [shape]\n")
    folder = train(**{**flags, "data": str(copy / "one.yaml")})
    assert float(list(csv.DictReader((folder / "results.csv").open()))[0]["class_loss"]) == 0


@pytest.mark.parametrize(
    ("epochs", "close_mosaic", "expected"),
    [(300, -1, 10), (40, -1, 10), (10, -1, 2), (3, -1, 0), (40, 0, 0), (8, 5, 5)],
)
def test_the_last_quarter_is_without_mosaic_unless_asked_otherwise(epochs, close_mosaic, expected):
    assert closing_epochs(RunConfig(epochs=epochs, close_mosaic=close_mosaic)) == expected


@pytest.mark.parametrize(
    ("changes", "told"), [({"close_mosaic": 4}, "4, all without mosaic (--close-mosaic)"), ({"close_mosaic": 0}, "4")]
)
def test_the_banner_says_where_no_epoch_has_mosaics(changes, told, flags):
    assert epochs_line(plan_run({**flags, "epochs": 4, **changes}).config) == told


def test_the_next_steps_stay_with_the_model():
    for cfg, shown in (
        ("yolov3-tiny", "--data shapes --loss giou"),
        ("yolov3", "--data shapes --cfg yolov3 --loss giou"),
    ):
        steps = next_steps(Path("run"), plan_run({"cfg": cfg}).config)
        assert f"python train.py {shown}\n" in steps and "results.png" in steps
    steps = next_steps(Path("run"), plan_run({"plots": False}).config)
    assert ".png" not in steps and ".jpg" not in steps and str(Path("run/results.csv")) in steps


@pytest.mark.parametrize(
    "name", ["weights/best.pt", "split/images/a.png", "metrics.json", "config.yaml", "results.csv"]
)
def test_exist_ok_replaces_no_files_of_a_folder_that_is_no_run(name, flags):
    folder = Path(flags["project"]) / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("somebody's\n")
    with pytest.raises(UserError, match=rf"{name.split('/images')[0]} would be replaced; expected another --name"):
        train(**{**flags, "name": "mine", "exist_ok": True})
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} <= {name, ".lock"}
    assert (folder / name).read_text() == "somebody's\n"
