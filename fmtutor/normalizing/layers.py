"""What the layers of a normalizing flow have in common: how a module is a torch Transform, and small networks.

The layers themselves are in `normalizing`, which chapter 1 opens first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from fmtutor import _validate

Vectors = Float[Tensor, "*batch dim"]
Numbers = Float[Tensor, "*batch"]

BOUND = 5.0  # of a log-scale: one layer stretches a coordinate by at most exp(5)
FLATTEST = math.exp(-BOUND)  # the smallest slope of a layer that has no log-scale


class Layer(nn.Module, Transform):
    """A module that is a torch Transform of vectors; a layer writes `push` and `pull`, and the rest follows.

    Both return the log-determinant beside the point, since one pass of a network gives both, and both mean the same
    one, `log |det dx/dz|`.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, dim: int) -> None:
        nn.Module.__init__(self)
        Transform.__init__(self)
        self.dim = _validate.whole("dim", dim)

    def push(self, z: Vectors) -> tuple[Vectors, Numbers]:
        """From base to data: `(x, log |det dx/dz|)`."""
        raise NotImplementedError

    def pull(self, x: Vectors) -> tuple[Vectors, Numbers]:
        """From data to base: `(z, log |det dx/dz|)`."""
        raise NotImplementedError

    def forward(self, z: Vectors) -> Vectors:
        return self.push(z)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.push(x)[1]

    def _inv_call(self, y: Tensor) -> Tensor:
        return self.pull(y)[0]

    @property
    def inv(self) -> Layer:
        """The same layer, from data to base: a module too, with the same parameters."""
        return Inverse(self)

    def __hash__(self) -> int:  # Transform defines == alone, which would leave modules without one
        return id(self)

    def extra_repr(self) -> str:
        return f"dim={self.dim}" + (", flip=True" if getattr(self, "flip", False) else "")

    def check(self, name: str, x: Tensor) -> Tensor:
        """`x`, if it holds vectors of `dim` numbers in the dtype of the parameters."""
        if _validate.floating(name, x).dim() == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"{name} must have shape (*batch, {self.dim}), got {tuple(x.shape)}")
        return _validate.same_dtype(name, x, self)


class Inverse(Layer):
    """A layer the other way round. (torch's own inverse is no module, and a copy of it has lost what it inverts.)"""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.dim)
        self.layer = layer

    @property
    def inv(self) -> Layer:
        return self.layer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inverse) and self.layer is other.layer

    def __hash__(self) -> int:
        return hash((Inverse, self.layer))

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.layer.pull(z)
        return x, -log_det

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.layer.push(x)
        return z, -log_det

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.layer.log_abs_det_jacobian(y, x)


class MaskedLinear(nn.Linear):
    """A linear map in which the weights at the zeros of a mask do not count."""

    mask: Tensor

    def __init__(self, mask: Float[Tensor, "outside inside"]) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


def made_masks(dim: int, widths: Sequence[int], flip: bool = False) -> list[Float[Tensor, "outside inside"]]:
    """Masks under which output i depends on the inputs before i alone; there are two outputs for each input.

    Every unit has a rank, and a hidden unit of rank r has heard of the inputs of rank 0 to r, no others. The ranks go
    from 0 to `dim - 2`, so a layer needs `dim - 1` units, or some output cannot hear of the input just before it.

    Raises:
        ValueError: a width is smaller than that.

    Source: Germain et al. (2015), MADE, with ranks dealt in turn instead of at random.

    Example:
        >>> made_masks(3, [2])
        [tensor([[1., 0., 0.],
                [1., 1., 0.]]),
         tensor([[0., 0.],
                [1., 0.],
                [1., 1.],
                [0., 0.],
                [1., 0.],
                [1., 1.]])]
    """
    if min(widths) < dim - 1:
        raise ValueError(
            f"width must be at least dim - 1 = {dim - 1}, got {min(widths)}: with fewer units some numbers would never "
            "reach those that have to depend on them"
        )
    place = torch.arange(dim)
    inputs = place.flip(0) if flip else place
    ranks = [inputs, *(torch.arange(width) % max(dim - 1, 1) for width in widths)]
    masks = [after[:, None] >= before for before, after in pairwise(ranks)]
    return [mask.float() for mask in [*masks, inputs.repeat(2)[:, None] > ranks[-1]]]


def perceptron(*maps: nn.Linear) -> nn.Sequential:
    """The maps with a tanh between any two; the last one starts at zero, so that a layer starts as the identity.

    A tanh is bounded, so what a layer does far out is bounded too. In stacks of six, ReLU and SiLU let the loss jump.
    """
    nn.init.zeros_(maps[-1].weight), nn.init.zeros_(maps[-1].bias)
    return nn.Sequential(maps[0], *(step for linear in maps[1:] for step in (nn.Tanh(), linear)))


def softclip(x: Tensor) -> Tensor:
    """A log-scale between -BOUND and BOUND, close to x where x is small; the gradient dies slowly outside."""
    return x / (1 + x.abs() / BOUND)
