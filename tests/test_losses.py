"""The two losses: each against a loop, their difference against the floor, and their gradients against each other."""

from __future__ import annotations

import math
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from reference import F64, SCHEDULES, brute, by_hand, targets
from scipy import integrate
from torch import Tensor

from fmtutor import (
    AffinePath,
    Checkerboard,
    Empirical,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    VelocityMLP,
    conditional_flow_matching_loss,
    flow_matching_loss,
)

FLOOR = 3.753  # of the checkerboard on the linear path, t uniform


def draws(n: int) -> tuple[Tensor, Tensor, Tensor]:
    return StandardNormal(2).sample((n,)), Checkerboard().sample((n,)), torch.rand(n)


@pytest.mark.parametrize("schedule", ["linear", "vp", "ve", "cosine"])
def test_conditional_loss_by_a_loop(schedule: str) -> None:
    path, net = AffinePath(SCHEDULES[schedule]), VelocityMLP(2, width=8, depth=1, frequencies=2).double()
    x0, x1, t = torch.randn(6, 2).double(), torch.randn(6, 2).double(), 0.1 + 0.8 * torch.rand(6).double()
    each = []
    for a, b, at in zip(x0, x1, t, strict=True):
        alpha, sigma, d_alpha, d_sigma = by_hand(schedule, float(at))
        v = net(at, (alpha * b + sigma * a)[None])[0]
        each.append(((v - d_alpha * b - d_sigma * a) ** 2).mean())
    wanted = torch.stack(each)
    torch.testing.assert_close(conditional_flow_matching_loss(net, path, x0, x1, t, reduction="none"), wanted)
    loss = conditional_flow_matching_loss(net, path, x0, x1, t)
    torch.testing.assert_close(loss, wanted.mean())
    for wrong in (wanted.sum(), wanted.sqrt().mean(), 2 * wanted.mean()):  # summed, unsquared, summed over coordinates
        assert not torch.allclose(loss, wrong, rtol=1e-3)


def test_flow_matching_loss_against_quadrature() -> None:
    path, board, x = AffinePath(), targets()["board"], torch.tensor([[0.3, 0.4], [1.0, -2.0]], dtype=F64)
    u = brute("board", x, by_hand("linear", 0.4))[2]
    v = lambda t, x: x**2  # noqa: E731
    wanted = ((x**2 - u) ** 2).mean(1)
    torch.testing.assert_close(flow_matching_loss(v, path, board, x, 0.4, reduction="none"), wanted)  # type: ignore[arg-type]
    torch.testing.assert_close(flow_matching_loss(v, path, board, x, torch.tensor([0.4, 0.4])), wanted.mean())  # type: ignore[arg-type]


def test_the_exact_field_stands_on_the_floor_and_nothing_below() -> None:
    """60 000 pairs, 4 standard errors of about 0.015: half the floor, twice it, and 0 are all refused."""
    path, board, (x0, x1, t) = AffinePath(), Checkerboard(), draws(60_000)
    t = t.clamp(1e-6, 1 - 1e-6)
    exact = lambda t, x: path.marginal_velocity(t, x, board)  # noqa: E731
    each = conditional_flow_matching_loss(exact, path, x0, x1, t, reduction="none")
    error = float(each.std()) / math.sqrt(len(each))
    assert abs(float(each.mean()) - FLOOR) < 4 * error
    assert 4 * error < 0.1
    for wrong in (lambda t, x: 0.9 * exact(t, x), lambda t, x: -exact(t, x), lambda t, x: exact(1 - t, x)):
        inner = t.clamp(0.02, 0.98)  # a field at the wrong time explodes near the ends
        ours, theirs = (conditional_flow_matching_loss(v, path, x0, x1, inner, "none") for v in (exact, wrong))
        above = theirs - ours
        assert float(above.mean()) > 4 * float(above.std()) / math.sqrt(len(each))


def test_conditional_loss_is_the_exact_loss_plus_the_floor() -> None:
    """For a field far from right; the difference of the two losses on the same draws, to 4 standard errors."""
    path, board, (x0, x1, t) = AffinePath(), Checkerboard(), draws(60_000)
    field = lambda t, x: torch.tanh(x) + t[:, None]  # noqa: E731
    _, xt, _ = path.sample(x0, x1, t)
    conditional = conditional_flow_matching_loss(field, path, x0, x1, t, reduction="none")
    exact = flow_matching_loss(field, path, board, xt, t, reduction="none")
    gap = conditional - exact
    error = float(gap.std()) / math.sqrt(len(gap))
    assert abs(float(gap.mean()) - FLOOR) < 4 * error < 0.3
    assert abs(float(gap.mean())) > 20 * error  # the two are not equal: only their gradients are


def test_gradients_are_equal_in_expectation() -> None:
    """All parameters of a small network, 40 batches: each difference within 4.5 of its own standard errors."""
    path, board = AffinePath(), Checkerboard()
    net = VelocityMLP(2, width=6, depth=1, frequencies=3)
    parameters = list(net.parameters())

    def flat(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    right, flipped = [], []
    for _ in range(40):
        x0, x1, t = draws(1500)
        _, xt, ut = path.sample(x0, x1, t)
        exact = flat(flow_matching_loss(net, path, board, xt, t))
        right.append(flat(conditional_flow_matching_loss(net, path, x0, x1, t)) - exact)
        flipped.append(flat((net(t, xt) - (xt - ut)).square().mean()) - exact)  # xt in the place of 2 x1 - ...

    def equal(differences: list[Tensor]) -> bool:
        each = torch.stack(differences).double()
        return bool((each.mean(0).abs() <= 4.5 * each.std(0) / math.sqrt(len(each)) + 1e-12).all())

    assert len(right[0]) > 50
    assert equal(right)
    assert not equal(flipped)


def test_times_lean_towards_the_data_and_are_reproducible_unless_given() -> None:
    seen: list[Tensor] = []

    def watched(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        return 0 * x

    x0, x1 = torch.zeros(20_000, 1), torch.ones(20_000, 1)
    for _ in range(2):
        torch.manual_seed(3)
        conditional_flow_matching_loss(watched, AffinePath(), x0, x1)
    assert seen[0].equal(seen[1])
    assert seen[0].shape == (20_000,)
    assert (seen[0] < 1).all()

    def agrees(times: Tensor) -> bool:
        """Mean and second moment under the density 2/3 (1 - t)^(-1/3), by quadrature, to 4 standard errors."""
        for power in (1, 2):
            wanted = integrate.quad(lambda t, n: t**n * 2 / 3 * (1 - t) ** (-1 / 3), 0, 1, args=(power,))[0]
            if abs(float((times**power).mean()) - wanted) > 4 * 0.3 / math.sqrt(20_000):
                return False
        return True

    assert agrees(seen[0])
    assert not agrees(torch.rand(20_000))  # uniform
    assert not agrees(1 - seen[0])  # towards the noise
    generator = torch.Generator().manual_seed(3)
    conditional_flow_matching_loss(watched, AffinePath(), x0, x1, generator=generator)
    assert seen[2].equal(seen[0])


def test_images_and_single_numbers() -> None:
    for event in ((1, 4, 4), ()):
        x0, x1 = torch.randn(3, *event), torch.randn(3, *event)
        each = conditional_flow_matching_loss(lambda t, x: 0 * x, AffinePath(), x0, x1, 0.5, reduction="none")
        torch.testing.assert_close(each, ((x1 - x0) ** 2).reshape(3, -1).mean(1))
        data = Empirical(x1)
        exact = flow_matching_loss(
            partial(AffinePath().marginal_velocity, target=data), AffinePath(), data, x0, 0.5, reduction="none"
        )
        assert exact.eq(0).all()


def test_no_time_that_it_draws_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding alone takes one draw in a hundred thousand to t = 1, where this path has no velocity."""
    monkeypatch.setattr(torch, "rand", lambda n, **how: torch.zeros(n))
    path, x = AffinePath(VariancePreserving()), torch.ones(4, 2)
    assert conditional_flow_matching_loss(lambda t, x: 0 * x, path, x, x).isfinite()
    with pytest.raises(ValueError, match="at t = 1, the velocity is infinite"):
        conditional_flow_matching_loss(lambda t, x: 0 * x, path, x, x, t=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_in_half_precision_stay_below_one(schedule: str, dtype: torch.dtype) -> None:
    """Drawn in bf16, 3 times of 1 000 were 1, and the variance-preserving path refused its own batch."""
    path, seen = AffinePath(SCHEDULES[schedule]), []

    def watched(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        assert t.dtype == x.dtype == dtype
        return 0 * x

    x0, x1 = torch.randn(2, 20_000, 1).to(dtype)
    torch.manual_seed(0)
    loss = conditional_flow_matching_loss(watched, path, x0, x1)
    assert loss.isfinite()
    assert (seen[0] < 1).all()
    plain = 1 - torch.rand(20_000, dtype=dtype) ** 1.5
    assert (plain == 1).sum() > 5
    torch.manual_seed(0)
    wide = conditional_flow_matching_loss(lambda t, x: 0 * x, path, x0.float(), x1.float())
    assert loss.item() == pytest.approx(wide.item(), rel=0.02)  # the same times, the same coefficients


def test_noise_that_is_scaled_twice_is_said_aloud() -> None:
    path, x1 = AffinePath(VarianceExploding()), torch.randn(500, 2)
    with pytest.warns(UserWarning, match=r"x0 must be standard normal.*sigma\(0\) = 10.*deviation of \d+"):
        conditional_flow_matching_loss(lambda t, x: 0 * x, path, 10 * torch.randn(500, 2), x1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditional_flow_matching_loss(lambda t, x: 0 * x, path, 10 * torch.randn(500, 2), x1)  # said once a path
        conditional_flow_matching_loss(lambda t, x: 0 * x, AffinePath(VarianceExploding()), torch.randn(500, 2), x1)


# The floor of normal data, N(m, S), summed over coordinates

SPREADS = {"round": (0.6, 0.6), "long": (2.0, 0.3), "unit": (1.0, 1.0)}
FLOORS = {  # in closed form: what is added for each standard deviation s
    "linear": lambda s: math.pi / 2 * s,
    "cosine": lambda s: math.pi**2 / 4 * s,
    "ve": lambda s: math.log(1000) / 2 * s**2 * math.log((s**2 + 10**2) / (s**2 + 0.01**2)),
}


def pointwise(schedule: str, t: float, s: float) -> float:
    """`D^2 s^2 / (alpha^2 s^2 + sigma^2)` with D = alpha' sigma - alpha sigma', for one number of scale s."""
    alpha, sigma, d_alpha, d_sigma = by_hand(schedule, t)
    return (d_alpha * sigma - alpha * d_sigma) ** 2 * s**2 / (alpha**2 * s**2 + sigma**2)


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("schedule", FLOORS)
def test_the_floor_of_normal_data(schedule: str, spreads: tuple[float, float]) -> None:
    """By the closed form, by quadrature, and by pairs: 200 000 of them, at times spread evenly, to 4 standard errors.

    The regression of the pairs' velocity on xt is linear here, and what it leaves is the floor.
    """
    closed = sum(FLOORS[schedule](s) for s in spreads)
    by_time = sum(integrate.quad(lambda t, s=s: pointwise(schedule, t, s), 0, 1)[0] for s in spreads)
    assert by_time == pytest.approx(closed, rel=1e-9)

    n, generator = 200_000, torch.Generator().manual_seed(0)
    s, mean = torch.tensor(spreads, dtype=F64), torch.tensor([1.0, -2.0], dtype=F64)
    x0, x1 = (torch.randn(n, 2, dtype=F64, generator=generator) for _ in range(2))
    t = (torch.arange(n, dtype=F64) + 0.5) / n
    path, x1 = AffinePath(SCHEDULES[schedule]), mean + s * x1
    _, xt, ut = path.sample(x0, x1, t)
    c = path.coefficients(t, xt)
    slope = (c.alpha * c.d_alpha * s**2 + c.sigma * c.d_sigma) / ((c.alpha * s) ** 2 + c.sigma**2)
    each = (ut - c.d_alpha * mean - slope * (xt - c.alpha * mean)).square().sum(1)
    error = float(each.view(100, -1).std(1).mean()) / math.sqrt(n)
    assert 4 * error < 0.03 * closed

    def agrees(claimed: float) -> bool:
        return abs(float(each.mean()) - claimed) < 4 * error

    assert agrees(closed)
    assert not agrees(closed / 2)  # averaged over the coordinates
    other = {"linear": "cosine", "cosine": "linear", "ve": "linear"}[schedule]
    assert not agrees(sum(FLOORS[other](v) for v in spreads))
    if schedule != "ve" and spreads != SPREADS["unit"]:
        assert not agrees(sum(FLOORS[schedule](v) * v for v in spreads))  # the variance for its root: tr S


def test_the_package_stands_on_that_floor() -> None:
    """The exact field of a round Gaussian, through the loss itself; the loss averages over the coordinates."""
    target, n = StandardNormal(2, scale=0.6).to(F64), 100_000
    x0, x1, t = torch.randn(n, 2, dtype=F64), target.sample((n,)), (torch.arange(n, dtype=F64) + 0.5) / n
    for schedule in ("linear", "cosine", "ve"):
        path = AffinePath(SCHEDULES[schedule])
        each = conditional_flow_matching_loss(
            partial(path.marginal_velocity, target=target), path, x0, x1, t, reduction="none"
        )
        error = float(each.view(100, -1).std(1).mean()) / math.sqrt(n)
        assert abs(float(each.mean()) - FLOORS[schedule](0.6)) < 4 * error
        assert abs(float(each.mean()) - FLOORS[schedule](0.6**2)) > 8 * error


def test_the_variance_preserving_path_has_no_floor_with_uniform_times() -> None:
    """Its `d_sigma^2` grows as `beta_min / (4 (1 - t))`: up to 1 - e the floor is a line in log(1/e), without end."""

    def up_to(e: float) -> float:
        ends = [0, 0.5, 0.9, 0.99, *(1 - 10.0**-k for k in range(3, round(-math.log10(e)) + 1))]
        parts = pairwise(ends)
        return sum(integrate.quad(lambda t: pointwise("vp", t, 0.6), a, b)[0] for a, b in parts)

    steps = [up_to(10.0 ** -(k + 1)) - up_to(10.0**-k) for k in (6, 8, 10)]
    assert steps == pytest.approx([0.1 / 4 * math.log(10)] * 3, rel=1e-3)
