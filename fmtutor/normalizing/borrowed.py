"""Distributions and transforms of torch as parts of a flow: with their tensors known to it, and -inf off their support.

torch's own classes are no modules. A flow that held them as they are could neither train, nor save, nor move what they
hold, and weights that are loaded would meet a base or a standardisation that does not belong to them.
"""

from __future__ import annotations

import copy
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import ComposeTransform, Distribution, Transform, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import _InverseTransform

from fmtutor import _validate
from fmtutor.distributions.target import Target
from fmtutor.fields.inside import look_inside
from fmtutor.normalizing.layers import Layer

Shape = Size | tuple[int, ...]


class Borrowed(nn.Module):
    """A copy of a Distribution or Transform, whose tensors are buffers of this module and whose parameters are its own.

    The copy is nobody else's, so `.to`, a state dict or an optimizer changes nothing that the caller still holds. Only
    an `nn.Parameter` or a module inside is the caller's own, as in every module.
    """

    def __init__(self, name: str, whole: Distribution | Transform) -> None:
        super().__init__()
        self._name = name
        self._places: list[tuple[object, str, str]] = []  # an owner, its attribute, and what that is called here
        self._whole = [self._own(whole, [])]  # in a list, or a module would be listed twice

    @property
    def whole(self) -> Any:
        """The copy, with the tensors that this module has now: a step, a `.to` or a load may have changed them."""
        for owner, attribute, key in self._places:
            if getattr(owner, attribute) is not (tensor := getattr(self, key)):
                setattr(owner, attribute, tensor)
        return self._whole[0]

    def _own(self, part: Any, path: list[str]) -> Any:
        if isinstance(part, nn.Module):
            self.add_module("_".join(path) or "module", part)
        if isinstance(part, partial | MethodType | FunctionType):
            self._find(part, path)
        if isinstance(part, nn.Module) or not isinstance(part, Distribution | Transform | list | tuple):
            return part
        if isinstance(part, list | tuple):
            return [self._own(each, [*path, str(i)]) for i, each in enumerate(part)] if _holds(part) else part
        if isinstance(part, _InverseTransform):  # torch keeps what it inverts where a copy does not find it
            return self._own(part.inv, path).inv
        twin = copy.copy(part)
        if isinstance(twin, Transform):
            twin._cache_size, twin._cached_x_y = 0, (None, None)  # a cache outlives the parameters it was made with
        else:
            twin._validate_args = False  # off the support `log_density` says -inf
        for attribute, value in list(vars(twin).items()):
            if isinstance(value, Tensor):
                self._register(twin, attribute, value, "_".join([*path, attribute]))
            else:
                vars(twin)[attribute] = self._own(value, [*path, attribute])
        return twin

    def _find(self, velocity: Any, path: list[str]) -> None:
        """The networks in the velocity of a ContinuousFlow; a function would share its own with every copy."""
        networks = [inside for inside in look_inside(velocity)[0] if isinstance(inside, nn.Module)]
        if isinstance(velocity, FunctionType) and any(next(m.parameters(), None) is not None for m in networks):
            raise TypeError(
                f"{self._name} must show its network, and the function {velocity.__name__} hides it: bind a condition "
                "with functools.partial(network, label=y) or fmtutor.Bound(network, label=y)"
            )
        for i, network in enumerate(networks):
            self.add_module("_".join([*path, str(i)]), network)

    def _register(self, owner: object, attribute: str, tensor: Tensor, key: str) -> None:
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(key, tensor)
        elif tensor.requires_grad:
            raise ValueError(
                f"{self._name} must hold its parameters as they are: {type(owner).__name__}.{attribute} needs a "
                "gradient, but is no nn.Parameter (torch's distributions keep a copy), so the flow could neither "
                "train, nor save, nor move it. Keep the base fixed and begin the transforms with "
                "AffineTransform(nn.Parameter(loc), nn.Parameter(scale)), or write an nn.Module"
            )
        else:  # `_like` tells our own targets a device and a dtype, and no number
            own = tensor.clone(memory_format=torch.contiguous_format)
            self.register_buffer(key, own, persistent=attribute != "_like")
        self._places.append((owner, attribute, key))

    def __repr__(self) -> str:
        return _shown(self.whole)


class BorrowedTransform(Borrowed):
    """A torch Transform with the `push` and `pull` of a layer, one log-determinant for each draw."""

    def __init__(self, transform: Transform, shape: Shape) -> None:
        turned = isinstance(transform, _InverseTransform)
        super().__init__("transforms", transform.inv if turned else transform)
        self.turned = turned
        self.events = len(shape), len(transform.forward_shape(shape))

    def __repr__(self) -> str:
        return _shown(self.transform)

    @property
    def transform(self) -> Transform:
        return self.whole.inv if self.turned else self.whole

    def forward(self, z: Tensor) -> Tensor:
        return self.push(z)[0]

    def push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        transform = self.transform
        if not everywhere(transform.domain) and _validate.readable(z) and not transform.domain.check(z).all():
            raise ValueError(
                f"transforms must fit what comes before them: {self} takes points of {transform.domain}, and got others"
            )
        x = transform(z)
        return x, self._log_det(transform, z, x, z.dim() - self.events[0])

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As in a layer. From where the transform never arrives, an inner point and an infinite log-determinant."""
        transform, batch = self.transform, x.dim() - self.events[1]
        if everywhere(transform.codomain):
            z = transform.inv(x)
            return z, self._log_det(transform, z, x, batch)
        inside = _inside(transform.codomain, x, batch)
        with torch.no_grad():  # tanh arrives at 1 by rounding alone, from a point that has no number
            inside = inside & ~_rows(transform.inv(x).isinf().long(), batch).bool()
        x = _instead(inside, x, transform.codomain)
        z = transform.inv(x)
        return z, torch.where(inside, self._log_det(transform, z, x, batch), torch.inf)

    def _log_det(self, transform: Transform, z: Tensor, x: Tensor, batch: int) -> Tensor:
        return _rows(transform.log_abs_det_jacobian(z, x), batch)


def shape_after(transform: Transform, shape: Size) -> Size:
    """The shape of an event that had `shape`, if the transform is one that a flow can take."""
    if not isinstance(transform, Transform):
        raise TypeError(f"transforms must be torch Transforms, got {type(transform).__name__}")
    name = type(transform).__name__
    if isinstance(transform, ComposeTransform) or not transform.bijective:
        reason = "give its parts one by one" if isinstance(transform, ComposeTransform) else "it cannot be undone"
        raise ValueError(f"transforms must be single, bijective maps, got {name}: {reason}")
    if isinstance(transform, Layer) and shape != (transform.dim,):
        raise ValueError(f"transforms must fit the base: {name} is for {transform.dim} numbers, got {tuple(shape)}")
    try:
        after = Size(transform.forward_shape(shape))
        fits = Size(transform.inverse_shape(after)) == shape and len(shape) >= transform.domain.event_dim
    except (ValueError, RuntimeError):  # torch says so of a shape that cannot be
        fits = False
    if not fits:
        raise ValueError(f"transforms must fit the base: {name} is not for events of shape {tuple(shape)}")
    return after


def log_density(base: Distribution, z: Tensor) -> Tensor:
    """`base.log_prob(z)`, and -inf off the support, where torch without validation says anything."""
    try:
        support = None if isinstance(base, nn.Module | Target) else base.support
    except NotImplementedError:
        support = None
    if support is None or everywhere(support):  # ours know by themselves
        return base.log_prob(z)
    inside = _inside(support, z, z.dim() - len(base.event_shape))
    z = _instead(inside, z, support)
    return torch.where(inside, base.log_prob(z), -torch.inf)


def everywhere(constraint: Constraint) -> bool:
    """Whether a constraint lets every number through."""
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint is constraints.real


def _inside(constraint: Constraint, x: Tensor, batch: int) -> Tensor:
    """Which rows lie inside a constraint."""
    return _rows((~constraint.check(x)).long(), batch) == 0


def _instead(inside: Tensor, x: Tensor, constraint: Constraint) -> Tensor:
    """x, but where it is outside some point that is not: a gradient through a formula outside may be NaN."""
    try:
        onto = transform_to(constraint)
    except NotImplementedError:  # a constraint that torch knows no point of
        return x
    event = x.shape[x.dim() - constraint.event_dim :]
    inner = onto(x.new_zeros(onto.inverse_shape(event)))
    return torch.where(inside.reshape(inside.shape + (1,) * (x.dim() - inside.dim())), x, inner)


def _rows(numbers: Tensor, batch: int) -> Tensor:
    """One number a draw: a transform that works on each number by itself gives one for each of them."""
    while numbers.dim() > batch:
        numbers = numbers.sum(-1)
    return numbers


def _holds(parts: list | tuple) -> bool:
    return any(isinstance(part, Distribution | Transform | nn.Module) for part in parts)


def _shown(whole: Any) -> str:
    """Name and numbers of a Distribution or Transform; torch shows no numbers of a transform."""
    if isinstance(whole, Distribution):
        return repr(whole)
    if isinstance(whole, _InverseTransform):
        return f"{_shown(whole.inv)}.inv"
    named = {name: value for name, value in vars(whole).items() if not name.startswith("_")}
    return f"{type(whole).__name__}({', '.join(f'{name}={_number(value)}' for name, value in named.items())})"


def _number(value: Any) -> str:
    if isinstance(value, Transform):
        return _shown(value)
    if not isinstance(value, Tensor):
        return repr(value)
    return str(value.tolist()) if value.numel() <= 8 else f"<tensor of shape {tuple(value.shape)}>"
