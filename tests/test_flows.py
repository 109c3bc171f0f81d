"""A flow as a distribution: densities against closed forms, against integrals and against its own samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from reference import F64, targets
from torch import Generator, Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from fmtutor import (
    AffinePath,
    ContinuousFlow,
    Cosine,
    EightGaussians,
    GaussianMixture,
    Linear,
    Polynomial,
    Schedule,
    Solution,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    VelocityMLP,
    conditional_flow_matching_loss,
    flows,
    solve,
)
from fmtutor.distributions.intervals import gauss_legendre
from fmtutor.ode import ORDER

CALLS = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}

MEAN, SCALE = torch.tensor([1.0, -0.5], dtype=F64), 0.4
TIGHT = {"method": "dopri5", "rtol": 1e-8, "atol": 1e-8}
BASE = StandardNormal(2).to(F64)


def to_gaussian(t: Tensor, x: Tensor) -> Tensor:
    """The exact field from N(0, 1) to N(MEAN, SCALE^2) on the linear path, which has no singular end."""
    variance = (t * SCALE) ** 2 + (1 - t) ** 2
    return MEAN + (t * SCALE**2 - (1 - t)) / variance * (x - t * MEAN)


def small() -> VelocityMLP:
    return VelocityMLP(2, width=8, depth=1, frequencies=2).double()


def test_likelihood_of_a_gaussian() -> None:
    target = MultivariateNormal(MEAN, SCALE**2 * torch.eye(2, dtype=F64))
    flow, x = ContinuousFlow(to_gaussian, BASE, **TIGHT), target.sample((50,))
    torch.testing.assert_close(flow.log_prob(x), target.log_prob(x), rtol=0, atol=1e-5)
    mixture = GaussianMixture(MEAN[None], SCALE)
    for t in (0.0, 0.3, 0.9):
        torch.testing.assert_close(
            AffinePath().marginal_velocity(t, x, mixture), to_gaussian(torch.tensor(t, dtype=F64), x)
        )
    wrong: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "sign": lambda t, x: -to_gaussian(t, x),
        "reversed time": lambda t, x: to_gaussian(1 - t, x),
        "too slow": lambda t, x: 0.9 * to_gaussian(t, x),
    }
    for label, field in wrong.items():
        off = ContinuousFlow(field, BASE, **TIGHT).log_prob(x) - target.log_prob(x)
        assert off.abs().max() > 1e-2, label
    for cut in (lambda t, x: to_gaussian(t, x.detach()), torch.no_grad()(to_gaussian)):
        for method in ("midpoint", "dopri5"):
            with pytest.raises(ValueError, match=r"velocity must be differentiable in x.*take torch\.no_grad"):
                ContinuousFlow(cut, BASE, method=method).log_prob(x)


@pytest.mark.parametrize("name", ["board", "mixture", "normal"])
def test_likelihood_under_an_exact_field_is_the_exact_density_on_the_way(name: str) -> None:
    path, target = AffinePath(), targets()[name]
    x = path.sample(BASE.sample((6,)), target.sample((6,)), 0.8).xt  # type: ignore[attr-defined]
    flow = ContinuousFlow(
        lambda t, x: path.marginal_velocity(t, x, target), BASE, t1=0.8, method="dopri5", rtol=1e-6, atol=1e-6
    )  # type: ignore[arg-type]
    torch.testing.assert_close(flow.log_prob(x), path.marginal_log_prob(0.8, x, target), rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_density_integrates_to_one() -> None:
    step = 0.1
    axis = torch.arange(-6, 6, step, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    for field in (to_gaussian, small()):
        with torch.no_grad():
            density = ContinuousFlow(field, BASE, method="rk4", steps=12).log_prob(grid).exp()
        assert float(density.sum()) * step**2 == pytest.approx(1, abs=1e-4)
    halved = ContinuousFlow(to_gaussian, BASE, method="rk4", steps=12).log_prob(grid + 0) / 2  # a factor lost
    assert float(halved.exp().sum()) * step**2 != pytest.approx(1, abs=0.1)


def test_density_against_the_determinant_of_the_map() -> None:
    """The instantaneous change of variables against the plain one: log p0(x0) - log |det dx1/dx0|, by autodiff."""
    net, x0 = small(), torch.randn(2, 2, dtype=F64)
    flow = ContinuousFlow(net, BASE, method="rk4", steps=40)
    end = lambda x: flow.trajectory(x, 2).x if not x.requires_grad else flow._solve(net, x, 0.0, 1.0).x  # noqa: E731
    for start in x0:
        jacobian = torch.autograd.functional.jacobian(lambda x: end(x[None])[0], start)
        wanted = BASE.log_prob(start[None])[0] - torch.linalg.slogdet(jacobian)[1]
        x1 = end(start[None])
        torch.testing.assert_close(flow.log_prob(x1)[0], wanted, rtol=0, atol=1e-6)


def test_samples_have_the_law_of_the_density() -> None:
    """Mean and spread of 20 000 draws to 4 standard errors; the base's own are refused."""
    flow = ContinuousFlow(to_gaussian, BASE, method="rk4")
    x = flow.sample((20_000,))
    error = SCALE / math.sqrt(len(x))
    assert ((x.mean(0) - MEAN).abs() < 4 * error).all()
    assert ((x.std(0) - SCALE).abs() < 4 * error / math.sqrt(2)).all()
    assert not ((BASE.sample((20_000,)).mean(0) - MEAN).abs() < 4 * error).any()


def test_gradient_of_the_likelihood_reaches_parameters_and_x() -> None:
    net, x = small(), torch.randn(5, 2, dtype=F64, requires_grad=True)
    flow = ContinuousFlow(net, BASE, method="rk4", steps=4)
    flow.log_prob(x).sum().backward()
    for parameter in [x, *net.parameters()]:
        assert parameter.grad is not None
        where = parameter.grad.abs().argmax()
        h = 1e-5
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[where] += sign * h
                ends.append(flow.log_prob(x).sum().item())
                parameter.view(-1)[where] -= sign * h
        difference = (ends[0] - ends[1]) / (2 * h)
        assert parameter.grad.view(-1)[where].item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_rsample_has_a_gradient_and_sample_has_none() -> None:
    net = small()
    flow = ContinuousFlow(net, BASE)
    flow.rsample((4,)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not flow.sample((4,)).requires_grad
    assert not flow.trajectory(BASE.sample((4,))).states.requires_grad
    assert flow.has_rsample


@torch.no_grad()
def gap_between_the_two_ways(flow: ContinuousFlow, n: int = 40) -> float:
    x, forwards = flow.sample_and_log_prob((n,), generator=Generator().manual_seed(3))
    return float((forwards - flow.log_prob(x)).abs().max())


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [({"method": "rk4", "steps": 20}, 5e-5), ({"steps": 50}, 3e-3), (TIGHT, 1e-6)],
)
def test_densities_forwards_and_backwards_agree(how: dict, tolerance: float) -> None:
    flow = ContinuousFlow(to_gaussian, BASE, **how)
    target = MultivariateNormal(MEAN, SCALE**2 * torch.eye(2, dtype=F64))
    x, log_prob = flow.sample_and_log_prob((40,))
    torch.testing.assert_close(log_prob, target.log_prob(x), rtol=0, atol=50 * tolerance)
    assert gap_between_the_two_ways(flow) < tolerance
    assert gap_between_the_two_ways(ContinuousFlow(small(), BASE, **how)) < tolerance
    carry = flow._carry
    wrong = {
        "sign of the divergence": lambda x, t0, t1, g=None: (carry(x, t0, t1, g)[0], -carry(x, t0, t1, g)[1]),
        "divergence forgotten": lambda x, t0, t1, g=None: (carry(x, t0, t1, g)[0], 0 * x[:, 0]),
        "time reversed": lambda x, t0, t1, g=None: carry(x, 1 - t0, 1 - t1, g),
    }
    for label, field in wrong.items():
        off = ContinuousFlow(to_gaussian, BASE, **how)
        off._carry = field  # type: ignore[assignment]
        x, log_prob = off.sample_and_log_prob((40,))
        assert (log_prob - flow.log_prob(x)).abs().max() > 100 * tolerance, label
    x, log_prob = flow.sample_and_log_prob((40,))
    x0 = flow._carry(x, 1.0, 0.0)[0]
    wrong_end = log_prob - BASE.log_prob(x0) + BASE.log_prob(x)  # the base's density of x1 and not of x0
    assert (wrong_end - flow.log_prob(x)).abs().max() > 100 * tolerance


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_every_look_is_counted(method: str) -> None:
    net, calls = small(), []

    def watched(t: Tensor, x: Tensor) -> Tensor:
        calls.append(float(t))
        return net(t, x)

    flow = ContinuousFlow(watched, BASE, method=method, steps=10)
    for run in (lambda: flow.log_prob(torch.zeros(3, 2, dtype=F64)), lambda: flow.sample_and_log_prob((3,))):
        calls.clear()
        run()
        assert flow.nfe == len(calls) > 0


def test_draws_with_densities_are_the_draws() -> None:
    flow = ContinuousFlow(small(), BASE, method="rk4", steps=10, t1=0.8)
    for shape in ((), (2, 3), (0,)):
        x, log_prob = flow.sample_and_log_prob(shape, generator=Generator().manual_seed(1))
        wanted = flow.sample(shape, generator=Generator().manual_seed(1))
        torch.testing.assert_close(x, wanted, rtol=0, atol=1e-3)
        assert log_prob.shape == shape
    flow.velocity.eval()  # type: ignore[attr-defined]
    assert not any(part.requires_grad for part in flow.sample_and_log_prob((3,)))


@pytest.mark.parametrize("method", ["midpoint", "dopri5"])
def test_probes_of_a_draw_come_from_its_generator(method: str) -> None:
    flow = ContinuousFlow(small(), BASE, estimator="gaussian", method=method)
    before = torch.get_rng_state()
    first, second, other = (flow.sample_and_log_prob((4,), Generator().manual_seed(s))[1] for s in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(before)


def test_gradient_of_a_draw_and_its_density() -> None:
    """The reverse KL's gradient, by autodiff and by a difference quotient on the same draws."""
    net = small()
    flow = ContinuousFlow(net, BASE, method="rk4", steps=4)

    def reverse_kl() -> Tensor:
        x, log_prob = flow.sample_and_log_prob((6,), generator=Generator().manual_seed(1))
        return (log_prob + 0.5 * x.square().sum(1)).mean()

    reverse_kl().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        where, ends, h = parameter.grad.abs().argmax(), [], 1e-5
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[where] += sign * h
                ends.append(reverse_kl().item())
                parameter.view(-1)[where] -= sign * h
        assert parameter.grad.view(-1)[where].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("steps", [1, 6, 30])
def test_the_sum_along_the_path_against_the_integral_as_a_coordinate(method: str, steps: int) -> None:
    """Two ways to one integral: they meet as steps grow, though the sum has a third of the looks."""
    net, x = small(), torch.randn(8, 2, dtype=F64)
    truth = ContinuousFlow(net, BASE, **TIGHT).log_prob(x)
    flow = ContinuousFlow(net, BASE, method=method, steps=steps)
    x0, gathered = flow._carry_together(x, 1.0, 0.0, None)
    together = (BASE.log_prob(x0) + gathered - truth).abs().mean()
    apart = (flow.log_prob(x) - truth).abs().mean()
    order = {"euler": 1, "midpoint": 2, "rk4": 4}[method]
    assert apart < (20 if order == 4 else 3) / steps**order
    if order < 4:  # rk4 has looked three times where the sum looked once
        assert apart < 3 * together


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1.0, 0.0), (0.8, 0.0)])
def test_gauss_and_legendre_integrate_powers_exactly(a: float, b: float) -> None:
    for n in (1, 2, 5):
        times, weights = gauss_legendre(n, a, b)
        power = lambda k: sum(w * t**k for t, w in zip(times, weights, strict=True))  # noqa: B023, E731
        for k in range(2 * n):
            assert power(k) == pytest.approx((b ** (k + 1) - a ** (k + 1)) / (k + 1), abs=1e-14)
        assert power(2 * n) != pytest.approx((b ** (2 * n + 1) - a ** (2 * n + 1)) / (2 * n + 1), abs=1e-8)
        assert len(times) == n
        assert list(times) == sorted(times, reverse=b < a)


def operations(result: Tensor) -> int:
    """How many operations autograd remembers for the way back."""
    seen, ahead = set(), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("how", [{"method": "rk4", "steps": 20}, {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}])
@pytest.mark.parametrize("estimator", ["exact", "gaussian"])
def test_adjoint_of_a_likelihood(estimator: str, how: dict) -> None:
    """Gradients of one integral, both ways: probes that changed on the way back would be seen."""
    net, x = small(), torch.randn(5, 2, dtype=F64)
    found = []
    for adjoint in (True, False):
        torch.manual_seed(4)  # the same probes
        flow = ContinuousFlow(net, BASE, estimator=estimator, adjoint=adjoint, **how)
        net.zero_grad()
        at = x.clone().requires_grad_()
        x0, gathered = flow._carry_together(at, 1.0, 0.0, None)
        (BASE.log_prob(x0) + gathered).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in (at, *net.parameters())]))  # type: ignore[union-attr]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(-found[0], found[1], rtol=0.1, atol=0.1)


def test_memory_of_an_adjoint_likelihood_does_not_grow_with_the_steps() -> None:
    net, x = small(), torch.randn(5, 2, dtype=F64)
    for method in ("midpoint", "dopri5"):
        few, many, many_kept = (
            operations(ContinuousFlow(net, BASE, method=method, steps=n, rtol=e, atol=e, adjoint=adjoint).log_prob(x))
            for n, e, adjoint in ((5, 1e-2, True), (50, 1e-6, True), (50, 1e-6, False))
        )
        assert few == many
        assert many_kept > 20 * many


@pytest.mark.parametrize("estimator", ["rademacher", "gaussian"])
@pytest.mark.parametrize("method", ["midpoint", "dopri5"])
def test_estimated_likelihood_is_unbiased(estimator: str, method: str) -> None:
    """The same point 3 000 times: each row has its own probes, and the mean is exact to 4 standard errors."""
    net, x = small(), torch.tensor([[0.7, -0.4]], dtype=F64)
    how = {"method": method, "steps": 8, "rtol": 1e-6, "atol": 1e-6}
    with torch.no_grad():
        exact = ContinuousFlow(net, BASE, **how).log_prob(x)
        each = ContinuousFlow(net, BASE, estimator=estimator, probes=2, **how).log_prob(x.expand(3000, 2))
    error = float(each.std()) / math.sqrt(3000)
    assert 0 < error < 0.05
    assert abs(float(each.mean() - exact)) < 4 * error + 1e-5


def test_an_adaptive_solver_keeps_its_probes_and_the_seed_decides() -> None:
    flow = ContinuousFlow(small(), BASE, estimator="gaussian", method="dopri5")
    x = torch.randn(6, 2, dtype=F64)
    torch.manual_seed(1)
    first, calls = flow.log_prob(x), flow.nfe
    torch.manual_seed(1)
    assert flow.log_prob(x).equal(first)
    assert not flow.log_prob(x).equal(first)
    assert calls < 200  # new noise at every look would make it crawl


@pytest.mark.parametrize("event", [(1, 4, 4), (5,), ()])
def test_events_of_any_shape(event: tuple[int, ...]) -> None:
    """A linear field stretches every coordinate by e: log p1(x) = log p0(x / e) - number of coordinates."""
    base = StandardNormal(*event).to(F64)
    flow, x = ContinuousFlow(lambda t, x: x, base, method="rk4", steps=30), torch.randn(2, 3, *event, dtype=F64)
    wanted = base.log_prob(x / math.e) - math.prod(event)
    torch.testing.assert_close(flow.log_prob(x), wanted, rtol=0, atol=1e-5)
    for shape in ((), (2, 3), (0,)):
        assert flow.sample(shape).shape == (*shape, *event)
    assert flow.log_prob(x[0, 0]).shape == ()
    assert flow.event_shape == event
    assert flow.batch_shape == ()


def test_counts_trajectories_and_generators() -> None:
    flow = ContinuousFlow(to_gaussian, BASE, method="rk4", steps=10, t1=0.8)
    assert flow.nfe == 0
    x0 = BASE.sample((7,))
    way = flow.trajectory(x0, 5)
    torch.testing.assert_close(way.times, torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8], dtype=F64))
    assert way.states.shape == (5, 7, 2)
    assert way.states[0].equal(x0)
    assert flow.nfe == way.nfe == 48  # 3 steps for each of 4 intervals, 4 calls each
    flow.sample((2,))
    assert flow.nfe == 40
    draws = [flow.sample((3,), generator=Generator().manual_seed(2)) for _ in range(2)]
    assert draws[0].equal(draws[1])
    back = ContinuousFlow(to_gaussian, BASE, method="rk4", steps=10)
    torch.testing.assert_close(back.trajectory(x0, [0.0, 0.5, 1.0]).x, MEAN + SCALE * x0, rtol=0, atol=1e-3)


def test_any_torch_distribution_is_a_base() -> None:
    base = Independent(Normal(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)), 1)
    flow = ContinuousFlow(to_gaussian, base, **TIGHT)
    x = flow.sample((4,))
    torch.testing.assert_close(flow.log_prob(x), ContinuousFlow(to_gaussian, BASE, **TIGHT).log_prob(x))


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"velocity": 3}, TypeError, r"velocity must be a function v\(t, x\), got int"),
        ({"base": torch.zeros(2)}, TypeError, "base must be a torch Distribution, got Tensor"),
        ({"base": Normal(torch.zeros(2), 1.0)}, ValueError, r"base must have no batch shape .*got \(2,\)"),
        ({"method": "rk5"}, ValueError, "method must be one of .*got 'rk5'"),
        ({"estimator": "trace"}, ValueError, "estimator must be one of .*got 'trace'"),
        ({"adjoint": True}, TypeError, "adjoint=True needs a velocity that is an nn.Module, got function"),
        ({"step": 3}, TypeError, "unexpected keyword argument 'step'"),
    ],
)
def test_refused_settings(change: dict, error: type[Exception], wanted: str) -> None:
    with pytest.raises(error, match=wanted):
        ContinuousFlow(**({"velocity": to_gaussian, "base": BASE} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "error", "wanted"),
    [
        (torch.zeros(3, 1), ValueError, r"value must end in the event shape \(2,\), got \(3, 1\)"),
        (torch.zeros(()), ValueError, r"value must end in the event shape \(2,\), got \(\)"),
        (torch.tensor([[math.nan, 0.0]]), ValueError, "value must be finite"),
        (torch.zeros(3, 2).long(), TypeError, "value must hold floating-point numbers"),
    ],
)
def test_refused_values(value: Tensor, error: type[Exception], wanted: str) -> None:
    with pytest.raises(error, match=wanted):
        ContinuousFlow(to_gaussian, BASE).log_prob(value)


def test_as_many_probes_as_asked_for() -> None:
    """Four probes halve the spread of an estimated density."""
    turn = torch.tensor([[0.0, 3.0], [1.0, 0.0]])

    def spread(probes: int) -> float:
        flow = ContinuousFlow(lambda t, x: x @ turn, StandardNormal(2), steps=1, estimator="rademacher", probes=probes)
        torch.manual_seed(0)
        return float(flow.log_prob(torch.zeros(4000, 2)).std())

    assert spread(1) / spread(4) == pytest.approx(2.0, rel=0.1)


def test_a_flow_moves_as_its_base_does() -> None:
    net = VelocityMLP(2, width=8).eval()
    flow = ContinuousFlow(net, StandardNormal(2), steps=5)
    moved = flow.to(torch.float64)
    assert moved.sample((3,)).dtype == torch.float64
    assert flow.sample((3,)).dtype == torch.float32  # a copy: the first one stays as it was
    assert next(net.parameters()).dtype == torch.float32
    x = torch.randn(20, 2)
    torch.testing.assert_close(moved.log_prob(x.double()).float(), flow.log_prob(x), atol=1e-4, rtol=1e-4)


# 20 steps, or a tolerance of 1e-5: the looks, held exactly, and the mean error in nats that they buy on a Gaussian
ACCURACY = {
    "euler": (25, 2.6e-1),
    "midpoint": (58, 1.3e-4),
    "heun2": (58, 7e-3),
    "rk4": (139, 3.2e-6),
    "dopri5": (45, 1e-4),
    "dopri8": (92, 3e-6),
    "bosh3": (103, 5e-5),
    "adaptive_heun": (356, 1e-4),
}


@pytest.mark.parametrize("method", ACCURACY)
def test_accuracy_of_a_density_for_its_looks(method: str) -> None:
    """One look at the divergence less, or a path with a third of its steps, is another number of looks."""
    looks, error = ACCURACY[method]
    target = MultivariateNormal(MEAN, SCALE**2 * torch.eye(2, dtype=F64))
    flow, x = ContinuousFlow(to_gaussian, BASE, method=method), target.sample((400,))
    assert float((flow.log_prob(x) - target.log_prob(x)).abs().mean()) < error
    assert abs(flow.nfe - looks) <= (0 if method in ORDER else 0.3 * looks)
    x, log_prob = flow.sample_and_log_prob((400,))
    assert float((log_prob - target.log_prob(x)).abs().mean()) < 1.5 * error
    if method in ORDER:
        assert flow.nfe == looks
        for steps in (1, 2, 7):  # the path's share of every interval, rounded up, and the looks along it
            few = ContinuousFlow(to_gaussian, BASE, method=method, steps=steps)
            few.log_prob(x[:2])
            seen = math.ceil(steps * ORDER[method] / 3)
            assert few.nfe >= seen + CALLS[method] * max(seen + 1, math.ceil(2 * steps / 3))


def test_settings_reach_the_solver_and_are_not_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict = {}

    def watched(velocity: object, x: Tensor, t0: float, t1: float, **how: object) -> Solution:
        given.update(how, t0=t0, t1=t1)
        return solve(velocity, x, t0, t1, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(flows, "solve", watched)
    how = {"method": "bosh3", "steps": 7, "rtol": 1e-3, "atol": 1e-4, "max_nfe": 999}
    ContinuousFlow(small(), BASE, t1=0.75, **how).sample((2,))  # type: ignore[arg-type]
    assert given == how | {"t0": 0.0, "t1": 0.75, "times": None, "adjoint": False}
    ContinuousFlow(small(), BASE, t1=0.75, **how).log_prob(torch.zeros(1, 2, dtype=F64))  # type: ignore[arg-type]
    assert (given["t0"], given["t1"], given["rtol"], given["atol"]) == (0.75, 0.0, 1e-3, 1e-4)


# a base and a path that belong together


def radius(path: AffinePath, base: StandardNormal) -> float:
    eight = EightGaussians()
    torch.manual_seed(0)
    flow = ContinuousFlow(partial(path.marginal_velocity, target=eight), base, method="dopri5", t1=0.999)
    return float(flow.sample((3000,)).norm(dim=1).mean())


def test_ve_from_a_standard_normal_is_said_aloud() -> None:
    path, x1 = AffinePath(VarianceExploding()), EightGaussians().sample((500,))
    with pytest.warns(
        UserWarning, match=r"starts from noise of scale 10, and the base has 1: take Stand.*\(2, scale=10\)"
    ):
        assert radius(path, StandardNormal(2)) == pytest.approx(1.75, abs=0.02)  # 2 is right
    net = VelocityMLP(2, width=8, depth=1, frequencies=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert radius(path, StandardNormal(2, scale=10)) == pytest.approx(2.0, abs=0.02)
        conditional_flow_matching_loss(net, path, torch.randn(500, 2), x1)
        ContinuousFlow(net, StandardNormal(2, scale=10.0))
        ContinuousFlow(net, Independent(Normal(torch.zeros(2), torch.full((2,), 10.0)), 1))
    for hidden in (net, lambda t, x: net(t, x), partial(net)):  # a network knows what it was trained on
        with pytest.warns(UserWarning, match="base and path do not belong together"):
            ContinuousFlow(hidden, StandardNormal(2))
    conditional_flow_matching_loss(net, AffinePath(), torch.randn(500, 2), x1)  # ... last
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ContinuousFlow(net, StandardNormal(2))


@pytest.mark.parametrize("schedule", [VariancePreserving(0.1, 1.0), VarianceExploding(sigma_max=1.0)])
def test_a_path_that_still_holds_data_at_its_start_is_told(schedule: Schedule) -> None:
    velocity = partial(AffinePath(schedule).marginal_velocity, target=EightGaussians())
    with pytest.warns(UserWarning, match="at t = 0 it still holds data"):
        ContinuousFlow(velocity, StandardNormal(2))


@pytest.mark.parametrize("schedule", [Linear(), Linear(0.1), VariancePreserving(), Cosine(), Polynomial(3)])
def test_paths_from_a_standard_normal_stay_silent(schedule: Schedule) -> None:
    net, x = VelocityMLP(2, width=8, depth=1, frequencies=2), torch.randn(500, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = AffinePath(schedule)
        for x0 in (x, 3 * x):  # other sources are allowed: bridges between data have them
            conditional_flow_matching_loss(net, path, x0, x, 0.5)
        for velocity in (net, partial(path.marginal_velocity, target=EightGaussians())):
            ContinuousFlow(velocity, StandardNormal(2)), ContinuousFlow(velocity, EightGaussians())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["midpoint", "dopri5"])
def test_a_density_in_half_precision_is_summed_in_float32(dtype: torch.dtype, method: str) -> None:
    """500 coordinates that grow by e^(1/2) each: a sum in bf16 stalls at 64 nats of 250, 1 334 looks of 0.19 nats."""
    base = StandardNormal(500)
    flow = ContinuousFlow(lambda t, x: 0.5 * x, base.to(dtype), method=method, steps=2000, rtol=1e-3, atol=1e-3)
    flow.estimator = "rademacher"  # exact for a diagonal Jacobian
    x = torch.randn(4, 500, generator=Generator().manual_seed(0)).to(dtype)
    wanted = base.log_prob(x.float() * math.exp(-0.5)) - 250
    found = flow.log_prob(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=500 * torch.finfo(dtype).eps)
