"""The exercises of chapter 4 about the loss: written out, the noise of its gradient, and its best field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fmtutor.check._diagnose import agrees, diagnose, kind
from fmtutor.check._exercise import exercise
from fmtutor.check._predictions import Mistakes, number
from fmtutor.nets import VelocityMLP


def _point(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    return t * x1 + (1 - t) * x0


def _back(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * x1 + t * x0


def _loss(
    where: Callable[..., Tensor] = _point,
    target: Callable[..., Tensor] = lambda x0, x1, xt: x1 - x0,
    reduce: Callable[[Tensor], Tensor] = lambda error: error.square().mean(),
    across: bool = False,
    when: Callable[[Tensor], Tensor] = lambda t: t,
) -> Callable[..., Tensor]:
    """The loss with one part of it exchanged."""

    def loss(velocity: Any, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        xt = where(x0, x1, t if across else t[:, None])
        return reduce(velocity(when(t), xt) - target(x0, x1, xt))

    return loss


_LOSSES = {
    "The target is the velocity of the pair, from noise to data: yours, `x0 - x1`, points back to the noise, or "
    "stands behind a plus.": (_loss(target=lambda x0, x1, xt: x0 - x1)),
    "`x1 - xt` is the way that is left, and the pair moves at `x1 - x0`: divide it by the time that is left.": (
        _loss(target=lambda x0, x1, xt: x1 - xt)
    ),
    "`x1 - x0` is the whole way, and takes the whole time 1: it is `x1 - xt` that is divided by `1 - t`.": (
        lambda velocity, x0, x1, t: (
            (velocity(t, _point(x0, x1, t[:, None])) - (x1 - x0) / (1 - t[:, None])).square().mean()
        )
    ),
    "`xt - x0` is the way behind the pair; its velocity is the whole way, `x1 - x0`.": (
        _loss(target=lambda x0, x1, xt: xt - x0)
    ),
    "The target is a velocity: `x1` itself is a place.": _loss(target=lambda x0, x1, xt: x1),
    "The target is the noise here. That is another prediction; a velocity is the way from the noise to the data.": (
        _loss(target=lambda x0, x1, xt: x0),
        _loss(target=lambda x0, x1, xt: -x0),
    ),
    "The target is missing: this makes the field small, whatever the data are.": _loss(
        target=lambda x0, x1, xt: 0 * x1
    ),
    "Your path starts at the data. Here t = 0 is noise: `xt = t * x1 + (1 - t) * x0`.": _loss(where=_back),
    "Your path runs from data to noise, place and target alike. Here t = 0 is noise and t = 1 is data.": (
        _loss(where=_back, target=lambda x0, x1, xt: x0 - x1)
    ),
    "`t * (x1 - x0)` is the way behind the pair. It started at `x0`: `xt = x0 + t * (x1 - x0)`.": (
        _loss(where=lambda x0, x1, t: t * (x1 - x0))
    ),
    "These weights keep the variance, not the line: on the linear path the noise has `1 - t`.": (
        _loss(where=lambda x0, x1, t: t * x1 + (1 - t**2).sqrt() * x0),
        _loss(where=lambda x0, x1, t: t.sqrt() * x1 + (1 - t).sqrt() * x0),
    ),
    "The step from `x0` goes away from `x1`: `xt = x0 + t * (x1 - x0)`.": (
        _loss(where=lambda x0, x1, t: x0 - t * (x1 - x0))
    ),
    "The path goes on past `x1`: at t = 1 it has to be there.": _loss(where=lambda x0, x1, t: x1 + t * (x1 - x0)),
    "The noise does not fade on your path: it is `(1 - t) * x0`.": _loss(where=lambda x0, x1, t: t * x1 + x0),
    "The field was asked at the wrong place: it sees `xt`, and never `x1`.": _loss(where=lambda x0, x1, t: x1),
    "The field was asked at `x0`: it has to answer at `xt`, where the pair is at time t.": (
        _loss(where=lambda x0, x1, t: x0)
    ),
    "The field was asked at another time than that of the point: `velocity(t, xt)` has one `t` in both.": (
        _loss(when=lambda t: 1 - t),
        _loss(when=lambda t: 0 * t),
        _loss(when=lambda t: t.mean().expand(len(t))),
    ),
    "`t` was lined up with the coordinates, one time for each column. A time belongs to a pair: `t[:, None]`.": (
        _loss(across=True)
    ),
    "In one of the two places, at `x1`, `t` was lined up with the coordinates: `t[:, None]` is wanted in both.": (
        _loss(where=lambda x0, x1, t: t.flatten() * x1 + (1 - t) * x0)
    ),
    "In one of the two places, at `x0`, `t` was lined up with the coordinates: `t[:, None]` is wanted in both.": (
        _loss(where=lambda x0, x1, t: t * x1 + (1 - t.flatten()) * x0)
    ),
    "The error is not squared, so what is too much and what is too little cancel.": (
        _loss(reduce=lambda error: error.mean()),
        _loss(reduce=lambda error: -error.mean()),
    ),
    "The sign before it is turned: a loss is made small, and this one grows with every error.": (
        _loss(reduce=lambda error: -error.square().mean())
    ),
    "The field and the target are squared one by one: it is their *difference* that is squared.": (
        lambda velocity, x0, x1, t: (velocity(t, _point(x0, x1, t[:, None])).square() - (x1 - x0).square()).mean()
    ),
    "One number is wanted, the mean over all pairs: yours has one error for each.": (
        _loss(reduce=lambda error: error.square()),
        _loss(reduce=lambda error: error.square().mean(1)),
    ),
    "This is the length of all the errors together, a root of a sum: take the mean of their squares.": (
        _loss(reduce=lambda error: error.norm())
    ),
    "The mean is squared; square each error first, and average then.": _loss(
        reduce=lambda error: error.mean().square()
    ),
    "A square is missing: with absolute values the best field is a median of the targets, not their mean.": (
        _loss(reduce=lambda error: error.abs().mean())
    ),
    "A square is missing: with plain norms the best field is a geometric median of the targets, not their mean.": (
        _loss(reduce=lambda error: error.norm(dim=1).mean())
    ),
    "This is the root of the mean square. Its gradient is another one, scaled by what the loss happens to be: "
    "leave the root out.": _loss(reduce=lambda error: error.square().mean().sqrt()),
    "This is the sum over pairs and coordinates; the mean is asked for, so that it does not grow with the batch.": (
        _loss(reduce=lambda error: error.square().sum())
    ),
    "This sums over the coordinates. The mean over them is asked for too: `.mean()` of the whole tensor.": (
        _loss(reduce=lambda error: error.square().sum(1).mean())
    ),
    "This is divided by the number of pairs once too often: `.mean()` has done it.": (
        _loss(reduce=lambda error: error.square().mean() / len(error))
    ),
    "There is a factor 1/2 before it. It moves no minimum, but the floor and the losses of this page are without it.": (
        _loss(reduce=lambda error: error.square().mean() / 2)
    ),
}


@exercise(
    chapter=4, number=1, right="Right: the field at `(t, xt)` against `x1 - x0`, squared, and the mean of it all."
)
def cfm_loss(answer: Any) -> str | None:
    """Write `loss(velocity, x0, x1, t)`, the conditional flow matching loss on the linear path, as a mean."""
    velocity = _steep(VelocityMLP(dim=5, width=16, depth=1, frequencies=8))
    square, oblong = ([_pairs(velocity, n) for _ in range(4)] for n in (5, 12))
    if wrong := diagnose(answer, _loss(), _LOSSES, square):
        return wrong
    if not agrees(answer, _loss(), oblong):
        return (
            "Right with 5 pairs of 5 coordinates, and wrong with 12 pairs: each sum is divided by its own number. "
            "`.mean()` of the whole tensor does that, once over the pairs and once over the coordinates."
        )
    return _untrainable(answer, velocity, oblong[0])


@torch.no_grad()
def _steep(velocity: nn.Module) -> nn.Module:
    """A field that differs from place to place, so that another place shows."""
    for parameter in velocity.parameters():
        parameter.mul_(3)
    return velocity


def _pairs(velocity: nn.Module, n: int) -> tuple[Any, ...]:
    return velocity, torch.randn(n, 5), 1 + 2 * torch.randn(n, 5), torch.rand(n)


def _untrainable(answer: Any, velocity: nn.Module, args: tuple[Any, ...]) -> str | None:
    """Why no network learns from a loss whose value is right."""
    with torch.enable_grad():
        loss, truth = answer(*args), _loss()(*args)
        loss = loss.sum() if isinstance(loss, Tensor) else loss
    if not isinstance(loss, Tensor):
        return (
            f"The value is right, and it is {kind(loss)}: a plain number, after `.item()` or `float(...)`, remembers "
            "no network. Return the tensor, so that `loss.backward()` finds its way."
        )
    if not loss.requires_grad:
        return (
            "The value is right, and no network can learn from it: the tensor is cut off from the field, by "
            "`.detach()`, `.data`, `torch.no_grad()` or a new `torch.tensor(...)`. Leave that out."
        )
    parameters = list(velocity.parameters())
    given = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(truth, parameters)
    if not all(torch.allclose(g, w, rtol=1e-3, atol=1e-5) for g, w in zip(given, wanted, strict=True)):
        return "The value is right and its gradient is not: a part of it is cut off from the field, by `.detach()` say."
    return None


@exercise(
    chapter=4,
    number=2,
    right="Right: the noise shrinks as `1 / sqrt(N)`, so a tenth of it takes `10 ** 2` times the pairs.",
)
def batch_factor(answer: Any) -> str | None:
    """Say by which factor the batch must grow for the CFM gradient to come ten times closer to the FM gradient."""
    mistakes: Mistakes = {
        "That would do if the difference shrank as `1 / N`. It shrinks as `1 / sqrt(N)`.": 10.0,
        "Read it the other way round: ten times the batch comes `sqrt(10)` times closer.": (math.sqrt(10), 3.2, 3.0),
        "The batch has to grow, and this makes it smaller: turn it over.": 0.01,
        "Smaller batches are further off: by which factor must N *grow*?": (0.1, math.sqrt(0.1), 0.3),
        "That would be right for a difference that shrinks as the cube root: look at the slope on the plot.": 1000.0,
        "The factor is squared, not doubled: `1 / sqrt(N)` is a tenth where N is `10 ** 2` times as large.": 20.0,
        "That is a square too many, as if the difference shrank as the fourth root of N.": 10_000.0,
        "With the same batch the difference stays the same, on average.": 1.0,
    }
    return number(answer, 100.0, mistakes)


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


@exercise(
    chapter=4, number=3, right="Right: `a`, `c`, `e` change how much a place and a time count, never the mean there."
)
def same_field(answer: Any) -> str | None:
    """Say which of six changes to the loss, `a` to `f`, leave its best field as it is."""
    if isinstance(answer, list | tuple) and len(answer) == 6 and all(isinstance(stays, bool) for stays in answer):
        answer = dict(zip("abcdef", answer, strict=True))
    if isinstance(answer, Mapping):  # {"a": True, "b": False}
        answer = [letter for letter, stays in answer.items() if stays]
    parts = [answer] if isinstance(answer, str) else answer if isinstance(answer, Iterable) else []
    written = " ".join(map(str, parts)).lower()
    written = {"all": "abcdef", "none": "", "none of them": ""}.get(written.strip(" .!"), written)
    letters = set(re.sub(r"\b(and|only|just)\b|[\W_]", "", written))
    if not letters:
        if isinstance(answer, Iterable) and not callable(answer):
            return (
                "None of them? Three do: a change that counts some places or times more moves no mean at any of them."
            )
        came = "gave a function" if callable(answer) else f"wrote {answer!r}"
        return f"Answer with letters from a to f, such as 'bd'; you {came}."
    if unknown := letters - set(_CHANGES):
        return f"Answer with letters from a to f, such as 'bd'; you wrote {answer!r}, where {min(unknown)!r} is none."
    if letters == {"b", "d", "f"}:
        return "Those are the three that move it: which ones leave it alone?"
    wrong = [message for letter, (stays, message) in _CHANGES.items() if (letter in letters) != stays]
    more = f" ({len(wrong)} of the six letters are wrong.)" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}" if wrong else None
