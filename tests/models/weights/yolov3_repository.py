"""Models as the ultralytics/yolov3 repository pickles them, built here from its YAML files' description.

The classes carry that repository's module names while a fixture has them registered, so that torch.save writes what
its train.py writes. Layers: (from, module); `run` wires them like its forward.
"""

import sys
import types

import torch
from torch import nn

MODULES = ("models.common", "models.yolo")


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, act="silu"):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act == "silu" else nn.LeakyReLU(0.1)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True, act="silu"):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2 // 2, 1, 1, act), Conv(c2 // 2, c2, 3, 1, act)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class SPP(nn.Module):
    def __init__(self, c1, c2, act="silu"):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2, 1, 1, act), Conv(c1 // 2 * 4, c2, 1, 1, act)
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)])

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [m(x) for m in self.m], 1))


class Concat(nn.Module):
    def forward(self, xs):
        return torch.cat(xs, 1)


class Detect(nn.Module):
    def __init__(self, nc, anchors, channels, strides):
        super().__init__()
        self.nc, self.stride = nc, torch.tensor(strides, dtype=torch.float)
        self.register_buffer("anchors", torch.tensor(anchors).float() / self.stride.view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * (5 + nc), 1) for c in channels)

    def forward(self, xs):
        out = []
        for conv, x in zip(self.m, xs, strict=True):
            raw = conv(x)
            b, _, h, w = raw.shape
            out.append(raw.view(b, 3, -1, h, w).permute(0, 1, 3, 4, 2).reshape(b, 3 * h * w, -1))
        return torch.cat(out, 1)


class DetectionModel(nn.Module):
    def __init__(self, layers, names):
        super().__init__()
        self.model = nn.Sequential(*(module for _, module in layers))
        self.sources = [source for source, _ in layers]
        self.names = names

    def forward(self, x):
        outputs = []
        for source, layer in zip(self.sources, self.model, strict=True):
            inputs = [x if s == -1 else outputs[s] for s in source]
            x = layer(inputs if isinstance(layer, (Concat, Detect)) else inputs[0])
            outputs.append(x)
        return x


CLASSES = {"models.common": (Conv, Bottleneck, SPP, Concat), "models.yolo": (Detect, DetectionModel)}


def registered(monkeypatch):
    """Gives the classes their repository's module names."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for kind in CLASSES[name]:
            monkeypatch.setattr(kind, "__module__", name)
            setattr(sys.modules[name], kind.__name__, kind)


ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


def yolov3(c, nc, names, spp=False, act="silu"):
    """models/yolov3.yaml or yolov3-spp.yaml of that repository, with channels `c` of stem and stages."""
    last, layers, width = (-1,), [], [c[0]]

    def add(module, out, source=last):
        layers.append((source, module))
        width.append(out)

    def conv(out, k=1, s=1, source=last):
        add(Conv(width[-1] if source == last else width[source[0] + 1], out, k, s, act), out, source)

    def bottleneck(out, n=1, shortcut=True):
        blocks = [Bottleneck(width[-1] if i == 0 else out, out, shortcut, act) for i in range(n)]
        add(blocks[0] if n == 1 else nn.Sequential(*blocks), out)

    add(Conv(3, c[0], 3, 1, act), c[0])
    for out, depth in zip(c[1:], (1, 2, 8, 8, 4), strict=True):
        conv(out, 3, 2)
        bottleneck(out, depth)
    bottleneck(c[5], 1, False)
    if spp:
        add(SPP(width[-1], c[5] // 2, act), c[5] // 2)
    else:
        conv(c[5] // 2)
    conv(c[5], 3)
    conv(c[5] // 2)
    conv(c[5], 3)  # 15, P5
    conv(c[5] // 4, source=(14,))
    add(nn.Upsample(None, 2, "nearest"), width[-1])
    add(Concat(), width[-1] + c[4], (17, 8))
    bottleneck(c[4], 1, False)
    bottleneck(c[4], 1, False)
    conv(c[4] // 2)
    conv(c[4], 3)  # 22, P4
    conv(c[4] // 4, source=(21,))
    add(nn.Upsample(None, 2, "nearest"), width[-1])
    add(Concat(), width[-1] + c[3], (24, 6))
    bottleneck(c[3], 1, False)
    bottleneck(c[3], 2, False)  # 27, P3
    layers.append(((27, 22, 15), Detect(nc, ANCHORS, (c[3], c[4], c[5]), (8, 16, 32))))
    return DetectionModel(layers, names)
