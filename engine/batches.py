"""From a loader's batch to what a detector takes."""

import torch
from torch import Tensor

from alignyolo.targets import Targets
from data.loader import Batch


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Targets]:
    """Copy a batch's images to `device` without blocking, as floats in [0, 1] with channels last.

    The targets stay where they are: on the host, where they are assigned.
    """
    assert isinstance(batch.images, Tensor)  # recipes have been painted already
    images = batch.images.to(device, non_blocking=True).to(memory_format=torch.channels_last).float() / 255
    return images, batch.targets
