"""Small networks that learn a velocity field on two cores.

Chapter 3 meets the field they have to learn; chapter 4 trains the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate


class FourierFeatures(nn.Module):
    """A noisy `x` beside sines and cosines of random projections of it, so that a small network can draw sharp edges.

    A wave finer than the noise says nothing: on average over z, `sin(b . (x + s z))` is `exp(-|b s|^2 / 2) sin(b . x)`.
    So each wave is damped by just that factor, and the fine ones come in when the noise is low enough for them.

    Args:
        dim: how many numbers come in.
        frequencies: how many projections; `2 * frequencies + dim` numbers go out.
        lowest: the scale of the coarsest, in radians per unit of x.
        highest: the scale of the finest; those between are spread evenly in the logarithm.

    Source: Tancik et al. (2020) for the random waves; Barron et al. (2021), section 3.1, for the damping.

    Example:
        >>> FourierFeatures(2, frequencies=64)(torch.zeros(5, 2), noise=torch.ones(5, 1)).shape
        torch.Size([5, 130])
    """

    projection: Tensor

    def __init__(self, dim: int, frequencies: int, lowest: float = 0.7, highest: float = 16.0) -> None:
        super().__init__()
        scale = torch.logspace(math.log10(lowest), math.log10(highest), frequencies)
        self.register_buffer("projection", scale * torch.randn(dim, frequencies))

    def forward(
        self, x: Float[Tensor, "batch dim"], noise: Float[Tensor, "#batch 1"], *beside: Float[Tensor, "batch more"]
    ) -> Float[Tensor, "batch features"]:
        angle = x @ self.projection
        damping = torch.exp(-0.5 * self.projection.square().sum(0) * noise**2)
        return torch.cat([x, damping * torch.sin(angle), damping * torch.cos(angle), *beside], 1)


class VelocityMLP(nn.Module):
    """A velocity field `v(t, x)` for points with a few coordinates.

    It sees x through `FourierFeatures`, damped for the noise that x holds at time t.

    Args:
        dim: coordinates of a point.
        width: units in a hidden layer.
        depth: hidden layers; none makes the velocity linear in the features.
        frequencies: Fourier features of position; 0 for none.
        noise: the scale of the noise at times `(batch, 1)`, as a schedule's `sigma` gives it; `1 - t` unless given,
            the noise of the linear path.

    Raises:
        TypeError: x does not hold floating-point numbers of the parameters' dtype.
        ValueError: a size is too small, x is not `(batch, dim)`, or t is neither a scalar nor `(batch,)`.

    Example:
        >>> VelocityMLP(dim=2)(0.5, torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int = 64,
        depth: int = 3,
        frequencies: int = 96,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.dim = _validate.whole("dim", dim)
        _validate.whole("width", width)
        _validate.whole("depth", depth, least=0), _validate.whole("frequencies", frequencies, least=0)
        self.position = FourierFeatures(dim, frequencies)
        self.noise = None if noise is None else _validate.function("noise", noise)
        widths = [dim + 2 * frequencies + 9] + [width] * depth
        layers: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            layers += [nn.Linear(inside, outside), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        if _validate.same_dtype("x", x, self).dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (batch, {self.dim}), got {tuple(x.shape)}")
        one = torch.as_tensor(t).dim() == 0  # a solver asks all points at one time: its waves are computed once
        t = _validate.time(t, x[:1] if one else x)
        noise = 1 - t if self.noise is None else _validate.output_like("noise", self.noise(t), t)
        return self.layers(self.position(x, noise, octaves(t).expand(len(x), -1)))


def octaves(t: Float[Tensor, "batch 1"], n: int = 4) -> Float[Tensor, "batch features"]:
    """t beside `n` octaves of sines and cosines, the slowest with half a wave in [0, 1]."""
    angle = math.pi * t * torch.exp2(torch.arange(n, dtype=t.dtype, device=t.device))
    return torch.cat([t, torch.sin(angle), torch.cos(angle)], 1)
