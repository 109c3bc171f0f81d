"""The truncated normal against mpmath, from intervals far narrower than the noise to ends a million deviations away."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmtutor.distributions.intervals import truncated_normal

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
