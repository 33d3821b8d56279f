"""First layers a few images at a time: the same features, and whole batches wherever they belong together."""

import pytest
import torch

import models.kernels.few_at_a_time as parts
from models.yolov3.backbone import BACKBONES

CHANNELS = {"darknet_tiny": (8, 8, 8, 8, 8, 8, 8), "darknet53": (8, 8, 8, 8, 8, 8)}


@pytest.fixture(params=sorted(BACKBONES))
def backbone(request):
    torch.manual_seed(0)
    return BACKBONES[request.param](CHANNELS[request.param], "silu")


def watched(module, monkeypatch, cached):
    """Note how many images the first layers see each time."""
    seen, first = [], next(module.children())
    first = getattr(module, "conv0", None) or first
    first.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    monkeypatch.setattr(parts, "CACHED", cached)
    return seen


def test_features_of_parts_are_those_of_the_batch(backbone, monkeypatch):
    images = torch.rand(5, 3, 64, 96).to(memory_format=torch.channels_last)
    backbone.eval().to(memory_format=torch.channels_last)
    whole = backbone(images)  # a gradient is wanted
    seen = watched(backbone, monkeypatch, 2 * 8 * 64 * 96 * 4)
    with torch.inference_mode():
        found = backbone(images)
    assert seen == [2, 2, 1]
    for one, other in zip(found, whole, strict=True):
        assert one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other.detach())


@pytest.mark.parametrize("why", ["training", "gradient", "traced", "room", "switch"])
def test_a_batch_stays_whole(why, backbone, monkeypatch):
    if why == "switch":
        name = next(name for name in BACKBONES if type(backbone) is BACKBONES[name])
        backbone = BACKBONES[name](CHANNELS[name], "silu", cpu_kernels=False)
    backbone.train(why == "training")
    images = torch.rand(4, 3, 64, 64)
    seen = watched(backbone, monkeypatch, 1 << 30 if why == "room" else 1)
    with torch.set_grad_enabled(why == "gradient"):
        if why == "traced":
            torch.jit.trace(backbone, images, check_trace=False)
        else:
            backbone(images)
    assert set(seen) == {4}


def test_an_empty_batch_and_an_image_beyond_the_room(backbone, monkeypatch):
    backbone.eval()
    seen = watched(backbone, monkeypatch, 1)
    with torch.inference_mode():
        backbone(torch.rand(2, 3, 64, 64))
        assert seen == [1, 1]
        assert len(backbone(torch.rand(0, 3, 64, 64))[0]) == 0
