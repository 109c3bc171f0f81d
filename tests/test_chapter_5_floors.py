"""What chapter 5 measures of floors, of times and of starts, held to a second route; each slip would show."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from pages import BOOK, RIGHT, Slip, functions, judge, numbers, run, with_slips
from reference import F64
from test_chapter_5 import MIXTURE, PAGE, page, start

from fmtutor import AffinePath, GaussianMixture, StandardNormal
from fmtutor.metrics import Estimate, straightness


@with_slips(
    ("sum(1)\n", "mean(1)\n"), ("c.d_alpha * 2.0 + slope", "slope"), ("pi**2 / 4", "pi / 4"), (".div(n)", ".div(100)")
)
def test_the_floor_of_normal_data_is_measured(slip: Slip) -> None:
    told = run(PAGE, page(), "data N(2, diag", ("100_000", "20_000"), slip=slip).splitlines()[2:]
    rows = [numbers(line) for line in told]
    off = max(abs(row[0] - row[1]) / 0.06 / row[0] + (row[2] > 0.03 * row[0]) for row in rows)
    off += abs(rows[0][0] - math.pi) + abs(rows[1][0] - math.pi**2 / 2)
    judge(off, slip, 1.0, 1.0)


@with_slips(("value * left", "value"), ("* s**2 /", "* s /"), ("- alpha * d_sigma", "+ alpha * d_sigma"))
def test_a_decade_of_the_floor(slip: Slip) -> None:
    """On the linear path it is a difference of two arctangents."""
    known, s = page(), 1.5
    piece = functions(PAGE, known, "piece", slip=slip)
    up_to = lambda left: s * math.atan((1 - left) * s / left)  # noqa: E731
    truth = [up_to(10.0 ** -(k + 1)) - up_to(10.0**-k) for k in (1, 2, 3)]
    off = max(abs(piece(known["schedules"]["linear"], k).item() / t - 1) for k, t in zip((1, 2, 3), truth, strict=True))
    judge(off, slip, 1e-4, 1e-2)


@with_slips(("mean(1)) / bins", "sum(1)) / bins"), ("(20 * even)", "(19 * even)"), ("ut - u)", "ut)"))
def test_the_floor_of_the_board_against_time(slip: Slip) -> None:
    """Its mean on the linear path is 3.753; at the start it is the variance of the data."""
    known = page()
    run(PAGE, known, "bins, floors =", ("60_000", "8_000"), slip=slip)
    floor = known["floors"]["linear"]
    off = (
        abs(floor.mean().item() - 3.753)
        + abs(floor[0].item() / known["board"].variance.mean().item() - 1)
        + abs(len(floor) - 20)
    )
    judge(off, slip, 0.4, 0.5)


@with_slips(("(torch.arange(20) + 0.5)", "torch.arange(20)"), ("floors[name], ", "floors['VP'], "))
def test_the_floors_stand_over_the_middle_of_their_times(slip: Slip) -> None:
    known = page(look=dict.fromkeys(start()["schedules"], "k"))
    known["floors"] = {name: torch.arange(20.0) + k for k, name in enumerate(known["three"])}
    run(PAGE, known, "floor of the checkerboard", slip=slip)
    even = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    off = 0.0
    for k, line in enumerate(known["ax"].lines):
        across, height = (torch.as_tensor(part, dtype=F64) for part in line.get_data())
        off = max(off, (across - even.view(20, 100).mean(1)).abs().max(), (height - torch.arange(20) - k).abs().max())
    judge(float(off), slip, 1e-6, 1e-2)


@with_slips(
    ("rho, 1.0)", "1.0, rho)"),
    ("board.variance", "board.variance.sqrt()"),
    ("rho * data + noise", "data + rho * noise"),
)
def test_the_share_that_is_still_open(slip: Slip) -> None:
    """By the floor: on the linear path `Var[x1 | xt]` is `(1 - t)^2` times that of the velocities."""
    known, path, off = page(), AffinePath(), 0.0
    told = run(PAGE, known, "still open", ("20_000", "4_000"), slip=slip)
    x0, x1 = torch.randn(4_000, 2, dtype=F64), known["board"].sample((4_000,))
    for row in map(numbers, told.splitlines()[1:]):
        t = row[0] / (1 + row[0])
        _, xt, ut = path.sample(x0, x1, t)
        left = (1 - t) ** 2 * (ut - path.marginal_velocity(t, xt, known["board"])).square().mean()
        off = max(off, abs(row[1] / 100 - left.item() / known["board"].variance.mean().item()))
    judge(off, slip, 0.05, 0.06)


# Times and starts


@with_slips(
    ("2 * (schedule.alpha", "1 * (schedule.alpha"),
    ("2 * torch.tensor(0.1)", "1 * torch.tensor(0.1)"),
    ("(ratio < 0.1)", "(ratio < 0.2)"),
)
def test_where_a_path_spends_its_time(slip: Slip) -> None:
    """The band's lower edge is where the linear curve is at t = 1 / 11, and so much of the time lies before it."""
    known = page(look=dict.fromkeys(start()["schedules"], "k"))
    told = run(PAGE, known, "share of the time", slip=slip)
    shares = {line.split()[0]: numbers(line) for line in told.splitlines()[2:]}
    ax = known["ax"]
    times, curve = ax.lines[0].get_data()
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    off = max(abs(c - 2 * math.log(t / (1 - t))) for t, c in zip(times, curve, strict=True))
    off += abs(band.y0 + 2 * math.log(10)) + abs(band.y1 - 2 * math.log(10))
    off += abs(shares["linear"][0] - 100 / 11) + abs(shares["VE"][2] - 100 / 3) + abs(sum(shares["cosine"]) - 100)
    judge(off / 3, slip, 1.0, 1.2)


@with_slips(
    ("(log_p - log_q)", "(log_q - log_p)"),
    ("log_p.exp()", "log_q.exp()"),
    ("variance - 1 - ", "variance - "),
    ("alpha**2 * board", "alpha * board"),
)
def test_what_a_start_costs(slip: Slip) -> None:
    """Where the data are normal both columns are the divergence of two normals."""
    board = StandardNormal(2, scale=3.0).to(F64)
    told = run(PAGE, page(board=board), "as if normal", ("leggauss(300)", "leggauss(120)"), slip=slip)
    alpha2, off = math.exp(-10.05), 0.0
    for line, extra in zip(told.splitlines(), (9 * alpha2 / (1 - alpha2), 0.09), strict=True):
        _, lost, theory = numbers(line.partition("=")[2])
        truth = extra - math.log1p(extra)
        off = max(off, abs(lost / truth - 1), abs(theory / truth - 1))
    judge(off, slip, 0.02, 0.04)


# The network, straightness, and noise left at the end


@with_slips(("noise=schedules[name].sigma", "noise=None"), ("paths[name], x0", 'paths["linear"], x0'))
def test_a_network_is_trained_on_its_own_path(slip: Slip) -> None:
    losses: list[Any] = []
    small = {"small_base": StandardNormal(2), "small_board": GaussianMixture(MIXTURE.means.float(), 0.5)}
    known = page(fit=lambda model, loss, **how: losses.append(loss), **small)
    model, _ = functions(PAGE, known, "train", slip=slip)("VP", seed=3)
    noise = model.noise or (lambda t: 1 - t)
    off = (noise(torch.tensor([0.3])) - known["vp"].sigma(torch.tensor([0.3]))).abs().item()
    seen: list[Any] = []
    known["conditional_flow_matching_loss"] = lambda model, path, *rest: seen.append(path)
    losses[0]()
    judge(off + (seen[0] is not known["paths"]["VP"]), slip, 1e-6, 0.1)


@with_slips(("length / chord", "chord / length"), ("states[-1] - states[0]", "states[-1]"), (".diff(dim=0)", ""))
def test_how_straight_a_quarter_of_a_circle_is(slip: Slip) -> None:
    angle = torch.linspace(0, math.pi / 2, 201, dtype=F64)
    states = 2.0 + torch.stack([angle.cos(), angle.sin()], 1)[:, None].expand(-1, 3, -1)
    off, length = functions(PAGE, page(), "straight", slip=slip)(states, angle * 2 / math.pi)
    gap = abs(length.item() - math.pi / 2 / math.sqrt(2)) + abs(off.value - (math.pi**2 / 4 - 2))
    judge(gap, slip, 1e-3, 1e-2)


@with_slips(("sample(cloud, targets, time)", "sample(targets, cloud, time)"), ("(pair, way)", "(way, pair)"))
def test_the_ways_that_are_called_straight_or_not(slip: Slip) -> None:
    """Pairs first: from the cloud to their targets. Then trajectories, from the cloud to where the flow takes it."""
    seen: list[Any] = []
    nothing = type("Off", (), {"value": 0.0, "error": 0.0})
    known = page(board=MIXTURE, cloud=torch.randn(5, 2, dtype=F64), four=["linear", "cosine"])
    known["straight"] = lambda states, times: (seen.append(states), (nothing, 1.0))[1]
    run(PAGE, known, "targets = board.sample", ("def straight", "def _"), ("(250,)", "(5,)"), slip=slip)
    off = 0.0
    for pair, way, name in ((*seen[:2], "linear"), (*seen[2:], "cosine")):
        ends = known["follow"](name, known["cloud"], method="rk4", steps=60)[1].x
        off = max(off, *((states[0] - known["cloud"]).abs().max().item() for states in (pair, way)))
        off = max(off, (pair[-1] - known["targets"]).abs().max().item() - 0.1, (way[-1] - ends).abs().max().item())
    judge(off, slip, 1e-2, 0.1)


@with_slips(("2 * (wide", "(wide"), ("(wide - 1 - rate", "(wide - rate"), ("wide) * spread", "wide)"))
def test_how_straight_normal_data_as_wide_as_the_board_flow(slip: Slip) -> None:
    """A crowd of normal noise, moved by the map that is known, and judged by the package."""
    known = page(bent=dict.fromkeys(("linear", "cosine"), Estimate(0.0, 0.0)))
    functions(PAGE, known, "rate")
    told = run(PAGE, known, "normal data, ", slip=slip).splitlines()[3:]
    t, x0, off = torch.linspace(0, 1, 401, dtype=F64), torch.randn(4000, 2, dtype=F64), 0.0
    x0 = x0 / x0.square().mean().sqrt()
    for line, (alpha, sigma) in zip(
        told, ((t, 1 - t), ((t * math.pi / 2).sin(), (t * math.pi / 2).cos())), strict=True
    ):
        spread = (alpha**2 * known["board"].variance[0] + sigma**2).sqrt()
        off = max(off, abs(numbers(line)[0] - straightness(spread[:, None, None] * x0, t).value))
    judge(off, slip, 0.02, 0.1)


@with_slips(
    ("4 * edge", "2 * edge"),
    ("v**2 * (3 - 2 * v)", "v"),
    ("marginal_log_prob(1.0", "marginal_log_prob(0.9"),
    ("/ 8\n", "\n"),
)
def test_what_is_left_of_the_noise_costs_nats(slip: Slip) -> None:
    """The two columns are two routes: an integral over one edge, and one over the whole board."""
    known = page(cloud=torch.randn(2, 2, dtype=F64))
    told = run(
        PAGE,
        known,
        "bias in nats",
        ("[0.1, 0.03, 0.01, 0.003, 0.001]", "[0.03]"),
        ("for tol in (1e-5, 1e-8)", "for tol in (1e-2, 1e-2)"),
        slip=slip,
    )
    _, theory, measured, *_ = numbers(told.splitlines()[-1])
    assert theory == pytest.approx(4 * 0.03 * 0.45 * 0.4774, rel=0.02) or slip != RIGHT
    judge(abs(measured / theory - 1), slip, 0.02, 0.1)


@with_slips((".sum(1) < 0", ".sum(1) > 0"), ("(z - x)", "(z + x)"))
def test_how_many_points_move_away(slip: Slip) -> None:
    """At t = 0 on cosine all velocities point along z, and away from it for those that lie beyond it."""
    told = run(PAGE, page(), "move away from z", slip=slip)
    shares = {tuple(line.split()[:4:3]): numbers(line)[-1] for line in told.splitlines()}
    beyond = 50 * math.erfc(math.sqrt(0.5) / math.sqrt(2))
    judge(abs(shares["cosine", "0.0:"] - beyond) + shares["linear", "0.2:"], slip, 2.0, 4.0)


@with_slips(
    (".sum(1).mean().sqrt()\n", ".sum(1).mean()\n"), ("(one - other).square().sum(1)", "(one - other).square()")
)
def test_how_far_apart_trained_fields_end(slip: Slip) -> None:
    """Fields that end where they are told to, from anywhere."""
    ends = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([0.3, 0.4]), "c": torch.tensor([3.0, 4.0])}
    known = page(small_base=StandardNormal(2), small_board=StandardNormal(2))
    known["follow"] = lambda name, x0, **how: (torch.zeros_like(x0), None)
    history = type("History", (), {"losses": torch.ones(5)})
    known["trained"] = {name: (lambda t, x, z=z: (z - x) / (1 - t), history) for name, z in ends.items()}
    known["metrics"] = type("Metrics", (), {"kl": lambda *args, **how: "no"})
    told = run(PAGE, known, "between two trained fields", ("randn(1000", "randn(20"), slip=slip).splitlines()
    off = [numbers(line)[-1] for line in told[2:5]]
    apart = [numbers(line) for line in told[-3:]]
    wanted = [[(one - other).norm().item() for other in ends.values()] for one in ends.values()]
    gaps = [a - b for a, b in zip(off, wanted[0], strict=True)]
    gaps += [a - b for row, right in zip(apart, wanted, strict=True) for a, b in zip(row, right, strict=True)]
    judge(max(map(abs, gaps)), slip, 2e-3, 0.1)


@with_slips(("abs(gap) + 2 * e", "gap + 2 * e"), ("+ 2 * e", ""), ("min(good", "max(good"))
def test_the_first_evaluations_that_are_enough(slip: Slip) -> None:
    """Too little counts like too much, and two standard errors count."""
    rows = [(-0.5, 0.001, 10), (0.015, 0.004, 20), (0.019, 0.0001, 30), (0.0, 0.0001, 40)]
    known = page(tried={"euler": 0}, nats={(name, "euler"): rows for name in ("linear", "cosine", "VP")})
    last = run(PAGE, known, "the first of these", slip=slip).splitlines()[-1]
    judge(sum(abs(n - 30) for n in numbers(last)), slip, 0.5, 1.0)


@with_slips(
    ("values.std() / len(values) ** 0.5", "values.std() / len(values)"),
    ("values.std(1) / values.shape[1] ** 0.5", "values.std(1)"),
)
def test_the_errors_of_the_long_study_are_those_of_a_mean(slip: Slip) -> None:
    known = page(look=dict.fromkeys(start()["schedules"], "k"))
    table = run(PAGE, known, "def over", slip=slip).splitlines()
    run(PAGE, known, "learning, sampling", slip=slip)
    linear = known["study"]["rows"][0]
    kl = torch.tensor(linear["kl"], dtype=F64)
    error = (kl - kl.mean(0)).square().sum(0).div(len(kl) - 1).sqrt() / math.sqrt(len(kl))
    off = abs(numbers(table[2][24:])[3] - error[-1].item()) / 1e-3
    (bars,) = known["learning"].containers[0].lines[2]
    heights = torch.tensor([bar[1][1] - bar[0][1] for bar in bars.get_segments()])
    off += 10 * (heights / 2 / error - 1).abs().max().item() if len(heights) == len(error) else 9
    judge(off, slip, 0.6, 0.7)


@with_slips(
    ("evals['cosine'] / first", "evals['cosine']"),
    ("evals[names[0]]", "evals[names[1]]"),
    ("over(own[name])", "over(row['kl'])"),
)
def test_the_tables_of_evaluations_and_of_waves(slip: Slip) -> None:
    """From the rows by their names; what is divided by is conditional OT."""
    known = page(look=dict.fromkeys(start()["schedules"], "k"))
    run(PAGE, known, "def over")
    run(PAGE, known, "learning, sampling")
    told = run(PAGE, known, "as multiples of conditional OT", slip=slip)
    told += run(PAGE, known, "KL after the last step", slip=slip)
    nfe = {row["what"]: sum(row["nfe"]) for row in known["study"]["rows"]}
    linear = nfe["linear (conditional OT)"]
    line = next(line for line in told.splitlines() if line.startswith("cosine"))
    off = abs(numbers(line[26:])[0] - nfe["cosine"] / linear)
    waves = [numbers(line[26:]) for line in told.splitlines() if "±" in line]
    rights = {row["what"]: row["kl"] for row in known["study"]["damping"]}
    for name, found in zip(("cosine", "VP", "VE"), waves, strict=True):
        for kl, at in ((rights[name], 0), (rights[f"{name}, waves damped by 1 - t"], 2)):
            off += abs(found[at] - sum(kl) / len(kl))
    judge(off, slip, 0.01, 0.02)


def test_the_published_ratios_are_quotients_of_their_rows() -> None:
    """And the long study divides by the same numbers."""
    text = (BOOK / f"{PAGE}.md").read_text()
    rows = re.findall(r"^\| .*\| (\d+) \| (\d+) \| (\d\.\d\d) \|$", text, re.M)
    assert rows == [("142", "183", "1.29"), ("122", "193", "1.58"), ("146", "526", "3.60")]
    assert all(abs(int(b) / int(a) - float(told)) < 0.005 for a, b, told in rows)
    assert "(183 / 142, 193 / 122)" in text
    assert "(242 / 142, 178 / 122)" in text
