"""What the figures of chapters 5 and 6 draw and write, on a page and in Jupyter, against the package."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from drawn import HEIGHT, WIDTH, drawn
from pages import Slip, judge, with_slips
from test_explore import runs
from test_samplers import figure, in_node
from torch import Tensor

from fmtutor import diffusion, explore

F64 = torch.float64
AT = {"noise": 2.0, "eta": 0.5, "looks": 8, "start": 0.4}


# The samplers of chapter 6


@cache
def samplers_page() -> str:
    return figure().html()


@pytest.fixture(scope="module")
def shakes() -> dict[str, Tensor]:
    """The script's own numbers: of its one point, and of its crowd, `(steps, points)`."""
    names = ("one", "redraws", "many", "many redraws")
    rows = "[[6], [7], d.crowd.map((_, i) => 1000 + i), d.crowd.map((_, i) => 9000 + i)]"
    told = in_node(f"{rows}.map((seeds) => seeds.map((s) => [...normals(100, s)]))")
    return {name: torch.tensor(row, dtype=F64).T for name, row in zip(names, told, strict=True)}


def ways(noise: Tensor, redraws: Tensor, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """By the package, with these numbers for its noise."""
    shown, times = figure(), torch.linspace(0, 1, 101, dtype=F64)
    left: Iterator[Tensor] = iter(())
    monkeypatch.setattr(diffusion, "_normal_like", lambda x, generator: next(left)[:, None])
    found = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        left = iter(noise)
        found[f"g {share}"] = diffusion.solve_sde(
            shown.velocity, shown.path, x, noise=share * AT["noise"], times=times, steps=100
        ).states
    for eta in (0.0, AT["eta"]):
        left = iter(redraws)
        found[f"eta {eta}"] = diffusion.ancestral(shown.guess, shown.path, x, steps=AT["looks"], eta=eta).states
    return {name: states[..., 0] for name, states in found.items()}


COLOURS = [("#2E8BC9", 0.7), ("#2E8BC9", 0.85), ("#2E8BC9", 1), ("#009E73", 1), ("#CC79A7", 0.8), ("#D55E00", 0.8)]
DRAWN = ["g 0.25", "g 0.5", "g 1.0", "g 0.0", "eta 0.5", "eta 0.0"]


@with_slips(
    ("[g / 4, g / 2, g]", "[g, g / 2, g / 4]"),
    ("X(k / (line.length - 1)), Y(x)))", "X(k / line.length), Y(x)))"),
    ("((limit - x) / (2 * limit))", "((limit + x) / (2 * limit))"),
    ("redrawn(bumps, x, eta, n, redraws)", "redrawn(bumps, x, eta, n, shakes)"),
    ("[0.7, 0.85, 1][i]", "[1, 0.85, 0.7][i]"),
)
def test_the_six_lines(shakes: dict[str, Tensor], slip: Slip, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [act for act in drawn(samplers_page(), AT, slip=slip)["log"] if act["what"] == "stroke"]
    right = ways(shakes["one"], shakes["redraws"], torch.tensor([[AT["start"]]], dtype=F64), monkeypatch)
    assert len(lines) == 6
    off, limit = 0.0, figure().limit
    for line, name, look in zip(lines, DRAWN, COLOURS, strict=True):
        across, down = torch.tensor(line["way"], dtype=F64).T
        time, x = (across - 34) / (WIDTH - 48), limit - 2 * limit * (down - 10) / (HEIGHT - 46)
        off = max(off, (x - right[name][:, 0]).abs().max().item(), float((line["colour"], line["alpha"]) != look))
        off = max(off, (time - torch.linspace(0, 1, len(time), dtype=F64)).abs().max().item())
    judge(off, slip, 1e-6, 5e-3)


@with_slips(
    ("shaken(bumps, x, g, w)", "shaken(bumps, x, g / 2, w)"),
    ("off((x) => redrawn(bumps, x, 0, n", "off((x) => redrawn(bumps, x, eta, n"),
    ("off((x, _, w) => redrawn(bumps, x, eta, n, w))", "off((x, w) => redrawn(bumps, x, eta, n, w))"),
    ("last(sde[2])", "last(sde[0])"),
)
def test_the_table_of_the_samplers(shakes: dict[str, Tensor], slip: Slip, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, said = figure(), drawn(samplers_page(), AT, slip=slip)["said"]
    start = torch.tensor([[AT["start"]]], dtype=F64)
    one = ways(shakes["one"], shakes["redraws"], start, monkeypatch)
    crowd = torch.tensor(shown.data()["crowd"], dtype=F64)[:, None]
    many = ways(shakes["many"], shakes["many redraws"], crowd, monkeypatch)
    steps, off = torch.arange(401, dtype=F64) / 400, 0.0
    for row, name in (("ode", "g 0.0"), ("sde", "g 1.0"), ("ddim", "eta 0.0"), ("ancestral", "eta 0.5")):
        ends = many[name][-1].sort().values
        below = torch.special.ndtr((ends[:, None] - shown.target.means[:, 0]) / 0.15) @ shown.target.weights.double()
        gap = torch.maximum((below - steps[1:]).abs(), (below - steps[:-1]).abs()).max().item()
        off = max(off, 10 * abs(float(said[f"{row}-gap"]) - gap))
        off = max(off, abs(float(said[f"{row}-end"].replace("−", "-")) - one[name][-1].item()))
        assert said[f"{row}-looks"] == str(8 if "eta" in name else 100)
    judge(off, slip, 0.0051, 0.0055)


@with_slips(
    ("4 * (j * size + i)", "4 * (i * size + j)"), ("Math.sqrt(p / top)", "p / top"), ("(1 - t) + [230", "t + [230")
)
def test_the_density_behind_the_samplers(slip: Slip) -> None:
    """Each column by its own maximum, faint as a root; noise blue on the left."""
    (image,) = [act for act in drawn(samplers_page(), AT, slip=slip)["log"] if act["what"] == "image"]
    pixels, shown = torch.tensor(image["pixels"]).view(160, 160, 4), figure()
    x = shown.limit * (1 - 2 * (torch.arange(160, dtype=F64) + 0.5) / 160)
    off = (pixels[0, 0, :3] - torch.tensor([86, 180, 233])).abs().max().item()
    for i in (0, 60, 120):
        log_p = shown.target.noised_log_prob(x[:, None], i / 159, 1 - i / 159)
        off = max(off, (pixels[:, i, 3] - 105 * (0.5 * (log_p - log_p.max())).exp()).abs().max().item())
    judge(off, slip, 1.0, 5.0)


def test_the_lines_in_jupyter_are_those_of_the_package() -> None:
    shown, x = figure(), torch.tensor([[AT["start"]]], dtype=F64)
    ax = shown.draw(**AT).axes[0]
    draw = lambda: torch.Generator().manual_seed(6)  # noqa: E731
    times = torch.linspace(0, 1, 101, dtype=F64)
    wanted = [
        diffusion.solve_sde(shown.velocity, shown.path, x, noise=g, times=times, steps=100, generator=draw()).states
        for g in (0.0, 0.5, 1.0, 2.0)
    ]
    wanted += [
        diffusion.ancestral(shown.guess, shown.path, x, steps=8, eta=e, generator=draw()).states for e in (0, 0.5)
    ]
    assert [line.get_alpha() for line in ax.lines] == pytest.approx([1, 0.7, 0.85, 1, 1, 1])
    for line, states in zip(ax.lines, wanted, strict=True):
        assert line.get_ydata().tolist() == pytest.approx(states.flatten().tolist())
        assert line.get_xdata().tolist() == pytest.approx(torch.linspace(0, 1, len(states)).tolist(), abs=1e-6)
    image = torch.as_tensor(ax.images[0].get_array())[..., 3]
    assert image.amax(0).tolist() == pytest.approx([0.4] * 120, abs=2e-3)  # each column by its own maximum
    assert image.amin() < 1e-4


# The solvers of chapter 5

MADE, REFERENCE = runs()
CHOSEN = {"path": 1, "method": 1, "slider": 2}  # VP & co, rk4, four steps


@cache
def solvers() -> Any:
    return explore.solvers(MADE, REFERENCE)


@cache
def solvers_page() -> str:
    return solvers().html()


@with_slips(
    ("first + n * each + 2 * i", "first + 2 * n + 2 * i"),
    ("height / 2 - y * scale", "height / 2 + y * scale"),
    ("palette[shades[i]]", "palette[shades[0]]"),
    ("2 * count * run + i", "2 * count * (run + 1) + i"),
    ("<= data.ring", "> data.ring"),
    ("unit * goals[2 * i] + reach", "unit * goals[0] + reach"),
    ("Math.abs(x) * scale - width / 2", "Math.abs(x) * scale - height / 4"),
)
def test_the_points_of_a_run_and_their_ways(slip: Slip) -> None:
    shown, states = solvers(), MADE["VP & co"]["rk4"][2]
    log = [act for act in drawn(solvers_page(), CHOSEN, slip=slip)["log"] if act["where"] == "plane"]
    scale = HEIGHT / 2 / shown.limit
    place = lambda way: (torch.tensor(way) - torch.tensor([WIDTH / 2, HEIGHT / 2])) / scale * torch.tensor([1, -1])  # noqa: E731
    strokes = [place(act["way"]) for act in log if act["what"] == "stroke"]
    lines, rings = strokes[:32], strokes[32:]
    dots = [act for act in log if act["what"] == "fill"]
    assert (len(lines), len(dots)) == (32, 40)
    off = max((line - states[:, i]).abs().max().item() for i, line in enumerate(lines))
    off = max(off, (place([act["way"][0] for act in dots]) - states[-1]).abs().max().item())
    told = shown.data()
    bins = b64decode(told["shades"])
    far = states[-1][(states[-1] - REFERENCE).norm(dim=1) > 0.5]
    off += abs(len(rings) - len(far)) or (torch.cat(rings) - far).abs().max().item()
    beyond = (states[-1].abs() > shown.limit * torch.tensor([WIDTH / HEIGHT, 1])).any(1).sum()
    told_so = [act["text"] for act in log if act["what"] == "text"]
    off += told_so != ([f"{beyond} of 40 points outside the picture"] if beyond else [])
    off += sum(act["colour"] != f"rgba({told['palette'][b]}, .85)" for act, b in zip(dots, bins, strict=True))
    judge(off, slip, 1e-3, 0.05)


@with_slips(
    ("lineTo(X(looks[m] * steps[i]), Y(e))", "lineTo(X(steps[i]), Y(e))"),
    ("arc(X(looks[method] * steps[k])", "arc(X(steps[k])"),
    ("errors[path][m].forEach", "errors[0][m].forEach"),
    ("line(method)", "line(0)"),
    ("Math.ceil(Math.log10(every", "Math.floor(Math.log10(every"),
)
def test_the_chart_of_errors(slip: Slip) -> None:
    """For each solver a line over its evaluations, then the chosen one in colour with a dot."""
    log = [act for act in drawn(solvers_page(), CHOSEN, slip=slip)["log"] if act["where"] == "chart"]
    lines = [act for act in log if act["what"] == "stroke"][-4:]
    (dot,) = [act for act in log if act["what"] == "fill"]
    errors = [solvers().error(states) for states in solvers().each()]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))  # there is room for all
    looks, steps, off = [1, 4, 2], torch.tensor([1, 2, 4, 64]), 0.0

    def back(way: list[list[float]]) -> tuple[Tensor, Tensor]:
        across, down = torch.tensor(way, dtype=F64).T
        evaluations = ((across - 54) / (WIDTH - 118) * math.log(256)).exp()
        return evaluations, 10.0 ** (low + (HEIGHT - 38 - down) / (HEIGHT - 64) * (high - low))

    for line, m in zip([*lines, dot], (0, 1, 2, 1, 1), strict=True):
        evaluations, errors = back(line["way"])
        ends = torch.stack([states[-1] for states in list(MADE["VP & co"].values())[m]])
        wanted = (ends - REFERENCE).square().sum(-1).mean(-1).sqrt().double()
        if line is dot:
            wanted, steps = wanted[2:3], steps[2:3]
        off = max(
            off, (evaluations / (looks[m] * steps) - 1).abs().max().item(), (errors / wanted - 1).abs().max().item()
        )
    judge(off, slip, 2e-3, 0.05)


@with_slips(
    ("looks[method] * n} $", "n} $"),
    ("errors[path][method][k];", "errors[path][0][k];"),
    ("n = steps[k];", "n = k;"),
)
def test_the_words_below_the_solvers(slip: Slip) -> None:
    states = MADE["VP & co"]["rk4"][2]
    error = (states[-1] - REFERENCE).square().sum(1).mean().sqrt().item()
    told = drawn(solvers_page(), CHOSEN, slip=slip)["said"]["said"]
    words, _, number = told.rpartition(" ")
    assert (words == "VP & co, rk4: 4 steps, 16 evaluations, rms error" and abs(float(number) - error) < 2e-3) is (
        slip == ("", "")
    )


def test_the_solvers_in_jupyter() -> None:
    states = MADE["VP & co"]["rk4"][1]
    plane, chart = solvers().draw(path="VP & co", method="rk4", steps=2).axes
    assert torch.allclose(torch.as_tensor(plane.collections[0].get_offsets().data), states[-1].double(), atol=1e-5)
    assert len(plane.lines) == 32
    for i, line in enumerate(plane.lines):
        assert torch.allclose(torch.as_tensor(line.get_xydata()), states[:, i].double(), atol=1e-5)
    for line, looks in zip(chart.lines, (1, 4, 2), strict=False):
        assert line.get_xdata().tolist() == [looks * n for n in (1, 2, 4, 64)]
    error = (states[-1] - REFERENCE).square().sum(1).mean().sqrt().item()
    assert chart.lines[3].get_xydata()[0].tolist() == pytest.approx([8, error])
    assert f"{error:.3g}" in chart.get_title()
