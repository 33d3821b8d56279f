"""Functions that keep less for the gradient: torch's own results to the bit, with less memory."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import models.kernels.norm_silu_pool
import models.yolov3.blocks
from models.kernels.norm_silu_pool import LowMemoryMaxPool2d, norm_silu, norm_silu_pool, saves_memory
from models.yolov3.blocks import Downsample, SpatialPyramidPooling
from models.yolov3.build import build_network
from utils.config.sources import model_config

NETWORKS = {
    "yolov3-tiny": (lambda: build_network(model_config("yolov3-tiny", {}), 3), (2, 3, 64, 64)),
    "stage of Darknet-53": (lambda: Downsample(3, 16, 2, "silu"), (2, 3, 32, 32)),
    "pyramid of pools": (lambda: SpatialPyramidPooling(8, 16, "silu"), (2, 8, 16, 16)),
}
# Of the input, and of the gradient of the result.
LAYOUTS = tuple(itertools.product((torch.contiguous_format, torch.channels_last), repeat=2))
PLACES = ((4, 3, 6, 5), (2, 16, 24, 24), (16, 1, 1, 2))


def kept_bytes(function):
    """What autograd keeps of a function's storages between forward and backward, each counted once."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(kept.values())


def normalised(shape, layouts=(torch.contiguous_format,) * 2, dtype=torch.float32, scale=1.0, seed=0):
    """An input that wants a gradient, a normalisation with weights of its own, and the gradient of its result."""
    generator = torch.Generator().manual_seed(seed)
    x = (scale * torch.randn(shape, generator=generator) + 3).to(dtype).contiguous(memory_format=layouts[0])
    norm = nn.BatchNorm2d(shape[1], eps=1e-3, momentum=0.03)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[1], generator=generator))
        norm.bias.copy_(torch.randn(shape[1], generator=generator))
    weights = torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layouts[1])
    return x.requires_grad_(), norm, weights


@pytest.mark.parametrize("shape", PLACES)
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_norm_and_silu_are_torchs_to_the_bit(shape, layouts, dtype, scale):
    results = []
    for function in (norm_silu, lambda x, norm: functional.silu(norm(x))):
        x, norm, weights = normalised(shape, layouts, dtype, scale)
        y = function(x, norm)
        (y * weights).sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def pooled(shape, layouts, dtype, window):
    """Results and gradients of both ways to normalise, activate and pool."""
    results = []
    for pool in (LowMemoryMaxPool2d(*window), nn.MaxPool2d(*window)):
        x, norm, weights = normalised(shape, layouts, dtype)
        own = type(pool) is LowMemoryMaxPool2d
        y = norm_silu_pool(x, norm, pool) if own else pool(functional.silu(norm(x)))
        weights = weights[:, :, : y.shape[2], : y.shape[3]].contiguous(memory_format=layouts[1])
        (y * weights).sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()))
    return zip(*results, strict=True)


@pytest.mark.parametrize("shape", [(5, 32, 6, 7), (3, 16, 24, 24), (4, 16, 2, 2)])
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("images", [1, 2, 99])
def test_norm_silu_and_pool_are_torchs_to_the_bit(monkeypatch, shape, layouts, dtype, window, images):
    # So many images at a time: one, two and the rest, all.
    monkeypatch.setattr(models.kernels.norm_silu_pool, "PART", images * math.prod(shape[1:]) * dtype.itemsize)
    for ours, theirs in pooled(shape, layouts, dtype, window):
        assert ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)


def test_images_that_do_not_fill_the_cpus_vectors_differ_by_the_rounding_of_silu(monkeypatch):
    # What is left over at the end of an array torch computes by another exp.
    monkeypatch.setattr(models.kernels.norm_silu_pool, "PART", 1)
    for ours, theirs in pooled((5, 3, 6, 7), LAYOUTS[0], torch.float32, (2, 2, 0)):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_norm_and_silu_have_the_gradient_of_finite_differences():
    x, norm, _ = normalised((3, 2, 4, 3), dtype=torch.float64)
    norm.double()
    assert torch.autograd.gradcheck(lambda x, *_: norm_silu(x, norm), (x, norm.weight, norm.bias))


def test_frozen_weights_get_no_gradient():
    x, norm, _ = normalised((2, 3, 4, 4))
    norm.requires_grad_(False)
    norm_silu(x, norm).sum().backward()
    assert x.grad is not None and norm.weight.grad is None


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (2, 1, 0), (5, 1, 2), (13, 1, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_max_pool_is_torchs_to_the_bit(kernel, stride, padding, layout, dtype):
    # Few values, so that maxima tie; a NaN wins.
    values = torch.randint(5, (2, 3, 14, 15), generator=torch.Generator().manual_seed(0)).to(dtype)
    values[0, 0, 3, 3] = float("nan")
    results = []
    for pool in (LowMemoryMaxPool2d(kernel, stride, padding), nn.MaxPool2d(kernel, stride, padding)):
        x = values.contiguous(memory_format=layout).requires_grad_()
        y = pool(x)
        (y * torch.arange(y.numel()).reshape(y.shape).to(dtype)).sum().backward()
        results.append((y.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours.nan_to_num(nan=-1), theirs.nan_to_num(nan=-1))
        assert ours.stride() == theirs.stride()


def test_less_is_kept():
    x, norm, _ = normalised((2, 16, 24, 24))
    size = x.untyped_storage().nbytes()
    assert size <= kept_bytes(lambda: norm_silu(x, norm)) < 1.05 * size
    assert kept_bytes(lambda: functional.silu(norm(x))) > 2 * size
    # Where the maxima were: a whole number for each of a quarter as many values.
    assert kept_bytes(lambda: LowMemoryMaxPool2d(2, 2)(x)) == size // 2
    assert kept_bytes(lambda: nn.MaxPool2d(2, 2)(x)) == size // 2 + size
    assert size * 1.5 <= kept_bytes(lambda: norm_silu_pool(x, norm, LowMemoryMaxPool2d(2, 2))) < size * 1.55


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_a_network_is_the_same_to_the_bit(monkeypatch, name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    first = make().train().to(memory_format=torch.channels_last)
    second = copy.deepcopy(first)
    images = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    step(first, images)
    for module in (models.yolov3.blocks, models.kernels.norm_silu_pool):
        monkeypatch.setattr(module, "saves_memory", lambda *_: False)
    step(second, images)
    for (key, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    for (key, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), key


def step(network, images):
    """Forward and backward in bf16 and in float32, as training has them."""
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = network(images)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
            loss = sum(output.float().square().mean() for output in outputs)
        loss.backward()


def test_only_for_gradients_on_a_cpu_and_statistics_of_this_batch():
    x, norm, _ = normalised((2, 3, 4, 4))
    assert saves_memory(x) and saves_memory(x, norm)
    assert not saves_memory(x.detach(), norm) and not saves_memory(x.to("meta"), norm)
    assert not saves_memory(x, nn.Identity()) and not saves_memory(x, nn.SyncBatchNorm(3))
    assert not saves_memory(torch.ones(1, 3, 1, 1, requires_grad=True), norm), "torch refuses one value a channel"
    assert not saves_memory(x, norm.eval())
    with torch.no_grad():
        assert not saves_memory(x)
