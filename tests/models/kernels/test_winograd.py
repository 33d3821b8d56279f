"""3x3 convolutions by Winograd's algorithm: torch's in float64, and in float32 about as near to it as torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.kernels import winograd as module
from models.kernels.winograd import WinogradConv2d, winograd
from models.yolov3.blocks import ConvBlock, Downsample

SHAPES = ((2, 3, 4, 6, 6), (2, 3, 4, 5, 7), (1, 4, 2, 8, 3), (3, 2, 2, 1, 2), (1, 1, 1, 1, 1))
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def problem(batch, inputs, outputs, height, width, dtype=torch.float64, layout=torch.channels_last):
    """An input and weights that want gradients, and the gradient of the result."""
    generator = torch.Generator().manual_seed(batch + inputs + height)
    sizes = (batch, inputs, height, width), (outputs, inputs, 3, 3), (batch, outputs, height, width)
    made = [torch.randn(size, generator=generator).to(dtype).contiguous(memory_format=layout) for size in sizes]
    return made[0].requires_grad_(), made[1].requires_grad_(), made[2]


def results(function, x, weight, gradient):
    """The output and both gradients."""
    y = function(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)


def direct(x, weight):
    """torch's."""
    return functional.conv2d(x, weight, padding=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_convolution_and_its_gradients(shape, layout):
    given = problem(*shape, layout=layout)
    for ours, theirs in zip(results(winograd, *given), results(direct, *given), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_it_has_the_gradient_of_finite_differences():
    x, weight, _ = problem(2, 2, 3, 4, 5)
    assert torch.autograd.gradcheck(winograd, (x, weight))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_in_float32_it_is_as_near_to_float64_as_torchs_own(scale, shift):
    x, weight, gradient = problem(4, 256, 256, 10, 10, torch.float32)
    x = ((x.detach() + shift) * scale).requires_grad_()
    exact = results(direct, *(tensor.detach().double().requires_grad_() for tensor in (x, weight, gradient)))
    ours, theirs = results(winograd, x, weight, gradient), results(direct, x, weight, gradient)
    # Outputs and their inputs' gradients are nearer; weights' gradients torch adds up in blocks.
    for y, other, wanted, factor in zip(ours, theirs, exact, (0.8, 0.8, 3), strict=True):
        error, torchs = ((result.double() - wanted).square().mean().sqrt() for result in (y, other))
        assert error <= factor * torchs
        assert error <= 1e-6 * wanted.square().mean().sqrt()


def test_results_do_not_depend_on_the_number_of_threads():
    given = problem(2, 128, 160, 12, 11, torch.float32)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(results(winograd, *given))
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*made, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_gradients_are_made_where_they_are_wanted():
    x, weight, gradient = problem(2, 3, 4, 6, 6)
    wanted = results(direct, x, weight, gradient)[1:]
    for index, (one, other) in enumerate([(x, weight.detach()), (x.detach(), weight)]):
        (made,) = torch.autograd.grad(winograd(one, other), (x, weight)[index], gradient)
        torch.testing.assert_close(made, wanted[index], rtol=0, atol=1e-12)


@pytest.fixture
def taken(monkeypatch):
    """The shapes that went through Winograd's algorithm; small ones too."""
    shapes = []
    monkeypatch.setattr(module.compiled_winograd, "pays", lambda *_: False)
    monkeypatch.setattr(module, "LEAST_PIXELS", 1)
    monkeypatch.setattr(module, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(module, "mkl_is_slow", lambda: False)
    monkeypatch.setattr(module, "winograd", lambda x, weight: shapes.append(tuple(x.shape)) or winograd(x, weight))
    return shapes


def conv(inputs=3, outputs=4, kernel=3, **settings):
    """A convolution as a block has it in training."""
    return WinogradConv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **settings)


def images(channels=3):
    """Two of 6 x 6 pixels."""
    return torch.randn(2, channels, 6, 6).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_convolution_takes_it_in_training_and_validation(taken, bias, training):
    layer, x = WinogradConv2d(3, 4, 3, padding=1, bias=bias), images()
    with torch.set_grad_enabled(training):
        y = layer(x)
    torch.testing.assert_close(y, nn.Conv2d.forward(layer, x))
    assert taken == [(2, 3, 6, 6)]
    assert y.requires_grad == training


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (conv(kernel=1), images()),
        (conv(stride=2), images()),
        (conv(3, 3, groups=3), images()),
        (WinogradConv2d(3, 4, 3, bias=False), images()),
        (WinogradConv2d(3, 4, 3, padding=2, dilation=2, bias=False), images()),
        (WinogradConv2d(3, 4, 3, padding="same", bias=False), images()),
        (conv().double(), images().double()),
        (conv().bfloat16(), images().bfloat16()),
        (conv(), images().contiguous()),
        (conv().to("meta"), images().to("meta")),
    ],
    ids=["1x1", "stride", "groups", "padding", "dilation", "same", "float64", "bf16", "layout", "device"],
)
def test_others_are_torchs(taken, layer, x):
    ours, theirs = layer(x), nn.Conv2d.forward(layer, x)
    assert not taken
    assert x.is_meta or torch.equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_neither_autocast_nor_an_export_takes_it(taken):
    layer, x = conv(), images()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    exported = torch.export.export(layer, (x,))
    assert [str(node.target) for node in exported.graph.nodes if "conv" in str(node.target)] == ["aten.conv2d.default"]
    assert "aten::bmm" not in str(torch.jit.trace(layer, x, check_trace=False).inlined_graph)
    assert not taken


def test_few_channels_or_pixels_are_torchs(monkeypatch):
    def taken(inputs, outputs, side):
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(module, "winograd", lambda x, weight: seen.append(x) or x)
            patch.setattr(module.compiled_winograd, "pays", lambda *_: False)
            patch.setattr(torch.backends.mkl, "is_available", lambda: True)
            patch.setattr(module, "mkl_is_slow", lambda: False)
            conv(inputs, outputs)(torch.empty(8, side, side, inputs).permute(0, 3, 1, 2))
        return bool(seen)

    assert taken(256, 256, 10) and taken(512, 1024, 10)
    assert not taken(256, 256, 9) and not taken(128, 256, 20) and not taken(64, 128, 40)


def test_torchs_convolutions_stay_where_its_matrix_products_are_slow(taken, monkeypatch):
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    conv()(images())
    assert not taken


def test_a_step_of_a_network_is_that_of_torchs_convolutions(monkeypatch):
    torch.manual_seed(0)
    # In float64, where what differs by more than rounding shows.
    first = Downsample(4, 16, 2, "silu").double().to(memory_format=torch.channels_last)
    second, x = copy.deepcopy(first), torch.rand(2, 4, 22, 18, dtype=torch.float64)
    for network, sizes in ((first, {(3, 1)}), (second, set())):
        monkeypatch.setattr(
            module, "_pays", lambda layer, _, sizes=sizes: (layer.kernel_size[0], layer.stride[0]) in sizes
        )
        network(x.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_the_blocks_of_the_networks_have_it():
    assert type(ConvBlock(3, 4, 3).conv) is WinogradConv2d
