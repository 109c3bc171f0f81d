"""Every schedule by three routes: forward-mode autodiff, the formula by hand, and a finite difference."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import F64, SCHEDULES, by_hand
from torch import Tensor

from fmtutor import Cosine, Linear, Polynomial, Schedule, VarianceExploding, VariancePreserving

INNER = torch.linspace(0.001, 0.999, 37, dtype=F64)


def in_forty_digits(s: Schedule, t: float) -> list[mp.mpf]:
    """alpha, sigma, d_alpha and d_sigma from their definitions, the settings as the floats they are."""
    t, half = mp.mpf(t), mp.pi / 2
    if isinstance(s, Linear):
        rest = 1 - mp.mpf(s.sigma_min)
        return [t, 1 - rest * t, mp.mpf(1), -rest]
    if isinstance(s, Cosine):
        alpha, sigma = mp.sin(half * t), mp.sin(half * (1 - t))
        return [alpha, sigma, half * sigma, -half * alpha]
    if isinstance(s, Polynomial):
        n = mp.mpf(s.n)
        return [t**n, 1 - t**n, n * t ** (n - 1), -n * t ** (n - 1)]
    if isinstance(s, VarianceExploding):
        low, high = mp.mpf(s.sigma_min), mp.mpf(s.sigma_max)
        sigma = low**t * high ** (1 - t)
        return [mp.mpf(1), sigma, mp.mpf(0), sigma * (mp.log(low) - mp.log(high))]
    low, high = mp.mpf(s.beta_min), mp.mpf(s.beta_max)  # type: ignore[attr-defined]
    noise, rate = low * (1 - t) + (high - low) * (1 - t) ** 2 / 2, low + (high - low) * (1 - t)
    sigma = mp.sqrt(1 - mp.exp(-noise))
    return [
        mp.exp(-noise / 2),
        sigma,
        rate / 2 * mp.exp(-noise / 2),
        -rate / 2 * mp.exp(-noise) / sigma if sigma else -mp.inf,
    ]


def difference(f: object, t: Tensor, h: float = 1e-3) -> Tensor:
    """A central difference, with its errors of order h^2 and h^4 removed by extrapolation."""
    central = [(f(t + k * h) - f(t - k * h)) / (2 * k * h) for k in (0.25, 0.5, 1.0)]  # type: ignore[operator]
    first = [(4 * a - b) / 3 for a, b in pairwise(central)]
    return (16 * first[0] - first[1]) / 15


def close(a: Tensor, b: Tensor) -> bool:
    """Within 1e-8, relative to the size of the derivative where that is above 1."""
    return bool(((a - b).abs() <= 1e-8 * b.abs().clamp(min=1)).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_and_derivatives_by_three_routes(name: str) -> None:
    s, t = SCHEDULES[name], INNER
    hand = torch.tensor([by_hand(name, float(x)) for x in t], dtype=F64).T
    assert close(s.alpha(t), hand[0])
    assert close(s.sigma(t), hand[1])
    inner = t[(t > 0.02) & (t < 0.98)]  # the difference needs room, and the roots of VP and t^2.5 need it smooth
    for k, (f, own, autodiff) in enumerate(
        ((s.alpha, s.d_alpha, Schedule.d_alpha), (s.sigma, s.d_sigma, Schedule.d_sigma))
    ):
        assert close(own(t), hand[2 + k])
        assert close(autodiff(s, t), hand[2 + k])  # the base class's, where a schedule overrides it
        with mp.workdps(40):
            by_mp = torch.tensor(
                [float(mp.diff(lambda x, k=k: in_forty_digits(s, x)[k], float(x))) for x in t[::6]], dtype=F64
            )
        assert close(own(t[::6]), by_mp)
        assert close(own(inner), difference(f, inner))
        for wrong in (-hand[2 + k], hand[2 + k] / 2, hand[2 + k].flip(0)):  # sign, factor, reversed time
            changed = not torch.allclose(wrong, hand[2 + k])
            assert not (changed and close(own(t), wrong))


def test_ends() -> None:
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    for s in (Linear(), Cosine(), Polynomial(3)):
        assert (s.alpha(zero), s.sigma(zero), s.alpha(one), s.sigma(one)) == (0, 1, 1, 0)
    assert Linear(sigma_min=0.25).sigma(one) == 0.25
    vp, ve = VariancePreserving(), VarianceExploding()
    assert vp.alpha(one) == 1
    assert vp.sigma(one) == 0
    assert vp.alpha(zero).item() == pytest.approx(math.exp(-10.05 / 2), rel=1e-12)  # not 0: no pure noise at t = 0
    assert vp.d_sigma(one).item() == -math.inf
    assert (ve.sigma(zero).item(), ve.sigma(one).item()) == pytest.approx((10, 0.01))
    assert Polynomial(1).d_alpha(zero) == 1


@pytest.mark.parametrize("name", ["vp", "cosine"])
def test_alpha_and_sigma_on_the_circle(name: str) -> None:
    s = SCHEDULES[name]
    torch.testing.assert_close(s.alpha(INNER) ** 2 + s.sigma(INNER) ** 2, torch.ones_like(INNER))
    assert not torch.allclose(s.alpha(INNER) + s.sigma(INNER), torch.ones_like(INNER))  # that is the linear path's


ENDS = [
    *(Linear(sigma_min) for sigma_min in (0.0, 1e-5, 0.1, 1.0)),
    *(VariancePreserving(), VariancePreserving(beta_min=0.5, beta_max=4.0), VariancePreserving(beta_min=1e-3)),
    *(VarianceExploding(), VarianceExploding(sigma_min=1e-3, sigma_max=50.0)),
    *(Polynomial(n) for n in (1, 1.5, 2.0, 2.5, 7.0)),
    Cosine(),
]


def wrong_digits(found: Tensor, truth: list[mp.mpf]) -> Tensor:
    """Of each number, its distance from the truth in roundings of the truth."""
    info = torch.finfo(found.dtype)
    with mp.workdps(40):
        each = [
            mp.mpf(0) if mp.mpf(a) == b else abs(mp.mpf(a) - b) / (info.eps * abs(b) + mp.mpf(info.tiny))
            for a, b in zip(found.double().tolist(), truth, strict=True)
        ]
    return torch.tensor([float(x) for x in each])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("s", ENDS, ids=repr)
def test_digits_at_the_first_and_last_floats(s: Schedule, dtype: torch.dtype) -> None:
    """Everything to 20 roundings, in the first floats after t = 0, in the last before t = 1, and between."""
    info = torch.finfo(dtype)
    small = torch.cat([2.0 ** -torch.arange(1, 30, dtype=dtype), torch.tensor([0.0, info.tiny, info.eps], dtype=dtype)])
    t = torch.cat([small, 1 - small, 1 - torch.arange(1, 9, dtype=dtype) * info.eps / 2, torch.rand(9, dtype=dtype)])
    assert (t == 1 - info.eps / 2).any()  # the last float of all
    with mp.workdps(40):
        truth = list(zip(*(in_forty_digits(s, float(x)) for x in t), strict=True))
    for f, wanted in zip((s.alpha, s.sigma, s.d_alpha, s.d_sigma), truth, strict=True):
        assert wrong_digits(f(t), list(wanted)).max() < 20, f.__name__


def test_what_the_formulas_invite_one_to_write_loses_its_digits() -> None:
    """In the last floats of float32 before t = 1, and VP's slope at t = 0."""
    t, half = 1 - torch.arange(1, 9) * torch.finfo(torch.float32).eps / 2, math.pi / 2
    with mp.workdps(40):
        cosine, power = ([in_forty_digits(s, float(x)) for x in t] for s in (Cosine(), Polynomial(1.5)))
        start = in_forty_digits(VariancePreserving(), 0.0)
    assert wrong_digits(torch.cos(half * t), [row[1] for row in cosine]).max() > 1e5
    assert wrong_digits(half * torch.cos(half * t), [row[2] for row in cosine]).max() > 1e5
    assert wrong_digits(1 - t**1.5, [row[1] for row in power]).max() > 1e5
    assert wrong_digits(Schedule.d_sigma(VariancePreserving(), torch.zeros(1)), [start[3]]).max() > 100


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 1), st.floats(0, 1))
def test_data_never_fades_and_noise_never_grows(name: str, a: float, b: float) -> None:
    s, (early, late) = SCHEDULES[name], torch.tensor(sorted((a, b)), dtype=F64)
    assert s.alpha(early) <= s.alpha(late)
    assert s.sigma(late) <= s.sigma(early)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 3), max_size=3), st.sampled_from([torch.float32, F64]))
def test_shape_and_dtype_follow_t(shape: list[int], dtype: torch.dtype) -> None:
    t = torch.rand(shape, dtype=dtype)
    for s in SCHEDULES.values():
        for f in (s.alpha, s.sigma, s.d_alpha, s.d_sigma):
            assert (f(t).shape, f(t).dtype) == (t.shape, dtype)


def test_derivatives_at_a_time_shared_by_all_and_through_a_gradient() -> None:
    t = torch.tensor(0.5, dtype=F64)
    torch.testing.assert_close(Cosine().d_alpha(t.expand(3)), Cosine().d_alpha(t).expand(3))
    leaf = t.clone().requires_grad_()
    (second,) = torch.autograd.grad(Cosine().d_alpha(leaf), leaf)
    assert second.item() == pytest.approx(-((math.pi / 2) ** 2) * math.sin(math.pi / 4))


def test_a_new_schedule_is_two_formulas_even_when_one_is_constant() -> None:
    class Shrinking(Schedule):
        def alpha(self, t: Tensor) -> Tensor:
            return torch.ones_like(t)

        def sigma(self, t: Tensor) -> Tensor:
            return (1 - t) ** 2

    assert Shrinking().d_alpha(INNER).eq(0).all()
    torch.testing.assert_close(Shrinking().d_sigma(INNER), -2 * (1 - INNER))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Linear(sigma_min=-0.1), "sigma_min must be at least 0 and finite, got -0.1"),
        (lambda: Linear(sigma_min=math.nan), "sigma_min must be at least 0 and finite, got nan"),
        (lambda: VariancePreserving(beta_min=0.0), "beta_min must be above 0 and finite, got 0.0"),
        (lambda: VariancePreserving(beta_max=math.inf), "beta_max must be above 0 and finite, got inf"),
        (lambda: VarianceExploding(sigma_min=-1.0), "sigma_min must be above 0"),
        (lambda: VarianceExploding(sigma_min=2.0, sigma_max=1.0), "sigma_max must be above sigma_min, got 1.0 and 2.0"),
        (lambda: Polynomial(0.5), "n must be at least 1 and finite, got 0.5"),
        (lambda: Polynomial(math.nan), "n must be at least 1 and finite, got nan"),
    ],
)
def test_refused_settings(make: object, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        make()  # type: ignore[operator]


def test_repr_names_the_settings() -> None:
    assert repr(VariancePreserving()) == "VariancePreserving(beta_min=0.1, beta_max=20.0)"
    assert repr(Cosine()) == "Cosine()"
