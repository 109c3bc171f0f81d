"""Whole numbers, such as the greys of a picture: spread so that they can have a density, and what that costs in bits.

Chapter 1 uses both for its digits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from fmtutor import _validate


def dequantize(values: Tensor, levels: int, generator: Generator | None = None) -> Float[Tensor, "*shape"]:
    """Whole numbers `0 .. levels - 1` as numbers in [0, 1): `(values + u) / levels`, with u uniform in [0, 1).

    A density can be made as large as we like at points that data hit exactly. Spread over its cell, each value takes
    up room; see `bits_per_dim` for what the density then says about the whole numbers. A draw never leaves its cell:
    in the dtype that comes back, `(x * levels).floor()` is the value again.

    Args:
        values: whole numbers, in an integer or a floating-point dtype; integers come back in torch's default dtype.
        levels: how many different values there are: 256 for 8-bit images, 17 for scikit-learn's digits.
        generator: where the noise comes from.

    Raises:
        TypeError: no tensor, or one of complex numbers or booleans.
        ValueError: a value is not whole, or not below `levels`, or below 0; or the dtype has too few digits: a cell
            must hold 8 different numbers, so that bfloat16 is enough for 32 levels and float16 for 256.

    Source: Uria, Murray and Larochelle (2013); Theis et al. (2016).

    Example:
        >>> dequantize(torch.tensor([0, 16]), 17).mul(17).floor()
        tensor([ 0., 16.])
    """
    _validate.whole("levels", levels)
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(
            f"values must be a tensor of whole numbers, got {getattr(values, 'dtype', type(values).__name__)}"
        )
    x = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    if (eps := torch.finfo(x.dtype).eps) * levels > 1 / 4:  # just below 1, numbers lie eps / 2 apart
        raise ValueError(f"values must have a dtype with more digits for {levels} levels, got {x.dtype}: see .float()")
    if _validate.readable(x) and not (good := (x >= 0) & (x < levels) & (x == x.floor())).all():
        raise ValueError(f"values must be whole numbers from 0 to {levels - 1}, got {x[~good][0].item():g}")
    exact = torch.promote_types(x.dtype, torch.float32)
    u = torch.rand(x.shape, generator=generator, dtype=exact, device=x.device)
    return _into_cell(((x + u) / levels).to(x.dtype), x, levels, eps)


def _into_cell(x: Tensor, values: Tensor, levels: int, eps: float) -> Tensor:
    """`x`, moved by the one or two last digits by which rounding has put it beside its cell."""
    for _ in range(2):
        x = x - ((x * levels).floor() - values).sign() * eps * x
    return x


def bits_per_dim(log_prob: Float[Tensor, "*shape"], dims: int, levels: int) -> Float[Tensor, "*shape"]:
    """What `log_prob`, of data made by `dequantize`, costs in bits for each of the `dims` whole numbers.

    A cell has volume `levels ** -dims`, so the density of whole numbers is smaller than that of numbers in [0, 1) by
    that factor: `-log_prob / (dims log 2) + log2(levels)`. Its mean is, by Jensen's inequality, never below what the
    best code for the whole numbers costs under the model, and so never below their entropy.

    Args:
        log_prob: log-densities in nats, of numbers in [0, 1).
        dims: how many numbers an event has.
        levels: how many values each can take.

    Raises:
        TypeError: `log_prob` does not hold floating-point numbers.
        ValueError: `dims` or `levels` is no whole number of at least 1.

    Source: Theis et al. (2016).

    Example:
        >>> bits_per_dim(torch.tensor(0.0), dims=64, levels=16)  # uniform: 4 bits for each number
        tensor(4.)
    """
    _validate.floating("log_prob", log_prob)
    return -log_prob / (_validate.whole("dims", dims) * math.log(2)) + math.log2(_validate.whole("levels", levels))
