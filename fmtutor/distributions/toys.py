"""Toy targets in the plane: the checkerboard, and curves and arms that are hard to tell apart from afar.

Small enough to draw, hard enough to fail on, and each knows its own density. Chapter 3 introduces them.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import constraints

from fmtutor import _validate
from fmtutor.distributions.intervals import gauss_legendre, truncated_normal, truncated_sample
from fmtutor.distributions.mixtures import GaussianMixture
from fmtutor.distributions.target import Target, wide


class Checkerboard(Target):
    """Uniform on the eight dark squares of a 4 by 4 board; everything about it is known in closed form.

    Args:
        size: the side of one square, in units of the data. The default is the board of Meta's tutorials.

    Raises:
        ValueError: `size` is not above 0.

    Example:
        >>> board = Checkerboard()
        >>> board.entropy(), board.log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))  # dark, light
        (tensor(3.6765), tensor([-3.6765,    -inf]))
    """

    def __init__(self, size: float = 1 / 0.45) -> None:
        super().__init__(2)
        self.size = _validate.positive("size", size)

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n 2"]:
        column = self._index(n, 4, generator) - 2
        row = 2 * self._index(n, 2, generator) - 2 + column % 2
        corner = torch.stack([column, row], 1)
        edge = 4 * torch.finfo(self._like.dtype).eps  # so close to a side, rounding lifts a few onto the next square
        inside = self._uniform(n, 2, generator=generator).clamp(edge, 1 - edge)
        return self.size * (corner + inside)

    def _log_density(self, rows: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        return torch.where(self._dark(rows), rows.new_tensor(-math.log(8 * self.size**2)), -math.inf)

    def _dark(self, rows: Float[Tensor, "... 2"]) -> Tensor:
        cell = torch.floor(rows / self.size)
        return ((cell >= -2) & (cell < 2)).all(-1) & (cell.sum(-1) % 2 == 0)

    def entropy(self) -> Float[Tensor, ""]:
        return self._everywhere(math.log(8 * self.size**2))

    @property
    def mean(self) -> Float[Tensor, "2"]:
        return self._of_event(0.0)

    @property
    def variance(self) -> Float[Tensor, "2"]:
        return self._of_event(4 / 3 * self.size**2)  # each coordinate is uniform on a side of the board, 4 squares long

    @property
    def support(self) -> constraints.Constraint:
        return _DarkSquares(self)

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, "batch 2"]:
        joint, place = self._squares(*self._seen(x, alpha, sigma))
        weight = torch.softmax(joint.flatten(1), 1).reshape(-1, 4, 4)
        mean = [(weight.sum(2) * place[:, 0]).sum(1), (weight.sum(1) * place[:, 1]).sum(1)]
        return torch.stack(mean, 1).to(x.dtype)

    def sample_posterior(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, generator: Generator | None = None
    ) -> Float[Tensor, "batch 2"]:
        at, alpha, sigma = self._seen(_validate.floating("x", x).double(), alpha, sigma)
        weight = torch.softmax(self._squares(at, alpha, sigma)[0].flatten(1), 1)
        square = torch.multinomial(weight, 1, generator=generator)
        edge = self.size * (torch.cat([square // 4, square % 4], 1) - 2).to(at)
        low, width = (alpha * edge - at) / sigma, alpha * self.size / sigma
        place = truncated_sample(low, low + width, generator)  # of -x0, between 0 and 1 across the square
        border = 4 * torch.finfo(x.dtype).eps  # as in `_draw`: rounding would lift some onto the next square
        return (edge + self.size * place.clamp(border, 1 - border)).to(x.dtype)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, " batch"]:
        return torch.logsumexp(self._squares(*self._seen(x, alpha, sigma))[0].flatten(1), 1)

    def _squares(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """For every x: log of (1/8 times the noised density) of each square, and E[x1] in each column and row."""
        edge = self.size * torch.arange(-2, 2, dtype=x.dtype, device=x.device)
        low = (alpha[..., None] * edge - x[..., None]) / sigma[..., None]  # (batch, axis, interval)
        log_density, place = truncated_normal(low, low + alpha[..., None] * self.size / sigma[..., None])
        log_axis = log_density - torch.log(sigma)[..., None]
        joint = log_axis[:, 0, :, None] + log_axis[:, 1, None, :] - math.log(8)
        cell = torch.arange(4, device=x.device)
        dark = (cell[:, None] + cell) % 2 == 0
        return torch.where(dark, joint, -math.inf), edge + self.size * (0.5 + place)


class _DarkSquares(constraints.Constraint):
    """Membership of the dark squares of a board."""

    event_dim = 1

    def __init__(self, board: Checkerboard) -> None:
        self.board = board

    def check(self, value: Float[Tensor, "*sample 2"]) -> Tensor:
        return self.board._dark(wide(value))


class _Ridge(Target):
    """Curves, drawn at uniform speed in their parameter and thickened by round Gaussian noise.

    The density is an integral along the curve; Gauss-Legendre nodes make it a mixture of Gaussians. As long as they
    stand closer together than the noise is wide, it is exact to rounding wherever samples fall.
    """

    arms = 2
    nodes = 256

    def __init__(self, scale: float) -> None:
        super().__init__(2)
        self.scale = _validate.positive("scale", scale)
        parameter, weight = self._quadrature()
        means = torch.cat([self._curve(parameter, torch.full((self.nodes,), arm)) for arm in range(self.arms)])
        self._mixture = GaussianMixture(means, scale, weight.repeat(self.arms))

    def to(self, *args: object, **kwargs: object) -> Self:
        moved = super().to(*args, **kwargs)
        moved._mixture = self._mixture.to(moved._like.device)  # its nodes define the density: they stay in float64
        return moved

    def _quadrature(self) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
        """Parameters in [0, 1] and their weights, in float64."""
        node, weight = gauss_legendre(self.nodes, 0.0, 1.0)
        return torch.as_tensor(node), torch.as_tensor(weight)

    def _curve(self, u: Float[Tensor, " n"], arm: Tensor) -> Float[Tensor, "n 2"]:
        """The point at parameter u in [0, 1] of each given arm."""
        raise NotImplementedError

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n 2"]:
        arm = self._index(n, self.arms, generator)
        on_curve = self._curve(self._uniform(n, generator=generator), arm)
        return on_curve + self.scale * self._normal(n, 2, generator=generator)

    def _log_density(self, rows: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        return self._mixture._log_density(rows)

    @property
    def mean(self) -> Float[Tensor, "2"]:
        return self._of_event(self._mixture.mean)

    @property
    def variance(self) -> Float[Tensor, "2"]:
        return self._of_event(self._mixture.variance)

    def posterior_mean(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, "batch 2"]:
        return self._mixture.posterior_mean(x, alpha, sigma)

    def sample_posterior(
        self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, generator: Generator | None = None
    ) -> Float[Tensor, "batch 2"]:
        return self._mixture.sample_posterior(x, alpha, sigma, generator)

    def noised_log_prob(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Float[Tensor, " batch"]:
        return self._mixture.noised_log_prob(x, alpha, sigma)


class TwoMoons(_Ridge):
    """Two half circles of radius 2 that reach into each other.

    Args:
        scale: the noise around the half circles, in units of the data, at least 0.05.

    Raises:
        ValueError: `scale` is below 0.05, where the density would no longer be exact.

    Example:
        >>> moons = TwoMoons()
        >>> moons.log_prob(torch.tensor([[-1.0, 1.5], [0.0, 0.0]]))  # on a moon, and between the two
        tensor([ -1.1471, -39.0561])
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__(_at_least("scale", scale, 0.05))

    def _curve(self, u: Float[Tensor, " n"], arm: Tensor) -> Float[Tensor, "n 2"]:
        angle, side = math.pi * u, 1 - 2 * arm.to(u)  # side: 1 for the upper moon, -1 for the lower
        return torch.stack([side * (2 * torch.cos(angle) - 1), side * (2 * torch.sin(angle) - 0.5)], 1)


class Spirals(_Ridge):
    """Two spirals of one and a half turns, wound into each other.

    Args:
        scale: the noise around the spirals, in units of the data, at least 0.05.

    Raises:
        ValueError: `scale` is below 0.05, where the density would no longer be exact.

    Example:
        >>> Spirals().sample((3,)).shape
        torch.Size([3, 2])
    """

    nodes = 800

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__(_at_least("scale", scale, 0.05))

    def _quadrature(self) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
        root, weight = super()._quadrature()
        return root**2, 2 * root * weight  # in the root of u the curve is smooth, as the quadrature needs it

    def _curve(self, u: Float[Tensor, " n"], arm: Tensor) -> Float[Tensor, "n 2"]:
        angle, side = 3 * math.pi * torch.sqrt(u), 1 - 2 * arm.to(u)  # the root spreads the points evenly along the arm
        radius = side * angle / 3
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)


class Pinwheel(Target):
    """Five arms, each a long Gaussian bent around the centre by an angle that grows with the radius.

    The bend turns every circle rigidly, so it keeps areas, and the density is that of the straight arms.

    Args:
        arms: how many.
        bend: the angle, in radians, by which a point at radius 1 is turned; it grows linearly with the radius.

    Raises:
        ValueError: `arms` is below 1.

    Example:
        >>> Pinwheel().log_prob(torch.zeros(1, 2))
        tensor([-5.2732])
    """

    _centre, _scale = (2.0, 0.0), (0.6, 0.2)

    def __init__(self, arms: int = 5, bend: float = 0.6) -> None:
        super().__init__(2)
        _validate.positive("the size of bend", abs(_validate.number("bend", bend)), or_zero=True)
        self.arms, self.bend = _validate.whole("arms", arms), bend

    def _draw(self, n: int, generator: Generator | None) -> Float[Tensor, "n 2"]:
        arm = self._index(n, self.arms, generator)
        noise = self._normal(n, 2, generator=generator)
        straight = noise.new_tensor(self._centre) + noise.new_tensor(self._scale) * noise
        return _turn(straight, self._angle(straight, arm))

    def _log_density(self, rows: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        centre, scale = rows.new_tensor(self._centre), rows.new_tensor(self._scale)
        straight = torch.stack([_turn(rows, -self._angle(rows, torch.tensor(k))) for k in range(self.arms)])
        log_arm = -0.5 * (((straight - centre) / scale) ** 2).sum(-1) - torch.log(2 * math.pi * scale.prod())
        return torch.logsumexp(log_arm, 0) - math.log(self.arms)

    @property
    def mean(self) -> Float[Tensor, "2"]:
        return self._of_event(0.0) if self.arms > 1 else super().mean

    @property
    def variance(self) -> Float[Tensor, "2"]:
        """From three arms on, E|x|^2 is shared equally by the axes, and it is that of a straight arm."""
        if self.arms < 3:
            return super().variance
        return self._of_event(sum(number**2 for number in self._centre + self._scale) / 2)

    def _angle(self, x: Float[Tensor, "n 2"], arm: Tensor) -> Float[Tensor, " n"]:
        return self.bend * torch.linalg.vector_norm(x, dim=1) + arm.to(x) * (2 * math.pi / self.arms)


def _turn(x: Float[Tensor, "n 2"], angle: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)


def _at_least(name: str, value: float, least: float) -> float:
    if not least <= _validate.number(name, value) < math.inf:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value
