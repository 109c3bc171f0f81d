"""What is inside a field: the networks and tensors that a partial, a method, an object or a function holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Field = Callable[..., Tensor]
MOST = 500  # things looked into before the search for networks gives up


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
        >>> is_trained(net), is_trained(lambda t, x: net(x)), is_trained(nn.Sequential(net))
        (False, False, False)
        >>> is_trained(net.train())
        True
    """
    found, all_seen = look_inside(*things)
    modules = [thing for thing in found if isinstance(thing, nn.Module)]
    if not modules or not all_seen or any(x.requires_grad for x in found if isinstance(x, Tensor)):
        return True
    inner = [m for outer in modules for m in outer.modules() if next(m.parameters(recurse=False), None) is not None]
    return any(m.training for m in inner or modules)


def leaves(velocity: Field) -> tuple[Tensor, ...]:
    """The tensors that a gradient of this field has to reach, for an adjoint.

    Raises:
        TypeError: the velocity is no module, nor a partial or a method of one: a function may hide anything.

    Example:
        >>> len(leaves(partial(nn.Linear(2, 2), label=torch.zeros(3, requires_grad=True))))
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
        >>> bound.func.weight.dtype, bound.keywords["label"].dtype  # whole numbers stay whole
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
    if type(thing) in (list, tuple, set):
        return type(thing)(moved(value, *args, **kwargs) for value in thing)
    if type(thing) is dict:
        return {name: moved(value, *args, **kwargs) for name, value in thing.items()}
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


def remember(velocity: Field, path: Any) -> None:
    """Note that the networks of a field are trained on this path, if that is worth a note: see `paths_of`."""
    if torch.compiler.is_compiling() or (path.starts_standard and not _TRAINED_ON):
        return
    for module in look_inside(velocity)[0]:
        if isinstance(module, nn.Module):
            _TRAINED_ON[module] = path


def paths_of(velocity: Field) -> list[Any]:
    """The paths that a field refers to, and those its networks were trained on, where that is known."""
    found, _ = look_inside(velocity)
    return [
        p
        for p in (_TRAINED_ON.get(x) if isinstance(x, nn.Module) else x for x in found)
        if hasattr(p, "starts_standard")
    ]
