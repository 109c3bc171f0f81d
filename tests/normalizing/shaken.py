"""Layers with weights that do something, and wrong versions of them, for every test of this folder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from reference import F64
from torch import Tensor
from torch.distributions import (
    Transform,
)

from fmtutor import (
    AffineCoupling,
    MaskedAutoregressive,
    Planar,
    StandardNormal,
)
from fmtutor.normalizing.layers import Layer

BASE = StandardNormal(2).to(F64)
BOTH_WAYS = [AffineCoupling, MaskedAutoregressive]


def shaken(layer: Layer, size: float = 0.3) -> Layer:
    """The layer with weights that do something: new ones leave everything alone."""
    with torch.no_grad():
        if isinstance(layer, Planar):
            layer.w.div_(layer.w.norm()), layer.u.normal_(std=size).add_(3 * size * layer.w)
        else:
            weight, bias = list(layer.parameters())[-2:]
            weight.normal_(std=size), bias.normal_(std=size / 3)
    return layer


def layers(dim: int) -> dict[str, Layer]:
    made = [shaken(kind(dim, flip=flip, width=16), 0.5) for kind in BOTH_WAYS for flip in (False, True)]
    both = {f"{type(layer).__name__} {i}": layer.double() for i, layer in enumerate(made)}
    return {**both, "Planar": shaken(Planar(dim)).double(), "Planar.inv": shaken(Planar(dim)).double().inv}


def stack(kind: Callable[..., Layer], depth: int = 6, dim: int = 2, size: float = 0.3) -> list[Layer]:
    return [shaken(kind(dim, flip=i % 2 == 1, width=16), size) for i in range(depth)]


def planar_stack(depth: int = 6) -> list[Transform]:
    return [shaken(Planar(2)).inv for _ in range(depth)]


class Wrong(Layer):
    """A layer whose log-determinant has been through `spoil`, to see that a check notices."""

    def __init__(self, layer: Layer, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer.dim)
        self.layer, self.spoil = layer, spoil

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.layer.push(z)
        return x, self.spoil(log_det)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.layer.pull(x)
        return z, self.spoil(log_det)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.spoil(self.layer.log_abs_det_jacobian(x, y))


SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": lambda log_det: -log_det,
    "half": lambda log_det: log_det / 2,
    "twice": lambda log_det: 2 * log_det,
    "left out": torch.zeros_like,
    "a factor": lambda log_det: log_det - math.log(2),
}


def jacobians(layer: Layer, z: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda one: layer(one)))(z)
