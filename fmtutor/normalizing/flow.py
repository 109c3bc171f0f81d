"""The distribution that a stack of layers makes of a base: `NormalizingFlow`, which chapter 1 trains by likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Size, Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from fmtutor import _validate
from fmtutor.distributions.target import draw
from fmtutor.normalizing.borrowed import Borrowed, BorrowedTransform, everywhere, log_density, shape_after
from fmtutor.normalizing.layers import Layer

Shape = Size | list[int] | tuple[int, ...]


class NormalizingFlow(nn.Module, Distribution):
    """Where the base goes through a stack of transforms: a module to train, and a distribution to use.

    `log p(x) = log p_base(z) - sum of log |det|`, one term for each transform, on the way from x back to z. Each layer
    is passed once, which torch's own `TransformedDistribution`, with the same layers, does not manage.

    Everything that the density depends on belongs to the module. A base or transform that is a module is used as it is.
    Of any other the flow keeps a copy whose tensors are buffers, moved and saved with the rest, while an `nn.Parameter`
    in it is trained: `AffineTransform(nn.Parameter(loc), nn.Parameter(scale))`. Plain numbers are part of the program.

    Args:
        base: the distribution that goes in, of empty batch shape.
        transforms: from base to data, the first one applied first: layers of this module, their `.inv`, or any
            bijective torch Transform, such as a SigmoidTransform. None at all leaves the base.

    Attributes:
        noise: the base as a module.
        layers: the transforms as modules, each with `push` and `pull`.

    Raises:
        TypeError: the base is no Distribution or hides its network in a function, or a transform is no Transform.
        ValueError: the base has a batch shape or holds a tensor that needs a gradient and is no parameter, or a
            transform is for other shapes, is composed of others or cannot be undone.

    Source: Rezende and Mohamed (2015); Papamakarios et al. (2021), section 2.1.

    Example:
        >>> from fmtutor import AffineCoupling, StandardNormal
        >>> flow = NormalizingFlow(StandardNormal(2), [AffineCoupling(2), AffineCoupling(2, flip=True)])
        >>> flow.sample((5,)).shape, flow.log_prob(torch.zeros(1, 2))  # still the base: log(1 / 2 pi)
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
        self.noise = base if isinstance(base, nn.Module) else Borrowed("base", base)
        layers, shape = [], base.event_shape
        for transform in transforms:
            after = shape_after(transform, shape)
            layers.append(transform if isinstance(transform, Layer) else BorrowedTransform(transform, shape))
            shape = after
        self.layers: Any = nn.ModuleList(layers)
        Distribution.__init__(self, event_shape=shape, validate_args=False)

    @property
    def base(self) -> Any:
        """The distribution that goes in."""
        return self.noise.whole if isinstance(self.noise, Borrowed) else self.noise

    @property
    def transforms(self) -> list[Any]:
        """The transforms, from base to data."""
        return [layer.transform if isinstance(layer, BorrowedTransform) else layer for layer in self.layers]

    def rsample(
        self, sample_shape: Shape = (), generator: Generator | None = None
    ) -> Float[Tensor, "*sample_and_event"]:
        """Draws of shape `(*sample_shape, *event)` whose gradient reaches the parameters."""
        shape = _validate.sample_shape(sample_shape)
        x = self._from_base(shape.numel(), generator)
        for layer in self.layers:
            x = layer(x)
        return x.reshape(shape + self.event_shape)

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
        shape, base = _validate.sample_shape(sample_shape), self.base
        if hasattr(base, "sample_and_log_prob"):
            x, log_prob = base.sample_and_log_prob((shape.numel(),), generator)
        else:
            x = self._from_base(shape.numel(), generator)
            log_prob = log_density(base, x)
        for layer in self.layers:
            x, log_det = layer.push(x)
            log_prob = log_prob - log_det
        return x.reshape(shape + self.event_shape), log_prob.reshape(shape)

    def _from_base(self, n: int, generator: Generator | None) -> Tensor:
        """Draws of the base, with their gradient where it has one to give; from a generator only flows of ours do."""
        base = self.base
        if base.has_rsample and (generator is None or hasattr(base, "sample_and_log_prob")):
            return base.rsample((n,)) if generator is None else base.rsample((n,), generator)
        return draw("base", base, n, generator)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """The log-density, in nats, -inf where no draw can be; its gradient reaches `value` and the parameters.

        Raises:
            NotImplementedError: a layer has no inverse.
            TypeError: `value` does not hold floating-point numbers of the layers' dtype.
            ValueError: `value` does not end in the event shape, or is not finite.
        """
        _validate.finite("value", value)
        batch, event = value.dim() - len(self.event_shape), tuple(self.event_shape)
        if batch < 0 or value.shape[batch:] != event:
            raise ValueError(f"value must end in the event shape {event}, got {tuple(value.shape)}")
        z, total = value, value.new_zeros(value.shape[:batch])
        for layer in reversed(self.layers):
            z, log_det = layer.pull(z)
            total = total + log_det
        return log_density(self.base, z) - total

    @property
    def support(self) -> constraints.Constraint:
        """Where draws can be, as torch describes it; known if only the last transform has an end."""
        *before, last = [self.base.support, *(transform.codomain for transform in self.transforms)]
        if not all(everywhere(constraint) for constraint in before):
            raise NotImplementedError(
                "torch has no name for the support of this flow: ask log_prob, which is -inf off it"
            )
        return constraints.independent(last, len(self.event_shape) - last.event_dim)

    @property
    def mean(self) -> Tensor:
        raise self._unknown("mean", "sample((10_000,)).mean(0)")

    @property
    def variance(self) -> Tensor:
        raise self._unknown("variance", "sample((10_000,)).var(0)")

    def entropy(self) -> Tensor:
        raise self._unknown("entropy", "-sample_and_log_prob((10_000,))[1].mean()")

    def expand(self, batch_shape: Shape, _instance: Any = None) -> NormalizingFlow:
        raise NotImplementedError("a NormalizingFlow has no batch shape: for more draws see sample_shape")

    def _unknown(self, what: str, instead: str) -> NotImplementedError:
        return NotImplementedError(f"the {what} of a NormalizingFlow has no closed form: estimate it by {instead}")
