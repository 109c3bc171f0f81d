"""The figure of chapter 6: what its script draws is what `solve_sde`, `ancestral` and the exact field say."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from typing import Any

import pytest
import torch
from torch import Tensor

from fmtutor import diffusion, explore, solve

PLACES, WEIGHTS = torch.tensor([-1.5, 0.5, 2.0]), torch.tensor([0.2, 0.5, 0.3])
F64 = torch.float64


def figure() -> Any:
    return explore.samplers(PLACES, weights=WEIGHTS, scale=0.15)


def in_node(expression: str, spoil: tuple[str, str] = ("", "")) -> Any:
    """What a function of the script answers, with the page's own numbers; spoiled, to see that it is noticed."""
    node = shutil.which("node") or pytest.skip("no node here")
    script = resources.files("fmtutor.explore").joinpath("samplers_math.js").read_text()
    assert spoil[0] in script
    script = script.replace(*spoil) if spoil[0] else script
    program = (
        f"const d = {json.dumps(figure().data())}, b = d.bumps;\n{script}\nconsole.log(JSON.stringify({expression}))"
    )
    return json.loads(subprocess.run([node], input=program, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the package's samplers the script's own noise."""

    def give(shakes: list[float]) -> None:
        left = iter(shakes)
        monkeypatch.setattr(diffusion, "_normal_like", lambda x, generator: torch.full_like(x, next(left)))

    return give


def start(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=F64)


def off_shaken(replay: Any, g: float, spoil: tuple[str, str] = ("", "")) -> float:
    shakes = in_node("[...normals(40, 3)]")
    told = in_node(f"shaken(b, 0.7, {g}, normals(40, 3))", spoil)
    replay(shakes)
    shown = figure()
    times = torch.linspace(0, 1, 41, dtype=F64)
    ours = diffusion.solve_sde(shown.velocity, shown.path, start(0.7), noise=g, times=times, steps=40).states
    return float((torch.tensor(told, dtype=F64) - ours.flatten()).abs().max())


def off_redrawn(replay: Any, eta: float, spoil: tuple[str, str] = ("", "")) -> float:
    shakes = in_node("[...normals(9, 5)]")
    told = in_node(f"redrawn(b, -0.4, {eta}, 9, normals(9, 5))", spoil)
    replay(shakes)
    shown = figure()
    ours = diffusion.ancestral(shown.guess, shown.path, start(-0.4), steps=9, eta=eta).states
    return float((torch.tensor(told, dtype=F64) - ours.flatten()).abs().max())


@pytest.mark.parametrize("g", [0.0, 0.5, 3.0])
def test_the_script_shakes_as_solve_sde(replay: Any, g: float) -> None:
    assert off_shaken(replay, g) < 1e-9


@pytest.mark.parametrize(
    "spoil",
    [
        ("0.5 * noise ** 2 * score", "noise ** 2 * score"),
        ("(t * z - x)", "(x - t * z)"),
        ("Math.sqrt(h) * shakes[k]", "h * shakes[k]"),
        ("Math.min(g,", "Math.max(g,"),
    ],
)
def test_a_spoiled_shake_is_seen(replay: Any, spoil: tuple[str, str]) -> None:
    assert off_shaken(replay, 1.5, spoil) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_script_guesses_the_end_as_ancestral(replay: Any, eta: float) -> None:
    assert off_redrawn(replay, eta) < 1e-9


@pytest.mark.parametrize(
    "spoil",
    [
        ("eta ** 2 * (1 - kept)", "eta * (1 - kept)"),
        ("Math.sqrt(1 - fresh)", "(1 - fresh)"),
        ("(x - s * z) / (1 - s)", "(x - z) / (1 - s)"),
        ("((t * scale ** 2) / variance)", "(scale ** 2 / variance)"),
    ],
)
def test_a_spoiled_guess_is_seen(replay: Any, spoil: tuple[str, str]) -> None:
    assert off_redrawn(replay, 0.5, spoil) > 1e-3


def test_the_gap_and_the_density_are_the_targets() -> None:
    """The gap by scipy, the density by the mixture; a hundred ends of another law are further off."""
    stats = pytest.importorskip("scipy.stats")
    target = figure().target
    x = target.sample((100,), generator=torch.Generator().manual_seed(0)).flatten()
    weights = target.weights.tolist()
    cdf = lambda v: sum(w * stats.norm.cdf(v, m, 0.15) for w, m in zip(weights, PLACES.tolist(), strict=True))  # noqa: E731
    told = in_node(f"[{x.tolist()}, {(0.9 * x).tolist()}].map((points) => gap(b, points))")
    assert told[0] == pytest.approx(stats.kstest(x.numpy(), cdf).statistic, abs=1e-6)
    assert told[1] > told[0] + 0.05
    places = torch.linspace(-2, 2.5, 9, dtype=F64)
    heights = in_node(f"{places.tolist()}.map((x) => density(b, 0.6, x))")
    exact = target.noised_log_prob(places[:, None], 0.6, 0.4).exp() * (2 * torch.pi) ** 0.5
    assert heights == pytest.approx(exact.tolist(), rel=1e-9)


def test_the_noise_of_the_script_is_normal_and_repeats() -> None:
    stats = pytest.importorskip("scipy.stats")
    one, again, other = in_node("[normals(4000, 6), normals(4000, 6), normals(4000, 7)].map((row) => [...row])")
    assert one == again
    assert one != other
    assert stats.kstest(one, "norm").pvalue > 1e-4
    assert abs(stats.pearsonr(one, other)[0]) < 0.08
    assert abs(stats.pearsonr(one[1:], one[:-1])[0]) < 0.08


def test_the_python_face_follows_the_exact_field() -> None:
    """Without noise the SDE is the ODE, up to Euler's error, and so is DDIM with many guesses."""
    shown, x = figure(), torch.tensor([[-1.0], [0.4], [1.2]], dtype=F64)
    ways = shown.ways(noise=0.0, eta=0.0, looks=50, start=x)
    exact = solve(shown.velocity, x, t1=1 - 1e-9, method="rk4", steps=400).x
    for name in ("ode", "ddim", "ancestral"):
        assert (ways[name][0][-1] - exact).abs().max() < 0.1
    assert all(torch.equal(line, ways["ode"][0]) for line in ways["sde"])
    shaken = shown.ways(noise=2.0, eta=1.0, looks=50, start=x)
    assert (shaken["sde"][2][-1] - exact).abs().max() > 0.1
    assert torch.equal(shaken["ddim"][0], ways["ddim"][0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explore.samplers(torch.tensor([1.0])), "2 to 12"),
        (lambda: explore.samplers(PLACES, weights=torch.ones(2)), "weights"),
        (lambda: explore.samplers(PLACES, scale=0.0), "scale"),
        (lambda: explore.samplers(PLACES, start=(4.0, 1.0, 8, 0.0)), "start"),
        (lambda: explore.samplers(PLACES, start=(1.0, 1.0, 0, 0.0)), "start"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_it_is_light() -> None:
    assert len(figure().html()) < 80_000


def gap(ends: Tensor) -> float:
    x, target = ends.flatten().sort().values, figure().target
    share = torch.special.ndtr((x[:, None] - target.means[:, 0]) / target.scale) @ target.weights
    steps = torch.arange(len(x) + 1) / len(x)
    return float(torch.maximum(share - steps[:-1], steps[1:] - share).max())


@pytest.mark.parametrize("points", [400, 100_000])
def test_how_many_guesses_come_below_chance(points: int) -> None:
    """DDIM at eleven, with the figure's points and with very many; eta = 1 needs more than twenty for the law alone."""
    shown = figure()
    even = torch.special.ndtri((torch.arange(points, dtype=F64) + 0.5) / points)[:, None]
    assert points > 400 or torch.allclose(even.flatten(), torch.tensor(shown.data()["crowd"], dtype=F64), atol=1e-4)

    def ends(steps: int, eta: float) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return diffusion.ancestral(shown.guess, shown.path, even, steps=steps, eta=eta, generator=draw).x

    assert gap(ends(10, 0.0)) > 0.0405 > 0.0395 > gap(ends(11, 0.0))
    assert gap(ends(20, 1.0)) > 0.042
    assert points == 400 or gap(ends(40, 1.0)) < 0.035


def test_the_script_agrees_about_the_guesses() -> None:
    told = in_node("[10, 11].map((n) => gap(b, d.crowd.map((x) => redrawn(b, x, 0, n, normals(50, 1)).at(-1))))")
    assert told[0] > 0.04 > told[1]
    chance = in_node(
        "[11, 20].map((n) => gap(b, d.crowd.map((x, i) => redrawn(b, x, 1, n, normals(50, 9000 + i)).at(-1))))"
    )
    assert min(chance) > 0.04


def test_the_start_is_forgotten_where_all_noise_is_drawn_anew() -> None:
    """With eta = 1 the first step draws all of it: two starts, one end. DDIM and the ODE keep theirs."""
    shown = figure()
    left, right = (shown.ways(noise=1.0, eta=1.0, looks=8, start=start(x)) for x in (-1.0, 1.5))
    assert (left["ancestral"][0][1:] - right["ancestral"][0][1:]).abs().max() < 1e-9
    for name in ("ode", "ddim"):
        assert (left[name][0][-1] - right[name][0][-1]).abs() > 0.5
