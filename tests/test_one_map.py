"""What is known about the map from noise to data: one for all schedules, monotone on a line, and optimal sometimes."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from reference import F64
from scipy.linalg import sqrtm
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from fmtutor import (
    AffinePath,
    Cosine,
    GaussianMixture,
    Linear,
    Polynomial,
    Schedule,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    solve,
)

LINE = GaussianMixture(torch.tensor([[-1.5], [0.5], [2.0]], dtype=F64), 0.3, torch.tensor([0.2, 0.5, 0.3], dtype=F64))
PLANE = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 1.5], [0.0, -2.0]], dtype=F64), 0.4)
EXACT: dict[str, Any] = {"method": "dopri5", "rtol": 1e-12, "atol": 1e-12}
LAST = 1 - 1e-12  # a path's velocity ends with its noise; what is left of the way is of this size


@cache
def ends(schedule: Schedule, target: GaussianMixture) -> Tensor:
    """Where the exact marginal field of a schedule takes eight points of noise."""
    path, x0 = AffinePath(schedule), NOISE[target]
    x0 = path.coefficients(0.0, x0).sigma * x0
    return solve(lambda t, x: path.marginal_velocity(t, x, target), x0, t1=LAST, **EXACT).x


LINEAR = Linear()
NOISE = {
    target: torch.randn(8, *target.event_shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    for target in (LINE, PLANE)
}


# One map


@pytest.mark.parametrize("target", [LINE, PLANE], ids=["line", "plane"])
@pytest.mark.parametrize("schedule", [Cosine(), Polynomial(2)], ids=repr)
def test_every_schedule_that_starts_at_noise_gives_one_map(schedule: Schedule, target: GaussianMixture) -> None:
    """With x = sigma y, all schedules follow one field of y against alpha / sigma, and start at the same place."""
    linear, other = ends(LINEAR, target), ends(schedule, target)
    assert (linear - other).abs().max() < 1e-10
    assert (linear - NOISE[target]).abs().max() > 0.1  # and it is not the identity


@pytest.mark.parametrize("target", [LINE, PLANE], ids=["line", "plane"])
def test_a_little_data_in_the_noise_is_another_map(target: GaussianMixture) -> None:
    """VP starts with alpha(0) = 0.0066 of the data: its map differs by about as much; VE, with 1 / 10, by more."""
    apart = [
        (ends(LINEAR, target) - ends(s, target)).abs().max().item() for s in (VariancePreserving(), VarianceExploding())
    ]
    start = VariancePreserving().alpha(torch.zeros((), dtype=F64)).item()
    assert start == pytest.approx(0.0066, abs=5e-5)
    assert 1e-4 < apart[0] < 6 * start
    assert apart[1] > 5 * apart[0]


def test_another_field_is_another_map() -> None:
    """The wrong version: noise that is forgotten in the velocity, on both schedules alike."""
    x0, found = NOISE[LINE], []
    for path in (AffinePath(), AffinePath(Cosine())):

        def half(t: Tensor, x: Tensor, path: AffinePath = path) -> Tensor:
            u, c = path.marginal_velocity(t, x, LINE), path.coefficients(t, x)
            return u - 0.5 * c.d_sigma * path.convert(t, x, u, "velocity", "noise")

        found.append(solve(half, x0, t1=0.99, method="dopri5", rtol=1e-6).x)
    assert (found[0] - found[1]).abs().max() > 0.02


# One dimension


def share(z: float, alpha: float, sigma: float) -> float:
    """The distribution function of the mixture at a time, by scipy."""
    means, weights = LINE.means[:, 0].tolist(), LINE.weights.tolist()
    spread = math.hypot(alpha * LINE.scale, sigma)
    return sum(w * norm.cdf(z, alpha * m, spread) for w, m in zip(weights, means, strict=True))


def monotone(x: Tensor, before: tuple[float, float], after: tuple[float, float]) -> Tensor:
    """F_after^-1(F_before(x)), by bisection."""
    shares = [share(v, *before) for v in x.flatten().tolist()]
    at = [brentq(lambda z, p=p: share(z, *after) - p, -30, 30, xtol=1e-13) for p in shares]
    return torch.tensor(at, dtype=F64).reshape(x.shape)


@pytest.mark.parametrize(("r", "t"), [(0.0, LAST), (0.0, 0.5), (0.3, 0.8), (0.7, 0.2)])
def test_on_a_line_the_flow_is_the_monotone_map(r: float, t: float) -> None:
    """So it is the optimal transport map, between any two times, and backwards too."""
    path, x = AffinePath(), torch.linspace(-1.7, 1.7, 9, dtype=F64)[:, None]
    moved = solve(lambda s, x: path.marginal_velocity(s, x, LINE), x, t0=r, t1=t, **EXACT).x
    truth = monotone(x, (r, 1 - r), (t, 1 - t))
    assert (moved - truth).abs().max() < 1e-10
    assert (moved - monotone(x, (r, 1 - r), (t, 1.1 - t))).abs().max() > 1e-3  # noise of another scale


# Gaussian to Gaussian


def root(a: Tensor) -> Tensor:
    return torch.as_tensor(sqrtm(a.numpy()).real)


def optimal(a: Tensor, b: Tensor) -> Tensor:
    """The matrix of the optimal map from N(0, A) to N(0, B) (Bures)."""
    inverse = torch.linalg.inv(root(a))
    return inverse @ root(root(a) @ b @ root(a)) @ inverse


def flow(a: Tensor, b: Tensor) -> Tensor:
    """The matrix of the flow from N(0, A) to N(0, B) by independent pairs on straight lines: M' = u M, M(0) = 1."""

    def u(t: Tensor, m: Tensor) -> Tensor:  # E[x1 - x0 | xt] is linear; rows of m are the columns of M
        field = (t * b - (1 - t) * a) @ torch.linalg.inv((1 - t) ** 2 * a + t**2 * b)
        return m @ field.T

    return solve(u, torch.eye(len(a), dtype=F64), **EXACT).x.T


def turned(values: tuple[float, float], angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=F64)
    return turn @ torch.diag(torch.tensor(values, dtype=F64)) @ turn.T


UNIT, WIDE, TALL = torch.eye(2, dtype=F64), turned((9.0, 0.25), 0.6), turned((1.0, 4.0), 0.0)


@pytest.mark.parametrize(
    ("a", "b"), [(UNIT, WIDE), (UNIT, TALL), (turned((2.0, 0.5), 0.6), WIDE)], ids=["noise", "noise too", "commuting"]
)
def test_gaussians_that_commute_are_moved_optimally(a: Tensor, b: Tensor) -> None:
    assert (a @ b - b @ a).abs().max() < 1e-12
    assert (flow(a, b) - optimal(a, b)).abs().max() < 1e-9


def test_gaussians_that_do_not_are_not() -> None:
    """The law at t = 1 is right all the same; the matrix is not symmetric, as that of an optimal map would be."""
    m, best = flow(TALL, WIDE), optimal(TALL, WIDE)
    assert (WIDE @ TALL - TALL @ WIDE).abs().max() > 1
    for matrix in (m, best):
        assert (matrix @ TALL @ matrix.T - WIDE).abs().max() < 1e-9
    assert (best - best.T).abs().max() < 1e-12
    assert (m - m.T).abs().max() > 0.1
    assert (m - best).abs().max().item() == pytest.approx(0.575, abs=5e-4)
    cost = lambda matrix: torch.trace(WIDE + TALL - 2 * matrix @ TALL).item()  # noqa: E731 - E|x1 - x0|^2
    assert cost(m) > cost(best) + 0.01
    whitened = root(WIDE) @ torch.linalg.inv(root(TALL))  # right law again, and another wrong map
    assert (whitened @ TALL @ whitened.T - WIDE).abs().max() < 1e-9
    assert cost(whitened) > cost(best) + 0.01


def test_the_package_moves_noise_optimally() -> None:
    """From N(0, I) to a round Gaussian, the one target of this kind that knows its own field."""
    path, target, x0 = AffinePath(Cosine()), StandardNormal(2, scale=0.6).to(F64), torch.randn(20, 2, dtype=F64)
    moved = solve(lambda t, x: path.marginal_velocity(t, x, target), x0, t1=LAST, **EXACT).x
    assert torch.allclose(moved, x0 @ optimal(UNIT, 0.36 * UNIT).T, rtol=1e-8, atol=1e-8)


# Euler's error

PRINTED = {1: 0.0, 2: 0.265, 4: 0.420, 8: 0.504, 16: 0.550, 32: 0.574}


def product(n: int, s: float = 0.6, wrong: str = "") -> float:
    """What n steps of Euler make of the scale of noise: (1 + a(k / n) / n), multiplied."""
    scale = 1.0
    for k in range(n):
        t = (k + 1) / n if wrong == "end of the step" else k / n
        a = (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)
        scale *= math.exp(a / n) if wrong == "exponential" else 1 + a / n
    return scale


@pytest.mark.parametrize("n", range(1, 33))
def test_euler_on_normal_data_is_a_product(n: int) -> None:
    path, target = AffinePath(), StandardNormal(1, scale=0.6).to(F64)
    x = torch.tensor([[1.0]], dtype=F64)
    end = solve(lambda t, x: path.marginal_velocity(t, x, target), x, method="euler", steps=n).x.item()
    assert end == pytest.approx(product(n), abs=1e-12)
    assert n not in PRINTED or end == pytest.approx(PRINTED[n], abs=5.01e-4)
    for wrong in ("end of the step", "exponential"):
        assert abs(end - product(n, wrong=wrong)) > 1e-3
    error = 0.6 - end  # of order 1: it halves when the steps double
    assert n < 8 or 0.7 < error / (0.6 - product(2 * n)) / 2 < 1.1


# The bare field, and what a clock does to a step


@pytest.mark.parametrize("target", [LINE, PLANE], ids=["line", "plane"])
def test_the_field_without_a_schedule_gives_the_same_map(target: GaussianMixture) -> None:
    """dy/drho = E[x1 | rho x1 + x0 = y]; with noise of another scale in it, it does not."""
    rho, linear, how = 99.0, AffinePath(), EXACT | {"rtol": 1e-10, "atol": 1e-10}
    end = solve(lambda t, x: linear.marginal_velocity(t, x, target), NOISE[target], t1=0.99, **how).x
    for noise, close in ((1.0, True), (2.0, False)):
        y = solve(lambda r, y, noise=noise: target.posterior_mean(y, r, noise), NOISE[target], t1=rho, **how).x
        assert bool((y / rho - end / 0.99).abs().max() < 1e-8) is close


def test_vp_enters_the_same_field_a_little_late() -> None:
    """From where the linear path is when it has VP's first ratio, VP ends where the linear path ends."""
    vp, zero = VariancePreserving(), torch.zeros((), dtype=F64)
    ratio = float(vp.alpha(zero) / vp.sigma(zero))
    early, linear, path = ratio / (1 + ratio), AffinePath(), AffinePath(vp)
    there = solve(lambda t, x: linear.marginal_velocity(t, x, PLANE), NOISE[PLANE], t1=early, **EXACT).x
    start = there / (1 - early) * vp.sigma(zero)
    last = 0.9999
    alpha, sigma = vp.alpha(zero + last), vp.sigma(zero + last)
    same = float(alpha / (alpha + sigma))  # when the linear path has that ratio
    wanted = solve(lambda t, x: linear.marginal_velocity(t, x, PLANE), NOISE[PLANE], t1=same, **EXACT).x / same
    for x0, close in ((start, True), (NOISE[PLANE], False)):
        end = solve(lambda t, x: path.marginal_velocity(t, x, PLANE), x0, t1=last, **EXACT).x / alpha
        assert bool((end - wanted).abs().max() < 1e-9) is close


def normal_rate(schedule: Schedule, t: Tensor, s: float) -> Tensor:
    """Of data N(0, s^2): the field is this number times x."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    top = alpha * schedule.d_alpha(t) * s**2 + sigma * schedule.d_sigma(t)
    return top / (alpha**2 * s**2 + sigma**2)


@pytest.mark.parametrize(("schedule", "order"), [(Linear(), 3), (Cosine(), 2), (Polynomial(2), 2)], ids=repr)
def test_midpoint_on_normal_data(schedule: Schedule, order: int) -> None:
    """A step is off by 1 - h^3 / 48 times the third derivative of S^2, over S^2: by none where S^2 is a parabola."""
    s, one, h, t = 0.3, torch.ones(1, 1, dtype=F64), 1e-2, torch.tensor(0.4, dtype=F64)

    def spread2(t: Tensor) -> Tensor:
        return schedule.alpha(t) ** 2 * s**2 + schedule.sigma(t) ** 2

    third = torch.func.grad(torch.func.grad(torch.func.grad(spread2)))(t + h / 2)
    field = lambda t, x: normal_rate(schedule, t, s) * x  # noqa: E731
    step = solve(field, one, t0=t, t1=t + h, method="midpoint", steps=1).x.item()
    factor = step / math.sqrt(float(spread2(t + h) / spread2(t)))
    claimed = -float(third / spread2(t + h / 2)) / 48
    assert (factor - 1) / h**3 == pytest.approx(claimed, rel=0.1, abs=0.02)
    assert order == 3 or abs(claimed) > 0.1
    miss = [abs(solve(field, one, method="midpoint", steps=n).x.item() - s) for n in (64, 128)]
    assert math.log2(miss[0] / miss[1]) == pytest.approx(order, abs=0.1)


def test_straight_trajectories_of_bent_pairs() -> None:
    """alpha = t with sigma^2 = (1 - t)(1 - t + 2 s t) has S = 1 + (s - 1) t: one step of Euler is exact."""

    class Straight(Schedule):
        def alpha(self, t: Tensor) -> Tensor:
            return t

        def sigma(self, t: Tensor) -> Tensor:
            return torch.sqrt((1 - t) * (1 - t + 2 * 0.6 * t))

    target, x0 = StandardNormal(1, scale=0.6).to(F64), torch.tensor([[-1.3], [0.4], [2.0]], dtype=F64)
    for schedule, exact in ((Straight(), True), (Linear(), False), (Cosine(), False)):
        path = AffinePath(schedule)
        end = solve(lambda t, x, path=path: path.marginal_velocity(t, x, target), x0, method="euler", steps=1).x
        assert bool((end - 0.6 * x0).abs().max() < 1e-12) is exact
    unit, cosine = StandardNormal(1).to(F64), AffinePath(Cosine())  # and on cosine unit data leave every point alone
    assert (cosine.marginal_velocity(0.3, x0, unit)).abs().max() < 1e-12
    assert (AffinePath().marginal_velocity(0.3, x0, unit)).abs().max() > 0.1
