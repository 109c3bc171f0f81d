"""Tells a wrong function's likely cause: it is compared with the truth, then with each typical wrong version.

The checks of every chapter are built from `diagnose`, and from `choose` and `number` in `_predictions`.
"""

from __future__ import annotations

import inspect
import itertools
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
    points: Points,
    *,
    tolerance: float = 1e-4,
    rows: bool = False,
) -> str | None:
    """What is wrong with the function `answer`, or `None` if it agrees with `truth`.

    Args:
        answer: The reader's function.
        truth: The right one. Its parameters' names are used in messages.
        mistakes: Message -> the wrong version that it explains, or a tuple of versions. First match wins.
        points: The arguments of each call.
        tolerance: Error allowed at each place, relative to the truth there or to the root mean square of the truth
            over all points, whichever is larger.
        rows: One number for each row is asked for, so a column of them will do.

    Example:
        >>> doubled = {"You doubled it: count each pair once.": lambda t: 2 * t**2}
        >>> diagnose(lambda t: 2 * t**2, lambda t: t**2, doubled, [(torch.tensor(0.5),), (torch.tensor(1.0),)])
        'You doubled it: count each pair once.'
        >>> diagnose(lambda t: t * t, lambda t: t**2, doubled, [(torch.tensor(0.5),)]) is None
        True
    """
    wanted = _values(truth, points)
    try:
        given = _unwrapped(_values(answer, points), wanted, rows)
    except Unusable as error:
        return str(error)
    except Exception:
        if turned := _turned(answer, truth):
            return turned
        raise
    if _agree(given, wanted, wanted, tolerance):
        return None
    for message, wrong in mistakes.items():
        versions = wrong if isinstance(wrong, tuple) else (wrong,)
        if any(_agree(given, _unwrapped(_values(v, points), wanted, rows), wanted, tolerance) for v in versions):
            return message
    return (
        _turned(answer, truth)
        or _constant(given, wanted)
        or _shape_or_nan(given, wanted)
        or _ignored(answer, truth, points)
        or _drawn(answer, given, wanted, points, tolerance, rows)
        or _pattern(given, wanted, tolerance)
        or _largest_error(given, wanted, truth, points, tolerance)
    )


def agrees(answer: Any, truth: Any, points: Points, tolerance: float = 1e-4) -> bool:
    """Whether `answer` is `truth` at `points` too, where an answer that raises is not."""
    try:
        return diagnose(answer, truth, {}, points, tolerance=tolerance) is None
    except Exception:
        return False


def kind(value: Any) -> str:
    """A value's type with its article, for messages."""
    if inspect.isroutine(value):
        return "a function: call it"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def numbers(value: Any) -> Tensor:
    """A reader's value in float64, whatever array or number it is."""
    if isinstance(value, tuple | list) and any(isinstance(v, Tensor) and v.dim() for v in value):
        raise Unusable(
            f"One tensor is wanted, your answer is {kind(value)} of {len(value)}: is a `torch.cat` missing, or is one "
            "of them too much?"
        )
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise Unusable(f"A number or a tensor is wanted here, your answer is {kind(value)}.") from None
    if value.numel() == 1 and not value.is_floating_point() and value.dtype != torch.bool:  # a count
        value = value.double()
    if not value.is_floating_point():
        raise Unusable(f"Your answer holds {value.dtype}; floating-point numbers are wanted.")
    return value.detach().cpu().double()


def _values(function: Any, points: Points) -> list[Tensor]:
    """What `function` returns at each point, in float64; arguments are copies, so that an answer may overwrite them."""
    if not callable(function):
        raise Unusable(f"A function is wanted here, you gave {kind(function)}: hand it in by its name, not called.")
    return [numbers(function(*(a.clone() if isinstance(a, Tensor) else a for a in args))) for args in points]


def _unwrapped(given: list[Tensor], wanted: list[Tensor], rows: bool) -> list[Tensor]:
    """A single number in however many brackets, and where rows are counted a column, as what is wanted."""
    return [
        g.reshape(w.shape) if g.numel() == w.numel() and (w.dim() == 0 or (rows and g.shape[:-1] == w.shape)) else g
        for g, w in zip(given, wanted, strict=True)
    ]


def _agree(given: list[Tensor], other: list[Tensor], wanted: list[Tensor], tolerance: float) -> bool:
    """Whether two answers are one, with the size of `wanted` as the scale."""
    if [g.shape for g in given] != [o.shape for o in other]:
        return False
    return all(bool(_close(g, o, _size(wanted), tolerance).all()) for g, o in zip(given, other, strict=True))


def _size(wanted: list[Tensor]) -> float:
    return torch.cat([w.flatten() for w in wanted]).square().mean().sqrt().item() or 1.0


def _close(given: Tensor, other: Tensor, size: float, tolerance: float) -> Tensor:
    allowed = tolerance * other.abs().nan_to_num(0.0, 0.0).clamp(min=size)
    return ((given - other).abs() <= allowed) | (given == other) | (given.isnan() & other.isnan())


def _turned(answer: Any, truth: Any) -> str | None:
    """Says so where the parameters have the right names in another order: they are filled by their places."""
    given, wanted = names(answer), names(truth)
    if given == wanted or sorted(given) != sorted(wanted):
        return None
    return f"Your function takes `({', '.join(given)})`, and it is called with `({', '.join(wanted)})`, in this order."


def names(function: Any) -> list[str]:
    """The names of a function's parameters; none where Python does not know them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _constant(given: list[Tensor], wanted: list[Tensor]) -> str | None:
    """Says so where one and the same number is the answer to different calls, with a row or more wanted for each."""
    if len(given) < 2 or any(g.dim() or not w.dim() for g, w in zip(given, wanted, strict=True)):
        return None
    if any(g != given[0] for g in given) or all(torch.equal(w, wanted[0]) for w in wanted):
        return None
    return f"Your answer is the number {given[0].item():.4g}, whatever the arguments are."


def _shape_or_nan(given: list[Tensor], wanted: list[Tensor]) -> str | None:
    for g, w in zip(given, wanted, strict=True):
        if g.shape != w.shape:
            return f"Your answer has shape {tuple(g.shape)}, shape {tuple(w.shape)} is wanted{_axes(g, w)}."
    values = torch.cat([g.flatten() for g in given])
    if bad := int((~values.isfinite()).sum()):
        return (
            f"Your answer is NaN or infinite in {bad} of {len(values)} places: look for a division by zero, "
            "a logarithm or root of something that is not positive, or an exponential that overflows."
        )
    return None


def _axes(given: Tensor, wanted: Tensor) -> str:
    """What probably happened to the axes."""
    if given.dim() == 0:
        return ": a `.sum()` or `.mean()` may be too many"
    if given.shape == (*wanted.shape, 1):
        return ": one axis too many, at the end"
    if given.shape == (*wanted.shape, *wanted.shape):
        return ": everything met everything, because of an axis of length 1"
    if given.shape[:-1] == wanted.shape:
        return ": the last axis has still to be summed or averaged"
    return ""


def _drawn(
    answer: Any, given: list[Tensor], wanted: list[Tensor], points: Points, tolerance: float, rows: bool
) -> str | None:
    """Says so where the same arguments give another answer the second time."""
    if _agree(_unwrapped(_values(answer, points), wanted, rows), given, wanted, tolerance):
        return None
    return (
        "The same arguments give another answer each time: your function draws random numbers. Use the arguments it is "
        "given, and the exact answer where it can be had."
    )


def _ignored(answer: Any, truth: Any, points: Points) -> str | None:
    """Says so where an argument makes a difference to the truth and none to the answer."""
    for i, name in enumerate(names(truth)):
        pairs = [
            (args, (*args[:i], other[i], *args[i + 1 :]))
            for args, other in itertools.pairwise(points)
            if not callable(args[i]) and torch.as_tensor(args[i]).shape == torch.as_tensor(other[i]).shape
        ]
        if any(_moves(truth, *pair) for pair in pairs) and not any(_moves(answer, *pair) for pair in pairs):
            return (
                f"Your function takes no notice of `{name}`: its answer stays when `{name}` changes. Is a number "
                "written in its place, or one drawn anew?"
            )
    return None


def _moves(function: Any, args: tuple[Any, ...], changed: tuple[Any, ...]) -> bool:
    """Whether the change makes a difference, with the same random numbers in both calls."""
    values = []
    for arguments in (args, changed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values += _values(function, [arguments])
    return not torch.equal(*values)


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


def _largest_error(given: list[Tensor], wanted: list[Tensor], truth: Any, points: Points, tolerance: float) -> str:
    """At how many places the answer is right, the size of the error, and where it is largest."""
    size = _size(wanted)
    right = torch.cat([_close(g, w, size, tolerance).flatten() for g, w in zip(given, wanted, strict=True)])
    call = max(range(len(given)), key=lambda i: (given[i] - wanted[i]).abs().max().item())
    g, w = given[call], wanted[call]
    flat = int((g - w).abs().argmax())
    row = int(torch.unravel_index(torch.tensor(flat), g.shape)[0]) if g.dim() else 0
    error = (g - w).flatten()[flat].abs().item()
    head = f"Right at {int(right.sum())} of {len(right)} places, and off" if right.any() else "Off"
    if all(_close(a, b, size, 0.03).all() for a, b in zip(given, wanted, strict=True)):
        head = "Very close: is something in it rounded, cut off, kept from zero, or solved with few steps? Yours is off"
    mine, right_one = g.flatten()[flat].item(), w.flatten()[flat].item()
    digits = next((d for d in range(4, 9) if f"{mine:.{d}g}" != f"{right_one:.{d}g}"), 9)
    values = f"yours is {mine:.{digits}g}, right is {right_one:.{digits}g}"
    arguments = [(n, a) for n, a in zip(names(truth), points[call], strict=False) if not callable(a)]
    if g.dim() == 0 and any(torch.as_tensor(a).numel() > 4 for _, a in arguments):  # no place: one number for them all
        return f"{head} by up to {error:.3g}: {values}."
    place = ", ".join(f"`{n}` = {_row(a, row, g)}" for n, a in arguments)
    return f"{head} by up to {error:.3g}. It is furthest off at {place}: {values}."


def _row(argument: Any, row: int, out: Tensor) -> str:
    """The part of an argument that belongs to one row of the output, short enough for a message."""
    value = torch.as_tensor(argument)
    if value.dim() and out.dim() and len(value) == len(out):
        value = value[row]
    first = [f"{v:.3g}" for v in value.flatten()[:4].tolist()]
    return first[0] if value.dim() == 0 else f"[{', '.join(first)}{', …' if value.numel() > 4 else ''}]"
