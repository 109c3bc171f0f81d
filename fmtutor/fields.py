"""What everyone asks of a velocity field `v(t, x)`, and how a condition such as a label is bound to one.

Any callable will do, and what is inside it still counts: a network in a `functools.partial`, a method or a `Bound` is
found, trained, moved and taken as it is. Chapters 8 and 9 bind labels.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Any `v(t, x)` that returns the shape of x: a network, a lambda, an exact field."""

TIME = ("t", "time", "times", "timestep", "timesteps")  # what a field calls its first argument
MOST = 500  # things looked into before the search for networks gives up


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
        self.train(getattr(velocity, "training", True))

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


def look_inside(*things: Any) -> tuple[list[Any], bool]:
    """Everything that these things hold, down to modules and tensors, and whether all of it was looked at.

    Partials, methods, containers, attributes of objects, and what a function refers to are looked into.
    """
    seen: dict[int, Any] = {}
    ahead = list(things)
    while ahead and len(seen) < MOST:
        thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, str | int | float | bool | type | ModuleType | None):
            continue
        seen[id(thing)] = thing
        if not isinstance(thing, nn.Module | Tensor):
            ahead += _contents(thing)
    return list(seen.values()), not ahead


def _contents(thing: Any) -> list[Any]:
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, MethodType):
        return [thing.__self__]
    if isinstance(thing, FunctionType):
        named = [thing.__globals__.get(name) for name in thing.__code__.co_names]
        near = [g for g in named if not isinstance(g, FunctionType) or g.__globals__ is thing.__globals__]
        return [*map(_held, thing.__closure__ or ()), *near, *(thing.__defaults__ or ())]
    if isinstance(thing, Mapping):
        return list(thing.values())
    return list(thing) if isinstance(thing, list | tuple | set) else list(getattr(thing, "__dict__", {}).values())


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is bound to the name yet
        return None


def is_trained(*things: Any) -> bool:
    """Whether anything in these things may be in training; False where all networks are in evaluation mode.

    What counts is the mode of modules that hold parameters themselves: a wrapper made around a finished network is in
    training mode, and means nothing by it. True where no network is found.

    Example:
        >>> net = nn.Linear(2, 2).eval()
        >>> is_trained(net), is_trained(lambda t, x: net(x)), is_trained(nn.Sequential(net)), is_trained(net.train())
        (False, False, False, True)
    """
    found, all_seen = look_inside(*things)
    modules = [thing for thing in found if isinstance(thing, nn.Module)]
    if not modules or not all_seen or any(x.requires_grad for x in found if isinstance(x, Tensor)):
        return True
    inner = [m for outer in modules for m in outer.modules() if next(m.parameters(recurse=False), None) is not None]
    return any(m.training for m in inner or modules)


def leaves(velocity: Velocity) -> tuple[Tensor, ...]:
    """The tensors that a gradient of this field has to reach, for an adjoint.

    Raises:
        TypeError: the velocity is no module, nor a partial or a method of one: a function may hide anything.

    Example:
        >>> len(leaves(partial(nn.Linear(2, 2), label=torch.zeros(3, requires_grad=True))))  # weight, bias and label
        3
    """
    if isinstance(velocity, nn.Module):
        return (*velocity.parameters(), *(b for b in velocity.buffers() if b.requires_grad))
    if isinstance(velocity, MethodType) and isinstance(velocity.__self__, nn.Module):
        return leaves(velocity.__self__)
    if isinstance(velocity, partial):
        found, _ = look_inside(velocity.args, velocity.keywords)
        beside = [x for x in found if isinstance(x, Tensor) and x.requires_grad]
        inside = [p for m in found if isinstance(m, nn.Module) for p in m.parameters()]
        return (*leaves(velocity.func), *inside, *beside)
    raise TypeError(
        f"adjoint=True needs a velocity that is an nn.Module, got {type(velocity).__name__} "
        "(a functools.partial or a method of one will do, and fmtutor.Bound binds a label): "
        "or say adjoint=[...] with the tensors that the gradient has to reach, or adjoint=() for x alone"
    )


def moved(thing: Any, *args: Any, **kwargs: Any) -> Any:
    """A copy of a field on another device or in another dtype, with the networks and conditions inside it.

    Raises:
        TypeError: a function refers to a network: nobody can give it another one.

    Example:
        >>> bound = moved(partial(nn.Linear(2, 2), label=torch.tensor([1, 2])), torch.float64)
        >>> bound.func.weight.dtype, bound.keywords["label"].dtype  # whole numbers stay whole, as in Module.to
        (torch.float64, torch.int64)
    """
    if isinstance(thing, nn.Module):
        return copy.deepcopy(thing).to(*args, **kwargs)
    if isinstance(thing, Tensor):
        holder = nn.Module()
        holder.register_buffer("x", thing)
        return holder.to(*args, **kwargs).x
    if isinstance(thing, partial):
        given = {name: moved(value, *args, **kwargs) for name, value in thing.keywords.items()}
        return partial(moved(thing.func, *args, **kwargs), *(moved(a, *args, **kwargs) for a in thing.args), **given)
    if isinstance(thing, MethodType):
        return MethodType(thing.__func__, moved(thing.__self__, *args, **kwargs))
    if isinstance(thing, FunctionType):
        _must_hide_no_network(thing)
        return thing
    if callable(getattr(thing, "to", None)):
        return thing.to(*args, **kwargs)
    if hasattr(thing, "__dict__") and not isinstance(thing, type):
        other = copy.copy(thing)
        vars(other).update({name: moved(value, *args, **kwargs) for name, value in vars(thing).items()})
        return other
    return thing


def _must_hide_no_network(function: FunctionType) -> None:
    found, _ = look_inside(function)
    if any(next(m.parameters(), None) is not None for m in found if isinstance(m, nn.Module)):
        raise TypeError(
            f"velocity must show its network to be moved, and the function {function.__name__} hides it: "
            "bind a condition with functools.partial(network, label=y) or fmtutor.Bound(network, label=y)"
        )


_TRAINED_ON: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def remember(velocity: Velocity, path: Any) -> None:
    """Note that the networks of a field are trained on this path, if that is worth a note: see `paths_of`."""
    if torch.compiler.is_compiling() or (path.starts_standard and not _TRAINED_ON):
        return
    for module in look_inside(velocity)[0]:
        if isinstance(module, nn.Module):
            _TRAINED_ON[module] = path


def paths_of(velocity: Velocity) -> list[Any]:
    """The paths that a field refers to, and those its networks were trained on, where that is known."""
    found, _ = look_inside(velocity)
    return [
        p
        for p in (_TRAINED_ON.get(x) if isinstance(x, nn.Module) else x for x in found)
        if hasattr(p, "starts_standard")
    ]
