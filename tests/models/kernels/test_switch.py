"""The switch cpu_kernels: off, a network is torch's own arithmetic; on, the same bits where torch's operations do."""

import pytest
import torch
from torch import nn

import models.kernels.winograd
import models.yolov3.blocks
from models.families import build_detector
from models.kernels.in_use import cpu_kernels_in_use
from models.weights.read import load_detector
from models.yolov3.build import build_network
from models.yolov3.loss import CrossEntropy
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config

SMALL = {"yolov3-tiny": [8] * 7, "yolov3": [8] * 6, "yolov3-spp": [8] * 6}
CPU = torch.device("cpu")


def networks(cfg, activation="silu"):
    """A network with the kernels and one without, of equal weights."""
    made = []
    for switch in (True, False):
        torch.manual_seed(0)
        model = model_config(cfg, {"channels": SMALL[cfg], "activation": activation})
        made.append(build_network(model, 3, switch).train().to(memory_format=torch.channels_last))
    return made


def step(network):
    """Forward and backward: the outputs and all gradients."""
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    raw = network(images.contiguous(memory_format=torch.channels_last))
    raw.square().mean().backward()
    return [raw.detach(), *(parameter.grad for parameter in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("cfg", SMALL)
@pytest.mark.parametrize("activation", ["silu", "leaky"])
def test_on_and_off_agree_to_the_bit_and_off_is_torchs_own(cfg, activation, monkeypatch):
    """These layers are too small for Winograd's convolutions, whose rounding is another."""
    on, off = networks(cfg, activation)
    kept = step(on)
    for name in ("norm_silu", "norm_silu_pool", "saves_memory"):
        monkeypatch.setattr(models.yolov3.blocks, name, lambda *_: pytest.fail("one of our kernels"))
    for ours, theirs in zip(kept, step(off), strict=True):
        assert torch.equal(ours, theirs)
    kinds = {type(module) for module in off.modules()}
    assert not [kind for kind in kinds if kind.__module__.startswith("models.kernels")]
    assert nn.Conv2d in kinds
    assert on.state_dict().keys() == off.state_dict().keys()


def test_second_derivatives_are_refused_by_the_kernels_and_are_there_without():
    """Of a sum, too, which is linear: torch's own `once_differentiable` takes the gradient for a constant there."""
    for network, refused in zip(networks("yolov3-tiny"), (True, False), strict=True):
        raw = network(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
        parameters = list(network.parameters())
        if refused:
            with pytest.raises(NotImplementedError, match="second derivatives"):
                torch.autograd.grad(raw.sum(), parameters, create_graph=True)
        else:
            slopes = torch.autograd.grad(raw.sum(), parameters, create_graph=True)
            sum(slope.square().sum() for slope in slopes).backward()
            assert any(parameter.grad.any() for parameter in parameters if parameter.grad is not None)


def test_second_derivatives_are_refused_by_winograds_convolution_and_the_cross_entropy_by_log():
    x, logits = torch.rand(1, 4, 8, 8, requires_grad=True), torch.randn(5, requires_grad=True)
    convolved = models.kernels.winograd.winograd(x, torch.rand(6, 4, 3, 3))
    for value, leaf in ((convolved, x), (CrossEntropy(by_log=True)(logits, torch.rand(5)), logits)):
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.autograd.grad(value.sum(), leaf, create_graph=True)


@pytest.mark.parametrize(("switch", "some"), [("on", True), ("off", False)])
def test_the_hyperparameter_reaches_the_network(switch, some, monkeypatch):
    config = Config(
        RunConfig(), model_config("yolov3-tiny", {"channels": [8] * 7}), Hyperparameters(cpu_kernels=switch), ("a",)
    )
    detector = build_detector(config)
    assert ("cross entropy by log" in cpu_kernels_in_use(detector.network, CPU, switch, detector.loss)) == some
    checkpoint = {"model": detector.network.state_dict(), "config": config.to_dict(), "epoch": 1, "names": ["a"]}
    for network in (detector.network, load_detector(checkpoint, config, "x.pt").network):
        ours = [module for module in network.modules() if type(module).__module__.startswith("models.kernels")]
        assert bool(ours) == some
        assert bool(cpu_kernels_in_use(network, CPU, switch)) == some
        assert cpu_kernels_in_use(network, torch.device("cuda"), switch) == []


def test_the_record_names_what_a_network_has():
    silu, leaky = networks("yolov3-tiny")[0], networks("yolov3-tiny", "leaky")[0]
    assert len(cpu_kernels_in_use(silu, CPU, "on")) == 4
    assert not any("activation" in name for name in cpu_kernels_in_use(leaky, CPU, "on"))
    assert cpu_kernels_in_use(nn.Linear(1, 1), CPU, "on") == ["freed memory kept"]
