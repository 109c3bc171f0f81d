"""Mistakes that other libraries let pass in silence: here each is refused, with what came and what was wanted.

Where a mistake cannot be made at all, or has one right reading, the test says which and checks the value.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmtutor import (
    AffinePath,
    Checkerboard,
    ContinuousFlow,
    Empirical,
    Linear,
    StandardNormal,
    VarianceExploding,
    VelocityMLP,
    conditional_flow_matching_loss,
    flow_matching_loss,
    independent,
    solve,
)

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
sizes = st.integers(1, 5)
quick = settings(deadline=None, max_examples=25)
PATH = AffinePath()


def zero(t: Tensor, x: Tensor) -> Tensor:
    return 0 * x


@quick
@given(shapes, shapes)
def test_noise_and_data_of_different_shapes_are_never_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assume(a != b)
    x0, x1 = torch.zeros(a), torch.zeros(b)
    calls = [
        lambda: PATH.sample(x0, x1, 0.5),
        lambda: conditional_flow_matching_loss(zero, PATH, x0, x1),
        lambda: independent(x0, x1),
        lambda: PATH.conditional_velocity(0.5, x0, x1),
        lambda: PATH.conditional_score(0.5, x0, x1),
        lambda: PATH.convert(0.5, x0, x1, "noise", "data"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must have the same shape, got ") as told:
            call()
        assert str(a) in str(told.value)
        assert str(b) in str(told.value)


def test_one_column_against_two() -> None:
    with pytest.raises(ValueError, match=r"x0 and x1 must have the same shape, got x0 \(8, 1\) and x1 \(8, 2\)"):
        conditional_flow_matching_loss(zero, PATH, torch.zeros(8, 1), torch.zeros(8, 2))


@quick
@given(shapes, st.one_of(st.floats(1.0001, 1e6), st.floats(-1e6, -1e-6), st.sampled_from([7.0, math.nan, math.inf])))
def test_times_outside_the_interval(shape: tuple[int, ...], t: float) -> None:
    x = torch.zeros(shape)
    for time in (t, torch.tensor(t), torch.full((len(x),), t)):
        for call in (
            lambda: PATH.sample(x, x, time),  # noqa: B023
            lambda: conditional_flow_matching_loss(zero, PATH, x, x, time),  # noqa: B023
            lambda: PATH.conditional_velocity(time, x, x),  # noqa: B023
            lambda: PATH.marginal_velocity(time, x, StandardNormal(*shape[1:])),  # noqa: B023
            lambda: PATH.convert(time, x, x, "data", "noise"),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=r"t must lie in \[0, 1\], got "):
                call()


@quick
@given(sizes, sizes, shapes)
def test_times_of_another_length(batch: int, length: int, event: tuple[int, ...]) -> None:
    assume(batch != length)
    x = torch.zeros(batch, *event)
    for t in (torch.full((length,), 0.5), torch.full((batch, 1), 0.5), torch.full((length, batch), 0.5)):
        with pytest.raises(ValueError, match=rf"t must be a scalar or have shape \({batch},\).*got shape"):
            PATH.sample(x, x, t)


@quick
@given(st.integers(2, 5))
def test_as_many_times_as_coordinates_belong_to_the_rows(n: int) -> None:
    """t of shape (B,) against x of shape (B, B): a time for each row, never one for each column."""
    x0, x1, t = torch.randn(n, n).double(), torch.randn(n, n).double(), torch.linspace(0.1, 0.9, n).double()
    rows = torch.stack([(1 - t[i]) * x0[i] + t[i] * x1[i] for i in range(n)])
    columns = torch.stack([(1 - t[i]) * x0[:, i] + t[i] * x1[:, i] for i in range(n)], 1)
    xt = PATH.sample(x0, x1, t).xt
    torch.testing.assert_close(xt, rows)
    assert not torch.allclose(xt, columns)
    data = Empirical(x1)
    for call in (
        lambda t, x, y: PATH.marginal_velocity(t, x, data),
        lambda t, x, y: PATH.marginal_score(t, x, data),
        PATH.conditional_velocity,
        lambda t, x, y: PATH.convert(t, x, y, "velocity", "score"),
        lambda t, x, y: data.posterior_mean(x, t, 1 - t),
    ):
        together = call(t, xt, x1)
        each = torch.cat([call(t[i : i + 1], xt[i : i + 1], x1[i : i + 1]) for i in range(n)])
        torch.testing.assert_close(together, each)


def test_conversions_where_there_is_no_noise() -> None:
    x = torch.ones(2, 2)
    for source, to in (("data", "noise"), ("data", "score"), ("noise", "score"), ("data", "velocity")):
        with pytest.raises(ValueError, match=r"at t = 1, sigma is 0"):
            PATH.convert(1.0, x, x, source=source, to=to)
    with pytest.raises(ValueError, match=r"at t = 1, sigma is 0: every path has arrived"):
        PATH.marginal_velocity(torch.tensor([0.5, 1.0]), x, Checkerboard())


@quick
@given(sizes, st.integers(2, 4))
def test_models_that_return_another_shape(batch: int, dim: int) -> None:
    x = torch.zeros(batch, dim)
    bad = [lambda t, x: x[:, :1], lambda t, x: x.sum(1), lambda t, x: x[None], lambda t, x: (x, x), lambda t, x: None]
    for model in bad:
        for call in (
            lambda: conditional_flow_matching_loss(model, PATH, x, x),  # noqa: B023
            lambda: flow_matching_loss(model, PATH, StandardNormal(dim), x, 0.5),  # noqa: B023
            lambda: solve(model, x),  # noqa: B023
            lambda: ContinuousFlow(model, StandardNormal(dim)).log_prob(x),  # noqa: B023
        ):
            with pytest.raises(
                ValueError, match=rf"velocity must return the shape of its input, \({batch}, {dim}\), got"
            ):
                call()


def test_a_solver_takes_the_steps_it_is_told() -> None:
    """A step is a fraction of the interval here: none can be larger than it, and none is taken by default in one go."""
    x = torch.ones(1, 1)
    assert solve(zero, x, method="euler").nfe == 20
    assert solve(zero, x, 0.0, 0.001, method="euler").nfe == 20
    for steps in (0, -1, 1.5, 0.5, math.inf, None):
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got"):
            solve(zero, x, method="euler", steps=steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Linear(sigmamin=0.1),  # type: ignore[call-arg]
        lambda: AffinePath(shedule=Linear()),  # type: ignore[call-arg]
        lambda: Checkerboard(sice=1.0),  # type: ignore[call-arg]
        lambda: VelocityMLP(dim=2, with_=3),  # type: ignore[call-arg]
        lambda: solve(zero, torch.ones(1, 1), step_size=0.1),  # type: ignore[call-arg]
        lambda: ContinuousFlow(zero, StandardNormal(2), tol=0.1),  # type: ignore[call-arg]
        lambda: conditional_flow_matching_loss(zero, PATH, torch.ones(1, 1), torch.ones(1, 1), reduce="mean"),  # type: ignore[call-arg]
    ],
)
def test_misspelt_keywords(call: object) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        call()  # type: ignore[operator]


def test_unknown_names_come_with_the_known_ones() -> None:
    x = torch.ones(1, 1)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'none', got 'sum'"):
        conditional_flow_matching_loss(zero, PATH, x, x, reduction="sum")
    with pytest.raises(ValueError, match="source must be one of 'velocity', 'score', 'noise', 'data', got 'epsilon'"):
        PATH.convert(0.5, x, x, source="epsilon", to="data")


@quick
@given(shapes, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_one_bad_number_in_the_data(shape: tuple[int, ...], bad: float, data: st.DataObject) -> None:
    x0, x1 = torch.zeros(shape), torch.zeros(shape)
    x1.view(-1)[data.draw(st.integers(0, x1.numel() - 1))] = bad
    wanted = rf"must be finite, got 1 NaN or infinite numbers out of {x1.numel()}"
    for call in (
        lambda: conditional_flow_matching_loss(zero, PATH, x0, x1),
        lambda: conditional_flow_matching_loss(zero, PATH, x1, x0),
        lambda: PATH.marginal_velocity(0.5, x1, StandardNormal(*shape[1:])),
        lambda: PATH.convert(0.5, x0, x1, "noise", "data"),
        lambda: Empirical(x1),
        lambda: solve(zero, x1),
        lambda: StandardNormal(*shape[1:]).log_prob(x1),
    ):
        with pytest.raises(ValueError, match=wanted):
            call()


@quick
@given(shapes, st.sampled_from([torch.int64, torch.int32, torch.bool, torch.uint8]))
def test_whole_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, good = torch.ones(shape, dtype=dtype), torch.ones(shape)
    for call in (
        lambda: conditional_flow_matching_loss(zero, PATH, good, x),
        lambda: conditional_flow_matching_loss(zero, PATH, x, good, 0.5),
        lambda: PATH.coefficients(0.25, x),
        lambda: PATH.convert(0.25, x, good, "noise", "data"),
        lambda: PATH.marginal_velocity(0.25, x, StandardNormal(*shape[1:])),
        lambda: Empirical(x),
        lambda: solve(zero, x),
    ):
        with pytest.raises(TypeError, match=r"must hold floating-point numbers, got torch\.\w+: convert it with"):
            call()


@quick
@given(st.floats(max_value=0, exclude_max=True))
def test_negative_noise(sigma: float) -> None:
    for call in (lambda: Linear(sigma_min=sigma), lambda: VarianceExploding(sigma_min=sigma)):
        with pytest.raises(ValueError, match="sigma_min must be"):
            call()
    assume(sigma < -1e-30)
    for target in (Checkerboard(), StandardNormal(2), Empirical(torch.zeros(1, 2))):
        with pytest.raises(ValueError, match="sigma must be above 0"):
            target.posterior_mean(torch.zeros(1, 2), 0.5, max(sigma, -1e30))
