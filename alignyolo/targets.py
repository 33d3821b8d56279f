"""The true boxes of a batch as one flat, ragged tensor triple."""

from typing import NamedTuple

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy to `device` without blocking: a copy to a GPU leaves from pinned memory."""
    device = torch.device(device)
    if values.device.type == "cpu" and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=values.device.type == "cpu")


def occurrences(values: Tensor, count: int) -> Tensor:
    """Count how often 0 to count - 1 occur in values (N,) int64: (count,).

    torch.bincount would make the host wait for a GPU.
    """
    return values.new_zeros(count).scatter_add_(0, values, torch.ones_like(values))


class Targets(NamedTuple):
    """Truths of a batch: boxes (T, 4) xyxy pixels of the network input, labels (T,), image (T,) in the batch."""

    boxes: Tensor
    labels: Tensor
    image: Tensor

    def to(self, device: torch.device | str) -> "Targets":
        """Copy the truths to `device` without blocking."""
        return Targets(*(sent(part, device) for part in self))

    @staticmethod
    def stack(boxes: list[Tensor], labels: list[Tensor]) -> "Targets":
        """Join one boxes (T_i, 4) and one labels (T_i,) tensor per image, where they are.

        ValueError for an image whose boxes and labels differ in number.
        """
        if len(boxes) != len(labels):
            raise ValueError(f"expected boxes and labels of the same images: {len(boxes)} and {len(labels)} tensors")
        counts = [len(part) for part in labels]
        for number, (part, count) in enumerate(zip(boxes, counts, strict=True)):
            if len(part) != count:
                raise ValueError(f"image {number} has {len(part)} boxes and {count} labels: expected a label for each")
        if not boxes:
            return Targets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())
        joined = torch.cat(boxes).reshape(-1, 4)
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        return Targets(joined, torch.cat(labels).long(), sent(image, joined.device))
