"""Compiled normalisation, activation and pool: torch's results but for rounding, the same bits on any threads."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.kernels import compiled
from models.kernels.fused_norm import activate, activates, fuses, norm_act
from models.kernels.in_use import cpu_kernels_in_use
from models.yolov3.blocks import ConvBlock, Residual, max_pool
from models.yolov3.build import build_network
from models.yolov3.export_network import for_detection
from utils.config.sources import model_config

if not compiled.available():
    pytest.skip("numba, or torch's OpenMP, is not here", allow_module_level=True)

# Even and odd sides, one image, one row, channels that are no multiple of the vectors, more than one part of the work.
SHAPES = [(2, 16, 8, 8), (1, 20, 7, 9), (3, 33, 5, 6), (4, 48, 3, 1), (1, 100, 2, 2), (2, 64, 50, 31), (5, 16, 1, 1)]
# Largest difference, as a share of the largest value.
NEAR = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 8e-3}
SLOPES = {"silu": None, "leaky": 0.1}


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def given(shape, dtype, seed=0):
    """An input that wants a gradient, and a normalisation with weights and statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = channels_last((2 * torch.randn(shape, generator=generator) + 3).to(dtype)).requires_grad_()
    norm = nn.BatchNorm2d(shape[1], eps=1e-3, momentum=0.03).to(compiled.COMPUTED[dtype])
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.copy_(torch.randn(shape[1], generator=generator))
    return x, norm


def torchs(x, norm, slope, pool, added=None):
    """The same by torch's own operations."""
    y = norm(x)
    y = functional.silu(y) if slope is None else functional.leaky_relu(y, slope)
    y = functional.max_pool2d(y, 2) if pool else y
    return y if added is None else added + y


def near(ours, theirs, dtype):
    worst = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)
    assert worst <= NEAR[dtype], float(worst)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("extra", ["none", "pool", "added"])
def test_results_gradients_and_statistics_are_torchs_in_float64(dtype, shape, slope, extra):
    if extra == "pool" and min(shape[2:]) < 2:
        pytest.skip("nothing to pool")
    x, norm = given(shape, dtype)
    exact = nn.BatchNorm2d(shape[1], eps=1e-3, momentum=0.03).double()
    exact.load_state_dict(norm.state_dict())
    x64 = x.detach().double().requires_grad_()
    added = torch.randn(shape).to(dtype).requires_grad_() if extra == "added" else None
    added64 = None if added is None else added.detach().double().requires_grad_()
    assert fuses(x, norm)
    ours = norm_act(x, norm, slope, extra == "pool", added)
    theirs = torchs(x64, exact, slope, extra == "pool", added64)
    weights = torch.randn(theirs.shape).to(dtype)
    ours.backward(weights)
    theirs.backward(weights.double())
    assert ours.dtype == dtype
    pairs = [(ours, theirs), (norm.running_mean, exact.running_mean), (norm.running_var, exact.running_var)]
    pairs += [(norm.weight.grad, exact.weight.grad), (norm.bias.grad, exact.bias.grad)]
    if shape[0] * shape[2] * shape[3] > 8:  # of few pixels the gradient of x is a difference of nearly equal numbers
        pairs.append((x.grad, x64.grad))
    for one, other in pairs:
        near(one.detach(), other.detach(), dtype)
    if added is not None:
        assert torch.equal(added.grad, weights)
    assert norm.num_batches_tracked == exact.num_batches_tracked


@pytest.mark.parametrize("extra", ["none", "pool", "added"])
@pytest.mark.parametrize("wider", ["channels", "columns"])
def test_a_gradient_that_is_part_of_a_larger_one_is_read_as_such(wider, extra):
    """As `cat` and `pad` pass it on."""
    x, norm = given((2, 32, 6, 6), torch.float64)
    added = torch.randn(x.shape, dtype=x.dtype) if extra == "added" else None
    found = []
    for function in (norm_act, torchs):
        y = function(x, norm, None, extra == "pool", added)
        batch, channels, height, width = y.shape
        whole = (batch, 2 * channels, height, width) if wider == "channels" else (batch, channels, height, width + 1)
        values = torch.arange(y.new_empty(whole).numel(), dtype=y.dtype).view(whole).cos()
        y.backward(channels_last(values)[:, :channels, :, :width])
        found.append([x.grad, norm.weight.grad, norm.bias.grad])
        x.grad = norm.weight.grad = norm.bias.grad = None
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs, torch.float64)


@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("extra", ["none", "pool", "added"])
def test_gradients_by_finite_differences(slope, extra):
    x, norm = given((2, 17, 3, 4), torch.float64)
    inputs = [x, norm.weight, norm.bias]
    inputs += [torch.randn(x.shape, dtype=x.dtype).requires_grad_()] if extra == "added" else []

    def function(x, weight, bias, *added):
        return norm_act(x, norm, slope, extra == "pool", *added)

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_bits_do_not_depend_on_the_threads(dtype):
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            x, norm = given((3, 24, 90, 70), dtype)
            y = norm_act(x, norm, None, True)
            y.square().sum().backward()
            found.append([y.detach(), x.grad, norm.weight.grad, norm.bias.grad, norm.running_var])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
def test_of_equal_pixels_the_first_has_the_gradient_as_with_torch(slope):
    x, norm = given((1, 16, 4, 4), torch.float64)
    with torch.no_grad():
        x[:, :8] = 1.0
        x[:, 8:, :, 1::2] = x[:, 8:, :, ::2]
    found = []
    for function in (norm_act, torchs):
        (gradient,) = torch.autograd.grad(function(x, norm, slope, True).square().sum(), x)
        found.append(gradient)
    # Where all pixels are equal the deviation is rounding alone.
    assert torch.allclose(*found, rtol=1e-9, atol=1e-9)


def test_a_nan_is_not_hidden():
    x, norm = given((2, 16, 4, 4), torch.bfloat16)
    with torch.no_grad():
        x[1, 3, 2, 1] = float("nan")
    y = norm_act(x, norm, None, True)
    assert y[:, 3].isnan().all()
    assert y[:, [0, 1, 2, 4, 15]].isfinite().all()
    assert norm.running_mean[3].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_large_and_small_values_are_as_torchs(dtype):
    x, norm = given((2, 16, 6, 6), dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.logspace(-30, 30, 16))
    ours, theirs = norm_act(x, norm, None), functional.silu(norm(x.detach().to(norm.weight.dtype)))
    # By channel: a value near its mean has the rounding of the mean in it, which is small beside the others alone.
    largest = theirs.abs().amax((0, 2, 3))
    wrong = (ours.float() - theirs).abs().amax((0, 2, 3))
    assert (wrong <= (1e-2 if dtype is torch.bfloat16 else 1e-6) * largest + 1e-12).all()


def test_what_the_loops_cannot_do_is_left_to_torch():
    x, norm = given((2, 16, 4, 4), torch.float32)
    assert fuses(x, norm)
    assert not fuses(x.detach(), norm)
    assert not fuses(x.contiguous(), norm)
    assert not fuses(x[:0], norm)
    assert not fuses(x.half(), norm)
    assert not fuses(x, nn.BatchNorm2d(16).double())
    assert not fuses(x, nn.BatchNorm2d(16, affine=False))
    assert not fuses(x, nn.BatchNorm2d(16, momentum=None))
    assert not fuses(x, nn.BatchNorm2d(16, track_running_stats=False))
    assert not fuses(*given((2, 15, 4, 4), torch.float32))
    norm.eval()
    assert not fuses(x, norm)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("extra", ["none", "pool", "added", "bias"])
def test_evaluation_adds_the_bias_activates_pools_and_adds_as_torch_does(dtype, shape, slope, extra):
    if extra == "pool" and min(shape[2:]) < 2:
        pytest.skip("nothing to pool")
    generator = torch.Generator().manual_seed(0)
    x, added = (channels_last((2 * torch.randn(shape, generator=generator)).to(dtype)) for _ in range(2))
    bias = torch.randn(shape[1], generator=generator) if extra == "bias" else None
    y = x.double() if bias is None else x.double() + bias.double().view(-1, 1, 1)
    y = functional.silu(y) if slope is None else functional.leaky_relu(y, slope)
    y = functional.max_pool2d(y, 2) if extra == "pool" else y
    y = y + added.double() if extra == "added" else y
    assert activates(x)
    with torch.inference_mode():
        ours = activate(x, bias, slope, extra == "pool", added if extra == "added" else None)
    assert (ours.dtype, ours.shape) == (dtype, y.shape)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    near(ours, y, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("pool", [False, True])
def test_evaluation_has_the_same_bits_on_any_threads(dtype, pool):
    x, found, threads = torch.randn(3, 24, 90, 70), [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(activate(channels_last(x.to(dtype)), None, None, pool))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_evaluation_leaves_to_torch():
    x = channels_last(torch.randn(2, 16, 4, 4))
    assert activates(x)
    assert not activates(x.clone().requires_grad_())
    assert not activates(x.contiguous())
    assert not activates(x[:0])
    assert not activates(x.half())
    assert not activates(channels_last(torch.randn(2, 15, 4, 4)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("cfg", ["yolov3-tiny", "yolov3", "yolov3-tiny-leaky"])
def test_a_network_evaluates_as_with_torchs_operations(cfg, size, precision):
    torch.manual_seed(0)
    changes = {"activation": "leaky"} if cfg.endswith("leaky") else {}
    network = build_network(model_config(cfg.removesuffix("-leaky"), changes), 3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = channels_last(torch.rand(2, 3, *size))
    bf16 = precision == "bf16"
    plain, ours = (
        for_detection(network, bf16, compiled).to(memory_format=torch.channels_last) for compiled in (False, True)
    )
    with torch.inference_mode():
        expected, found = plain(images), ours(images)
        exact = expected if not bf16 else for_detection(network)(images)
    error = (found - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    # In bf16 as near to float32 as torch's own bf16 is, by half more at most.
    allowed = 1.5 * float((expected - exact).square().mean().sqrt() / exact.square().mean().sqrt()) if bf16 else 1e-5
    assert error <= allowed


def test_a_copy_for_detection_alone_compiles_nothing():
    network = build_network(model_config("yolov3-tiny", {}), 3)
    flags = [
        [getattr(module, "compiled_evaluation", False) for module in for_detection(network, compiled=asked).modules()]
        for asked in (False, True)
    ]
    assert [any(found) for found in flags] == [False, True]
    off = build_network(model_config("yolov3-tiny", {}), 3, cpu_kernels=False)
    assert not any(
        getattr(module, "compiled_evaluation", False) for module in for_detection(off, compiled=True).modules()
    )


def blocks(activation, make):
    """A block with the kernels and one without, of equal weights, in float64."""
    made = []
    for switch in (True, False):
        torch.manual_seed(0)
        made.append(make(activation, switch).double().train().to(memory_format=torch.channels_last))
    return made


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("pool", [None, (2, 2), (2, 1), (3, 2), (5, 1, 2)])
def test_a_block_agrees_with_torchs_whatever_its_pool(activation, pool):
    on, off = blocks(activation, lambda activation, switch: ConvBlock(3, 20, 3, 1, activation, switch))
    results = []
    for block in (on, off):
        x = channels_last(torch.rand(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        y = block(x, pool and max_pool(*pool, cpu_kernels=block is on))
        y.square().sum().backward()
        results.append([y, *(parameter.grad for parameter in block.parameters()), *block.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", SLOPES)
def test_a_residual_agrees_with_torchs(activation):
    results = []
    for block in blocks(activation, lambda activation, switch: Residual(32, activation, switch)):
        x = torch.rand(2, 32, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = channels_last(x).requires_grad_()
        block(x).square().sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_without_numba_all_is_as_before(monkeypatch):
    network = build_network(model_config("yolov3-tiny", {}), 3)
    fused = "compiled normalisation, activation and pool"
    assert fused in cpu_kernels_in_use(network, torch.device("cpu"), "on")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *given: None if name == "numba" else find(name, *given)
    )
    compiled.available.cache_clear()
    try:
        x, norm = given((2, 16, 4, 4), torch.float32)
        assert not fuses(x, norm)
        assert fused not in cpu_kernels_in_use(network, torch.device("cpu"), "on")
        block = ConvBlock(16, 16, 3).to(memory_format=torch.channels_last)
        assert block(x, max_pool(2, 2)).grad_fn.name().startswith("_NormSiLUPool")
    finally:
        monkeypatch.undo()
        compiled.available.cache_clear()
