"""Beliefs about flow matching that a closed form contradicts; more of them are in `tests/test_one_map.py`."""

from __future__ import annotations

import math

import pytest
import torch

from fmtutor import (
    AffinePath,
    Cosine,
    GaussianMixture,
    Linear,
    Schedule,
    StandardNormal,
    VariancePreserving,
    guide,
    solve,
)

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


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_equal_gaussians_agree_and_prove_nothing(schedule: Schedule) -> None:
    """Of one variance: the guided flow and the tilted density have one mean and one variance, at every weight.

    Not so where the field without a label is that of both classes together, equal blobs or not: Kolmogorov's distance.
    """
    path, weight = AffinePath(schedule), 3.0
    label, other = (GaussianMixture(torch.tensor([[m]], dtype=F64), 0.5) for m in (1.0, -1.0))
    both = GaussianMixture(torch.tensor([[-1.0], [1.0]], dtype=F64), 0.5)
    noise = torch.special.ndtri((torch.arange(400, dtype=F64) + 0.5) / 400)[:, None]
    x = torch.linspace(-4, 8, 4001, dtype=F64)[:, None]
    found = {}
    for name, free in (("one blob", other), ("both blobs", both)):

        def guided(t: torch.Tensor, x: torch.Tensor, free: GaussianMixture = free) -> torch.Tensor:
            return weight * path.marginal_velocity(t, x, label) + (1 - weight) * path.marginal_velocity(t, x, free)

        ends = solve(guided, noise, t1=1 - 1e-6, method="rk4", steps=60).x
        share = torch.softmax(weight * label.log_prob(x) + (1 - weight) * free.log_prob(x), 0)
        below = (ends[:, 0] <= x).double().mean(1)
        found[name] = (share.cumsum(0) - below).abs().max().item()
        if free is other:
            mean = (share @ x).item()
            assert mean == pytest.approx(3 * 1 - 2 * -1, abs=1e-6)
            assert ends.mean().item() == pytest.approx(mean, abs=1e-4)
            assert (share @ (x - mean) ** 2).item() == pytest.approx(0.25, abs=1e-4)
            torch.testing.assert_close(ends, mean + 0.5 * noise, rtol=0, atol=1e-4)
    assert found["one blob"] < 0.01
    assert found["both blobs"] > 0.4
    assert ends.mean().item() > (share @ x).item() + 0.3  # of both blobs: in mean and in spread
    assert ends.var().item() < 0.6 * (share @ (x - share @ x) ** 2).item()
    ratio = {free: (label.log_prob(x) - free.log_prob(x)).exp().max().item() for free in (other, both)}
    assert ratio[both] <= 2 + 1e-9  # one over the probability of the label
    assert ratio[other] > 1e9  # no bound: no label of finitely many has such data


def test_a_weight_of_three_is_two_different_fields() -> None:
    """`(1 + w) a - w b` against `w a + (1 - w) b`: the same field for w and w + 1, another for the same number."""
    path, kind, plain = AffinePath(), StandardNormal(1).to(F64), StandardNormal(1, scale=2**0.5).to(F64)

    def velocity(t: torch.Tensor, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        free, asked = (path.marginal_velocity(t, x, target) for target in (plain, kind))
        return torch.where(label[:, None] == 1, asked, free)

    def theirs(t: torch.Tensor, x: torch.Tensor, w: float = 3.0) -> torch.Tensor:
        return (1 + w) * path.marginal_velocity(t, x, kind) - w * path.marginal_velocity(t, x, plain)

    x, t = torch.randn(7, 1, dtype=F64), torch.tensor(0.6, dtype=F64)
    torch.testing.assert_close(guide(velocity, 1, 4.0, null=0)(t, x), theirs(t, x))
    assert (guide(velocity, 1, 3.0, null=0)(t, x) - theirs(t, x)).abs().max() > 0.05
    one = torch.ones(1, 1, dtype=F64)
    ends = [
        solve(v, one, t1=1 - 1e-9, method="dopri5", rtol=1e-9, atol=1e-9).x.item() ** 2
        for v in (guide(velocity, 1, 3.0, null=0), theirs)
    ]
    assert ends == [pytest.approx(2**-2, rel=1e-6), pytest.approx(2**-3, rel=1e-6)]
