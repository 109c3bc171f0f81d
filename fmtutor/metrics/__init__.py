"""How far a model is from the truth, in numbers: its likelihood, its samples, its field and its trajectories.

Chapter 3 measures samples and likelihoods with it, chapter 4 the error of a trained field, chapter 5 straightness; the
last two are in `fields`. Numbers in half precision are taken as they are, and summed in float32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.distributions.target import draw
from fmtutor.metrics.distances import blocks, identity, mean_between, mean_within, samples
from fmtutor.metrics.estimates import Estimate, estimate, home, log_prob, nats
from fmtutor.metrics.fields import straightness, velocity_error

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
        TypeError: a log-density comes in half precision, which rounds whole nats away.
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
        estimates.append(estimate(-nats("target.entropy", target.entropy()) - log_q))
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

    Source: Székely and Rizzo, Energy statistics, 2013.

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

    Source: Székely and Rizzo, Energy statistics, 2013; Phipson and Smyth, 2010, for the "+ 1".

    Example:
        >>> _ = torch.manual_seed(0)
        >>> energy_test(torch.randn(200, 2), 1 + torch.randn(200, 2))
        0.005
    """
    x, y = samples(x, y)
    n, m, both = len(x), len(y), torch.cat([x, y])
    drawn = torch.rand(
        _validate.whole("permutations", permutations), n + m, generator=generator, device=home(generator)
    )
    order = torch.cat([torch.arange(n + m)[None], drawn.argsort(1).cpu()]).to(x.device)
    z = (order < n).T.double()  # one column of labels each; the first is the one we were given
    zdz, zd, total = torch.zeros_like(z[0]), torch.zeros_like(z[0]), torch.zeros_like(z[0, 0])
    for rows, block in blocks(both, both):
        block = block.double()  # the sums cancel: what is equal but for rounding must count as equal
        zdz += (z[rows] * (block @ z)).sum(0)
        zd += block.sum(1) @ z[rows]
        total += block.sum()
    between, within = zd - zdz, zdz / (n * (n - 1)) + (total - 2 * zd + zdz) / (m * (m - 1))
    distance = 2 * between / (n * m) - within
    rounding = 1e-12 * total / (n * m)
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

    Source: Gretton et al., A kernel two-sample test, 2012; the median heuristic too.

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

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.

    Example:
        >>> round(sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]]), p=1), 4)
        2.5
    """
    x, y = samples(x, y)
    if _validate.positive("p", p) < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    shape = (x.shape[1], _validate.whole("projections", projections))
    directions = torch.randn(shape, dtype=x.dtype, device=home(generator, x), generator=generator).to(x.device)
    directions = directions / directions.norm(dim=0)
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    mass = ends.diff(prepend=ends.new_zeros(1)).to(x.dtype) / (n * m)
    gap = (x @ directions).sort(0).values[(ends - 1) // m] - (y @ directions).sort(0).values[(ends - 1) // n]
    return float((mass @ gap.abs().pow(p)).mean() ** (1 / p))
