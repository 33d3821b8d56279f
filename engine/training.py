"""A training run, from a checked plan to a run folder."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.augment import Augmentation
from data.data_yaml import DataSpec
from data.dataset import DetectionDataset
from data.labels import LabelIndex
from data.loader import build_loader
from data.split import load_split
from engine.banner import banner, next_steps
from engine.epoch import multi_scale_sizes, train_one_epoch
from engine.evaluation import evaluate, protocol_line
from engine.plan import Plan, data_root, open_data
from engine.records import Records
from engine.report import EpochReport
from models.anchor_fit import fit_anchors
from models.anchors import best_possible_recall
from models.build import build_detector, with_network
from models.weights import read_weights
from utils.checkpoint import load_checkpoint, newest, save_checkpoint
from utils.config import Config, ModelConfig, RunConfig, plain
from utils.device import autocast_dtype, choose_device, worker_count
from utils.errors import UserError, nearest, printable
from utils.flags import parsed
from utils.metrics import Metrics
from utils.optim import Schedule, build_optimizer
from utils.progress import Progress, clock
from utils.run_folder import new_run_folder
from utils.ultralytics_door import ModelEMA


def run(plan: Plan, resumed: dict[str, Any] | None = None, folder: Path | None = None) -> Path:
    """Trains as planned, or on from a last.pt's contents, and returns the run folder.

    Raises UserError and DivergedError for what stops it.
    """
    device = choose_device(plan.config.run.device)
    dtype = autocast_dtype(plan.config.run.amp, device)
    set_determinism(plan.config.run.seed, plan.config.run.deterministic)
    train_index, val_index = (checked_split(plan.data, split) for split in ("train", "val"))
    config = plan.config if resumed else with_anchors(plan.config, train_index)
    trainer = Trainer(config, train_index, val_index, device, dtype)
    if resumed:
        trainer.restore(resumed)
    elif config.run.weights:
        print(load_weights(trainer.detector.network, config.run.weights, config.model))
        trainer.average = new_average(trainer.detector.network, config)
    folder = folder or new_run_folder(Path(config.run.project), config.run.name, config.run.exist_ok)
    (folder / "weights").mkdir(exist_ok=True)
    protocol = protocol_line(config, "val", len(val_index))
    records = Records(folder, config, train_index, trainer.start_epoch, protocol)
    print(banner(config, plan.data, train_index, val_index, device, dtype, trainer.workers, folder))
    trainer.fit(records)
    print(next_steps(folder, config))
    return folder


RESUME_FLAGS = {"resume", "epochs", "device", "workers", "cache", "set"}


def resume(flags: Mapping[str, Any]) -> Path:
    """Continues the run that `flags["resume"]` names (newest, a folder or a last.pt) to its last epoch, or to `epochs`.

    UserError where the run is complete, or another flag would change it.
    """
    path = resume_path(flags["resume"])
    contents = load_checkpoint(path)
    if "optimizer" not in contents:
        raise UserError(f"{printable(path)}: holds weights only; --resume needs the last.pt of a run")
    changed = sorted(name for name, value in flags.items() if value and name not in RESUME_FLAGS)
    if changed or flags.get("set"):
        names = ", ".join("--" + name.replace("_", "-") for name in changed) or "--set"
        raise UserError(f"--resume keeps the settings of its run; {names} would change it: start a new run instead")
    config = Config.from_dict(contents["config"], str(path))
    kept = {name: flags[name] for name in ("epochs", "device", "workers", "cache") if name in flags}
    config = replace(config, run=parsed(RunConfig, {**plain(config.run), **kept}))
    done = contents["epoch"]
    if done >= config.run.epochs:
        raise UserError(f"{printable(path)}: all {done} epochs are done; --epochs N (above {done}) extends the run")
    spec = open_data(config.run.data, data_root(config.run.data_root))
    if spec.names != config.names:
        raise UserError(f"{printable(spec.yaml)}: its classes differ from those of the run: {', '.join(config.names)}")
    return run(Plan(config, spec), contents, path.parents[1])


def resume_path(name: str) -> Path:
    """The last.pt that --resume means."""
    if name == "newest":
        return newest(Path("runs/train"), "last.pt")
    path = Path(name)
    return path / "weights" / "last.pt" if path.is_dir() else path


def checked_split(data: DataSpec, split: str) -> LabelIndex:
    """A split's images and labels; says what is wrong with them."""
    index = load_split(data, split)
    if index.report.summary():
        print(f"{split} {index.report.summary()}", file=sys.stderr)
    return index


def set_determinism(seed: int, deterministic: bool) -> None:
    """Seeds torch's default generators; everything that draws here has a generator of its own."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def network_sizes(index: LabelIndex, image_size: tuple[int, int]) -> torch.Tensor:
    """Sides (M, 2) in pixels that the truths of a split have at the network input."""
    scale = (torch.tensor(image_size) / torch.from_numpy(index.sizes)).amin(1)
    per_box = scale.repeat_interleave(torch.from_numpy(index.starts).diff())
    boxes = torch.from_numpy(index.boxes)
    return (boxes[:, 2:] - boxes[:, :2]) * per_box[:, None]


def with_anchors(config: Config, index: LabelIndex) -> Config:
    """The config with anchors fitted to the data where `--autoanchor` asks; prints the best possible recall."""
    sizes, model = network_sizes(index, config.run.image_size), config.model
    if config.run.autoanchor:
        try:
            anchors = fit_anchors(sizes, len(model.anchors), len(model.anchors[0]), config.run.seed)
        except ValueError as error:
            raise UserError(f"--autoanchor: {error}; train without it") from None
        model = replace(model, anchors=tuple(tuple(tuple(size) for size in level) for level in anchors))
        print(f"autoanchor: {anchors}")
    shapes = torch.tensor(model.anchors).flatten(0, 1)
    recall, per_truth = best_possible_recall(sizes, shapes, config.hyper.anchor_t)
    print(
        f"anchors: best possible recall {recall:.4f} at side ratio {config.hyper.anchor_t:g}, "
        f"{per_truth:.1f} anchor shapes a truth"
    )
    return replace(config, model=model)


def augmentation(config: Config) -> Augmentation:
    """The training augmentation of a config."""
    hyper, run_config = config.hyper, config.run
    closed = run_config.epochs - run_config.close_mosaic if run_config.close_mosaic else None
    return Augmentation(
        hsv_h=hyper.hsv_h,
        hsv_s=hyper.hsv_s,
        hsv_v=hyper.hsv_v,
        degrees=hyper.degrees,
        translate=hyper.translate,
        scale=hyper.scale,
        shear=hyper.shear,
        perspective=hyper.perspective,
        flipud=hyper.flipud,
        fliplr=hyper.fliplr,
        mosaic=hyper.mosaic,
        mixup=hyper.mixup,
        close_mosaic_from=closed,
    )


def build_schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """The schedule of a config."""
    hyper, run_config = config.hyper, config.run
    return Schedule(
        steps_per_epoch=steps_per_epoch,
        epochs=run_config.epochs,
        lr0=hyper.lr0,
        lrf=hyper.lrf,
        cosine=run_config.cos_lr,
        momentum=hyper.momentum,
        warmup_epochs=hyper.warmup_epochs,
        warmup_momentum=hyper.warmup_momentum,
        warmup_bias_lr=hyper.warmup_bias_lr,
        accumulate=max(hyper.nominal_batch / run_config.batch_size, 1.0),
    )


def new_average(network: nn.Module, config: Config) -> ModelEMA:
    """The exponential moving average of a network's weights."""
    return ModelEMA(network, decay=config.hyper.ema_decay, tau=config.hyper.ema_tau)


def load_weights(network: nn.Module, path: str, model: ModelConfig | None = None) -> str:
    """Copies what fits from weights of any kind and says what was taken, what not and why; UserError if nothing fits.

    With `model`, what differs between it and the model the weights were trained in is said too.
    """
    contents = read_weights(path)
    source, target = contents["model"], network.state_dict()
    fitting = {name: value for name, value in source.items() if name in target and value.shape == target[name].shape}
    if not any(name.endswith("conv.weight") for name in fitting):
        raise UserError(f"{printable(path)}: none of its {len(source)} tensors fits this model; check --cfg")
    network.load_state_dict(fitting, strict=False)
    lines = [f"weights: {len(fitting)} of {len(target)} tensors from {printable(path)}"]
    shapes = [
        f"{name} ({'x'.join(map(str, source[name].shape))} there, {'x'.join(map(str, target[name].shape))} here)"
        for name in sorted(set(target) & set(source) - set(fitting))
    ]
    for why, names in (
        ("not taken, another shape", shapes),
        ("not in the file, started afresh", sorted(set(target) - set(source))),
        ("of no use in this model", sorted(set(source) - set(target))),
    ):
        if names:
            lines.append(f"  {why}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}")
    theirs, ours = contents["config"]["model"], plain(model) if model else {}
    differing = [f"{key} {theirs[key]} (here {ours[key]})" for key in ours if theirs.get(key, ours[key]) != ours[key]]
    if differing:
        lines.append(f"  note: they were trained with {'; '.join(differing)}; --set changes it here")
    return "\n".join(lines)


def frozen_modules(network: nn.Module, freeze: str) -> list[nn.Module]:
    """The modules that `--freeze` names, their parameters fixed; UserError with the nearest name for an unknown one."""
    parts, frozen = dict(network.named_modules()), []
    for name in filter(None, (part.strip() for part in freeze.split(","))):
        if name not in parts:
            raise UserError(f"--freeze: no part {printable(name)!r} in the network{nearest(name, parts)}")
        frozen.append(parts[name].requires_grad_(False))
    if frozen and not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"--freeze {printable(freeze)}: nothing is left to train")
    return frozen


@dataclass
class Best:
    """The best epoch so far, by COCO AP of the averaged weights."""

    ap: float = -1.0
    epoch: int = -1


class Trainer:
    """The parts of a run that live through its epochs."""

    def __init__(
        self,
        config: Config,
        train_index: LabelIndex,
        val_index: LabelIndex,
        device: torch.device,
        dtype: torch.dtype | None,
    ):
        run_config, hyper = config.run, config.hyper
        self.config, self.device, self.dtype, self.val_index = config, device, dtype, val_index
        self.report = EpochReport()
        self.detector = build_detector(config, lambda *seen: self.report.observe(*seen))
        self.detector.network.to(device, memory_format=torch.channels_last)
        self.frozen = frozen_modules(self.detector.network, run_config.freeze)

        self.workers = worker_count(run_config.workers)
        seed, size, batch = run_config.seed, run_config.image_size, run_config.batch_size
        train_set = DetectionDataset(train_index, size, augmentation(config), seed, run_config.cache)
        val_set = DetectionDataset(val_index, size, None, seed, run_config.cache)
        self.train_loader = build_loader(train_set, batch, self.workers, shuffle=True, seed=seed)
        self.val_loader = build_loader(val_set, batch, self.workers, shuffle=False, seed=seed)

        self.schedule = build_schedule(config, math.ceil(len(train_index) / batch))
        steps_together = max(round(hyper.nominal_batch / batch), 1)
        decay = hyper.weight_decay * batch * steps_together / hyper.nominal_batch
        self.optimizer = build_optimizer(run_config.optimizer, self.detector.network, hyper.lr0, hyper.momentum, decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.average = new_average(self.detector.network, config)
        self.best = Best()
        self.start_epoch = 0

    def fit(self, records: Records) -> None:
        """Trains epoch by epoch, validating, recording and saving after each; stops early when AP no longer rises."""
        run_config, start = self.config.run, time.perf_counter()
        for epoch in range(self.start_epoch, run_config.epochs):
            row = self.train_epoch(epoch, records)
            metrics = self.validate()
            ap = metrics.overall["ap"]
            improved = ap > self.best.ap
            if improved:
                self.best = Best(ap, epoch)
            records.epoch(epoch, row, metrics, seconds=time.perf_counter() - start)
            self.save(records.folder, epoch, metrics, improved)
            if run_config.patience and epoch - self.best.epoch >= run_config.patience:
                print(f"stopped: AP has not risen for {run_config.patience} epochs (--patience)")
                break
        print(f"trained {epoch + 1} epochs in {clock(time.perf_counter() - start)}")
        self.finish(records)

    def train_epoch(self, epoch: int, records: Records) -> dict[str, float | None]:
        """One epoch over the training set; returns the means to log."""
        self.report = EpochReport()
        self.train_loader.sampler.set_epoch(epoch)
        self.detector.train()
        for module in self.frozen:
            module.eval()
        progress = Progress(f"epoch {epoch + 1}/{self.config.run.epochs}", len(self.train_loader.dataset))

        def after_batch(report: EpochReport, batch: Any) -> None:
            progress.advance(len(batch.images), report.line() if progress.live else "")
            records.train_batch(epoch, report.steps, batch)

        stride = max(self.config.model.strides)
        sizes = multi_scale_sizes(self.config.run.image_size, stride, self.config.run.seed)
        train_one_epoch(
            self.detector,
            self.train_loader,
            self.optimizer,
            self.schedule,
            epoch,
            self.report,
            device=self.device,
            dtype=self.dtype,
            scaler=self.scaler,
            grad_clip=self.config.hyper.grad_clip,
            size_at=sizes if self.config.run.multi_scale else None,
            after_step=lambda: self.average.update(self.detector.network),
            after_batch=after_batch,
        )
        progress.close()
        lr = self.optimizer.param_groups[-1]["lr"]
        return {**self.report.row(), "lr": lr, "images_per_second": progress.speed}

    def validate(self, on_batch: Callable[[int, Any, list], None] | None = None) -> Metrics:
        """COCO metrics of the averaged weights, which are what best.pt holds, on the validation split."""
        detector = with_network(self.detector, self.average.ema)
        return evaluate(detector, self.val_loader, self.val_index, self.config.names, self.device, on_batch)

    def save(self, folder: Path, epoch: int, metrics: Metrics, improved: bool) -> None:
        """Writes last.pt, all that an exact resume needs, and best.pt after the best epoch so far."""
        contents = {
            "config": self.config.to_dict(),
            "names": list(self.config.names),
            "epoch": epoch + 1,
            "metrics": metrics.to_json(),
            "model": self.average.ema.state_dict(),
        }
        if improved:
            save_checkpoint(folder / "weights" / "best.pt", contents)
        training = {
            "network": self.detector.network.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": {"ap": self.best.ap, "epoch": self.best.epoch},
        }
        save_checkpoint(folder / "weights" / "last.pt", {**contents, **training})

    def restore(self, contents: dict[str, Any]) -> None:
        """Takes up a run where its last.pt left it; randomness needs no state, it is a function of seed and epoch."""
        self.detector.network.load_state_dict(contents["network"])
        self.average.ema.load_state_dict(contents["model"])
        self.average.updates = contents["average_updates"]
        self.optimizer.load_state_dict(contents["optimizer"])
        self.scaler.load_state_dict(contents["scaler"])
        self.best = Best(**contents["best"])
        self.start_epoch = contents["epoch"]

    def finish(self, records: Records) -> None:
        """Validates best.pt once more for its tables, metrics.json and plots."""
        self.average.ema.load_state_dict(load_checkpoint(records.folder / "weights" / "best.pt")["model"])
        metrics = self.validate(records.val_batch)
        print(metrics.table())
        records.finish(metrics)
        print(f"best.pt = epoch {self.best.epoch + 1} (AP {self.best.ap:.4f}, averaged weights)")
