"""Normalizing flows: a base pushed through layers that can be undone, with the density they leave behind.

Chapter 1 derives the three layers, planar, coupling and autoregressive, and trains stacks of them by likelihood.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmtutor import _validate
from fmtutor.normalizing.flow import NormalizingFlow
from fmtutor.normalizing.layers import (
    FLATTEST,
    Layer,
    MaskedLinear,
    Numbers,
    Vectors,
    made_masks,
    perceptron,
    softclip,
)
from fmtutor.normalizing.pixels import bits_per_dim, dequantize

__all__ = [
    "AffineCoupling",
    "MaskedAutoregressive",
    "NormalizingFlow",
    "Planar",
    "bits_per_dim",
    "dequantize",
]


class Planar(Layer):
    r"""A layer that pushes space along one direction, by an amount seen along another: `x = z + u tanh(w.z + b)`.

    Along w its slope is `1 + h' u.w`, with h' in (0, 1]. So it can be undone iff `u.w >= -1`, and the way back has
    a derivative iff `u.w > -1`. Hence u is not free: a raw u is moved along w until `1 + u.w` is a softplus, and that
    stays above `exp(-5)`, as the scales of `AffineCoupling` do. Nobody knows a formula for the way back. `Planar(dim)`
    can be sampled, with the density of what it has just drawn; `Planar(dim).inv` gives the density of any point in one
    pass, and cannot be sampled. A new layer changes nothing.

    Args:
        dim: numbers in a vector.

    Raises:
        NotImplementedError: the way back is asked for.
        TypeError, ValueError: not vectors of `dim` floating-point numbers.

    Source: Rezende and Mohamed (2015), planar flows; the constraint is in the appendix, there without a floor.

    Example:
        >>> layer, z = Planar(2), torch.ones(5, 2)
        >>> layer(z).shape, layer.log_abs_det_jacobian(z, layer(z)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.w = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.u = nn.Parameter(torch.zeros(dim))
        self.b = nn.Parameter(torch.randn(()))

    def push(self, z: Vectors) -> tuple[Vectors, Numbers]:
        self.check("z", z)
        rising = F.softplus(self.u @ self.w + math.log(math.e - 1))  # above 0; at u = 0 it is 1
        one_plus = FLATTEST + (1 - FLATTEST) * rising  # 1 + u.w; softplus alone may round to 0
        u = self.u + (one_plus - 1 - self.u @ self.w) * self.w / self.w.square().sum()
        h = torch.tanh(z @ self.w + self.b)
        return z + u * h[..., None], torch.log(h**2 + (1 - h**2) * one_plus)  # log(1 + h' u.w)

    def pull(self, x: Vectors) -> tuple[Vectors, Numbers]:
        raise NotImplementedError(
            "Planar has no formula for its inverse. Use it the other way round: Planar(dim).inv as "
            "the transform gives the density of any point in one pass, and no samples"
        )


class AffineCoupling(Layer):
    """A layer that keeps one half of a vector and scales and shifts the other: `x_b = z_b exp(l(z_a)) + m(z_a)`.

    The half that stays says how the other one moved, so both directions cost one pass of the network, whatever that
    is. A layer stretches a number by at most `exp(5)`, which keeps training steady. A new layer changes nothing.

    Args:
        dim: numbers in a vector, at least 2; the first `dim // 2` of them are the first half.
        flip: keep the second half and move the first, instead of the other way round.
        width: units in a hidden layer of the network.
        depth: hidden layers.

    Raises:
        TypeError, ValueError: not vectors of `dim` floating-point numbers.

    Source: Dinh et al. (2017), Real NVP.

    Example:
        >>> layer, z = AffineCoupling(3), torch.ones(5, 3)
        >>> torch.equal(layer.inv(layer(z)), z)
        True
    """

    def __init__(self, dim: int, *, flip: bool = False, width: int = 64, depth: int = 2) -> None:
        super().__init__(_validate.whole("dim", dim, 2))
        first = dim // 2
        self.flip, self.sizes = flip, (first, dim - first)
        kept, moved = reversed(self.sizes) if flip else self.sizes
        hidden = [_validate.whole("width", width)] * _validate.whole("depth", depth)
        sizes = pairwise([kept, *hidden, 2 * moved])
        self.network = perceptron(*(nn.Linear(inside, outside) for inside, outside in sizes))

    def push(self, z: Vectors) -> tuple[Vectors, Numbers]:
        kept, moved = self._halves("z", z)
        shift, log_scale = self._affine(kept)
        return self._join(kept, moved * log_scale.exp() + shift), log_scale.sum(-1)

    def pull(self, x: Vectors) -> tuple[Vectors, Numbers]:
        kept, moved = self._halves("x", x)
        shift, log_scale = self._affine(kept)
        return self._join(kept, (moved - shift) * (-log_scale).exp()), log_scale.sum(-1)

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(kept).chunk(2, -1)
        return shift, softclip(log_scale)

    def _halves(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.check(name, x).split(self.sizes, -1)
        return (second, first) if self.flip else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.flip else [kept, moved], -1)


class MaskedAutoregressive(Layer):
    """A layer in which what came before moves what comes next: `x_i = z_i exp(l_i(x_<i)) + m_i(x_<i)`.

    One network with masked weights gives every `l_i` and `m_i` at once. So `.inv`, and with it the density, is one
    pass, whatever `dim` is; the other way, each number has to wait for those before it, and a sample costs `dim`
    passes. Scales are bounded as in `AffineCoupling`. A new layer changes nothing.

    Every `l_i` and `m_i` hears of all numbers before it, which takes a hidden layer of `dim - 1` units at least.

    Args:
        dim: numbers in a vector.
        flip: let the last number come first.
        width: units in a hidden layer of the network; None for 64, or `dim - 1` where that is more.
        depth: hidden layers.

    Raises:
        TypeError, ValueError: not vectors of `dim` floating-point numbers, or a network narrower than `dim - 1`.

    Source: Papamakarios et al. (2017), on the masks of Germain et al. (2015), MADE.

    Example:
        >>> layer, z = MaskedAutoregressive(3), torch.ones(5, 3)
        >>> torch.equal(layer.inv(layer(z)), z)
        True
    """

    def __init__(self, dim: int, *, flip: bool = False, width: int | None = None, depth: int = 2) -> None:
        super().__init__(dim)
        self.flip = flip
        units = max(64, dim - 1) if width is None else _validate.whole("width", width)
        masks = made_masks(dim, [units] * _validate.whole("depth", depth), flip)
        self.network = perceptron(*map(MaskedLinear, masks))

    def pull(self, x: Vectors) -> tuple[Vectors, Numbers]:
        shift, log_scale = self._affine(self.check("x", x))
        return (x - shift) * (-log_scale).exp(), log_scale.sum(-1)

    def push(self, z: Vectors) -> tuple[Vectors, Numbers]:
        x = torch.zeros_like(self.check("z", z))
        for _ in range(self.dim):  # after k rounds the first k are right, and have heard of no others
            shift, log_scale = self._affine(x)
            x = z * log_scale.exp() + shift
        return x, log_scale.sum(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pull(y)[1]  # one pass; from x it would take as many as a sample

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(x).chunk(2, -1)
        return shift, softclip(log_scale)
