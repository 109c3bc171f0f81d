"""Small networks that learn a velocity field on two cores.

Chapter 3 meets the field they have to learn; chapter 4 trains the first one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate


class FourierFeatures(nn.Module):
    """`x` beside the sines and cosines of random projections of it, so that a small network can draw sharp edges.

    Args:
        dim: how many numbers come in.
        frequencies: how many projections; `2 * frequencies + dim` numbers go out.
        scale: their standard deviation, in radians per unit of x: the larger, the finer the detail that comes easily.

    Source: Tancik et al. (2020), section 5.

    Example:
        >>> FourierFeatures(2, frequencies=64)(torch.zeros(5, 2)).shape
        torch.Size([5, 130])
    """

    projection: Tensor

    def __init__(self, dim: int, frequencies: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("projection", scale * torch.randn(dim, frequencies))

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch features"]:
        angle = x @ self.projection
        return torch.cat([x, torch.sin(angle), torch.cos(angle)], 1)


class VelocityMLP(nn.Module):
    """A velocity field `v(t, x)` for points with a few coordinates.

    Args:
        dim: coordinates of a point.
        width: units in a hidden layer.
        depth: hidden layers.
        frequencies: Fourier features of position; 0 for none.
        scale: their standard deviation, in radians per unit of x.

    Raises:
        TypeError: x does not hold floating-point numbers.
        ValueError: x is not `(batch, dim)`, or t is neither a scalar nor `(batch,)`.

    Example:
        >>> VelocityMLP(dim=2)(0.5, torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, dim: int, *, width: int = 128, depth: int = 3, frequencies: int = 128, scale: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.position = FourierFeatures(dim, frequencies, scale) if frequencies else nn.Identity()
        widths = [dim + 2 * frequencies + 9] + [width] * depth
        layers: list[nn.Module] = []
        for i, o in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(i, o), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        if _validate.floating("x", x).dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (batch, {self.dim}), got {tuple(x.shape)}")
        return self.layers(torch.cat([self.position(x), self.time(_validate.time(t, x))], 1))

    @staticmethod
    def time(t: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch 9"]:
        """t beside four octaves of sines and cosines."""
        angle = math.pi * t * torch.exp2(torch.arange(4, dtype=t.dtype, device=t.device))
        return torch.cat([t, torch.sin(angle), torch.cos(angle)], 1)
