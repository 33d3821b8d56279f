"""The true boxes of a batch as one flat, ragged tensor triple."""

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """Truths of a batch: boxes (T, 4) xyxy pixels of the network input, labels (T,), image (T,) in the batch."""

    boxes: Tensor
    labels: Tensor
    image: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Targets":
        """The same truths on another device."""
        return Targets(*(part.to(device, non_blocking=non_blocking) for part in self))

    @staticmethod
    def stack(boxes: list[Tensor], labels: list[Tensor]) -> "Targets":
        """Joins one boxes (T_i, 4) and one labels (T_i,) tensor per image."""
        counts = torch.tensor([len(part) for part in labels])
        return Targets(
            torch.cat(boxes).reshape(-1, 4),
            torch.cat(labels).long(),
            torch.repeat_interleave(torch.arange(len(labels)), counts),
        )
