"""Checks of the exercises of chapter 4, conditional flow matching: equal gradients and the floor of the loss.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fmtutor.check._diagnose import diagnose
from fmtutor.check._exercise import exercise
from fmtutor.nets import VelocityMLP

__all__ = ["batch_factor", "cfm_loss", "same_field", "two_point_floor"]


@exercise(chapter=4, right="Right: the field at `(t, xt)` against `x1 - x0`, squared, and the mean of it all.")
def cfm_loss(answer: Any) -> str | None:
    """Write `loss(velocity, x0, x1, t)`, the conditional flow matching loss on the linear path, as a mean."""
    if not callable(answer):
        return f"A function is wanted here, you gave a {type(answer).__name__}."
    velocity = VelocityMLP(dim=5, width=16, depth=1, frequencies=8)
    points = [(torch.randn(5, 5), 1 + 2 * torch.randn(5, 5), torch.rand(5)) for _ in range(4)]

    def loss(
        where: Callable[..., Tensor] = lambda x0, x1, t: t * x1 + (1 - t) * x0,
        target: Callable[..., Tensor] = lambda x0, x1, xt: x1 - x0,
        reduce: Callable[[Tensor], Tensor] = lambda error: error.square().mean(),
        across: bool = False,
    ) -> Callable[..., Tensor]:
        def value(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
            xt = where(x0, x1, t if across else t[:, None])
            return reduce(velocity(t, xt) - target(x0, x1, xt))

        return value

    def reversed_time(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        return (1 - t) * x1 + t * x0

    mistakes = {
        "The target is the velocity of the pair, from noise to data: yours, `x0 - x1`, points back to the noise.": (
            loss(target=lambda x0, x1, xt: x0 - x1)
        ),
        "`x1 - xt` is the way that is left, and the pair moves at `x1 - x0`: divide it by the time that is left.": loss(
            target=lambda x0, x1, xt: x1 - xt
        ),
        "`xt - x0` is the way behind the pair; its velocity is the whole way, `x1 - x0`.": (
            loss(target=lambda x0, x1, xt: xt - x0)
        ),
        "The target is a velocity: `x1` itself is a place.": loss(target=lambda x0, x1, xt: x1),
        "Your path starts at the data. Here t = 0 is noise: `xt = t * x1 + (1 - t) * x0`.": loss(where=reversed_time),
        "Your path runs from data to noise, place and target alike. Here t = 0 is noise and t = 1 is data.": (
            loss(where=reversed_time, target=lambda x0, x1, xt: x0 - x1)
        ),
        "The field was asked at the wrong place: it sees `xt`, and never `x1`.": loss(where=lambda x0, x1, t: x1),
        "The field was asked at `x0`: it has to answer at `xt`, where the pair is at time t.": (
            loss(where=lambda x0, x1, t: x0)
        ),
        "`t` was lined up with the coordinates, one time for each column. A time belongs to a pair: `t[:, None]`.": (
            loss(across=True)
        ),
        "In one of the two places, at `x1`, `t` was lined up with the coordinates: `t[:, None]` is wanted in both.": (
            loss(where=lambda x0, x1, t: t.flatten() * x1 + (1 - t) * x0)
        ),
        "In one of the two places, at `x0`, `t` was lined up with the coordinates: `t[:, None]` is wanted in both.": (
            loss(where=lambda x0, x1, t: t * x1 + (1 - t.flatten()) * x0)
        ),
        "A square is missing: with absolute values the best field is a median of the targets, not their mean.": (
            loss(reduce=lambda error: error.abs().mean())
        ),
        "A square is missing: with plain norms the best field is a geometric median of the targets, not their mean.": (
            loss(reduce=lambda error: error.norm(dim=1).mean())
        ),
        "This is the root of the mean square. Its gradient is another one, scaled by what the loss happens to be: "
        "leave the root out.": loss(reduce=lambda error: error.square().mean().sqrt()),
        "This is the sum over pairs and coordinates; the mean is asked for, so that it does not grow with the batch.": (
            loss(reduce=lambda error: error.square().sum())
        ),
        "This sums over the coordinates. The mean over them is asked for too: `.mean()` of the whole tensor.": (
            loss(reduce=lambda error: error.square().sum(1).mean())
        ),
    }
    return diagnose(partial(answer, velocity), loss(), mistakes, points)


@exercise(
    chapter=4, right="Right: the noise shrinks as `1 / sqrt(N)`, so a tenth of it takes `10 ** 2` times the pairs."
)
def batch_factor(answer: Any) -> str | None:
    """Say by which factor the batch must grow for the CFM gradient to come ten times closer to the FM gradient."""
    mistakes = {
        "That would do if the difference shrank as `1 / N`. It shrinks as `1 / sqrt(N)`.": 10.0,
        "Read it the other way round: ten times the batch comes `sqrt(10)` times closer.": math.sqrt(10),
        "The batch has to grow, and this makes it smaller: turn it over.": 0.01,
        "Smaller batches are further off: by which factor must N *grow*?": 0.1,
        "That would be right for a difference that shrinks as the cube root: look at the slope on the plot.": 1000.0,
    }
    return diagnose(answer, 100.0, mistakes)


_CHANGES = {
    "a": (True, "`a` is missing: a constant factor on the loss moves no minimum."),
    "b": (False, "`b` does move it: without the square the best answer to many targets is a median of theirs."),
    "c": (True, "`c` is missing: its weight is the same for all pairs at one `(t, x)`, so the mean there stays."),
    "d": (
        False,
        "`d` does move it: the mean of `x1 - xt` is `1 - t` times the field, and a flow along it stops short.",
    ),
    "e": (True, "`e` is missing: asking more often at late times changes no answer at any one time."),
    "f": (False, "`f` does move it: among the pairs at one `(t, x)`, those with a far `x1` count more: no plain mean."),
}


@exercise(chapter=4, right="Right: `a`, `c`, `e` change how much a place and a time count, never the mean there.")
def same_field(answer: Any) -> str | None:
    """Say which of six changes to the loss, `a` to `f`, leave its best field as it is."""
    parts = [answer] if isinstance(answer, str) else answer if isinstance(answer, Iterable) else []
    letters = set(re.sub(r"\band\b|[\s,;/&+]", "", " ".join(map(str, parts)).lower()))
    if not letters:
        came = "gave a function" if callable(answer) else f"wrote {answer!r}"
        return f"Answer with letters from a to f, such as 'bd'; you {came}."
    if unknown := letters - set(_CHANGES):
        return f"Answer with letters from a to f, such as 'bd'; you wrote {answer!r}, where {min(unknown)!r} is none."
    wrong = [message for letter, (stays, message) in _CHANGES.items() if (letter in letters) != stays]
    more = f" ({len(wrong)} of the six letters are wrong.)" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}" if wrong else None


@exercise(chapter=4, right="Right at all 50 times: what is still open about `x1`, over the square of the time left.")
def two_point_floor(answer: Any) -> str | None:
    """Write `floor(t)`, the mean variance of the conditional velocity for the data -1 and +1 on the linear path."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    weight = torch.softmax(-(z**2) / 2, 0)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum()

    def seen(t: Any) -> Tensor:
        s = t / (1 - t)
        return torch.tanh(s**2 + s * z)  # E[x1 | xt] at xt = t + (1 - t) z

    points = [(t,) for t in torch.linspace(0.01, 0.75, 50, dtype=torch.float64)]
    mistakes = {
        "That is the variance of `x1` given `xt`. The velocity is `(x1 - x) / (1 - t)`: a factor goes into a variance "
        "squared.": lambda t: 1 - mean(seen(t) ** 2),
        "A factor `1 / (1 - t)` goes into a variance squared: divide by `(1 - t) ** 2`.": (
            lambda t: (1 - mean(seen(t) ** 2)) / (1 - t)
        ),
        "This is the part that `xt` gives away, the variance of the mean. The floor is the rest of the variance 1.": (
            lambda t: mean(seen(t) ** 2) / (1 - t) ** 2
        ),
        "This leaves the data out of `xt`: it is `t * x1 + (1 - t) * z`, and `x1 = 1` may stand for both points.": (
            lambda t: (1 - mean(torch.tanh(t / (1 - t) * z) ** 2)) / (1 - t) ** 2
        ),
        "`xt` is not `z` alone: it is `t * x1 + (1 - t) * z`, and `x1 = 1` may stand for both points.": (
            lambda t: (1 - mean(torch.tanh(t * z / (1 - t) ** 2) ** 2)) / (1 - t) ** 2
        ),
        "The mean of the square is wanted, not the square of the mean: square the tanh first, then average over z.": (
            lambda t: (1 - mean(seen(t)) ** 2) / (1 - t) ** 2
        ),
        "That is a standard deviation: the floor is a variance.": (
            lambda t: mean(torch.sqrt(1 - seen(t) ** 2)) / (1 - t)
        ),
        "This takes only the likeliest noise, z = 0. Average over z.": (
            lambda t: (1 - torch.tanh((t / (1 - t)) ** 2) ** 2) / (1 - t) ** 2
        ),
        "That is the variance with `x1` quite unknown. The point `xt` knows something of it.": (
            lambda t: 1 / (1 - t) ** 2
        ),
        "2 is the mean square of the pairs' velocities: the floor and what can be learned, together.": (
            lambda t: 2 + 0 * t
        ),
    }
    return diagnose(answer, lambda t: (1 - mean(seen(t) ** 2)) / (1 - t) ** 2, mistakes, points, tolerance=0.03)
