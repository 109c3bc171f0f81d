"""Couplings: which noise is paired with which data before a path is drawn between them.

A coupling returns x0 in another order and leaves x1 alone, so labels and whatever else belongs to the data stay where
they are. Chapter 4 uses `independent`; chapter 7 asks for better ones.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate


def independent(x0: Float[Tensor, "batch *event"], x1: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
    """Noise and data as they come: rows drawn independently are already independently paired.

    Args:
        x0: noise.
        x1: data, one row for each row of x0.

    Returns:
        x0, unchanged.

    Raises:
        TypeError: x0 or x1 does not hold floating-point numbers.
        ValueError: their shapes differ, or a value is not finite.

    Example:
        >>> import torch
        >>> independent(torch.tensor([[0.3], [-0.8]]), torch.tensor([[1.0], [2.0]]))
        tensor([[ 0.3000],
                [-0.8000]])
    """
    _validate.finite("x0", x0), _validate.finite("x1", x1)
    _validate.same_shape("x0", x0, "x1", x1)
    return x0
