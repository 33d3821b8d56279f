"""A training run, from a checked plan to a run folder."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alignyolo.anchors import best_possible_recall
from data.data_yaml import DataSpec
from data.formats.coco_truths import split_truths
from data.labels.doctor import Settings, examine
from data.labels.index import LabelIndex
from data.open.hold_out import FOLDER as SPLIT
from data.open.hold_out import keep_split
from data.pixel_limit import pixels_allowed
from data.sampling import repeated
from data.split import fingerprint, load_split
from engine.failures import explained
from engine.resources import Resources, plan_resources
from engine.run_files import NoRecords, Records
from engine.run_lock import only_writer
from engine.settings.configure import Plan, advice
from engine.train.banner import banner, next_steps
from engine.train.epoch_report import Observer
from engine.train.matched_gain import with_matched_gain
from engine.train.memory_trial import rehearsed, require_batches
from engine.train.photo_depth import with_photo_bits
from engine.train.stop_signals import StopNow, StopRequest, stop_requests
from engine.train.trainer import TOO_EARLY, Trainer, load_weights
from engine.validate.collect import protocol_line
from models.families import build_detector, family_of
from models.kernels.in_use import compile_ahead, cpu_kernels_in_use
from models.kernels.kept_memory import share_one_heap
from models.yolov3.anchor_fit import fit_anchors
from utils.checkpoint import remove_unfinished
from utils.config.knobs import Config
from utils.device import autocast_dtype, choose_device, require_compiler
from utils.distributed import Group, group_of_environment, joined, restart_note
from utils.errors import InterruptedRun, UserError, printable
from utils.run_folder import new_run_folder

UNTOLD: tuple[str, ...] = ("shared photo", "shared label", "rotated boxes", "missing photo", "class without labels")
UNTOLD += ("class not in train", "below 2 pixels")
REPLACED: tuple[str, ...] = ("weights/last.pt", "weights/last_prev.pt", "weights/best.pt", "weights/best_damaged.pt")
REPLACED += ("metrics.json", "metrics.csv", "nan_batch.pt")
CONFIG = "config.yaml"
WRITTEN: tuple[str, ...] = (*REPLACED, SPLIT, CONFIG, "env.json", "results.csv", "labels.png")


def run(plan: Plan, resumed: dict[str, Any] | None = None, folder: Path | None = None) -> Path:
    """Train as planned, or on from a last.pt's contents, and return the run folder.

    Raises UserError and DivergedError for what stops it, InterruptedRun where somebody does. Under torchrun, every
    process trains on its share.
    """
    share_one_heap()
    with stop_requests() as stop, pixels_allowed(plan.config.run.max_pixels):
        try:
            return run_until(stop, plan, resumed, folder)
        except StopNow as asked:
            raise InterruptedRun(f"{asked}: {'nothing new to save' if resumed else TOO_EARLY}") from None


def run_until(stop: StopRequest, plan: Plan, resumed: dict[str, Any] | None, folder: Path | None) -> Path:
    """Run until the end or until somebody asks to stop."""
    group = group_of_environment()
    device = choose_device(plan.config.run.device, group.local_rank)
    check_group(plan.config, group, device)
    if plan.config.run.compiled:
        require_compiler(device)
    if group.main:
        compile_kernels_ahead(plan.config, device)
        # Whatever is wrong with the data is said before the other processes wait for this one.
        splits = [checked_split(plan.data, split, plan.config.run.bad_labels) for split in ("train", "val")]
        tell_checkup(plan, *splits)
        if not resumed and advice(plan.config):
            print(advice(plan.config), file=sys.stderr)
    with joined(group, device), contextlib.ExitStack() as claims:
        train_index, val_index = group.share(splits if group.main else None)
        with explained(lambda: f"at --batch-size {plan.config.run.batch_size}"):
            trainer, resources = prepared(plan, train_index, val_index, group, device, resumed)
            if folder is None:
                folder = group.share(claim_folder(trainer.config, group, claims) if group.main else None)
            return trained(trainer, resources, plan, folder, stop, resumed)


def compile_kernels_ahead(config: Config, device: torch.device) -> None:
    """Begin to compile the kernels of a first training on this machine, while the data is read."""
    if device.type == "cpu" and config.hyper.cpu_kernels == "on" and family_of(config.model).cpu_kernels:
        compile_ahead(autocast_dtype(config.run.amp, device) or torch.float32)


def prepared(
    plan: Plan,
    train_index: LabelIndex,
    val_index: LabelIndex,
    group: Group,
    device: torch.device,
    resumed: dict[str, Any] | None,
) -> tuple[Trainer, Resources]:
    """Return the trainer of a run with its weights in place, and what it may take; nothing is written yet."""
    dtype = autocast_dtype(plan.config.run.amp, device)
    train_index = repeated(train_index, plan.config.hyper.repeat_threshold)
    set_determinism(plan.config.run.seed, plan.config.run.deterministic)
    config = plan.config
    if not resumed:
        config = group.share(with_photo_bits(config, train_index.images) if group.main else None)
        config = with_matched_gain(with_anchors(config, train_index), train_index)
    val_truths = split_truths(plan.data, "val", val_index)
    # A resumed run has been rehearsed, and could not change its batch size.
    rehearse = group.main and not resumed
    observer = Observer()
    detector = build_detector(config, observer, group)
    # Before the memory is tried, which takes seconds: a file may be none of weights, or of another model.
    for path in [] if resumed else start_weights(config):
        print(load_weights(detector.network, path, config.model, config.names))
    require_batches(config, len(train_index), group)
    tried = rehearsed(config, detector, train_index, device, group) if rehearse else (config, 0)
    config, peak = group.share(tried)
    require_batches(config, len(train_index), group)
    splits = {"train": train_index, "val": val_index}
    resources = plan_resources(config.run, splits, group, peak, device=device)
    print(resources.said)
    indices = (train_index, val_index, val_truths)
    trainer = Trainer(config, detector, observer, *indices, device, dtype, group, resources)
    if resumed:
        require_same_data(resumed, train_index, val_index)
        trainer.restore(resumed)
    return trainer, resources


def trained(
    trainer: Trainer,
    resources: Resources,
    plan: Plan,
    folder: Path,
    stop: StopRequest,
    resumed: dict[str, Any] | None,
) -> Path:
    """Do the run itself, in every process of the group."""
    config, group, device, dtype = trainer.config, trainer.group, trainer.device, trainer.dtype
    train_index, val_index = trainer.train_index, trainer.val_index
    records: Records = NoRecords(folder)
    if group.main:
        protocol = protocol_line(config, "val", len(val_index), trainer.val_truths)
        detector = trainer.detector
        kernels = cpu_kernels_in_use(detector.network, device, config.hyper.cpu_kernels, detector.loss)
        rows = (resumed or {}).get("results")
        records = Records(folder, config, train_index, trainer.start_epoch, protocol, kernels, rows, trainer.val_truths)
        # After config.yaml, by which --exist-ok knows a run that was killed here.
        keep_split(plan.data, folder)
    print(banner(config, plan.data, train_index, val_index, device, dtype, resources.workers, folder, trainer.schedule))
    if resumed and not trainer.ended:
        done = trainer.start_epoch
        print(f"resumed after epoch {done} of {config.run.epochs}: goes on with epoch {done + 1}")
    trainer.stop = stop
    try:
        trainer.fit(records)
    except StopNow as asked:
        if not trainer.ended:
            raise
        raise InterruptedRun(
            f"{asked}: all epochs are saved, the final validation is left: python train.py --resume {printable(folder)}"
        ) from None
    finally:
        trainer.release()
    print(next_steps(folder, config))
    return folder


def start_weights(config: Config) -> list[str]:
    """Return the files that a new run starts from: a backbone's first, `--weights` over it."""
    return [path for path in (config.model.backbone_weights, config.run.weights) if path]


def require_same_data(resumed: dict[str, Any], train_index: LabelIndex, val_index: LabelIndex) -> None:
    """Raise UserError, with the difference, if a split is not the one that the run began with.

    The best epoch would be chosen by AP on two different splits. Old checkpoints do not know their validation split.
    """
    for split, part, index in (("training", "data", train_index), ("validation", "val_data", val_index)):
        now = fingerprint(index)
        before = resumed.get(part, now)
        if before != now:
            then, here = (
                f"{each['images']} images, {each['boxes']} boxes, {each['sha256'][:12]}" for each in (before, now)
            )
            raise UserError(
                f"--resume: the {split} split has changed since the run began ({then}; now {here}): start a new run "
                "with --weights instead"
            )


def check_group(config: Config, group: Group, device: torch.device) -> None:
    """Raise UserError unless every process gets the same number of images per step, and can do what is asked."""
    if config.run.batch_size > 0 and config.run.batch_size % group.world_size:
        raise UserError(
            f"--batch-size {config.run.batch_size} is the batch of all {group.world_size} processes together: "
            f"expected a multiple of {group.world_size}"
        )
    autocast_dtype(config.run.amp, device)
    if config.run.sync_bn and (device.type != "cuda" or group.world_size == 1):
        raise UserError(f"--sync-bn: expected several processes on GPUs, found {group.world_size} on {device.type}")


def claim_folder(config: Config, group: Group, claims: contextlib.ExitStack) -> Path:
    """Make the run folder, keep others out of it until `claims` ends, and note it for a restart by torchrun."""
    folder = new_run_folder(Path(config.run.project), config.run.name, config.run.exist_ok)
    claims.enter_context(claimed(folder))
    clear_old_run(folder, config)
    (folder / "weights").mkdir(exist_ok=True)
    note = restart_note(group, Path(config.run.project))
    if note is not None:
        note.write_text(str(folder.absolute()), encoding="utf-8")
    return folder


def clear_old_run(folder: Path, config: Config) -> None:
    """Remove what a run that `--exist-ok` replaces has left and others take for the new one's.

    --resume would go on with its last.pt where this run stops in its first epoch, and val.py would measure on its
    validation split, which may be what this run trains on. Weights that this run starts from stay until its first
    epoch is saved. UserError, and all stays, where the folder is no run and has files of these names.
    """
    split = folder / SPLIT
    foreign = None if is_run(folder) else next((each for each in WRITTEN if os.path.lexists(folder / each)), None)
    if foreign:
        raise UserError(
            f"--exist-ok: {printable(folder)} is no run of train.py, and its {foreign} would be replaced; expected "
            "another --name or --project"
        )
    if split.resolve() in Path(config.run.data).resolve().parents:
        raise UserError(
            f"--exist-ok: {printable(config.run.data)} lies in the run that would be replaced; expected another --name"
        )
    starts = {Path(path).resolve() for path in start_weights(config)}
    for name in REPLACED:
        if (folder / name).resolve() not in starts:
            (folder / name).unlink(missing_ok=True)
    if split.is_symlink():
        split.unlink()
    elif split.is_dir():
        shutil.rmtree(split)


def is_run(folder: Path) -> bool:
    """Tell whether a folder has the configuration of a run of train.py."""
    try:
        text = (folder / CONFIG).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return text.startswith("run:\n") and "\nhyper:\n" in text


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder, and clear away what one that was killed has left half-written."""
    with only_writer(folder):
        remove_unfinished(folder)
        remove_unfinished(folder / "weights")
        yield


def checked_split(data: DataSpec, split: str, bad_labels: str) -> LabelIndex:
    """Return a split's images and labels; says what is wrong with them."""
    index = load_split(data, split, bad_labels=bad_labels)
    # Training learns from labels, whatever annotation file there is.
    if said := index.report.summary(needed=split == "train" or split not in data.annotations):
        print(f"{split} {said}", file=sys.stderr)
    return index


def tell_checkup(plan: Plan, train_index: LabelIndex, val_index: LabelIndex) -> None:
    """Print in one line what the doctor finds in the data set and the check of the labels does not tell."""
    model, run_config = plan.config.model, plan.config.run
    anchors = tuple(anchor for level in model.anchors for anchor in level)
    settings = Settings(run_config.image_size, anchors, plan.config.hyper.anchor_t)
    checkup = examine(plan.data, settings, loaded={"train": train_index, "val": val_index})
    told = [f"{count} x {kind}" for kind, count in checkup.counts().items() if kind in UNTOLD]
    if told:
        print(f"data: {', '.join(told)}; python -m data.check {printable(plan.data.shown)} tells more", file=sys.stderr)


def set_determinism(seed: int, deterministic: bool) -> None:
    """Seed torch's default generators; everything that draws here has a generator of its own."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def network_sizes(index: LabelIndex, image_size: tuple[int, int]) -> torch.Tensor:
    """Return sides (M, 2) in pixels that the truths of a split have at the network input."""
    scale = (torch.tensor(image_size) / torch.from_numpy(index.sizes)).amin(1)
    per_box = scale.repeat_interleave(torch.from_numpy(index.starts).diff())
    boxes = torch.from_numpy(index.boxes)
    return (boxes[:, 2:] - boxes[:, :2]) * per_box[:, None]


def with_anchors(config: Config, index: LabelIndex) -> Config:
    """Return the config with anchors fitted to the data where `--autoanchor` asks; prints the best possible recall."""
    if not family_of(config.model).fits_anchors:
        return config
    sizes, model = network_sizes(index, config.run.image_size), config.yolov3
    if config.run.autoanchor:
        try:
            anchors = fit_anchors(sizes, len(model.anchors), len(model.anchors[0]), config.run.seed)
        except ValueError as error:
            raise UserError(f"--autoanchor: {error}; train without it") from None
        model = replace(model, anchors=tuple(tuple((w, h) for w, h in level) for level in anchors))
        print(f"autoanchor: {anchors}")
    shapes = torch.tensor(model.anchors).flatten(0, 1)
    recall, per_truth = best_possible_recall(sizes, shapes, config.hyper.anchor_t)
    print(
        f"anchors: best possible recall {recall:.4f} at side ratio {config.hyper.anchor_t:g}, "
        f"{per_truth:.1f} anchor shapes a truth"
    )
    return replace(config, model=model)
