"""A field is any callable: what it may do to its arguments, how it is asked, and what is found inside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from reference import F64
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    Bound,
    ContinuousFlow,
    EightGaussians,
    StandardNormal,
    VelocityMLP,
    conditional_flow_matching_loss,
    divergence,
    flow_matching_loss,
    solve,
)
from fmtutor.fields import evaluate
from fmtutor.fields.inside import is_trained
from fmtutor.metrics import velocity_error
from fmtutor.ode import ADAPTIVE, FIXED

BASE, PATH, TARGET = StandardNormal(2).to(F64), AffinePath(), EightGaussians().to(F64)


# A field that changes its arguments


def halved(t: Tensor, x: Tensor) -> Tensor:
    t = t * 0.5
    return torch.relu(x / 2 - 0.1) * (1 + t.reshape(-1, 1)) - x / 2


def halved_in_place(t: Tensor, x: Tensor) -> Tensor:
    t *= 0.5
    x /= 2
    return nn.functional.relu(x - 0.1, inplace=True) * (1 + t.reshape(-1, 1)) - x


def relu_in_place(t: Tensor, x: Tensor) -> Tensor:
    return nn.functional.relu(x, inplace=True)


@pytest.mark.parametrize("method", FIXED + ADAPTIVE)
@pytest.mark.parametrize("adjoint", [False, ()])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_solvers_do_not_mind_a_field_that_changes_its_arguments(
    method: str, adjoint: object, ends: tuple[float, float]
) -> None:
    found = []
    for field in (halved, halved_in_place):
        x = torch.linspace(-2, 2, 8, dtype=F64).reshape(4, 2).requires_grad_()
        before = x.detach().clone()
        solution = solve(field, x, *ends, method=method, steps=5, adjoint=adjoint)  # type: ignore[arg-type]
        found.append((solution.x, solution.states, *torch.autograd.grad(solution.x.square().sum(), x)))
        assert x.equal(before)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_right_value_and_the_callers_x(grad: Callable) -> None:
    """dx/dt = -x with `x *= -1`: rk4 gave 0.4721 for 0.3679."""
    with grad():
        x = torch.ones(3, 1)
        for ends, wanted in (((0.0, 1.0), math.exp(-1)), ((1.0, 0.0), math.e)):
            for method in ("rk4", "dopri5"):
                found = solve(lambda t, x: x.neg_(), x, *ends, method=method)
                assert found.x.mean() == pytest.approx(wanted, rel=1e-4)
        assert x.eq(1).all()
        trajectory = ContinuousFlow(lambda t, x: x.neg_(), StandardNormal(1), method="rk4").trajectory(x, 5)
        torch.testing.assert_close(trajectory.states[:, 0, 0], torch.exp(-torch.linspace(0, 1, 5)), rtol=0, atol=1e-4)
        assert x.eq(1).all()


def test_losses_divergences_and_errors_do_not_mind_either() -> None:
    for pure, changing in ((halved, halved_in_place), (lambda t, x: torch.relu(x), relu_in_place)):
        x0, x1, t = torch.randn(6, 2, dtype=F64), torch.randn(6, 2, dtype=F64), torch.rand(6, dtype=F64)
        kept = [a.clone() for a in (x0, x1, t)]

        def run(v: Callable) -> list[Tensor]:
            torch.manual_seed(0)
            return [
                conditional_flow_matching_loss(v, PATH, x0, x1, t),  # noqa: B023
                flow_matching_loss(v, PATH, TARGET, x0, t),  # noqa: B023
                *divergence(v, t, x0),  # noqa: B023
                *divergence(v, 0.3, x0, "gaussian", 3),  # noqa: B023
                ContinuousFlow(v, BASE, method="rk4").log_prob(x1),  # noqa: B023
                ContinuousFlow(v, BASE, method="dopri5").log_prob(x1),  # noqa: B023
                torch.tensor(velocity_error(v, PATH, TARGET, BASE, n=100).value),  # type: ignore[union-attr]
            ]

        for a, b in zip(run(pure), run(changing), strict=True):
            torch.testing.assert_close(a, b)
        assert all(a.equal(b) for a, b in zip((x0, x1, t), kept, strict=True))


# A field with other arguments


class Swapped(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -x


ASKED: list[Callable] = [
    lambda v: solve(v, torch.ones(2, 2)),
    lambda v: divergence(v, 0.5, torch.ones(2, 2)),
    lambda v: conditional_flow_matching_loss(v, PATH, torch.ones(2, 2), torch.ones(2, 2)),
    lambda v: flow_matching_loss(v, PATH, StandardNormal(2), torch.ones(2, 2), 0.5),
    lambda v: ContinuousFlow(v, StandardNormal(2)),
    lambda v: velocity_error(v, PATH, StandardNormal(2), StandardNormal(2), n=10),
]


@pytest.mark.parametrize("ask", ASKED)
def test_x_before_t_is_refused(ask: Callable) -> None:
    def named(sample: Tensor, timestep: Tensor, y: object = None) -> Tensor:
        return sample

    net = Swapped()
    for v in (net, net.forward, torch.compile(net, backend="eager"), lambda x, t: x, partial(named, y=3), named,
              torch.no_grad()(named), partial(net)):  # fmt: skip
        with pytest.raises(TypeError, match=r"velocity must be v\(t, x\), the time first.*\((x, t|sample, timestep)\)"):
            ask(v)


def test_fields_in_the_right_order_pass_whatever_they_are_called() -> None:
    def other(s: Tensor, y: Tensor) -> Tensor:
        return y

    def anything(*given: Tensor) -> Tensor:
        return given[1]

    right = [other, anything, lambda time, t: t, lambda t, x, y=1: x, partial(PATH.marginal_velocity, target=TARGET),
             partial(lambda y, t, x: x, 0), torch.compile(VelocityMLP(2).double(), backend="eager")]  # fmt: skip
    for v in right:
        assert solve(v, torch.ones(2, 2, dtype=F64), t1=0.5, steps=1).x.shape == (2, 2)


def test_a_time_of_one_kind_alone_is_answered_with_what_to_write() -> None:
    column = [lambda t, x: x * t[:, None], lambda t, x: torch.cat([x[:, :1], t[:, None]], 1),
              lambda t, x: x * torch.stack(list(t))[:, None], lambda t, x: x[: len(t)]]  # fmt: skip
    for v in column:
        assert conditional_flow_matching_loss(v, PATH, torch.ones(5, 2), torch.ones(5, 2)).isfinite()
        with pytest.raises(ValueError, match=r"takes one time a row, and for a scalar t it says: .*Write t\.expand\("):
            solve(v, torch.ones(5, 2))
    x = torch.ones(5, 2)
    for v in (lambda t, x: x * t, lambda t, x: x if t > 0.5 else -x, lambda t, x: x * t.item()):
        assert solve(v, x).x.isfinite().all()
        with pytest.raises(ValueError, match=r"takes a scalar t, and for one time a row it says: .*Write t\.expand\("):
            conditional_flow_matching_loss(v, PATH, x, x)
    written = lambda t, x: x * t.expand(len(x)).reshape(-1, 1)  # as the sentence says  # noqa: E731
    assert solve(written, x).x.isfinite().all()
    assert conditional_flow_matching_loss(written, PATH, x, x).isfinite()
    images = torch.ones(5, 1, 2, 2)
    with pytest.raises(ValueError, match=r"Write t\.expand\(len\(x\)\)\.reshape\(-1, 1, 1, 1\)"):
        solve(lambda t, x: x * t[:, None, None, None], images)
    with pytest.raises(IndexError, match="out of bounds"):  # an error of another kind stays what it was
        solve(lambda t, x: x[:, [7]], x)


# What is inside


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.embed = VelocityMLP(2, width=8, depth=1, frequencies=2), nn.Embedding(3, 2)

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(t, x) + self.embed(label)

    def scaled(self, t: Tensor, x: Tensor) -> Tensor:
        return 2 * self.net(t, x)


class Holder:
    """No module, but it holds one."""

    def __init__(self, net: nn.Module) -> None:
        self.parts = {"net": net}

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self.parts["net"](t, x)

    def method(self, t: Tensor, x: Tensor) -> Tensor:
        return self.parts["net"](t, x)


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.net(t, x)


LABEL = torch.tensor([0, 1, 2, 1])


def hidings(net: Labelled) -> dict[str, Callable]:
    """One field, hidden in many ways."""
    bound = partial(net, label=LABEL)
    return {
        "partial": bound,
        "partial of a partial": partial(partial(net), label=LABEL),
        "Bound": Bound(net, label=LABEL),
        "wrapper": Wrapper(Bound(net, label=LABEL)),
        "method": net.scaled,
        "object": Holder(Bound(net, label=LABEL)),
        "method of an object": Holder(bound).method,
        "function": lambda t, x: bound(t, x),
        "function of a function": lambda t, x: (lambda s, y: bound(s, y))(t, x),
        "no_grad elsewhere": torch.enable_grad()(lambda t, x: net(t, x, LABEL)),
    }


NAMES = list(hidings(Labelled()))


@pytest.mark.parametrize("how", NAMES)
def test_a_network_in_evaluation_mode_builds_no_graph_wherever_it_is(how: str) -> None:
    net = Labelled().double()
    velocity, x = hidings(net)[how], torch.randn(4, 2, dtype=F64)
    flow = ContinuousFlow(velocity, BASE, method="rk4", steps=2)
    calls = (lambda: flow.log_prob(x), lambda: flow.rsample((4,)), lambda: flow.sample_and_log_prob((4,))[0],
             lambda: flow.sample_and_log_prob((4,))[1])  # fmt: skip
    assert is_trained(velocity)
    assert all(call().requires_grad for call in calls)
    net.eval()
    assert not is_trained(velocity)
    assert not any(call().requires_grad for call in calls)
    asked = x.clone().requires_grad_()  # what is promised to x holds in both modes
    (gradient,) = torch.autograd.grad(flow.log_prob(asked).sum(), asked)
    h, direction = 1e-5, torch.randn_like(x)
    ends = [flow.log_prob(x + sign * h * direction).sum() for sign in (1, -1)]
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-6)


def test_what_is_still_trained_keeps_its_gradient() -> None:
    net, x = Labelled().double().eval(), torch.randn(4, 2, dtype=F64)
    weight = torch.ones((), dtype=F64, requires_grad=True)
    for velocity in (lambda t, x: weight * net.scaled(t, x), partial(lambda t, x, w: w * net.scaled(t, x), w=weight),
                     Holder(partial(lambda t, x, w: w * net.scaled(t, x), w=weight))):  # fmt: skip
        value = ContinuousFlow(velocity, BASE, steps=2).log_prob(x).sum()
        assert torch.autograd.grad(value, weight)[0].abs() > 1e-3
    scale = torch.ones(2, dtype=F64, requires_grad=True)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2, dtype=F64), scale), 1)
    assert ContinuousFlow(net.scaled, base, steps=2).log_prob(x).requires_grad
    frozen = nn.Sequential(nn.Linear(2, 2).eval(), nn.Linear(2, 2))  # half a network in training is one
    assert is_trained(frozen)


@pytest.mark.parametrize("how", NAMES)
def test_a_flow_takes_its_network_along_wherever_it_is(how: str) -> None:
    net = Labelled().eval()
    flow, x = ContinuousFlow(hidings(net)[how], StandardNormal(2), steps=3), torch.randn(4, 2)
    if "function" in how or "elsewhere" in how:
        with pytest.raises(TypeError, match=r"velocity must show its network to be moved.*partial.*Bound"):
            flow.to(F64)
        return
    moved = flow.to(F64)
    assert moved.sample((4,)).dtype == F64
    torch.testing.assert_close(moved.log_prob(x.double()).float(), flow.log_prob(x), rtol=1e-4, atol=1e-4)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    meta = ContinuousFlow(hidings(net)[how], StandardNormal(2)).to("meta")
    assert evaluate(meta.velocity, torch.zeros((), device="meta"), torch.zeros(4, 2, device="meta")).is_meta


def test_functions_without_a_network_move_as_they_are() -> None:
    for velocity in (lambda t, x: -x, partial(PATH.marginal_velocity, target=EightGaussians())):
        assert ContinuousFlow(velocity, StandardNormal(2), t1=0.9).to(F64).sample((3,)).dtype == F64


@pytest.mark.parametrize("how", ["partial", "partial of a partial", "Bound", "wrapper", "method"])
def test_the_adjoint_reaches_a_network_wherever_it_is(how: str) -> None:
    torch.manual_seed(1)
    net, x = Labelled().double(), torch.randn(4, 2, dtype=F64)
    velocity, found = hidings(net)[how], []
    for adjoint in (True, False):
        net.zero_grad()
        solve(velocity, x, method="rk4", steps=60, adjoint=adjoint).x.square().sum().backward()
        flow = ContinuousFlow(velocity, BASE, method="dopri5", rtol=1e-7, atol=1e-7, adjoint=adjoint)
        flow.log_prob(x).sum().backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None and p.grad.abs().sum() > 0])
    assert len(found[0]) == len(found[1]) >= 4
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_the_adjoint_reaches_a_bound_condition_and_refuses_to_guess() -> None:
    x, y = torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64, requires_grad=True)
    shift = Wrapper(lambda t, x, label: x + label)  # type: ignore[arg-type]
    shift.forward = lambda t, x, label: x + label  # type: ignore[method-assign,assignment]
    for bind in (partial, Bound):
        velocity = bind(shift, label=y)  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(solve(velocity, x, method="rk4", adjoint=True).x.sum(), y)
        torch.testing.assert_close(gradient, torch.full_like(y, math.e - 1), rtol=1e-4, atol=1e-4)
    for velocity in (lambda t, x: x, Holder(shift), partial(lambda t, x, y: x, y=1)):
        with pytest.raises(TypeError, match=r"adjoint=True needs a velocity that is an nn.Module, got .*Bound"):
            solve(velocity, x, adjoint=True)
        with pytest.raises(TypeError, match="adjoint=True needs a velocity"):
            ContinuousFlow(velocity, BASE, adjoint=True)


def test_bound_is_a_partial_and_a_module() -> None:
    net, x, t = Labelled(), torch.randn(4, 2), torch.tensor(0.3)
    bound = Bound(net, label=LABEL)
    assert bound(t, x).equal(partial(net, label=LABEL)(t, x))
    assert not bound(t, x).equal(Bound(net, label=LABEL.flip(0))(t, x))
    assert {k.removeprefix("velocity.") for k in bound.state_dict()} == set(net.state_dict())  # the label is not saved
    wide = copy.deepcopy(bound).to(F64)
    assert wide.bound_label.dtype == torch.int64
    assert wide(t, x.double()).dtype == F64
    assert bound.to("meta").bound_label.is_meta
    assert Bound(net.eval(), label=LABEL).training is False
    assert len(list(Bound(net, label=nn.Parameter(torch.zeros(3))).parameters())) == len(list(net.parameters())) + 1
    with pytest.raises(TypeError, match="velocity must be a function"):
        Bound(3, label=LABEL)  # type: ignore[arg-type]
