"""Checks of what a caller hands in, each answered at once by an error that says what came and what was wanted.

Values (finite, inside [0, 1]) are only looked at where they are `readable`; `fmtutor.training.fit` finds a loss that is
not finite everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Generator, Size, Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

Kind = TypeVar("Kind")


def readable(x: Tensor) -> bool:
    """Whether the values of `x` may be looked at: on the CPU, in plain use.

    On an accelerator a look costs a synchronisation. Under `torch.vmap` and its kin there is no one value to see, and
    while `torch.compile` or `torch.export` write down what happens there is none at all.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return not (isinstance(x, FakeTensor) or is_functorch_wrapped_tensor(x))


def floating(name: str, x: Tensor) -> Tensor:
    """`x`, if it is a tensor of real floating-point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {x.dtype}: convert it with {name}.float()")
    return x


def kind(name: str, value: Any, wanted: type[Kind]) -> Kind:
    """`value`, if it is one of the things that `wanted` describes."""
    if not isinstance(value, wanted):
        came = f"the class {value.__name__}: call it" if isinstance(value, type) else type(value).__name__
        article = "an" if wanted.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {wanted.__name__}, got {came}")
    return value


def able(name: str, value: Any, method: str, like: str) -> Any:
    """`value`, if it has the method that is needed of it, as `like` has."""
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        came = f"the class {value.__name__}: call it" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must have a method {method}, as {like} has, got {came}")
    return value


def function(name: str, value: Any) -> Any:
    """`value`, if it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")
    return value


def finite(name: str, x: Tensor) -> Tensor:
    """`x`, if it is floating-point and, where it is readable, free of NaN and infinity."""
    floating(name, x)
    if readable(x) and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite numbers out of {x.numel()}")
    return x


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless two tensors have one shape: broadcasting one against the other is always a mistake here."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, "
            f"got {name_a} {tuple(a.shape)} and {name_b} {tuple(b.shape)}"
        )


def per_row(name: str, value: Tensor | float, x: Tensor) -> Tensor:
    """`value`, a scalar or one number a row, as `(batch, 1, ..., 1)`, which lines up with `x` `(batch, *event)`."""
    if floating("x", x).dim() == 0:  # in whole numbers a time of 0.25 would become 0
        raise ValueError("x must have shape (batch, *event), got a single number")
    try:
        value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a tensor of numbers, got {value!r}") from None
    if value.dim() > 1 or (value.dim() == 1 and len(value) != len(x)):
        raise ValueError(
            f"{name} must be a scalar or have shape ({len(x)},), one number for each row of x, "
            f"got shape {tuple(value.shape)}"
        )
    column = value.expand(len(x)).reshape(-1, *[1] * (x.dim() - 1))
    return column.contiguous()  # autodiff cannot attach a tangent to numbers that share memory


def flat(x: Tensor) -> Tensor:
    """`x` `(batch, *event)` as `(batch, numbers of an event)`, also where an event is one number or nothing came."""
    return x.reshape(len(x), x.shape[1:].numel())


def time(t: Tensor | float, x: Tensor) -> Tensor:
    """`per_row` for a time, which where it is readable must also lie in [0, 1]."""
    column = per_row("t", t, x)
    if readable(column) and not (inside := (column >= 0) & (column <= 1)).all():
        raise ValueError(f"t must lie in [0, 1], got {column[~inside][0].item():g}")
    return column


def rounded(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A time in `dtype`: below 1 it stays below, where half precision would round it to the end of the path."""
    if t.dtype == dtype:
        return t
    near = t.to(dtype)
    return torch.where((near == 1) & (t < 1), 1 - torch.finfo(dtype).eps / 2, near)


def output_like(name: str, out: Tensor, x: Tensor) -> Tensor:
    """`out`, the answer of a model to `x`, if it has the shape of `x`."""
    if not isinstance(out, Tensor) or out.shape != x.shape:
        came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{name} must return the shape of its input, {tuple(x.shape)}, got {came}")
    return out


def same_dtype(name: str, x: Tensor, module: nn.Module) -> Tensor:
    """`x`, if it has the dtype of the parameters of `module`."""
    if floating(name, x).dtype != (wanted := next(module.parameters()).dtype):
        raise TypeError(
            f"{name} must be {wanted}, as the parameters of {type(module).__name__} are, got {x.dtype}: "
            f"see .to({x.dtype})"
        )
    return x


def sample_shape(shape: Iterable[int]) -> Size:
    """`shape` as torch's, if it is a sequence of whole numbers."""
    try:
        size = Size(shape)
    except TypeError:
        hint = f": write ({shape},)" if isinstance(shape, int) else ""
        raise TypeError(f"sample_shape must be a tuple of whole numbers, got {shape!r}{hint}") from None
    if any(n < 0 for n in size):
        raise ValueError(f"sample_shape must hold no negative number, got {tuple(size)}")
    return size


def random(generator: Generator | None) -> Generator | None:
    """`generator`, if it is one or None."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    return generator


def number(name: str, value: Any) -> float:
    """`value`, if it is a single number."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    return value


def positive(name: str, value: float, *, or_zero: bool = False) -> float:
    """`value`, if it is a number above zero (or, where asked, at zero)."""
    number(name, value)
    if not (value >= 0 if or_zero else value > 0) or value == float("inf"):
        raise ValueError(f"{name} must be {'at least 0' if or_zero else 'above 0'} and finite, got {value}")
    return value


def whole(name: str, value: int, least: int = 1) -> int:
    """`value`, if it is a whole number of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return count


def choice(name: str, value: str, known: Iterable[str]) -> str:
    """`value`, if it is one of the names in `known`."""
    if value not in (names := list(known)):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")
    return value
