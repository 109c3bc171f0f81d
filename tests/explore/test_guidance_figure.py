"""The figure of chapter 9: its script follows the guided flow as the package does, and its gap is the true one."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from importlib import resources
from typing import Any

import pytest
import torch
from drawn import HEIGHT, WIDTH, drawn
from pages import RIGHT, Slip, judge, with_slips
from torch import Tensor

from fmtutor import AffinePath, ContinuousFlow, GaussianMixture, StandardNormal, explore, guide, solve

F64 = torch.float64
MEANS = torch.tensor([[1.2, 0.4], [0.2, 1.3], [-1.3, 0.6], [-0.6, -1.2], [1.0, -1.0]])
LABELS, WEIGHTS = torch.tensor([1, 1, 0, 2, 2]), torch.tensor([0.2, 0.3, 0.2, 0.2, 0.1])


@cache
def figure() -> Any:
    return explore.guidance(MEANS, LABELS, label=1, weights=WEIGHTS, start=(2.0, 0.2, 0.9))


def in_node(expression: str, slip: Slip = RIGHT) -> Any:
    """What the script's functions answer, with the page's own numbers; spoiled, to see that it is noticed."""
    node = shutil.which("node") or pytest.skip("no node here")
    script = resources.files("fmtutor.explore").joinpath("guidance_math.js").read_text()
    assert slip[0] in script
    script = script.replace(*slip) if slip[0] else script
    program = f"const d = {json.dumps(figure().data())};\n{script}\nconsole.log(JSON.stringify({expression}))"
    return json.loads(subprocess.run([node], input=program, capture_output=True, text=True, check=True).stdout)


def mixtures() -> tuple[GaussianMixture, GaussianMixture]:
    """All bumps, and those of the label asked for, made here."""
    everything = GaussianMixture(MEANS.double(), 0.45, WEIGHTS.double())
    return everything, GaussianMixture(MEANS[:2].double(), 0.45, WEIGHTS[:2].double())


def field(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    free, asked = (AffinePath().marginal_velocity(t, x, target) for target in mixtures())
    return torch.where(label[:, None] == 1, asked, free)


def guided(weight: float, first: float, last: float) -> Any:
    return guide(field, 1, weight, null=0, interval=(first, last))


def tilted_log_prob(weight: float, x: Tensor) -> Tensor:
    everything, asked = mixtures()
    return weight * asked.log_prob(x) + (1 - weight) * everything.log_prob(x)


@with_slips(
    ("(t * scale ** 2 - (1 - t))", "(t * scale ** 2 + (1 - t))"),
    ("b = 1 - a * t", "b = 1 - a"),
    ("2 * a + ", "a + "),
    ("- mx ** 2 - my ** 2", ""),
    ("(1 - t) ** 2, away", "(1 - t), away"),
    ("Math.log(total / (2 * Math.PI * variance))", "Math.log(total)"),
)
def test_the_field_its_divergence_and_the_density(slip: Slip) -> None:
    """By the package's own field, by autograd, and by the density of the noised mixture."""
    path, (everything, asked) = AffinePath(), mixtures()
    grid = [(t, x, y) for t in (0.0, 0.3, 0.8, 0.99) for x, y in ((0.1, -0.4), (2.0, 1.0), (-1.5, 0.3))]
    told = in_node(f"{json.dumps(grid)}.map(([t, x, y]) => [look(d.all, t, x, y), look(d.asked, t, x, y)])", slip)
    off = 0.0
    for (t, x, y), rows in zip(grid, told, strict=True):
        at = torch.tensor([[x, y]], dtype=F64)
        for row, target in zip(rows, (everything, asked), strict=True):
            u = path.marginal_velocity(t, at, target)[0]
            jacobian = torch.func.jacrev(lambda z, t=t, p=target: path.marginal_velocity(t, z[None], p)[0])(at[0])
            wanted = torch.stack([*u, jacobian.trace(), path.marginal_log_prob(t, at, target)[0]])
            off = max(off, (torch.tensor(row, dtype=F64) - wanted).abs().max().item())
    judge(off, slip, 1e-8, 1e-2)


AT = [(0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (3.0, 0.0, 1.0), (5.0, 0.35, 0.8), (2.0, 0.0, 0.4), (2.0, 0.5, 1.0)]


@with_slips(
    ("(1 - w) * value + w * asked[i]", "w * value + (1 - w) * asked[i]"),
    ("k2[i] - k1[i] / 3", "k2[i]"),
    ("k1[i] - k2[i] + k3[i]", "k3[i]"),
    ("log - div", "log + div"),
    ("[[0, first, plain], [first, last, guided], [last, 1, plain]]", "[[0, 1, guided]]"),
    ("- Math.log(2 * Math.PI)]]", "]]"),
)
def test_the_script_follows_the_guided_flow(slip: Slip) -> None:
    """Against three times the steps: places to 1e-4, and the density by ContinuousFlow, which looks for itself."""
    off = 0.0
    few = figure().noise[::40]
    asked = "[...Array(10).keys()].map((i) => d.noise[40 * i])"
    for weight, first, last in AT if slip == RIGHT else [(3.0, 0.0, 1.0), (5.0, 0.35, 0.8)]:
        told = in_node(f"{asked}.map((p) => follow(d, {weight}, {first}, {last}, p).at(-1))", slip)
        told = torch.tensor(told, dtype=F64)
        times = sorted({0.0, first, min(last, 1 - 1e-9), 1 - 1e-9})
        exact = guided(weight, first, last)
        ends = solve(exact, few, times=times, method="rk4", steps=60).x
        off = max(off, (told[:, :2] - ends).abs().max().item())
        if (first, last) == (0.0, 1.0):  # a density asks for steps that do not know of the jumps
            flow = ContinuousFlow(exact, StandardNormal(2).to(F64), t1=1 - 1e-9, method="rk4", steps=60)
            off = max(off, (told[:, 2] - flow.log_prob(ends)).abs().max().item() / 10)
    judge(off, slip, 1e-4, 1e-3)


def test_the_script_and_the_package_take_the_same_steps() -> None:
    """Then they agree to rounding, places and densities, inside and outside of the interval."""
    for weight, first, last in (*AT, (3.0, 0.7, 0.2), (3.0, 0.4, 0.4), (2.0, 1.0, 1.0)):
        told = torch.tensor(in_node(f"d.noise.map((p) => follow(d, {weight}, {first}, {last}, p))"), dtype=F64)
        states, log_prob = figure().ways(weight, first, last)
        assert (told[..., :2].transpose(0, 1) - states).abs().max() < 1e-6
        assert (told[:, -1, 2] - log_prob).abs().max() < 1e-6


@with_slips(
    ("top + Math.log(total * cell)", "top + Math.log(total)"),
    ("w * a + (1 - w) * all[i]", "a"),
    ("end[2] - tilted(end)", "tilted(end) - end[2]"),
    ("size - 1), grid", "size), grid"),
    ("grid.y.push(-place(j))", "grid.y.push(place(j) / 2)"),
)
def test_the_gap_and_the_spread_are_the_true_ones(slip: Slip) -> None:
    """The gap by 4 000 random points, the integral and the spread by another grid, to what the words below it say."""
    generator, off = torch.Generator().manual_seed(0), 0.0
    line = torch.linspace(-5, 5, 301, dtype=F64)
    places = torch.cartesian_prod(line, line)
    for weight in (0.5, 3.0):
        law = f"tilt(logGrid(d, 96), {weight})"
        follow = f"d.noise.map((p) => follow(d, {weight}, 0, 1, p).at(-1))"
        total, spread, nats, cloud = in_node(
            f"((law, ends) => [law.logTotal, law.spread, gap(d, {weight}, ends, law.logTotal), spreadOf(ends)])"
            f"({law}, {follow})",
            slip,
        )
        logs = tilted_log_prob(weight, places)
        log_total = logs.logsumexp(0) + 2 * torch.log(line[1] - line[0])
        share = torch.softmax(logs, 0)[:, None]
        mean = (share * places).sum(0)
        x0 = torch.randn(4000, 2, dtype=F64, generator=generator)
        exact = guided(weight, 0.0, 1.0)
        flow = ContinuousFlow(exact, StandardNormal(2).to(F64), t1=1 - 1e-9, method="rk4", steps=12)
        ends = solve(exact, x0, t1=1 - 1e-9, method="rk4", steps=12).x
        each = flow.log_prob(ends) - tilted_log_prob(weight, ends) + log_total
        off = max(off, abs(total - log_total.item()))
        off = max(off, abs(spread - (share * (places - mean).square()).sum().sqrt().item()))
        off = max(off, abs(nats - each.mean().item()) - 4 * each.std().item() / 4000**0.5)
        off = max(off, abs(cloud - (ends - ends.mean(0)).square().sum(1).mean().sqrt().item()) - 0.03)
    judge(off, slip, 0.01, 0.02)


def test_the_gap_closes_where_it_must_and_nowhere_else() -> None:
    shown = figure()
    gaps = {w: shown.gap(w) for w in (0.0, 0.5, 1.0, 2.0, 5.0)}
    assert max(abs(gaps[0.0]), abs(gaps[1.0])) < 2e-3
    assert min(gaps[0.5], gaps[2.0]) > 0.05
    assert gaps[5.0] > 2 * gaps[2.0]
    assert shown.gap(1.0, 0.3, 0.6) == pytest.approx(0, abs=2e-3)


START = {"weight": 3.0, "first": 0.2, "last": 0.9}


@cache
def page() -> str:
    return figure().html()


@with_slips(
    ("height / 2 - y * scale", "height / 2 + y * scale"),
    ("const [x, y] = way[way.length - 1];", "const [x, y] = way[0];"),
    ("ring(asked, ASKED, 2.5)", "ring(all, ASKED, 2.5)"),
    ("230 * p", "230 * (1 - p)"),
)
def test_what_is_drawn(slip: Slip) -> None:
    shown, log = figure(), drawn(page(), START, slip=slip)["log"]
    scale = HEIGHT / 2 / shown.limit
    place = lambda way: (torch.tensor(way) - torch.tensor([WIDTH / 2, HEIGHT / 2])) / scale * torch.tensor([1, -1])  # noqa: E731
    on = [act for act in log if act["where"] == "plane"]
    states, _ = shown.ways(3.0, 0.2, 0.9)
    dots = torch.cat([place(act["way"]) for act in on if act["what"] == "fill"])
    off = (dots - states[-1]).abs().max().item()
    rings = [act for act in on if act["what"] == "stroke" and len(act["way"]) == 1]
    lines = [act for act in on if act["what"] == "stroke" and len(act["way"]) > 1]
    centres = torch.cat([MEANS, MEANS[:2]])
    coloured = [act["colour"] for act in rings].count("#E69F00")
    off += abs(coloured - 2) or (torch.cat([place(act["way"]) for act in rings]) - centres).abs().max().item()
    picked = states[:, [int((i + 0.5) * 400 / 24) for i in range(24)]]
    off = max(off, (torch.stack([place(act["way"]) for act in lines], 1) - picked).abs().max().item())
    (image,) = [act for act in log if act["what"] == "image"]
    opacity = torch.tensor(image["pixels"]).reshape(96, 96, 4)[..., 3].double() / 230
    logs, _ = shown.tilted(3.0)
    off = max(off, (opacity - (logs - logs.max()).exp()).abs().max().item() - 0.01)
    judge(off, slip, 1e-3, 0.05)


def test_the_words_beside_it() -> None:
    shown = figure()
    said = drawn(page(), START)["said"]
    ends = shown.ways(3.0, 0.2, 0.9)[0][-1]
    assert float(said["gap"]) == pytest.approx(shown.gap(3.0, 0.2, 0.9), abs=0.0051)
    spread = (ends - ends.mean(0)).square().sum(1).mean().sqrt().item()
    assert float(said["flow-spread"]) == pytest.approx(spread, abs=0.0051)
    assert (said["weight-readout"], said["first-readout"], said["last-readout"]) == ("3.00", "0.20", "0.90")
    assert said["said"].startswith("Gap: ")
    assert drawn(page(), {**START, "last": 0.1})["said"]["said"].startswith("Nothing is guided")


def test_without_scripts_the_numbers_are_there_in_words() -> None:
    """Weight, both spreads and the gap, in the words under the picture, in its title and in its description."""
    shown = figure()
    still = page()[page().index("<noscript>") : page().index("</noscript>")]
    states, law = shown.ways(3.0, 0.5, 1.0)[0], in_node("tilt(logGrid(d, 96), 3).spread")
    spread = (states[-1] - states[-1].mean(0)).square().sum(1).mean().sqrt()
    gap = f"gap from flow to tilted {shown.gap(3.0, 0.5, 1.0):.2f} nats"
    line = f"weight 3, guided from t = 0.5 until 1: spread {spread:.2f}, tilted {law:.2f}; {gap}"
    assert line in still
    assert f"weight 1, guided from t = 0 until 1: spread {shown.tilted_spread(1.0):.2f}" in still
    assert shown.words(2.0, 0.2, 0.9) in still.split("<p>")[0]  # the description of the picture
    assert shown.draw(**START).get_suptitle() == shown.words(3.0, 0.2, 0.9)
    assert "nothing is guided" in shown.words(3.0, 0.5, 0.5)
    for word in ("weight 2", "5 rings", "2 of them", "gap from flow to tilted"):
        assert word in shown.alt


def test_the_figure_in_jupyter() -> None:
    shown = figure()
    plane, tilted = shown.draw(**START).axes
    states, _ = shown.ways(3.0, 0.2, 0.9)
    assert torch.allclose(torch.as_tensor(plane.collections[0].get_offsets().data), states[-1])
    assert len(plane.lines) == 24
    assert torch.allclose(torch.as_tensor(plane.lines[0].get_xydata()), states[:, int(0.5 * 400 / 24)])
    logs, _ = shown.tilted(3.0)
    opacity = torch.as_tensor(tilted.images[0].get_alpha())
    assert torch.allclose(opacity, 0.9 * (logs - logs.max()).exp())
    row, column = divmod(int(logs.argmax()), 96)
    assert row < 48 < column  # upright: the class is at the upper right
    picture, controls = shown.widget().children
    first, controls.children[0].value = picture.value, 4.0
    assert picture.value != first


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: explore.guidance(MEANS[:, :1], LABELS, 1), ValueError, r"means must have shape \(k, 2\)"),
        (lambda: explore.guidance(MEANS[:1], LABELS[:1], 1), ValueError, "2 to 12 rows"),
        (lambda: explore.guidance(MEANS, LABELS.float(), 1), TypeError, "labels must be a tensor of whole numbers"),
        (lambda: explore.guidance(MEANS, LABELS[:3], 1), ValueError, "labels and weights must be 5"),
        (lambda: explore.guidance(MEANS, LABELS, 1, weights=torch.ones(3)), ValueError, "labels and weights must be 5"),
        (lambda: explore.guidance(MEANS, LABELS, 7), ValueError, "label must be that of some bumps"),
        (lambda: explore.guidance(MEANS, torch.ones(5).long(), 1), ValueError, "and not of all"),
        (lambda: explore.guidance(MEANS, LABELS, 1, scale=0.0), ValueError, "scale must be above 0"),
        (lambda: explore.guidance(MEANS, LABELS, 1, start=(6.0, 0.0, 1.0)), ValueError, "start must be"),
        (lambda: explore.guidance(MEANS, LABELS, 1, start=(2.0, 0.0)), ValueError, "start must be"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_it_is_light() -> None:
    assert len(page()) < 80_000
