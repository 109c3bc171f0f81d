"""What chapter 6 writes from scratch is what the package does, and a slip in it would show."""

from __future__ import annotations

import ast
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import SCHEDULES
from test_diffusion import impulses

from fmtutor import AffinePath, Cosine, GaussianMixture, VariancePreserving, ancestral, solve_sde

PAGE = (Path(__file__).parents[1] / "book" / "06_diffusion.md").read_text()
LINE = GaussianMixture(torch.tensor([[-1.5], [0.5], [2.0]]), 0.2, torch.tensor([0.2, 0.5, 0.3]))


def page(*names: str, spoil: tuple[str, str] = ("", "")) -> Any:
    """The page's functions of these names; the last one is returned."""
    cells = re.findall(r"^```\{code-cell\} ipython3\n(?:---\n.*?^---\n|:tags:.*?\n\n?)?(.*?)^```", PAGE, re.M | re.S)
    found = {f.name: f for cell in cells for f in ast.parse(cell).body if isinstance(f, ast.FunctionDef)}
    known: dict[str, Any] = {"torch": torch, "math": math, "pairwise": pairwise, "line": LINE}
    for name in names:
        source = ast.unparse(found[name])
        assert spoil[0] in source
        exec(source.replace(*spoil) if spoil[0] else source, known)
    return known[names[-1]]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def exact(t: Any, x: torch.Tensor) -> torch.Tensor:
    return AffinePath().marginal_velocity(t, x, LINE)


def off_convert(name: str, spoil: tuple[str, str] = ("", "")) -> float:
    path, x = AffinePath(SCHEDULES[name]), torch.randn(50, 2, generator=generator())
    u, convert = torch.sin(3 * x), page("convert", spoil=spoil)
    words = ("velocity", "score", "noise", "data")
    four = {to: path.convert(0.4, x, u, "velocity", to) for to in words}
    gaps = [(convert(path, 0.4, x, four[a], a, b) - four[b]) / four[b].abs().max() for a in words for b in words]
    return float(torch.stack(gaps).abs().max())


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "ve"])
def test_the_conversions_of_the_page(name: str) -> None:
    assert off_convert(name) < 1e-4
    assert off_convert(name, ("-1 / sigma", "1 / sigma")) > 1e-2
    assert off_convert(name, ("[d_alpha, d_sigma]", "[d_sigma, d_alpha]")) > 1e-2


def off_shake(spoil: tuple[str, str] = ("", "")) -> float:
    x0 = torch.randn(100, 1, generator=generator())
    ours = page("shake", spoil=spoil)(exact, x0, 0.8, 100, 1.5, generator())
    theirs = solve_sde(exact, AffinePath(), x0, t1=0.8, steps=100, noise=1.5, generator=generator()).x
    return float((ours - theirs).abs().max())


def test_the_sde_of_the_page() -> None:
    assert off_shake() < 1e-4
    assert off_shake(("0.5 * g ** 2", "g ** 2")) > 1e-2
    assert off_shake(("t * u - x", "u - x")) > 1e-2


def off_redraw(eta: float, spoil: tuple[str, str] = ("", "")) -> float:
    x0, times = torch.randn(100, 1, generator=generator()), torch.linspace(0, 0.9, 7).tolist()
    guess = lambda t, x: LINE.posterior_mean(x, t, 1 - t)  # noqa: E731
    ours = page("redraw", spoil=spoil)(guess, x0, times, eta, generator())
    return float((ours - ancestral(guess, AffinePath(), x0, times=times, eta=eta, generator=generator()).x).abs().max())


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_redrawing_of_the_page(eta: float) -> None:
    assert off_redraw(eta) < 1e-4
    assert off_redraw(eta, ("(x - s * z) / (1 - s)", "x - s * z")) > 1e-2
    assert eta == 0 or off_redraw(eta, ("c ** 2", "c")) > 1e-2


@pytest.mark.parametrize(("method", "n"), [("euler_maruyama", 10), ("euler_maruyama", 40), ("heun", 10), ("heun", 40)])
def test_the_variances_of_the_page(method: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = page("variance")(method, n)
    assert told == pytest.approx(impulses(method, n, 1.0, monkeypatch), rel=1e-9)
    assert page("variance", spoil=("g ** 2 / 2", "g ** 2"))(method, n) != pytest.approx(told, rel=1e-2)


@pytest.mark.parametrize("schedule", [VariancePreserving(), Cosine()], ids=repr)
def test_a_network_of_another_path_is_read_on_the_linear_one(schedule: Any) -> None:
    """Fed with the exact noise of its own path, the page's reading is the exact velocity of the linear path."""
    path, x = AffinePath(schedule), torch.randn(40, 1, generator=generator())

    def noise(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return path.convert(t, x, path.marginal_velocity(t, x, LINE), "velocity", "noise")

    for t in (0.1, 0.5, 0.9, torch.linspace(0.05, 0.95, 40)):
        read = page("same_noise", "on_linear")(noise, path, "noise")(t, x)
        assert torch.allclose(read, exact(t, x), atol=2e-3)
        wrong = page("same_noise", "on_linear")(lambda t, x: noise(t, x) + 0.1, path, "noise")(t, x)
        assert not torch.allclose(wrong, exact(t, x), atol=2e-2)


def test_the_gap_of_the_page() -> None:
    """Against scipy's statistic."""
    stats = pytest.importorskip("scipy.stats")
    x = torch.randn(3, 200, generator=generator())
    gap = page("gap_at")(0.6, x)
    spread = math.hypot(0.6 * 0.2, 0.4)
    cdf = lambda v: sum(w * stats.norm.cdf(v, 0.6 * m, spread) for w, m in ((0.2, -1.5), (0.5, 0.5), (0.3, 2.0)))  # noqa: E731
    for row, told in zip(x, gap, strict=True):
        assert told.item() == pytest.approx(stats.kstest(row.numpy(), cdf).statistic, abs=1e-5)
