"""Builds the YOLOv3 detector that a config describes."""

from collections.abc import Callable

import torch

from alignyolo.assign.assignment import Assigner
from alignyolo.registry import ASSIGNERS
from models.choices import build_assigner, build_balance, build_similarity, matched_gain
from models.postprocess import Postprocess
from models.yolov3.decoding import Decoding
from models.yolov3.detector import Detector
from models.yolov3.loss import OBJECTNESS_TARGETS, ClassTerm, CrossEntropy, DetectionLoss, Gains, Processes
from models.yolov3.network import Network
from utils.config.knobs import Config, Hyperparameters, ModelConfig
from utils.distributed import Group

LEVEL_BALANCE = {2: (4.0, 1.0), 3: (4.0, 1.0, 0.4)}


def build_network(model: ModelConfig, num_classes: int, cpu_kernels: bool = True) -> Network:
    """Build the network of a model YAML for a number of classes, randomly initialised.

    Without `cpu_kernels` (the hyperparameter) it computes by torch's own operations alone.
    """
    return Network(
        model.backbone,
        model.channels,
        model.strides,
        anchors_per_cell=len(model.anchors[0]),
        num_classes=num_classes,
        activation=model.activation,
        spp=model.spp,
        pool_padding=model.pool_padding,
        norm_eps=model.norm_eps,
        cpu_kernels=cpu_kernels,
    )


def decoding_of(model: ModelConfig) -> Decoding:
    """Say how the model's raw outputs become boxes."""
    return Decoding(model.decode, model.xy_reach)


def build_yolov3_assigner(hyper: Hyperparameters, model: ModelConfig) -> Assigner:
    """Bind the assigner of the config to its settings and to the reach of the model's heads."""
    return build_assigner(ASSIGNERS[hyper.assigner], hyper, reach=decoding_of(model).reach)


def scaled_gains(hyper: Hyperparameters, levels: int, num_classes: int, image_size: tuple[int, int]) -> Gains:
    """Scale the gains, made for 3 levels, 80 classes and 640 px, to what is trained."""
    per_level = 3 / levels
    area = image_size[0] * image_size[1] / 640**2
    box = matched_gain(hyper.box * per_level, hyper.box_gain_match)
    return Gains(box, hyper.obj * area * per_level, hyper.cls * num_classes / 80 * per_level)


def build_loss(config: Config, observe: Callable | None = None, group: Group | None = None) -> DetectionLoss:
    """Build the detection loss of a config, over the processes of a group."""
    group = group or Group()
    hyper, model = config.hyper, config.yolov3
    levels, by_log = len(model.strides), hyper.cpu_kernels == "on"
    return DetectionLoss(
        similarity=build_similarity(hyper),
        assigner=build_yolov3_assigner(hyper, model),
        level_balance=LEVEL_BALANCE[levels],
        gains=scaled_gains(hyper, levels, len(config.names), config.run.image_size),
        weight=build_balance(hyper),
        quality=OBJECTNESS_TARGETS[hyper.obj_target],
        obj_entropy=CrossEntropy(hyper.obj_pw, hyper.fl_gamma, by_log),
        class_term=ClassTerm(CrossEntropy(hyper.cls_pw, hyper.fl_gamma, by_log), hyper.label_smoothing),
        decoding=decoding_of(model),
        observe=observe,
        processes=Processes(group.world_size, group.sum),
    )


def build_yolov3(config: Config, observe: Callable | None, group: Group) -> Detector:
    """Build the YOLOv3 detector of a config, its weights drawn from the config's seed."""
    flags, model = config.run, config.yolov3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(flags.seed)
        network = build_network(model, len(config.names), config.hyper.cpu_kernels == "on")
    loss = build_loss(config, observe, group)
    postprocess = Postprocess(flags.conf, flags.nms_iou, flags.max_det)
    return Detector(network, model.strides, model.anchors, loss, postprocess, decoding_of(model))
