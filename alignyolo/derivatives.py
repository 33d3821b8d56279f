"""What functions share whose gradient is written out, and which have no second derivatives therefore."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def first_derivatives_only(backward: Callable) -> Callable:
    """Refuse `create_graph=True` in the backward pass of a function whose gradient is written out.

    torch's `once_differentiable` says nothing where what is differentiated is linear in the function: the gradient then
    counts as a constant, and second derivatives lack a part of themselves.
    """

    @wraps(backward)
    def wrapper(context: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "a part of this loss or network has no second derivatives: leave out create_graph=True"
            )
        return backward(context, *slopes)

    return wrapper
