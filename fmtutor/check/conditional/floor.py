"""The exercise of chapter 4 about the floor of the loss: its height for two data points, and where it is highest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number

_Z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
_WEIGHT = torch.softmax(-(_Z**2) / 2, 0)


def _mean(values: Tensor) -> Tensor:
    """The expectation over a standard normal z, of values on its grid."""
    return (_WEIGHT * values).sum()


def _seen(t: Any) -> Tensor:
    """E[x1 | xt] at xt = t + (1 - t) z, for the data -1 and +1."""
    s = t / (1 - t)
    return torch.tanh(s**2 + s * _Z)


def _field(t: Any) -> Tensor:
    """The marginal velocity there."""
    return (_seen(t) - t - (1 - t) * _Z) / (1 - t)


def _floor_with(argument: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The floor with another argument of the tanh."""
    return lambda t: (1 - _mean(torch.tanh(argument(t)) ** 2)) / (1 - t) ** 2


_floor = _floor_with(lambda t: (t / (1 - t)) ** 2 + t / (1 - t) * _Z)

_FLOORS = {
    "That is the variance of `x1` given `xt`. The velocity is `(x1 - x) / (1 - t)`: a factor goes into a variance "
    "squared.": lambda t: 1 - _mean(_seen(t) ** 2),
    "A factor `1 / (1 - t)` goes into a variance squared: divide by `(1 - t) ** 2`.": (
        lambda t: (1 - _mean(_seen(t) ** 2)) / (1 - t)
    ),
    "The variance of `x1` is divided by `(1 - t) ** 2`, not multiplied: the less time is left, the more it counts.": (
        lambda t: (1 - _mean(_seen(t) ** 2)) * (1 - t) ** 2
    ),
    "It is the time that is left, `1 - t`, that the velocity is divided by, not `t`.": (
        lambda t: (1 - _mean(_seen(t) ** 2)) / t**2
    ),
    "This is the part that `xt` gives away, the variance of the mean. The floor is the rest of the variance 1.": (
        lambda t: _mean(_seen(t) ** 2) / (1 - t) ** 2
    ),
    "Python divides before it subtracts: put `1 - E[...]` in brackets, and all of that over `(1 - t) ** 2`.": (
        lambda t: 1 - _mean(_seen(t) ** 2) / (1 - t) ** 2
    ),
    "The variance of a sign with mean m is 1 *less* `m ** 2`, not more.": (
        lambda t: (1 + _mean(_seen(t) ** 2)) / (1 - t) ** 2
    ),
    "That is how much the mean `m` varies with the noise. The floor is how far `x1` is from it: `1 - m ** 2`.": (
        lambda t: (_mean(_seen(t) ** 2) - _mean(_seen(t)) ** 2) / (1 - t) ** 2
    ),
    "That is the marginal velocity, squared: what can be *learned*. The floor is how far the pairs' velocities are "
    "from it.": (lambda t: _mean(_field(t) ** 2), lambda t: _mean(_field(t) ** 2) - _mean(_field(t)) ** 2),
    "This leaves the data out of `xt`: it is `t * x1 + (1 - t) * x0`, and `x1 = 1` may stand for both points.": (
        _floor_with(lambda t: t / (1 - t) * _Z)
    ),
    "`xt` is not `x0` alone: it is `t * x1 + (1 - t) * x0`, and `x1 = 1` may stand for both points.": (
        _floor_with(lambda t: t * _Z / (1 - t) ** 2)
    ),
    "The noise does not fade in your `xt`: it is `t * x1 + (1 - t) * x0`.": (
        _floor_with(lambda t: t * (t + _Z) / (1 - t) ** 2)
    ),
    "The argument of the tanh is `t x / (1 - t) ** 2`: the variance of the noise is `(1 - t)` *squared*.": (
        _floor_with(lambda t: t * (t + (1 - t) * _Z) / (1 - t))
    ),
    "The argument of the tanh is half the difference of the log-weights, `t x / (1 - t) ** 2`: yours is twice that.": (
        _floor_with(lambda t: 2 * t * (t + (1 - t) * _Z) / (1 - t) ** 2)
    ),
    "The tanh is squared twice: `E[tanh(...) ** 2]` is taken away from 1.": (
        lambda t: (1 - _mean(_seen(t) ** 4)) / (1 - t) ** 2,
    ),
    "The variance of a sign with mean m is `1 - m ** 2`: square the tanh, and do not take its size.": (
        lambda t: (1 - _mean(_seen(t).abs())) / (1 - t) ** 2
    ),
    "The mean of the square is wanted, not the square of the mean: square the tanh first, then average over `x0`.": (
        lambda t: (1 - _mean(_seen(t)) ** 2) / (1 - t) ** 2
    ),
    "That is a standard deviation: the floor is a variance.": (
        lambda t: _mean(torch.sqrt(1 - _seen(t) ** 2)) / (1 - t),
        lambda t: _floor(t).sqrt(),
    ),
    "This takes only the likeliest noise, `x0 = 0`. Average over `x0`.": (
        lambda t: (1 - torch.tanh((t / (1 - t)) ** 2) ** 2) / (1 - t) ** 2
    ),
    "That is the variance with `x1` quite unknown. The point `xt` knows something of it.": (
        lambda t: 1 / (1 - t) ** 2,
        lambda t: 1 / (1 - t),
    ),
    "2 is the mean square of the pairs' velocities: the floor and what can be learned, together.": lambda t: 2 + 0 * t,
    "That is the floor for one data point. Two pairs can pass a place here, one to each point.": lambda t: 0 * t,
}


@exercise(
    chapter=4, number=4, right="Right at all 50 times: what is still open about `x1`, over the square of the time left."
)
def two_point_floor(answer: Any) -> str | None:
    """Write `floor(t)`, the mean variance of the conditional velocity for the data -1 and +1 on the linear path."""
    points = [(t,) for t in torch.linspace(0.01, 0.75, 50, dtype=torch.float64)]
    return diagnose(answer, _floor, _FLOORS, points, tolerance=0.03)


@exercise(chapter=4, number=4, right="Right: there the time that is left runs out as fast as the doubt.")
def largest_floor(answer: Any) -> str | None:
    """Say at which time `t` the floor for the data -1 and +1 is largest."""
    mistakes: Mistakes = {
        "There it is 1, the variance of the data, and it still rises.": 0.0,
        "In the middle it falls already: it is 1.80 there, and 1.90 a little earlier.": 0.5,
        "That is how large it is. At which *time* is it so large?": (1.8965, 1.9),
        "The doubt is gone long before: both velocities meet only pairs that go one way.": 1.0,
        "That is the place in a list. The time is what the list of times has there.": tuple(range(5, 1000)),
        "The top is flat, and it lies a little off: take a finer grid, or more draws. Print three decimals.": (
            0.4, 0.41, 0.44, 0.45, 0.46
        ),
    }  # fmt: skip
    return number(answer, 0.42745, mistakes, tolerance=0.0175)  # from 0.42 to 0.435: 100 000 draws, two decimals
