"""Guidance: a field that listens to its label more than it was taught to, and the labels that a training leaves out.

Chapter 9 measures what it does to a density, where the truth is known.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from fmtutor import _validate


def guide(velocity: Any, label: Tensor | int, scale: float, null: Tensor | int) -> Guided:
    """The field `(1 - scale) v(t, x, null) + scale v(t, x, label)`, as a field `v(t, x)` again.

    At scale 1 it is the labelled field, at 0 the one without a label; above 1 it goes away from what the unlabelled
    one would do. It does not sample the density that is tilted likewise, on any path: see chapter 9.

    Args:
        velocity: `v(t, x, label=...)`, a network that was trained with some labels left out (`drop_labels`).
        label: the label wanted, a whole number for all points or one for each, `(batch,)`.
        scale: the weight of the labelled field.
        null: the label that stands for none.

    Raises:
        TypeError: the velocity cannot be called, or a label is no whole number.
        ValueError: the scale is not finite; when called, labels of another number than points, or another shape than
            that of x comes back.

    Source: Ho and Salimans (2022), "Classifier-free diffusion guidance", whose w is `scale - 1`.

    Example:
        >>> v = lambda t, x, label: label[:, None] - x
        >>> guide(v, label=1, scale=3.0, null=0)(0.5, torch.zeros(2, 1))
        tensor([[3.],
                [3.]])
    """
    return Guided(velocity, label, scale, null)


class Guided(nn.Module):
    """The field that `guide` returns; both of its halves go through the network in one batch."""

    label: Tensor
    null: Tensor

    def __init__(self, velocity: Any, label: Tensor | int, scale: float, null: Tensor | int) -> None:
        super().__init__()
        self.velocity, self.scale = _validate.function("velocity", velocity), float(_validate.number("scale", scale))
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, got {scale}")
        for name, value in (("label", label), ("null", null)):
            whole = torch.as_tensor(value)
            if whole.is_floating_point() or whole.is_complex() or whole.dtype == torch.bool or whole.dim() > 1:
                raise TypeError(f"{name} must be a whole number or one for each point, got {value!r}")
            self.register_buffer(name, whole, persistent=False)
        self.training = getattr(velocity, "training", True)

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        n, t = len(x), torch.as_tensor(t, device=x.device)
        if self.scale == 1:
            return _validate.output_like("velocity", self.velocity(t, x, label=self._each("label", n)), x)
        twice = torch.cat([x, x])
        labels = torch.cat([self._each("label", n), self._each("null", n)])
        asked = self.velocity(t if t.dim() == 0 else torch.cat([t, t]), twice, label=labels)
        labelled, free = _validate.output_like("velocity", asked, twice).chunk(2)
        return torch.lerp(free, labelled, self.scale)

    def _each(self, name: str, n: int) -> Int[Tensor, " batch"]:
        value = getattr(self, name)
        if value.dim() and len(value) != n:
            raise ValueError(f"{name} must be one for each of {n} points, got {len(value)}")
        return value.expand(n)


def drop_labels(
    label: Int[Tensor, " batch"], p: float, null: int, generator: Generator | None = None
) -> Int[Tensor, " batch"]:
    """`label`, with each one replaced by `null` with probability p, so that one network learns both fields.

    Args:
        label: labels of the points, `(batch,)`.
        p: from 0 to 1.
        null: the label that stands for none.
        generator: where the draws come from; torch's global generator unless given.

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: p is outside [0, 1].

    Source: Ho and Salimans (2022), algorithm 1.

    Example:
        >>> drop_labels(torch.tensor([3, 1, 4]), p=1.0, null=10)
        tensor([10, 10, 10])
    """
    if not isinstance(label, Tensor) or label.is_floating_point() or label.dtype == torch.bool:
        raise TypeError(f"label must be a tensor of whole numbers, got {getattr(label, 'dtype', type(label).__name__)}")
    if not 0 <= _validate.number("p", p) <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    dropped = torch.rand(label.shape, generator=_validate.random(generator), device=label.device) < p
    return torch.where(dropped, torch.as_tensor(null, dtype=label.dtype, device=label.device), label)
