"""Checks of the exercises of chapter 6, diffusion: one network read in other words, and noise on the way.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number

__all__ = ["ddpm_noise", "halving_noise", "score_to_velocity", "simple_weight", "steps_to_hide"]


def _through(noise: Callable[..., Tensor], data: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    """The velocity with a guess of the noise, and of the data where that is not what the noise leaves of x."""

    def velocity(x: Tensor, score: Tensor, alpha: Tensor, sigma: Tensor, d_alpha: Tensor, d_sigma: Tensor) -> Tensor:
        e = noise(x, score, sigma)
        z = (x - sigma * e) / alpha if data is None else data(x, score, alpha, sigma)
        return d_alpha * z + d_sigma * e

    return velocity


def _noise(x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
    return -sigma * score


def _data(x: Tensor, score: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
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

    def place() -> tuple[Tensor, ...]:
        some = (0.2 + torch.rand(4)).unbind()
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
    return diagnose(answer, _wave(4 / math.pi**2, torch.sin), _WEIGHTS, points)


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
    "The root is taken of the 2 alone: it is of all of `2 (1 - t) / t`.": lambda t: 2**0.5 * (1 - t) / t,
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
    return diagnose(answer, lambda t: (2 * (1 - t) / t).sqrt(), _DDPM, points)


@exercise(chapter=6, number=4, right="Right: 3 + 6 / n. After many steps nobody sees it in the sum: look at one step.")
def steps_to_hide(answer: Any) -> str | None:
    """Say after how many steps with noise multiplied by noise the kurtosis of their sum has fallen to 3.1."""
    mistakes: Mistakes = {
        "The *excess* over 3 falls as 1 / n, from 6, and not the kurtosis itself from 9.": 90.0,
        "That is the excess of one step. It is divided by n, and has to come down to 0.1.": 6.0,
        "The excess starts at 9 - 3 = 6, not at 3.": 30.0,
        "The excess falls as 1 / n, not as one over its root.": (3600.0, 8100.0),
        "There the kurtosis is 3.6: it is 3.1 that is asked for.": 10.0,
        "After n steps it is 3 + 6 / n: one step has 9.": 1.0,
        "At 600 it is 3.01.": 600.0,
        "Fourth moments of sums: only the pairs of equal steps and the fours count, which gives 3 + 6 / n.": (
            54.0, 45.0, 20.0
        ),
    }  # fmt: skip
    return number(answer, 60.0, mistakes)


@exercise(chapter=6, number=5, right="Right: the mean decays as `exp(-g ** 2 t / 2)`, and at t = 1 half of it is left.")
def halving_noise(answer: Any) -> str | None:
    """Say which constant noise g halves, by t = 1, a start that is off, on the cosine path with normal data."""
    mistakes: Mistakes = {
        "That is `g ** 2`: take the root.": 2 * math.log(2),
        "The rate is `g ** 2 / 2`: half of what you have.": math.sqrt(math.log(2)),
        "That would be the rate itself, `g ** 2 / 2 = ln 2`. Which g is it?": math.log(2),
        "That halves the *square* of the error.": (math.sqrt(math.log(2)) / math.sqrt(2), math.sqrt(math.log(2) / 2)),
        "The rate is `g ** 2 / 2`, and not `g ** 2 / 4`.": 2 * math.sqrt(math.log(2)),
        "Then `exp(-g ** 2 / 2)` is 1 / e.": math.sqrt(2),
        "Then `exp(-g ** 2 / 2)` is 0.61.": 1.0,
        "Without noise the ODE stands still here, and so does the error.": 0.0,
        "The logarithm to base 2 was taken: `ln 2` is the natural one.": math.sqrt(2 * math.log2(math.e)),
    }
    return number(answer, math.sqrt(2 * math.log(2)), mistakes, decimals=2, tolerance=5e-4)
