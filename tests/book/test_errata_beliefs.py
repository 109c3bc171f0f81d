"""Beliefs about flow matching that a closed form contradicts; more of them are in `tests/test_one_map.py`."""

from __future__ import annotations

import math

import pytest
import torch

from fmtutor import AffinePath, Cosine, Linear, Schedule, StandardNormal, VariancePreserving, solve

F64 = torch.float64


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("weight", [1.0, 2.0, 3.0])
def test_guided_fields_do_not_sample_the_tilted_density(schedule: Schedule, weight: float) -> None:
    """Variances c = 1 with the label and u = 2 without: the ODE ends at c^g u^(1-g), the tilted density has another."""
    path, label, plain = AffinePath(schedule), StandardNormal(1).to(F64), StandardNormal(1, scale=2**0.5).to(F64)

    def guided(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return weight * path.marginal_velocity(t, x, label) + (1 - weight) * path.marginal_velocity(t, x, plain)

    end = solve(guided, torch.tensor([[1.0]], dtype=F64), t1=1 - 1e-9, method="dopri5", rtol=1e-10, atol=1e-10).x
    tilted = 1 / (weight / 1 + (1 - weight) / 2)
    assert end.item() ** 2 == pytest.approx(1**weight * 2 ** (1 - weight), rel=1e-6)
    assert math.isclose(end.item() ** 2, tilted, rel_tol=1e-3) is (weight == 1)
    if weight == 3:
        assert (end.item() ** 2, tilted) == (pytest.approx(0.25, rel=1e-6), 0.5)


@pytest.mark.parametrize("s", [0.3, 0.6, 2.0])
def test_one_field_has_losses_of_two_sizes_on_two_paths(s: float) -> None:
    """The loss of the exact field on normal data, by draws, against its closed form on either path."""
    floors = {}
    for name, schedule, closed in (("linear", Linear(), math.pi / 2 * s), ("cosine", Cosine(), math.pi**2 / 4 * s)):
        path, target = AffinePath(schedule), StandardNormal(1, scale=s).to(F64)
        n = 200_000
        x0, x1, t = torch.randn(n, 1, dtype=F64), target.sample((n,)), torch.rand(n, dtype=F64)
        _, xt, ut = path.sample(x0, x1, t)
        each = (path.marginal_velocity(t, xt, target) - ut).square()
        assert abs(each.mean() - closed) < 5 * each.std() / math.sqrt(n)
        floors[name] = each.mean().item()
    assert floors["cosine"] > 1.4 * floors["linear"]  # pi / 2 times, though no field is wrong


def test_a_likelihood_by_few_steps_is_no_density() -> None:
    """Euler back to noise makes `N(factor x) exp(sum)` of N(0, s^2), which integrates to exp(sum) / factor: above one.

    The right sum, the logarithm of each step's own stretch, makes a density of any number of steps.
    """
    s, x = 0.1, torch.linspace(-4, 4, 80_001, dtype=F64)
    slope = lambda t: (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)  # noqa: E731
    exact = AffinePath().marginal_velocity(0.3, torch.ones(1, 1, dtype=F64), StandardNormal(1, scale=s).to(F64))
    assert exact.item() == pytest.approx(slope(0.3))
    normal, found = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0), []
    one = torch.ones(1, 1, dtype=F64)
    for n in (2, 4, 8, 64, 256):
        slopes = [slope(k / n) for k in range(n, 0, -1)]
        factor, total = math.prod(1 - a / n for a in slopes), -sum(slopes) / n
        back = solve(lambda t, x: slope(float(t)) * x, one, 1.0, 0.0, method="euler", steps=n).x
        assert back.item() == pytest.approx(factor, rel=1e-9)
        wrong, right = (
            torch.trapezoid((normal.log_prob(factor * x) + stretch).exp(), x).item()
            for stretch in (total, math.log(factor))
        )
        assert right == pytest.approx(1, rel=1e-3)
        assert wrong == pytest.approx(math.exp(total) / factor, rel=1e-3)
        found.append(wrong)
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5
    assert 1.005 < found[-1] < 1.02


def test_vp_does_not_start_at_pure_noise() -> None:
    """alpha(0) is 0.0066 for (0.1, 20): data of mean 10 still show in it, by 0.066 of the noise's scale."""
    alpha = VariancePreserving().alpha(torch.zeros((), dtype=F64)).item()
    assert alpha == pytest.approx(math.exp(-(0.1 + 20) / 4), rel=1e-12)
    assert alpha == pytest.approx(0.0066, abs=5e-5)
    x1 = torch.full((400_000, 1), 10.0, dtype=F64)
    xt = AffinePath(VariancePreserving()).sample(torch.randn_like(x1), x1, 0.0).xt
    assert abs(xt.mean() - 10 * alpha) < 0.01
    assert abs(xt.mean()) > 0.05
