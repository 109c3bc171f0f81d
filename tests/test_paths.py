"""Paths: samples, exact marginal fields against brute quadrature, and conversions against the exact posterior."""

from __future__ import annotations

import math
from itertools import permutations

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import F64, SCHEDULES, brute, by_hand, targets
from torch import Tensor

from fmtutor import AffinePath, Checkerboard, Empirical, Linear, Pinwheel, Polynomial, Schedule, StandardNormal
from fmtutor.paths import PREDICTIONS

TIMES = (0.0, 0.05, 0.3, 0.6, 0.9, 0.99, 0.9999)


def pairs(name: str, n: int, t: float) -> Tensor:
    """Points where the path of a target is at time t."""
    target, (alpha, sigma, _, _) = targets()[name], by_hand("linear", t)
    x1 = target.sample((n,), generator=torch.Generator().manual_seed(1))  # type: ignore[attr-defined]
    return alpha * x1 + sigma * torch.randn(n, 2, dtype=F64)


# Exact averages over the data


TARGETS = ["board", "eight", "mixture", "moons", "spirals", "normal", "data"]
CURVES = ("moons", "spirals")  # their quadrature takes long, and they see no more of a schedule than the others do


@pytest.mark.parametrize(
    ("name", "schedule"), [(n, s) for n in TARGETS for s in SCHEDULES if n not in CURVES or s in ("linear", "vp")]
)
def test_marginals_against_quadrature(name: str, schedule: str) -> None:
    path, target = AffinePath(SCHEDULES[schedule]), targets()[name]
    for t in TIMES:
        alpha, sigma, d_alpha, d_sigma = by_hand(schedule, t)
        x1 = target.sample((3,), generator=torch.Generator().manual_seed(1))  # type: ignore[attr-defined]
        if name == "board":  # where four squares meet; inside of one, late on the path, nothing moves
            x1[0] = 1 / 0.45
        x = alpha * x1 + sigma * torch.randn(3, 2, dtype=F64)
        log_p, mean, u, score = brute(name, x, (alpha, sigma, d_alpha, d_sigma))
        got = path.marginal_velocity(t, x, target)  # type: ignore[arg-type]
        torch.testing.assert_close(got, u, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(path.marginal_log_prob(t, x, target), log_p, rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
        torch.testing.assert_close(path.marginal_score(t, x, target), score, rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
        torch.testing.assert_close(target.posterior_mean(x, alpha, sigma), mean, rtol=1e-6, atol=1e-6)  # type: ignore[attr-defined]
        one = path.conditional_velocity(t, x, targets()[name].sample((3,)))  # type: ignore[attr-defined]
        wrong = {"sign": -u, "factor": 0.9 * u, "x for E[x0]": d_alpha * mean + d_sigma * x, "one pair": one}
        for label, value in wrong.items():
            assert not torch.allclose(got, value, rtol=1e-6, atol=1e-6) or t < 0.3 or still(name, schedule), label


def still(name: str, schedule: str) -> bool:
    """Noise that becomes the same noise, on the circle `alpha^2 + sigma^2 = 1`, never moves: no mistake can be seen."""
    return name == "normal" and schedule in ("vp", "cosine")


@pytest.mark.parametrize("name", ["board", "mixture", "spirals", "normal", "data"])
@pytest.mark.parametrize("schedule", ["linear", "vp", "cosine"])
def test_score_is_the_gradient_of_the_log_density(name: str, schedule: str) -> None:
    path, target = AffinePath(SCHEDULES[schedule]), targets()[name]
    for t in (0.0, 0.4, 0.9, 0.999):
        x = pairs(name, 16, t).requires_grad_()
        (slope,) = torch.autograd.grad(path.marginal_log_prob(t, x, target).sum(), x)  # type: ignore[arg-type]
        score = path.marginal_score(t, x, target)  # type: ignore[arg-type]
        torch.testing.assert_close(score, slope, rtol=1e-8, atol=1e-8 * slope.abs().max().item())
        assert not torch.allclose(score, -slope, rtol=1e-3)


def continuity(path: AffinePath, field: object, target: object, t: float, x: Tensor) -> Tensor:
    """What is left of d log p / dt + div u + u . grad log p at each x: nothing, if u carries p along."""
    at = torch.full((len(x),), t, dtype=F64, requires_grad=True)
    x = x.clone().requires_grad_()
    log_p = path.marginal_log_prob(at, x, target)  # type: ignore[arg-type]
    dt, dx = torch.autograd.grad(log_p.sum(), (at, x))
    u = field(at.detach(), x)  # type: ignore[operator]
    div = sum(torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    return dt + div + (u * dx).sum(1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["board", "eight", "spirals", "normal", "data"])
def test_continuity_equation(name: str, schedule: str) -> None:
    path, target = AffinePath(SCHEDULES[schedule]), targets()[name]

    def exact(t: Tensor, x: Tensor) -> Tensor:
        return path.marginal_velocity(t, x, target)  # type: ignore[arg-type]

    wrong = {
        "sign": lambda t, x: -exact(t, x),
        "reversed time": lambda t, x: exact(1 - t, x),
        "too slow": lambda t, x: 0.9 * exact(t, x),
        "score for velocity": lambda t, x: path.marginal_score(t, x, target),  # type: ignore[arg-type]
        "no 1 / (1 - t)": lambda t, x: target.posterior_mean(x, *by_hand(schedule, float(t[0]))[:2]) - x,  # type: ignore[attr-defined]
    }
    points = {t: pairs(name, 12, t) for t in (0.3, 0.8)}
    left = {t: continuity(path, exact, target, t, x).abs().max() for t, x in points.items()}
    assert max(left.values()) < 1e-7
    for label, field in wrong.items():
        seen = max(continuity(path, field, target, t, x).abs().max() for t, x in points.items())
        assert seen > 1e-2 or still(name, schedule), label


@pytest.mark.parametrize("schedule", ["linear", "vp", "cosine", "polynomial"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ["board", "mixture", "moons", "data"])
def test_close_to_the_data(name: str, dtype: torch.dtype, schedule: str) -> None:
    """From t = 0 to 1 - 1e-6, on and far off the data: finite, with finite tangents, and E[x1] where it must be."""
    path, target = AffinePath(SCHEDULES[schedule]), targets()[name]
    x = torch.tensor([[0.0, 0.0], [1.0, 1.1], [0.3, -1.0], [-30.0, 40.0], [4.4444, 4.4444], [1e4, 1.0]], dtype=dtype)
    for t in (0.0, 1e-6, 0.5, 0.99, 1 - 1e-4, 1 - 1e-6):
        at = torch.tensor(t, dtype=dtype)
        u, du = torch.func.jvp(lambda x: path.marginal_velocity(at, x, target), (x,), (torch.ones_like(x),))  # type: ignore[arg-type] # noqa: B023
        for value in (u, du, path.marginal_score(at, x, target), path.marginal_log_prob(at, x, target)):  # type: ignore[arg-type]
            assert value.isfinite().all()
            assert value.dtype == dtype
        leaf = x.clone().requires_grad_()
        for value in (path.marginal_velocity(at, leaf, target), path.marginal_log_prob(at, leaf, target)):  # type: ignore[arg-type]
            assert torch.autograd.grad(value.sum(), leaf)[0].isfinite().all()
        direct = target.posterior_mean(x, *by_hand(schedule, float(at))[:2])  # type: ignore[attr-defined]
        assert direct.isfinite().all()
        wide = target.posterior_mean(x.double(), *by_hand(schedule, float(at))[:2])  # type: ignore[attr-defined]
        tolerance = 1e-3 if dtype == torch.float32 else 1e-12  # 50 deviations out a log-density has 4 digits in float32
        torch.testing.assert_close(direct[:5].double(), wide[:5], rtol=tolerance, atol=tolerance)


def test_board_against_its_nearest_square_at_the_end() -> None:
    """At 1 - t = 1e-6 noise reaches 1e-6 far: inside a square nothing moves any more, off the board x1 is the edge."""
    path, board, eps = AffinePath(), targets()["board"], 1e-6
    t = 1 - eps
    inside = targets()["board"].sample((50,))  # type: ignore[attr-defined]
    sigma, alpha = 1 - t, t
    mean = board.posterior_mean(alpha * inside, alpha, sigma)  # type: ignore[attr-defined]
    torch.testing.assert_close(mean, inside, rtol=0, atol=1e-5)
    edge = 2 / 0.45
    outside = torch.tensor([[edge + 1.0, 3.3]], dtype=F64)
    z = (alpha * edge - outside[0, 0].item()) / sigma  # deviations from the edge: the mean of a far tail is z - 1/|z|
    u = path.marginal_velocity(t, outside, board)  # type: ignore[arg-type]
    wanted = (edge - sigma / abs(z) / alpha - outside[0, 0].item()) / sigma
    assert u[0, 0].item() == pytest.approx(wanted, rel=1e-9)


# Conditional velocity, samples


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sample_and_conditional_velocity(schedule: str) -> None:
    path = AffinePath(SCHEDULES[schedule])
    x0, x1 = torch.randn(20, 1, 4, 4, dtype=F64), torch.randn(20, 1, 4, 4, dtype=F64)
    t = torch.rand(20, dtype=F64) * 0.98 + 0.01
    kept, xt, ut = path.sample(x0, x1, t)
    assert kept is not None
    torch.testing.assert_close(kept, t)
    hand = [by_hand(schedule, float(at)) for at in t]
    for i, (alpha, sigma, d_alpha, d_sigma) in enumerate(hand):
        torch.testing.assert_close(xt[i], alpha * x1[i] + sigma * x0[i])
        torch.testing.assert_close(ut[i], d_alpha * x1[i] + d_sigma * x0[i], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.conditional_velocity(t, xt, x1), ut, rtol=1e-8, atol=1e-8)
    scores = path.conditional_score(t, xt, x1)
    sigma = torch.tensor([c[1] for c in hand], dtype=F64)[:, None, None, None]
    torch.testing.assert_close(scores, -x0 / sigma, rtol=1e-8, atol=1e-8)
    moved = (path.sample(x0, x1, t + 1e-6).xt - path.sample(x0, x1, t - 1e-6).xt) / 2e-6
    torch.testing.assert_close(moved, ut, rtol=1e-5, atol=1e-5)
    if schedule == "linear":
        torch.testing.assert_close(ut, x1 - x0)
        assert not torch.allclose(ut, x1 - xt)  # the notes' slip: x1 minus where we are now
        one = torch.ones(1, 1)
        arrived = torch.tensor(0.0)
        for _ in range(10_000):  # ... and how far it comes: 63 % of the way
            arrived = arrived + (1 - arrived) / 10_000
        assert arrived.item() == pytest.approx(1 - math.exp(-1), abs=1e-3)
        assert path.conditional_velocity(0.5, one / 2, one).item() == pytest.approx(1)
    if schedule == "linear with noise left":  # the notes' formula has both of these signs as plus
        torch.testing.assert_close(ut, x1 - 0.9 * x0)
        assert not torch.allclose(ut, x1 + 0.9 * x0)


# Conversions


def posterior(path: AffinePath, schedule: str, t: float, x: Tensor) -> dict[str, Tensor]:
    """All four predictions at x, from the exact posterior mean and coefficients written by hand."""
    alpha, sigma, d_alpha, d_sigma = by_hand(schedule, t)
    data = targets()["mixture"].posterior_mean(x, alpha, sigma)  # type: ignore[attr-defined]
    noise = (x - alpha * data) / sigma
    return {"data": data, "noise": noise, "velocity": d_alpha * data + d_sigma * noise, "score": -noise / sigma}


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(list(SCHEDULES)), st.floats(0.01, 0.99))
def test_conversions_against_the_exact_posterior_and_each_other(schedule: str, t: float) -> None:
    path = AffinePath(SCHEDULES[schedule])
    x = torch.tensor([[0.5, -0.7], [1.0, 2.0], [-2.0, 0.1]], dtype=F64)
    truth = posterior(path, schedule, t, x)
    alpha, sigma, _, _ = by_hand(schedule, t)
    assert set(truth) == set(PREDICTIONS)
    for source, to in permutations(PREDICTIONS, 2):
        there = path.convert(t, x, truth[source], source=source, to=to)
        slack = 1e-10 / min(alpha, sigma) ** 2
        torch.testing.assert_close(there, truth[to], rtol=1e-8, atol=slack)
        torch.testing.assert_close(
            path.convert(t, x, there, source=to, to=source), truth[source], rtol=1e-7, atol=slack
        )
    for name in PREDICTIONS:
        assert path.convert(t, x, truth[name], source=name, to=name) is truth[name]


def test_conversion_with_a_flipped_sign_or_without_sigma_is_seen() -> None:
    x = torch.tensor([[0.5, -0.7]], dtype=F64)
    truth = posterior(AffinePath(), "linear", 0.6, x)
    score = AffinePath().convert(0.6, x, truth["noise"], source="noise", to="score")
    for wrong in (truth["noise"] / 0.4, -truth["noise"]):
        assert not torch.allclose(score, wrong)


ALL = set(permutations(PREDICTIONS, 2))
NEED_ALPHA = {(a, b) for a in ("noise", "score") for b in ("data", "velocity")}
SCORE = {(a, b) for a, b in ALL if "score" in (a, b)}


@pytest.mark.parametrize(
    ("schedule", "t", "impossible"),
    [
        (Linear(), 0.0, NEED_ALPHA),
        (Linear(), 1.0, SCORE | {("data", "noise"), ("data", "velocity")}),
        (SCHEDULES["cosine"], 0.0, NEED_ALPHA),
        (SCHEDULES["cosine"], 1.0, SCORE | {("data", "noise"), ("data", "velocity")}),
        (SCHEDULES["vp"], 0.0, set()),
        (SCHEDULES["vp"], 1.0, ALL - {("noise", "data")}),  # its velocity is infinite there
        (SCHEDULES["ve"], 0.0, set()),
        (SCHEDULES["ve"], 1.0, set()),
        (Polynomial(2), 0.0, NEED_ALPHA | {("velocity", "data")}),  # velocity 0, whatever the data
        (Linear(sigma_min=0.1), 1.0, set()),
    ],
)
def test_conversions_at_the_ends_are_finite_or_refused(schedule: Schedule, t: float, impossible: set) -> None:
    path, x, value = AffinePath(schedule), torch.ones(2, 2), torch.full((2, 2), 0.5)
    for source, to in ALL:
        if (source, to) in impossible:
            with pytest.raises(ValueError, match=f"at t = {t:g}, "):
                path.convert(t, x, value, source=source, to=to)
        else:
            there = path.convert(t, x, value, source=source, to=to)
            assert there.isfinite().all()
            if (to, source) not in impossible:
                torch.testing.assert_close(path.convert(t, x, there, source=to, to=source), value, rtol=1e-3, atol=1e-3)


def test_the_hint_points_away_from_the_end_that_failed() -> None:
    with pytest.raises(ValueError, match=r"at t = 0, alpha is 0.*start later"):
        AffinePath().convert(0.0, torch.ones(1, 1), torch.ones(1, 1), source="noise", to="data")
    with pytest.raises(ValueError, match=r"at t = 1, sigma is 0.*stop at t = 0.999999"):
        AffinePath().marginal_velocity(1.0, torch.ones(1, 1), StandardNormal(1))


# Ends and repr


@pytest.mark.parametrize("call", ["conditional_velocity", "conditional_score"])
def test_conditionals_end_where_the_noise_does(call: str) -> None:
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="every path has arrived"):
        getattr(AffinePath(), call)(torch.tensor([0.0, 0.5, 1.0]), x, x)


def test_vp_has_no_velocity_at_one_but_points() -> None:
    path, x = AffinePath(SCHEDULES["vp"]), torch.ones(3, 2)
    with pytest.raises(ValueError, match="the velocity is infinite"):
        path.sample(x, x, 1.0)
    assert path.sample(x, x, 1 - 1e-6).ut.isfinite().all()


def test_targets_without_a_posterior_say_so() -> None:
    with pytest.raises(NotImplementedError, match="posterior mean of Pinwheel is not known"):
        AffinePath().marginal_velocity(0.5, torch.zeros(1, 2), Pinwheel())


def test_images_of_one_data_set() -> None:
    data = Empirical(torch.randn(7, 1, 4, 4, dtype=F64))
    x = torch.randn(3, 1, 4, 4, dtype=F64)
    u = AffinePath().marginal_velocity(torch.tensor([0.2, 0.5, 0.9], dtype=F64), x, data)
    for i, t in enumerate((0.2, 0.5, 0.9)):
        log_w = [-((x[i] - t * d) ** 2).sum() / (2 * (1 - t) ** 2) for d in data.means]
        w = torch.softmax(torch.stack(log_w), 0)
        torch.testing.assert_close(u[i], sum(wk * (d - x[i]) / (1 - t) for wk, d in zip(w, data.means, strict=True)))
    assert repr(AffinePath()) == "AffinePath(Linear(sigma_min=0.0))"
    assert not Checkerboard().has_rsample


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("left", [1e-4, 1e-6])
def test_two_data_points_are_told_apart_to_the_end(left: float, dtype: torch.dtype) -> None:
    """Between two of them, where the weights are soft, with fifty digits: what cancels in float32 shows here."""
    data, t = torch.tensor([[3.0], [3.0 + 2e-5], [-1.0]], dtype=dtype), 1 - left
    middle = t * data[:2].double().mean()
    x = (middle + left * torch.linspace(-2, 2, 7, dtype=F64))[:, None].to(dtype)
    target, path = Empirical(data), AffinePath()
    with mpmath.workdps(50):
        time, sigma = mpmath.mpf(t), 1 - mpmath.mpf(t)
        points = [mpmath.mpf(float(point)) for point in data.flatten()]
        wanted_u, wanted_p = [], []
        for place in (mpmath.mpf(float(value)) for value in x.flatten()):
            weights = [mpmath.exp(-(((place - time * point) / sigma) ** 2) / 2) for point in points]
            mean = sum(w * p for w, p in zip(weights, points, strict=True)) / sum(weights)
            wanted_u.append(float((mean - place) / sigma))
            wanted_p.append(float(mpmath.log(sum(weights) / 3 / sigma / mpmath.sqrt(2 * mpmath.pi))))
    tight = {"rtol": 1e-6, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    found = path.marginal_velocity(t, x, target).flatten().double(), path.marginal_log_prob(t, x, target).double()
    torch.testing.assert_close(found[0], torch.tensor(wanted_u, dtype=F64), **tight)
    torch.testing.assert_close(found[1], torch.tensor(wanted_p, dtype=F64), **tight)
    alone = target.noised_log_prob(x, torch.tensor(t, dtype=F64).item(), left)  # asked directly, without the path
    torch.testing.assert_close(alone.double(), torch.tensor(wanted_p, dtype=F64), rtol=1e-5, atol=1e-4)


def test_a_schedule_that_runs_from_data_to_noise_is_refused() -> None:
    class Reversed(Schedule):
        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t

        def sigma(self, t: Tensor) -> Tensor:
            return t

    class Still(Reversed):
        def alpha(self, t: Tensor) -> Tensor:
            return t

    for schedule, said in ((Reversed(), "alpha 1 and sigma 0 at 0"), (Still(), "alpha 0 and sigma 0 at 0")):
        with pytest.raises(ValueError, match=rf"schedule must run from noise at t = 0 to data.*{said}.*1 - t"):
            AffinePath(schedule)
    for right in SCHEDULES.values():
        assert AffinePath(right).start is not None


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_the_numbers_and_not_of_the_path(schedule: str, dtype: torch.dtype) -> None:
    """At t = 0.9995, which bf16 rounds to 1: points and velocities are the exact ones, rounded once."""
    path, t = AffinePath(SCHEDULES[schedule]), torch.full((6,), 0.9995)
    x0, x1 = torch.randn(2, 6, 2).to(dtype)
    sample = path.sample(x0, x1, t)
    alpha, sigma, d_alpha, d_sigma = by_hand(schedule, 0.9995)
    for got, a, b in ((sample.xt, alpha, sigma), (sample.ut, d_alpha, d_sigma)):
        assert got.dtype == dtype
        wanted = a * x1.double() + b * x0.double()
        torch.testing.assert_close(got.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-3)
    assert (sample.t < 1).all()
    assert sample.t.dtype == dtype
    for call in (
        path.conditional_velocity,
        path.conditional_score,
        lambda t, x, y: path.convert(t, x, y, "data", "noise"),
    ):
        out = call(t, x0, x1)
        assert out.dtype == dtype
        assert out.isfinite().all() or dtype == torch.float16
