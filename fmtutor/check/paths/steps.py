"""The exercises of chapter 5 about steps and starts: one step of Euler, a straight road, and data of a wrong size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number

_QUARTER = math.pi / 2

_STEPS = {
    "That ends on `m`, as one step on the *linear* path does, and as `sin` and `cos` of the end say. What counts is "
    "the cosine path's velocity at the start: `x0` plus that.": (
        lambda x0, m: m + 0 * x0,
        lambda x0, m: m,
    ),
    "That is the velocity at t = 0. The step goes from `x0` along it for a time 1: add them.": (
        lambda x0, m: _QUARTER * m + 0 * x0,
        lambda x0, m: _QUARTER * m,
    ),
    "`x0` and `m` have changed places: it is `m` that has the factor `pi / 2`.": lambda x0, m: _QUARTER * x0 + m,
    "That is a velocity, with the noise fading, and the step starts at `x0`. On cosine the rate of the noise at t = 0 "
    "is 0.": (
        lambda x0, m: _QUARTER * (m - x0),
        lambda x0, m: m - x0,
    ),
    "The rate of `sin(pi t / 2)` at 0 is `pi / 2`, not 1.": lambda x0, m: x0 + m,
    "The noise does not fade at t = 0: the rate of `cos(pi t / 2)` is 0 there.": (
        lambda x0, m: x0 + _QUARTER * (m - x0),
        lambda x0, m: x0 + m - x0 * _QUARTER,
    ),
    "It does move: at t = 0 the data come in with rate `pi / 2`.": lambda x0, m: x0 + 0 * m,
    "The sign of the data is turned: they come in.": lambda x0, m: x0 - _QUARTER * m,
    "The angle is `pi t / 2`: its rate is `pi / 2`, and yours is `pi`.": lambda x0, m: x0 + math.pi * m,
    "Times 2 over pi: turn the factor over.": lambda x0, m: x0 + m / _QUARTER,
    "You took data for noise: at t = 0 the data have the rate `pi / 2`, and the noise stays as it is.": lambda x0, m: (
        m - _QUARTER * x0
    ),
    "That is the middle of the two. The step is as long as the velocity at t = 0 says.": lambda x0, m: (x0 + m) / 2,
    "The step goes *from* `x0`: add it, do not take it away.": lambda x0, m: _QUARTER * m - x0,
    "The step is as long as the whole way in time, 1. Why half of it?": lambda x0, m: x0 + _QUARTER * m / 2,
}


@exercise(chapter=5, number=4, right="Right: all of the noise is still there, and the mean comes on top, too long.")
def cosine_step(answer: Any) -> str | None:
    """Write `one_step(x0, m)`: where one step of Euler, from 0 to 1, takes `x0` on the cosine path; `m` is E[x1]."""
    points = [(torch.randn(6, 2), torch.randn(2)) for _ in range(3)]
    return diagnose(answer, lambda x0, m: x0 + _QUARTER * m, _STEPS, points)


def _straight(t: Tensor, s: float) -> Tensor:
    return torch.sqrt((1 - t) * (1 - t + 2 * s * t))


def _rest(square: Callable[[Tensor, float], Tensor]) -> tuple[Callable[[Tensor, float], Tensor], ...]:
    """The root of what is left, which may be NaN, and with zero where that is negative."""
    return lambda t, s: torch.sqrt(square(t, s)), lambda t, s: torch.sqrt(square(t, s).clamp(min=0))


_NOISES = {
    "That is the linear path's noise: the spread is `sqrt(t^2 s^2 + (1-t)^2)`, which is no line.": (
        lambda t, s: 1 - t + 0 * s
    ),
    "That is the spread itself, `1 + (s - 1) t`. The noise is what the data leave of its square.": (
        lambda t, s: 1 + (s - 1) * t
    ),
    "That is `sigma^2`. Take its root.": lambda t, s: _straight(t, s) ** 2,
    "That is the square of the spread. Take the data's part, `t^2 s^2`, from it, and then the root.": (
        lambda t, s: (1 + (s - 1) * t) ** 2
    ),
    "Your time is reversed: at t = 0 all is noise, so `sigma` starts at 1 and ends at 0.": (
        lambda t, s: _straight(1 - t, s)
    ),
    "The spread runs from 1 to `s`, so its slope is `s - 1`; yours is `1 - s`.": _rest(
        lambda t, s: (1 + (1 - s) * t) ** 2 - t**2 * s**2
    ),
    "The second bracket is `1 - t + 2 s t`. `(1 - t)` cannot be taken out of it whole.": (
        lambda t, s: (1 - t) * torch.sqrt(1 + 2 * s * t)
    ),
    "One of the two brackets is `1 - t + 2 s t`: you have 4 where it has 2.": (
        lambda t, s: torch.sqrt((1 - t) * (1 - t + 4 * s * t))
    ),
    "That is negative under the root: `sigma^2` is the square of the spread less `t^2 s^2`, in this order.": (
        lambda t, s: torch.sqrt(t**2 * s**2 - (1 + (s - 1) * t) ** 2)
    ),
    "That keeps the *variance*, `t^2 s^2 + sigma^2`, on a straight line. It is the spread that has to run straight.": (
        lambda t, s: torch.sqrt(1 + (s**2 - 1) * t - t**2 * s**2)
    ),
    "That keeps the spread at 1, and it has to run from 1 to `s`.": (
        *_rest(lambda t, s: 1 - t**2 * s**2),
        lambda t, s: torch.sqrt(1 - t**2) + 0 * s,
    ),
    "The data have spread `s`: their part of the variance is `t^2 s^2`, and yours is `t^2`.": _rest(
        lambda t, s: (1 + (s - 1) * t) ** 2 - t**2
    ),
    "The data's part is `t^2 s^2`: in yours the spread is not squared.": _rest(
        lambda t, s: (1 + (s - 1) * t) ** 2 - t**2 * s
    ),
    "The spread starts at 1, the noise's, and ends at `s`: yours runs the other way.": _rest(
        lambda t, s: (s + (1 - s) * t) ** 2 - t**2 * s**2
    ),
    "That ends with a spread of 0, and the data have `s`.": _rest(lambda t, s: (1 - t) ** 2 - t**2 * s**2),
    "One of the two brackets is `1 - t + 2 s t`: a factor 2 is missing.": (
        lambda t, s: torch.sqrt((1 - t) * (1 - t + s * t)),
    ),
    "The signs are turned: the noise is what is left of the *spread* when the data are taken away.": (
        lambda t, s: torch.sqrt((1 + (s - 1) * t) ** 2 + t**2 * s**2),
    ),
}


@exercise(
    chapter=5, number=5, right="Right: these pairs move on bent lines, and the field they add up to on straight ones."
)
def straight_noise(answer: Any) -> str | None:
    """Write `sigma(t, s)` such that, with `alpha = t`, the flow to data N(0, s^2) moves every point straight."""
    t = torch.linspace(0.05, 0.95, 10, dtype=torch.float64) + 0.01 * torch.rand(10, dtype=torch.float64)
    points = [(t, s) for s in (0.3, 0.6, 1.4, 2.0)]
    return diagnose(answer, _straight, _NOISES, points)


_ALPHA2 = math.exp(-10.05)  # alpha(0)^2 of the variance-preserving path, exp(-T(1)) with T(1) = 0.1 + 19.9 / 2
_D, _MEAN, _SD = 3072, 120.0, 60.0


def _gap(mean: float, sd: float, d: float, alpha2: float = _ALPHA2) -> float:
    """KL(p_0, N(0, I)) in nats for d independent normal numbers."""
    return _bracket(alpha2 * sd**2 + 1 - alpha2, alpha2 * mean**2, d)


def _bracket(variance: float, mean2: float = _ALPHA2 * _MEAN**2, d: float = _D, log: float = -1.0) -> float:
    """The formula of the hint, with a variance of one's own, and a factor before its logarithm."""
    return d * 0.5 * (mean2 + variance - 1 + log * math.log(variance))


@exercise(
    chapter=5, number=6, right="Right: the start is off by that much, and a flow, being a bijection, keeps every nat."
)
def unscaled_start(answer: Any) -> str | None:
    """Say how many nats VP loses at its start on images of 3072 numbers, mean 120 and deviation 60, left unscaled."""
    right, noise, root = _ALPHA2 * _SD**2 + 1 - _ALPHA2, 1 - _ALPHA2, math.sqrt(_ALPHA2)
    mistakes: Mistakes = {
        "That is for one number of the image. There are 3072 of them, and the nats of independent numbers add up.": (
            _gap(_MEAN, _SD, 1), _ALPHA2 * _MEAN**2 / 2
        ),
        "Twice as much as it is: a factor 1/2 stands before the bracket.": 2 * _gap(_MEAN, _SD, _D),
        "The mean is missing: `alpha^2 mean^2` is the larger part.": _gap(0, _SD, _D),
        "`alpha(0)` is 0.0066, and its *square* multiplies the mean and the variance of the data.": (
            _gap(_MEAN, _SD, _D, root)
        ),
        "`exp(-10.05)` is the *square* of `alpha(0)`: you have squared it once more.": _gap(_MEAN, _SD, _D, _ALPHA2**2),
        "An image has 32 * 32 * 3 numbers, and yours 32 * 32: the three colours are missing.": _gap(_MEAN, _SD, _D / 3),
        "The noise is missing in the variance: `alpha^2` times the data's, plus `1 - alpha^2`.": (
            _bracket(_ALPHA2 * _SD**2)
        ),
        "The logarithm is left out: the bracket ends in `- log V`.": _bracket(right, log=0.0),
        "The sign of the logarithm is turned: the bracket ends in `- log V`.": _bracket(right, log=1.0),
        "On the variance of the data stands `alpha^2`, and in yours `alpha`.": (
            _bracket(root * _SD + noise), _bracket(root * _SD**2 + noise)
        ),
        "The mean is counted twice: it has its own place in the bracket, and `V` is the variance alone.": (
            _bracket(right + _ALPHA2 * _MEAN**2), _bracket(right, 2 * _ALPHA2 * _MEAN**2)
        ),
        "That is for data of mean 0 and variance 1, as they ought to be.": (0.0, _gap(0, 1, _D)),
        "That has the mean, and next to nothing of the spread: the data's variance is 60 squared, times `alpha^2`.": (
            _gap(_MEAN, math.sqrt(_SD), _D), _gap(_MEAN, 0, _D), _bracket(1.0)
        ),
        "That is in bits. A nat is 1.44 of them.": _gap(_MEAN, _SD, _D) / math.log(2),
        "That is the other divergence, KL(N(0, I), p_0). The data come first.": _turned(),
    }  # fmt: skip
    return number(answer, _gap(_MEAN, _SD, _D), mistakes, tolerance=0.005, known=1e-3)


def _turned() -> float:
    variance = _ALPHA2 * _SD**2 + 1 - _ALPHA2
    return _D * 0.5 * (math.log(variance) + (1 + _ALPHA2 * _MEAN**2) / variance - 1)
