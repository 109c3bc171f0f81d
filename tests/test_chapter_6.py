"""What chapter 6 writes from scratch is what the package does, and a slip in it would show."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from pages import RIGHT, Slip, functions, judge, numbers, run, with_slips
from reference import SCHEDULES
from torch import Tensor

from fmtutor import AffinePath, Cosine, Empirical, VariancePreserving, as_velocity, metrics, prediction_loss

PAGE = "06_diffusion"


@cache
def start() -> dict[str, Any]:
    known: dict[str, Any] = {}
    run(PAGE, known, "from itertools", ("plots.use_style()", ""), ("explore, metrics", "metrics"))
    run(PAGE, known, "places = torch.tensor", ("101)", "3)"), ("steps=100", "steps=2"))
    functions(PAGE, known, "pairs")
    draw = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    return known | {"draw": draw, "points": Empirical(known["places"])}


def page(**more: Any) -> dict[str, Any]:
    """What the first cells of the page know, and more."""
    known = start() | more
    functions(PAGE, known, "exact", "exact_data", "pairs")
    return known


def written(*names: str, slip: Slip = RIGHT) -> Any:
    return functions(PAGE, page(), *names, slip=slip)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def exact(t: Any, x: Tensor) -> Tensor:
    return start()["exact"](t, x)


# Four predictions


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "ve"])
@with_slips(("-1 / sigma", "1 / sigma"), ("-1 / sigma", "-sigma"), ("[d_alpha, d_sigma]", "[d_sigma, d_alpha]"))
def test_the_conversions_of_the_page(name: str, slip: Slip) -> None:
    path, x = AffinePath(SCHEDULES[name]), torch.randn(50, 2, generator=generator())
    u, convert = torch.sin(3 * x), written("convert", slip=slip)
    words = ("velocity", "score", "noise", "data")
    four = {to: path.convert(0.4, x, u, "velocity", to) for to in words}
    gaps = [(convert(path, 0.4, x, four[a], a, b) - four[b]) / four[b].abs().max() for a in words for b in words]
    judge(float(torch.stack(gaps).abs().max()), slip, 1e-4, 1e-2)


@with_slips(
    ("(x, t, 1 - t)", "(x, 1 - t, t)"), ("(x - t * x1) / (1 - t)", "(x - t * x1)"), ("(weight * noise)", "noise")
)
def test_five_points_averaged_before_and_after(slip: Slip) -> None:
    """Both are the marginal velocity of the five."""
    known = page(t=0.4, x=2 * torch.randn(50, 2, generator=generator()))
    run(PAGE, known, "five = Empirical", slip=slip)
    truth = AffinePath().marginal_velocity(0.4, known["x"], known["five"])
    gaps = [(known[name] - truth).abs().max().item() for name in ("first_convert", "first_average")]
    judge(max(gaps), slip, 1e-4, 1e-2)


@with_slips(("d * s / a", "d / s / a"), ('"noise": d / a', '"noise": d / s'), ("a * ds - s * da", "a * ds + s * da"))
def test_what_an_error_of_a_prediction_does_to_the_velocity(slip: Slip) -> None:
    """The factors of the figure against the difference of two conversions."""
    known, off = page(), 0.0
    run(PAGE, known, "conditions, gains", slip=slip)
    when, x = known["when"], torch.randn(197, 1).double()
    for (name, key), gain in known["gains"].items():
        path = AffinePath({"linear": SCHEDULES["linear"], "cosine": SCHEDULES["cosine"]}[name])
        one, two = (path.convert(when, x, x + e, key, "velocity") for e in (0.0, 1.0))
        off = max(off, ((two - one).abs().flatten() / gain - 1).abs().max().item())
    judge(off, slip, 1e-9, 1e-2)


@with_slips(
    ('"velocity": (da, ds)', '"velocity": (da, -ds)'), ("(none, -1 / s)", "(none, -s)"), ("[a, s], 1)", "[a, a], 1)")
)
def test_the_condition_numbers_of_the_page(slip: Slip) -> None:
    """The quotient of singular values, from trace and determinant of the two equations."""
    known, off = page(), 0.0
    run(PAGE, known, "conditions, gains", slip=slip)
    t = known["when"]
    rows = {"velocity": (1, -1), "noise": (0, 1), "data": (1, 0), "score": (0, -1 / (1 - t))}
    for key, (c, d) in rows.items():
        total, det = t**2 + (1 - t) ** 2 + c**2 + d**2, (t * d - (1 - t) * c).abs()  # squares of the two, and product
        root = (total**2 - 4 * det**2).sqrt()
        off = max(off, (((total + root) / (total - root)).sqrt() / known["conditions"]["linear", key] - 1).abs().max())
    judge(float(off), slip, 1e-4, 1e-2)


@with_slips(("1 / t**2", "t**2"), ("1 / (1 - t) ** 2,", "1 / (1 - t),"), ("((1 - t) / t) ** 2", "(t / (1 - t)) ** 2"))
def test_the_weights_make_four_losses_one(slip: Slip) -> None:
    told = run(PAGE, page(nets={"velocity": lambda t, x: torch.sin(x)}), "without the weight", slip=slip)
    plain, *weighted = (numbers(line)[0] for line in told.splitlines() if numbers(line))
    assert len(weighted) == 4
    judge(max(abs(w / plain - 1) for w in weighted), slip, 1e-4, 0.05)


def test_only_where_no_data_is_left_does_a_solver_start_later() -> None:
    """On the linear path noise says nothing at t = 0; DDPM's own has a trace of the data there."""
    known, x, noise = page(), torch.randn(3, 2), lambda t, x: torch.sin(x)
    run(PAGE, known, "class DDPM")
    for predict in ("noise", "score"):
        with pytest.raises(ValueError, match="alpha is 0"):
            as_velocity(noise, AffinePath(), predict)(0.0, x)
        assert as_velocity(noise, AffinePath(), predict)(0.01, x).isfinite().all()
        assert as_velocity(noise, AffinePath(known["DDPM"]()), predict)(0.0, x).isfinite().all()


# The papers' own words


@with_slips(("1000 * (1 - t", "999 * (1 - t"), ("0.5 * self", "1 * self"), ("logs[k + 1]", "logs[k]"))
def test_the_schedule_of_ddpm(slip: Slip) -> None:
    """At its thousand times, by a loop over its betas, and halfway between them."""
    known = page()
    run(PAGE, known, "class DDPM", slip=slip)
    kept, off, schedule = 1.0, 0.0, known["DDPM"]()
    for k in range(1, 1001):
        before, kept = kept, kept * (1 - (1e-4 + (0.02 - 1e-4) * (k - 1) / 999))
        if k % 50 in (0, 1):
            for place, share in ((k, kept), (k - 0.5, math.sqrt(before * kept))):
                t = torch.tensor([1 - place / 1000]).double()
                off = max(
                    off, abs(schedule.alpha(t).item() - share**0.5), abs(schedule.sigma(t).item() - (1 - share) ** 0.5)
                )
    judge(off, slip, 1e-6, 1e-4)


@with_slips(
    ("[k - 1]", "[k - 2]"),
    ("network(1 - k", "network(1.001 - k"),
    ("(1 - bar).sqrt()", "(1 - bar)"),
    ("(eps - ", "(x - "),
)
def test_the_loss_of_ddpm_is_that_of_the_package(slip: Slip) -> None:
    known, net = page(), lambda t, x: torch.sin(3 * x) + 5 * torch.sin(300 * t.reshape(-1, 1))
    run(PAGE, known, "class DDPM")
    told = run(PAGE, known | {"net": net}, "the paper's loss", slip=slip)
    theirs, ours = numbers(told)
    judge(abs(theirs / ours - 1), slip, 1e-5, 1e-4)


@with_slips(("sigma(t) ** 2", "sigma(t)"), ('"score", sigma_squared', '"score"'), ("vp, *pairs()", "path, *pairs()"))
def test_score_matching_with_its_weight_is_the_loss_on_the_noise(slip: Slip) -> None:
    vp = AffinePath(VariancePreserving())
    loss = functions(PAGE, page(vp=vp), "score_matching", slip=slip)
    noise = lambda t, x: torch.sin(x)  # noqa: E731
    torch.manual_seed(5)
    told = loss(lambda t, x: -noise(t, x) / vp.schedule.sigma(t)[:, None])
    torch.manual_seed(5)
    t = 0.999 * torch.rand(1024)
    judge(abs(told / prediction_loss(noise, vp, *start()["pairs"](), t, "noise") - 1).item(), slip, 1e-4, 1e-2)


@pytest.mark.parametrize("schedule", [VariancePreserving(), Cosine()], ids=repr)
@with_slips(
    ("(c.alpha + c.sigma) * x", "c.sigma * x"), ("* t > path", "* (1 - t) > path"), ("(data - x)", "(data - there)")
)
def test_a_network_of_another_path_is_read_on_the_linear_one(schedule: Any, slip: Slip) -> None:
    """Fed with the exact noise of its own path, the page's reading is the exact velocity of the linear path."""
    path, x, off = AffinePath(schedule), torch.randn(40, 1, generator=generator()), 0.0

    def noise(t: Tensor, x: Tensor) -> Tensor:
        return path.convert(t, x, path.marginal_velocity(t, x, start()["line"]), "velocity", "noise")

    for t in (0.1, 0.4, 0.9, torch.linspace(0.05, 0.95, 40)):
        read = written("same_noise", "on_linear", slip=slip)(noise, path, "noise")(t, x)
        off = max(off, (read - exact(t, x)).abs().max().item())
    judge(off, slip, 2e-3, 2e-2)


@with_slips(
    ("square().mean()", "square().sum()"),
    ("path.sample(*pairs(), t).xt", "pairs()[1]"),
)
def test_the_size_of_the_field(slip: Slip) -> None:
    """It is the error of a field that is 0 everywhere."""
    known = page(trained={})
    run(PAGE, known, "size = field", slip=slip)
    still = lambda t, x: 0 * x  # noqa: E731
    error = metrics.velocity_error(still, AffinePath(), known["board"], known["base"], n=2000, times=known["when"])
    judge(abs(known["size"] / error.mean() - 1).item(), slip, 0.04, 0.06)
