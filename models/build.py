"""Builds the detector that a config describes: the one place where components meet configuration."""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from alignyolo.assign.dense import BoxMatcher
from alignyolo.assign.threshold import ASSIGNERS
from alignyolo.balance import balanced_weight
from alignyolo.similarities.iou import BOX_SIMILARITIES
from models.postprocess import Postprocess
from models.torchvision.dense_detectors import DenseDetector, resnet_fpn, retinanet, ssd300
from models.torchvision.dense_loss import BoxTerm, RetinaNetLoss, SSDLoss
from models.torchvision.faster_rcnn import TwoStageDetector, TwoStageLoss, faster_rcnn
from models.yolov3.detector import Detector
from models.yolov3.loss import DetectionLoss
from models.yolov3.network import Network
from utils.config.knobs import ENCODED_LOSSES, Config, Hyperparameters, ModelConfig, TorchvisionConfig
from utils.distributed import Group

AnyDetector = Detector | DenseDetector | TwoStageDetector
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


def build_similarity(hyper: Hyperparameters) -> Callable[[Tensor, Tensor], Tensor]:
    """The box similarity of the config, its keywords bound."""
    bound = {
        "sca": {"alpha": hyper.sca_alpha, "corner": hyper.sca_corner},
        "iou_cd": {"alpha": hyper.sca_alpha, "corner": hyper.sca_corner},
        "cd": {"corner": hyper.sca_corner},
    }
    return functools.partial(BOX_SIMILARITIES[hyper.box_loss], **bound.get(hyper.box_loss, {}))


def build_assigner(hyper: Hyperparameters, model: ModelConfig) -> Callable:
    """The assigner of the config, its settings bound."""
    threshold = {
        "positive": hyper.assign_positive,
        "negative": hyper.assign_negative,
        "min_positives": hyper.min_positives,
    }
    gaussian = {"alpha": hyper.ggiou_alpha, "beta": hyper.ggiou_beta, "sigma": hyper.ggiou_sigma}
    settings = {
        "anchor_ratio": {"anchor_t": hyper.anchor_t},
        "best_anchor": {"ignore_iou": hyper.ignore_iou},
        "iou": threshold,
        "ggiou": {**threshold, **gaussian},
    }
    reach = 0.0 if model.decode == "darknet" else model.xy_reach
    return ASSIGNERS[hyper.assigner](reach=reach, **settings[hyper.assigner])


def scaled_gains(
    hyper: Hyperparameters, levels: int, num_classes: int, image_size: tuple[int, int]
) -> tuple[float, float, float]:
    """Box, objectness and class gains, made for 3 levels, 80 classes and 640 px, scaled to what is trained."""
    per_level = 3 / levels
    area = image_size[0] * image_size[1] / 640**2
    return hyper.box * per_level, hyper.obj * area * per_level, hyper.cls * num_classes / 80 * per_level


def matched_gain(gain: float, match: float | str) -> float:
    """The box gain divided by what `box_gain_match` holds; ValueError while `iou` has not been measured yet."""
    if match == "none":
        return gain
    if isinstance(match, str):
        raise ValueError(f"box_gain_match: {match} must be measured on the training truths first")
    return gain / match


def build_loss(config: Config, observe: Callable | None = None, group: Group | None = None) -> DetectionLoss:
    """The detection loss of a config, over the processes of a group."""
    group = group or Group()
    hyper, model = config.hyper, config.model
    levels, num_classes = len(model.strides), len(config.names)
    box_gain, obj_gain, cls_gain = scaled_gains(hyper, levels, num_classes, config.run.image_size)
    return DetectionLoss(
        similarity=build_similarity(hyper),
        assigner=build_assigner(hyper, model),
        num_classes=num_classes,
        box_gain=matched_gain(box_gain, hyper.box_gain_match),
        obj_gain=obj_gain,
        cls_gain=cls_gain,
        level_balance=LEVEL_BALANCE[levels],
        obj_target=hyper.obj_target,
        cls_pw=hyper.cls_pw,
        obj_pw=hyper.obj_pw,
        label_smoothing=hyper.label_smoothing,
        fl_gamma=hyper.fl_gamma,
        ggiou_gamma=hyper.ggiou_gamma,
        ggiou_wloc=hyper.ggiou_wloc,
        balance_metric=hyper.balance_metric,
        ggiou_alpha=hyper.ggiou_alpha,
        ggiou_beta=hyper.ggiou_beta,
        ggiou_sigma=hyper.ggiou_sigma,
        decode=model.decode,
        xy_reach=model.xy_reach,
        observe=observe,
        ranks=group.world_size,
        over_ranks=group.sum,
    )


def build_detector(config: Config, observe: Callable | None = None, group: Group | None = None) -> AnyDetector:
    """The detector of a config, its weights drawn from the config's seed."""
    if isinstance(config.model, TorchvisionConfig):
        return build_torchvision(config, observe, group or Group())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        network = build_network(config.model, len(config.names), config.hyper.cpu_kernels == "on")
    postprocess = Postprocess(
        confidence=config.run.conf,
        nms_iou=config.run.nms_iou,
        max_detections=config.run.max_det,
        decode=config.model.decode,
        xy_reach=config.model.xy_reach,
    )
    return Detector(
        network, config.model.strides, config.model.anchors, build_loss(config, observe, group), postprocess
    )


def with_network(detector: AnyDetector, network: torch.nn.Module) -> AnyDetector:
    """The same detector around other weights, such as the averaged ones."""
    return detector.with_network(network)


def build_box_matcher(hyper: Hyperparameters, forced: str) -> BoxMatcher:
    """The matcher of the config, for anchors without a limit to their reach."""
    gaussian = (hyper.ggiou_alpha, hyper.ggiou_beta, hyper.ggiou_sigma)
    return BoxMatcher(hyper.assigner, hyper.assign_positive, hyper.assign_negative, forced, *gaussian)


def build_box_term(hyper: Hyperparameters, coder: object, group: Group) -> BoxTerm:
    """The box loss of the config on a torchvision detector's codes."""
    weight = functools.partial(
        balanced_weight,
        gamma=hyper.ggiou_gamma,
        wloc=hyper.ggiou_wloc,
        metric=hyper.balance_metric,
        alpha=hyper.ggiou_alpha,
        beta=hyper.ggiou_beta,
        sigma=hyper.ggiou_sigma,
        over_ranks=group.sum,
    )
    similarity = None if hyper.box_loss in ENCODED_LOSSES else build_similarity(hyper)
    return BoxTerm(coder, similarity, hyper.box_loss, hyper.smooth_l1_beta, weight)


def build_torchvision_network(config: Config) -> torch.nn.Module:
    """The network of torchvision that a config describes, its weights drawn from the config's seed."""
    model, num_classes = config.model, len(config.names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        if model.detector == "ssd":
            return ssd300(num_classes)
        if model.detector == "retinanet":
            return retinanet(model.backbone, num_classes, model.fpn_channels, model.norm)
        backbone = resnet_fpn(model.backbone, model.fpn_channels, model.norm, first=1, extra=None)
        hyper, second = config.hyper, build_box_matcher(config.hyper, forced="none")
        first = replace(second, positive=hyper.rpn_positive, negative=hyper.rpn_negative, forced="best")
        return faster_rcnn(backbone, num_classes, first, second)


def build_torchvision(config: Config, observe: Callable | None, group: Group) -> DenseDetector | TwoStageDetector:
    """The detector of torchvision that a config describes; its losses are divided by the nominal batch.

    A step adds up the gradients of all images, and these detectors' learning rates are meant for their mean.
    """
    hyper, flags, detector = config.hyper, config.run, config.model.detector
    network = build_torchvision_network(config)
    postprocess = Postprocess(flags.conf, flags.nms_iou, flags.max_det)
    coder = network.roi_heads.box_coder if detector == "fasterrcnn" else network.box_coder
    settings = {
        "box": build_box_term(hyper, coder, group),
        "box_gain": matched_gain(hyper.box, hyper.box_gain_match) / hyper.nominal_batch,
        "cls_gain": hyper.cls / hyper.nominal_batch,
        "observe": observe,
    }
    if detector == "fasterrcnn":
        loss = TwoStageLoss(**settings, obj_gain=hyper.obj / hyper.nominal_batch)
        return TwoStageDetector(network, loss, postprocess)
    settings |= {"ranks": group.world_size, "over_ranks": group.sum}
    if detector == "ssd":
        loss = SSDLoss(**settings, assigner=build_box_matcher(hyper, forced="claim"))
    else:
        loss = RetinaNetLoss(**settings, assigner=build_box_matcher(hyper, forced="best"), focal_gamma=hyper.fl_gamma)
    return DenseDetector(network, loss, postprocess)
