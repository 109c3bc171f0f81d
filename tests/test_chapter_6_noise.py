"""What chapter 6 writes of noise on the way, and of guessing the end, held to a second route; each slip would show."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from pages import BOOK, Slip, functions, judge, numbers, run, with_slips
from test_chapter_6 import PAGE, exact, generator, page, start, written
from test_diffusion import impulses
from torch import Tensor

from fmtutor import AffinePath, VariancePreserving, ancestral, solve_sde


@with_slips(("0.5 * g**2", "g**2"), ("t * u - x", "u - x"), ("g * h**0.5", "g * h"), ("t = k * h", "t = (k + 1) * h"))
def test_the_sde_of_the_page(slip: Slip) -> None:
    x0 = torch.randn(100, 1, generator=generator())
    ours = written("shake", slip=slip)(exact, x0, 0.8, 100, 1.5, generator())
    theirs = solve_sde(exact, AffinePath(), x0, t1=0.8, steps=100, noise=1.5, generator=generator()).x
    judge(float((ours - theirs).abs().max()), slip, 1e-4, 1e-2)


@pytest.mark.parametrize("n", [10, 40])
@with_slips(
    ("g**2 / 2) /", "g**2) /"),
    ("(1 + h / 2 * then) ** 2 * g", "g"),
    ("+ then * (1 + h * now)", "+ then"),
    ("+ g**2 * h", "+ g * h"),
)
def test_the_variances_of_the_page(n: int, slip: Slip, monkeypatch: pytest.MonkeyPatch) -> None:
    off = 0.0
    for method in ("euler_maruyama", "heun"):
        told = written("variance", slip=slip)(method, n, g=0.8)
        off = max(off, abs(told / impulses(method, n, 0.8, monkeypatch) - 1))
    judge(off, slip, 1e-9, 2e-3)


@with_slips(
    ("(0.8 * 0.6) ** 2", "0.8 * 0.6**2"), ("v - truth):.1f", "truth - v):.1f"), ("(2 / m) ** 0.5", "(1 / m) ** 0.5")
)
def test_the_orders_that_are_printed(slip: Slip) -> None:
    """The last ratio of a method is 2 to its order, and its first variance is measured within four errors."""
    known = page()
    functions(PAGE, known, "variance")
    told = run(PAGE, known, "variance at t = 0.8: truth", ("400_000", "20_000"), slip=slip).splitlines()[1:]
    off = 0.0
    for order, rows in ((1, told[:8]), (2, told[8:])):
        v, ratio, (_, measured, error) = numbers(rows[2])[1], numbers(rows[6])[3], numbers(rows[7])
        off = max(off, abs(ratio - 2**order), abs(measured - v) / error / 4, 4 * abs(error / 0.0027 - 1))
    judge(off, slip, 1.0, 1.0)


@with_slips(
    ("steps[1:]", "steps[:-1]"),
    ("torch.maximum", "torch.minimum"),
    (", 1 - t)", ", t)"),
    ("t * target.scale", "target.scale"),
)
def test_the_gap_of_the_page(slip: Slip) -> None:
    """Against scipy's statistic."""
    stats = pytest.importorskip("scipy.stats")
    x, off = torch.randn(3, 200, generator=generator()), 0.0
    gap, spread = written("gap_at", slip=slip)(0.6, x), math.hypot(0.6 * 0.2, 0.4)
    cdf = lambda v: sum(w * stats.norm.cdf(v, 0.6 * m, spread) for w, m in ((0.2, -1.5), (0.5, 0.5), (0.3, 2.0)))  # noqa: E731
    for row, told in zip(x, gap, strict=True):
        off = max(off, abs(told.item() - stats.kstest(row.numpy(), cdf).statistic))
    judge(off, slip, 1e-5, 1e-3)


@with_slips(
    ("t * 0.2**2 / spread", "0.2**2 / spread"),
    ("line.weights.log() - ", "-"),
    ("2 * spread", "spread"),
    ("(mean - x)", "(x - mean)"),
)
def test_the_field_that_is_written_out(slip: Slip) -> None:
    field, x = written("exact_velocity", slip=slip), torch.randn(2, 30, generator=generator())
    gaps = [field(t, x) - exact(t, x.reshape(-1, 1)).reshape(2, 30) for t in (0.0, 0.3, 0.7, 0.9)]
    judge(torch.stack(gaps).abs().max().item(), slip, 1e-4, 1e-2)


SHAKES = {
    "none": lambda w: w(),
    "noise twice": lambda w: w() + w(),
    "noise × noise": lambda w: w() * w(),
}


@with_slips(
    ("u + pull * score", "u - pull * score"), (" 0.0}.get(mistake, g**2 / 2)", " 0.0}.get(mistake, g**2)"),
    ("h * (u + g**2 / 2 * score)) / (g * h**0.5)", "h * u) / (g * h)"), ("w = w * torch.randn", "w = w + torch.randn"),
)  # fmt: skip
def test_the_sampler_with_mistakes_has_those_that_are_named(slip: Slip) -> None:
    """Its first noise is what the generator gave, and without a mistake, or with the whole g², its end is `shake`'s."""
    known, x = page(), torch.randn(2, 50, generator=generator())
    sampler = functions(PAGE, known, "exact_velocity", "sampler", slip=slip)
    functions(PAGE, known, "exact_velocity", "shake")
    off = 0.0
    for mistake, shake in SHAKES.items():
        torch.manual_seed(4)
        first = sampler(mistake, x, t1=0.5, steps=8)[1]
        torch.manual_seed(4)
        off = max(off, (first - shake(lambda: torch.randn_like(x))).abs().max().item())
    for mistake in ("none", "the whole g²", "no score"):
        torch.manual_seed(4)
        end = sampler(mistake, x, t1=0.5, steps=8)[0]
        torch.manual_seed(4)
        share = {"none": 0.5, "the whole g²": 1.0, "no score": 0.0}[mistake]
        right = functions(PAGE, known, "shake", slip=("0.5 * g**2", f"{share} * g**2"))
        off = max(off, (end - right(known["exact_velocity"], x, 0.5, 8, 1.5)).abs().max().item())
    judge(off, slip, 1e-3, 2e-2)


@with_slips(("2.58 * ", "1.96 * "), ("24 / n", "6 / n"), ("log(2 / 0.01)", "log(2 / 0.1)"), ("(2 * n)", "(n)"))
def test_the_tests_of_the_page_give_a_false_alarm_once_in_a_hundred(slip: Slip) -> None:
    """Of 3 000 right samples, for the kurtosis and for the gap, whose bound is sharp."""
    stats = pytest.importorskip("scipy.stats")
    known = page()
    run(PAGE, known, "runs, n = 100, 1000", ("for mistake in (", "for mistake in () and ("), slip=slip)
    x = torch.randn(3000, 1000, generator=generator())
    kurtosis = (x**4).mean(1) / (x**2).mean(1) ** 2
    tail = ((kurtosis - 3).abs() > known["allowed_k"]).double().mean().item()
    gap = stats.kstwo.sf(known["allowed"], 1000)
    judge(max(abs(math.log(tail / 0.01)), abs(math.log(gap / 0.01))), slip, 0.8, 1.0)


@with_slips(
    ("(kurtosis - 3).abs()", "(kurtosis - 3)"), ("gap > allowed", "gap < allowed"), ("(first**4)", "(first**3)")
)
def test_an_alarm_is_given_on_both_sides(slip: Slip) -> None:
    """Points of another law, and noise whose tails are too short: both tests give alarm in each run."""
    known = page(sampler=lambda mistake, x: (x + 3, torch.rand_like(x) - 0.5))
    functions(PAGE, known, "gap_at")
    told = run(PAGE, known, "runs, n = 100, 1000", ("runs, n = 100, 1000", "runs, n = 5, 1000"), slip=slip)
    rows = [numbers(line[16:]) for line in told.splitlines()[2:]]
    judge(max(abs(n - 5) for row in rows for n in row[:2]) + abs(rows[0][3] - 1.8), slip, 0.2, 0.5)


def test_by_chance_is_what_chance_does() -> None:
    """The mean of Kolmogorov's distribution is `sqrt(pi / 2) ln 2`; one sample in twenty is beyond 1.36."""
    stats = pytest.importorskip("scipy.stats")
    text = (BOOK / f"{PAGE}.md").read_text()
    told = [float(n) for n in re.findall(r"\{(\d\.\d+) / \w+\*\*0\.5", text)]
    assert sorted(told) == [0.87, 0.87, 0.87, 1.36]
    assert {float(n) for n in re.findall(r"\$(\d\.\d+)/\\sqrt n\$", text)} == {0.87, 1.36}
    assert told[0] == pytest.approx(math.sqrt(math.pi / 2) * math.log(2), abs=0.002)
    assert stats.kstwobign.sf(1.36) == pytest.approx(0.05, abs=0.001)


def test_without_noise_the_gap_is_carried_along() -> None:
    """Points on a line keep their order; a shaken crowd forgets what gap it had."""
    known = page()
    gap, x0 = functions(PAGE, known, "gap_at"), 0.3 + torch.randn(400, 1, generator=generator())
    for g, kept in ((0.0, True), (2.0, False)):
        x = solve_sde(exact, AffinePath(), x0, t1=0.8, noise=g, method="heun", steps=60, generator=generator()).x
        ratio = gap(0.8, x.flatten()) / gap(0.0, x0.flatten())
        assert (abs(ratio - 1) < 0.05) == kept, (g, ratio)


def test_what_is_exchanged_makes_the_way_back_one_of_independent_noise() -> None:
    """The noises at two times of a simulated way back are correlated as the formula says, and as those of a step."""
    s, t, n = 0.4, 0.7, 400_000
    draw, path = generator(), AffinePath()
    later = torch.randn(n, 1, generator=draw)  # the noise of x_t; the data is 0 for all
    fresh = (1 - s) ** 2 - (s / t * (1 - t)) ** 2  # the variance that makes the noise of x_s one of scale 1 - s
    now = (s / t * (1 - t) * later + fresh**0.5 * torch.randn(n, 1, generator=draw)) / (1 - s)
    back = torch.corrcoef(torch.cat([now, later], 1).T)[0, 1].item()
    step = ancestral(lambda t, x: 0 * x, path, (1 - s) * now, times=[s, t], generator=draw).x / (1 - t)
    onward = torch.corrcoef(torch.cat([now, step], 1).T)[0, 1].item()
    assert now.std().item() == pytest.approx(1, abs=0.01)
    assert back == pytest.approx(s * (1 - t) / (t * (1 - s)), abs=0.007)
    assert onward == pytest.approx(back, abs=0.01)


def test_the_variance_of_the_short_step_in_the_solution() -> None:
    known, line = page(), re.compile(r"^step = (\(.*)$", re.M)
    (told,) = line.findall((BOOK / f"{PAGE}.md").read_text())
    s, h = 0.3, 1e-3
    x = ancestral(lambda t, x: 0 * x, known["path"], torch.zeros(400_000, 1), times=[s, s + h]).x
    assert eval(told, {"s": s, "h": h}) == pytest.approx(float(x.var()) / h, rel=0.01)


@with_slips(("first <= t", "t <= first"), ("float(first", "-float(first"))
def test_the_field_is_wrong_when_it_should_be(slip: Slip) -> None:
    wrong, x = written("wrong", slip=slip)(0.1, 0.3), torch.randn(5, 1)
    gaps = [(wrong(t, x) - exact(t, x)).mean().item() for t in (0.05, 0.1, 0.2, 0.31)]
    judge(max(abs(a - b) for a, b in zip(gaps, (0, 1, 1, 0), strict=True)), slip, 1e-5, 0.5)


@with_slips(("first + 0.2", "first + 0.3"), ("(0.1, 0.4, 0.7)", "(0.1, 0.5, 0.8)"), ("noise=g", "noise=0.0"))
def test_the_velocity_is_wrong_where_the_table_says(slip: Slip) -> None:
    """In the windows of its head, and with the noise of its row."""
    known, seen, probes = page(gap_at=lambda t, x: x.mean()), [], [0.05 + 0.1 * k for k in range(10)]
    functions(PAGE, known, "wrong")

    def note(field: Any, path: Any, x: Tensor, noise: float, **how: Any) -> Any:
        seen.append((noise, [t for t in probes if (field(t, x) - exact(t, x)).mean() > 0.5]))
        return type("Solution", (), {"x": x})

    known["solve_sde"] = note
    run(PAGE, known, "left_over = {}", ("randn(4000", "randn(3"), slip=slip)
    told = run(PAGE, known, "the velocity is wrong")
    windows = re.findall(r"(0\.\d) to (0\.\d)", told)
    wanted = [(g, [t for t in probes if float(a) < t < float(b)]) for g in (0.0, 1.0, 2.0, 4.0) for a, b in windows]
    judge(float(sum(a != b for a, b in zip(seen, wanted, strict=True))), slip, 0.5, 0.5)


# Guess the end


@pytest.mark.parametrize("eta", [0.4, 1.0])
@with_slips(("(x - s * z) / (1 - s)", "x - s * z"), ("1 - c**2", "1 - c"), ("t * (1 - s))) ** 2)", "t * (1 - s))))"))
def test_the_redrawing_of_the_page(eta: float, slip: Slip) -> None:
    x0, times = torch.randn(100, 1, generator=generator()), torch.linspace(0, 0.9, 7).tolist()
    guess = start()["exact_data"]
    ours = written("redraw", slip=slip)(guess, x0, times, eta, generator())
    theirs = ancestral(guess, AffinePath(), x0, times=times, eta=eta, generator=generator()).x
    judge(float((ours - theirs).abs().max()), slip, 1e-4, 1e-2)


@with_slips(
    ("sample_posterior", "posterior_mean"),
    ("gap_at(0.9", "gap_at(0.8"),
    ("guess, path, torch.randn(n, 1)", "the_mean, path, torch.randn(n, 1)"),
)
def test_a_draw_is_right_at_any_step_and_the_mean_is_not(slip: Slip) -> None:
    """With one step the mean puts all points at one place: the gap is that of a point, but for its noise of 0.1."""
    n, known = 4000, page()
    functions(PAGE, known, "gap_at")
    run(PAGE, known, "n, table = 50_000", ("50_000", str(n)), ("(1, 2, 8, 32)", "(1, 2)"), slip=slip)
    table = known["table"]
    off = max(gap for (_, name, _), gap in table.items() if name == "draw") - 1.95 / math.sqrt(n)
    one = 0.9 * (start()["line"].weights @ start()["places"]).item()  # the middle bump has its share below that place
    means = max(abs(table[1, "mean", eta] - 0.433) for eta in (0.0, 0.5, 1.0)) - 0.03
    assert one == pytest.approx(0.495)
    judge(max(off, means), slip, 0.0, 0.0)


@with_slips(
    ("(y - z) / r ", "(y - z) / r_next "),
    ("(r_next - r)", "(r - r_next)"),
    ("y, ratio = x / a[0], s / a", "y, ratio = x / a[0], a / s"),
)
def test_ddim_is_euler_on_the_page(slip: Slip) -> None:
    told = run(PAGE, page(), "Euler: (y - z) / r is the noise", slip=slip)
    gaps = [float(line.split()[-1]) for line in told.splitlines()]
    assert len(gaps) == 5
    judge(max(gaps), slip, 1e-12, 1e-3)


@with_slips(
    ("(1 - b).sqrt() * (1 - bar_before)", "(1 - b) * (1 - bar_before)"),
    ("bar_before.sqrt() * b", "bar_before * b"),
    ("(1 - bar) * b\n", "(1 - bar)\n"),
)
def test_equation_7_on_the_page(slip: Slip) -> None:
    known = page()
    run(PAGE, known, "class DDPM")
    told = run(PAGE, known, "largest difference to equation 7", slip=slip)
    judge(float(told.split()[-1]), slip, 1e-12, 1e-5)


@with_slips(("c.alpha * x0 - c.sigma * x1", "c.alpha * x1 - c.sigma * x0"), ("speed = -(u", "speed = (u"))
def test_v_is_the_velocity_on_the_page(slip: Slip) -> None:
    """The speed on VP is the rate of its angle, half of beta times alpha over sigma."""
    told = run(PAGE, page(vp=AffinePath(VariancePreserving())), "v, rest ", slip=slip)
    off = 0.0
    for line in told.splitlines():
        t, speed, rest = numbers(line.replace("VP", "").replace("u = -", ""))
        alpha = math.exp(-(0.1 * (1 - t) + 9.95 * (1 - t) ** 2) / 2)
        rate = 0.5 * (0.1 + 19.9 * (1 - t)) * alpha / math.sqrt(1 - alpha**2)
        off = max(off, rest, abs(speed - (rate if line.startswith("VP") else math.pi / 2)) - 1e-4)
    judge(off, slip, 1e-4, 1e-2)


def uniform_noise(*names: str, slip: Slip) -> Any:
    return functions(PAGE, page(two=torch.tensor([-1.0, 1.0]).double(), half=3**0.5), "began", *names, slip=slip)


@with_slips(("** 40", "** 2"), ("two - noise", "two - x"), ("(x - t * two) / (1 - t)", "x - t * two"))
def test_the_field_of_uniform_noise(slip: Slip) -> None:
    """Away from the edges: the mean over those of the two whose noise lies inside."""
    flat, t = uniform_noise("flat", slip=slip), 0.4
    x = torch.tensor([[0.1], [-0.5], [0.9], [-1.1]])
    began = [[(v - t * z) / (1 - t) for z in (-1, 1)] for v in x.flatten().tolist()]
    truth = []
    for row in began:
        inside = [z - e for z, e in zip((-1, 1), row, strict=True) if abs(e) < 3**0.5]
        assert all(abs(abs(e) / 3**0.5 - 1) > 0.1 for e in row)
        truth.append(sum(inside) / len(inside))
    judge((flat(t, x).flatten() - torch.tensor(truth)).abs().max().item(), slip, 0.03, 0.1)


@with_slips(("* -40", "* 40"), ("** 39", "** 40"), ("(half * (1 - t))", "half"), ("-((noise / half) ** 40)", "noise"))
def test_the_score_of_uniform_noise(slip: Slip) -> None:
    """Against autodiff of the log-density, which has the edges of the noise twice."""
    score, t = uniform_noise("own_score", slip=slip), 0.3
    x = torch.linspace(-1.55, 1.55, 40).double()[:, None].requires_grad_()
    edges = [-(((x - t * z) / (1 - t) / 3**0.5) ** 40) for z in (-1.0, 1.0)]
    (truth,) = torch.autograd.grad(torch.logaddexp(*edges).sum(), x)
    judge(float((score(t, x.detach()) - truth).abs().max()), slip, 1e-9, 1e-2)


def test_the_control_of_uniform_noise_stays_where_the_pairs_are() -> None:
    torch.manual_seed(0)
    told = run(PAGE, page(), "points beyond 1.02 times", ("20_000", "4000")).splitlines()[2:]
    ode, sde, own = (numbers(line.split("%")[1])[0] for line in told)
    assert ode == 0.0
    assert own < 0.5 < 2 < sde
