"""Sums over all pairs of points of two samples, made in blocks so that no full matrix of distances is ever held.

`fmtutor.metrics` builds the energy distance and the maximum mean discrepancy of chapter 3 from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate
from fmtutor.distributions.target import wide


def samples(x: Tensor, y: Tensor) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "m dim"]]:
    """Both samples, if they are finite, of one kind and of two points or more: flat, centred, in float32 at least.

    Nothing that is measured between them changes when both are moved, and near the origin numbers are finest.
    """
    for name, value in (("x", x), ("y", y)):
        _validate.finite(name, value)
        if value.dim() == 0 or len(value) < 2:
            raise ValueError(f"{name} must hold at least two points, one a row, got shape {tuple(value.shape)}")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must hold events of one shape, got {tuple(x.shape[1:])} in x and {tuple(y.shape[1:])} in y"
        )
    if (x.dtype, x.device) != (y.dtype, y.device):
        raise TypeError(
            f"x and y must have one dtype and device, got {x.dtype} on {x.device} and {y.dtype} on {y.device}"
        )
    x, y = wide(x.reshape(len(x), -1)), wide(y.reshape(len(y), -1))
    centre = (x.mean(0) + y.mean(0)) / 2
    return x - centre, y - centre


def blocks(x: Tensor, y: Tensor, *, triangle: bool = False) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from `x` to `y`, some rows at a time, few enough to stay in the processor's cache.

    With `triangle`, columns that belong to earlier rows are left out.
    """
    dtype, mode, size = x.dtype, "donot_use_mm_for_euclid_dist", max(1, 2**21 // len(y))
    if x.shape[1] > 16:  # a matrix product is many times faster, and loses half of its digits: it gets twice as many
        x, y, mode = x.double(), y.double(), "use_mm_for_euclid_dist"
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        yield rows, torch.cdist(x[rows], y[start:] if triangle else y, compute_mode=mode).to(dtype)


def mean_between(kernel: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Mean of a kernel of the distance over all pairs of a point of `x` and a point of `y`."""
    return sum(kernel(block).sum().item() for _, block in blocks(x, y)) / (len(x) * len(y))


def mean_within(kernel: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Mean of a kernel of the distance over all pairs of two different points."""
    total = -len(x) * kernel(x.new_zeros(1)).item()
    for _, block in blocks(x, x, triangle=True):
        values = kernel(block)
        total += 2 * values.sum().item() - values[:, : len(values)].sum().item()
    return total / (len(x) * (len(x) - 1))


def identity(distance: Tensor) -> Tensor:
    """The kernel of the energy distance: the distance itself."""
    return distance
