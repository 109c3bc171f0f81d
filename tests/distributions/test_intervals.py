"""The truncated normal against mpmath, from intervals far narrower than the noise to ends a million deviations away."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import sides
from scipy.stats import norm
from torch import Tensor

from fmtutor import Checkerboard
from fmtutor.distributions.intervals import truncated_normal, truncated_sample

F64 = torch.float64


def exact(low: float, high: float) -> tuple[mp.mpf, mp.mpf]:
    """The same two numbers, with enough digits for the plain formula; scaled tails keep far ends in range."""
    low, high = mp.mpf(low), mp.mpf(high)
    if low + high > 0:
        log_density, place = exact(-high, -low)
        return log_density, -place
    with mp.workdps(45):
        mills = lambda z: mp.quad(lambda s: mp.exp(-z * s - s * s / 2), [0, 1 / z, 8 / z, 200 / z])  # noqa: E731
        if high < -20:  # all of it relative to the density at the upper end
            fall = (high + low) / 2 * (high - low)
            mass, log_top = mills(-high) - mills(-low) * mp.exp(fall), -high * high / 2 - mp.log(2 * mp.pi) / 2
            return log_top + mp.log(mass / (high - low)), (mp.expm1(fall) / mass - (low + high) / 2) / (high - low)
        mass = (mp.erfc(-high / mp.sqrt(2)) - mp.erfc(-low / mp.sqrt(2))) / 2
        mean = (mp.npdf(low) - mp.npdf(high)) / mass
        return mp.log(mass / (high - low)), (mean - (low + high) / 2) / (high - low)


INTERVALS = [  # low, high: narrow, wide, one end in each region, far tails, and both sides of every seam
    *[(c - w / 2, c + w / 2) for c in (0.0, 0.3, -2.0, 7.0) for w in (1e-12, 1e-6, 0.01, 0.499, 0.501, 3.0)],
    *[(-1.0, 1.0), (0.0, 1e-9), (0.0, 9.0), (-50.0, -49.0), (-1e-3, 40.0), (-1e6, 1e6), (-1e6, -3.0), (5.0, 3e5)],
    *[(-1e3, -998.0), (2e4, 2e4 + 3e-5), (2e4, 2e4 + 2e-5), (1e5, 2.2e6), (-3e6, -1e6), (1e6, 1e6 + 2e6)],
]


def right(got: tuple[Tensor, Tensor], low: Tensor, high: Tensor) -> bool:
    """To 16 roundings; the place in a thin interval far away is a difference of large numbers."""
    rounding = 16 * torch.finfo(got[0].dtype).eps
    for log_density, place, a, b in zip(*(x.double().tolist() for x in (*got, low, high)), strict=True):
        truth, where = exact(a, b)
        centre = abs(a + b) / 2
        lost = max(1.0, min(centre**2, centre / (b - a)))
        if not abs(log_density - truth) <= rounding * max(1, abs(truth)) or not abs(place - where) <= rounding * lost:
            return False
    return True


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_against_mpmath(dtype: torch.dtype) -> None:
    low, high = torch.tensor(INTERVALS, dtype=F64).to(dtype).T.contiguous()
    if dtype == torch.float32:  # an interval that float32 cannot resolve is another interval there
        keep = (high - low) > 1e-3 * low.abs()
        low, high = low[keep], high[keep]
    assert right(truncated_normal(low, high), low, high)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda low, high: truncated_normal(-high, -low),  # looking from the other side
        lambda low, high: (truncated_normal(low, high)[0] - math.log(2), truncated_normal(low, high)[1]),  # a factor
        lambda low, high: (truncated_normal(low, high)[0], 0.5 + truncated_normal(low, high)[1]),  # from the lower end
        lambda low, high: (torch.log(torch.special.ndtr(high) - torch.special.ndtr(low)) - torch.log(high - low),
                           truncated_normal(low, high)[1]),  # the textbook formula, which drowns in the tails
    ],
)  # fmt: skip
def test_typical_mistakes_are_seen(wrong: object) -> None:
    low, high = torch.tensor(INTERVALS, dtype=F64).T.contiguous()
    assert not right(wrong(low, high), low, high)  # type: ignore[operator]


@settings(deadline=None, max_examples=50)
@given(st.floats(-300, 300), st.floats(1e-5, 600))
@example(1.1, 256.0)  # an end near zero, which the middle of a wide interval cannot give back
def test_anywhere(low: float, width: float) -> None:
    a, b = torch.tensor([low], dtype=F64), torch.tensor([low + width], dtype=F64)
    if b > a:
        assert right(truncated_normal(a, b), a, b)


def test_places_stay_inside_and_mirror() -> None:
    low = torch.cat([torch.linspace(-30, 30, 601, dtype=F64), torch.tensor([-1e6, 1e6], dtype=F64)])
    for width in (1e-9, 0.1, 0.5, 1.0, 20.0, 1e6):
        log_density, place = truncated_normal(low, low + width)
        assert (place.abs() <= 0.5).all()
        mirrored = truncated_normal(-low - width, -low)
        torch.testing.assert_close(mirrored[0], log_density, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mirrored[1], -place, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gradients_and_tangents_are_finite_everywhere(dtype: torch.dtype) -> None:
    low, high = torch.tensor(INTERVALS, dtype=F64).to(dtype).T.contiguous()
    low, high = torch.cat([low, low]), torch.cat([high, low])  # width 0 too: alpha is 0 at t = 0
    a, b = low.clone().requires_grad_(), high.clone().requires_grad_()
    for output in truncated_normal(a, b):
        for gradient in torch.autograd.grad(output.sum(), (a, b), retain_graph=True):
            assert gradient.isfinite().all()
    values, tangents = torch.func.jvp(truncated_normal, (low, high), (torch.ones_like(low), torch.ones_like(low)))
    assert all(x.isfinite().all() for x in (*values, *tangents))


def test_tangents_of_a_shift_are_minus_the_mean_and_what_a_difference_says() -> None:
    """Moving both ends moves the log of the mass by (phi(high) - phi(low)) / mass = -E[z]."""
    low, high = torch.tensor(
        [[-1.0, 1.0], [-0.1, 0.1], [-8.0, -6.0], [2.0, 9.0], [-60.0, -59.0]], dtype=F64
    ).T.contiguous()
    (_, place), (slope, moved) = torch.func.jvp(truncated_normal, (low, high), (torch.ones_like(low),) * 2)
    mean = (low + high) / 2 + (high - low) * place
    torch.testing.assert_close(slope, -mean, rtol=1e-10, atol=1e-12)
    for i in range(len(low)):
        h = mp.mpf("1e-8")
        with mp.workdps(45):
            a, b = mp.mpf(float(low[i])), mp.mpf(float(high[i]))
            truth = float((exact(a + h, b + h)[1] - exact(a - h, b - h)[1]) / (2 * h))
        assert moved[i].item() == pytest.approx(truth, rel=1e-7, abs=1e-10)


# Draws

CHANCE = math.sqrt(math.log(2e5) / 2)  # over sqrt(n): what a distance exceeds once in a hundred thousand right samples


def drawn_apart(place: Tensor, low: float, high: float) -> float:
    """The Kolmogorov-Smirnov distance of places between two ends from the truncated normal, in mpmath."""
    low_, high_ = (mp.mpf(low), mp.mpf(high)) if low + high <= 0 else (mp.mpf(-high), mp.mpf(-low))
    place = (place if low + high <= 0 else 1 - place).double().sort().values  # looked at from the left, as `exact`
    index = torch.linspace(0, len(place) - 1, 60).long()  # a few places are enough: both are monotone
    with mp.workdps(60):
        density = lambda z: mp.ncdf(z) / mp.npdf(high_)  # noqa: E731
        total = density(high_) - density(low_)
        share = [(density(low_ + (high_ - low_) * mp.mpf(place[i].item())) - density(low_)) / total for i in index]
    exact_share = torch.tensor([float(s) for s in share], dtype=F64)
    return float(((index + 0.5) / len(place) - exact_share).abs().max())


DRAWN = [  # in both tails and across, narrow and wide, on both sides of every seam
    *[
        (-1.0, 1.0),
        (-0.5, 3.0),
        (0.0, 9.0),
        (-60.0, 60.0),
        (-4.0, -3.0),
        (3.0, 4.0),
        (8.0, 9.0),
        (-9.0, -8.2),
        (-38.0, -9.0),
    ],
    *[(-15.0, -14.0), (14.0, 15.0), (-29.8, -29.0), (30.5, 31.0), (-45.0, -35.0), (40.0, 41.0), (-1e3, -998.0)],
    *[(0.3, 0.3 + 2e-3), (-7.0, -7.0 + 2e-3), (20.0, 20.125), (-1e3, -1e3 + 2**-7), (5e3, 5e3 + 2**-9)],
]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("low", "high"), DRAWN)
def test_a_draw_has_the_truncated_law(low: float, high: float, dtype: torch.dtype) -> None:
    n = 20_000
    a, b = torch.full((n,), low, dtype=dtype), torch.full((n,), high, dtype=dtype)
    place = truncated_sample(a, b, torch.Generator().manual_seed(0))
    assert place.dtype == dtype
    assert ((place >= 0) & (place <= 1)).all()
    assert drawn_apart(place, a[0].item(), b[0].item()) < CHANCE / math.sqrt(n)


@pytest.mark.parametrize("width", [1e-9, 1e-6, 1e-5])
@pytest.mark.parametrize("low", [0.3, -7.0])
def test_a_draw_from_a_thin_interval_is_even(low: float, width: float) -> None:
    ends = torch.full((20_000,), low, dtype=F64)
    place = truncated_sample(ends, ends + width, torch.Generator().manual_seed(0)).sort().values
    even = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    assert (place - even).abs().max() < CHANCE / math.sqrt(20_000)
    assert len(place.unique()) > 19_900  # and it keeps its digits: few draws fall together
    ends = torch.zeros(100, dtype=F64)  # of no width at all, as where alpha is 0
    assert 0.3 < truncated_sample(ends, ends).mean() < 0.7


def _one_branch(low: Tensor, high: Tensor, u: Tensor) -> Tensor:
    """The textbook inversion, with nothing done for the tails."""
    below, above = torch.special.ndtr(low), torch.special.ndtr(high)
    return ((torch.special.ndtri(below + u * (above - below)) - low) / (high - low)).nan_to_num(0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("wrong", "low", "high"),
    [
        (lambda a, b, u: u, -1.0, 1.0),  # even
        (lambda a, b, u: 1 - _one_branch(a, b, u), -4.0, -3.0),  # from the other side
        (_one_branch, -7.0, -7.0 + 1e-5),  # torch's ndtr has no digits here
        (_one_branch, 14.0, 15.0),  # the upper tail looked at from below
        (_one_branch, -1e3, -998.0),  # a mass that underflows
        (lambda a, b, u: _one_branch(a.float(), b.float(), u.float()), -15.0, -14.0),  # in float32 sooner
        (lambda a, b, u: 1 + torch.log(u) / -a / (b - a), -4.0, -3.0),  # an exponential in place of the tail
    ],
)  # fmt: skip
def test_mistakes_in_drawing_are_seen(wrong: Callable[..., Tensor], low: float, high: float) -> None:
    n = 20_000
    a, b = torch.full((n,), low, dtype=F64), torch.full((n,), high, dtype=F64)
    place = wrong(a, b, torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert drawn_apart(place, low, high) > 1.5 * CHANCE / math.sqrt(n)


def board_share(z: Tensor, at: tuple[float, float], alpha: float, sigma: float, axis: int) -> Tensor:
    """P(x1[axis] <= z | x) by sums over the dark squares, with scipy's normal distribution."""
    side = 1 / 0.45
    total, below = 0.0, torch.zeros_like(z)
    cdf = lambda v, k: norm.cdf((alpha * v - at[k]) / sigma)  # noqa: E731
    for corner in sides():
        mass = [cdf(corner[k] + side, k) - cdf(corner[k], k) for k in (0, 1)]
        total += mass[0] * mass[1]
        part = cdf(z.clamp(corner[axis], corner[axis] + side).numpy(), axis) - cdf(corner[axis], axis)
        below = below + torch.as_tensor(part) * mass[1 - axis]
    return below / total


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("alpha", "sigma"), [(1e-3, 1.0), (0.3, 0.7), (0.8, 0.2), (0.95, 0.05), (1.0, 10.0)])
def test_the_posterior_of_the_board(alpha: float, sigma: float, dtype: torch.dtype) -> None:
    n, board, at = 20_000, Checkerboard().to(dtype), (0.4, -0.15)
    x = torch.tensor(at, dtype=dtype).expand(n, 2)
    z = board.sample_posterior(x, alpha, sigma, torch.Generator().manual_seed(0))
    assert z.dtype == dtype
    assert board.log_prob(z).isfinite().all()
    for axis in (0, 1):
        share = board_share(z[:, axis].double().sort().values, at, alpha, sigma, axis)
        assert (share - (torch.arange(n) + 0.5) / n).abs().max() < CHANCE / math.sqrt(n)
        other = board_share(z[:, axis].double().sort().values, (0.1, -0.4), alpha, sigma, axis)
        seen = (other - (torch.arange(n) + 0.5) / n).abs().max() > CHANCE / math.sqrt(n)
        assert seen or alpha not in (0.3, 0.8)  # there x says something, and not everything


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
def test_no_draw_of_the_board_lies_in_the_light(dtype: torch.dtype) -> None:
    """Seen from outside it, or through next to no noise, what is drawn lies at the border of a square."""
    board = Checkerboard().to(dtype)
    x = (3 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    for sigma in (0.5, 1e-3, 1e-6):
        assert board.log_prob(board.sample_posterior(x, 1 - sigma, sigma)).isfinite().all()
