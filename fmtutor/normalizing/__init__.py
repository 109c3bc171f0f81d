"""Normalizing flows: a base pushed through layers that can be undone, with the density they leave behind.

Chapter 1 derives the three layers, planar, coupling and autoregressive, and trains stacks of them by likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Size, Tensor, nn
from torch.distributions import ComposeTransform, Distribution, Transform

from fmtutor import _validate
from fmtutor.distributions.target import Target, draw
from fmtutor.normalizing.layers import Layer, MaskedLinear, made_masks, perceptron, pull, push, softclip

__all__ = [
    "AffineCoupling",
    "MaskedAutoregressive",
    "NormalizingFlow",
    "Planar",
    "bits_per_dim",
    "dequantize",
]

Shape = Size | list[int] | tuple[int, ...]


class Planar(Layer):
    r"""A layer that pushes space along one direction, by an amount seen along another: `x = z + u tanh(w.z + b)`.

    It can be undone iff `u.w > -1`, so u is not free: a raw u is moved along w until `u.w` is `softplus(.) - 1`. Nobody
    knows a formula for the way back. `Planar(dim)` can be sampled, with the density of what it has just drawn;
    `Planar(dim).inv` gives the density of any point in one pass, and cannot be sampled. A new layer changes nothing.

    Args:
        dim: numbers in a vector.

    Raises:
        NotImplementedError: the way back is asked for.
        TypeError, ValueError: not vectors of `dim` floating-point numbers.

    Source: Rezende and Mohamed (2015), equations 10 to 12, and appendix A.1 for the constraint.

    Example:
        >>> layer, z = Planar(2), torch.ones(5, 2)
        >>> layer(z).shape, layer.log_abs_det_jacobian(z, layer(z)).shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.w = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.u = nn.Parameter(torch.zeros(dim))
        self.b = nn.Parameter(torch.randn(()))

    def push(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        self.check("z", z)
        one_plus = F.softplus(self.u @ self.w + math.log(math.e - 1))  # 1 + u.w, above 0; at u = 0 it is 1
        u = self.u + (one_plus - 1 - self.u @ self.w) * self.w / self.w.square().sum()
        h = torch.tanh(z @ self.w + self.b)
        return z + u * h[..., None], torch.log(h**2 + (1 - h**2) * one_plus)  # log(1 + h' u.w), never log(0)

    def pull(self, x: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        raise NotImplementedError(
            "Planar has no formula for its inverse. Use it the other way round: Planar(dim).inv as the transform gives "
            "the density of any point in one pass, and no samples"
        )


class AffineCoupling(Layer):
    """A layer that leaves one half of a vector alone and scales and shifts the other: `x_b = z_b exp(s(z_a)) + t(z_a)`.

    The half that stays says how the other one moved, so both directions cost one pass of the network, whatever that
    is. A layer stretches a number by at most `exp(5)`, which keeps training steady. A new layer changes nothing.

    Args:
        dim: numbers in a vector, at least 2; the first `dim // 2` of them are the first half.
        flip: keep the second half and move the first, instead of the other way round.
        width: units in a hidden layer of the network.
        depth: hidden layers.

    Raises:
        TypeError, ValueError: not vectors of `dim` floating-point numbers.

    Source: Dinh et al. (2017), Real NVP, equations 4 to 8.

    Example:
        >>> layer, z = AffineCoupling(3), torch.ones(5, 3)
        >>> torch.equal(layer.inv(layer(z)), z)
        True
    """

    def __init__(self, dim: int, *, flip: bool = False, width: int = 64, depth: int = 2) -> None:
        super().__init__(_validate.whole("dim", dim, 2))
        first = dim // 2
        self.flip, self.sizes = flip, (first, dim - first)
        kept, moved = reversed(self.sizes) if flip else self.sizes
        widths = [kept] + [_validate.whole("width", width)] * _validate.whole("depth", depth) + [2 * moved]
        self.network = perceptron(*(nn.Linear(inside, outside) for inside, outside in pairwise(widths)))

    def push(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        kept, moved = self._halves("z", z)
        shift, log_scale = self._affine(kept)
        return self._join(kept, moved * log_scale.exp() + shift), log_scale.sum(-1)

    def pull(self, x: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        kept, moved = self._halves("x", x)
        shift, log_scale = self._affine(kept)
        return self._join(kept, (moved - shift) * (-log_scale).exp()), log_scale.sum(-1)

    def _affine(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(kept).chunk(2, -1)
        return shift, softclip(log_scale)

    def _halves(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.check(name, x).split(self.sizes, -1)
        return (second, first) if self.flip else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.flip else [kept, moved], -1)


class MaskedAutoregressive(Layer):
    """A layer in which what came before moves what comes next: `x_i = z_i exp(s_i(x_<i)) + t_i(x_<i)`.

    One network with masked weights gives every `s_i` and `t_i` at once. So `.inv`, and with it the density, is one
    pass, whatever `dim` is; the other way, each number has to wait for those before it, and a sample costs `dim`
    passes. Scales are bounded as in `AffineCoupling`. A new layer changes nothing.

    Args:
        dim: numbers in a vector.
        flip: let the last number come first.
        width: units in a hidden layer of the network.
        depth: hidden layers.

    Raises:
        TypeError, ValueError: not vectors of `dim` floating-point numbers.

    Source: Papamakarios et al. (2017), equations 2 to 5, on the masks of Germain et al. (2015), MADE.

    Example:
        >>> layer, z = MaskedAutoregressive(3), torch.ones(5, 3)
        >>> torch.equal(layer.inv(layer(z)), z)
        True
    """

    def __init__(self, dim: int, *, flip: bool = False, width: int = 64, depth: int = 2) -> None:
        super().__init__(dim)
        self.flip = flip
        masks = made_masks(dim, [_validate.whole("width", width)] * _validate.whole("depth", depth), flip)
        self.network = perceptron(*map(MaskedLinear, masks))

    def pull(self, x: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        shift, log_scale = self._affine(self.check("x", x))
        return (x - shift) * (-log_scale).exp(), log_scale.sum(-1)

    def push(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        x = torch.zeros_like(self.check("z", z))
        for _ in range(self.dim):  # after k rounds the first k numbers are right, and nothing has looked at the others
            shift, log_scale = self._affine(x)
            x = z * log_scale.exp() + shift
        return x, log_scale.sum(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.pull(y)[1]  # one pass; from x it would take as many as a sample

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.network(x).chunk(2, -1)
        return shift, softclip(log_scale)


class NormalizingFlow(nn.Module, Distribution):
    """Where the base goes through a stack of transforms: a module to train, and a distribution to use.

    `log p(x) = log p_base(z) - sum of log |det|`, one term for each transform, on the way from x back to z. Each layer
    is passed once, which torch's own `TransformedDistribution`, with the same layers, does not manage.

    Args:
        base: the distribution that goes in, of empty batch shape.
        transforms: from base to data, the first one applied first: layers of this module, their `.inv`, or any
            bijective torch Transform, such as a SigmoidTransform. None at all leaves the base.

    Raises:
        TypeError: the base is no Distribution, or a transform no Transform.
        ValueError: the base has a batch shape, a layer is for vectors of another size, or a transform is composed of
            others or cannot be undone.

    Source: Rezende and Mohamed (2015), equation 7; Papamakarios et al. (2021), section 2.1.

    Example:
        >>> from fmtutor.distributions import StandardNormal
        >>> flow = NormalizingFlow(StandardNormal(2), [AffineCoupling(2), AffineCoupling(2, flip=True)])
        >>> flow.sample((5,)).shape, flow.log_prob(torch.zeros(1, 2))  # new layers change nothing: log(1 / 2 pi)
        (torch.Size([5, 2]), tensor([-1.8379], grad_fn=...))
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(self, base: Distribution, transforms: Sequence[Transform]) -> None:
        nn.Module.__init__(self)
        if not isinstance(base, Distribution):
            raise TypeError(f"base must be a torch Distribution, got {type(base).__name__}")
        if base.batch_shape:
            raise ValueError(f"base must have no batch shape (see torch's Independent), got {tuple(base.batch_shape)}")
        Distribution.__init__(self, event_shape=base.event_shape, validate_args=False)
        self.base, self.transforms = base, [self._fitting(transform) for transform in transforms]
        self.layers = nn.ModuleList(t for t in self.transforms if isinstance(t, nn.Module))

    def _fitting(self, transform: Transform) -> Transform:
        if not isinstance(transform, Transform):
            raise TypeError(f"transforms must be torch Transforms, got {type(transform).__name__}")
        if isinstance(transform, ComposeTransform) or not transform.bijective:
            reason = "give its parts one by one" if isinstance(transform, ComposeTransform) else "it cannot be undone"
            raise ValueError(f"transforms must be single, bijective maps, got {type(transform).__name__}: {reason}")
        if isinstance(transform, Layer) and self.event_shape != (transform.dim,):
            raise ValueError(
                f"transforms must fit the base, whose draws have shape {tuple(self.event_shape)}, "
                f"got {type(transform).__name__} of {transform.dim} numbers"
            )
        return transform

    def rsample(
        self, sample_shape: Shape = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)` whose gradient reaches the layers' parameters."""
        return self.sample_and_log_prob(sample_shape, generator)[0]

    def sample(
        self, sample_shape: Shape = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)`, without a gradient; a generator needs a base that takes one."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def sample_and_log_prob(
        self, sample_shape: Shape = (), generator: Generator | None = None
    ) -> tuple[Float[Tensor, "*sample_and_event"], Float[Tensor, "*sample"]]:
        """Draws, as `rsample` gives them, with the log-density of each in nats, from one pass forwards.

        It needs no inverse: the one density that a stack of `Planar` layers knows.
        """
        shape = _validate.sample_shape(sample_shape)
        x = draw("base", self.base, shape.numel(), generator)
        log_prob = self.base.log_prob(x)
        for transform in self.transforms:
            x, log_det = push(transform, x, len(self.event_shape))
            log_prob = log_prob - log_det
        return x.reshape(shape + self.event_shape), log_prob.reshape(shape)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """The log-density, in nats; its gradient reaches `value` and the layers' parameters.

        Raises:
            NotImplementedError: a layer has no inverse.
            TypeError: `value` does not hold floating-point numbers of the layers' dtype.
            ValueError: `value` does not end in the event shape, or is not finite.
        """
        _validate.finite("value", value)
        events = len(self.event_shape)
        if value.dim() < events or value.shape[value.dim() - events :] != self.event_shape:
            raise ValueError(f"value must end in the event shape {tuple(self.event_shape)}, got {tuple(value.shape)}")
        z, total = value, value.new_zeros(value.shape[: value.dim() - events])
        for transform in reversed(self.transforms):
            z, log_det = pull(transform, z, events)
            total = total + log_det
        return self.base.log_prob(z) - total

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Every `.to()` of a module ends here: a base of ours, which is no module, comes along."""
        super()._apply(fn, recurse)
        if isinstance(self.base, Target):
            self.base = self.base.to(fn(self.base._like))
        return self


def dequantize(values: Tensor, levels: int, generator: Generator | None = None) -> Float[Tensor, "*shape"]:
    """Whole numbers `0 .. levels - 1` as numbers in [0, 1): `(values + u) / levels`, with u uniform in [0, 1).

    A density can be made as large as we like at points that data hit exactly. Spread over its cell, each value takes
    up room; see `bits_per_dim` for what the density then says about the whole numbers.

    Args:
        values: whole numbers, in an integer or a floating-point dtype; integers come back in torch's default dtype.
        levels: how many different values there are: 256 for 8-bit images, 17 for scikit-learn's digits.

    Raises:
        TypeError: no tensor, or one of complex numbers or booleans.
        ValueError: a value is not whole, or not below `levels`, or below 0.

    Source: Uria, Murray and Larochelle (2013), section 4.2; Theis et al. (2016), section 3.1.

    Example:
        >>> dequantize(torch.tensor([0, 16]), 17).mul(17).floor()
        tensor([ 0., 16.])
    """
    _validate.whole("levels", levels)
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(
            f"values must be a tensor of whole numbers, got {getattr(values, 'dtype', type(values).__name__)}"
        )
    x = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    if x.device.type == "cpu" and not (good := (x >= 0) & (x < levels) & (x == x.floor())).all():
        raise ValueError(f"values must be whole numbers from 0 to {levels - 1}, got {x[~good][0].item():g}")
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return ((x + u) / levels).clamp(max=1 - torch.finfo(x.dtype).eps / 2)  # rounding up would leave [0, 1)


def bits_per_dim(log_prob: Float[Tensor, "*shape"], dims: int, levels: int) -> Float[Tensor, "*shape"]:
    """What `log_prob`, of data made by `dequantize`, costs in bits for each of the `dims` whole numbers.

    A cell has volume `levels ** -dims`, so the density of whole numbers is smaller than that of numbers in [0, 1) by
    that factor: `-log_prob / (dims log 2) + log2(levels)`. Its mean is, by Jensen's inequality, never below what the
    best code for the whole numbers costs under the model, and so never below their entropy.

    Args:
        log_prob: log-densities in nats, of numbers in [0, 1).
        dims: how many numbers an event has.
        levels: how many values each can take.

    Source: Theis et al. (2016), section 3.1.

    Example:
        >>> bits_per_dim(torch.tensor(0.0), dims=64, levels=16)  # uniform: each of the 64 numbers takes 4 bits
        tensor(4.)
    """
    _validate.floating("log_prob", log_prob)
    return -log_prob / (_validate.whole("dims", dims) * math.log(2)) + math.log2(_validate.whole("levels", levels))
