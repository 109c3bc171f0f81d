"""Each metric against a loop, a closed form or another library, and each check against the usual wrong version."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from fmtutor import metrics
from fmtutor.metrics import Estimate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(n: int, dim: int = 2, shift: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return shift + torch.randn(n, dim, generator=seeded(seed), dtype=dtype)


class Only(Distribution):
    """A distribution that knows only the methods it is told to."""

    def __init__(self, inner: Distribution, *known: str) -> None:
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)
        self.sample = inner.sample
        for name in known:
            setattr(self, name, getattr(inner, name))


# Estimate


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.13094, 0.00412, "0.131 ± 0.004"),
        (0.13094, 0.00122, "0.1309 ± 0.0012"),
        (2.0, 0.01, "2.000 ± 0.010"),
        (123.4, 17.2, "123 ± 17"),
        (0.5, 0.0, "0.5 ± 0"),
        (5.31e-14, 7.2e-16, "5.3e-14 ± 7.2e-16"),
        (math.inf, math.inf, "inf ± inf"),
    ],
)
def test_estimate_shows_the_digits_that_are_known(value: float, error: float, text: str) -> None:
    assert str(Estimate(value, error)) == repr(Estimate(value, error)) == text


# KL


def gaussians() -> tuple[Distribution, Distribution, float]:
    p = MultivariateNormal(torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))
    q = MultivariateNormal(torch.tensor([0.5, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    return p, q, float(torch.distributions.kl_divergence(p, q))


def within(estimate: Estimate, truth: float) -> bool:
    """At 4 standard errors a right estimate fails once in 16 000 seeds."""
    return abs(estimate.value - truth) < 4 * estimate.error


@pytest.mark.parametrize("known", [("entropy",), ("log_prob",), ("entropy", "log_prob")])
def test_kl_against_the_closed_form_and_not_the_reverse(known: tuple[str, ...]) -> None:
    p, q, truth = gaussians()
    torch.manual_seed(0)
    assert within(metrics.kl(Only(p, *known), q), truth)
    assert not within(metrics.kl(q, p), truth)  # reversed: KL(q, p)
    estimate = metrics.kl(Only(p, *known), q)
    assert not within(Estimate(-estimate.value, estimate.error), truth)  # sign
    assert not within(Estimate(estimate.value + float(p.entropy()), estimate.error), truth)  # entropy forgotten


def test_kl_states_an_honest_error() -> None:
    p, q, truth = gaussians()
    torch.manual_seed(0)
    z = [(e.value - truth) / e.error for e in (metrics.kl(Only(p, "entropy"), q, n=500) for _ in range(300))]
    assert 0.85 < np.std(z) < 1.15  # 300 draws of a unit deviation lie in it with 99.9 %
    assert not 0.85 < np.std(np.array(z) / math.sqrt(500)) < 1.15  # the deviation itself, not divided by sqrt(n)


def test_kl_takes_the_sharper_of_two_routes() -> None:
    p = MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert metrics.kl(Only(p, "entropy"), p).error > 0.005
    assert metrics.kl(p, p) == (0.0, 0.0)


def test_kl_is_infinite_where_the_model_rules_out_data() -> None:
    square = Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2), validate_args=False), 1)
    assert metrics.kl(MultivariateNormal(torch.zeros(2), torch.eye(2)), square) == (math.inf, math.inf)


def test_kl_errors() -> None:
    p, q, _ = gaussians()
    with pytest.raises(ValueError, match="neither"):
        metrics.kl(Only(p), q)
    with pytest.raises(ValueError, match=r"one number for each of 10 points, got shape \(10, 2\)"):
        metrics.kl(p, Normal(torch.zeros(2), torch.ones(2)), n=10)
    with pytest.raises(ValueError, match=r"batch shape \(\), got \(2,\)"):
        metrics.kl(Normal(torch.zeros(2), torch.ones(2)), q)
    broken = Only(q)
    broken.log_prob = lambda x: x[:, 0] * float("nan")
    with pytest.raises(ValueError, match="got NaN"):
        metrics.kl(p, broken)
    with pytest.raises(ValueError, match="n must be"):
        metrics.kl(p, q, n=0)


# Energy distance


def slow_energy(x: Tensor, y: Tensor, *, biased: bool = False) -> float:
    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        pairs = [(i, j) for i, j in product(range(len(a)), range(len(b))) if biased or not same or i != j]
        return sum(float((a[i] - b[j]).square().sum().sqrt()) for i, j in pairs) / len(pairs)

    return 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)


def test_energy_distance_against_a_loop() -> None:
    x, y = cloud(13, 6), cloud(9, 6, shift=0.4, seed=1)
    answer = metrics.energy_distance(x.view(13, 2, 3), y.view(9, 2, 3))
    assert answer == pytest.approx(slow_energy(x, y), rel=1e-10)
    assert answer != pytest.approx(slow_energy(x, y, biased=True), rel=1e-3)


def test_energy_distance_of_gaussians_in_closed_form() -> None:
    """E|N(m, 2)| is a folded normal mean; the tolerance is 4 times the spread over seeds."""
    shift = 0.7
    fold = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    truth = 2 * fold - 4 / math.sqrt(math.pi)
    found = [
        metrics.energy_distance(cloud(400, 1, seed=2 * s), cloud(300, 1, shift, seed=2 * s + 1)) for s in range(40)
    ]
    error = np.std(found) / math.sqrt(40)
    assert abs(np.mean(found) - truth) < 4 * error
    assert abs(np.mean(np.sqrt(np.abs(found))) - truth) > 4 * error  # its root, which others call by the same name


def test_energy_distance_is_unbiased_where_the_usual_one_is_not() -> None:
    pairs = [(cloud(3, seed=2 * s), cloud(4, seed=2 * s + 1)) for s in range(400)]
    unbiased = np.array([metrics.energy_distance(x, y) for x, y in pairs])
    biased = np.array([slow_energy(x, y, biased=True) for x, y in pairs])
    assert abs(unbiased.mean()) < 4 * unbiased.std() / 20
    assert abs(biased.mean()) > 4 * biased.std() / 20


@pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-5), (40, 1e-4)])
def test_energy_distance_in_blocks_and_in_single_precision(dim: int, tolerance: float) -> None:
    x, y = cloud(2500, dim), cloud(1700, dim, shift=0.2, seed=1)
    d = [torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").sum() for a, b in ((x, y), (x, x), (y, y))]
    whole = 2 * d[0] / (2500 * 1700) - d[1] / (2500 * 2499) - d[2] / (1700 * 1699)
    assert metrics.energy_distance(x, y) == pytest.approx(float(whole), abs=1e-6 if dim > 16 else 1e-10)
    assert metrics.energy_distance(x.float(), y.float()) == pytest.approx(float(whole), abs=tolerance)


def test_energy_test_against_a_loop_over_the_same_relabellings() -> None:
    x, y = cloud(12), cloud(9, shift=0.5, seed=1)
    both = torch.cat([x, y])
    orders = torch.rand(99, 21, generator=seeded(3)).argsort(1)
    distances = [slow_energy(both[order < 12], both[order >= 12]) for order in orders]
    as_large = sum(d >= slow_energy(x, y) for d in distances)
    assert metrics.energy_test(x, y, 99, generator=seeded(3)) == pytest.approx((1 + as_large) / 100)
    assert metrics.energy_test(x, y, 99, generator=seeded(3)) != pytest.approx((1 + 99 - as_large) / 100)  # wrong side


def test_energy_test_keeps_its_level_and_has_power() -> None:
    """Level 5 %: of 200 true nulls, 1 to 22 are rejected with 99.9 %; a shift of half a deviation is seen with 99 %."""
    same = [metrics.energy_test(cloud(30, seed=2 * s), cloud(40, seed=2 * s + 1), 99) for s in range(200)]
    moved = [metrics.energy_test(cloud(100, seed=2 * s), cloud(100, shift=0.5, seed=2 * s + 1), 99) for s in range(20)]
    assert 1 <= sum(p <= 0.05 for p in same) <= 22
    assert scipy.stats.kstest(same, "uniform").pvalue > 0.001
    assert sum(p <= 0.05 for p in moved) >= 18


def test_energy_test_counts_ties() -> None:
    assert metrics.energy_test(torch.ones(5, 2), torch.ones(6, 2), 50) == 1.0


# Maximum mean discrepancy


def test_mmd_against_a_loop() -> None:
    x, y = cloud(11, 4), cloud(8, 4, shift=0.5, seed=1)

    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        pairs = [(i, j) for i, j in product(range(len(a)), range(len(b))) if not same or i != j]
        values = [math.exp(-float((a[i] - b[j]).square().sum()) / (2 * h**2)) for i, j in pairs for h in (0.7, 2.0)]
        return sum(values) / len(values)

    truth = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert metrics.mmd(x.view(11, 2, 2), y.view(8, 2, 2), [0.7, 2.0]) == pytest.approx(truth, rel=1e-9)
    assert metrics.mmd(x, y, [0.7 / math.sqrt(2), math.sqrt(2)]) != pytest.approx(truth, rel=1e-2)  # the 2 forgotten
    diagonal = mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, False)
    assert metrics.mmd(x, y, [0.7, 2.0]) != pytest.approx(diagonal, rel=1e-2)


def test_mmd_of_gaussians_in_closed_form() -> None:
    """E k = (h² / (h² + 2))^(d/2) exp(-m² / (2 (h² + 2))); the tolerance is 4 times the spread over seeds."""
    h, shift, dim = 1.3, 0.6, 2
    kernel = (h**2 / (h**2 + 2)) ** (dim / 2)
    truth = 2 * kernel * (1 - math.exp(-dim * shift**2 / (2 * (h**2 + 2))))
    found = [metrics.mmd(cloud(300, seed=2 * s), cloud(200, shift=shift, seed=2 * s + 1), h) for s in range(40)]
    error = np.std(found) / math.sqrt(40)
    assert abs(np.mean(found) - truth) < 4 * error
    assert abs(np.mean(found) - math.sqrt(truth)) > 4 * error


def test_mmd_picks_the_median_distance() -> None:
    x, y = cloud(30), cloud(25, shift=1.0, seed=1)
    median = scipy.stats.scoreatpercentile(scipy.spatial.distance.pdist(torch.cat([x, y])), 50)
    assert metrics.mmd(x, y) == pytest.approx(metrics.mmd(x, y, float(median)), rel=1e-2)
    assert metrics.mmd(1000 * x, 1000 * y) == pytest.approx(metrics.mmd(x, y), rel=1e-9)


# Sliced Wasserstein distance


@pytest.mark.parametrize(("n", "m", "p"), [(50, 50, 2), (50, 35, 2), (50, 35, 1), (9, 30, 3)])
def test_sliced_wasserstein_against_pot(n: int, m: int, p: float) -> None:
    x, y = cloud(n, 6), cloud(m, 6, shift=0.5, seed=1)
    raw = torch.randn(6, 40, generator=seeded(2), dtype=torch.float64)

    def by_pot(directions: Tensor) -> float:
        return ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), p=p, projections=directions.numpy())

    answer = metrics.sliced_wasserstein(x.view(n, 3, 2), y.view(m, 3, 2), 40, p, generator=seeded(2))
    assert answer == pytest.approx(by_pot(raw / raw.norm(dim=0)), rel=1e-9)
    assert answer != pytest.approx(by_pot(raw), rel=1e-2)  # directions that are not of length one


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 17), (7, 64)])
def test_sliced_wasserstein_on_a_line_against_scipy(n: int, m: int) -> None:
    x, y = cloud(n, 1), cloud(m, 1, shift=0.3, seed=1).square()
    truth = scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert metrics.sliced_wasserstein(x, y, 3, 1) == pytest.approx(truth, rel=1e-9)
    unsorted = float((x[: min(n, m)] - y[: min(n, m)]).abs().mean())
    assert unsorted != pytest.approx(truth, rel=1e-2)


def test_sliced_wasserstein_of_a_shift() -> None:
    """E<direction, shift>² = |shift|² / dim."""
    x = cloud(50, 3)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert metrics.sliced_wasserstein(x, x + shift, 20_000) == pytest.approx(5 / math.sqrt(3), rel=0.02)
    assert metrics.sliced_wasserstein(x, x.flip(0)) < 1e-12


# The error of a field


def test_velocity_error_against_quadrature() -> None:
    """Between two standard normals the exact field is (2t - 1) x / (t² + (1 - t)²)."""
    from fmtutor.distributions import GaussianMixture, StandardNormal
    from fmtutor.paths import AffinePath

    target, base, path = GaussianMixture(torch.zeros(1, 2), 1.0), StandardNormal(2), AffinePath()

    def power(t: float) -> float:
        return (2 * t - 1) ** 2 / (t**2 + (1 - t) ** 2)

    estimate = metrics.velocity_error(lambda t, x: 0 * x, path, target, base, generator=seeded())
    truth, _ = quad(power, 0, 1)
    assert within(estimate, truth)
    assert not within(Estimate(2 * estimate.value, estimate.error), truth)  # summed over coordinates
    assert not within(estimate, quad(lambda t: math.sqrt(power(t)), 0, 1)[0])  # not squared

    times = torch.tensor([0.0, 0.2, 0.5, 0.9])
    errors = metrics.velocity_error(lambda t, x: 0 * x, path, target, base, 40_000, times, generator=seeded())
    torch.testing.assert_close(errors, torch.tensor([power(float(t)) for t in times]), rtol=0.03, atol=1e-12)


def test_velocity_error_of_the_exact_field_moved_by_a_constant() -> None:
    from fmtutor.distributions import EightGaussians, StandardNormal
    from fmtutor.paths import AffinePath

    target, base, path = EightGaussians(), StandardNormal(2), AffinePath()

    def moved(t: Tensor, x: Tensor) -> Tensor:
        return path.marginal_velocity(t, x, target) + 0.5

    estimate = metrics.velocity_error(moved, path, target, base, 12_000)
    assert estimate.value == pytest.approx(0.25, rel=1e-3)
    with pytest.raises(ValueError, match="velocity must return the shape"):
        metrics.velocity_error(lambda t, x: x[:, :1], path, target, base)


# Straightness


def turning(omega: float, steps: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, float]:
    """Trajectories of dx/dt = omega J x, and their straightness (omega² - 4 sin²(omega / 2)) E|x|²."""
    t, x = torch.linspace(0, 1, steps + 1, dtype=dtype), cloud(64, dtype=dtype)
    turn = torch.stack(
        [torch.stack([(omega * t).cos(), (omega * t).sin()]), torch.stack([-(omega * t).sin(), (omega * t).cos()])]
    )
    truth = (omega**2 - 4 * math.sin(omega / 2) ** 2) * float(x.square().sum(1).mean())
    return torch.einsum("ijt,bi->tbj", turn, x), t, truth


def test_straightness_of_a_rotation_in_closed_form() -> None:
    coarse, fine = (turning(2.0, steps) for steps in (20, 40))
    errors = [truth - metrics.straightness(states, t).value for states, t, truth in (coarse, fine)]
    assert errors[1] < 1e-3 * fine[2]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)  # second order in the spacing, and from below
    states, t, truth = fine
    summed = float(
        (states.diff(dim=0) / t.diff()[:, None, None] - (states[-1] - states[0])).square().sum(-1).sum(0).mean()
    )
    assert summed != pytest.approx(truth, rel=0.1)  # dt forgotten


def test_straightness_is_zero_for_straight_lines_only() -> None:
    t = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    line = cloud(16)[None] + t[:, None, None] * cloud(16, seed=1)[None]
    assert metrics.straightness(line, t).value < 1e-25
    slowing = cloud(16)[None] + t.square()[:, None, None] * cloud(16, seed=1)[None]  # straight, but not at one speed
    assert metrics.straightness(slowing, t).value > 0.1


def test_straightness_does_not_mind_direction_or_event_shape() -> None:
    states, t, _ = turning(1.0, 30)
    forwards = metrics.straightness(states, t)
    assert metrics.straightness(states.flip(0), t.flip(0)) == pytest.approx(forwards)
    assert metrics.straightness(states.view(31, 64, 1, 2), t) == pytest.approx(forwards)


def test_straightness_of_a_solution() -> None:
    from fmtutor import ode

    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    turn = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    states, _, truth = turning(2.0, 40)
    solution = ode.solve(lambda t, x: x @ turn, states[0], times=t)
    assert metrics.straightness(solution).value == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize(
    ("states", "times"),
    [
        (torch.zeros(2, 4, 2), torch.linspace(0, 1, 2)),
        (torch.zeros(5, 4, 2), torch.linspace(0, 1, 4)),
        (torch.zeros(5, 4, 2), torch.tensor([0.0, 0.5, 0.4, 0.8, 1.0])),
        (torch.zeros(5, 4, 2), None),
        (torch.full((5, 4, 2), float("nan")), torch.linspace(0, 1, 5)),
    ],
)
def test_straightness_errors(states: Tensor, times: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"times|finite"):
        metrics.straightness(states, times)


# What every sample metric refuses

TWO_SAMPLES = [metrics.energy_distance, metrics.energy_test, metrics.mmd, metrics.sliced_wasserstein]
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@pytest.mark.parametrize("metric", TWO_SAMPLES)
@settings(deadline=None, max_examples=15)
@given(a=shapes, b=shapes)
def test_events_of_two_shapes_are_refused(metric: object, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = torch.rand(3, *a), torch.rand(4, *b)
    if a == b:
        assert math.isfinite(metric(x, y))
    else:
        with pytest.raises(ValueError, match="one shape"):
            metric(x, y)


@pytest.mark.parametrize("metric", TWO_SAMPLES)
def test_bad_samples_are_refused(metric: object) -> None:
    good = torch.rand(5, 2)
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN"):
        metric(torch.tensor([[0.0], [float("nan")]]), torch.rand(3, 1))
    with pytest.raises(ValueError, match=r"y must hold at least two points.*\(1, 2\)"):
        metric(good, good[:1])
    with pytest.raises(TypeError, match="floating-point"):
        metric(good, good.long())
    with pytest.raises(TypeError, match="one dtype"):
        metric(good, good.double())


def test_bad_options_are_refused() -> None:
    x = torch.rand(5, 2)
    with pytest.raises(ValueError, match="bandwidth must be above 0"):
        metrics.mmd(x, x, -1.0)
    with pytest.raises(ValueError, match="permutations must be"):
        metrics.energy_test(x, x, 0)
    with pytest.raises(ValueError, match="projections must be"):
        metrics.sliced_wasserstein(x, x, 0)
    with pytest.raises(ValueError, match="p must be at least 1"):
        metrics.sliced_wasserstein(x, x, p=0.5)


@pytest.mark.parametrize("metric", [metrics.energy_test, metrics.sliced_wasserstein])
def test_a_generator_repeats_the_answer(metric: object) -> None:
    x, y = cloud(20), cloud(20, shift=0.3, seed=1)
    assert metric(x, y, generator=seeded(1)) == metric(x, y, generator=seeded(1))


def test_straightness_weighs_uneven_intervals_by_their_length() -> None:
    """x = t^3 has speed 3 t^2: the integral of (3 t^2 - 1)^2 is 4/5 on any grid that is fine, however uneven."""
    t = torch.cat([torch.linspace(0, 0.5, 401)[:-1], torch.linspace(0.5, 1, 41)])
    found = metrics.straightness((t**3)[:, None].expand(-1, 3), t).value
    assert found == pytest.approx(0.8, abs=1e-3)
    alike = (((t**3).diff() / t.diff() - 1) ** 2).mean()  # every interval counted alike: the mistake
    assert abs(float(alike) - 0.8) > 0.1
