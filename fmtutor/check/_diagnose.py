"""Tells a wrong answer's likely cause: it is compared with the truth, then with each typical wrong version.

The checks of every chapter are built from the two functions here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Points = Sequence[tuple[Any, ...]]


class Unusable(ValueError):
    """An answer that cannot be compared with numbers; the message says why."""


def diagnose(
    answer: Any,
    truth: Any,
    mistakes: Mapping[str, Any],
    points: Points = (),
    *,
    tolerance: float = 1e-4,
) -> str | None:
    """What is wrong with `answer`, or `None` if it agrees with `truth`.

    Args:
        answer: The reader's function or number.
        truth: The right one. Its parameters' names are used in messages.
        mistakes: Message -> the wrong version that it explains, a function or number like `truth`. First match wins.
        points: The arguments of each call. Without any, `answer`, `truth` and the mistakes are compared as numbers.
        tolerance: Error allowed, relative to the size of the truth.

    Example:
        >>> doubled = {"You doubled it: count each pair once.": lambda t: 2 * t**2}
        >>> diagnose(lambda t: 2 * t**2, lambda t: t**2, doubled, [(torch.tensor(0.5),), (torch.tensor(1.0),)])
        'You doubled it: count each pair once.'
        >>> diagnose(lambda t: t * t, lambda t: t**2, doubled, [(torch.tensor(0.5),)]) is None
        True
    """
    wanted = _values(truth, points)
    try:
        given = _values(answer, points)
    except Unusable as error:
        return str(error)
    if _agree(given, wanted, wanted, tolerance):
        return None
    for message, wrong in mistakes.items():
        if _agree(given, _values(wrong, points), wanted, tolerance):
            return message
    return (
        _shape_or_nan(given, wanted)
        or _pattern(given, wanted, tolerance)
        or _largest_error(given, wanted, truth, points)
    )


def choose(answer: Any, right: str, mistakes: Mapping[str, str]) -> str | None:
    """What is wrong with a prediction picked from a few words, or `None` if it is `right`.

    Args:
        answer: The reader's pick; case and surrounding space do not count.
        right: The right word.
        mistakes: Wrong word -> why it is wrong.

    Example:
        >>> choose("Zero", "3.75", {"zero": "Then every pair through a point would share one velocity."})
        'Then every pair through a point would share one velocity.'
        >>> choose("maybe", "3.75", {"zero": "..."})
        "Pick one of '3.75', 'zero'; you wrote 'maybe'."
    """
    if callable(answer):
        return f"A few words are wanted here, you gave {_kind(answer)}."
    pick = str(answer).strip().lower()
    if pick == right.lower():
        return None
    known = {word.lower(): message for word, message in mistakes.items()}
    options = ", ".join(map(repr, sorted([right, *mistakes])))
    return known.get(pick, f"Pick one of {options}; you wrote {str(answer)!r}.")


def _values(function: Any, points: Points) -> list[Tensor]:
    """What `function` returns at each point, in float64; arguments are copies, so that an answer may overwrite them."""
    if not points:
        return [_alone(_number(function))]
    if not callable(function):
        raise Unusable(f"A function is wanted here, you gave {_kind(function)}.")
    return [_number(function(*(a.clone() if isinstance(a, Tensor) else a for a in args))) for args in points]


def _kind(value: Any) -> str:
    return "a function: call it" if inspect.isroutine(value) else f"a {type(value).__name__}"


def _number(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise Unusable(f"A number or a tensor is wanted here, your answer is {_kind(value)}.") from None
    if value.numel() == 1 and not value.is_floating_point() and value.dtype != torch.bool:  # a count
        value = value.double()
    if not value.is_floating_point():
        raise Unusable(f"Your answer holds {value.dtype}; floating-point numbers are wanted.")
    return value.detach().cpu().double()


def _alone(value: Tensor) -> Tensor:
    """A single number as such, in however many brackets it came."""
    return value.reshape(()) if value.numel() == 1 else value


def _agree(given: list[Tensor], other: list[Tensor], wanted: list[Tensor], tolerance: float) -> bool:
    """Whether two answers are one, with the size of `wanted` as the scale."""
    if [g.shape for g in given] != [o.shape for o in other]:
        return False
    scale = torch.cat([w.flatten() for w in wanted]).square().mean().sqrt().item() or 1.0
    return all(
        torch.allclose(g, o, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
        for g, o in zip(given, other, strict=True)
    )


def _shape_or_nan(given: list[Tensor], wanted: list[Tensor]) -> str | None:
    for g, w in zip(given, wanted, strict=True):
        if g.shape != w.shape:
            return f"Your answer has shape {tuple(g.shape)}, shape {tuple(w.shape)} is wanted."
    numbers = torch.cat([g.flatten() for g in given])
    if bad := int((~numbers.isfinite()).sum()):
        return (
            f"Your answer is NaN or infinite in {bad} of {len(numbers)} places: look for a division by zero, "
            "a logarithm or root of something that is not positive, or an exponential that overflows."
        )
    return None


def _pattern(given: list[Tensor], wanted: list[Tensor], tolerance: float) -> str | None:
    """A wrong sign, factor or offset, which needs no list of mistakes to be seen."""
    g, w = (torch.cat([part.flatten() for part in parts]) for parts in (given, wanted))
    if len(g) < 3 or not w.any():
        return None
    factor = ((g @ w) / (w @ w)).item()
    if factor and _agree([g], [factor * w], wanted, tolerance):
        if abs(factor + 1) < 10 * tolerance:
            return "The size is right everywhere and the sign is wrong everywhere."
        if abs(factor - 1) < 0.03:
            return (
                f"Very close: yours is {factor:.5g} times the right answer everywhere. Is something in it rounded, or "
                "an average of random numbers where the exact one can be had?"
            )
        return f"Right up to a factor: yours is {factor:.4g} times the right answer everywhere."
    offset = (g - w).mean()
    if _agree([g], [w + offset], wanted, tolerance):
        return f"Right up to a constant: yours is the right answer {offset.item():+.4g} everywhere."
    return None


def _largest_error(given: list[Tensor], wanted: list[Tensor], truth: Any, points: Points) -> str:
    """The size of the error, and where it is largest."""
    call = max(range(len(given)), key=lambda i: (given[i] - wanted[i]).abs().max().item())
    g, w = given[call], wanted[call]
    flat = int((g - w).abs().argmax())
    row = int(torch.unravel_index(torch.tensor(flat), g.shape)[0]) if g.dim() else 0
    error = (g - w).flatten()[flat].abs().item()
    values = f"yours is {g.flatten()[flat].item():.4g}, right is {w.flatten()[flat].item():.4g}"
    if not points:
        return f"Off by {error:.3g}: {values}." if g.dim() else f"Off by {error:.3g}: look at it again."
    names = list(inspect.signature(truth).parameters)
    numbers = [(n, a) for n, a in zip(names, points[call], strict=False) if not callable(a)]
    if g.dim() == 0 and any(torch.as_tensor(a).numel() > 4 for _, a in numbers):  # no place: one number for them all
        return f"Off by up to {error:.3g}: {values}."
    place = ", ".join(f"`{n}` = {_row(a, row, g)}" for n, a in numbers)
    return f"Off by up to {error:.3g}. It is furthest off at {place}: {values}."


def _row(argument: Any, row: int, out: Tensor) -> str:
    """The part of an argument that belongs to one row of the output, short enough for a message."""
    value = torch.as_tensor(argument)
    if value.dim() and out.dim() and len(value) == len(out):
        value = value[row]
    numbers = [f"{v:.3g}" for v in value.flatten()[:4].tolist()]
    return numbers[0] if value.dim() == 0 else f"[{', '.join(numbers)}{', …' if value.numel() > 4 else ''}]"
