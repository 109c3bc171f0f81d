"""What chapter 9 says of guided densities, by a second route, and what it writes from scratch; each slip would show."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from pages import Slip, beginning, functions, judge, numbers, run, with_slips
from reference import F64
from scipy.integrate import solve_ivp
from torch import Tensor

from fmtutor import (
    AffinePath,
    Cosine,
    GaussianMixture,
    Linear,
    StandardNormal,
    VariancePreserving,
    divergence,
    guide,
    solve,
)

PAGE = "09_guidance"


@cache
def start() -> dict[str, Any]:
    known = beginning(PAGE, ("gaussian", "mixed", "with_label"))
    run(PAGE, known, "group_at = torch.tensor", ("scale=0.5)  ", "scale=0.5).to(torch.float64)  "))
    return known


def page(**more: Any) -> dict[str, Any]:
    """What the first cells of the page know, and more."""
    return start() | more


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(0))


# One line: Gaussians


@with_slips(
    ("c.d_alpha * variance", "c.d_alpha * variance**2"), ("+ c.sigma * c.d_sigma", "- c.sigma * c.d_sigma"),
    ("c.alpha**2 * variance", "c.alpha * variance"),
)  # fmt: skip
def test_the_field_of_normal_data(slip: Slip) -> None:
    """x times the derivative of log S, by autodiff."""
    gaussian, t, off = functions(PAGE, page(), "gaussian", slip=slip), torch.tensor(0.37, dtype=F64), 0.0
    for schedule in (Linear(), Cosine(), VariancePreserving()):
        spread = lambda t, s=schedule: 0.5 * (s.alpha(t) ** 2 * 1.7 + s.sigma(t) ** 2).log()  # noqa: E731
        rate = torch.func.grad(spread)(t)
        off = max(off, abs(gaussian(AffinePath(schedule), 1.7)(t, torch.ones(1, 1, dtype=F64)).item() - rate.item()))
    judge(off, slip, 1e-12, 1e-2)


@with_slips(
    ("(1 - w) * free(t, x) + w * labelled", "(1 - w) * labelled(t, x) + w * free"), ("(1 - w) *", "(1 + w) *"),
    ("not first <= t <= last", "first <= t <= last"), ("return labelled(t, x)\n        return", "return free(t, x)\n"
     "        return"),
)  # fmt: skip
def test_the_guided_field_is_that_of_the_package(slip: Slip) -> None:
    known = page()
    mixed, x = functions(PAGE, known, "mixed", slip=slip), draw(5, 2)
    net = lambda t, x, label: torch.sin(x + label[:, None])  # noqa: E731
    fields = known["with_label"](net, 1), known["with_label"](net, 2)
    off = 0.0
    for w in (0.0, 1.0, 2.5):
        for t in (0.1, 0.5, 0.9):
            theirs = guide(net, 1, w, null=2, interval=(0.3, 0.7))(t, x)
            off = max(off, (mixed(*fields, w, 0.3, 0.7)(t, x) - theirs).abs().max().item())
    other = (1 + 1.5) * fields[0](0.5, x) - 1.5 * fields[1](0.5, x)  # the convention of Ho and Salimans, less by one
    off = max(off, (mixed(*fields, 2.5)(0.5, x) - other).abs().max().item())
    judge(off, slip, 1e-12, 1e-2)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize(("a", "b", "w"), [(1.0, 2.0, 3.0), (1.0, 2.0, -0.5), (0.3, 1.7, 1.8), (2.0, 0.7, 2.5)])
def test_guided_gaussians_end_at_the_geometric_mean_and_not_at_the_harmonic(
    schedule: Any, a: float, b: float, w: float
) -> None:
    known, path = page(), AffinePath(schedule)
    functions(PAGE, known, "gaussian")
    field = known["mixed"](known["gaussian"](path, a), known["gaussian"](path, b), w)
    end = solve(field, torch.ones(1, 1, dtype=F64), t1=1 - 1e-9, method="dopri5", rtol=1e-10, atol=1e-10).x.item() ** 2
    assert end == pytest.approx(a**w * b ** (1 - w), abs=1e-6)
    tilted = 1 / (w / a + (1 - w) / b)
    assert abs(end - tilted) > 0.02


def test_the_guided_variance_is_below_the_tilted_one() -> None:
    """At 20 000 random places, and above it for weights between 0 and 1, where the rule does not claim it."""
    torch.manual_seed(0)
    a, b = torch.exp(torch.randn(2, 20_000, dtype=F64))
    for low, high, sign in ((1.0, 6.0, 1), (0.0, 1.0, -1)):
        w = low + (high - low) * torch.rand(20_000, dtype=F64)
        precision = w / a + (1 - w) / b
        exists = (precision > 0) & ((a / b).log().abs() > 0.01)
        assert exists.sum() > 5000
        assert (sign * (1 / precision - a**w * b ** (1 - w))[exists] > 0).all()


@pytest.mark.parametrize(("a", "b", "w"), [(1.0, 2.0, 3.0), (0.4, 1.3, 1.7), (2.0, 1.0, 1.3)])
def test_where_ddpms_sampler_ends(a: float, b: float, w: float) -> None:
    """The formula against the variance of its SDE, followed in tau, and against the recursion of 4 000 steps."""
    k = lambda tau: w / (a + tau) + (1 - w) / (b + tau)  # noqa: E731
    formula = a ** (2 * w) * b ** (2 - 2 * w) * ((b / a) ** (2 * w - 1) - 1) / ((2 * w - 1) * (b - a))
    rate = lambda s, v: (2 * k(math.exp(s)) * v - 1) * math.exp(s)  # in s = log tau  # noqa: E731
    followed = solve_ivp(rate, (math.log(1e6), math.log(1e-9)), [1e6], rtol=1e-10, atol=1e-12).y[0, -1]
    assert followed == pytest.approx(formula, rel=1e-4)

    t, v = torch.linspace(0, 1, 4001, dtype=F64).sqrt(), torch.ones((), dtype=F64)
    gain = lambda s2: t * s2 / (t**2 * s2 + (1 - t) ** 2)  # E[x1 | xt] on the linear path  # noqa: E731
    guess = w * gain(a) + (1 - w) * gain(b)
    for s in range(len(t) - 1):
        noise = (1 - t[s] * guess[s]) / (1 - t[s])
        fresh = 1 - (t[s] * (1 - t[s + 1]) / (t[s + 1] * (1 - t[s]))) ** 2
        v = (t[s + 1] * guess[s] + (1 - t[s + 1]) * (1 - fresh).sqrt() * noise) ** 2 * v + (1 - t[s + 1]) ** 2 * fresh
    assert v.item() == pytest.approx(formula, rel=3e-3)
    assert abs(formula - a**w * b ** (1 - w)) > 0.005  # it is not where the ODE ends
    assert abs(formula - 1 / (w / a + (1 - w) / b)) > 0.005  # nor the tilted one


@with_slips(
    ("mixed(gaussian(other, a), gaussian(other, b), w)", "mixed(gaussian(other, b), gaussian(other, a), w)"),
    ('"velocity", "data"', '"velocity", "noise"'), ("solve(field, start", "solve(gaussian(other, a), start"),
    ("a**w * b ** (1 - w)", "1 / (w / a + (1 - w) / b)"), ("(2 * w - 1) - 1)", "(2 * w + 1) - 1)"),
    ("ends[\"ODE\"].append(smooth.var())", "ends[\"ODE\"].append(smooth.std())"),
)  # fmt: skip
def test_the_table_of_three_numbers(slip: Slip) -> None:
    """Theory beside measurement, in every row that has a theory, and much noise near the tilted value."""
    torch.manual_seed(1)
    known = page()
    functions(PAGE, known, "gaussian")
    told = run(PAGE, known, 'said = f"{theory', ("1001)", "401)"), ("g in (1, 5)", "g in (5,)"), slip=slip)
    rows = {line[:16].strip(): numbers(line[16:]) for line in told.splitlines()[2:4]}
    off = max(abs(value / row[0] - 1) for row in rows.values() for value in row[1:])
    truth = {"ODE": 0.25, "DDPM's sampler": 0.3875}
    off = max(off, *(abs(rows[name][0] / value - 1) for name, value in truth.items()))
    judge(off, slip, 0.1, 0.15)  # 0.1: seven standard errors of a variance
    if not slip[0]:
        assert max(abs(float(value) - 0.5) for value in known["ends"]["SDE, g = 5"]) < 0.05


# Why


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_the_guided_score_is_that_of_the_tilted_noisy_densities(schedule: Any) -> None:
    """By autodiff of w log p_t(x | y) + (1 - w) log p_t(x)."""
    known, path, x, t, w = page(), AffinePath(schedule), draw(6, 2), 0.4, 2.5
    group, everything = known["group"], known["everything"]
    u = (1 - w) * path.marginal_velocity(t, x, everything) + w * path.marginal_velocity(t, x, group)
    h = lambda x: (  # noqa: E731
        w * path.marginal_log_prob(t, x[None], group) + (1 - w) * path.marginal_log_prob(t, x[None], everything)
    ).sum()
    score = torch.stack([torch.func.grad(h)(row) for row in x])
    assert (path.convert(t, x, u, "velocity", "score") - score).abs().max() < 1e-9


def along(path: AffinePath, group: Any, everything: Any, w: float, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The end, log q_1 there, and the integral of the theorem, as two more coordinates of one solve."""

    def together(t: Tensor, state: Tensor) -> Tensor:
        x = state[:, :2]
        field = lambda t, x: (  # noqa: E731
            (1 - w) * path.marginal_velocity(t, x, everything) + w * path.marginal_velocity(t, x, group)
        )
        u, div = divergence(field, t, x)
        c = path.coefficients(t, x[:1])
        delta = path.marginal_score(t, x, group) - path.marginal_score(t, x, everything)
        k = c.sigma * (c.sigma * c.d_alpha - c.alpha * c.d_sigma) / c.alpha
        return torch.cat([u, -div[:, None], (k * delta.square().sum(1, keepdim=True))], 1)

    late = 1 - 1e-5
    end = solve(together, torch.cat([x0, 0 * x0], 1), t0=1e-6, t1=late, method="dopri5", rtol=1e-8, atol=1e-8).x
    return end[:, :2], StandardNormal(2).log_prob(x0) + end[:, 2], end[:, 3]


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("w", [3.0, 0.5, -1.0])
def test_the_density_of_the_guided_flow_is_the_tilted_one_times_what_was_collected(schedule: Any, w: float) -> None:
    known, path = page(), AffinePath(schedule)
    group, everything = known["group"], known["everything"]
    end, log_q, integral = along(path, group, everything, w, draw(5, 2))
    log_h = w * group.log_prob(end) + (1 - w) * everything.log_prob(end)
    assert (log_q - log_h + w * (w - 1) * integral).abs().max() < 2e-3
    assert (integral > 0).all()
    for wrong in (w * (w - 1) * integral, -w * (w + 1) * integral, -(w - 1) * integral, -w * integral, 0 * integral):
        assert (log_q - log_h - wrong).abs().max() > 0.02  # a sign, a factor, and the belief that there is nothing


@with_slips(
    ("-w * (w - 1)", "w * (w - 1)"), ("-w * (w - 1)", "-w * w"), ("(1 - t) / t", "t / (1 - t)"), ("(1 - t) / t", "1"),
    ("t, x, everything)\n        total", "t, x, group)\n        total"), ("delta.square().sum(1)", "delta.norm(dim=1)"),
)  # fmt: skip
def test_the_toll_of_the_page(slip: Slip) -> None:
    known, w = page(), 3.0
    toll = functions(PAGE, known, "toll", slip=slip)
    group, everything, path = known["group"], known["everything"], AffinePath()
    end, log_q, _ = along(path, group, everything, w, draw(5, 2))
    middles = 0.999 * (torch.arange(400, dtype=F64) + 0.5) / 400
    field = known["mixed"](known["labelled"], known["free"], w)
    states = solve(field, draw(5, 2), times=middles, method="rk4", steps=400).states
    log_h = w * group.log_prob(end) + (1 - w) * everything.log_prob(end)
    judge((toll(states, middles, w) - (log_q - log_h)).abs().max().item(), slip, 0.01, 0.1)


def test_equal_shapes_collect_the_same_everywhere() -> None:
    """Two Gaussians of one variance: the difference of scores is alpha (m' - m) / S^2, and the flow is the tilted."""
    path, w, s = AffinePath(Cosine()), 3.0, 0.6
    group, everything = (GaussianMixture(torch.tensor([m], dtype=F64), s) for m in ([1.0, -0.5], [0.2, 0.3]))
    x, t = draw(7, 2), 0.4
    c = path.coefficients(t, x[:1])
    delta = path.marginal_score(t, x, group) - path.marginal_score(t, x, everything)
    wanted = c.alpha * torch.tensor([0.8, -0.8], dtype=F64) / (c.alpha**2 * s**2 + c.sigma**2)
    assert (delta - wanted).abs().max() < 1e-9
    end, log_q, integral = along(path, group, everything, w, x)
    assert integral.std() < 1e-5
    tilted = GaussianMixture(torch.tensor([[w + (1 - w) * 0.2, -0.5 * w + (1 - w) * 0.3]], dtype=F64), s)
    assert (log_q - tilted.log_prob(end)).abs().max() < 1e-3


def test_tilting_weighs_all_data_by_what_is_said_of_the_label() -> None:
    """p(x | y)^w p(x)^(1 - w) and p(x) p(y | x)^w differ by a constant, and the second is at most p(x)."""
    known, x, w = page(), draw(50, 2), 2.5
    group, everything = known["group"].log_prob(x), known["everything"].log_prob(x)
    says = everything.new_tensor(0.5).log() + group - everything  # three of six bumps
    difference = w * group + (1 - w) * everything - (everything + w * says)
    assert difference.std() < 1e-12
    assert (says < 1e-12).all()


def test_for_weights_above_one_the_tilted_density_is_divided_by_at_least_one() -> None:
    """The integral of p(x | y)^w p(x)^(1 - w), by a sum on a grid: 1 or more above w = 1, 1 or less between 0 and 1."""
    known, line = page(), (torch.arange(200, dtype=F64) + 0.5) / 20 - 5
    x = torch.cartesian_prod(line, line)
    group, everything = known["group"].log_prob(x), known["everything"].log_prob(x)
    total = {w: (w * group + (1 - w) * everything).exp().sum().item() / 400 for w in (0.0, 0.5, 1.0, 2.0, 3.0)}
    assert max(abs(total[0.0] - 1), abs(total[1.0] - 1)) < 1e-3
    assert total[0.5] < 0.95
    assert 1.5 < total[2.0] < total[3.0]


def test_early_scores_differ_by_nearly_one_vector() -> None:
    """At points on the way, the spread of the difference over its mean: small up to t = 0.1, and not later."""
    known, path = page(), AffinePath()
    field = known["mixed"](known["labelled"], known["free"], 3.0)
    times = torch.tensor([0.0, 0.05, 0.1, 0.3, 0.5], dtype=F64)
    states = solve(field, draw(400, 2), times=times, method="rk4", steps=20).states

    def unlike(t: Tensor, x: Tensor) -> float:
        delta = path.marginal_score(t, x, known["group"]) - path.marginal_score(t, x, known["everything"])
        return ((delta - delta.mean(0)).square().sum(1).mean().sqrt() / delta.mean(0).norm()).item()

    spread = [unlike(t, x) for t, x in zip(times[1:], states[1:], strict=True)]
    assert max(spread[:2]) < 0.2
    assert min(spread[2:]) > 0.4


def test_hidden_labels_teach_the_field_of_all_data_if_they_are_hidden_blindly() -> None:
    """Means of targets by what is told, 400 000 pairs; a label that is hidden with the data in view teaches another."""
    torch.manual_seed(0)
    n, t, place = 400_000, 0.5, 0.2
    label = torch.randint(2, (n,))
    x1 = torch.where(label == 0, 1.0, -1.0) + 0.5 * torch.randn(n)
    _, xt, ut = AffinePath().sample(torch.randn(n, 1), x1[:, None], t)
    here = (xt[:, 0] - place).abs() < 0.05
    group = GaussianMixture(torch.tensor([[1.0]]), 0.5)
    everything = GaussianMixture(torch.tensor([[1.0], [-1.0]]), 0.5)
    at = torch.tensor([[place]])

    def mean(told: Tensor, wanted: Any) -> float:
        """How many standard errors the mean of the targets is from an exact field."""
        those = ut[here & told, 0]
        exact = AffinePath().marginal_velocity(t, at, wanted).item()
        return abs(those.mean().item() - exact) / (those.std().item() / len(those) ** 0.5)

    hidden = torch.rand(n) < 0.2
    assert mean(~hidden & (label == 0), group) < 5
    assert mean(hidden, everything) < 5
    assert mean(~hidden & (label == 0), everything) > 20
    in_view = torch.rand(n) < torch.where(x1 > 0, 0.3, 0.1)
    assert mean(in_view, everything) > 10


@with_slips(
    ("torch.rand(n) < p  ", "torch.rand(1).expand(n) < p  "), ("torch.rand(n) < p  ", "torch.rand(n) > p  "),
    ("(hidden, NONE, label)", "(hidden, 0, label)"), ("label[:, None] == 0", "label[:, None] == 1"),
    ("network(t, xt, told)", "network(t, xt, label)"), ("(network(t, xt, told) - ut)", "(network(t, xt, told) - x1)"),
)  # fmt: skip
def test_the_loss_with_hidden_labels(slip: Slip) -> None:
    """Crescents far apart: a network that knows the data of each label, and nothing else, has the loss of the noise."""
    places = [GaussianMixture(torch.tensor([[1e3, 0.0]]), 0.01), GaussianMixture(torch.tensor([[-1e3, 0.0]]), 0.01)]
    known, share = page(crescents=places, NONE=2), []

    def network(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        share.append((label == 2).float().mean().item())
        end = torch.where(label == 0, 1000.0, -1000.0)
        end = torch.where(label == 2, 1000.0 * torch.sign(x[:, 0]), end)  # where nobody says, by the side
        return (torch.stack([end, 0 * end], 1) - x) / (1 - t[:, None])

    torch.manual_seed(0)
    loss = functions(PAGE, known, "loss", slip=slip)
    known["path"] = Halfway()
    value = loss(network, n=20_000, p=0.2).item()
    judge(max(abs(share[0] - 0.2) / 0.015, value), slip, 1.0, 1.0)


class Halfway(AffinePath):
    """The linear path, at t = 1/2 alone, where a point tells which of two far places it goes to."""

    def sample(self, x0: Tensor, x1: Tensor, t: Any) -> Any:
        return super().sample(x0, x1, 0 * t + 0.5)
