"""What chapter 5 writes from scratch, held to a second route; each slip that is listed would show."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from pages import Slip, functions, judge, numbers, run, with_slips
from reference import F64
from scipy.optimize import linear_sum_assignment
from test_one_map import product
from torch import Tensor

from fmtutor import AffinePath, Cosine, GaussianMixture, StandardNormal, solve

PAGE = "05_paths"
MIXTURE = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 1.5]], dtype=F64), 0.5)
STEADY = StandardNormal(2, scale=0.6).to(F64)
LAST = {"linear": 0.99, "cosine": math.atan(99) * 2 / math.pi, "polynomial": math.sqrt(0.99)}  # 99 times as much data


@cache
def start() -> dict[str, Any]:
    known: dict[str, Any] = {}
    run(PAGE, known, "import textwrap", ("plots.use_style()", "import numpy as np"))
    run(PAGE, known, "schedules = {")
    end_time = functions(PAGE, known, "end_time")
    ends = {name: end_time(schedule) for name, schedule in known["schedules"].items()}
    return known | {
        "ends": ends,
        "tight": {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9},
        "four": ["linear", "cosine", "polynomial", "VP"],
        "three": ["linear", "cosine", "VP"],
        "zero": torch.zeros((), dtype=F64),
        "vp": known["schedules"]["VP"],
        "one": torch.ones(1, 1, dtype=F64),
    }


def page(**more: Any) -> dict[str, Any]:
    """What the first cells of the page know, with other things in their place."""
    known = start() | more
    functions(PAGE, known, "follow")
    return known


# One map


@with_slips(("schedule.alpha(middle) < ratio * ", "schedule.alpha(middle) * ratio < "), ("range(60)", "range(6)"))
def test_when_a_path_holds_so_much_data(slip: Slip) -> None:
    known = page()
    end_time = functions(PAGE, known, "end_time", slip=slip)
    b, c, log2 = 0.1, 19.9, math.log(1 + 99**-2)  # of VP: b s + c s^2 / 2 = -log(alpha^2)
    truth = LAST | {
        "VP": 1 - (math.sqrt(b**2 + 2 * c * log2) - b) / c,
        "VE": math.log(990) / math.log(1000),
    }
    off = max(abs(end_time(known["schedules"][name]).item() - t) for name, t in truth.items())
    judge(off, slip, 1e-9, 1e-3)


@with_slips(("/ schedules[name].alpha", "* schedules[name].alpha"), ("t1=ends[name]", "t1=0.95"))
def test_noise_is_followed_in_units_of_the_data(slip: Slip) -> None:
    """Normal data: the flow multiplies by S, which is `sqrt(s^2 + 1 / 99^2)` in units of the data, on every path."""
    follow, x0 = functions(PAGE, page(), "follow", slip=slip), torch.ones(1, 2, dtype=F64)
    ends = [follow(name, x0, STEADY, method="rk4", steps=50)[0] for name in LAST]
    judge(max((end - math.hypot(0.6, 1 / 99)).abs().max().item() for end in ends), slip, 1e-5, 1e-3)


@with_slips(
    (" / (1 - early)", ""), (" * vp.sigma(zero)", " * vp.alpha(zero)"), ("(Linear(), ratio)", "(Linear(), 0.1)")
)
def test_vp_ends_with_the_others_from_its_own_start(slip: Slip) -> None:
    known = page(board=MIXTURE, x0=torch.randn(3, 2, dtype=F64))
    known["arrived"] = {"linear": known["follow"]("linear", known["x0"], **known["tight"])[0]}
    run(PAGE, known, "own_start =", slip=slip)
    judge((known["arrived"]["VP, its own start"] - known["arrived"]["linear"]).abs().max().item(), slip, 1e-6, 1e-3)


@with_slips(("rho, 1.0", "1.0, rho"))
def test_the_bare_field_is_the_data_prediction(slip: Slip) -> None:
    known, x, t = page(), torch.randn(9, 2, dtype=F64), 0.3
    bare = functions(PAGE, known, "bare", slip=slip)
    data = x + (1 - t) * AffinePath().marginal_velocity(t, x, known["board"])
    judge((bare(t / (1 - t), x / (1 - t)) - data).abs().max().item(), slip, 1e-9, 1e-2)


@with_slips((".square()", ""), ("row != column", "row == column"))
def test_pairs_are_paired_anew(slip: Slip) -> None:
    """Of round normal data the flow is a multiple of the identity, which is optimal: its cost is known."""
    repaired = functions(PAGE, page(linear_sum_assignment=linear_sum_assignment), "repaired", slip=slip)
    ours, best, changed = repaired(STEADY, 2, n=60)
    torch.manual_seed(0)
    cost = (1 - math.hypot(0.6, 1 / 99)) ** 2 * torch.randn(60, 2, dtype=F64).square().sum(1).mean()
    judge(float(abs(ours - cost) / cost + abs(ours - best) + changed), slip, 1e-4, 0.1)


# Steps


@with_slips(
    ("d_alpha(t) * s**2", "d_alpha(t) * s"), ("+ sigma * schedule", "- sigma * schedule"), (" + sigma**2)", " + sigma)")
)
def test_the_rate_of_normal_data(slip: Slip) -> None:
    """The derivative of log S, by autodiff."""
    known, t, off = page(), torch.tensor(0.37, dtype=F64), 0.0
    rate = functions(PAGE, known, "rate", slip=slip)
    for schedule in known["schedules"].values():
        log_spread = lambda t, s=schedule: 0.5 * (s.alpha(t) ** 2 * 0.36 + s.sigma(t) ** 2).log()  # noqa: E731
        off = max(off, abs(rate(schedule, t, 0.6) - torch.func.grad(log_spread)(t)).item())
    judge(off, slip, 1e-12, 1e-2)


@with_slips(("torch.arange(n,", "torch.arange(1, n + 1,"), ("1 + rate", "1 - rate"), (" / n).prod", ").prod"))
def test_the_steps_of_euler_are_a_product(slip: Slip) -> None:
    euler = functions(PAGE, page(), "rate", "euler", slip=slip)
    judge(max(abs(float(euler("linear", n)) - product(n)) for n in (1, 4, 16)), slip, 1e-12, 1e-2)


@with_slips((".log2()", ".log()"), ("(32, 64)", "(32, 128)"), ("method=method", 'method="euler"'))
def test_the_orders_that_are_printed(slip: Slip) -> None:
    """Each slope is near the order beside it, but for midpoint on the linear path, which has 3."""
    known = page()
    functions(PAGE, known, "rate")
    told = run(PAGE, known, "from 32 to 64 steps", slip=slip)
    rows = [numbers(line[11:]) for line in told.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [1, 2, 2, 4]
    rows[1][0:1] = [3, 2]  # one for each path
    off = max(
        abs(a - b) for row in rows for a, b in zip(row[-4:-2], 2 * row[:1] if len(row) == 5 else row, strict=False)
    )
    judge(off, slip, 0.2, 0.25)


@with_slips(("end[None]", "solution.states[-1:]"), ("/ n * ends[name]", "/ n * 0.95"), ("square().sum(1)", "square()"))
def test_the_runs_of_a_cloud_and_their_error(slip: Slip) -> None:
    known, worst = page(board=MIXTURE, cloud=torch.randn(4, 2, dtype=F64)), 0.0
    functions(PAGE, known, "run", "rms", slip=slip)
    for name, path in (("linear", AffinePath()), ("cosine", AffinePath(Cosine()))):
        states = known["run"](name, "midpoint", 8)
        assert len(states) == 9
        exact = lambda t, x, path=path: path.marginal_velocity(t, x, MIXTURE)  # noqa: E731
        end = solve(exact, known["cloud"], t1=LAST[name], method="midpoint", steps=8).x
        known["reference"] = end / path.schedule.alpha(torch.tensor(LAST[name])) + torch.tensor([0.3, 0.4])
        worst = max(worst, abs(known["rms"](states).item() - 0.5))  # which is half a unit off
    judge(worst, slip, 1e-5, 1e-3)


def test_what_the_page_says_of_few_steps() -> None:
    """By its own runs, with the steps from which on each sentence holds; one step fewer breaks it."""
    known = page()
    run(PAGE, known, "steps, orders =")
    runs, steps, four = known["runs"], known["steps"], known["four"]
    off = {
        m: torch.stack([torch.stack([known["rms"](states) for states in runs[name][m]]) for name in four])
        for m in known["orders"]
    }
    linear, cosine, _, vp = off["euler"]
    best = {m: [four[k] for k in error.argmin(0)] for m, error in off.items()}
    assert best["euler"][steps.index(8) :] == ["cosine"] * 4
    assert "cosine" not in best["euler"][: steps.index(8)]
    assert (vp[:3] < 1.1 * cosine[:3]).all()
    assert (torch.maximum(cosine, vp) < linear).all()
    ahead = off["midpoint"][[0, 1]].amax(0) < off["midpoint"][[2, 3]].amin(0)
    assert ahead.tolist() == [False] + [True] * 6
    assert best["heun2"][steps.index(4) :] == best["rk4"][steps.index(4) :] == ["linear"] * 5
    assert best["rk4"][steps.index(2)] == "polynomial"
    for name in ("linear", "cosine", "VP"):  # the bend: a few points weigh more than all the others
        miss = (runs[name]["euler"][steps.index(32)][-1] - known["reference"]).square().sum(1)
        far = miss > 0.5**2
        assert 1 <= far.sum() <= 10
        assert miss[far].sum() > 1.5 * miss[~far].sum()
        assert ((runs[name]["euler"][-1][-1] - known["reference"]).norm(dim=1) > 0.5).sum() <= 1


@with_slips(
    ("/ 500**0.5", "/ 500"),
    ("gap.mean()", "-gap.mean()"),
    ("marginal_log_prob(end, x, board)", "marginal_log_prob(0.5, x, board)"),
)
def test_a_likelihood_by_few_steps(slip: Slip) -> None:
    """Beside a flow whose log-density is off by numbers that are known."""
    known = page(pairs=(torch.randn(500, 2, dtype=F64), torch.randn(500, 2, dtype=F64)))
    off, asked = torch.rand(500, dtype=F64) - 0.3, []

    class Flow:
        nfe = 7

        def __init__(self, field: Any, base: Any, **how: Any) -> None:
            asked.append(how)

        def log_prob(self, x: Tensor) -> Tensor:
            assert torch.allclose(x, 0.99 * known["pairs"][1] + 0.01 * known["pairs"][0])
            return AffinePath().marginal_log_prob(0.99, x, known["board"]) + off

    known["ContinuousFlow"] = Flow
    mean, error, nfe = functions(PAGE, known, "likelihood_gap", slip=slip)("linear", "euler", 16)
    assert nfe == 7
    assert asked[0]["t1"] == pytest.approx(0.99)
    judge(abs(mean - off.mean().item()) + abs(error - off.std().item() / math.sqrt(500)), slip, 1e-6, 1e-3)


@with_slips(
    ("16 // looks", "16"),
    ("looks * n for n in steps], errors", "n for n in steps], errors"),
    ("[name][method]]", "[name]['euler']]"),
)
def test_the_panels_of_errors_stand_over_evaluations(slip: Slip) -> None:
    """Errors that are their own evaluations, so that a curve is the diagonal and the printed ones are 16."""
    steps, looks = [1, 2, 4, 8, 16, 32, 64], {"euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4}
    known = page(steps=steps, orders=looks, rms=float, look=dict.fromkeys(start()["schedules"], "k"))
    known["runs"] = {name: {m: [c * n for n in steps] for m, c in looks.items()} for name in known["four"]}
    told = run(PAGE, known, "after 16 evaluations", slip=slip).splitlines()[2:]
    off = max(abs(n - 16) for line in told for n in numbers(line[12:]))
    for ax in known["axes"]:
        off = max(off, *(abs(line.get_xdata() - line.get_ydata()).max() for line in ax.lines))
    judge(off, slip, 1e-9, 0.5)
