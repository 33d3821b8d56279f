"""Builds the detector of torchvision that a config describes.

Its losses are divided by the nominal batch: a step adds up the gradients of all images, and these detectors' learning
rates are meant for their mean.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from alignyolo.assign.dense import DenseThreshold
from alignyolo.registry import DENSE_ASSIGNERS, SIMILARITIES
from models.choices import build_assigner, build_balance, build_similarity, matched_gain
from models.postprocess import Postprocess
from models.torchvision.dense_detectors import DenseDetector, resnet_fpn, retinanet, ssd300
from models.torchvision.dense_loss import BoxCoder, BoxTerm, RetinaNetLoss, SSDLoss
from models.torchvision.faster_rcnn import FasterRCNNNetwork, TwoStageDetector, TwoStageLoss, faster_rcnn
from utils.config.knobs import Config, Hyperparameters
from utils.distributed import Group

NetworkKind = TypeVar("NetworkKind", bound=nn.Module)


def build_matcher(hyper: Hyperparameters, forced: str) -> Any:
    """Bind the assigner of the config, for anchors without a limit to their reach."""
    return build_assigner(DENSE_ASSIGNERS[hyper.assigner], hyper, forced=forced)


def build_box_term(hyper: Hyperparameters, coder: BoxCoder) -> BoxTerm:
    """Bind the box loss of the config to a torchvision detector's codes."""
    if hyper.box_loss in SIMILARITIES:
        return BoxTerm(coder, build_similarity(hyper), weight=build_balance(hyper))
    term = BoxTerm(coder, encoded=hyper.box_loss, weight=build_balance(hyper))
    return replace(term, beta=hyper.smooth_l1_beta) if hyper.box_loss == "smooth_l1" else term


def seeded(config: Config, build: Callable[[], NetworkKind]) -> NetworkKind:
    """Build a network with its weights drawn from the config's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return build()


def shared_settings(config: Config, coder: BoxCoder, observe: Callable | None, group: Group) -> dict[str, Any]:
    """Collect what the losses of all of torchvision's detectors take."""
    hyper = config.hyper
    return {
        "box": build_box_term(hyper, coder),
        "box_gain": matched_gain(hyper.box, hyper.box_gain_match) / hyper.nominal_batch,
        "cls_gain": hyper.cls / hyper.nominal_batch,
        "observe": observe,
        "over_ranks": group.sum,
    }


def postprocess_of(config: Config) -> Postprocess:
    """Bind the flags of the postprocessing."""
    return Postprocess(config.run.conf, config.run.nms_iou, config.run.max_det)


def build_retinanet(config: Config, observe: Callable | None, group: Group) -> DenseDetector:
    """Build the RetinaNet of a config."""
    model, hyper = config.torchvision, config.hyper
    network = seeded(config, lambda: retinanet(model.backbone, len(config.names), model.fpn_channels, model.norm))
    loss = RetinaNetLoss(
        **shared_settings(config, network.box_coder, observe, group),
        assigner=build_matcher(hyper, forced="best"),
        scores=network.scores,
        ranks=group.world_size,
        focal_gamma=hyper.fl_gamma,
    )
    return DenseDetector(network, loss, postprocess_of(config))


def build_ssd(config: Config, observe: Callable | None, group: Group) -> DenseDetector:
    """Build the SSD of a config."""
    network = seeded(config, lambda: ssd300(len(config.names)))
    loss = SSDLoss(
        **shared_settings(config, network.box_coder, observe, group),
        assigner=build_matcher(config.hyper, forced="claim"),
        scores=network.scores,
        ranks=group.world_size,
    )
    return DenseDetector(network, loss, postprocess_of(config))


def build_faster_rcnn(config: Config, observe: Callable | None, group: Group) -> TwoStageDetector:
    """Build the Faster R-CNN of a config; its first stage has thresholds of its own."""
    model, hyper = config.torchvision, config.hyper
    second: DenseThreshold = build_matcher(hyper, forced="none")
    first = replace(second, positive=hyper.rpn_positive, negative=hyper.rpn_negative, forced="best")

    def network_of() -> FasterRCNNNetwork:
        backbone = resnet_fpn(model.backbone, model.fpn_channels, model.norm, first=1, extra=None)
        return faster_rcnn(backbone, len(config.names), first, second)

    network = seeded(config, network_of)
    shared = shared_settings(config, network.roi_heads.box_coder, observe, group)
    loss = TwoStageLoss(**shared, obj_gain=hyper.obj / hyper.nominal_batch)
    return TwoStageDetector(network, loss, postprocess_of(config))
