"""Second routes to the truth, for several test files: schedules by hand, and averages over x1 by brute quadrature."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fmtutor import (
    Checkerboard,
    Cosine,
    EightGaussians,
    Empirical,
    GaussianMixture,
    Linear,
    Polynomial,
    Schedule,
    Spirals,
    StandardNormal,
    TwoMoons,
    VarianceExploding,
    VariancePreserving,
)

F64 = torch.float64
SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "linear with noise left": Linear(sigma_min=0.1),
    "vp": VariancePreserving(),
    "ve": VarianceExploding(),
    "cosine": Cosine(),
    "polynomial": Polynomial(2.5),
}


def by_hand(name: str, t: float) -> tuple[float, float, float, float]:
    """alpha, sigma, d_alpha, d_sigma, each written out from its definition."""
    if name == "linear":
        return t, 1 - t, 1.0, -1.0
    if name == "linear with noise left":
        return t, 1 - 0.9 * t, 1.0, -0.9
    if name == "vp":
        s = 1 - t
        noise, rate = 0.1 * s + 9.95 * s * s, 0.1 + 19.9 * s  # the rate is that of reversed time
        alpha, sigma = math.exp(-noise / 2), math.sqrt(-math.expm1(-noise))
        return alpha, sigma, 0.5 * rate * alpha, (-0.5 * rate * alpha**2 / sigma if sigma else -math.inf)
    if name == "ve":
        sigma = 0.01 * 1000 ** (1 - t)
        return 1.0, sigma, 0.0, -math.log(1000) * sigma
    if name == "cosine":
        a = math.pi * t / 2
        return math.sin(a), math.cos(a), math.pi / 2 * math.cos(a), -math.pi / 2 * math.sin(a)
    return t**2.5, 1 - t**2.5, 2.5 * t**1.5, -2.5 * t**1.5


@cache
def targets() -> dict[str, object]:
    """Every target with a posterior, in float64."""
    data = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-1.5, 1.0], [0.4, -1.1]], dtype=F64)
    mixture = GaussianMixture(data[:3], 0.3, torch.tensor([0.5, 0.2, 0.3], dtype=F64))
    return {
        "board": Checkerboard().to(F64),
        "eight": EightGaussians().to(F64),
        "mixture": mixture,
        "moons": TwoMoons().to(F64),
        "spirals": Spirals().to(F64),
        "normal": StandardNormal(2).to(F64),
        "data": Empirical(data),
    }


def sides(dark: bool = True) -> list[tuple[float, float]]:
    """The lower left corners of the dark squares, read off a drawing of the board."""
    rows = ["#.#.", ".#.#", "#.#.", ".#.#"]
    side = 1 / 0.45
    return [
        (side * (column - 2), side * (row - 2))
        for row, line in enumerate(rows)
        for column, square in enumerate(line)
        if (square == "#") == dark
    ]


def _board_cloud() -> tuple[Tensor, Tensor]:
    node, weight = np.polynomial.legendre.leggauss(56)
    side = 1 / 0.45
    axis, w = side * torch.as_tensor((node + 1) / 2), torch.as_tensor(weight / 2)
    grid = torch.cartesian_prod(axis, axis)
    points = torch.cat([torch.tensor(corner, dtype=F64) + grid for corner in sides()])
    return points, torch.outer(w, w).flatten().repeat(8) / 8


def _means_by_hand(name: str) -> tuple[Tensor, Tensor, float]:
    """Centres, weights and scale: of the mixtures as given, of the curves many points, evenly spread along them."""
    target = targets()[name]
    if name in ("eight", "mixture"):
        return target.means, target.weights, target.scale  # type: ignore[attr-defined]
    if name == "normal":
        return torch.zeros(1, 2, dtype=F64), torch.ones(1, dtype=F64), 1.0
    node, weight = np.polynomial.legendre.leggauss(400)  # at most 0.08 apart, with a scale of 0.1: exact to 1e-13
    root, w = torch.as_tensor((node + 1) / 2), torch.as_tensor(weight / 2)
    if name == "moons":
        angle = math.pi * root
        arm = torch.stack([2 * torch.cos(angle) - 1, 2 * torch.sin(angle) - 0.5], 1)
    else:  # a spiral's angle is 3 pi sqrt(u), u uniform
        angle, w = 3 * math.pi * root, 2 * root * w
        arm = torch.stack([angle / 3 * torch.cos(angle), angle / 3 * torch.sin(angle)], 1)
    return torch.cat([arm, -arm]), torch.cat([w, w]) / 2, 0.1


def _density(name: str, at: Tensor) -> Tensor:
    """The density at every row, as a plain sum over the means that are within ten deviations of any row."""
    means, weights, scale = _means_by_hand(name)
    close = ((means > at.amin(0) - 10 * scale) & (means < at.amax(0) + 10 * scale)).all(1)
    means, weights = means[close], weights[close]
    density = torch.zeros(len(at), dtype=F64)
    for m, w in zip(means.split(50), weights.split(50), strict=True):
        square = torch.cdist(at, m, compute_mode="donot_use_mm_for_euclid_dist").square_()
        density += square.mul_(-0.5 / scale**2).exp_() @ w
    return density / (2 * math.pi * scale**2)


@cache
def cloud(name: str) -> tuple[Tensor, Tensor]:
    """Points x1 and weights that integrate against the target: its density on a fine grid, squares node by node."""
    if name == "board":
        return _board_cloud()
    if name == "data":
        return targets()["data"].means, torch.full((4,), 0.25, dtype=F64)  # type: ignore[attr-defined]
    reach, step = (9.0, 0.1) if name == "normal" else (4.5, 0.06)
    axis = torch.arange(-reach, reach + step / 2, step, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    density = _density(name, grid)
    keep = density > 1e-14 / (2 * math.pi * (1.0 if name == "normal" else 0.1) ** 2)
    return grid[keep], step**2 * density[keep]


def near(name: str, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """The same where noise is narrower than that grid: nodes within ten deviations of x, inside each square."""
    if name == "data":
        return cloud(name)
    node, weight = (torch.as_tensor(a) / 2 for a in np.polynomial.legendre.leggauss(64))
    low, high = x / alpha - 10 * sigma / alpha, x / alpha + 10 * sigma / alpha
    points, weights = [], []
    for corner in sides() if name == "board" else [(-math.inf, -math.inf)]:
        a = torch.maximum(low, torch.tensor(corner, dtype=F64))
        b = torch.minimum(high, torch.tensor(corner, dtype=F64) + 1 / 0.45) if name == "board" else high
        if (b > a).all():
            points.append(torch.cartesian_prod(*((a + b)[:, None] / 2 + (b - a)[:, None] * node)))
            weights.append(torch.outer(weight, weight).flatten() * (b - a).prod())
    x1, w = torch.cat(points), torch.cat(weights)
    return x1, w * (0.45**2 / 8 if name == "board" else _density(name, x1))


def brute(name: str, x: Tensor, c: tuple[float, float, float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p_t, E[x1 | x], u_t and the score at every row of x, as sums over the cloud and nothing else."""
    alpha, sigma, d_alpha, d_sigma = c
    rows = []
    for at in x:
        x1, weight = cloud(name) if sigma >= 0.12 * alpha else near(name, at, alpha, sigma)
        kernel = torch.exp(-0.5 * ((at - alpha * x1) ** 2).sum(1) / sigma**2) / (2 * math.pi * sigma**2)
        p = (weight * kernel).sum()
        velocity = d_alpha * x1 + d_sigma / sigma * (at - alpha * x1)
        each = [(weight * kernel) @ value / p for value in (x1, velocity, (alpha * x1 - at) / sigma**2)]
        rows.append((torch.log(p), *each))
    log_p, mean, velocity, score = (torch.stack(part) for part in zip(*rows, strict=True))
    return log_p, mean, velocity, score
