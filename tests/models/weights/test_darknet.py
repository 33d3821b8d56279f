"""Darknet's .cfg and .weights: OpenCV's outputs, and back byte for byte."""

import shutil
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from models.weights.darknet import cfg_sections, read_cfg, read_darknet, write_darknet
from models.weights.darknet_cfg import cfg_with_size, format_cfg
from models.weights.read import load_detector, read_weights
from models.yolov3.build import build_network
from models.yolov3.decoding import Decoding
from tests.paths import SHARED_DATA, needs_shared_data
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config
from utils.errors import UserError

DARKNET = {"activation": "leaky", "decode": "darknet", "pool_padding": "lowest", "norm_eps": 1e-6}
TOPOLOGIES = {
    "yolov3-tiny": [4, 8, 16, 32, 40, 48, 64],
    "yolov3": [4, 8, 16, 24, 32, 40],
    "yolov3-spp": [4, 8, 8, 16, 24, 32],
}


def random_network(cfg, num_classes=3, **changes):
    model = model_config(cfg, {**DARKNET, "channels": TOPOLOGIES[cfg], **changes})
    torch.manual_seed(1)
    network = build_network(model, num_classes).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    names = tuple(f"class{number}" for number in range(num_classes))
    return network, Config(RunConfig(data="", cfg=cfg, imgsz=(96, 128)), model, Hyperparameters(), names)


@needs_shared_data
@pytest.mark.parametrize("name", ["tiny-narrow", "yolov3-narrow"])
def test_outputs_are_opencvs_reference(name):
    contents = read_weights(SHARED_DATA / "darknet" / f"{name}.weights")
    config = Config.from_dict(contents["config"], name)
    detector = load_detector(contents, config, name)
    reference = np.load(SHARED_DATA / "darknet" / f"{name}-reference.npz")
    image = torch.from_numpy(np.ascontiguousarray(reference["image_bgr_uint8"][..., ::-1])).permute(2, 0, 1)[None] / 255
    anchors = detector.anchors((416, 416), image.device)
    with torch.no_grad():
        raw = detector.network(image)[0]
    boxes = Decoding(config.model.decode).boxes(raw[:, :4], anchors)
    layers = sorted({int(key.split("_")[1]) for key in reference.files if key.startswith("yolo_")}, reverse=True)
    for level, layer in zip(anchors.levels, layers, strict=True):
        rows = slice(level.start, level.start + level.count)
        grid = (3, level.rows, level.columns)
        ours = raw[rows].view(*grid, -1).permute(0, 3, 1, 2).reshape(1, -1, *grid[1:]).numpy()
        assert np.abs(ours - reference[f"yolo_{layer}_raw"]).max() < 1e-4
        box = boxes[rows].view(*grid, 4).permute(1, 2, 0, 3).reshape(-1, 4) / 416
        xywh = torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1).numpy()
        decoded = reference[f"yolo_{layer}_decoded"]
        assert np.abs(xywh - decoded[:, :4]).max() < 1e-4
        scores = raw[rows, 4:].sigmoid().view(*grid, -1).permute(1, 2, 0, 3).flatten(0, 2).numpy()
        products = scores[:, :1] * scores[:, 1:]
        kept = decoded[:, 5:] > 0
        assert np.abs(products - decoded[:, 5:])[kept].max(initial=0) < 1e-4


@needs_shared_data
@pytest.mark.parametrize("name", ["tiny-narrow", "yolov3-narrow"])
def test_there_and_back_byte_for_byte(name, tmp_path):
    source = SHARED_DATA / "darknet" / f"{name}.weights"
    contents = read_weights(source)
    config = Config.from_dict(contents["config"], name)
    network = load_detector(contents, config, name).network
    cfg = write_darknet(tmp_path / "back.weights", network, config, contents["darknet"])
    assert (tmp_path / "back.weights").read_bytes() == source.read_bytes()
    assert cfg.read_bytes() == source.with_suffix(".cfg").read_bytes()


@pytest.mark.parametrize("cfg", TOPOLOGIES)
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_opencv_computes_what_we_export(cfg, eps, tmp_path):
    """The .cfg and .weights of all topologies, also of a model with another epsilon."""
    network, config = random_network(cfg, norm_eps=eps)
    write_darknet(tmp_path / "ours.weights", network, config)
    theirs = cv2.dnn.readNetFromDarknet(str(tmp_path / "ours.cfg"), str(tmp_path / "ours.weights"))
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    theirs.setInput(cv2.dnn.blobFromImage(image, 1 / 255, (128, 96), swapRB=True))
    names = [name for name in theirs.getLayerNames() if theirs.getLayer(name).type == "Region"]
    before = [theirs.getLayerNames()[theirs.getLayerId(name) - 3] for name in names]
    outputs = theirs.forward(before)
    tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = network.neck(*network.backbone(tensor))
        ours = [conv(feature) for conv, feature in zip(network.head.convs, features, strict=True)][::-1]
    assert len(outputs) == len(ours)
    for theirs_raw, ours_raw in zip(outputs, ours, strict=True):
        assert np.abs(theirs_raw - ours_raw.numpy()).max() < 1e-4


@pytest.mark.parametrize("cfg", TOPOLOGIES)
@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 5), (1, 0, 0)])
def test_header_versions_round_trip(cfg, version, tmp_path):
    network, config = random_network(cfg)
    header = dict(
        zip(("major", "minor", "revision"), version, strict=True), seen=2**31 - 5 if version < (0, 2) else 2**40
    )
    write_darknet(tmp_path / "a.weights", network, config, header)
    contents = read_darknet(tmp_path / "a.weights")
    assert contents["darknet"]["seen"] == header["seen"]
    back = load_detector(contents, Config.from_dict(contents["config"], "a"), "a").network
    for name, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    write_darknet(tmp_path / "b.weights", back, config, contents["darknet"])
    assert (tmp_path / "a.weights").read_bytes() == (tmp_path / "b.weights").read_bytes()


def test_without_cfg_the_length_tells_the_model(tmp_path):
    """Darknet's own widths; the number of floats of yolov3-tiny.weights with 80 classes is public: 8,858,734."""
    path = tmp_path / "tiny.weights"
    path.write_bytes(struct.pack("<iiiq", 0, 2, 0, 0) + np.zeros(8_858_734, "<f4").tobytes())
    contents = read_darknet(path)
    assert (contents["config"]["run"]["cfg"], len(contents["names"])) == ("yolov3-tiny", 80)
    assert contents["config"]["model"]["anchors"][0] == [[23, 27], [37, 58], [81, 82]]
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="8858634 floats"):
        read_darknet(path)


@pytest.mark.parametrize(("name", "cutoff"), [("yolov3-tiny.conv.15", None), ("backbone-tiny.weights", 15)])
def test_a_truncated_backbone(name, cutoff, tmp_path):
    path = tmp_path / name
    network, config = random_network("yolov3-tiny", channels=[16, 32, 64, 128, 256, 512, 1024], num_classes=80)
    header = {"major": 0, "minor": 2, "revision": 0, "seen": 7, "cutoff": 15, "cfg": "unused"}
    write_darknet(tmp_path / "whole.weights", network, config, header)
    shutil.move(tmp_path / "whole.weights", path)
    contents = read_weights(path, cutoff=cutoff)
    assert "neck.out5.conv.weight" in contents["model"]
    assert "neck.lateral4.reduce.conv.weight" not in contents["model"]
    assert torch.equal(contents["model"]["backbone.conv6.conv.weight"], network.backbone.conv6.conv.weight)
    with pytest.raises(UserError, match="no whole model"):
        load_detector(contents, Config.from_dict(contents["config"], "x"), "x")


WRONG_CFGS = {
    "kind": ("[maxpool]", "[avgpool]", "line 16: \\[avgpool\\]: yolov3 has \\[maxpool\\]"),
    "filters": ("filters=24", "filters=28", "filters=28: yolov3 has 24"),
    "route": ("layers=-1,8", "layers=-1,6", "layers=-1,6: yolov3 has -1,8"),
    "activation": ("activation=leaky", "activation=mish", "activation=mish: yolov3 has leaky"),
    "mask": ("mask=0,1,2", "mask=0,1,9", "mask names anchors"),
    "size": ("height=96", "height=100", "line 1: \\[net\\] height=100: expected a multiple of 32 up to 8192"),
    "small": ("width=128", "width=16", "line 1: \\[net\\] width=16: expected a multiple of 32"),
    "no size": ("height=96", "height=0", "line 1: \\[net\\] height=0: expected a multiple of 32"),
    "text": ("[net]", "hello", "expected \\[section\\]"),
    "number": ("classes=3", "classes=x", "classes: expected a whole number"),
    "scale": ("mask=0,1,2", "scale_x_y=1.05", "scale_x_y"),
}


@pytest.mark.parametrize("kind", WRONG_CFGS)
def test_another_topology_is_named_with_its_line(kind, tmp_path):
    _, config = random_network("yolov3-tiny")
    text = format_cfg(cfg_sections(config.model, 3, (96, 128)))
    path = tmp_path / "x.cfg"
    assert read_cfg(text, path).model == config.model
    old, new, message = WRONG_CFGS[kind]
    assert old in text
    with pytest.raises(UserError, match=f"x.cfg.*{message}"):
        read_cfg(text.replace(old, new), path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        *(
            ("size=3\n", f"size=3\n{key}\n", rf"line 8: \[convolutional\] {key}: another network")
            for key in ("dilation=2", "stride_x=2", "xnor=1", "flipped=1", "binary=1", "antialiasing=1", "unknown=1")
        ),
        ("pad=1\n", "padding=0\n", r"padding=0: another network than is computed here: yolov3 has 1"),
        ("channels=3", "channels=1", r"line 1: \[net\] channels=1: photos have 3"),
        ("layers=-4", "layers=-4\ngroups=2", r"\[route\] groups=2: another network .* yolov3 has 1"),
        ("stride=2\n\n[route]", "stride=2\nscale=.5\n\n[route]", r"\[upsample\] scale=.5: another network"),
        ("[maxpool]\nsize=2", "[maxpool]\npadding=0\nsize=2", r"\[maxpool\] padding=0: another network .* has 1"),
    ],
)  # fmt: skip
def test_keys_that_change_the_network_are_refused_by_name(old, new, message, tmp_path):
    _, config = random_network("yolov3-tiny")
    text = format_cfg(cfg_sections(config.model, 3, (96, 128)))
    assert old in text
    with pytest.raises(UserError, match=message):
        read_cfg(text.replace(old, new, 1), tmp_path / "x.cfg")


def test_a_shortcut_with_an_activation_is_another_network(tmp_path):
    _, config = random_network("yolov3")
    text = format_cfg(cfg_sections(config.model, 3, (96, 128)))
    with pytest.raises(UserError, match=r"\[shortcut\] activation=leaky: another network"):
        read_cfg(text.replace("from=-3\nactivation=linear", "from=-3\nactivation=leaky", 1), tmp_path / "x.cfg")


SPELLINGS = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "a comment in GBK": lambda text: "# \u8bad\u7ec3\n".encode("gbk") + text.encode(),
    "a comment in Latin-1": lambda text: "# Gr\u00f6\u00dfe\n".encode("latin-1") + text.encode(),
    "a route by absolute number": lambda text: text.replace("layers=-4", "layers=13").encode(),
    "values that change nothing": lambda text: text.replace("size=3\n", "size=3\ndilation=1\nstride_x=1\n", 1).encode(),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_network_in_another_spelling(spelling, tmp_path):
    network, config = random_network("yolov3-tiny")
    write_darknet(tmp_path / "a.weights", network, config)
    data = SPELLINGS[spelling]((tmp_path / "a.cfg").read_text())
    (tmp_path / "a.cfg").write_bytes(data)
    contents = read_darknet(tmp_path / "a.weights")
    for name, tensor in contents["model"].items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    back = write_darknet(tmp_path / "b.weights", network, config, contents["darknet"]).read_bytes()
    assert back == data.removeprefix(b"\xef\xbb\xbf"), "byte for byte, but for the mark"


NET = "# of my own\r\n[net]\n{}channels=3\n\n[yolo]\nwidth=7\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("width=416\nheight=416\n", "width=128\nheight=96\n"),
        ("  height = 32 # rows\r\nbatch=1\nwidth=32;x\n", "  height = 96 # rows\r\nbatch=1\nwidth=128;x\n"),
        ("max_width=9\nwidth=9\n", "height=96\nmax_width=9\nwidth=128\n"),
        ("", "width=128\nheight=96\n"),  # 416 is Darknet's own, where nothing is said
    ],
)
def test_the_size_of_a_cfg_is_written_and_nothing_else(before, after):
    assert cfg_with_size(NET.format(before), (96, 128)) == NET.format(after)


def test_the_cfg_says_the_size_that_was_exported(tmp_path):
    network, config = random_network("yolov3-tiny")
    cfg = write_darknet(tmp_path / "a.weights", network, config)
    origin = read_darknet(tmp_path / "a.weights")["darknet"]
    other = replace(config, run=replace(config.run, imgsz=(64,)))
    for header in (None, origin):
        written = write_darknet(tmp_path / "b.weights", network, other, header).read_text()
        assert read_cfg(written, cfg).run.image_size == (64, 64)
        assert written == cfg.read_text().replace("width=128\nheight=96", "width=64\nheight=64")


def test_a_header_of_version_0_0(tmp_path):
    network, config = random_network("yolov3-tiny")
    write_darknet(tmp_path / "a.weights", network, config, {"major": 0, "minor": 0, "revision": 0, "seen": 5})
    shutil.copy(tmp_path / "a.weights", tmp_path / "b.weights")
    cfg = format_cfg(cfg_sections(config.model, 3, (96, 128)))
    (tmp_path / "b.cfg").write_text(cfg)
    contents = read_weights(tmp_path / "b.weights")
    assert contents["darknet"]["seen"] == 5
    assert torch.equal(contents["model"]["backbone.conv0.conv.weight"], network.backbone.conv0.conv.weight)


def test_what_darknet_cannot_compute_is_refused(tmp_path):
    network, config = random_network("yolov3-tiny", activation="silu", decode="bounded")
    with pytest.raises(UserError, match="decode: bounded .*activation: silu"):
        write_darknet(tmp_path / "x.weights", network, config)
    assert not list(tmp_path.iterdir())
