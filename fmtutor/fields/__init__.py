"""What everyone asks of a velocity field `v(t, x)`, and how a condition such as a label is bound to one.

Any callable will do, and what is inside it still counts: a network in a `functools.partial`, a method or a `Bound` is
found, trained, moved and taken as it is (see `inside`). Chapters 8 and 9 bind labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Any `v(t, x)` that returns the shape of x: a network, a lambda, an exact field."""

TIME = ("t", "time", "times", "timestep", "timesteps")  # what a field calls its first argument


class Bound(nn.Module):
    """A field with its conditions bound: `Bound(v, label=y)(t, x)` is `v(t, x, label=y)`.

    `functools.partial(v, label=y)` is as good everywhere in this package. This one is a module, so it also has
    parameters, goes through `torch.compile`, and takes its conditions along when it moves.

    Args:
        velocity: `v(t, x, **conditions)`.
        conditions: what to bind; tensors become buffers, which move with the module and are not saved.

    Raises:
        TypeError: the velocity cannot be called.

    Example:
        >>> class Shift(nn.Module):
        ...     def forward(self, t, x, label): return x + label[:, None]
        >>> Bound(Shift(), label=torch.tensor([1.0, 2.0]))(0.5, torch.zeros(2, 1))
        tensor([[1.],
                [2.]])
    """

    def __init__(self, velocity: Callable[..., Tensor], **conditions: Any) -> None:
        super().__init__()
        self.velocity, self.names = _validate.function("velocity", velocity), tuple(conditions)
        for name, value in conditions.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(f"bound_{name}", value, persistent=False)
            else:
                setattr(self, f"bound_{name}", value)
        self.training = getattr(velocity, "training", True)  # and its parts stay in the modes they are in

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        return self.velocity(t, x, **{name: getattr(self, f"bound_{name}") for name in self.names})


def field(velocity: Velocity) -> Velocity:
    """`velocity`, if it can be called and does not say of itself that it wants x first.

    Example:
        >>> field(lambda x, t: x)
        Traceback (most recent call last):
        ...
        TypeError: velocity must be v(t, x), the time first, but its arguments are called (x, t): ...
    """
    if not callable(velocity):
        raise TypeError(f"velocity must be a function v(t, x), got {type(velocity).__name__}")
    names = () if torch.compiler.is_compiling() else _names(velocity)
    if len(names) > 1 and names[1] in TIME and names[0] not in TIME:
        raise TypeError(
            f"velocity must be v(t, x), the time first, but its arguments are called ({names[0]}, {names[1]}): "
            "swap them where it is defined, or hand in lambda t, x: v(x, t)"
        )
    return velocity


def _names(velocity: Any) -> tuple[str, ...]:
    """What the positional arguments of a field are called, where Python knows."""
    while isinstance(velocity, partial) and not velocity.args:
        velocity = velocity.func
    velocity = getattr(velocity, "_orig_mod", velocity)  # under torch.compile
    call = velocity.forward if isinstance(velocity, nn.Module) else velocity
    call = call if isinstance(call, FunctionType | MethodType) else getattr(call, "__call__", None)  # noqa: B004
    code = getattr(inspect.unwrap(call), "__code__", None) if call else None
    names = code.co_varnames[: code.co_argcount] if code else ()
    return names[1:] if isinstance(call, MethodType) else names


def evaluate(velocity: Velocity, t: Tensor, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
    """`velocity(t, x)`, checked. It is handed copies, so a field may change its arguments in place and harm nobody.

    The time comes in the dtype of x. Where that is half precision a time below 1 stays below it.

    Raises:
        ValueError: another shape comes back than that of x, or the field takes a time of one kind alone: a scalar,
            as a solver asks, or one a row, as a loss does.

    Example:
        >>> x = torch.ones(2, 1)
        >>> evaluate(lambda t, x: x.mul_(t), torch.tensor(0.5), x), x
        (tensor([[0.5000],
                [0.5000]]), tensor([[1.],
                [1.]]))
    """
    t = _validate.rounded(t, x.dtype)
    if torch.compiler.is_compiling():
        return _validate.output_like("velocity", velocity(t.clone(), x.clone()), x)
    try:
        return _validate.output_like("velocity", velocity(t.clone(), x.clone()), x)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if len(x) and _takes(velocity, t.expand(len(x)) if t.dim() == 0 else t[0], x):
            raise ValueError(_one_kind_of_time(t, x, error)) from error
        raise


@torch.no_grad()
def _takes(velocity: Velocity, t: Tensor, x: Tensor) -> bool:
    try:
        return velocity(t.clone(), x.clone()).shape == x.shape
    except Exception:  # whatever it is, it is not the shape of t
        return False


def _one_kind_of_time(t: Tensor, x: Tensor, error: Exception) -> str:
    column = "t.expand(len(x))" + (f".reshape(-1{', 1' * (x.dim() - 1)})" if x.dim() > 1 else "")
    works, fails = ("one time a row", "a scalar t") if t.dim() == 0 else ("a scalar t", "one time a row")
    return (
        "velocity must take both a scalar t, from a solver, and one time a row, from a loss. "
        f"It takes {works}, and for {fails} it says: {error}. Write {column} where t meets x"
    )
