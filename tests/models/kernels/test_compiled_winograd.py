"""Winograd's convolutions with compiled sums: torch's in float64, near them in bf16, and only where they pay."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.kernels import compiled, compiled_winograd
from models.kernels.compiled_winograd import convolved
from models.kernels.winograd import WinogradConv2d

if not compiled.available():
    pytest.skip("numba, or torch's OpenMP, is not here", allow_module_level=True)

# Images, channels, outputs, height, width: even and odd sides, one pixel, channels that are no multiple of the vectors.
SHAPES = [(2, 64, 48, 10, 10), (1, 33, 20, 7, 9), (2, 16, 16, 1, 1), (1, 16, 32, 2, 3), (3, 40, 17, 31, 6)]


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def problem(shape, dtype):
    """Images, weights as a layer has them, and the gradient of the result; the first two want gradients."""
    batch, channels, outputs, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    weight = (
        torch.randn(outputs, channels, 3, 3, generator=generator).to(compiled.COMPUTED[dtype]) / (9 * channels) ** 0.5
    )
    gradient = torch.randn(batch, outputs, height, width, generator=generator).to(dtype)
    return channels_last(x).requires_grad_(), channels_last(weight).requires_grad_(), gradient


def exact(x, weight, gradient):
    """Result and gradients of torch's convolution in float64."""
    x, weight = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    y = functional.conv2d(x, weight, padding=1)
    return y.detach(), *torch.autograd.grad(y, (x, weight), gradient.double())


ONEDNN = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch has no oneDNN here")


@pytest.fixture(params=["MKL", pytest.param("oneDNN", marks=ONEDNN)])
def library(request, monkeypatch):
    """Each of the libraries in torch that multiply matrices."""
    monkeypatch.setattr(compiled_winograd, "mkl_is_slow", lambda: request.param == "oneDNN")


# Relative error, root mean square. A convolution in bf16 has 2e-3.
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 7e-3)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("library")
def test_results_and_gradients_are_torchs_in_float64(dtype, error, shape):
    x, weight, gradient = problem(shape, dtype)
    y = convolved(x, weight)
    found = y.detach(), *torch.autograd.grad(y, (x, weight), gradient)
    assert [each.dtype for each in found] == [dtype, dtype, weight.dtype]
    for ours, theirs in zip(found, exact(x, weight, gradient), strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).square().mean().sqrt() <= error * theirs.square().mean().sqrt()


def test_gradients_by_finite_differences():
    x, weight, _ = problem((1, 16, 17, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(convolved, (x, weight), fast_mode=True)


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_are_made_where_they_are_wanted(which):
    x, weight, gradient = problem(SHAPES[0], torch.float64)
    given = [x, weight]
    given[1 - which] = given[1 - which].detach()
    (found,) = torch.autograd.grad(convolved(*given), given[which], gradient)
    torch.testing.assert_close(found, exact(x, weight, gradient)[1 + which])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.usefixtures("library")
def test_bits_do_not_depend_on_the_threads(dtype):
    x, weight, gradient = problem((2, 64, 48, 21, 30), dtype)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            y = convolved(x, weight)
            found.append([y.detach(), *torch.autograd.grad(y, (x, weight), gradient)])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_one_result_is_not_overwritten_by_the_next():
    x, weight, gradient = problem(SHAPES[0], torch.float32)
    first = convolved(x, weight)
    kept = first.detach().clone()
    convolved(2 * x, weight).sum().backward()
    assert torch.equal(first, kept)
    (of_weight,) = torch.autograd.grad(first, weight, gradient)
    torch.testing.assert_close(of_weight.double(), exact(x, weight, gradient)[2], rtol=1e-4, atol=1e-4)


@pytest.fixture
def can(monkeypatch):
    """What the CPU can do: to multiply bf16 in its vectors, and what a test adds."""
    capabilities = {"avx512_bf16": True}
    monkeypatch.setattr(compiled_winograd, "cpu_capabilities", lambda: capabilities)
    return capabilities


@pytest.fixture
def taken(monkeypatch, can):
    """The shapes that were convolved so."""
    shapes = []
    monkeypatch.setattr(
        compiled_winograd, "convolved", lambda x, weight: shapes.append(tuple(x.shape)) or convolved(x, weight)
    )
    return shapes


def layer(inputs=64, outputs=128, **settings):
    return WinogradConv2d(inputs, outputs, 3, padding=1, bias=False, **settings).to(memory_format=torch.channels_last)


def images(channels=64, side=20, dtype=torch.bfloat16, batch=1):
    return channels_last(torch.randn(batch, channels, side, side).to(dtype))


def test_training_in_bf16_takes_it(taken):
    x, convolution = images(), layer()
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(x)
        theirs = nn.Conv2d.forward(convolution, x)
    assert taken == [(1, 64, 20, 20)]
    assert y.dtype == theirs.dtype
    assert (y - theirs).float().square().mean().sqrt() <= 1e-2 * theirs.float().square().mean().sqrt()


def test_training_in_float32_takes_it(taken):
    x, convolution = images(128, dtype=torch.float32), layer(128, 128)
    torch.testing.assert_close(convolution(x), nn.Conv2d.forward(convolution, x), rtol=1e-4, atol=1e-5)
    assert taken


@pytest.mark.parametrize(
    ("convolution", "x"),
    [
        (layer(32, 64), images(32)),
        (layer(), images(side=18)),
        (layer(stride=2), images()),
        (layer().bfloat16(), images()),
        (layer(), images().contiguous()),
        (layer(), images(dtype=torch.float32)),
    ],
    ids=["channels", "pixels", "stride", "weights in bf16", "layout", "images in float32"],
)
def test_others_are_torchs(taken, convolution, x):
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = convolution(x), nn.Conv2d.forward(convolution, x)
    assert not taken
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_copy_that_evaluates_takes_it_and_training_goes_on_after_it(taken, dtype):
    convolution = WinogradConv2d(128, 128, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)
    convolution.compiled_evaluation = True
    x = images(128, dtype=dtype)
    with torch.inference_mode():
        ours, theirs = convolution(x), nn.Conv2d.forward(convolution, x)
    assert taken == [(1, 128, 20, 20)]
    error = (ours.float() - theirs.float()).square().mean().sqrt() / theirs.float().square().mean().sqrt()
    assert error <= (1e-2 if dtype is torch.bfloat16 else 1e-6)
    # The memory of its tiles was made in inference mode, and serves a gradient now.
    layer(128, 128)(images(128, dtype=torch.float32)).sum().backward()
    assert len(taken) == 2


def test_evaluation_is_torchs(taken):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer()(images())
    assert not taken


@pytest.mark.parametrize(
    ("inputs", "outputs", "evaluates", "takes"),
    [(128, 256, False, False), (384, 256, False, True), (384, 256, True, False), (1024, 512, True, True)],
)
def test_matrix_units_leave_it_to_many_channels(can, taken, inputs, outputs, evaluates, takes):
    can["amx_bf16"] = True
    convolution, x = layer(inputs, outputs), images(inputs)
    if evaluates:
        convolution.to(torch.bfloat16).compiled_evaluation = True
    with torch.set_grad_enabled(not evaluates), torch.autocast("cpu", torch.bfloat16, enabled=not evaluates):
        convolution(x)
    assert bool(taken) == takes


def test_float32_does_not_ask_for_matrix_units(can, taken):
    can["amx_bf16"] = True
    layer(128, 128)(images(128, dtype=torch.float32))
    assert taken


@ONEDNN
def test_float32_is_multiplied_by_the_faster_library(monkeypatch):
    multiplied, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *given, **named: multiplied.append("MKL") or bmm(*given, **named))
    for slow in (False, True):
        monkeypatch.setattr(compiled_winograd, "mkl_is_slow", lambda slow=slow: slow)
        for dtype in (torch.float32, torch.bfloat16):
            convolved(images(dtype=dtype), layer().weight.detach())
    # bf16 is oneDNN's in torch's own product too.
    assert len(multiplied) == 3


def test_bf16_is_left_to_cpus_that_multiply_it(can, taken):
    can["avx512_bf16"] = False
    with torch.autocast("cpu", torch.bfloat16):
        layer(512, 512)(images(512))
    assert not taken
