"""Guidance: a field that listens to its label more than it was taught to, or to a picture of which a part is known.

Chapter 9 measures what it does to a density, where the truth is known.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from fmtutor import _validate
from fmtutor.fields import Bound, Velocity, field
from fmtutor.fields.inside import is_trained
from fmtutor.paths import AffinePath

EARLY = 1e-3  # alpha / sigma below which x says so little of the data that a network's answer is rounding


def guide(
    velocity: Any,
    label: Tensor | int,
    scale: float,
    null: Tensor | int,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Guided:
    """The field `(1 - scale) v(t, x, null) + scale v(t, x, label)`, as a field `v(t, x)` again.

    At scale 1 it is the labelled field, at 0 the one without a label; above 1 it goes away from what the unlabelled
    one would do. In general it does not sample the density that is tilted likewise, on any path: see chapter 9.

    Args:
        velocity: `v(t, x, label=...)`, a network that was trained with some labels left out (`drop_labels`).
        label: the label wanted, a whole number for all points or one for each, `(batch,)`.
        scale: the weight of the labelled field.
        null: the label that stands for none.
        interval: the first and the last time at which to guide. Outside, the field is the labelled one alone, for half
            the work. Name both ends in the `times` of a solver, which then steps onto the jump.

    Raises:
        TypeError: the velocity cannot be called, a label is no whole number, or the interval is no pair of numbers.
        ValueError: the scale is not finite, or the interval does not run forward inside [0, 1]; when called, labels of
            another number than points, or another shape than that of x comes back.

    Source: Ho and Salimans (2022), "Classifier-free diffusion guidance", whose w is `scale - 1`; Kynkäänniemi et al.
    (2024), "Applying guidance in a limited interval improves sample and distribution quality in diffusion models".

    Example:
        >>> v = lambda t, x, label: label[:, None] - x
        >>> guided = guide(v, label=1, scale=3.0, null=0, interval=(0.2, 0.8))
        >>> guided(0.5, torch.zeros(2, 1)), guided(0.9, torch.zeros(2, 1))
        (tensor([[3.],
                [3.]]), tensor([[1.],
                [1.]]))
    """
    return Guided(velocity, label, scale, null, interval)


class Guided(nn.Module):
    """The field that `guide` returns; both of its halves go through the network in one batch."""

    label: Tensor
    null: Tensor

    def __init__(
        self, velocity: Any, label: Tensor | int, scale: float, null: Tensor | int, interval: tuple[float, float]
    ) -> None:
        super().__init__()
        self.velocity = _validate.function("velocity", velocity)
        self.scale, self.interval = _weight(scale), _span(interval)
        for name, value in (("label", label), ("null", null)):
            whole = torch.as_tensor(value)
            if whole.is_floating_point() or whole.is_complex() or whole.dtype == torch.bool or whole.dim() > 1:
                raise TypeError(f"{name} must be a whole number or one for each point, got {value!r}")
            self.register_buffer(name, whole, persistent=False)
        self.training = is_trained(velocity)

    def forward(
        self,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
    ) -> Float[Tensor, "batch *event"]:
        """The guided velocity at x, whether t is a scalar or one time a row."""
        n, t, scale = len(x), torch.as_tensor(t, device=x.device), self._scale_at(t, x)
        if scale is None:
            asked = self.velocity(t, x, label=self._each("label", n))
            return _validate.output_like("velocity", asked, x)
        twice = torch.cat([x, x])
        labels = torch.cat([self._each("label", n), self._each("null", n)])
        asked = self.velocity(t if t.dim() == 0 else torch.cat([t, t]), twice, label=labels)
        labelled, free = _validate.output_like("velocity", asked, twice).chunk(2)
        return torch.lerp(free, labelled, scale)

    def _scale_at(self, t: Tensor | float, x: Tensor) -> Tensor | float | None:
        """The weight at a time, or at each row's; None where it is 1 for all, and the unlabelled field not needed."""
        if self.scale == 1 or self.interval == (0, 1):
            return None if self.scale == 1 else self.scale
        inside = (torch.as_tensor(t) >= self.interval[0]) & (torch.as_tensor(t) <= self.interval[1])
        if not inside.any():
            return None
        return _validate.per_row("t", torch.where(inside, self.scale, 1.0), x)

    def _each(self, name: str, n: int) -> Int[Tensor, " batch"]:
        value = getattr(self, name)
        if value.dim() and len(value) != n:
            raise ValueError(f"{name} must be one for each of {n} points, got {len(value)}")
        return value.expand(n)


def autoguide(velocity: Velocity, weak: Velocity, scale: float) -> Autoguided:
    """The field `(1 - scale) weak(t, x) + scale velocity(t, x)`: guidance away from a worse model of the same thing.

    It needs no label. Where both err in the same direction, and the weak one further, a scale above 1 errs less.

    Args:
        velocity: `v(t, x)`; a label is bound before, by `partial` or `Bound`.
        weak: `v(t, x)`, a smaller network, or one that was trained for a shorter time, with the same label bound.
        scale: the weight of the velocity.

    Raises:
        TypeError: one of the two cannot be called, or wants x first.
        ValueError: the scale is not finite; when called, one of the two returns another shape than that of x.

    Source: Karras et al. (2024), "Guiding a diffusion model with a bad version of itself", on denoisers.

    Example:
        >>> autoguide(lambda t, x: 2 - x, lambda t, x: 1 - x, scale=3.0)(0.5, torch.zeros(1, 1))
        tensor([[4.]])
    """
    return Autoguided(velocity, weak, scale)


class Autoguided(nn.Module):
    """The field that `autoguide` returns."""

    def __init__(self, velocity: Velocity, weak: Velocity, scale: float) -> None:
        super().__init__()
        self.velocity = _seen(field(_validate.function("velocity", velocity)))
        self.weak, self.scale = _seen(field(_validate.function("weak", weak))), _weight(scale)
        self.training = is_trained(velocity, weak)

    def forward(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """The guided velocity at x, whether t is a scalar or one time a row."""
        t = torch.as_tensor(t, device=x.device)
        strong = _validate.output_like("velocity", self.velocity(t.clone(), x.clone()), x)
        if self.scale == 1:
            return strong
        return torch.lerp(_validate.output_like("weak", self.weak(t, x), x), strong, self.scale)


def inpaint(
    velocity: Velocity,
    path: AffinePath,
    image: Float[Tensor, "*event"] | Float[Tensor, "batch *event"],
    known: Bool[Tensor, "*event"] | Bool[Tensor, "batch *event"],
) -> Inpainted:
    """A field that leads to points which agree with `image` where `known` is True, and fills in the rest.

    The exact field of `p(x1 | the known part)` is `v + b grad_x log p(known part | xt = x)`, with
    `b = sigma (d_alpha sigma - alpha d_sigma) / alpha`. Nobody knows that probability. In its place stands
    `N(known part; xhat, r^2 I)`, with `xhat = E[x1 | xt = x]` read from the velocity and `r^2 = sigma^2 / (alpha^2 +
    sigma^2)`. That is exact for data from `N(m, I)`. For other data the points agree with the image all the same, but
    what is filled in is not drawn from the posterior.

    A call asks the velocity once, forwards and backwards (one vector-Jacobian product), and leaves no gradient behind.

    Args:
        velocity: `v(t, x)`, the field without the picture; a label is bound before, by `partial`, `Bound` or `guide`.
        path: the path it belongs to. Its noise must not be gone at a time that is asked for; at alpha = 0 the
            gradient of xhat is taken from the same Gaussian.
        image: one for all points, `(*event)`, or one for each; what it holds where nothing is known does not matter.
        known: where it is known, of the shape of the image or of one event.

    Raises:
        TypeError: the velocity cannot be called, the path is no AffinePath, the image holds no floating-point numbers,
            or `known` no booleans.
        ValueError: a known value is not finite, or shapes do not fit; when called, sigma = 0, or the velocity returns
            another shape than that of x.

    Source: Song, Vahdat, Mardani and Kautz (2023), "Pseudoinverse-guided diffusion models for inverse problems"; for
    flows Pokle et al. (2024), "Training-free linear image inverses via flows", who start later than t = 0.

    Example:
        >>> from fmtutor import StandardNormal, solve
        >>> path, x0 = AffinePath(), torch.tensor([[0.3, -0.7]])
        >>> v = lambda t, x: path.marginal_velocity(t, x, StandardNormal(2))
        >>> filled = inpaint(v, path, image=torch.tensor([1.5, 0.0]), known=torch.tensor([True, False]))
        >>> solve(filled, x0, steps=100).x
        tensor([[ 1.5000, -0.7000]])
    """
    return Inpainted(velocity, path, image, known)


class Inpainted(nn.Module):
    """The field that `inpaint` returns."""

    image: Tensor
    known: Tensor

    def __init__(self, velocity: Velocity, path: AffinePath, image: Tensor, known: Tensor) -> None:
        super().__init__()
        self.velocity = _seen(field(_validate.function("velocity", velocity)))
        self.path = _validate.kind("path", path, AffinePath)
        if _validate.kind("known", known, Tensor).dtype != torch.bool:
            raise TypeError(f"known must hold booleans, True where the image is known, got {known.dtype}")
        if known.shape not in (_validate.floating("image", image).shape, image.shape[1:]):
            raise ValueError(f"known must have the shape of image, {tuple(image.shape)}, got {tuple(known.shape)}")
        seen = torch.where(known, image, torch.zeros_like(image))
        self.register_buffer("image", _validate.finite("image, where known,", seen), persistent=False)
        self.register_buffer("known", known, persistent=False)
        self.training = is_trained(velocity)

    def forward(
        self,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
    ) -> Float[Tensor, "batch *event"]:
        """The velocity at x, corrected for what is known; t is a scalar or one time a row."""
        c = self.path.coefficients(t, x)
        if _validate.readable(c.sigma) and not (c.sigma > 0).all():
            raise ValueError("at sigma = 0 every path has arrived: stop at t = 1 - 1e-6 or earlier")
        rate = c.d_alpha * c.sigma - c.alpha * c.d_sigma  # above 0, but where nothing moves yet

        def data(at: Tensor) -> tuple[Tensor, Tensor]:
            u = self.velocity(torch.as_tensor(t, device=x.device), at)
            u = _validate.output_like("velocity", u, at)
            return (c.sigma * u - c.d_sigma * at) / torch.where(rate == 0, 1.0, rate), u

        mean, pull, u = torch.func.vjp(data, x, has_aux=True)  # type: ignore[misc]
        off = torch.where(self._fits("known", x), self._fits("image", x) - mean, 0.0)
        early = c.alpha <= EARLY * c.sigma
        late = (c.alpha**2 + c.sigma**2) / torch.where(early, 1.0, c.alpha) * pull(off)[0]
        return (u + rate / c.sigma * torch.where(early, off, late)).to(x.dtype)

    def _fits(self, name: str, x: Tensor) -> Tensor:
        value = getattr(self, name)
        if value.shape not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"{name} must have shape {tuple(x.shape[1:])} or {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        return value


def _seen(velocity: Any) -> Any:
    """A field, as a module where it is a partial: its network and its label are then seen, and move along."""
    if isinstance(velocity, partial) and not velocity.args:
        return Bound(velocity.func, **velocity.keywords)
    return velocity


def _weight(scale: float) -> float:
    """A scale, if it is a finite number."""
    if not math.isfinite(_validate.number("scale", scale)):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def _span(interval: Any) -> tuple[float, float]:
    """An interval, if it is two times in order."""
    try:
        first, last = (float(_validate.number("interval", t)) for t in interval)
    except (TypeError, ValueError):
        raise TypeError(f"interval must be a pair of times, got {interval!r}") from None
    if not 0 <= first < last <= 1:
        raise ValueError(f"interval must run forward inside [0, 1], got {interval!r}")
    return first, last


def drop_labels(
    label: Int[Tensor, " batch"], p: float, null: int, generator: Generator | None = None
) -> Int[Tensor, " batch"]:
    """`label`, with each one replaced by `null` with probability p, so that one network learns both fields.

    Args:
        label: labels of the points, `(batch,)`.
        p: from 0 to 1.
        null: the label that stands for none.
        generator: where the draws come from; torch's global generator unless given.

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: p is outside [0, 1].

    Source: Ho and Salimans (2022), algorithm 1.

    Example:
        >>> drop_labels(torch.tensor([3, 1, 4]), p=1.0, null=10)
        tensor([10, 10, 10])
    """
    if not isinstance(label, Tensor) or label.is_floating_point() or label.dtype == torch.bool:
        came = getattr(label, "dtype", type(label).__name__)
        raise TypeError(f"label must be a tensor of whole numbers, got {came}")
    if not 0 <= _validate.number("p", p) <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    dropped = torch.rand(label.shape, generator=_validate.random(generator), device=label.device) < p
    return torch.where(dropped, torch.as_tensor(null, dtype=label.dtype, device=label.device), label)
