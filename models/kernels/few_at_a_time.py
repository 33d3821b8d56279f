"""A network's first layers, computed in evaluation on a CPU for a few images of a batch at a time.

What such a layer writes for a whole batch, the next one has to fetch from memory again. Of a few images it is still in
the processor's cache. The arithmetic of each image stays as it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Bytes of the largest map of features at a time.
CACHED = 1 << 24


def few_at_a_time(layers: Callable[[Tensor], Tensor], images: Tensor, channels: int) -> Tensor:
    """Return layers(images), where images (B, C, H, W) first become (B, channels, H, W), in parts of the batch.

    Whole with 0 channels, as in training, whose normalisation looks at all images; where a gradient is wanted; on other
    devices than a CPU; and where a graph is made of what is computed.
    """
    plain = channels > 0 and images.device.type == "cpu" and not torch.is_grad_enabled()
    if not plain or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return layers(images)
    largest = channels * images.shape[-2] * images.shape[-1] * images.element_size()
    together = max(CACHED // max(largest, 1), 1)
    return torch.cat([layers(part) for part in images.split(together)]) if together < len(images) else layers(images)
