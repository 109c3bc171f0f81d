"""What a hurried reader hands in by mistake: it is answered at once, and never from deep inside torch.

Each row was once a wrong number without a word, or an error that did not say which argument was meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.distributions import AbsTransform, ComposeTransform, MultivariateNormal

from fmtutor import (
    AffinePath,
    Checkerboard,
    ContinuousFlow,
    GaussianMixture,
    Linear,
    StandardNormal,
    VelocityMLP,
    conditional_flow_matching_loss,
    divergence,
    explore,
    fit,
    flow_matching_loss,
    metrics,
    plots,
    solve,
)
from fmtutor.distributions import Pinwheel
from fmtutor.images import UNet, train_classifier
from fmtutor.normalizing import AffineCoupling, NormalizingFlow
from fmtutor.schedules import Schedule

X, GREY, PATH, BASE = torch.ones(3, 2), torch.zeros(4, 1, 8, 8), AffinePath(), StandardNormal(2)


def still(t: Tensor, x: Tensor) -> Tensor:
    return 0 * x


class Made(Schedule):
    """A schedule of two formulas, right or wrong."""

    def __init__(self, alpha: Callable[[Tensor], Any], sigma: Callable[[Tensor], Any]) -> None:
        self.alpha, self.sigma = alpha, sigma  # type: ignore[method-assign]


def path(alpha: Callable[[Tensor], Any] = lambda t: t, sigma: Callable[[Tensor], Any] = lambda t: 1 - t) -> AffinePath:
    return AffinePath(Made(alpha, sigma))


def trained(**settings: Any) -> None:
    model = torch.nn.Linear(1, 1)
    fit(model, lambda: model.weight.sum(), **{"steps": 1, "progress": False, **settings})


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # a schedule that does not return one number for each time
    (lambda: path(sigma=lambda t: (1 - t).mean()).sample(X, X, 0.5), ValueError, r"sigma\(t\) of Made.* shape of t"),
    (lambda: path(sigma=lambda t: (1 - t)[:, None]).sample(X, X, 0.5), ValueError, r"the shape of t, \(3, 1\)"),
    (lambda: path(alpha=lambda t: torch.ones(2)).sample(X, X, 0.5), ValueError, r"alpha\(t\) of Made"),
    (lambda: path(alpha=lambda t: 1.0).sample(X, X, 0.5), TypeError, r"alpha\(t\) of Made.* be a Tensor, got float"),
    (lambda: path(alpha=torch.sqrt).sample(X, X, 0.0), ValueError, "at t = 0, the velocity is infinite"),
    (lambda: path(alpha=torch.sqrt).marginal_velocity(0.0, X, BASE), ValueError, "at t = 0, the velocity is infinite"),
    (lambda: AffinePath(Linear), TypeError, "schedule must be a Schedule, got the class Linear: call it"),
    (lambda: AffinePath("linear"), TypeError, "schedule must be a Schedule, got str"),
    # another thing than the one that is wanted
    (lambda: conditional_flow_matching_loss(still, Linear(), X, X), TypeError, "path must have a method sample"),
    (lambda: flow_matching_loss(still, BASE, BASE, X, 0.5), TypeError, "path must have a method"),
    (lambda: flow_matching_loss(still, PATH, X, X, 0.5), TypeError, "target must have a method posterior_mean"),
    (lambda: metrics.velocity_error(still, BASE, BASE, PATH), TypeError, "path must have a method"),
    (lambda: metrics.kl(X, BASE), TypeError, "target must be a Distribution, got Tensor"),
    (lambda: PATH.sample(X, X, "half"), TypeError, "t must be a number or a tensor of numbers, got 'half'"),
    (lambda: PATH.sample(X, X, None), TypeError, "t must be a number or a tensor of numbers, got None"),
    (lambda: Linear("a"), TypeError, "sigma_min must be a number, got 'a'"),
    (lambda: trained(lr="fast"), TypeError, "lr must be a number, got 'fast'"),
    (lambda: trained(ema="yes"), TypeError, "ema must be a number, got 'yes'"),
    (lambda: trained(checkpoint=""), ValueError, "checkpoint must name a folder"),
    (lambda: trained(optimizer="adam"), TypeError, "optimizer must be a function, got str"),
    (lambda: trained(generators=None), TypeError, "generators must be a sequence of torch.Generator"),
    (lambda: solve(None, X), TypeError, "velocity must be a function v\\(t, x\\), got NoneType"),
    (lambda: solve(still, X, times=5), TypeError, "times must be a row of numbers, got 5"),
    (lambda: solve(still, X, adjoint=1), TypeError, "adjoint must be True, False or the tensors to reach, got 1"),
    (lambda: conditional_flow_matching_loss(None, PATH, X, X), TypeError, "velocity must be a function v"),
    (lambda: plots.density(BASE, resolution=0), ValueError, "resolution must be a whole number"),
    (lambda: plots.trajectories(torch.zeros(3, 4, 2), torch.arange(3.0), n=0), ValueError, "n must be a whole number"),
    (lambda: explore.particles(torch.zeros(3, 4, 2), torch.linspace(0, 1, 3)), ValueError, "different places"),
    # how many draws, and from which generator
    (lambda: BASE.sample(10), TypeError, r"sample_shape must be a tuple of whole numbers, got 10: write \(10,\)"),
    (lambda: ContinuousFlow(still, BASE).sample(10), TypeError, r"write \(10,\)"),
    (lambda: NormalizingFlow(BASE, []).sample(10), TypeError, r"write \(10,\)"),
    (lambda: BASE.sample((-1,)), ValueError, "sample_shape must hold no negative number"),
    (lambda: ContinuousFlow(still, BASE).sample((2, -1)), ValueError, "sample_shape must hold no negative number"),
    (lambda: BASE.sample((2,), generator=0), TypeError, "generator must be a torch.Generator or None, got 0"),
    (lambda: conditional_flow_matching_loss(still, PATH, X, X, generator=0), TypeError, "generator must be"),
    (
        lambda: ContinuousFlow(still, MultivariateNormal(X[0], torch.eye(2))).sample((2,), torch.Generator()),
        TypeError,
        "base takes no generator: MultivariateNormal",
    ),
    # nothing to take a mean of
    (lambda: conditional_flow_matching_loss(still, PATH, X[:0], X[:0]), ValueError, "a mean needs points"),
    (lambda: flow_matching_loss(still, PATH, Checkerboard(), X[:0], 0.5), ValueError, "a mean needs points"),
    (lambda: metrics.straightness(torch.zeros(5, 0, 2), torch.linspace(0, 1, 5)), ValueError, "states must hold"),
    (lambda: metrics.velocity_error(still, PATH, BASE, BASE, times=torch.tensor(0.5)), ValueError, "times must be"),
    (lambda: metrics.mmd(X, X), ValueError, "x and y must hold different points"),
    (lambda: metrics.sliced_wasserstein(X, X, p=math.inf), ValueError, "p must be above 0 and finite"),
    # a field that leaves the numbers
    (lambda: solve(lambda t, x: x * math.nan, X), ValueError, "velocity must be finite"),
    (lambda: solve(lambda t, x: x / (1 - t), X, method="rk4"), ValueError, r"before t = 1.*stop a little earlier"),
    (lambda: solve(lambda t, x: x / (1 - t), X, method="dopri5"), ValueError, "velocity must be finite and smooth"),
    (lambda: ContinuousFlow(lambda t, x: x * math.nan, BASE).log_prob(X), ValueError, "velocity must be finite"),
    (lambda: ContinuousFlow(still, BASE, t1=math.nan), ValueError, "t1 must be above 0"),
    (lambda: ContinuousFlow(still, BASE, rtol=-1), ValueError, "rtol must be above 0"),
    (lambda: ContinuousFlow(still, BASE).trajectory(torch.ones(5, 3)), ValueError, r"x0 must have shape \(batch, 2\)"),
    (lambda: divergence(still, torch.rand(4), X), ValueError, "t must be a scalar or have shape"),
    # sizes and dtypes of networks
    (lambda: VelocityMLP(0), ValueError, "dim must be a whole number"),
    (lambda: VelocityMLP(2, width=0), ValueError, "width must be a whole number"),
    (lambda: VelocityMLP(2, depth=-1), ValueError, "depth must be a whole number"),
    (lambda: VelocityMLP(2)(0.5, X.double()), TypeError, "torch.float32, as the parameters of VelocityMLP are"),
    (lambda: UNet(1, 8)(0.5, GREY.double()), TypeError, "x must be torch.float32, as the parameters of UNet are"),
    (lambda: UNet(0), ValueError, "channels must be a whole number"),
    (lambda: UNet(classes=-1), ValueError, "classes must be a whole number"),
    (lambda: UNet(1, 8, classes=3)(0.5, GREY, 1), TypeError, "label must be a tensor of torch.int64"),
    (lambda: UNet(1, 8, classes=3)(0.5, GREY, torch.ones(4)), TypeError, "label must be .*, got torch.float32"),
    (lambda: train_classifier(GREY, torch.rand(4)), TypeError, "labels must be a tensor of whole numbers"),
    (lambda: train_classifier(GREY, [0, 1, 0, 1]), TypeError, "labels must be a tensor of whole numbers, got list"),
    (lambda: StandardNormal(-1), ValueError, "event must be a whole number"),
    (lambda: Pinwheel(bend=math.nan), ValueError, "bend must be"),
    (lambda: NormalizingFlow(BASE, [ComposeTransform([AffineCoupling(2)])]), ValueError, "give its parts one by one"),
    (lambda: NormalizingFlow(BASE, [AbsTransform()]), ValueError, "it cannot be undone"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_refused_with_the_argument_named(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_what_a_field_asserts_is_its_own() -> None:
    def proud(t: Tensor, x: Tensor) -> Tensor:
        raise AssertionError("never here")

    with pytest.raises(AssertionError, match="never here"):
        solve(proud, X)


def test_a_target_of_ones_own_needs_no_base_class() -> None:
    class Point:
        def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return torch.ones_like(x)

    torch.testing.assert_close(PATH.marginal_velocity(0.5, 0 * X, Point()), 2 * X)  # type: ignore[arg-type]


def test_whole_numbers_of_other_makers_are_whole_numbers() -> None:
    for ten in (numpy.int64(10), torch.tensor(10)):
        assert solve(still, X, method="euler", steps=ten).nfe == 10


def test_an_empty_batch_goes_through_every_solver() -> None:
    for method in ("midpoint", "dopri5"):
        flow = ContinuousFlow(still, BASE, method=method)
        assert flow.sample((0,)).shape == (0, 2)
        assert flow.log_prob(X[:0]).shape == (0,)


def test_a_field_with_no_divergence_is_no_field_without_gradient() -> None:
    """Constants, rotations and steps have a right to theirs; only a gradient that was cut off is refused."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    for field in (still, lambda t, x: torch.ones_like(x), lambda t, x: x @ turn, lambda t, x: torch.floor(x)):
        assert not divergence(field, 0.5, torch.rand(50, 2))[1].any()
    for cut in (lambda t, x: x.detach() ** 2, torch.no_grad()(lambda t, x: torch.sin(x))):
        for estimator in ("exact", "rademacher", "gaussian"):
            with pytest.raises(ValueError, match="velocity must be differentiable in x"):
                divergence(cut, 0.5, torch.rand(50, 2), estimator)


def test_float64_all_the_way() -> None:
    """A reader who works in float64 needs no other line for it."""
    torch.set_default_dtype(torch.float64)
    model, target = VelocityMLP(2, width=8), GaussianMixture(torch.ones(1, 2), 0.5)
    loss = conditional_flow_matching_loss(model, PATH, StandardNormal(2).sample((4,)), target.sample((4,)))
    assert loss.dtype == torch.float64
    assert ContinuousFlow(model, StandardNormal(2)).sample((3,)).dtype == torch.float64
