"""Checks of the exercises of chapter 9: a guided batch, hidden labels, how far one can tilt, a bill, and a posterior.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import number

__all__ = ["expected_coordinate", "guided_batch", "guided_passes", "hide_labels", "largest_weight"]

Mix = Callable[[Tensor, Tensor, Any], Tensor]


def _labelled(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """A field with a label that insists on one whole number for each point, as a network does; t is one or one each."""
    whole = isinstance(label, Tensor) and label.dtype in (torch.int16, torch.int32, torch.int64)
    if not whole or label.shape != x.shape[:1]:
        came = f"{label.dtype} of shape {tuple(label.shape)}" if isinstance(label, Tensor) else repr(label)
        raise ValueError(f"label must hold one whole number for each of the {len(x)} images, got {came}")
    t, rows = torch.as_tensor(t), (-1, *[1] * (x.dim() - 1))
    if t.dim() and t.shape != x.shape[:1]:
        raise ValueError(f"t must be one time, or one for each of the {len(x)} images, got shape {tuple(t.shape)}")
    each = label.to(x).reshape(rows)
    return torch.sin(2 * x + each) + t.reshape(rows if t.dim() else ()) * (1 + each) ** 1.5


def _asked(mix: Mix, null: Callable[[Tensor, int], Tensor] = lambda label, null: torch.full_like(label, null)) -> Any:
    """A mixture of the two answers, the labelled one first."""

    def guided(velocity: Any, t: Tensor, x: Tensor, label: Tensor, none: int, w: float) -> Tensor:
        return mix(velocity(t, x, label), velocity(t, x, null(label, none)), w)

    return guided


def _guided(velocity: Any, t: Tensor, x: Tensor, label: Tensor, null: int, w: float) -> Tensor:
    free = velocity(t, x, torch.full_like(label, null))
    return free + w * (velocity(t, x, label) - free)


_GUIDED = {
    "That is the other convention, `(1 + w) v(label) - w v(null)`: here w = 1 is the labelled field itself.": (
        _asked(lambda y, free, w: (1 + w) * y - w * free)
    ),
    "The two fields are exchanged: the weight w belongs to the labelled one.": (
        _asked(lambda y, free, w: w * free + (1 - w) * y)
    ),
    "The field without a label is missing: `w * (v(label) - v(null))` is what is added to it.": (
        _asked(lambda y, free, w: w * (y - free))
    ),
    "That is the labelled field, w times as fast. The other one is subtracted: its weight is `1 - w`.": (
        _asked(lambda y, free, w: w * y)
    ),
    "That is the labelled field alone, which guidance is only at w = 1.": _asked(lambda y, free, w: y),
    "That is the field without a label alone, which guidance is only at w = 0.": _asked(lambda y, free, w: free),
    "The two weights have to add up to 1: `1 - w` and `w`, and `1 - w` is negative for w above 1.": (
        _asked(lambda y, free, w: (w - 1) * free + w * y),
        _asked(lambda y, free, w: (1 + w) * free + w * y),
        _asked(lambda y, free, w: free + w * y),
    ),
    "w is not 1 / 2: that is the mean of the two fields.": _asked(lambda y, free, w: (y + free) / 2),
    "The step goes the wrong way: away from the label. It is `v(label) - v(null)` that is multiplied by w.": (
        _asked(lambda y, free, w: free - w * (y - free))
    ),
    "`null` was not used: class 0 stands in its place, and 0 is a class like any other.": (
        _asked(lambda y, free, w: (1 - w) * free + w * y, lambda label, null: torch.zeros_like(label))
    ),
    "Every image has a label of its own; yours all have the first.": (
        lambda velocity, t, x, label, null, w: _guided(velocity, t, x, label[:1].expand(len(x)), null, w)
    ),
    "Each image got the label of another one: `label` is in the order of the images, so leave it in its order.": tuple(
        lambda velocity, t, x, label, null, w, move=move: _guided(velocity, t, x, move(label), null, w)
        for move in (
            lambda label: label.flip(0),
            lambda label: label.roll(1),
            lambda label: label.roll(-1),
            lambda label: label.sort().values,
        )
    ),
    "Nothing is cut off at w = 1: a weight above 1 is the whole point.": (
        _asked(lambda y, free, w: free + min(w, 1.0) * (y - free))
    ),
}


@exercise(chapter=9, number=1, right="Right: ask twice, and go past the labelled field, away from the other one.")
def guided_batch(answer: Any) -> str | None:
    """Write `guided(velocity, t, x, label, null, w)`, the guided velocity of a batch with a label for each image."""

    def place(n: int, w: float) -> tuple[Any, ...]:
        label = 1 + torch.randperm(7)[:n]
        return _labelled, torch.rand(()), torch.randn(n, 1, 4, 4), label, 9, w + 0.5 * torch.rand(()).item()

    return diagnose(answer, _guided, _GUIDED, [place(6, 1.2), place(4, 2.5), place(5, 0.3)])


def _hidden(hide: Callable[[Tensor, float], Tensor]) -> Any:
    return lambda label, null, p, u: torch.where(hide(u, p), null, label).double()


_HIDDEN = {
    "Nothing is hidden.": lambda label, null, p, u: label.double(),
    "Everything is hidden: compare `u` with `p`.": lambda label, null, p, u: torch.full_like(label, null).double(),
    "Those are the ones to keep: you hide a label with probability `1 - p`.": (
        _hidden(lambda u, p: u > p),
        _hidden(lambda u, p: u < 1 - p),
    ),
    "The share is right, and it is where `u` is large that you hide. Hide where it is small.": (
        _hidden(lambda u, p: u > 1 - p)
    ),
    "One number decided for the whole batch. Right on average, but each label is to have its own draw.": (
        _hidden(lambda u, p: (u[:1] < p).expand(len(u))),
        _hidden(lambda u, p: (u[-1:] < p).expand(len(u))),
        _hidden(lambda u, p: (u.mean() < p).expand(len(u))),
    ),
    "A hidden label became 0, and 0 is a class like any other. Put `null` there.": (
        lambda label, null, p, u: torch.where(u < p, 0, label).double()
    ),
    "A hidden label became -1. The number that stands for none is `null`.": (
        lambda label, null, p, u: torch.where(u < p, -1, label).double()
    ),
    "`null` was added to the label, and not put in its place.": (
        lambda label, null, p, u: (label + null * (u < p)).double()
    ),
    "The label was multiplied by `null`, and not replaced by it.": (
        lambda label, null, p, u: torch.where(u < p, null * label, label).double()
    ),
    "The first `p` of the batch are hidden, always the same places: `u` says which.": (
        lambda label, null, p, u: torch.where(torch.arange(len(label)) < p * len(label), null, label).double()
    ),
    "That is which of them are to be hidden, as 0 and 1. The labels are asked for, with `null` among them.": (
        lambda label, null, p, u: (u < p).double(),
        lambda label, null, p, u: (u >= p).double(),
    ),
    "You hide exactly a share `p` of each batch, those with the least `u`. Each label is to have its own draw, and "
    "chance then says how many are hidden.": (
        _hidden(lambda u, p: u.argsort().argsort() < round(p * len(u))),
        _hidden(lambda u, p: u.argsort().argsort() < math.ceil(p * len(u))),
    ),
    "Half of them are hidden, whatever `p` is.": _hidden(lambda u, p: u < 0.5),
}


def _as_floats(answer: Any) -> Any:
    """The answer, with whole numbers as floats, so that they can be compared like any others."""
    if not callable(answer):
        return answer

    @functools.wraps(answer, updated=())
    def hide(label: Tensor, null: int, p: float, u: Tensor) -> Any:
        out = answer(label, null, p, u)
        return out if isinstance(out, tuple | type(None)) else torch.as_tensor(out).double()

    return hide


@exercise(chapter=9, number=2, right="Right: each label has its own draw, and `null` is no class.")
def hide_labels(answer: Any) -> str | None:
    """Write `hide(label, null, p, u)`: the labels, each replaced by `null` with probability `p`, by uniform `u`."""
    few, many = _labels(40, 10), _labels(30, 12)
    low = torch.cat([0.4 * _uniform(14), 0.4 + 0.6 * _uniform(6)])[torch.randperm(20)]  # 14 of 20 below p, and not 8
    points = [(*few, 0.2, _uniform(40)), (*many, 0.7, _uniform(30).flip(0)), (*_labels(20, 11), 0.4, low)]
    return diagnose(_as_floats(answer), _hidden(lambda u, p: u < p), _HIDDEN, points)


def _labels(n: int, null: int) -> tuple[Tensor, int]:
    return 1 + torch.randint(9, (n,)), null


def _uniform(n: int) -> Tensor:
    """Uniform numbers, evenly spread, the least of them first and the largest last, the others shuffled."""
    u = (torch.arange(n) + torch.rand(n)) / n
    return torch.cat([u[:1], u[1:-1][torch.randperm(n - 2)], u[-1:]])


_LARGEST = {
    "One less than it should be: `b` stands above the line, or 1 was taken off for the other convention.": (
        lambda a, b: b / (a - b)
    ),
    "The sign is turned: `a` is the larger one, and the weight is positive.": (
        lambda a, b: a / (b - a),
        lambda a, b: b / (b - a),
    ),
    "At w = a / b the precision is `(2 * b - a) / b ** 2`, and you want the w at which it is 0. Solve "
    "`w / a + (1 - w) / b = 0` for w.": lambda a, b: a / b,
    "At w = b / a all is well. Solve `w / a + (1 - w) / b = 0` for w.": lambda a, b: b / a,
    "Twice as large variances should change nothing, and they halve yours: multiply by `a`.": lambda a, b: 1 / (a - b),
    "Twice as large variances should change nothing, and they double yours: divide by `b`.": (
        lambda a, b: a * b / (a - b)
    ),
    "It is upside down: yours is one over the right answer.": lambda a, b: (a - b) / a,
    "That is how far the variances are apart. In `a - w * (a - b) > 0` it stands beside w: divide `a` by it.": (
        lambda a, b: a - b
    ),
    "That would be right if a and b were standard deviations. They are variances.": lambda a, b: a**2 / (a**2 - b**2),
    "a and b are variances already: take no root.": lambda a, b: a**0.5 / (a**0.5 - b**0.5),
    "A sign: in `w * b + (1 - w) * a > 0` the w of the second term is subtracted.": (
        lambda a, b: a / (a + b),
        lambda a, b: b / (a + b),
    ),
    "The sum of the two stands above the line, and only `a` should.": lambda a, b: (a + b) / (a - b),
    "That is the variance at weight 1, where all is well. How large may w be?": lambda a, b: a + 0 * b,
    "That is half of it.": lambda a, b: a / (2 * (a - b)),
    "That is twice as much as it should be.": lambda a, b: 2 * a / (a - b),
    "There the precision is 1, and it may come down to 0.": lambda a, b: a * (1 - b) / (a - b),
}


@exercise(chapter=9, number=3, right="Right: from there on the exponent no longer falls, and the flow does not notice.")
def largest_weight(answer: Any) -> str | None:
    """Write `largest_weight(a, b)`, below which w must stay for the tilted density of two Gaussians to exist."""
    points = [(b * (1.2 + 2 * torch.rand(6)), b) for b in (0.3 + torch.rand(6), 0.3 + torch.rand(6))]
    return diagnose(answer, lambda a, b: a / (a - b), _LARGEST, points)


@exercise(chapter=9, number=4, right="Right: once at each of 32 times, and once more at the 17 in the interval.")
def guided_passes(answer: Any) -> str | None:
    """Say how many times an image goes through the network in 16 midpoint steps with guidance for 0.25 <= t <= 0.75."""
    mistakes: dict[str, float | tuple[float, ...]] = {
        "That is without guidance: where it is on, there are two passes.": 32.0,
        "That is with guidance all the way.": 64.0,
        "Both ends of the interval are in it: one time too few.": 48.0,
        "The midpoint method looks twice in a step, at its start and in its middle.": (24.0, 25.0, 16.0),
        "Those are the times with guidance. The others count, once each.": 17.0,
        "Those are the passes at the times with guidance. The others count, once each.": 34.0,
        "Outside the interval an image still goes through once, for the labelled field.": (33.0, 15.0),
        "One time too many. At t = 1 no velocity is asked for: the last time is 31 / 32.": (50.0, 65.0),
        "At t = 1 no velocity is asked for: there are 32 times, not 33. And guidance is not on all the way.": 66.0,
        "That is 32 + 8, for 8 steps in the interval. *Times* count: two in each step, and both its ends.": 40.0,
        "You counted all of it twice: two passes belong to the times in the interval alone.": 98.0,
        "Neither end was counted, and both are in the interval.": 47.0,
    }
    named = {n for wrong in mistakes.values() for n in (wrong if isinstance(wrong, tuple) else (wrong,))} | {49.0}
    message = "Less 32, it should be how many of the times 0, 1/32, ..., 31/32 are in the interval. Count them again."
    mistakes[message] = tuple(float(n) for n in range(33, 64) if n not in named)
    return number(answer, 49.0, mistakes, known=1e-3)


def _posterior(weigh: Callable[[Tensor, Any, Any], Tensor], seen: int = 1, wanted: int = 0) -> Any:
    """The mean of one coordinate under weights that are a function of the distances in the other."""

    def expected(c: Tensor, means: Tensor, s: float, r: float) -> Tensor:
        return weigh(c[:, None] - means[:, seen], s, r) @ means[:, wanted]

    return expected


def _normal(variance: Callable[[float, float], float], factor: float = 2) -> Any:
    return lambda d, s, r: torch.softmax(-(d**2) / (factor * variance(s, r)), 1)


def _weights(c: Tensor, at: Tensor, s: float, r: float) -> Tensor:
    """Of each bump, given each `c`, with the bumps' second coordinates `at`: (n, 2)."""
    return torch.softmax(-((c[:, None] - at) ** 2) / (2 * (s**2 + r**2)), 1)


def _expected(c: Tensor, means: Tensor, s: float, r: float) -> Tensor:
    return _weights(c, means[:, 1], s, r) @ means[:, 0]


_COORDINATE: dict[str, Any] = {
    "The noise of what is told was forgotten: the variances add up, `s ** 2 + r ** 2`.": (
        _posterior(_normal(lambda s, r: s**2))
    ),
    "Only the noise of what is told was counted. The bump is `s` wide too: the variances add up.": (
        _posterior(_normal(lambda s, r: r**2))
    ),
    "Standard deviations do not add up, variances do: `s ** 2 + r ** 2`.": (
        _posterior(_normal(lambda s, r: (s + r) ** 2))
    ),
    "`s` and `r` are standard deviations: square them, both.": (
        _posterior(_normal(lambda s, r: s + r)),
        _posterior(_normal(lambda s, r: s**2 + r)),
        _posterior(_normal(lambda s, r: s + r**2)),
    ),
    "The 2 of the normal density is missing in the exponent.": _posterior(_normal(lambda s, r: s**2 + r**2, 1)),
    "The root is too much: what stands in the exponent is the variance.": (
        _posterior(_normal(lambda s, r: (s**2 + r**2) ** 0.5))
    ),
    "The distance goes in with its square.": (
        _posterior(lambda d, s, r: torch.softmax(-d.abs() / (2 * (s**2 + r**2)), 1)),
        _posterior(lambda d, s, r: torch.softmax(-d.abs() / (s**2 + r**2) ** 0.5, 1)),
    ),
    "The sign in the exponent: the bump that is *farther* from `c` got the larger weight.": (
        _posterior(lambda d, s, r: torch.softmax(d**2 / (2 * (s**2 + r**2)), 1))
    ),
    "The two coordinates are exchanged: it is the second one of which `c` tells.": (
        _posterior(_normal(lambda s, r: s**2 + r**2), 0, 1)
    ),
    "That is the mean of the *second* coordinate of the bumps, and the first is asked for.": (
        _posterior(_normal(lambda s, r: s**2 + r**2), 1, 1)
    ),
    "`c` was compared with the first coordinates, and it tells of the second.": (
        _posterior(_normal(lambda s, r: s**2 + r**2), 0, 0)
    ),
    "That is the nearer bump alone. Both are possible: weigh them.": (
        _posterior(lambda d, s, r: (d.abs() == d.abs().amin(1, keepdim=True)).to(d))
    ),
    "The softmax runs over the wrong axis: for each `c`, the weights of the *bumps* add up to 1, `dim=1`.": (
        _posterior(lambda d, s, r: torch.softmax(-(d**2) / (2 * (s**2 + r**2)), 0))
    ),
    "A row of `means` is a bump, and its two coordinates are the columns. You have rows in place of columns.": (
        lambda c, means, s, r: _expected(c, means.T, s, r),
        lambda c, means, s, r: _weights(c, means[:, 1], s, r) @ means[0],
        lambda c, means, s, r: _weights(c, means[1], s, r) @ means[:, 0],
    ),
    "That is the weight of one bump. The mean is still to come: both weights, times the first coordinates, added.": (
        lambda c, means, s, r: _weights(c, means[:, 1], s, r)[:, 0],
        lambda c, means, s, r: _weights(c, means[:, 1], s, r)[:, 1],
    ),
    "That is the mean without knowing `c`.": _posterior(lambda d, s, r: torch.full_like(d, 0.5)),
    "The weights do not add up to 1: divide by their sum.": (
        _posterior(lambda d, s, r: torch.exp(-(d**2) / (2 * (s**2 + r**2))))
    ),
}


@exercise(chapter=9, number=5, right="Right: Bayes' rule with `s ** 2 + r ** 2`, and within a bump nothing is learned.")
def expected_coordinate(answer: Any) -> str | None:
    """Write `expected(c, means, s, r)`: the mean of a first coordinate, the second being told with noise."""

    def place(n: int) -> tuple[Any, ...]:
        means = torch.tensor([[-1.5, 0.6], [1.1, -0.4]]) + 0.3 * torch.rand(2, 2)
        return torch.linspace(-1.5, 1.5, n), means, 0.4 + 0.2 * torch.rand(()).item(), 0.7 + 0.2 * torch.rand(()).item()

    if wrong := diagnose(answer, _expected, _COORDINATE, [place(9), place(9)]):
        return wrong
    if diagnose(answer, _expected, {}, [place(2)]):
        return "Right for 9 values of `c` and not for 2: with as many values as bumps, a wrong axis raises no error."
    return None
