"""The parts of a run that live through its epochs, and what they do in each."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from data.augment.augmentation import Augmentation
from data.augment.on_device import DevicePhotos
from data.dataset import DetectionDataset
from data.labels.index import LabelIndex
from data.loader import EpochSampler, build_loader
from data.split import fingerprint
from engine.resources import Resources
from engine.run_files import Records
from engine.settings.epochs import closing_epochs, step_milestones
from engine.train.divergence import Guard
from engine.train.epoch import multi_scale_sizes, train_one_epoch
from engine.train.epoch_report import EpochReport, Observer
from engine.train.stop_signals import StopRequest
from engine.validate.collect import collect
from engine.validate.weights import at_precision
from models.detector import AnyDetector
from models.families import family_of
from models.kernels.kept_memory import HoleLimit, give_freed_memory_back, keep_freed_memory, release_scratch
from models.weights.class_rows import by_class_name
from models.weights.read import read_weights
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.knobs import Config, ModelConfig, RunConfig, TorchvisionConfig, plain
from utils.distributed import Group
from utils.errors import InterruptedRun, UserError, nearest, printable
from utils.metrics.coco_metrics import Metrics
from utils.metrics.diagnosis import diagnose
from utils.metrics.truths import Truths
from utils.optim import Schedule, build_optimizer
from utils.progress import Progress, clock
from utils.ultralytics_only import ModelEMA

TOO_EARLY = "stopped before the first epoch was complete; nothing to resume"
LEAST_GROUP = 16  # photos to make mosaics of, also where batches are smaller


def augmentation(config: Config) -> Augmentation:
    """Return the training augmentation of a config."""
    hyper, run_config = config.hyper, config.run
    closing = closing_epochs(run_config)
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
        # Four photos of similar shape would fill a square, which --rect does without.
        mosaic=0.0 if run_config.rect else hyper.mosaic,
        mixup=0.0 if run_config.rect else hyper.mixup,
        zoom_out=hyper.zoom_out,
        iou_crop=hyper.iou_crop,
        close_mosaic_from=run_config.epochs - closing if closing else None,
    )


def build_schedule(config: Config, steps_per_epoch: int) -> Schedule:
    """Return the schedule of a config."""
    hyper, run_config = config.hyper, config.run
    return Schedule(
        steps_per_epoch=steps_per_epoch,
        epochs=run_config.epochs,
        lr0=hyper.lr0,
        lrf=hyper.lrf,
        decay_shape="cosine" if run_config.cos_lr else hyper.lr_schedule,
        momentum=hyper.momentum,
        warmup_epochs=hyper.warmup_epochs,
        warmup_momentum=hyper.warmup_momentum,
        warmup_bias_lr=hyper.warmup_bias_lr,
        accumulate=max(hyper.nominal_batch / run_config.batch_size, 1.0),
        milestones=step_milestones(hyper.lr_steps, run_config.epochs),
        drop=hyper.lr_drop,
    )


def load_weights(
    network: nn.Module,
    path: str,
    model: ModelConfig | TorchvisionConfig | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """Copy what fits from weights of any kind and say what was taken, what not and why; UserError if nothing fits.

    With `model`, what differs between it and the model the weights were trained in is said too; with `names`, the
    classes here, the rows of the last layers are taken by class name.
    """
    contents = family_of(model).read_weights(path) if model else read_weights(path)
    source, target, told = contents["model"], network.state_dict(), ""
    if names is not None:
        source, told = by_class_name(source, target, contents.get("names") or (), names)
    fitting = {name: value for name, value in source.items() if name in target and value.shape == target[name].shape}
    if not any(value.ndim == 4 for value in fitting.values()):
        raise UserError(f"{printable(path)}: none of its {len(source)} tensors fits this model; check --cfg")
    network.load_state_dict(fitting, strict=False)
    lines = [f"weights: {len(fitting)} of {len(target)} tensors from {printable(path)}"]
    lines += [f"  {printable(told)}"] if told else []
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
    """Return the modules that `--freeze` names, their parameters fixed.

    UserError with the nearest name for an unknown one.
    """
    parts, frozen = {name: part for name, part in network.named_modules() if name}, []
    for name in filter(None, (part.strip() for part in freeze.split(","))):
        if name not in parts:
            raise UserError(f"--freeze: no part {printable(name)!r} in the network{nearest(name, parts)}")
        if not any(True for _ in parts[name].parameters()):
            raise UserError(f"--freeze: {printable(name)} has no weights to keep; leave it out")
        frozen.append(parts[name].requires_grad_(False))
    if frozen and not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"--freeze {printable(freeze)}: nothing is left to train")
    return frozen


def ended(run_config: RunConfig, done: int, best_epoch: int) -> str:
    """Return why a run of which `done` epochs are over trains no further; empty while it does."""
    if done >= run_config.epochs:
        return f"all {done} epochs are done"
    if run_config.patience and done - 1 - best_epoch >= run_config.patience:
        return f"AP has not risen for {run_config.patience} epochs (--patience)"
    return ""


@dataclass
class Best:
    """The best epoch so far, by COCO AP of the averaged weights."""

    ap: float = -1.0
    epoch: int = -1


class Trainer:
    """The detector, its data, its optimiser and its weight average, in one process of a run.

    `observer` is what the detector's loss reports to.
    """

    def __init__(
        self,
        config: Config,
        detector: AnyDetector,
        observer: Observer,
        train_index: LabelIndex,
        val_index: LabelIndex,
        val_truths: Truths,
        device: torch.device,
        dtype: torch.dtype | None,
        group: Group,
        resources: Resources,
    ):
        run_config, hyper = config.run, config.hyper
        self.config, self.device, self.dtype, self.group = config, device, dtype, group
        self.train_index, self.val_index, self.val_truths = train_index, val_index, val_truths
        self.detector, self.observer = detector, observer
        if run_config.sync_bn:
            self.detector.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.detector.network)
        self.detector.network.to(device, memory_format=torch.channels_last)
        self.frozen = frozen_modules(self.detector.network, run_config.freeze)
        if run_config.compiled:
            # In place: its weights keep their names. The loss stays as it is, its shapes follow the truths of a batch.
            self.detector.network.compile()
        self.parallel: nn.Module = self.detector
        if group.world_size > 1:
            # Without device_ids, which would move the targets to the GPU; images are put there for it.
            self.parallel = DistributedDataParallel(self.detector)

        self.resources = resources
        self.photos: DevicePhotos | None = None
        self.train_loader = self.build_loader(train_index, augmentation(config))
        self.val_loader = self.build_loader(val_index, None)
        self.schedule = build_schedule(config, math.ceil(len(train_index) / run_config.batch_size))

        steps_together = max(round(hyper.nominal_batch / run_config.batch_size), 1)
        decay = hyper.weight_decay * run_config.batch_size * steps_together / hyper.nominal_batch
        network = self.detector.network
        self.optimizer = build_optimizer(run_config.optimizer, network, hyper.lr0, hyper.momentum, decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.average = ModelEMA(network, decay=hyper.ema_decay, tau=hyper.ema_tau)
        self.best = Best()
        self.start_epoch = 0
        self.stop = StopRequest()
        self.keeps_memory, self.holes = False, HoleLimit()

    @property
    def ended(self) -> str:
        """Why no epoch is left to train; empty while one is."""
        return ended(self.config.run, self.start_epoch, self.best.epoch)

    def build_loader(self, index: LabelIndex, settings: Augmentation | None) -> DataLoader:
        """Return this process's share of a split: augmented and shuffled for training, in order for validation."""
        flags, ranks = self.config.run, self.group
        cache = ("train" if settings else "val") in self.resources.cached
        group = max(flags.batch_size, LEAST_GROUP) if self.config.hyper.mosaic_from == "batch" else 0
        dataset = DetectionDataset(index, flags.image_size, settings, flags.seed, cache, group, flags.photo_bits)
        if settings and self.resources.on_device:
            self.photos = DevicePhotos(dataset.store(self.device))
        batch = flags.batch_size // ranks.world_size if settings else flags.batch_size
        return build_loader(
            dataset,
            batch,
            self.resources.workers,
            shuffle=settings is not None,
            seed=flags.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
            rect_stride=max(self.config.model.strides) if flags.rect and settings else 0,
        )

    def fit(self, records: Records) -> None:
        """Train epoch by epoch until all are done or AP no longer rises, then validate the best once more."""
        first, start = self.start_epoch, time.perf_counter()
        self.guard = self.new_guard(records.folder)
        if not self.measurable and not self.ended:
            print("the validation split has no labels: AP is undefined, and best.pt is the last epoch's")
        if self.epochs_in_bf16 and not self.ended:
            print("epochs are validated in bf16, as they are trained; metrics.json of the end is float32")
        with self.stop.noted():
            while not self.ended:
                self.one_epoch(self.start_epoch, records, start)
                self.start_epoch += 1
                self.leave_if_asked(records.folder, self.start_epoch)
        trained = self.start_epoch - first
        if trained and self.start_epoch < self.config.run.epochs:
            print(f"stopped: {self.ended}")
        took = f"trained {trained} epochs in {clock(time.perf_counter() - start)}"
        print(took if trained else f"{self.ended}: what is left is the final validation")
        self.finish(records)

    def one_epoch(self, epoch: int, records: Records, start: float) -> None:
        """Train, validate, record and save an epoch of a run that began at `start` (a performance counter)."""
        row = self.train_epoch(epoch, records)
        # Batch statistics are each process's own until here.
        self.group.align(self.detector.network)
        self.group.align(self.average.ema)
        metrics = self.validate()
        # Without labels AP is not a number, and never becomes one: the last epoch counts.
        improved = not metrics.overall["ap"] <= self.best.ap
        if improved:
            self.best = Best(metrics.overall["ap"], epoch)
        line = records.epoch(epoch, row, metrics, seconds=time.perf_counter() - start)
        self.save(records, epoch, metrics, improved)
        # Last, since who reads it may be gone.
        print(line, flush=True)

    def release(self) -> None:
        """Give back what the C library kept from step to step, which a process that trains on the side wants back."""
        if self.keeps_memory:
            give_freed_memory_back()

    def leave_if_asked(self, folder: Path, done: int) -> None:
        """End the run after a SIGINT or SIGTERM, saying how to go on; raises InterruptedRun."""
        if self.stop.signal is None:
            return
        if done == 0:
            raise InterruptedRun(f"{self.stop.signal}: {TOO_EARLY}")
        raise InterruptedRun(
            f"{self.stop.signal}: stopped; {done} complete epochs are saved. "
            f"Go on: python train.py --resume {printable(folder)}"
        )

    def new_guard(self, folder: Path) -> Guard:
        """Return the guard of this run, which keeps a bad batch in the run folder."""
        images = self.train_index.images

        def keep(batch: Any) -> Path:
            path = folder / "nan_batch.pt"
            names = [images[row] for row in batch.index.tolist()]
            save_checkpoint(path, {"images": batch.images.cpu(), **batch.targets._asdict(), "photos": names})
            return path

        def image_names(batch: Any) -> list[str]:
            return [printable(Path(images[row]).name) for row in batch.index.tolist()]

        patience = self.config.run.nan_patience
        return Guard(self.detector.network, patience, image_names, keep, self.group.sum)

    def train_epoch(self, epoch: int, records: Records) -> dict[str, float | None]:
        """Train for one epoch over the training set; returns the means to log."""
        report, skipped = EpochReport(), self.guard.skipped
        self.observer.report = report
        sampler = cast(EpochSampler, self.train_loader.sampler)
        sampler.set_epoch(epoch)
        self.parallel.train()
        for module in self.frozen:
            module.eval()
        share = len(sampler)
        progress = Progress(f"epoch {epoch + 1}/{self.config.run.epochs}", share, live=self.group.main)

        def after_batch(report: EpochReport, batch: Any) -> None:
            if report.steps == 1 and self.device.type == "cpu" and self.config.hyper.cpu_kernels == "on":
                # Now that a step has shown what it takes.
                self.keeps_memory = keep_freed_memory(self.group.local_size) or self.keeps_memory
            if self.keeps_memory:
                self.holes.after_step()
            progress.advance(len(batch.images), report.line)
            records.train_batch(epoch, report.steps, batch)
            self.leave_if_asked(records.folder, epoch)

        stride = max(self.config.model.strides)
        sizes = multi_scale_sizes(stride, self.config.run.seed)
        train_one_epoch(
            self.parallel,
            self.photos.painted(self.train_loader) if self.photos else self.train_loader,
            self.optimizer,
            self.schedule,
            epoch,
            report,
            self.guard,
            device=self.device,
            dtype=self.dtype,
            scaler=self.scaler,
            grad_clip=self.config.hyper.grad_clip,
            ranks=self.group.world_size,
            size_at=sizes if self.config.run.multi_scale else None,
            after_step=lambda: self.average.update(self.detector.network),
            after_batch=after_batch,
        )
        progress.close()
        report.merge(self.group)
        lr = self.optimizer.param_groups[-1]["lr"]
        steps = {
            "skipped_steps": self.guard.skipped - skipped,
            "lr": lr,
            "images_per_second": progress.speed * self.group.world_size,
        }
        return {**report.row(), **steps}

    @property
    def epochs_in_bf16(self) -> bool:
        """Whether epochs are validated in bfloat16: on a CPU that trains in it. A GPU's float32 is fast enough."""
        return self.dtype is torch.bfloat16 and self.device.type == "cpu"

    @property
    def measurable(self) -> bool:
        """Tell whether the validation split has labels that count: without any, AP is undefined."""
        return not self.val_truths.ignored.all()

    def validate(self, on_batch: Callable[[int, Any, list], None] | None = None, final: bool = False) -> Metrics:
        """Measure the averaged weights, which are what best.pt holds, on the validation split by COCO's metrics.

        The final time by side ratio and kind of error too, and in float32, as val.py measures unless asked otherwise.
        """
        bf16 = self.epochs_in_bf16 and not final
        detector = at_precision(self.detector, self.average.ema, self.config, bf16)
        split = (self.val_loader, self.val_index, self.config.names, self.device)

        def after_batch(number: int, batch: Any, detections: list) -> None:
            if self.keeps_memory:
                self.holes.after_step()
            if on_batch:
                on_batch(number, batch, detections)

        if final:
            # What a training step takes would lie beside what a validation in float32 takes, the run's peak.
            release_scratch()
        if self.keeps_memory and final:
            self.holes.give_back()
        elif self.keeps_memory:
            self.holes.begin("validation")
        collected = collect(detector, *split, after_batch, self.val_truths, group=self.group)
        if final and self.keeps_memory:
            self.holes.give_back()
        metrics = None
        if self.group.main:
            metrics = collected.compute(by_ratio=final, errors=final)
            if not metrics.overall["ap50"] > 0 and (final or self.measurable):
                trained = f"trained in {str(self.dtype).removeprefix('torch.')}" if self.dtype else "amp off"
                print(diagnose(collected, f"{'bf16' if bf16 else 'float32'}, {trained}"))
        return self.group.share(metrics)

    def save(self, records: Records, epoch: int, metrics: Metrics, improved: bool) -> None:
        """Write last.pt, all that an exact resume needs, and best.pt after the best epoch so far."""
        if not self.group.main:
            return
        weights = records.folder / "weights"
        contents = {
            "config": self.config.to_dict(),
            "names": list(self.config.names),
            "epoch": epoch + 1,
            # Without those of every class, which metrics.json has: of 5,000 classes they took 7 s to write and read.
            "metrics": {name: value for name, value in metrics.to_json().items() if name != "per_class"},
            "model": self.average.ema.state_dict(),
            "similarity": self.detector.running_statistics(),
        }
        training = {
            "network": self.detector.network.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "data": fingerprint(self.train_index),
            "val_data": fingerprint(self.val_index),
            "best": {"ap": self.best.ap, "epoch": self.best.epoch},
            "warmup_steps": self.schedule.warmup_steps,
            "results": records.rows(),
        }
        save_checkpoint(weights / "last.pt", {**contents, **training}, previous=weights / "last_prev.pt")
        # After last.pt, from which --resume makes it anew: the other way round, where last.pt does not fit on the disk,
        # best.pt would be an epoch that the run does not know.
        if improved:
            save_checkpoint(weights / "best.pt", contents)

    def restore(self, contents: dict[str, Any]) -> None:
        """Take up a run where its last.pt left it; randomness needs no state, it is a function of seed and epoch."""
        self.detector.network.load_state_dict(contents["network"])
        self.average.ema.load_state_dict(contents["model"])
        self.average.updates = contents["average_updates"]
        self.optimizer.load_state_dict(contents["optimizer"])
        self.scaler.load_state_dict(contents["scaler"])
        # Checkpoints from before there were such losses have none.
        self.detector.load_running_statistics(contents.get("similarity", {}))
        self.best = Best(**self.group.share(contents["best"]))
        self.start_epoch = contents["epoch"]
        # With more epochs the warm-up would be longer, and a run that is over with it would be thrown back into it.
        self.schedule = replace(self.schedule, warmup_limit=contents.get("warmup_steps"))

    def finish(self, records: Records) -> None:
        """Validate best.pt once more for its tables, metrics.json and plots."""
        best = load_checkpoint(records.folder / "weights" / "best.pt")["model"] if self.group.main else None
        self.average.ema.load_state_dict(self.group.share(best))
        # No epoch follows: what only training keeps, photos too, makes room for a validation in float32.
        del best, self.optimizer, self.train_loader
        self.holes = HoleLimit()
        self.detector.network = self.average.ema
        metrics = self.validate(records.val_batch, final=True)
        print(metrics.table())
        records.finish(metrics)
        ap = f"AP {self.best.ap:.4f}{' in bf16' if self.epochs_in_bf16 else ''}"
        if not self.measurable:
            ap = "the last; AP is undefined, the validation split has no labels"
        print(f"best.pt = epoch {self.best.epoch + 1} ({ap}, averaged weights)")
