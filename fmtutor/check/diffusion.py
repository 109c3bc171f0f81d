"""Checks of the exercises of chapter 6, diffusion: one network read in other words, and noise on the way.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose, numbers
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number

__all__ = ["ddpm_noise", "halving_noise", "score_to_velocity", "simple_weight", "steps_to_hide"]


def _real(value: Any) -> Any:
    """The value itself; NaN where it holds a complex number, as Python's own root of a negative number is."""
    items = value if isinstance(value, tuple | list) else (value,)
    return math.nan * torch.ones(len(items)) if any(isinstance(v, complex) for v in items) else value


def _at_each_time(answer: Any) -> Any:
    """The answer, a function of times; one number that it returns for all of them stands at each."""
    if not callable(answer):
        return answer

    @functools.wraps(answer, updated=())
    def call(t: Tensor) -> Any:
        value = _real(answer(t))
        return (
            value if getattr(value, "shape", ()) or isinstance(value, tuple | list) else numbers(value).expand(len(t))
        )

    return call


def _through(noise: Callable[..., Tensor], data: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    """The velocity with a guess of the noise, and of the data where that is not what the noise leaves of x."""

    def velocity(x: Tensor, score: Tensor, alpha: float, sigma: float, d_alpha: float, d_sigma: float) -> Tensor:
        e = noise(x, score, sigma)
        z = (x - sigma * e) / alpha if data is None else data(x, score, alpha, sigma)
        return d_alpha * z + d_sigma * e

    return velocity


def _noise(x: Tensor, score: Tensor, sigma: float) -> Tensor:
    return -sigma * score


def _data(x: Tensor, score: Tensor, alpha: float, sigma: float) -> Tensor:
    return (x + sigma**2 * score) / alpha


_flow = _through(_noise)

_FROM_SCORE = {
    "The sign of the score is turned: it points to where data are likely, and the noise is `-sigma * score`.": (
        _through(lambda x, score, sigma: sigma * score)
    ),
    "The noise is `-sigma * score`: in yours the factor `sigma` is missing.": _through(lambda x, score, sigma: -score),
    "The noise is `-sigma * score`, with one `sigma` and not its square.": (
        _through(lambda x, score, sigma: -(sigma**2) * score),
        _through(lambda x, score, sigma: -(sigma**2) * score, _data),
    ),
    "The sign is right in the data and turned in the noise: it is `-sigma * score` in both places, and the two parts "
    "are added.": (_through(lambda x, score, sigma: sigma * score, _data)),
    "`alpha` and `sigma` are exchanged: `alpha` is the weight of the data in `x`, and `sigma` that of the noise.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score, sigma, alpha, d_alpha, d_sigma),
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score, sigma, alpha, d_sigma, d_alpha),
        _through(_noise, lambda x, score, alpha, sigma: (x + alpha * sigma * score) / sigma),
    ),
    "The score is the noise *over* `-sigma`: to have the noise, multiply with `-sigma`.": (
        _through(lambda x, score, sigma: -score / sigma),
        _through(lambda x, score, sigma: -score / sigma, _data),
    ),
    "The sign is right in the noise and turned in the data: taking `-sigma * score` off `x` adds a score.": (
        _through(_noise, lambda x, score, alpha, sigma: (x - sigma * score) / alpha),
        _through(_noise, lambda x, score, alpha, sigma: (x - sigma**2 * score) / alpha),
    ),
    "What stands at `x` is right, and what stands at the score is half of what it should be.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score / 2, alpha, sigma, d_alpha, d_sigma)
    ),
    "What stands at `x` is right, and what stands at the score is twice what it should be.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, 2 * score, alpha, sigma, d_alpha, d_sigma)
    ),
    "In the data `sigma` comes twice, once with the noise and once in it: `x + sigma ** 2 * score`.": (
        _through(_noise, lambda x, score, alpha, sigma: (x + sigma * score) / alpha)
    ),
    "The data is what is left of `x` over its weight: in yours it is not divided by `alpha`.": (
        _through(_noise, lambda x, score, alpha, sigma: x + sigma**2 * score)
    ),
    "`alpha` belongs under all of `x + sigma ** 2 * score`: put brackets.": (
        _through(_noise, lambda x, score, alpha, sigma: x + sigma**2 * score / alpha),
        _through(_noise, lambda x, score, alpha, sigma: x / alpha + sigma**2 * score),
    ),
    "That is `E[x1 | x]`, the place where the points are going. How fast do they move?": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _data(x, score, alpha, sigma)
    ),
    "That is the noise, `E[x0 | x]`. It is one half of the answer.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: -sigma * score
    ),
    "That holds on the linear path alone: on others `d_alpha` and `d_sigma` are not 1 and -1.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _data(x, score, alpha, sigma) + sigma * score,
        lambda x, score, alpha, sigma, d_alpha, d_sigma: (x + sigma * score) / alpha,
        lambda x, score, alpha, sigma, d_alpha, d_sigma: (_data(x, score, alpha, sigma) - x) / (1 - alpha),
    ),
    "The two derivatives are exchanged: `d_alpha` belongs to the data, `d_sigma` to the noise.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score, alpha, sigma, d_sigma, d_alpha)
    ),
    "That is the drift of the SDE with g = 1: half a score too much for the velocity.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(x, score, alpha, sigma, d_alpha, d_sigma) + score / 2
    ),
    "The part of the noise is missing: `d_sigma` times `E[x0 | x]`.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: d_alpha * _data(x, score, alpha, sigma)
    ),
    "The part of the data is missing: `d_alpha` times `E[x1 | x]`.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: -d_sigma * sigma * score
    ),
    "`x` is missing: a score of 0 does not mean that nothing moves.": (
        lambda x, score, alpha, sigma, d_alpha, d_sigma: _flow(0 * x, score, alpha, sigma, d_alpha, d_sigma)
    ),
}


@exercise(chapter=6, number=1, right="Right on any path: the score gives the noise, `x` and the noise give the data.")
def score_to_velocity(answer: Any) -> str | None:
    """Write `velocity(x, score, alpha, sigma, d_alpha, d_sigma)`, the marginal velocity of any path, from the score."""

    def place() -> tuple[Any, ...]:
        some = (0.2 + torch.rand(4)).tolist()
        return torch.randn(12, 2), torch.randn(12, 2), *some[:3], -some[3]

    return diagnose(answer, _flow, _FROM_SCORE, [place() for _ in range(5)])


def _times() -> Tensor:
    """Nine times, spread over the whole way."""
    return 0.04 + 0.92 * (torch.arange(9) + torch.rand(9, dtype=torch.float64)) / 9


def _wave(factor: float, part: Callable[[Tensor], Tensor], power: int = 2) -> Callable[[Tensor], Tensor]:
    return lambda t: factor * part(0.5 * math.pi * t) ** power


_WEIGHTS = {
    "It is upside down: a small error of the velocity is a *smaller* one of the noise where there is little data.": (
        lambda t: (0.5 * math.pi / torch.sin(0.5 * math.pi * t)) ** 2
    ),
    "Two things: it is upside down, and the factor between the errors goes in with its square.": (
        _wave(math.pi / 2, torch.sin, -1)
    ),
    "That is the weight which makes the loss on the *noise* that of the velocity, and on the linear path.": (
        lambda t: 1 / t**2
    ),
    "That is the weight which makes the loss on the data that of the velocity, `D ** 2 / sigma ** 2`.": (
        _wave(math.pi**2 / 4, torch.cos, -2)
    ),
    "That is one over the square of the determinant, the same at all times: where is `alpha`?": (
        lambda t: 4 / math.pi**2 + 0 * t
    ),
    "The loss is a squared error: the factor between the errors goes in squared.": _wave(2 / math.pi, torch.sin, 1),
    "That is the weight of a loss on the *data*, which has `sigma` in place of `alpha`.": (
        _wave(4 / math.pi**2, torch.cos),
        _wave(1, torch.cos),
    ),
    "The determinant is missing: `alpha d_sigma - sigma d_alpha` is -pi/2 on this path, and not -1.": (
        _wave(1, torch.sin)
    ),
    "The determinant, pi/2, is divided by, and not multiplied with.": _wave(math.pi**2 / 4, torch.sin),
    "That is the weight on the linear path, where `alpha` is `t`.": lambda t: t**2,
    "That is the weight of a loss on the *score*, which has one more `1 / sigma`.": (
        _wave(4 / math.pi**2, torch.tan),
        _wave(1, torch.tan),
    ),
    "The wave is too fast: on the cosine path `alpha` is `sin(pi t / 2)`.": (
        lambda t: (2 / math.pi * torch.sin(math.pi * t)) ** 2,
        lambda t: torch.sin(math.pi * t) ** 2,
    ),
    "With the weight 1 it is the loss of the velocity itself. The loss of the noise looks away from early times.": (
        lambda t: 1 + 0 * t
    ),
    "Square the determinant as well: the factor between the errors is `alpha / (pi/2)`.": (
        _wave(2 / math.pi, torch.sin)
    ),
    "The factor is squared and the sine is not: both belong to the factor between the errors.": (
        _wave(4 / math.pi**2, torch.sin, 1)
    ),
    "That is `alpha` alone: a factor is missing, and a square.": _wave(1, torch.sin, 1),
}


@exercise(chapter=6, number=2, right="Right: an error e of the velocity is one of `alpha / (pi/2) e` of the noise.")
def simple_weight(answer: Any) -> str | None:
    """Write `weight(t)`, which makes the velocity loss of the cosine path DDPM's loss on the noise."""
    points = [(_times(),), (_times(),)]
    return diagnose(_at_each_time(answer), _wave(4 / math.pi**2, torch.sin), _WEIGHTS, points)


_DDPM = {
    "That is `g ** 2`. The noise of the SDE is `g`: take the root.": lambda t: 2 * (1 - t) / t,
    "A factor 2 is missing under the root: the *square* of `sigma / alpha` falls, at twice the rate.": (
        lambda t: ((1 - t) / t).sqrt()
    ),
    "It is turned over: DDPM draws most noise where most is left, near t = 0.": lambda t: (2 * t / (1 - t)).sqrt(),
    "Only the growth of the data is counted. The noise falls at the same time: `d_sigma / sigma` belongs to it.": (
        lambda t: (2 * (1 - t) ** 2 / t).sqrt()
    ),
    "Only the fall of the noise is counted. The data grows at the same time: `d_alpha / alpha` belongs to it.": (
        lambda t: (2 * (1 - t)).sqrt()
    ),
    "`sigma ** 2` is missing: what is fresh is a share of the noise that is there.": (
        lambda t: (2 / (t * (1 - t))).sqrt()
    ),
    "`sigma` goes in squared: fresh noise is a share of the *variance*.": lambda t: (2 / t).sqrt(),
    "One of two things: `r = sigma / alpha` was differentiated in place of `log r`, or the root was taken of the 2 "
    "alone.": lambda t: 2**0.5 * (1 - t) / t,
    "The sign is turned: `c ** 2` is positive, because `r` falls and `r_t / r_s` is less than 1.": (
        lambda t: -2 * (1 - t) / t,
        lambda t: (-2 * (1 - t) / t).sqrt(),  # not a number, and so is every root of what is negative everywhere
    ),
    "That is the limit of `c ** 2 / h`. The fresh noise has the variance `sigma ** 2 * c ** 2`, and `g` is a root.": (
        lambda t: 2 / (t * (1 - t))
    ),
    "In `log r = log(1 - t) - log t` both parts fall as t grows: the two rates `1 / t` and `1 / (1 - t)` add up.": (
        lambda t: 1 / t - 1 / (1 - t),
        lambda t: 2 * (1 / t - 1 / (1 - t)),
        lambda t: 2 * (1 - t) ** 2 * (1 / t - 1 / (1 - t)),
        lambda t: (2 * (1 / t - 1 / (1 - t))).sqrt(),
        lambda t: (2 * (1 - t) ** 2 * (1 / t - 1 / (1 - t))).sqrt(),
    ),
    "That is `sigma` and a root of 2: the rate at which `log r` falls is missing under the root.": (
        lambda t: 2**0.5 * (1 - t)
    ),
    "That is twice `sigma`. The variance of the fresh noise is `(sigma * c) ** 2`: what is `c ** 2` in a short step?": (
        lambda t: 2 * (1 - t)
    ),
    "That is four times the variance of one step in place of twice: the square of a ratio falls twice as fast as the "
    "ratio, once.": lambda t: 2 * ((1 - t) / t).sqrt(),
    "The 2 belongs above the line.": lambda t: ((1 - t) / (2 * t)).sqrt(),
    "That is `sigma`, the noise that a point holds. How much is drawn anew in a unit of time?": lambda t: 1 - t,
    "That is `sigma / alpha`. Its square falls, and the rate of that fall, times `sigma ** 2`, is `g ** 2`.": (
        lambda t: (1 - t) / t
    ),
}


@exercise(chapter=6, number=3, right="Right: `g ** 2 = 2 (1 - t) / t`, endless at pure noise and nothing at the data.")
def ddpm_noise(answer: Any) -> str | None:
    """Write `g(t)`, the noise of the SDE that the ancestral sampler with eta = 1 becomes on the linear path."""
    points = [(_times(),), (_times(),)]
    return diagnose(_at_each_time(answer), lambda t: (2 * (1 - t) / t).sqrt(), _DDPM, points)


@exercise(chapter=6, number=4, right="Right: 3 + 6 / n. After many steps nobody sees it in the sum: look at one step.")
def steps_to_hide(answer: Any) -> str | None:
    """Say after how many steps with noise multiplied by noise the kurtosis of their sum has fallen to 3.1."""
    mistakes: Mistakes = {
        "Either the whole kurtosis was let fall as 1 / n, or n * n pairs were counted where i and j differ.": 90.0,
        "That is the excess of one step over 3. How long does it take to come down to 0.1?": 6.0,
        "How far is the kurtosis 9 of one step above that of a normal number?": 30.0,
        "The excess over 3 falls as 1 / n, not as one over its root.": (3600.0, 8100.0),
        "There the kurtosis is 3.6: it is 3.1 that is asked for.": 10.0,
        "After one step it is 9.": 1.0,
        "At 600 it is 3.01.": 600.0,
        "At 120 it is 3.05.": 120.0,
        "At 20 it is still 3.3.": 20.0,
        "At 45 it is still 3.13.": 45.0,
        "Nearly: at 54 it is 3.11.": 54.0,
        "A pair i, j of steps may stand in the fourth power in several orders, iijj, ijij and so on: how many?": (
            8 / 2.1, 4.0
        ),
        "Each pair of steps counts for (i, j) and for (j, i), or six times for i < j: yours has half of that.": (
            7.5 / 1.6, 4.7, 5.0
        ),
        "It does not fall to 0: a sum of very many steps is normal, and has kurtosis 3. How far is it above that?": (
            6 / 3.1, 9 / 3.1, 2.0, 3.0
        ),
        "That is the kurtosis of one step. How many steps does it take?": 9.0,
    }  # fmt: skip
    return number(answer, 60.0, mistakes)


@exercise(chapter=6, number=5, right="Right: the mean decays as `exp(-g ** 2 t / 2)`, and at t = 1 half of it is left.")
def halving_noise(answer: Any) -> str | None:
    """Say which constant noise g halves, by t = 1, a start that is off, on the cosine path with normal data."""
    mistakes: Mistakes = {
        "That is `g ** 2`: take the root.": 2 * math.log(2),
        "That halves the *square* of the error: its rate is `g ** 2`, and that of the error is half of it.": (
            math.sqrt(math.log(2))
        ),
        "ln(1/2) is negative, and so is what the mean changes by: with `exp(-g ** 2 / 2)` the two signs cancel.": (
            -2 * math.log(2), -math.log(2), -math.log(2) / 2
        ),
        "That would be the rate itself, `g ** 2 / 2 = ln 2`. Which g is it?": math.log(2),
        "With that g the error falls by a sixth. Its rate is `g ** 2 / 2`, and not `2 * g ** 2`.": (
            math.sqrt(math.log(2) / 2)
        ),
        "The rate is `g ** 2 / 2`, and not `g ** 2 / 4`.": 2 * math.sqrt(math.log(2)),
        "Then `exp(-g ** 2 / 2)` is 1 / e.": math.sqrt(2),
        "Then `exp(-g ** 2 / 2)` is 0.61.": 1.0,
        "Without noise the ODE stands still here, and so does the error.": 0.0,
        "The logarithm to base 2 was taken: `ln 2` is the natural one.": math.sqrt(2 * math.log2(math.e)),
    }  # fmt: skip
    answer = _real(answer)
    if isinstance(answer, Tensor | float) and numbers(answer).isnan().all():
        return (
            "That is the root of a negative number: ln(1/2) is below 0, and `exp(-g ** 2 / 2) = 1/2` has a minus too."
        )
    return number(answer, math.sqrt(2 * math.log(2)), mistakes, decimals=2, tolerance=5e-4)
