"""How far a model is from the truth, in numbers: its likelihood, its samples, its field and its trajectories.

Chapter 3 measures samples and likelihoods with it, chapter 4 the error of a trained field, chapter 5 straightness.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.distributions import Target
from fmtutor.distributions.target import draw
from fmtutor.metrics.distances import blocks, identity, mean_between, mean_within, samples
from fmtutor.metrics.estimates import Estimate, estimate, log_prob
from fmtutor.ode import Solution
from fmtutor.paths import AffinePath

__all__ = [
    "Estimate",
    "energy_distance",
    "energy_test",
    "kl",
    "mmd",
    "sliced_wasserstein",
    "straightness",
    "velocity_error",
]


@torch.no_grad()
def kl(target: Distribution, model: Distribution, n: int = 10_000, *, generator: Generator | None = None) -> Estimate:
    r"""Kullback-Leibler divergence KL(target ‖ model) in nats, from `n` draws of the target.

    It is `-entropy - E[log model]` where the target knows its entropy and `E[log target - log model]` where it knows
    its density; where it knows both, the answer is the one with the smaller standard error.

    Args:
        target: the truth, of empty batch shape; it knows its entropy or its density.
        model: any distribution with a `log_prob` on the same events.

    Raises:
        ValueError: neither entropy nor density is known, or a log-density is NaN or not of shape `(n,)`.

    Source: Cover and Thomas, Elements of Information Theory, section 8.5.

    Example:
        >>> from torch.distributions import MultivariateNormal
        >>> eye, _ = torch.eye(2), torch.manual_seed(0)
        >>> gap = kl(MultivariateNormal(torch.zeros(2), eye), MultivariateNormal(torch.zeros(2), 4 * eye))
        >>> abs(gap.value - (math.log(4) - 0.75)) < 3 * gap.error
        True
    """
    x = draw("target", target, _validate.whole("n", n), generator)
    log_q = log_prob("model", model, x)
    estimates = []
    try:
        estimates.append(estimate(-target.entropy() - log_q))
    except NotImplementedError:
        pass
    try:
        estimates.append(estimate(log_prob("target", target, x) - log_q))
    except NotImplementedError:
        pass
    if not estimates:
        raise ValueError(f"target must know its entropy or its log_prob, got {type(target).__name__} with neither")
    return min(estimates, key=lambda either: either.error)


@torch.no_grad()
def energy_distance(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> float:
    """Energy distance `2 E|x - y| - E|x - x'| - E|y - y'|`, in the units of `x`; zero iff the two laws are the same.

    The estimate is the unbiased one (a U-statistic, pairs of a point with itself left out), so two samples of one law
    give a number around zero, of either sign. Events of any shape are flattened.

    Raises:
        TypeError, ValueError: samples that are not finite, of different events, or fewer than two.

    Source: Székely and Rizzo, Energy statistics, 2013, equation 5.

    Example:
        >>> energy_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [6.0]]))
        6.0
    """
    x, y = samples(x, y)
    return 2 * mean_between(identity, x, y) - mean_within(identity, x) - mean_within(identity, y)


@torch.no_grad()
def energy_test(
    x: Float[Tensor, "n *event"],
    y: Float[Tensor, "m *event"],
    permutations: int = 199,
    *,
    generator: Generator | None = None,
) -> float:
    """The p-value of "`x` and `y` have one law": how often relabelled points have an energy distance as large.

    The distances are visited once, in blocks: with `z` the 0/1 labels and `D` the distances of all points, every sum a
    relabelling needs is in `z' D z` and `z' D 1`. The smallest p-value is `1 / (permutations + 1)`.

    Raises:
        TypeError, ValueError: as `energy_distance`, or no permutations.

    Source: Székely and Rizzo, Energy statistics, 2013, section 6; Phipson and Smyth, 2010, for the "+ 1".

    Example:
        >>> _ = torch.manual_seed(0)
        >>> energy_test(torch.randn(200, 2), 1 + torch.randn(200, 2))
        0.005
    """
    x, y = samples(x, y)
    n, m, both = len(x), len(y), torch.cat([x, y])
    drawn = torch.rand(
        _validate.whole("permutations", permutations), n + m, generator=generator, device=_home(generator)
    )
    order = torch.cat([torch.arange(n + m)[None], drawn.argsort(1).cpu()]).to(x.device)
    z = (order < n).T.to(x.dtype)  # one column of labels each; the first is the one we were given
    zdz, zd, total = torch.zeros_like(z[0]), torch.zeros_like(z[0]), torch.zeros_like(z[0, 0])
    for rows, block in blocks(both, both):
        zdz += (z[rows] * (block @ z)).sum(0)
        zd += block.sum(1) @ z[rows]
        total += block.sum()
    between, within = zd - zdz, zdz / (n * (n - 1)) + (total - 2 * zd + zdz) / (m * (m - 1))
    distance = 2 * between / (n * m) - within
    rounding = 8 * torch.finfo(x.dtype).eps * within[0]
    return float((distance >= distance[0] - rounding).double().mean())


@torch.no_grad()
def mmd(
    x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"], bandwidth: float | list[float] | None = None
) -> float:
    """Squared maximum mean discrepancy, unbiased, with the kernel `exp(-|x - y|² / (2 bandwidth²))`; no unit.

    Args:
        bandwidth: in the units of `x`; of several, the kernels are averaged. None takes the median distance between
            the points of both samples (of at most 1 000 of them, evenly picked).

    Raises:
        TypeError, ValueError: as `energy_distance`, or a bandwidth that is not above 0.

    Source: Gretton et al., A kernel two-sample test, 2012, equation 3 and section 8 (median heuristic).

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> round(mmd(x, x + 1, bandwidth=1.0), 4)  # exp(-1/2) - (1 + exp(-2)) / 2
        0.0389
    """
    x, y = samples(x, y)
    if bandwidth is None:
        both = torch.cat([x, y])
        bandwidth = float(torch.pdist(both[:: math.ceil(len(both) / 1000)]).median())
        if bandwidth == 0:
            raise ValueError("x and y must hold different points: their median distance is 0, so give a bandwidth")
    widths = [_validate.positive("bandwidth", h) for h in (bandwidth if isinstance(bandwidth, list) else [bandwidth])]

    def kernel(distance: Tensor) -> Tensor:
        return sum(((distance / h).square_().mul_(-0.5).exp_() for h in widths), torch.zeros(())) / len(widths)

    return mean_within(kernel, x) + mean_within(kernel, y) - 2 * mean_between(kernel, x, y)


@torch.no_grad()
def sliced_wasserstein(
    x: Float[Tensor, "n *event"],
    y: Float[Tensor, "m *event"],
    projections: int = 100,
    p: float = 2,
    *,
    generator: Generator | None = None,
) -> float:
    """Sliced Wasserstein distance of order `p`, in the units of `x`: root of the mean of `W_p^p` over directions.

    On a line the best plan pairs quantile with quantile, and between samples of `n` and `m` points the quantiles only
    change at multiples of `1/n` and `1/m`: the distance along each direction is exact, for unequal sizes too.

    Raises:
        TypeError, ValueError: as `energy_distance`, no projections, or `p` below 1.

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015, equation 8.

    Example:
        >>> round(sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]]), p=1), 4)
        2.5
    """
    x, y = samples(x, y)
    if _validate.positive("p", p) < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    shape = (x.shape[1], _validate.whole("projections", projections))
    directions = torch.randn(shape, dtype=x.dtype, device=_home(generator, x), generator=generator).to(x.device)
    directions = directions / directions.norm(dim=0)
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    mass = ends.diff(prepend=ends.new_zeros(1)).to(x.dtype) / (n * m)
    gap = (x @ directions).sort(0).values[(ends - 1) // m] - (y @ directions).sort(0).values[(ends - 1) // n]
    return float((mass @ gap.abs().pow(p)).mean() ** (1 / p))


@torch.no_grad()
def velocity_error(
    velocity: Callable[[Tensor, Tensor], Tensor],
    path: AffinePath,
    target: Target,
    base: Distribution,
    n: int = 10_000,
    times: Float[Tensor, " times"] | None = None,
    *,
    generator: Generator | None = None,
) -> Estimate | Float[Tensor, " times"]:
    """Mean squared error of a field against the exact marginal velocity, averaged over coordinates: loss minus floor.

    Args:
        velocity: the field, `v(t, x)`; `target` must know its `posterior_mean`.
        n: the number of points drawn from the path, at each time where `times` are given.
        times: None draws `t` uniformly from [0, 1) and returns one `Estimate`; otherwise the answer has one error for
            each of these times.

    Raises:
        ValueError: `velocity` returns another shape than that of its input, or a time has no velocity.

    Source: Lipman et al., 2210.02747, equation 5.

    Example:
        >>> from fmtutor import AffinePath, Checkerboard, StandardNormal
        >>> path, board, base = AffinePath(), Checkerboard(), StandardNormal(2)
        >>> velocity_error(lambda t, x: path.marginal_velocity(t, x, board), path, board, base)
        0 ± 0
    """
    _validate.able("path", path, "marginal_velocity", like="AffinePath")
    draws = (draw("base", base, _validate.whole("n", n), generator), draw("target", target, n, generator))
    if times is not None:
        if _validate.finite("times", times).dim() != 1 or not len(times):
            raise ValueError(f"times must be a row of at least one time, got shape {tuple(times.shape)}")
        return torch.stack([_field_error(velocity, path, target, *draws, t.expand(n)).mean() for t in times])
    t = torch.rand(n, dtype=draws[0].dtype, device=_home(generator, draws[0]), generator=generator)
    return estimate(_field_error(velocity, path, target, *draws, t.to(draws[0].device)))


@torch.no_grad()
def straightness(
    states: Solution | Float[Tensor, "times batch *event"], times: Float[Tensor, " times"] | None = None
) -> Estimate:
    """How far trajectories are from straight: `E ∫ |(x1 - x0) - dx/dt|² dt`, zero iff straight at constant speed.

    Between two recorded states the velocity is their difference quotient, so the number is a lower bound whose error
    falls as the square of the spacing.

    Args:
        states: a `Solution` that was asked for `times`, or the states themselves, and then their times beside them.

    Raises:
        ValueError: fewer than three times, or times that do not run one way.

    Source: Liu et al., 2209.03003, section 2.2, S(Z).

    Example:
        >>> t = torch.linspace(0, 1, 11)
        >>> straightness(t[:, None].square().expand(-1, 8), t)  # speed 2t instead of 1
        0.33 ± 0
    """
    if not isinstance(states, Tensor):
        times, states = states.times, states.states
    if states is None or times is None:
        raise ValueError("states needs its times: give solve(..., times=...), or states and times as two tensors")
    if not _validate.finite("states", states).numel() or _validate.finite("times", times).dim() != 1:
        raise ValueError(
            f"states must hold something and times be a row, got {tuple(states.shape)} and {tuple(times.shape)}"
        )
    step = times.diff()
    if times.shape != states.shape[:1] or len(times) < 3 or not ((step > 0).all() or (step < 0).all()):
        raise ValueError(
            f"times must be three or more, in order, one for each row of states, "
            f"got shape {tuple(times.shape)} for states {tuple(states.shape)}"
        )
    path = states.flatten(2) if states.dim() > 2 else states[..., None]
    slope = path.diff(dim=0) / step[:, None, None]
    chord = (path[-1] - path[0]) / (times[-1] - times[0])
    return estimate((step.abs()[:, None] * (slope - chord).square().sum(-1)).sum(0))


def _home(generator: Generator | None, like: Tensor | None = None) -> torch.device:
    """Where to draw: where the generator lives, or else where the tensor does."""
    if generator is not None:
        return generator.device
    return like.device if like is not None else torch.device("cpu")


def _field_error(
    velocity: Callable[[Tensor, Tensor], Tensor],
    path: AffinePath,
    target: Target,
    x0: Float[Tensor, "n *event"],
    x1: Float[Tensor, "n *event"],
    t: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Squared error at each point of the path, averaged over coordinates."""
    errors = []
    for start, end, now in zip(x0.split(10_000), x1.split(10_000), t.split(10_000), strict=True):
        xt = path.sample(start, end, now).xt
        v = _validate.output_like("velocity", velocity(now, xt), xt)
        errors.append((v - path.marginal_velocity(now, xt, target)).square().reshape(len(xt), -1).mean(1))
    return torch.cat(errors)
