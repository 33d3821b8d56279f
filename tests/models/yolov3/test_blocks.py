"""The building blocks of the networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.yolov3.blocks import ACTIVATIONS, ConvBlock

TORCHS = {"silu": functional.silu, "leaky": lambda x: functional.leaky_relu(x, 0.1)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_gradients_are_those_of_torch(name):
    values = torch.linspace(-6, 6, 101, dtype=torch.float64)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    # Behind another operation, as behind a normalisation: a leaf that wants a gradient cannot be overwritten.
    got, wanted = ACTIVATIONS[name]()(ours * 1), TORCHS[name](theirs)
    assert torch.equal(got, wanted)
    (got * values).sum().backward()
    (wanted * values).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-15)


def test_silu_copies_nothing_in_training_and_takes_no_memory_without_gradients():
    def operations(x):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            made = ACTIVATIONS["silu"]()(x)
        return made, {event.key for event in profile.key_averages()}

    x = torch.randn(2, 3, 4, 4)
    made, used = operations(nn.Parameter(x) * 1)
    assert made.requires_grad
    assert "aten::clone" not in used
    with torch.no_grad():
        assert operations(x)[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_block_halves_the_sides_at_stride_two(name):
    block = ConvBlock(3, 5, 3, stride=2, activation=name)
    assert block(torch.randn(2, 3, 8, 12)).shape == (2, 5, 4, 6)
