"""The best few of every group of a ragged list: each truth's best anchors, each anchor's best truth."""

import torch
from torch import Tensor


def best_of_each(group: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
    """Mark the `count` largest values (N,) of every group (N,), as a mask (N,); of equal ones the first come first.

    `count` is one number, or one for every pair (N,), the same within a group.
    """
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    limit = count if isinstance(count, int) else count[order]
    return torch.zeros_like(order, dtype=torch.bool).index_put_((order,), rank < limit)


def sum_of_each(group: Tensor, value: Tensor, groups: int) -> Tensor:
    """Add up the values (N,) of every group (N,), in float64 where the device has it: (groups,).

    There, sums of a few float32 are exact: what decides at a limit does not hang on their order.
    """
    value = value if value.device.type == "mps" else value.double()
    return value.new_zeros(groups).index_add_(0, group, value)


def largest_of_each(group: Tensor, value: Tensor, groups: int) -> Tensor:
    """Return the largest value (N,) of every group (N,), 0 where there is none: (groups,)."""
    return value.new_zeros(groups).scatter_reduce_(0, group, value, "amax", include_self=False)
