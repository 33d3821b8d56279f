"""Every knob of the project on one page: frozen dataclasses with meaning, unit, default and range.

Order of precedence: the defaults below < model and hyperparameter YAML < `--set key=value` and flags.
This module imports neither torch nor the project's models, so that a command can refuse a wrong flag at once.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Union

from alignyolo.registry import (
    ASSIGNERS,
    BASE_SIMILARITIES,
    DENSE_ASSIGNERS,
    DYNAMIC_ASSIGNERS,
    METRICS,
    SIMILARITIES,
    WRAPPERS,
)
from utils.config.export_formats import EXPORT_FORMATS
from utils.config.model_shape import checked_model
from utils.errors import UserError, nearest, printable

BOX_LOSSES = tuple(SIMILARITIES)
# What a list of them shows: the compositions follow a rule.
SHOWN_LOSSES = (*BASE_SIMILARITIES, *(f"{prefix}_..." for prefix in WRAPPERS))
ENCODED_LOSSES = ("l1", "smooth_l1")  # on box codes instead of boxes: torchvision's detectors alone
LARGEST = 3.4e38  # what float32, in which losses are computed, holds
LEAST_MATCH = 0.001  # of what divides the box gain
LR_SCHEDULES = ("linear", "cosine", "steps")
LARGEST_PHOTO, MOST_PIXELS = 178_956_970, 2**30  # Pillow's limit, and what OpenCV's decoders hold
MAX_PIXELS_MEANING = "pixels that a photo may have; larger ones are left out and named"
PRECISIONS = ("float32", "bf16", "auto")
PRECISION_MEANING = "arithmetic of weights and OpenVINO files: auto = bf16 where the device computes in it"
BAD_LABELS = ("mend", "clip", "skip", "error")
ASSIGNER_NAMES = tuple(ASSIGNERS | DENSE_ASSIGNERS)
PLUGIN_ASSIGNERS = (*DYNAMIC_ASSIGNERS, "ggiou")  # of heads without anchors of fixed size
HALF_FORMATS = tuple(name for name, entry in EXPORT_FORMATS.items() if entry.half)


def knob(
    default: Any,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    shown: tuple = (),
) -> Any:
    """Return a field with its meaning and its closed range or its choices, of which lists show `shown`, else all."""
    limits = {"low": low, "high": high, "choices": choices, "shown": shown or choices}
    return field(default=default, metadata={"meaning": meaning, **limits})


@dataclass(frozen=True)
class ModelConfig:
    """A model YAML (models/*.yaml): the shape of the network and how its outputs decode."""

    backbone: str = knob("darknet53", "feature extractor", choices=("darknet53", "darknet_tiny"))
    channels: tuple[int, ...] = knob((32, 64, 128, 256, 512, 1024), "channels of the stem and of every stage")
    spp: bool = knob(False, "spatial pyramid pooling in the neck")
    strides: tuple[int, ...] = knob((8, 16, 32), "pixels per cell of every level, finest first")
    anchors: tuple[tuple[tuple[float, float], ...], ...] = knob(
        (), "width and height in pixels, per level, finest first"
    )
    activation: str = knob("silu", "activation of every convolution", choices=("silu", "leaky"))
    decode: str = knob(
        "bounded", "raw output to box: bounded = ultralytics', darknet = YOLOv3's", choices=("bounded", "darknet")
    )
    xy_reach: float = knob(0.5, "cells by which a decoded centre can leave its cell", 0, 2)
    pool_padding: str = knob(
        "zeros", "padding of yolov3-tiny's stride 1 pool: ultralytics' 0, Darknet's -inf", choices=("zeros", "lowest")
    )
    norm_eps: float = knob(0.001, "epsilon of the batch normalisation (Darknet: 1e-6)", 1e-12, 1)

    # What a model YAML of torchvision's detectors can name, and these cannot.
    detector: ClassVar[str] = "yolov3"
    hyp: ClassVar[str] = ""
    scratch_hyp: ClassVar[str] = ""
    backbone_weights: ClassVar[str] = ""


RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(frozen=True)
class TorchvisionConfig:
    """A model YAML with a key `detector`: one of torchvision's detectors, which have anchors and codes of their own."""

    detector: str = knob("retinanet", "torchvision's detector", choices=("retinanet", "ssd", "fasterrcnn"))
    backbone: str = knob("resnet50", "feature extractor; ssd has vgg16", choices=(*RESNETS, "vgg16"))
    fpn_channels: int = knob(256, "channels of the feature pyramid and of the heads", 8, 4096)
    norm: str = knob(
        "batch", "backbone's normalisation: learnt, or frozen for pretrained weights", choices=("batch", "frozen")
    )
    backbone_weights: str = knob("", "local file of torchvision's classification weights to start the backbone from")
    hyp: str = knob("", "hyperparameter YAML of this detector, below --hyp and --set")
    scratch_hyp: str = knob(
        "", "--hyp to give without pretrained weights, with --optimizer adamw; only the demo takes it by itself"
    )

    def __post_init__(self):
        """Check what no single range can say."""
        wanted = ("vgg16",) if self.detector == "ssd" else RESNETS
        if self.backbone not in wanted:
            raise UserError(f"backbone is {self.backbone!r}: {self.detector} has {', '.join(wanted)}")
        if self.detector == "ssd" and (self.norm, self.fpn_channels) != ("batch", 256):
            raise UserError("norm, fpn_channels: ssd on vgg16 has neither a normalisation nor a feature pyramid")

    @property
    def strides(self) -> tuple[int, ...]:
        """What divides both sides of the network input."""
        return (300,) if self.detector == "ssd" else (32,)

    @property
    def anchors(self) -> tuple:
        """None to set: the detector brings its own."""
        return ()


@dataclass(frozen=True)
class Hyperparameters:
    """A hyperparameter YAML (data/hyps/*.yaml): flat keys, named as ultralytics names the same thing."""

    lr0: float = knob(0.01, "initial learning rate", 0, 10)
    lrf: float = knob(0.01, "linear, cosine: final learning rate as a fraction of lr0", 0, 1)
    lr_schedule: str = knob(
        "linear",
        "decay of the learning rate: linear or cosine down to lrf, or steps: times lr_drop at each of lr_steps",
        choices=LR_SCHEDULES,
    )
    lr_steps: tuple[float, ...] = knob(
        (0.667, 0.917), "steps: epochs after which the learning rate falls; below 1: as fractions of the run", 0.01
    )
    lr_drop: float = knob(0.1, "steps: factor on the learning rate at each", 0, 1)
    momentum: float = knob(0.937, "SGD momentum, or AdamW's beta1", 0, 0.999)
    weight_decay: float = knob(0.0005, "weight decay at the nominal batch size", 0, 1)
    warmup_epochs: float = knob(3.0, "epochs of warm-up (at least 100 steps)", 0, 1000)
    warmup_momentum: float = knob(0.8, "momentum at the start of the warm-up", 0, 0.999)
    warmup_bias_lr: float = knob(0.1, "learning rate of the biases at the start of the warm-up", 0, 1)
    nominal_batch: int = knob(64, "images per optimiser step that gains and decay are meant for", 1, 65536)
    grad_clip: float = knob(10.0, "largest gradient norm, 0 = no clipping", 0)
    ema_decay: float = knob(0.9999, "decay of the averaged weights", 0, 1)
    ema_tau: float = knob(2000.0, "steps over which the average grows to its decay", 1)

    box: float = knob(0.05, "gain of the box loss", 0)
    box_gain_match: float | str = knob(
        "none",
        "number that divides the box gain; iou = mean initial loss (prediction = anchor) over that of IoU, measured "
        "on the training truths and then kept here, so that losses compare by their shape (YOLOv3 alone); none = 1",
        LEAST_MATCH,
        choices=("none", "iou"),
    )
    cls: float = knob(0.5, "gain of the class loss", 0)
    obj: float = knob(1.0, "gain of the objectness loss", 0)
    cls_pw: float = knob(1.0, "weight of positives in the class loss", 0)
    obj_pw: float = knob(1.0, "weight of positives in the objectness loss", 0)
    fl_gamma: float = knob(0.0, "focal loss gamma, 0 = plain cross entropy", 0, 10)
    label_smoothing: float = knob(0.0, "label smoothing of the class loss", 0, 1)

    box_loss: str = knob(
        "ciou",
        "box similarity, the loss is 1 - similarity, any of them also as inner_NAME and focaler_NAME; torchvision's "
        "detectors also know l1 and smooth_l1 of box codes",
        choices=BOX_LOSSES + ENCODED_LOSSES,
        shown=SHOWN_LOSSES + ENCODED_LOSSES,
    )
    smooth_l1_beta: float = knob(1 / 9, "smooth_l1: size of an error from which on it counts linearly", 1e-6, 10)
    sca_alpha: float = knob(0.5, "weight of the corner distance in sca and iou_cd (the authors' code uses 1)", 0, 10)
    sca_corner: str = knob(
        "euclidean", "corner distance: Eq. 3, or squared as in Figure 1", choices=("euclidean", "squared")
    )
    focal_eiou_gamma: float = knob(0.5, "focal_eiou: exponent of the weight IoU^gamma", 0, 10)
    alpha_iou_power: float = knob(3.0, "alpha_iou, _giou, _diou, _ciou: power of every term", 0.1, 10)
    wiou_alpha: float = knob(1.9, "wiou_v3: how fast the weight falls (the authors' later default is 1.7)", 1, 10)
    wiou_delta: float = knob(
        3.0, "wiou_v3: times the mean loss that has weight 1 (their later default is 2.7)", 0.1, 10
    )
    wiou_momentum: float = knob(0.01, "wiou_v3: share of a batch in the running mean of the IoU loss", 0, 1)
    shape_iou_scale: float = knob(0.0, "shape_iou: exponent of the object's sides in the weights, 0 = all 1", 0, 10)
    piou_sharpness: float = knob(
        1.3,
        "piou_v2: lambda; up to .71 the best boxes have the largest weight, above it those of medium quality",
        0.1,
        10,
    )
    nwd_constant: float = knob(12.8, "nwd: distance in pixels at which 1/e is left; about an object's mean size", 0.1)
    interpiou_alpha: float = knob(0.98, "interpiou: share of the object in the box between", 0, 1)
    inner_ratio: float = knob(0.7, "inner_...: sides of the scaled boxes over the boxes' own", 0.1, 10)
    focaler_low: float = knob(0.0, "focaler_...: IoU that counts as 0", 0, 0.99)
    focaler_high: float = knob(0.95, "focaler_...: IoU that counts as 1", 0.01, 1)
    obj_target: str = knob(
        "iou",
        "objectness target of a positive: its box's IoU, its similarity, or 1",
        choices=("iou", "similarity", "one"),
    )
    ggiou_gamma: float = knob(0.0, "exponent of the GGIoU-balanced box weight, 0 = off (paper 1.4)", 0, 10)
    ggiou_wloc: float | str = knob(
        "auto", "factor of the balanced weight, a number (paper 2.8); auto = mean weight 1", 0.001, choices=("auto",)
    )
    balance_metric: str = knob("ggiou", "metric of the balanced weight", choices=tuple(METRICS))

    assigner: str = knob("anchor_ratio", "which anchors learn from an object", choices=ASSIGNER_NAMES)
    anchor_t: float = knob(
        4.0, "anchor_ratio: how many times as long as an anchor's a truth's side may be, or the other way round", 1, 100
    )
    ignore_iou: float = knob(0.7, "best_anchor: other anchors above this IoU are ignored", 0.01, 1)
    assign_positive: float = knob(0.5, "iou, ggiou: positive at or above this metric", 0.01, 1)
    assign_negative: float = knob(0.4, "iou, ggiou: negative below this metric", 0.01, 1)
    atss_topk: int = knob(9, "atss: nearest anchors of every level that set an object's threshold", 1, 1000)
    simota_radius: float = knob(2.5, "simota: strides from an object's centre within which anchors are good", 0.1, 100)
    simota_topk: int = knob(
        10,
        "simota: how many of an object's best IoUs are added up; the sum, rounded down and at least 1, is its "
        "number of anchors",
        1,
        1000,
    )
    simota_iou_weight: float = knob(3.0, "simota: weight of -log IoU beside the cross entropy of the classes", 0, 100)
    tal_topk: int = knob(10, "tal: anchors of an object at most", 1, 1000)
    tal_alpha: float = knob(0.5, "tal: exponent of the score", 0, 10)
    tal_beta: float = knob(6.0, "tal: exponent of the overlap", 0, 20)
    tal_enlarge: str = knob(
        "on",
        "tal: an object's sides below the second stride (16 px in YOLOv3, 32 in YOLOv3-tiny) count as that long, as in "
        "ultralytics since 8.4",
        choices=("on", "off"),
    )
    serve_unmatched: str = knob(
        "off", "atss, simota, tal: on = an object without any anchor gets its best one", choices=("on", "off")
    )
    rpn_positive: float = knob(0.7, "fasterrcnn, first stage: positive at or above this metric", 0.01, 1)
    rpn_negative: float = knob(0.3, "fasterrcnn, first stage: negative below this metric", 0.01, 1)
    min_positives: int = knob(
        1, "iou, ggiou: anchors that every object gets at least, as far as anchors can reach it", 0, 100
    )
    ggiou_alpha: float = knob(0.3, "exponent of the Gaussian factor", 0, 0.99)
    ggiou_beta: float = knob(1 / 6, "sigma of the Gaussian, as a share of the sides that ggiou_sigma names", 0.001, 10)
    ggiou_sigma: str = knob(
        "overlap", "sides that ggiou_beta is a share of: the overlap's, or the truth's", choices=("overlap", "truth")
    )

    cpu_kernels: str = knob(
        "on",
        "on a CPU, this project's own arithmetic and memory: recomputed normalisation and activation, Winograd "
        "convolutions, cross entropy by log, freed memory kept; off = torch's own alone",
        choices=("on", "off"),
    )

    repeat_threshold: float = knob(
        0.0, "photos with a class in fewer than this fraction of photos come more often (LVIS .001), 0 = off", 0, 1
    )

    hsv_h: float = knob(0.015, "hue jitter, fraction", 0, 1)
    hsv_s: float = knob(0.7, "saturation jitter, fraction", 0, 1)
    hsv_v: float = knob(0.4, "brightness jitter, fraction", 0, 1)
    degrees: float = knob(0.0, "rotation, +- degrees", 0, 180)
    translate: float = knob(0.1, "translation, +- fraction of the image", 0, 1)
    scale: float = knob(0.5, "scaling, +- fraction", 0, 0.99)
    shear: float = knob(0.0, "shear, +- degrees", 0, 89)
    perspective: float = knob(0.0, "perspective, +- per pixel", 0, 0.01)
    flipud: float = knob(0.0, "probability of an up-down flip", 0, 1)
    fliplr: float = knob(0.5, "probability of a left-right flip", 0, 1)
    mosaic: float = knob(1.0, "probability of a mosaic of four images", 0, 1)
    mosaic_from: str = knob(
        "all",
        "photos that a mosaic is made of: all, or batch = those of its own batch (16 at least), so that without "
        "--cache each is decoded once an epoch instead of four times",
        choices=("all", "batch"),
    )
    mixup: float = knob(0.0, "probability of a blend of two images", 0, 1)
    zoom_out: float = knob(0.0, "without mosaic: probability of a photo small on grey, down to 1/4, as SSD", 0, 1)
    iou_crop: float = knob(
        0.0, "without mosaic: probability of a random part that overlaps an object enough, as SSD (paper 1)", 0, 1
    )

    def __post_init__(self):
        """Check what no single range can say."""
        if self.assign_negative > self.assign_positive:
            raise UserError(
                f"assign_negative {self.assign_negative} is above assign_positive {self.assign_positive}: "
                "expected negative <= positive"
            )
        if self.focaler_low >= self.focaler_high:
            raise UserError(
                f"focaler_low {self.focaler_low} is not below focaler_high {self.focaler_high}: expected low < high"
            )
        if list(self.lr_steps) != sorted(set(self.lr_steps)) or any(step > 1 and step % 1 for step in self.lr_steps):
            raise UserError(
                f"lr_steps is {list(self.lr_steps)}: expected rising whole epochs, or fractions of the run below 1"
            )


@dataclass(frozen=True)
class RunConfig:
    """The flags of train.py."""

    data: str = knob(
        "shapes", "data YAML, built-in name (shapes, coco128, ...), or a folder, .zip, COCO JSON; without it, the demo"
    )
    data_root: str = knob("", "folder of the built-in data sets (default $ALIGNYOLO_DATA, then ./datasets)")
    val: float = knob(0.0, "share of the training photos to validate on, for a set without a val split", 0.0, 0.9)
    cfg: str = knob("yolov3-tiny", "model YAML, or a name in models (yolov3, yolov3-tiny, retinanet_resnet18_fpn, ...)")
    hyp: str = knob(
        "", "hyperparameter YAML, or a name in data/hyps (baseline, sca, ggiou, ggiou-yolo, ...); the demo: shapes"
    )
    weights: str = knob("", "weights to start from: ours, ultralytics/yolov3 .pt, Darknet .weights (default: none)")
    epochs: int = knob(100, "passes over the training images; the demo: 7", 1, 100000)
    batch_size: int = knob(16, "images per step, -1 = as many as memory bears; the demo: 4", -1, 65536)
    imgsz: tuple[int, ...] = knob(
        (640,), "network input in pixels: one side, or height and width; the demo: 256", 32, 8192
    )
    device: str = knob("", "cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    workers: int = knob(-1, "data loading processes, -1 = as many as help here", -1, 1024)
    seed: int = knob(0, "seed of weights, order and augmentation", 0, 2**31)
    deterministic: bool = knob(False, "only deterministic algorithms, also on a GPU")
    amp: str = knob(
        "auto", "mixed precision: auto = bf16 where the device computes in it", choices=("auto", "off", "bf16", "fp16")
    )
    cache: bool | str = knob(
        False,
        "keep the decoded photos in memory: ram (the meaning of --cache alone), as far as they fit; device = on the "
        "training device, where whole batches are augmented at once (for GPUs)",
        choices=("ram", "device"),
    )
    compiled: bool = knob(False, "compile the network with torch.compile (minutes at the start; needs a compiler)")
    optimizer: str = knob("sgd", "optimiser; the demo: adamw", choices=("sgd", "adamw"))
    cos_lr: bool = knob(False, "cosine decay of the learning rate (hyperparameter lr_schedule: linear, cosine, steps)")
    multi_scale: bool = knob(False, "vary the image size by up to 50 % from batch to batch")
    rect: bool = knob(False, "batches of photos of similar shape, padded no more than they need; no mosaic, no mixup")
    sync_bn: bool = knob(False, "batch statistics over all processes (several GPUs under torchrun)")
    close_mosaic: int = knob(
        -1, "last epochs without mosaic and mixup, -1 = a quarter of the epochs, at most 10", -1, 100000
    )
    freeze: str = knob("", "parts that keep their weights, e.g. backbone or backbone.stage1,backbone.stage2")
    patience: int = knob(100, "epochs without a better AP before the run stops, 0 = never", 0, 100000)
    nan_patience: int = knob(
        10,
        "optimiser steps in a row that are skipped, their loss or gradient not finite, before the run stops",
        1,
        100000,
    )
    autoanchor: bool = knob(False, "fit new anchors to the data (this makes runs hard to compare)")
    conf: float = knob(0.001, "validation: lowest score that counts", 0, 1)
    nms_iou: float = knob(0.65, "validation: NMS threshold", 0, 1)
    max_det: int = knob(300, "validation: detections per image", 1, 10000)
    photo_bits: int = knob(
        0, "bits that photos of more than 8 use: 12 = 0 to 4095 is black to white; 0 = as the training photos do", 0, 32
    )
    max_pixels: int = knob(LARGEST_PHOTO, MAX_PIXELS_MEANING, 1, MOST_PIXELS)
    bad_labels: str = knob(
        "mend",
        "boxes beyond their photo: mend = clip up to 1 %, else leave out",
        choices=BAD_LABELS,
    )
    project: str = knob("runs/train", "folder of the run folders")
    name: str = knob("exp", "name of the run folder")
    exist_ok: bool = knob(False, "write into an existing run folder")
    plots: bool = knob(True, "draw plots and batch pictures")

    def __post_init__(self):
        """Check what no single range can say."""
        if not 1 <= len(self.imgsz) <= 2:
            raise UserError(f"imgsz has {len(self.imgsz)} numbers: expected one side, or height and width")
        if self.batch_size == 0:
            raise UserError("batch_size is 0: expected at least 1, or -1 for as many as memory bears")
        if 0 < self.photo_bits < 8:
            raise UserError(f"photo_bits is {self.photo_bits}: expected 8 to 32, or 0 for what the photos use")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the network input."""
        return (self.imgsz[0], self.imgsz[-1])


@dataclass(frozen=True)
class ValConfig:
    """The flags of val.py; what is not given comes from the checkpoint's own run."""

    weights: str = knob("", "weights, or a file of export.py (default: best.pt of the newest run)")
    data: str = knob("", "data YAML, built-in name, or a folder, .zip, COCO JSON (default: what it was trained on)")
    data_root: str = knob("", "folder of the built-in data sets (default $ALIGNYOLO_DATA, then ./datasets)")
    split: str = knob("val", "split of the data set", choices=("train", "val", "test"))
    iou_list: tuple[float, ...] = knob((), "more IoU thresholds to report AP at, besides .50 to .95", 0.01, 1)
    per_class: bool = knob(True, "a row for every class in the printed table")
    save_json: bool = knob(False, "write detections.json (COCO results) and, where there is none, ground_truth.json")
    save_txt: bool = knob(False, "write labels/: a text file per image, class cx cy w h score")
    report: bool = knob(True, "write report.html: tables, curves, the worst misses and false alarms")
    imgsz: tuple[int, ...] = knob((), "network input in pixels: one side, or height and width", 32, 8192)
    batch_size: int = knob(0, "images per batch, 0 = as in training", 0, 65536)
    precision: str = knob("float32", PRECISION_MEANING, choices=PRECISIONS)
    device: str = knob("", "cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    workers: int = knob(-1, "data loading processes, -1 = as many as help here", -1, 1024)
    conf: float | None = knob(None, "lowest score that counts (default: as in training, else .001)", 0, 1)
    nms_iou: float | None = knob(None, "NMS threshold (default: as in training, else .65)", 0, 1)
    max_det: int | None = knob(None, "detections per image (default: as in training, else 300)", 1, 10000)
    max_pixels: int = knob(0, f"{MAX_PIXELS_MEANING}, 0 = as in training", 0, MOST_PIXELS)
    bad_labels: str | None = knob(
        None,
        "boxes beyond their photo: mend = clip up to 1 %, else leave out (default: as in training, else mend)",
        choices=BAD_LABELS,
    )
    project: str = knob("runs/val", "folder of the run folders")
    name: str = knob("exp", "name of the run folder")
    exist_ok: bool = knob(False, "write into an existing run folder")
    plots: bool = knob(True, "draw curves, confusion matrix and batch pictures")


@dataclass(frozen=True)
class DrawConfig:
    """The flags of `python -m studies.zoo`: the losses drawn."""

    quick: bool = knob(False, "smaller samples, in a fraction of the time")
    out: str = knob("runs/studies", "folder of the CSV files and pictures")


@dataclass(frozen=True)
class StudyConfig(DrawConfig):
    """The flags of `python -m studies`: the papers' figures and tables that need no training."""

    quick: bool = knob(False, "smaller samples: one to two minutes on one core instead of about five")
    data: str = knob(
        "",
        "where objects are counted by assigner: data YAML or built-in name (default: coco128 where it is, else shapes)",
    )
    data_root: str = knob("", "folder of the built-in data sets (default $ALIGNYOLO_DATA, then ./datasets)")


@dataclass(frozen=True)
class CompareConfig:
    """The flags of `python -m studies.compare`; every other flag goes to train.py."""

    recipe: str = knob("", "YAML list of variants, or a name in studies/recipes")
    losses: tuple[str, ...] = knob(
        (), "box losses to compare, with every assigner of --assigners", choices=BOX_LOSSES, shown=SHOWN_LOSSES
    )
    assigners: tuple[str, ...] = knob((), "assigners to compare, with every loss", choices=ASSIGNER_NAMES)
    only: tuple[str, ...] = knob((), "names of the variants to compare, of all that these make (default: all)")
    seeds: tuple[int, ...] = knob((0, 1, 2), "seeds; differences are taken between runs of the same seed", 0, 2**31)
    baseline: str = knob("", "variant that the others are compared with (default: the recipe's, else the first)")
    into: str = knob("runs/studies/compare", "folder of the runs and the report")
    reuse: tuple[str, ...] = knob((), "folders of other comparisons, whose runs with the same settings are taken over")
    split: str = knob("val", "split that is scored; all but val by val.py", choices=("val", "test", "train"))
    storage: str = knob("", "postgresql://... that workers on any machines share (default: a file in --into)")
    jobs: int = knob(1, "training processes at the same time", 1, 1024)
    threads: int = knob(0, "CPU threads of each process, 0 = torch's choice", 0, 1024)
    report_only: bool = knob(False, "start nothing: write the report of what is finished")


@dataclass(frozen=True)
class TuneConfig:
    """The flags of tune.py; every other flag goes to train.py."""

    trials: int = knob(30, "runs of the whole search, on all machines together", 1, 100_000)
    search: tuple[str, ...] = knob(
        ("lr0=1e-4..0.1:log", "weight_decay=1e-5..0.01:log", "box=0.02..0.5:log", "cls=0.1..5:log", "obj=0.2..5:log"),
        "keys with what to try: KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=A,B,C",
    )
    metric: str = knob(
        "ap", "measure of metrics.json to maximise; runs are stopped early by those of results.csv alone"
    )
    max_seconds: float = knob(0.0, "constraint: training seconds of a run, 0 = none", 0)
    max_parameters: int = knob(0, "constraint: weights and biases of the detector, 0 = none", 0)
    prune: bool = knob(True, "stop runs early that fall behind (Hyperband)")
    into: str = knob("runs/tune/search", "folder of the runs, of the report and of best.yaml")
    storage: str = knob("", "postgresql://... that workers on any machines share (default: a file in --into)")
    jobs: int = knob(1, "training processes at the same time", 1, 1024)
    threads: int = knob(0, "CPU threads of each process, 0 = torch's choice", 0, 1024)
    sampler_seed: int = knob(0, "seed of the search; --seed is that of every training", 0, 2**31)
    report_only: bool = knob(False, "start nothing: write the report of what is finished")


@dataclass(frozen=True)
class PluginConfig:
    """The flags of `python -m studies.in_ultralytics`."""

    model: str = knob("yolo26n.yaml", "Ultralytics' model YAML, trained from scratch")
    data: str = knob("", "data YAML, built-in name, or a folder, .zip, COCO JSON")
    data_root: str = knob("", "folder of the built-in data sets (default: $ALIGNYOLO_DATA, else datasets)")
    loss: str = knob("", "box loss (default: Ultralytics' own)", choices=BOX_LOSSES, shown=SHOWN_LOSSES)
    assign: str = knob("", "assigner (default: Ultralytics' own)", choices=PLUGIN_ASSIGNERS)
    epochs: int = knob(100, "passes over the training images", 1, 100000)
    batch_size: int = knob(16, "images per step", 1, 65536)
    imgsz: int = knob(640, "side of the network input in pixels, a multiple of 32", 32, 8192)
    device: str = knob("", "cpu, cuda, cuda:1 (default: cuda if there is one)")
    workers: int = knob(0, "data loading processes", 0, 1024)
    cache: bool = knob(False, "keep the decoded photos in memory")
    seed: int = knob(0, "seed of weights, order and augmentation", 0, 2**31)
    project: str = knob("runs/ultralytics", "folder of the run folders")
    name: str = knob("exp", "name of the run folder; a number is added if it is taken")
    exist_ok: bool = knob(False, "write into a folder that exists")
    resume: str = knob("", "run folder whose interrupted training goes on")
    score: str = knob("", "run folder whose best weights are measured, without training")
    split: str = knob("val", "split that --score measures on", choices=("val", "test", "train"))


@dataclass(frozen=True)
class ScoresConfig:
    """The flags of `python -m studies.scores`."""

    runs: tuple[str, ...] = knob(("runs",), "folders; every metrics.json in them and below is a row")
    into: str = knob("runs/scores.csv", "CSV to write")


@dataclass(frozen=True)
class CombineConfig:
    """The flags of `python -m studies.combine`."""

    losses: str = knob("", "folder of a comparison of box losses")
    assigners: str = knob("", "folder of a comparison of assignments")
    best: int = knob(4, "how many of each", 1, 100)
    by: str = knob("ap", "measure to choose by: a column of runs.csv, such as ap75, or tide_localisation (the least)")
    into: str = knob("combined.yaml", "recipe to write")


@dataclass(frozen=True)
class ImportConfig:
    """The flags of import_weights.py."""

    output: str = knob("", "checkpoint to write (default: the file's name with .imported.pt, in this folder)")
    cfg: str = knob("", "Darknet .cfg (default: the one beside the .weights, else told from their length)")
    cutoff: int = knob(-1, "layers that truncated Darknet weights hold, -1 = as the file's name says", -1, 1000)
    names: str = knob("", "class names (Darknet's files hold none): a,b,c or a data YAML or built-in name")
    exist_ok: bool = knob(False, "replace an existing output")


@dataclass(frozen=True)
class ExportConfig:
    """The flags of export.py."""

    weights: str = knob("", "weights of any kind (default: best.pt of the newest run)")
    cfg: str = knob("", "Darknet .cfg of Darknet .weights (default: the one beside them)")
    format: tuple[str, ...] = knob(
        ("onnx",),
        "what to write, one or several (OpenCV 4 reads onnx and darknet, OpenCV 5 onnx alone)",
        choices=tuple(EXPORT_FORMATS),
    )
    layout: str = knob(
        "decoded",
        "outputs: decoded = ultralytics' (B, 4 + C, A), raw = (B, A, 5 + C), nms = detections (in OpenCV: from 5 on)",
        choices=("decoded", "raw", "nms"),
    )
    imgsz: tuple[int, ...] = knob((), "network input in pixels: one side, or height and width", 32, 8192)
    batch_size: int = knob(1, "images per batch of a fixed shape", 1, 65536)
    dynamic: bool = knob(
        False,
        "any batch and any image size that the stride divides (in OpenCV: from 5 on; ultralytics runs an onnx of any "
        "size at 640 px, unless told imgsz)",
    )
    half: bool = knob(False, f"weights and features of 16 bits, by converting the graph: for {', '.join(HALF_FORMATS)}")
    int8: bool = knob(False, "8 bit weights and features, all but the ends of the network; needs --calibrate")
    calibrate: str = knob("", "int8: data set whose train split shows it the range of features, whose val split its AP")
    data_root: str = knob("", "int8: folder of the built-in data sets (default $ALIGNYOLO_DATA, then ./datasets)")
    force: bool = knob(False, "int8: keep a file that loses more than .005 AP, or is slower than float32 here")
    opset: int = knob(13, "ONNX operator set; OpenCV 4.x reads the default", 13, 18)
    conf: float = knob(0.25, "layout nms: lowest score", 0, 1)
    nms_iou: float = knob(0.45, "layout nms: NMS threshold", 0, 1)
    max_det: int = knob(300, "layout nms: detections per image", 1, 10000)
    output: str = knob("", "file to write; the format's suffix replaces another's (default: beside the weights)")
    source: str = knob("", "photos to check it with, 32 at most: a file, folder or glob (default: drawn shapes)")


@dataclass(frozen=True)
class DetectConfig:
    """The flags of detect.py."""

    weights: str = knob("", "weights, or a file of export.py (default: best.pt of the newest run)")
    source: str = knob("", "image, folder, glob, list file (.txt), video, webcam number, or stream address")
    imgsz: tuple[int, ...] = knob((), "network input in pixels: one side, or height and width", 32, 8192)
    conf: float = knob(0.25, "lowest score that is reported", 0, 1)
    nms_iou: float = knob(0.45, "NMS threshold", 0, 1)
    max_det: int = knob(300, "detections per image", 1, 10000)
    classes: tuple[str, ...] = knob((), "report only these class names")
    precision: str = knob("auto", PRECISION_MEANING, choices=PRECISIONS)
    device: str = knob("", "cpu, cuda, cuda:1, mps (default: cuda if there is one)")
    vid_stride: int = knob(1, "use every N-th frame of a video or stream", 1, 100000)
    recursive: bool = knob(False, "a folder's sub-folders too; their results lie in the same sub-folders")
    max_pixels: int = knob(LARGEST_PHOTO, MAX_PIXELS_MEANING, 1, MOST_PIXELS)
    save: bool = knob(True, "save pictures and videos with the detections drawn")
    save_txt: bool = knob(False, "save a label file per image: class, cx, cy, w, h as fractions, score")
    save_csv: bool = knob(False, "save detections.csv")
    save_json: bool = knob(False, "save detections.json")
    save_coco: bool = knob(False, "save annotations/instances_default.json, scored, to correct in labelling tools")
    save_crop: bool = knob(False, "save every detection as a picture")
    project: str = knob("runs/detect", "folder of the run folders")
    name: str = knob("exp", "name of the run folder")
    exist_ok: bool = knob(False, "write into an existing run folder")


@dataclass(frozen=True)
class Config:
    """A whole run: what is printed in the banner, saved as config.yaml and stored in the checkpoint."""

    run: RunConfig
    model: ModelConfig | TorchvisionConfig
    hyper: Hyperparameters
    names: tuple[str, ...]

    @property
    def yolov3(self) -> ModelConfig:
        """Return the model of a YOLOv3; TypeError for another family's."""
        if not isinstance(self.model, ModelConfig):
            raise TypeError(f"expected a YOLOv3, not {self.model.detector}")
        return self.model

    @property
    def torchvision(self) -> TorchvisionConfig:
        """Return the model of a detector of torchvision; TypeError for a YOLOv3's."""
        if not isinstance(self.model, TorchvisionConfig):
            raise TypeError(f"expected a detector of torchvision, not {self.model.detector}")
        return self.model

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types only."""
        return {
            "run": plain(self.run),
            "model": plain(self.model),
            "hyper": plain(self.hyper),
            "names": list(self.names),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str) -> "Config":
        """Return the inverse of to_dict; UserError names `where` if a key or value is not one of ours."""
        names = values.get("names")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: names in its config: expected a list of class names")
        model = build(model_kind(values["model"]), values["model"], where)
        if isinstance(model, ModelConfig):
            checked_model(model, where)
        run, hyper = build(RunConfig, values["run"], where), build(Hyperparameters, values["hyper"], where)
        return Config(run, model, hyper, tuple(names))


def model_kind(values: Mapping[str, Any]) -> type:
    """Return the dataclass that describes a model YAML's contents."""
    return TorchvisionConfig if "detector" in values else ModelConfig


def plain(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain JSON types: tuples become lists."""

    def listed(value: Any) -> Any:
        return [listed(part) for part in value] if isinstance(value, (tuple, list)) else value

    return {each.name: listed(getattr(config, each.name)) for each in dataclasses.fields(config)}


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Return a config dataclass from a mapping; a wrong key, type or value is a UserError that names `where`."""
    try:
        return kind(**checked(kind, values, where))
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(where) else f"{where}: {message}") from None


def checked(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values with the types and in the ranges of the dataclass's knobs.

    UserError names `where` and the key.
    """
    known = {each.name: each for each in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {printable(key)!r}{nearest(str(key), known)}")
    hints = typing.get_type_hints(kind)
    return {key: check(known[key], hints[key], value, where) for key, value in values.items()}


def check(knob_field: dataclasses.Field, hint: Any, value: Any, where: str) -> Any:
    """Return the value converted to the knob's type and found in its range; UserError otherwise."""
    flag = f"--{knob_field.name.replace('_', '-')}"
    place, limits = (where if where == flag else f"{where}: {knob_field.name}"), knob_field.metadata
    if isinstance(value, bool) and limits["choices"] and hint in (str, float | str):
        # YAML reads a bare on or off as true or false.
        value = "on" if value else "off"
    converted = convert(hint, value, place)
    for number in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if abs(number) > LARGEST:
                raise UserError(f"{place} is {number:g}: expected a number that training can compute with")
            low, high = limits["low"], limits["high"]
            if (low is not None and number < low) or (high is not None and number > high) or number != number:
                span = f"{low} to {high}" if high is not None else "a number" if low is None else f"at least {low}"
                words = [choice for choice in limits["choices"] if isinstance(choice, str)]
                raise UserError(f"{place} is {number}: expected {' or '.join([span, *words])}")
    for text in converted if isinstance(converted, tuple) else (converted,):
        if limits["choices"] and isinstance(text, str) and text not in limits["choices"]:
            raise UserError(f"{place} is {printable(text)!r}{nearest(text, limits['choices'], limits['shown'])}")
    return converted


EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def convert(hint: Any, value: Any, place: str) -> Any:
    """Return the value as the type `hint` says; `1e-3`, text to PyYAML, becomes a number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if types.NoneType in arguments:  # a knob that may be left to another config
        return None if value is None else convert(arguments[0], value, place)
    if origin in (Union, types.UnionType):
        try:
            return convert(arguments[0], value, place)
        except UserError:
            return convert(arguments[1], value, place)
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            value = [value]
        return tuple(convert(arguments[0], each, place) for each in value)
    if hint is bool:
        named = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if isinstance(value, bool) or str(value).lower() in named:
            return value if isinstance(value, bool) else named[str(value).lower()]
    elif hint is str:
        if isinstance(value, (str, os.PathLike)):  # what export() and the other functions return is a path
            return os.fsdecode(value)
    elif not isinstance(value, bool):
        try:
            number = float(value)
            if hint is float or number == int(number):
                return hint(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise UserError(f"{place} is {printable(value)!r}: expected {EXPECTED.get(hint, hint)}")
