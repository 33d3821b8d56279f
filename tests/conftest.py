"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def random_numbers():
    """Torch's random numbers are the same whatever tests ran before in this process, and in whichever it is."""
    torch.manual_seed(0)
