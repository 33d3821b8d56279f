"""torchvision's detectors behind our contract: their own losses to the digit, the paper's weights, training."""

import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torchvision.models import resnet18, vgg16
from torchvision.models.detection import (
    FasterRCNN,
    RetinaNet,
    fasterrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    ssd300_vgg16,
)
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from alignyolo.gaussian_iou import ggiou
from alignyolo.similarities.sca import sca
from alignyolo.targets import Targets
from data.shapes.demo_set import make_shapes
from engine.export.weights import torch_backend
from engine.settings.configure import advice, check_choices, demo_of, plan_run
from engine.train.trainer import load_weights
from models.families import build_detector
from models.torchvision.dense_detectors import dense_anchors
from models.torchvision.dense_loss import BoxTerm, DenseOutput
from models.weights.torchvision import read_torchvision, with_detector_names
from utils.config.knobs import Config, RunConfig
from utils.config.sources import MODELS, hyperparameters, model_config
from utils.errors import UserError

SIDE = 128
SMALL = {"fpn_channels": 16}


def config_of(cfg, side=SIDE, **changes):
    """A small detector whose losses are not divided by the nominal batch."""
    changes = {"nominal_batch": 1, **changes}
    model = model_config(cfg, {} if cfg.startswith("ssd") else SMALL)
    hyper = hyperparameters("", changes, base=model.hyp)
    return Config(RunConfig(imgsz=(side,), conf=0.0), model, hyper, ("a", "b", "c"))


def scene(side=SIDE, dtype=torch.float64):
    """Three images, the second without truths, with truths of every size, two of them in nearly one place."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, side, side, generator=generator, dtype=dtype)
    boxes = [
        torch.tensor([[10.0, 20, 60, 50], [12, 22, 61, 49], [90, 90, 97, 96]], dtype=dtype),
        torch.zeros(0, 4, dtype=dtype),
        torch.tensor([[3.0, 5, 120, 110], [40, 8, 44, 100]], dtype=dtype),
    ]
    labels = [torch.tensor([0, 2, 1]), torch.zeros(0, dtype=torch.long), torch.tensor([1, 2])]
    lists = [{"boxes": box, "labels": label} for box, label in zip(boxes, labels, strict=True)]
    return images, Targets.stack(boxes, labels), lists


def stock_retinanet(network, kind):
    stock = RetinaNet(network.backbone, 3, min_size=SIDE, max_size=SIDE)
    stock.head.regression_head._loss_type = kind
    stock.to(next(network.parameters()).dtype).load_state_dict(network.state_dict())
    return stock.train()


def compare(detector, stock, images, targets, lists, names):
    """The largest differences of losses and gradients, relative to the largest gradient."""
    ours = detector(images, targets)
    mine = torch.autograd.grad(sum(ours.values()), list(detector.network.parameters()))
    theirs = stock(list(images), lists)
    expected = torch.autograd.grad(sum(theirs.values()), list(stock.parameters()))
    assert set(theirs) == {name for parts in names.values() for name in parts}
    losses = max(abs(ours[name] - sum(theirs[part] for part in parts)).item() for name, parts in names.items())
    scale = max(part.abs().max() for part in expected)
    gradients = max(((a - b).abs().max() / scale).item() for a, b in zip(mine, expected, strict=True))
    return losses, gradients


RETINANET = {"box": ["bbox_regression"], "class": ["classification"]}
FASTER_RCNN = {
    "box": ["loss_box_reg"],
    "class": ["loss_classifier"],
    "objectness": ["loss_objectness", "loss_rpn_box_reg"],
}


@pytest.mark.parametrize(
    ("loss", "norm"), [("l1", "batch"), ("l1", "frozen"), ("smooth_l1", "batch"), ("giou", "batch")]
)
def test_retinanet_is_torchvisions(loss, norm):
    """In double precision to 1e-6, an image without truths included."""
    config = config_of("retinanet_resnet18_fpn", box_loss=loss, smooth_l1_beta=1.0)
    config = replace(config, model=replace(config.model, norm=norm))
    images, targets, lists = scene()
    detector = build_detector(config).double().train()
    losses, gradients = compare(detector, stock_retinanet(detector.network, loss), images, targets, lists, RETINANET)
    print(f"{loss} {norm}: losses {losses:.1e}, gradients {gradients:.1e}")
    assert losses < 1e-6 and gradients < 1e-6


@pytest.mark.parametrize("loss", ["diou", "ciou"])
def test_retinanets_other_box_losses_are_torchvisions(loss):
    detector = build_detector(config_of("retinanet_resnet18_fpn", box_loss=loss)).double().train()
    stock = stock_retinanet(detector.network, loss)
    losses, gradients = compare(detector, stock, *scene(), RETINANET)
    assert losses < 1e-5 and gradients < 1e-5


@pytest.fixture(scope="module")
def ssd():
    """An SSD without weights, which take long to draw."""
    with torch.device("meta"):
        return build_detector(config_of("ssd300_vgg16", 300))


@pytest.mark.parametrize("truths", ["as they are", "none"])
def test_ssds_loss_is_torchvisions(ssd, truths):
    """Losses and their gradients at the network's outputs, in double precision to 1e-6."""
    _, targets, lists = scene(300)
    if truths == "none":
        lists = [lists[1]] * 3
        targets = Targets.stack([each["boxes"] for each in lists], [each["labels"] for each in lists])
    lists = [{**each, "labels": each["labels"] + 1} for each in lists]  # torchvision counts the background
    shapes = [torch.empty(1, 1, side, side, dtype=torch.float64) for side in (38, 19, 10, 5, 3, 1)]
    laid = dense_anchors(ssd.network.anchor_generator, torch.empty(1, 3, 300, 300, dtype=torch.float64), shapes)
    anchors = laid.boxes
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(3, len(anchors), 4, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.randn(3, len(anchors), 4, generator=generator, dtype=torch.float64).requires_grad_()
    ours = ssd.loss(DenseOutput(codes, logits, laid), targets)
    mine = torch.autograd.grad(sum(ours.values()), (codes, logits))
    matched = [
        ssd.network.proposal_matcher(box_iou(each["boxes"], anchors))
        if len(each["boxes"])
        else torch.full((len(anchors),), -1)
        for each in lists
    ]
    outputs = {"bbox_regression": codes, "cls_logits": logits}
    theirs = ssd.network.compute_loss(lists, outputs, [anchors] * 3, matched)
    expected = torch.autograd.grad(sum(theirs.values()), (codes, logits))
    losses = max(abs(ours[name] - theirs[other]).item() for name, (other,) in RETINANET.items())
    gradients = max((a - b).abs().max().item() for a, b in zip(mine, expected, strict=True))
    print(f"ssd, truths {truths}: losses {losses:.1e}, gradients {gradients:.1e}")
    assert losses < 1e-6 and gradients < 1e-6


@pytest.mark.slow
def test_ssd_is_torchvisions():
    images, targets, lists = scene(300)
    detector = build_detector(config_of("ssd300_vgg16", 300)).double().train()
    network = detector.network
    normal = {"image_mean": network.transform.image_mean, "image_std": network.transform.image_std}
    stock = SSD(network.backbone, network.anchor_generator, (300, 300), 4, head=network.head, **normal).train()
    lists = [{**each, "labels": each["labels"] + 1} for each in lists]
    losses, gradients = compare(detector, stock, images, targets, lists, RETINANET)
    print(f"ssd: losses {losses:.1e}, gradients {gradients:.1e}")
    assert losses < 1e-6 and gradients < 1e-6


@pytest.fixture(scope="module")
def two_stage():
    """Faster R-CNN on ResNet-18 with narrow levels, and its config."""
    config = config_of("fasterrcnn_resnet50_fpn")
    config = replace(config, model=replace(config.model, backbone="resnet18"))
    return build_detector(config).double(), config


def test_faster_rcnn_is_torchvisions(two_stage):
    """With the same draw of anchors and proposals, an image without truths included."""
    detector, _ = two_stage
    images, targets, lists = scene()
    stock = FasterRCNN(detector.network.backbone, 4, min_size=SIDE, max_size=SIDE).double().train()
    stock.load_state_dict(detector.network.state_dict())
    seed = detector.network.sampling_seed(targets)  # not before: torchvision's resizing draws numbers too
    stock.rpn.register_forward_pre_hook(lambda *_: torch.manual_seed(seed) and None)
    lists = [{**each, "labels": each["labels"] + 1} for each in lists]
    losses, gradients = compare(detector.train(), stock, images, targets, lists, FASTER_RCNN)
    print(f"fasterrcnn: losses {losses:.1e}, gradients {gradients:.1e}")
    assert losses < 1e-6 and gradients < 1e-6


def test_faster_rcnns_second_stage_compares_decoded_boxes(two_stage):
    """SCA between the boxes decoded from the sampled proposals and their truths, over all sampled proposals."""
    _, config = two_stage
    config = replace(config, hyper=replace(config.hyper, box_loss="sca", assigner="ggiou"))
    detector = build_detector(config).train()
    images, targets, _ = scene(dtype=torch.float32)
    found = detector(images, targets)
    proposals, _ = detector.network(images, targets)
    total = 0.0
    for row, label in enumerate(proposals.labels.tolist()):
        if label > 0:
            code, box = proposals.codes[row, label][None], proposals.boxes[row][None]
            truth = targets.boxes[proposals.rows[row]]
            assert targets.labels[proposals.rows[row]] == label - 1
            assert targets.image[proposals.rows[row]] == proposals.image[row]
            assert ggiou(box[0], truth) >= 0.5
            total += 1 - sca(detector.network.roi_heads.box_coder.decode_single(code, box)[0], truth)
    torch.testing.assert_close(found["box"], total / len(proposals.labels))
    assert found["box"] > 0


def test_faster_rcnn_detects_and_takes_autocast(two_stage):
    _, config = two_stage
    detector = build_detector(config)
    images, targets, _ = scene(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.train()(images, targets)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    before = torch.get_rng_state()
    found = detector.eval()(images)
    assert torch.equal(before, torch.get_rng_state())
    for image in found:
        assert image["boxes"].shape == (len(image["scores"]), 4) and len(image["scores"]) <= 300
        assert (image["scores"].diff() <= 0).all() and image["labels"].max() < 3


def test_ssd_takes_vgg16s_classification_weights(ssd):
    with torch.device("meta"):
        found = with_detector_names(vgg16(weights=None).state_dict())
    network = ssd.network.state_dict()
    assert len(found) == 26 and all(value.shape == network[name].shape for name, value in found.items())


def test_retinanet_without_any_truth():
    detector = build_detector(config_of("retinanet_resnet18_fpn")).train()
    images, _, _ = scene(dtype=torch.float32)
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    losses = detector(images, empty)
    sum(losses.values()).backward()
    assert losses["box"] == 0 and losses["class"] > 0
    assert all(parameter.grad is not None for parameter in detector.network.parameters())


def test_ggiou_changes_the_positives_alone():
    """The matching reaches the loss: other positives, the same number of classes and gains."""
    images, targets, _ = scene(dtype=torch.float32)
    seen = {}
    for assigner in ("iou", "ggiou"):
        config = config_of("retinanet_resnet18_fpn", assigner=assigner)
        detector = build_detector(config, lambda *parts, assigner=assigner: seen.update({assigner: parts})).train()
        detector(images, targets)
    pairs = {name: set(zip(a.image.tolist(), a.anchor.tolist(), strict=True)) for name, (a, *_) in seen.items()}
    assert pairs["iou"] and pairs["ggiou"] and pairs["iou"] != pairs["ggiou"]


@pytest.mark.parametrize(("metric", "expected"), [("iou", 1 / 3), ("ggiou", 0.0)])
def test_the_papers_weights_by_hand(metric, expected):
    """Table 3: w_loc metric^gamma of the predicted box, times smooth L1 of the codes (GGIoU Eq. 5, 6).

    The anchor and the prediction are a unit of 10 px; the truth is shifted by half of it: IoU 1/3, GGIoU
    (1/3)^.7 exp(-.3/2 (5 / (5/6))^2).
    """
    detector = build_detector(config_of("retinanet_resnet18_fpn"))
    metric_value = expected or (1 / 3) ** 0.7 * torch.exp(torch.tensor(-0.15 * 36.0)).item()
    anchors, truths = torch.tensor([[0.0, 0, 10, 10]] * 2), torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10]])
    config = config_of(
        "retinanet_resnet18_fpn", box_loss="smooth_l1", balance_metric=metric, ggiou_gamma=1.4, ggiou_wloc=2.8
    )
    term: BoxTerm = build_detector(config).loss.box
    value, boxes = term(torch.zeros(2, 4), anchors, truths)
    codes = detector.network.box_coder.encode_single(truths, anchors)
    torch.testing.assert_close(codes, torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0]]))
    by_hand = 0.5 - 0.5 / 9  # |x| - beta / 2 above beta 1/9
    torch.testing.assert_close(value, torch.tensor([by_hand, 0.0]))
    weight = term.weight(boxes, truths)
    torch.testing.assert_close(weight, torch.tensor([2.8 * metric_value**1.4, 2.8]))
    automatic = build_detector(config_of("retinanet_resnet18_fpn", balance_metric=metric, ggiou_gamma=1.4)).loss.box
    assert automatic.weight(boxes, truths).mean().item() == pytest.approx(1)


def test_the_weights_reach_the_loss():
    """The balanced loss is the sum of Eq. 5 over the positives of every image, over their number."""
    images, targets, _ = scene(dtype=torch.float32)
    settings = {"box_loss": "smooth_l1", "ggiou_gamma": 1.4, "ggiou_wloc": 2.8, "assigner": "ggiou"}
    seen = []
    detector = build_detector(config_of("retinanet_resnet18_fpn", **settings), lambda *parts: seen.append(parts))
    found = detector(images, targets)["box"]
    (assignment, _, _, _), output = seen[0], detector.network(images)
    total = 0.0
    for image in range(3):
        mine = assignment.image == image
        if not mine.any():
            continue
        anchors, truths = output.anchors.boxes[assignment.anchor[mine]], targets.boxes[assignment.target[mine]].float()
        codes = output.codes[image, assignment.anchor[mine]]
        boxes = detector.network.box_coder.decode_single(codes, anchors)
        weight = detector.loss.box.weight(boxes.detach(), truths)
        wanted = detector.network.box_coder.encode_single(truths, anchors)
        smooth = functional.smooth_l1_loss(codes, wanted, reduction="none", beta=1 / 9).sum(-1)
        total = total + (weight * smooth).sum() / mine.sum() / 3
    torch.testing.assert_close(found, total)


def test_detections_are_sorted_and_within_reason():
    detector = build_detector(config_of("retinanet_resnet18_fpn")).eval()
    found = detector(scene(dtype=torch.float32)[0])
    assert len(found) == 3
    for image in found:
        assert image["boxes"].shape == (len(image["scores"]), 4) and len(image["scores"]) <= 300
        assert (image["scores"].diff() <= 0).all() and image["labels"].max() < 3


@pytest.mark.parametrize("cfg", ["retinanet_resnet18_fpn", "fasterrcnn_resnet50_fpn"])
def test_detect_py_finds_what_validation_finds(cfg):
    config = config_of(cfg)
    config = replace(config, model=replace(config.model, backbone="resnet18"))
    detector, images = build_detector(config).eval(), scene(dtype=torch.float32)[0][:1]
    boxes, scores = torch_backend(detector, config).run(images)
    found, expected = detector.postprocess.select(boxes[0], scores[0]), detector(images)[0]
    assert len(expected["scores"]) > 0
    assert all(torch.equal(found[part], value) for part, value in expected.items())


def test_autocast_keeps_the_loss_in_full_precision():
    detector = build_detector(config_of("retinanet_resnet18_fpn", box_loss="sca")).train()
    images, targets, _ = scene(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert detector.network(images).anchors.boxes.dtype == torch.float32


def test_the_detectors_own_settings_are_below_those_of_the_user():
    model = model_config("retinanet_resnet18_fpn", {})
    assert not {"optimizer", "hyp"} & demo_of(model, {"hyp": "ggiou"}).keys()
    hyper = hyperparameters("ggiou", {"box": 2.0}, base=model.hyp)
    assert (hyper.assigner, hyper.box, hyper.box_loss, hyper.lr0, hyper.nominal_batch) == ("ggiou", 2.0, "l1", 0.01, 16)


@pytest.mark.parametrize("cfg", [path.stem for path in sorted(MODELS.glob("*_*.yaml"))])
def test_without_pretrained_weights_a_recipe_is_taken_or_named(cfg, tmp_path):
    """The demo takes it; on other data a line says which, unless weights or an optimiser are chosen."""
    make_shapes(tmp_path / "shapes", train=2, val=2)
    model, demo = model_config(cfg, {}), plan_run({"cfg": cfg, "data_root": str(tmp_path)}).config
    assert (demo.run.optimizer, demo.run.hyp, demo.hyper.lr_schedule) == ("adamw", model.scratch_hyp, "linear")
    assert demo.hyper.lr0 < 0.002 and demo.hyper.assigner == "iou" and advice(demo) == ""
    (tmp_path / "a.pth").touch()
    chosen = [f"backbone_weights={tmp_path / 'a.pth'}"]
    pretrained = plan_run({"cfg": cfg, "data_root": str(tmp_path), "set": chosen}).config
    assert (pretrained.run.optimizer, pretrained.hyper.lr_schedule, advice(pretrained)) == ("sgd", "steps", "")
    bare = replace(demo, run=replace(demo.run, optimizer="sgd", hyp=""))
    assert f"--optimizer adamw --hyp {model.scratch_hyp}" in advice(bare)
    assert advice(replace(bare, run=replace(bare.run, weights="a.pt"))) == ""
    assert advice(plan_run({"cfg": "yolov3-tiny", "data_root": str(tmp_path)}).config) == ""


@pytest.mark.parametrize(
    ("cfg", "changes", "flags", "message"),
    [
        (
            "retinanet_resnet18_fpn",
            {"assigner": "anchor_ratio"},
            {},
            "not one of retinanet's; expected iou, ggiou, atss",
        ),
        ("retinanet_resnet18_fpn", {"box_gain_match": "iou"}, {}, "measured for YOLOv3 alone"),
        ("retinanet_resnet18_fpn", {}, {"autoanchor": True}, "anchors of its own"),
        ("ssd300_vgg16", {"assigner": "best_anchor"}, {}, "not one of ssd's; expected iou, ggiou, atss"),
        ("yolov3-tiny", {"box_loss": "l1"}, {}, r"--loss \(box_loss\) l1: for torchvision's detectors alone"),
    ],
)
def test_what_a_detector_does_not_have_is_said(cfg, changes, flags, message):
    model = model_config(cfg, {})
    hyper = hyperparameters("", changes, base=getattr(model, "hyp", ""))
    with pytest.raises(UserError, match=message):
        check_choices(RunConfig(**flags), model, hyper)


def test_keys_of_another_kind_of_model_are_said():
    with pytest.raises(UserError, match=r"--set xy_reach: no key of retinanet_resnet18_fpn.yaml, which has detector"):
        model_config("retinanet_resnet18_fpn", {"xy_reach": 1, "box_loss": "iou"})
    with pytest.raises(UserError, match=r"--set norm: no key of yolov3-tiny.yaml"):
        model_config("yolov3-tiny", {"norm": "frozen"})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"backbone": "resnet18"}, "ssd has vgg16"), ({"norm": "frozen"}, "neither a normalisation")],
)
def test_parts_that_do_not_fit_are_said(change, message):
    with pytest.raises(UserError, match=message):
        model_config("ssd300_vgg16", change)


def test_a_backbone_starts_from_classification_weights(tmp_path, capsys):
    config = config_of("retinanet_resnet18_fpn")
    state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    detector = build_detector(config)
    said = load_weights(detector.network, str(tmp_path / "resnet18.pth"), config.model)
    body = detector.network.backbone.body.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in body.items())
    assert f"weights: {len(body)} of" in said and "started afresh: backbone.fpn" in said


@pytest.mark.parametrize(
    ("cfg", "builder"),
    [
        ("retinanet_resnet50_fpn", retinanet_resnet50_fpn),
        ("ssd300_vgg16", ssd300_vgg16),
        ("fasterrcnn_resnet50_fpn", fasterrcnn_resnet50_fpn),
    ],
)
def test_torchvisions_own_detection_weights_fit(cfg, builder):
    """The COCO weights that torchvision publishes have 91 classes, for SSD with the background."""
    classes = 91 if cfg.startswith("retinanet") else 90
    config = replace(config_of(cfg, 300), names=tuple(map(str, range(classes))), model=model_config(cfg, {}))
    with torch.device("meta"):
        stock = builder(weights=None, weights_backbone=None).state_dict()
        ours = build_detector(config).network.state_dict()
    assert {name: value.shape for name, value in stock.items()} == {name: v.shape for name, v in ours.items()}


def test_weights_as_torchvisions_references_save_them(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "epoch": 25}, tmp_path / "coco.pth")
    assert read_torchvision(tmp_path / "coco.pth")["model"] == {"a": torch.ones(1)}


@pytest.mark.parametrize("contents", [b"", b"hello", {"model": 3}, [1, 2]], ids=str)
def test_what_is_no_weights_is_said(contents, tmp_path):
    path = tmp_path / "wrong.pth"
    path.write_bytes(contents) if isinstance(contents, bytes) else torch.save(contents, path)
    with pytest.raises(UserError, match=r"wrong\.pth"):
        read_torchvision(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_weights_are_said(zipped, tmp_path):
    """Whatever byte is changed, or missing: the file is read, or refused in one line."""
    path, rng, refused = tmp_path / "damaged.pth", random.Random(0), 0
    weights = {"conv1.weight": torch.randn(2, 3, 3, 3), "bn.count": torch.tensor(1)}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(400):
        part = bytearray(whole[: rng.choice((len(whole), len(whole), rng.randrange(len(whole))))])
        for _ in range(rng.choice((1, 3)) if part else 0):
            part[rng.randrange(min(len(part), 1200))] = rng.choice((rng.randrange(256), *b".0(}]qXKMGcRtueb"))
        path.write_bytes(part)
        try:
            assert read_torchvision(path)["model"]
        except UserError as error:
            refused += 1
            assert "damaged.pth" in str(error) and "\n" not in str(error)
    assert refused > 200
