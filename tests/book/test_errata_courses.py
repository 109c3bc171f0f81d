"""Mistakes that we have read in courses and blogs; `errata.md` says where. UvA's tutorial is in `test_errata.py`."""

from __future__ import annotations

import math

import numpy as np
import torch

from fmtutor import AffinePath, Cosine, GaussianMixture, StandardNormal, solve, solve_sde

F64 = torch.float64


def moment(power: int) -> float:
    """Of a standard normal number, by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return float((weights * nodes**power).sum() / math.sqrt(2 * math.pi))


def test_mit_noise_multiplied_by_noise_has_the_right_variance_and_heavy_tails() -> None:
    """A coefficient `sigma * randn` in a step that multiplies by `randn` too: kurtosis 3 * 3 in one step."""
    assert math.isclose(moment(2) ** 2, 1)  # the variance shows nothing
    assert math.isclose(moment(4), 3)
    assert math.isclose(moment(4) ** 2, 9)
    n, h = 200_000, 0.05
    x0 = torch.zeros(n, 1, dtype=F64)
    path = AffinePath()
    ours = solve_sde(lambda t, x: path.marginal_velocity(t, x, StandardNormal(1)), path, x0, t1=h, noise=2.0, steps=1).x
    theirs = 2 * math.sqrt(h) * torch.randn_like(x0) * torch.randn_like(x0)
    for x, kurtosis, width in ((ours, 3, 0.2), (theirs, 9, 1.5)):
        assert abs(x.var() / (4 * h) - 1) < 0.05
        assert abs((x**4).mean() / (x**2).mean() ** 2 - kurtosis) < width


def test_mit_a_loop_over_the_rows_takes_too_few_steps_or_too_many() -> None:
    """Times of shape `(batch, steps, 1)`: their length is the batch. Only a square table hides it."""
    taken = {}
    for rows, times in ((5, 11), (11, 11), (20, 11)):
        ts = torch.linspace(0, 1, times, dtype=F64).reshape(1, -1, 1).expand(rows, -1, 1)
        for name, count in (("theirs", len(ts) - 1), ("right", ts.shape[1] - 1)):
            x = torch.zeros(rows, 1, dtype=F64)
            try:
                for k in range(count):
                    x = x + (ts[:, k + 1] - ts[:, k])  # speed 1, for a time of 1
            except IndexError:
                x = x * math.nan
            taken[name, rows] = x[0].item()
    assert all(math.isclose(taken["right", rows], 1) for rows in (5, 11, 20))
    assert math.isclose(taken["theirs", 5], 0.4)
    assert math.isclose(taken["theirs", 11], 1)
    assert math.isnan(taken["theirs", 20])


def test_iclr_2025_a_conditional_velocity_that_points_away() -> None:
    path, x0, x1 = AffinePath(), torch.tensor([[-1.0]], dtype=F64), torch.tensor([[2.0]], dtype=F64)
    t = torch.tensor(0.4, dtype=F64)
    point, rate = torch.func.jvp(lambda s: s * x1 + (1 - s) * x0, (t,), (torch.ones((), dtype=F64),))
    for velocity, right in (((x1 - point) / (1 - t), True), ((point - x1) / (1 - t), False)):
        assert torch.allclose(velocity, rate) is right
    assert torch.allclose(path.conditional_velocity(0.4, point, x1), rate)
    ends = [solve(lambda t, x, s=s: s * (x1 - x) / (1 - t), x0, t1=0.9, method="rk4", steps=400).x for s in (1, -1)]
    assert torch.allclose(ends[0], 0.9 * x1 + 0.1 * x0)
    assert ends[1] < -20  # away from 2, ten times as far at t = 0.9 as at t = 0


def test_iclr_2026_the_sum_rule_is_one_of_logarithms() -> None:
    """Two normal classes: `log p(y|x) = log p(x|y) - log p(x) + log p(y)`, and without the logarithms no such thing."""
    classes = GaussianMixture(torch.tensor([[-1.0], [1.5]], dtype=F64), 0.7)
    first = torch.distributions.Normal(torch.tensor(-1.0, dtype=F64), 0.7)
    x = torch.linspace(-2.5, 2.5, 41, dtype=F64)
    log_joint = lambda x: first.log_prob(x) + math.log(0.5)  # noqa: E731
    log_p = lambda x: classes.log_prob(x.reshape(1, 1))[0]  # noqa: E731
    log_class = lambda x: log_joint(x) - log_p(x)  # noqa: E731
    slope = lambda f: torch.func.vmap(torch.func.grad(f))(x)  # noqa: E731
    right = slope(log_class) - (slope(first.log_prob) - slope(log_p))
    plain = slope(lambda x: log_class(x).exp()) - (
        slope(lambda x: first.log_prob(x).exp()) - slope(lambda x: log_p(x).exp())
    )
    assert right.abs().max() < 1e-10
    assert plain.abs().max() > 0.1
    chance = torch.func.vmap(log_class)(x).exp()  # the gradients of p and of log p differ by the factor p
    torch.testing.assert_close(slope(log_class) * chance, slope(lambda x: log_class(x).exp()))


def test_iclr_2026_an_average_velocity_follows_curves() -> None:
    """Normal data on the cosine path: the map from r to t is S_t / S_r, and its average velocity lands on it at each t.

    What would be straight is one velocity kept for the whole way.
    """
    s, r = 0.3, 0.1
    size = lambda t: math.hypot(math.sin(math.pi * t / 2) * s, math.cos(math.pi * t / 2))  # noqa: E731
    average = lambda t: (size(t) / size(r) - 1) / (t - r)  # noqa: E731
    path, x = AffinePath(Cosine()), torch.tensor([[1.3]], dtype=F64)
    target, times = StandardNormal(1, scale=s).to(F64), (0.3, 0.55, 0.8)
    field = lambda t, x: path.marginal_velocity(t, x, target)  # noqa: E731
    worst = 0.0
    for t in times:
        truth = solve(field, x, t0=r, t1=t, method="dopri5", rtol=1e-11, atol=1e-11).x
        assert torch.allclose(x + (t - r) * average(t) * x, truth, atol=1e-8)
        worst = max(worst, (x + (t - r) * average(times[-1]) * x - truth).abs().item())
    assert worst > 0.05
