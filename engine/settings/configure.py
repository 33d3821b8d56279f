"""From flags to a checked plan of a run, without importing torch: a mistake is answered at once."""

import itertools
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.data_yaml import DataSpec
from data.open.any_layout import open_data_set, root_for
from data.pixel_limit import pixels_allowed
from engine.settings.epochs import step_milestones
from engine.settings.used_settings import Choices, note_of_unread, require_read
from models.families import family_of
from utils.config.flags import parsed
from utils.config.foreign_hyp import translated
from utils.config.knobs import Config, Hyperparameters, ModelConfig, RunConfig, TorchvisionConfig, checked
from utils.config.sources import HYPS, hyperparameters, model_config, parse_settings
from utils.config.yaml_file import find_yaml, read_mapping
from utils.errors import UserError, printable

# What suits the embedded shapes: three and a half minutes on two CPU threads without bf16, AP50 above .6.
DEMO: dict[str, Any] = {
    "imgsz": (256,),
    "epochs": 7,
    "batch_size": 4,
    "cache": True,
    "optimizer": "adamw",
    "hyp": "shapes",
}
# What its detectors from torchvision learn with in some minutes.
DETECTOR_DEMO = {**DEMO, "epochs": 8, "batch_size": 8}
TRAINING_FLAGS = ("loss", "assign", "set", "resume")  # of train.py, beside those of RunConfig


@dataclass(frozen=True)
class Plan:
    """What a run needs to know: its whole config and its data set."""

    config: Config
    data: DataSpec


def plan_run(flags: Mapping[str, Any], before_data: Callable[[Choices], None] | None = None) -> Plan:
    """Check the flags of train.py and the YAML files that they name; UserError for any mistake.

    `loss` and `assign` are short for the hyperparameters `box_loss` and `assigner`; `set` holds key=value strings.
    `before_data` is told what was chosen before the data set is opened, which may take seconds.
    """
    overrides = overrides_of(flags)
    choices = choices_of(flags, overrides)
    run, model, hyper = choices[:3]
    check_device(run)
    check_choices(run, model, hyper)
    check_steps(run, hyper, overrides)
    require_read(given_keys(overrides, flags), choices)
    stride = max(model.strides)
    if any(side % stride for side in run.imgsz):
        sides = " ".join(str(max(round(side / stride), 1) * stride) for side in run.imgsz)
        given = " ".join(map(str, run.imgsz))
        raise UserError(f"--imgsz {given}: expected multiples of {stride}, such as {sides}")
    if run.multi_scale and max(run.image_size) == stride:
        raise UserError(f"--multi-scale: {stride} px is one stride, of which there are no parts; leave it out")
    check_start_files(run, model)
    if before_data:
        before_data(choices)
    with pixels_allowed(run.max_pixels):
        spec = open_data(run.data, root_for(run.data, run.data_root), run.val, run.seed)
    missing = {"train", "val"} - set(spec.splits)
    if missing:
        hint = " (--val .2 takes a fifth of train)" if missing == {"val"} else ""
        raise UserError(
            f"{printable(spec.shown)}: no split {' and '.join(sorted(missing))}: training needs train and val{hint}"
        )
    check_settings(choices._replace(classes=len(spec.names)), overrides, flags)
    return Plan(Config(run, model, hyper, spec.names), spec)


def overrides_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `--set`, `--loss` and `--assign` say of hyperparameters and model keys."""
    overrides = parse_settings(flags.get("set", ()))
    for flag, key in (("loss", "box_loss"), ("assign", "assigner")):
        if flags.get(flag):
            overrides |= checked(Hyperparameters, {key: flags[flag]}, f"--{flag}")
    return overrides


def choices_of(flags: Mapping[str, Any], overrides: Mapping[str, Any]) -> Choices:
    """Resolve the settings that flags of train.py mean, without asking whether they fit together."""
    model = model_config(flags.get("cfg") or RunConfig.cfg, overrides)
    demo = demo_of(model, flags) if flags.get("data", "shapes") == "shapes" else {}
    run = parsed(RunConfig, {**demo, **flags}, also=TRAINING_FLAGS)
    return Choices(run, model, hyperparameters(run.hyp, overrides, base=model.hyp))


def check_start_files(run: RunConfig, model: ModelConfig | TorchvisionConfig) -> None:
    """Raise UserError for weights to start from that are not there, before anything is read or tried."""
    for name, path in (("--weights", run.weights), ("backbone_weights", model.backbone_weights)):
        if path and not Path(path).is_file():
            kind = "a folder" if Path(path).is_dir() else "no such file"
            raise UserError(f"{name}: weights not found: {printable(Path(path).absolute())} ({kind})")


def demo_of(model: ModelConfig | TorchvisionConfig, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the demo's flags; a detector of torchvision that is given weights or a recipe keeps its own settings."""
    if not model.scratch_hyp:
        return DEMO
    side = max(model.strides)
    fitting = DEMO["imgsz"] if DEMO["imgsz"][0] % side == 0 else (side,)
    demo = {**DETECTOR_DEMO, "hyp": model.scratch_hyp, "imgsz": fitting}
    if model.backbone_weights or any(flags.get(name) for name in ("weights", "hyp", "optimizer")):
        return {name: value for name, value in demo.items() if name not in ("optimizer", "hyp")}
    return demo


def advice(config: Config) -> str:
    """Return a line on settings that expect pretrained weights where there are none, or empty."""
    run, model = config.run, config.model
    if (
        model.backbone_weights
        or run.weights
        or not model.scratch_hyp
        or run.hyp == model.scratch_hyp
        or run.optimizer != "sgd"
    ):
        return ""
    return (
        f"note: {model.detector}'s own settings expect pretrained weights (--set backbone_weights=FILE, or --weights); "
        f"from scratch: --optimizer adamw --hyp {model.scratch_hyp}"
    )


def check_choices(run: RunConfig, model: ModelConfig | TorchvisionConfig, hyper: Hyperparameters) -> None:
    """Raise UserError for a loss, an assigner or a flag that the model's kind does not have."""
    family = family_of(model)
    if hyper.box_loss not in family.box_losses:
        raise UserError(f"--loss (box_loss) {hyper.box_loss}: for torchvision's detectors alone, such as retinanet")
    if hyper.assigner not in family.assigners:
        others = ", ".join(family.assigners)
        raise UserError(f"--assign (assigner) {hyper.assigner}: not one of {model.detector}'s; expected {others}")
    if run.multi_scale and family.one_size:
        raise UserError(f"--multi-scale: {model.detector} has one input size, {max(model.strides)} px; leave it out")
    if run.freeze and not any(part.strip() for part in run.freeze.split(",")):
        raise UserError(f"--freeze {printable(run.freeze)!r}: names no part; expected one such as backbone")
    if run.sync_bn and (model.backbone == "vgg16" or getattr(model, "norm", "batch") == "frozen"):
        raise UserError(f"--sync-bn: this {model.detector} has no batch normalisation; leave it out")
    if family.fits_anchors:
        return
    if hyper.box_gain_match == "iou":
        raise UserError(
            f"box_gain_match iou: measured for YOLOv3 alone; expected none or a number for {model.detector}"
        )
    if run.autoanchor:
        raise UserError(f"--autoanchor: {model.detector} has anchors of its own; leave it out")


def given_keys(overrides: Collection[str], flags: Mapping[str, Any]) -> list[str]:
    """Return the keys that were given by themselves, not in a file, and that a run may leave unread."""
    return [*overrides, *(name for name in ("close_mosaic",) if flags.get(name) is not None)]


def check_settings(chosen: Choices, overrides: Collection[str], flags: Mapping[str, Any]) -> None:
    """Raise UserError for a key that is given and that nothing reads; print those of the `--hyp` file as a note."""
    require_read(given_keys(overrides, flags), chosen)
    if flags.get("hyp"):
        path = find_yaml(flags["hyp"], HYPS, "hyperparameter YAML")
        note = note_of_unread(list(translated(read_mapping(path), str(path))[0]), chosen, str(path))
        if note:
            print(note, file=sys.stderr)


def check_steps(run: RunConfig, hyper: Hyperparameters, asked: Collection[str]) -> None:
    """Raise UserError for learning rate steps that the schedule does not take, or the run is too short for."""
    schedule = "cosine" if run.cos_lr else hyper.lr_schedule
    unused = sorted({"lr_steps", "lr_drop"} & set(asked))
    if schedule != "steps" and unused:
        raise UserError(f"--set {unused[-1]}: the schedule is {schedule}; expected --set lr_schedule=steps beside it")
    milestones = step_milestones(hyper.lr_steps, run.epochs)
    late = [step for step in hyper.lr_steps if step >= max(run.epochs, 1)]
    if schedule == "steps" and late:
        raise UserError(
            f"lr_steps {late[0]:g}: --epochs {run.epochs} ends before; expected earlier ones, or fractions below 1"
        )
    if schedule == "steps" and "lr_steps" in asked:
        rising = all(first < second for first, second in itertools.pairwise((0, *milestones, run.epochs)))
        if not rising:
            falls = ", ".join(map(str, milestones))
            raise UserError(
                f"--set lr_steps: of --epochs {run.epochs} they are epochs {falls}; expected different ones from 1 to "
                f"{run.epochs - 1}"
            )
    if schedule == "steps" and "lr_schedule" in asked and not any(0 < each < run.epochs for each in milestones):
        raise UserError(
            f"--set lr_schedule=steps: --epochs {run.epochs} ends before the first of lr_steps; expected more epochs"
        )


def check_device(run: RunConfig) -> None:
    """Raise UserError for what a CPU, or a single process, cannot do; what needs torch to know is checked later."""
    on_cpu = run.device.strip().lower() == "cpu"
    if on_cpu and run.amp == "fp16":
        raise UserError("--amp fp16: a CPU trains in bf16 or full precision; expected auto, off or bf16")
    if on_cpu and run.sync_bn:
        raise UserError("--sync-bn: torch synchronises batch statistics on GPUs only; leave it out on a CPU")
    if run.sync_bn and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise UserError("--sync-bn: one process has nothing to synchronise; start several: torchrun --nproc_per_node=N")


def open_data(name: str, root: Path, share: float = 0.0, seed: int = 0, run_folder: Path | None = None) -> DataSpec:
    """Open the data set of `--data`; the embedded `shapes` set is drawn on first use."""
    if name == "shapes":
        from data.shapes.demo_set import ensure_shapes  # here, because drawing needs OpenCV and reading a YAML does not

        ensure_shapes(root)
    spec = open_data_set(name, root)
    if not share:
        return spec
    from data.open.hold_out import hold_out  # here, because reading photos needs OpenCV

    return hold_out(spec, share, seed, run_folder)
