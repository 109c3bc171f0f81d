"""Solvers against a solution known by hand, and divergences against the trace of a Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchdiffeq
from reference import F64
from torch import Generator, Tensor

from fmtutor import AffinePath, Checkerboard, ContinuousFlow, StandardNormal, VelocityMLP, divergence, solve
from fmtutor.ode import ADAPTIVE, FIXED

CALLS = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}
ORDER = {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}
START = torch.tensor([[1.0], [-0.5]], dtype=F64)


def stretch(t: Tensor, x: Tensor) -> Tensor:
    """dx/dt = (1 + 2 t) x, so x(t) = x(0) exp(t + t^2)."""
    return (1 + 2 * t) * x


def truth(t: float, start: float = 0.0) -> Tensor:
    return START * math.exp(t + t**2 - start - start**2)


# solve


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_errors_shrink_with_the_order_of_the_method(method: str, t0: float, t1: float) -> None:
    steps = (32, 64, 128)
    ends = [solve(stretch, START, t0, t1, method=method, steps=n) for n in steps]
    errors = [(end.x - truth(t1, t0)).abs().max().item() for end in ends]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]  # noqa: RUF007
    assert slopes == pytest.approx([ORDER[method]] * 2, abs=0.25)
    assert [end.nfe for end in ends] == [CALLS[method] * n for n in steps]


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.3)])
def test_adaptive_methods_keep_their_tolerance_inside_the_interval(method: str, t0: float, t1: float) -> None:
    seen: list[float] = []

    def watched(t: Tensor, x: Tensor) -> Tensor:
        seen.append(float(t))
        return stretch(t, x)

    for tolerance in (1e-3, 1e-5):
        seen.clear()
        end = solve(watched, START, t0, t1, method=method, rtol=tolerance, atol=tolerance)
        assert (end.x - truth(t1, t0)).abs().max() < 40 * tolerance
        assert end.nfe == len(seen)
        assert min(seen) >= min(t0, t1)  # beyond the ends a field need not exist
        assert max(seen) <= max(t0, t1)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
@pytest.mark.parametrize("times", [[0.0, 0.1, 0.15, 0.9, 1.0], [1.0, 0.7, 0.65, 0.0], torch.linspace(0, 1, 7)])
def test_states_at_the_times_asked_for(method: str, times: Tensor | list[float]) -> None:
    found = solve(stretch, START, method=method, steps=40, rtol=1e-9, atol=1e-9, times=times)
    wanted = [float(t) for t in times]
    torch.testing.assert_close(found.times, torch.tensor(wanted, dtype=F64))
    assert found.states[0].equal(START)
    assert found.x.equal(found.states[-1])
    for t, state in zip(wanted, found.states, strict=True):
        torch.testing.assert_close(state, truth(t, wanted[0]), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(state, truth(wanted[0], t), rtol=1e-6) or t == wanted[0]  # time reversed


def test_steps_are_shared_among_the_intervals() -> None:
    asked: list[float] = []

    def watched(t: Tensor, x: Tensor) -> Tensor:
        asked.append(round(float(t), 6))
        return -x

    solve(watched, START, method="euler", steps=10, times=[0.0, 0.5, 0.55, 1.0])
    assert asked == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.64, 0.73, 0.82, 0.91]
    for n in (1, 3, 7, 30, 49):  # no step is lost to rounding
        for dtype in (torch.float32, F64):
            assert solve(lambda t, x: -x, START.to(dtype), method="euler", steps=n).nfe == n


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_back_and_forth_is_where_we_were(method: str) -> None:
    net, x = VelocityMLP(2, width=16, depth=1, frequencies=4).double(), torch.randn(10, 2, dtype=F64)
    there = solve(net, x, method=method, steps=60, rtol=1e-9, atol=1e-9).x
    back = solve(net, there, 1.0, 0.0, method=method, steps=60, rtol=1e-9, atol=1e-9).x
    assert not torch.allclose(there, x, atol=1e-3)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)


def test_a_slow_field_is_not_looked_at_beyond_the_end() -> None:
    """A solver's guess for its first step grows with the state over the velocity: here, to far beyond t = 1."""
    net = VelocityMLP(2)
    x = torch.ones(3, 2)
    assert solve(lambda t, x: 1e-4 * net(t, x), x, method="dopri5").x.isfinite().all()
    exact = lambda t, x: AffinePath().marginal_velocity(t, x, Checkerboard())  # noqa: E731
    assert solve(exact, torch.randn(5, 2), 0.0, 1 - 1e-6, method="dopri5").x.isfinite().all()


def test_dtype_shape_and_gradient_follow_the_state() -> None:
    for dtype in (torch.float32, F64):
        x = torch.randn(3, 1, 4, 4, dtype=dtype, requires_grad=True)
        found = solve(lambda t, x: -x, x, method="midpoint")
        assert (found.x.dtype, found.times.dtype, found.states.shape) == (dtype, dtype, (2, 3, 1, 4, 4))
        (gradient,) = torch.autograd.grad(found.x.sum(), x)
        torch.testing.assert_close(gradient, torch.full_like(x, math.exp(-1)), rtol=1e-3, atol=1e-3)


# how exact, for how much

# 20 steps, or a tolerance of 1e-5: the evaluations, held exactly where steps are fixed, and the relative error they buy
ACCURACY = {
    "euler": (20, 1.8e-1),
    "midpoint": (40, 8e-3),
    "heun2": (40, 5e-3),
    "rk4": (80, 3e-6),
    "dopri5": (55, 1.5e-5),
    "dopri8": (66, 6e-7),
    "bosh3": (118, 1.2e-4),
    "adaptive_heun": (475, 9e-5),
}


@pytest.mark.parametrize("method", FIXED + ADAPTIVE)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_accuracy_for_evaluations(method: str, t0: float, t1: float) -> None:
    most, error = ACCURACY[method]
    end = solve(stretch, START, t0, t1, method=method)
    relative = float(((end.x - truth(t1, t0)) / truth(t1, t0)).abs().max())
    assert relative < error
    assert relative > error / 2 or method in ADAPTIVE  # the table is no wider than it says
    assert end.nfe == most if method in FIXED else end.nfe <= most


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_those_of_torchdiffeq(method: str) -> None:
    """A second route to the loop and its four rules, bit for bit but for the order of a sum."""
    times = torch.tensor([0.0, 1.0], dtype=F64)
    field = lambda t, x: (1 + 2 * t) * torch.sin(3 * x) + torch.cos(5 * t)  # noqa: E731
    theirs = torchdiffeq.odeint(field, START, times, method=method, options={"step_size": 0.125})[-1]
    assert float((solve(field, START, method=method, steps=8).x - theirs).abs().max()) < 1e-14
    other = {"euler": "midpoint", "midpoint": "heun2", "heun2": "midpoint", "rk4": "heun2"}[method]
    assert float((solve(field, START, method=other, steps=8).x - theirs).abs().max()) > 1e-5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_relative_and_absolute_tolerance_are_not_each_other(method: str) -> None:
    """Near 0 only the absolute tolerance binds, far from it only the relative one: the evaluations tell."""
    cost = lambda x, **how: solve(lambda t, y: torch.cos(9 * t) * y, x, method=method, **how).nfe  # noqa: E731
    small, large = 1e-6 * START, 1e6 * START
    assert cost(small, rtol=1e-9, atol=1e-2) < cost(small, rtol=1e-2, atol=1e-9) / 1.2
    assert cost(large, rtol=1e-2, atol=1e-6) < cost(large, rtol=1e-6, atol=1e-2) / 1.2


def test_keywords_are_not_their_neighbours() -> None:
    x = torch.ones(1, 1, dtype=F64)
    assert solve(stretch, x, 0.2, 0.7, method="rk4").x.item() == pytest.approx(math.exp(0.7 + 0.49 - 0.2 - 0.04))
    assert solve(stretch, x, 0.7, 0.2, method="rk4").x.item() == pytest.approx(math.exp(-(0.7 + 0.49 - 0.2 - 0.04)))
    assert solve(stretch, x, method="euler", steps=3, max_nfe=2).nfe == 3  # a limit for adaptive methods alone
    assert solve(stretch, x, method="dopri5", steps=1, max_nfe=500).nfe > 1
    draw = lambda probes: divergence(lambda t, x: x @ torch.ones(3, 3), 0.0, torch.zeros(4000, 3), "gaussian", probes)  # noqa: E731
    assert float(draw(1)[1].var() / draw(4)[1].var()) == pytest.approx(4, rel=0.25)


# jumps, ends and limits


def jumping(t: Tensor, x: Tensor) -> Tensor:
    """Growth until t = 0.5, and decay three times as fast after it."""
    return torch.where(t < 0.5, 1.0, -3.0) * x


@pytest.mark.parametrize("method", FIXED[1:] + ADAPTIVE)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("times", [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]])
def test_a_field_may_jump_at_a_known_time(method: str, late: bool, times: list[float]) -> None:
    """torchdiffeq's own defaults are off by 8e-4 with dopri5 and by 9e-3 with rk4, whichever side the jump is on."""
    at_the_jump = (lambda t, x: torch.where(t <= 0.5, 1.0, -3.0) * x) if late else jumping
    x, forth = torch.ones(1, 1, dtype=F64), times[0] == 0
    wanted, limit = math.exp(-1 if forth else 1), {"midpoint": 7e-3, "heun2": 7e-3}.get(method, 1e-4)
    for adjoint in (False, ()):
        found = solve(at_the_jump, x, method=method, times=times, adjoint=adjoint)
        assert float(found.x) == pytest.approx(wanted, rel=limit)
        assert float(found.states[1]) == pytest.approx(math.exp(0.5 if forth else 1.5), rel=limit)
    if method == "rk4":
        grid = torch.tensor(times, dtype=F64)
        theirs = torchdiffeq.odeint(at_the_jump, x, grid, method="rk4", options={"step_size": 0.05})[-1]
        assert float(theirs) != pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_step_that_lands_on_a_time_does_not_run_past_the_end(method: str) -> None:
    """A constant field lets steps grow tenfold, from 0.01 on to 0.1: torchdiffeq then looked at t = 6.5."""
    seen: list[float] = []

    def constant(t: Tensor, x: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.ones_like(x)

    for times in ([0.0, 0.01, 1.0], [0.0, 0.01, 0.11, 1.0], [1.0, 0.99, 0.0]):
        for dtype in (torch.float32, F64):
            solve(constant, torch.ones(1, 1, dtype=dtype), method=method, times=times)
    assert min(seen) >= 0
    assert max(seen) <= 1


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_solver_without_end_is_ended(method: str) -> None:
    stiff = lambda t, x: -1e6 * (x - torch.cos(t))  # noqa: E731
    with pytest.raises(
        ValueError, match=rf"needs more than max_nfe = 500 evaluations by {method}.*t = .*larger max_nfe"
    ):
        solve(stiff, START, method=method, max_nfe=500)
    with pytest.raises(ValueError, match="needs more than max_nfe = 300 evaluations"):
        ContinuousFlow(stiff, StandardNormal(1).to(F64), method=method, max_nfe=300).log_prob(START)
    exact = solve(stretch, START, method=method)
    assert solve(stretch, START, method=method, max_nfe=exact.nfe).x.equal(exact.x)
    with pytest.raises(ValueError, match="max_nfe"):
        solve(stretch, START, method=method, max_nfe=exact.nfe - 1)
    for bad in (0, 1.5, None):
        with pytest.raises(ValueError, match="max_nfe must be a whole number of at least 1"):
            solve(stretch, START, method=method, max_nfe=bad)  # type: ignore[arg-type]


def test_the_limit_starts_again_on_every_way_back() -> None:
    x = START.clone().requires_grad_()
    end = solve(stretch, x, method="dopri5", adjoint=(), max_nfe=70)
    for _ in range(5):
        (gradient,) = torch.autograd.grad(end.x.sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, torch.full_like(x, math.exp(2)), rtol=1e-3, atol=1e-3)
    x = torch.ones(1, 1, requires_grad=True)
    easy = solve(lambda t, x: torch.cos(1e4 * x.detach()) + 0 * x, x, t1=1e-5, method="dopri5", adjoint=(), max_nfe=40)
    assert easy.nfe <= 40


def test_a_bar_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    import fmtutor.ode.adaptive as adaptive

    bars: list[int] = []

    class Bar:
        def __init__(self, **how: object) -> None:
            bars.append(0)

        def update(self) -> None:
            bars[-1] += 1

        def close(self) -> None:
            bars.append(-1)

    monkeypatch.setattr(adaptive, "tqdm", Bar)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    solve(stretch, START, method="dopri5")
    assert not bars  # it was quick
    monkeypatch.setattr(adaptive, "PATIENCE", -1.0)
    nfe = solve(stretch, START, method="dopri5").nfe
    assert bars == [nfe - 1, -1]


@pytest.mark.parametrize("method", ["midpoint", "rk4", "dopri5", "dopri8"])
@pytest.mark.parametrize("adjoint", [False, ()])
def test_the_ends_have_their_gradient(method: str, adjoint: object) -> None:
    """dx/dt1 is the velocity at the end, and dx/dt0 is minus the velocity at the start, carried along."""
    t0, t1 = torch.tensor(0.2, dtype=F64, requires_grad=True), torch.tensor(0.9, dtype=F64, requires_grad=True)
    how = {"method": method, "steps": 100, "rtol": 1e-8, "atol": 1e-8, "adjoint": adjoint}
    end = solve(stretch, START, t0, t1, **how).x  # type: ignore[arg-type]
    torch.testing.assert_close(end, truth(0.9, 0.2), rtol=1e-3, atol=1e-3)
    found = torch.autograd.grad(end.sum(), (t0, t1))
    wanted = -(1 + 2 * t0) * end.sum(), (1 + 2 * t1) * end.sum()
    torch.testing.assert_close(found, tuple(w.detach() for w in wanted), rtol=1e-3, atol=1e-3)
    (one,) = torch.autograd.grad(solve(stretch, START, 0.2, t1, **how).x.sum(), t1)  # type: ignore[arg-type]
    torch.testing.assert_close(one, found[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [*FIXED, "dopri5"])
def test_many_steps_in_half_precision_do_not_stall(dtype: torch.dtype, method: str) -> None:
    """A step of 1/2000 is below what bf16 can add to 1, in the state and in the time."""
    x, seen = torch.ones(3, 2, dtype=dtype), []

    def half(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        assert t.dtype == x.dtype == dtype
        return x

    found = solve(half, x, method=method, steps=2000, rtol=1e-3, atol=1e-3)
    assert found.x.dtype == dtype
    assert found.x.double().mean().item() == pytest.approx(math.e, rel=2 * torch.finfo(dtype).eps)
    assert found.times.dtype == torch.float32
    stepped = x.clone()
    for _ in range(2000):
        stepped = stepped + stepped / 2000  # the plain loop in half precision
    assert stepped.double().mean().item() != pytest.approx(math.e, rel=0.1)
    last = solve(lambda t, x: -x / (1 - t), x, t1=0.9995, method=method, steps=50).x  # bf16 rounds 0.9995 to 1
    assert last.isfinite().all()


# the adjoint


def network() -> VelocityMLP:
    return VelocityMLP(2, width=8, depth=1, frequencies=2).double()


def gradient(
    net: VelocityMLP, velocity: Callable, x: Tensor, t0: float = 0.0, t1: float = 1.0, **how: object
) -> Tensor:
    net.zero_grad()
    start = x.clone().requires_grad_()
    states = solve(velocity, start, **how).states  # type: ignore[arg-type]
    (states[-1].square().sum() + states[len(states) // 2].sin().sum()).backward()  # also from a time on the way
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in (start, *net.parameters())]
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])
def test_adjoint_gradient_meets_the_solvers_own_as_steps_grow(method: str, times: list[float]) -> None:
    net, x = network(), torch.randn(3, 2, dtype=F64)
    how = {"method": method, "times": times}
    gaps, sizes = [], (20, 40)
    for steps in sizes:
        through = gradient(net, net, x, steps=steps, **how)
        back = gradient(net, net, x, steps=steps, adjoint=True, **how)
        gaps.append(float((through - back).abs().max()))
        assert not torch.allclose(-back, through, rtol=0.1, atol=0.1)
    assert math.log2(gaps[0] / gaps[1]) > ORDER[method] - 0.5
    assert gaps[1] < {1: 0.3, 2: 1e-2, 4: 1e-4}[ORDER[method]] * float(through.abs().max())


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])
def test_adjoint_gradient_is_within_tolerance_and_looks_inside_the_interval(method: str, times: list[float]) -> None:
    net, x = network(), torch.randn(3, 2, dtype=F64)  # the network refuses a time outside [0, 1]
    how = {"method": method, "times": times, "rtol": 1e-6, "atol": 1e-6}
    through, back = gradient(net, net, x, **how), gradient(net, net, x, adjoint=True, **how)
    torch.testing.assert_close(back, through, rtol=0, atol=1e-3)


def test_adjoint_reaches_what_it_is_told_and_nothing_else() -> None:
    net, x = network(), torch.randn(3, 2, dtype=F64)
    closure = lambda t, x: net(t, x)  # noqa: E731
    whole = gradient(net, net, x, method="rk4", adjoint=True)
    torch.testing.assert_close(gradient(net, closure, x, method="rk4", adjoint=net.parameters()), whole)
    torch.testing.assert_close(
        gradient(net, closure, x, method="rk4", adjoint=()), whole * (torch.arange(len(whole)) < 6)
    )
    with pytest.raises(TypeError, match=r"adjoint=True needs a velocity that is an nn.Module, got function"):
        solve(closure, x, adjoint=True)


@pytest.mark.parametrize("method", ["midpoint", "dopri5"])
def test_memory_of_the_adjoint_does_not_grow_with_the_steps(method: str) -> None:
    net, x = network(), torch.randn(3, 2, dtype=F64)

    def kept(adjoint: bool, steps: int) -> int:
        numbers = 0

        def count(x: Tensor) -> Tensor:
            nonlocal numbers
            numbers += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            solve(net, x, method=method, steps=steps, rtol=0.1 / steps**2, atol=0.1 / steps**2, adjoint=adjoint)
        return numbers

    assert kept(True, 5) == kept(True, 500)
    assert kept(False, 500) > 3 * kept(False, 5)


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"method": "eulr"}, ValueError, "method must be one of 'euler', 'midpoint'.*got 'eulr'"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, ValueError, "steps must be a whole number of at least 1, got 1.5"),
        ({"steps": -3}, ValueError, "steps must be a whole number of at least 1, got -3"),
        ({"method": "dopri5", "rtol": 0.0}, ValueError, "rtol must be above 0"),
        ({"method": "dopri5", "atol": math.nan}, ValueError, "atol must be above 0"),
        ({"t1": 0.0}, ValueError, "t0 and t1 must differ"),
        ({"t1": math.nan}, ValueError, "times must be a row of at least two finite numbers"),
        ({"times": [0.0, 0.5, 0.4]}, ValueError, "times must strictly rise or strictly fall"),
        ({"times": [0.5]}, ValueError, "at least two"),
        ({"times": torch.zeros(2, 2)}, ValueError, "times must be a row"),
        ({"step_size": 0.1}, TypeError, "unexpected keyword argument 'step_size'"),
        ({"x": torch.ones(2, 1).long()}, TypeError, "x must hold floating-point numbers"),
        ({"x": torch.tensor([[math.nan]])}, ValueError, "x must be finite"),
        (
            {"velocity": lambda t, x: x[:, :1]},
            ValueError,
            r"velocity must return the shape of its input, \(3, 2\), got",
        ),
        ({"velocity": lambda t, x: None}, ValueError, r"velocity must return the shape of its input.*got NoneType"),
    ],
)
def test_refused(change: dict, error: type[Exception], wanted: str) -> None:
    arguments = {"velocity": lambda t, x: -x, "x": torch.ones(3, 2)} | change
    with pytest.raises(error, match=wanted):
        solve(**arguments)  # type: ignore[arg-type]


# divergence


def curved(shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """A field whose Jacobian is full and depends on the place."""
    size = math.prod(shape)
    a, b = torch.randn(2, size, size, dtype=F64) / math.sqrt(size)
    return lambda t, x: (
        (torch.tanh(x.flatten(1) @ a) @ b + 0.1 * x.flatten(1) ** 2).reshape(x.shape)
        * (1 + t.reshape(-1, *[1] * len(shape)))
    )


@pytest.mark.parametrize("shape", [(2,), (5,), (1, 4, 4), ()])
def test_exact_divergence_is_the_trace_of_the_jacobian(shape: tuple[int, ...]) -> None:
    velocity = curved(shape) if shape else lambda t, x: x**2 * (1 + t)
    x, t = torch.randn(3, *shape, dtype=F64), torch.rand(3, dtype=F64)
    u, div = divergence(velocity, t, x)
    torch.testing.assert_close(u, velocity(t, x))
    for i in range(3):
        jacobian = torch.func.jacrev(lambda at: velocity(t[i : i + 1], at[None])[0])(x[i])  # noqa: B023
        jacobian = jacobian.reshape(x[i].numel(), x[i].numel())
        torch.testing.assert_close(div[i], jacobian.trace())
        assert jacobian.numel() == 1 or not torch.allclose(div[i], jacobian.sum())
        if len(shape) == 3:  # a public library sums a diagonal of columns here, which is not the trace
            columns = jacobian.reshape(*shape, *shape)[0, :, 0, 0, :, 0].trace()
            assert not torch.allclose(div[i], columns)
    assert div.shape == (3,)


def test_divergence_of_a_network_and_of_an_exact_field() -> None:
    x, t = torch.randn(6, 2, dtype=F64), torch.full((), 0.4, dtype=F64)
    board = Checkerboard()
    for velocity in (VelocityMLP(2).double(), lambda t, x: AffinePath().marginal_velocity(t, x, board)):
        _, div = divergence(velocity, t, x)
        jacobian = torch.autograd.functional.jacobian(lambda at: velocity(t, at).sum(0), x)  # (2, 6, 2) # noqa: B023
        torch.testing.assert_close(div, jacobian[0, :, 0] + jacobian[1, :, 1])


@pytest.mark.parametrize("estimator", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased_with_the_variance_of_theory(estimator: str, probes: int) -> None:
    """40 000 rows: the mean to 4 standard errors, the variance to 8 %, which is over 4 of its own."""
    a = torch.randn(5, 5, dtype=F64)
    s = (a + a.T) / 2
    off = s - s.diag().diag()
    variance = 2 * float((off if estimator == "rademacher" else s).square().sum()) / probes
    n = 40_000
    field = lambda t, x: x @ a.T  # noqa: E731
    _, div = divergence(field, 0.5, torch.zeros(n, 5, dtype=F64), estimator, probes=probes)

    def unbiased(estimate: Tensor) -> bool:
        return abs(float(estimate.mean() - a.trace())) < 4 * float(estimate.std()) / math.sqrt(n)

    assert unbiased(div)
    assert float(div.var()) == pytest.approx(variance, rel=0.08)
    wrong = {
        "the other estimator's": (s if estimator == "rademacher" else off).square().sum() * 2 / probes,
        "without the 2": variance / 2,
        "of J, not of its symmetric part": (a - a.diag().diag() if estimator == "rademacher" else a).square().sum()
        * 2
        / probes,
        "one probe more": variance * probes / (probes + 1),
        "falling with the square of the probes": variance / probes if probes > 1 else 0.0,
    }
    for label, value in wrong.items():
        assert float(div.var()) != pytest.approx(float(value), rel=0.08), label
    uniform = 2 * torch.rand(n, 5, dtype=F64) - 1  # probes of variance 1/3
    assert not unbiased((uniform * (uniform @ a.T)).sum(1))
    assert not unbiased(-div)


@pytest.mark.parametrize("estimator", ["rademacher", "gaussian"])
def test_probes_come_from_the_generator(estimator: str) -> None:
    field, x = curved((1, 4, 4)), torch.randn(3, 1, 4, 4, dtype=F64)
    t = torch.tensor(0.3, dtype=F64)
    draw = lambda seed: divergence(field, t, x, estimator, 2, Generator().manual_seed(seed))[1]  # noqa: E731
    before = torch.get_rng_state()
    assert draw(1).equal(draw(1))
    assert not draw(1).equal(draw(2))
    assert torch.get_rng_state().equal(before)
    assert not divergence(field, t, x, estimator)[1].equal(divergence(field, t, x, estimator)[1])


def test_diagonal_jacobian_needs_one_rademacher_probe() -> None:
    x = torch.randn(7, 3, dtype=F64)
    _, div = divergence(lambda t, x: x**3, 0.0, x, "rademacher")
    torch.testing.assert_close(div, (3 * x**2).sum(1))


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"estimator": "hutch"}, ValueError, "estimator must be one of 'exact', 'rademacher', 'gaussian', got 'hutch'"),
        ({"estimator": "gaussian", "probes": 0}, ValueError, "probes must be a whole number of at least 1, got 0"),
        ({"x": torch.ones(3, 2).long()}, TypeError, "x must hold floating-point numbers"),
        ({"x": torch.tensor(1.0)}, ValueError, "got a single number"),
        (
            {"velocity": lambda t, x: x[:, :1]},
            ValueError,
            r"velocity must return the shape of its input, \(3, 2\), got \(3, 1\)",
        ),
        ({"probe": 3}, TypeError, "unexpected keyword argument 'probe'"),
    ],
)
def test_divergence_refuses(change: dict, error: type[Exception], wanted: str) -> None:
    arguments = {"velocity": lambda t, x: -x, "t": 0.5, "x": torch.ones(3, 2)} | change
    with pytest.raises(error, match=wanted):
        divergence(**arguments)  # type: ignore[arg-type]
