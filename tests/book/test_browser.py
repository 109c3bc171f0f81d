"""The built book as its reader opens it: from a folder, in a browser, with the network off."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from looks import RAW_MATH, SIDEWAYS
from visit import HTML, PAGES, Visit

from fmtutor import AffinePath, Checkerboard, Cosine, Empirical, Linear, ancestral, explore, solve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason="the book is not built: run make book first"),
]


FIGURE = ".fmtutor-explore"


def settled(page: Any, figure: Any) -> bytes:
    """What the figure looks like once it has stopped moving by itself."""
    shots = [figure.screenshot()]
    for _ in range(30):
        page.wait_for_timeout(100)
        shots.append(figure.screenshot())
        if shots[-1] == shots[-2]:
            return bytes(shots[-1])
    pytest.fail("the figure moves for three seconds although its reader asked for less motion")


def responds(page: Any, figure: Any) -> bool:
    """Whether moving its slider, or a pointer over its canvas, changes what the figure shows."""
    figure.scroll_into_view_if_needed()
    before = settled(page, figure)
    ranges = figure.query_selector_all("input[type=range]")
    for control in ranges:
        control.evaluate(
            """slider => {
                const far = Math.abs(slider.max - slider.value) > Math.abs(slider.value - slider.min);
                slider.value = far ? slider.max : slider.min;
                for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, {bubbles: true}));
            }"""
        )
    if not ranges:
        target = figure.query_selector("canvas, svg, img") or figure
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        for share in (0.3, 0.5, 0.7):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
            page.wait_for_timeout(60)
    page.wait_for_timeout(250)
    return bool(figure.screenshot() != before)


def with_figures() -> list[str]:
    return [name for name in PAGES if 'class="fmtutor-explore' in (HTML / name).read_text()]


@pytest.mark.parametrize("name", with_figures())
def test_every_figure_to_play_with_responds(desktop: Visit, name: str) -> None:
    page = desktop.open(HTML / name)
    figures = page.query_selector_all(FIGURE)
    assert figures
    for number, figure in enumerate(figures, start=1):
        assert responds(page, figure), f"figure {number} of {name} is dead"
    assert desktop.errors == []


def shown(figure: Any, name: str) -> float:
    """The number that a part of a figure shows, or at which a slider of it stands."""
    part = figure.query_selector(f'[data-fx="{name}"]')
    text = part.evaluate("part => part.value ?? part.textContent")
    return float(text.replace("−", "-"))


def point_at(page: Any, figure: Any, right: float, down: float) -> tuple[float, float]:
    """Move the mouse to a place on the canvas, given as parts of it; its place in pixels of the canvas."""
    canvas = figure.query_selector("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = round(right * box["width"]), round(down * box["height"])
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_timeout(60)
    return x, y


def the_pointer_tells_the_truth(page: Any) -> None:
    """The marginal velocity's figure goes where the mouse goes, and its table says what is true there."""
    points = torch.tensor([-2.0, 0.5, 2.0], dtype=torch.float64)
    limit = explore.marginal_velocity(points).limit
    figure = page.query_selector(f'{FIGURE}:has([data-fx="mean"])')
    canvas = figure.query_selector("canvas")
    for right, down in ((0.3, 0.2), (0.75, 0.3), (0.6, 0.8)):
        x, y = point_at(page, figure, right, down)
        width, height = canvas.evaluate("canvas => [canvas.clientWidth, canvas.clientHeight]")
        t, place = shown(figure, "t"), shown(figure, "x")
        assert t == pytest.approx((x - 34) / (width - 48), abs=0.01)  # noise on the left, data on the right
        assert place == pytest.approx(limit - 2 * limit * (y - 10) / (height - 46), abs=0.05)  # what is high is above
        here = torch.tensor([[place]], dtype=torch.float64)
        exact = AffinePath().marginal_velocity(t, here, Empirical(points[:, None])).item()
        assert shown(figure, "mean") == pytest.approx(exact, abs=0.006)
        weight = torch.softmax(-(((place - t * points) / (1 - t)) ** 2) / 2, 0)
        velocity = (points - place) / (1 - t)
        rows = figure.query_selector_all('[data-fx="rows"] tr')
        for row, *wanted in zip(rows, points, weight, velocity, weight * velocity, strict=True):
            told = [float(cell.inner_text().replace("−", "-")) for cell in row.query_selector_all("td")]
            assert told == pytest.approx([float(value) for value in wanted], abs=0.006)


def time_is_under_the_finger(page: Any) -> None:
    """Dragging across the landing page's picture moves its time from left to right, and letting go stops it."""
    figure = page.query_selector(FIGURE)
    figure.scroll_into_view_if_needed()
    point_at(page, figure, 0.5, 0.5)
    page.mouse.down()
    times, looks = [], []
    for right in (0.25, 0.5, 0.75):
        point_at(page, figure, right, 0.5)
        times.append(shown(figure, "slider"))
        looks.append(figure.query_selector("canvas").screenshot())
    page.mouse.up()
    assert times == sorted(times)
    assert times[1] == pytest.approx(0.5, abs=0.02)
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], abs=0.02)
    assert times[0] < 0.4
    assert len(set(looks)) == 3
    point_at(page, figure, 0.1, 0.5)  # let go: the picture stays
    assert shown(figure, "slider") == times[2]


def set_slider(figure: Any, name: str, value: float) -> None:
    figure.query_selector(f'[data-fx="{name}"]').evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def noise_is_under_the_finger(page: Any) -> None:
    """The samplers' figure: where each ends is true, noise moves the shaken ones alone, and one guess is not enough."""
    shown_here = explore.samplers(torch.tensor([-1.5, 0.5, 2.0]), weights=torch.tensor([0.2, 0.5, 0.3]), scale=0.15)
    figure = page.query_selector(f'{FIGURE}:has([data-fx="sde-end"])')
    figure.scroll_into_view_if_needed()
    for x0, looks in ((-1.1, 1), (0.4, 8), (1.3, 40)):
        for name, value in (("start", x0), ("looks", looks), ("eta", 0.0), ("noise", 0.0)):
            set_slider(figure, name, value)
        x = torch.tensor([[x0]], dtype=torch.float64)
        euler = solve(shown_here.velocity, x, method="euler", steps=100).x.item()
        ddim = ancestral(shown_here.guess, shown_here.path, x, steps=looks, eta=0.0).x.item()
        assert shown(figure, "ode-end") == pytest.approx(euler, abs=0.006)
        assert shown(figure, "sde-end") == shown(figure, "ode-end")  # without noise it is the same line
        assert shown(figure, "ddim-end") == shown(figure, "ancestral-end") == pytest.approx(ddim, abs=0.006)
        assert shown(figure, "ddim-looks") == looks
        assert (shown(figure, "ddim-gap") > 0.2) == (looks == 1)
        still = figure.query_selector("canvas").screenshot()
        before = {name: shown(figure, f"{name}-end") for name in ("ode", "sde", "ddim", "ancestral")}
        set_slider(figure, "noise", 2.0)
        assert shown(figure, "sde-gap") < 0.1  # the law is the same for every noise
        assert shown(figure, "sde-end") != before["sde"]
        assert figure.query_selector("canvas").screenshot() != still
        set_slider(figure, "eta", 1.0)
        assert (shown(figure, "ancestral-end") != before["ancestral"]) == (looks > 1)  # one guess is the end itself
        assert [shown(figure, f"{name}-end") for name in ("ode", "ddim")] == [before["ode"], before["ddim"]]
    point_at(page, figure, 0.3, 0.25)
    page.mouse.down()
    _, y = point_at(page, figure, 0.3, 0.3)
    page.mouse.up()
    height = figure.query_selector("canvas").evaluate("canvas => canvas.clientHeight")
    limit = shown_here.limit
    assert shown(figure, "start") == pytest.approx(limit - 2 * limit * (y - 10) / (height - 46), abs=0.05)


def the_menus_tell_the_truth(page: Any) -> None:
    """Chapter 5's figure of solvers: its words are about what was chosen, its error is right, and its points move."""
    figure = page.query_selector(f'{FIGURE}:has([data-fx="chart"])')
    figure.scroll_into_view_if_needed()
    board, x0 = Checkerboard().to(torch.float64), torch.Generator().manual_seed(5)
    cloud = torch.randn(250, 2, dtype=torch.float64, generator=x0)
    straight = partial(AffinePath().marginal_velocity, target=board)
    reference = solve(straight, cloud, t1=0.99, method="dopri5", rtol=1e-8, atol=1e-8).x / 0.99
    looks = []
    for name, schedule, method, k in (("linear", Linear(), "euler", 4), ("cosine", Cosine(), "midpoint", 3)):
        set_slider(figure, "slider", k)
        figure.query_selector('[data-fx="path"]').select_option(name)
        figure.query_selector('[data-fx="method"]').select_option(method)
        page.wait_for_timeout(100)
        looks.append(figure.query_selector('[data-fx="plane"]').screenshot())
        n, end = 2**k, math.atan(99) * 2 / math.pi if name == "cosine" else 0.99
        exact, alpha = partial(AffinePath(schedule).marginal_velocity, target=board), schedule.alpha(torch.tensor(end))
        ends = solve(exact, cloud, t1=end, method=method, steps=n).x / alpha
        error = (ends - reference).square().sum(1).mean().sqrt().item()
        said = figure.query_selector('[data-fx="said"]').inner_text()
        words = f"{name}, {method}: {n} steps, {n * (1 + (method == 'midpoint'))} evaluations, rms error "
        assert said.startswith(words), said
        assert float(said.removeprefix(words)) == pytest.approx(error, rel=0.01)
    assert looks[0] != looks[1]


def weight_is_under_the_finger(page: Any) -> None:
    """Chapter 9's figure: the gap and the spread are those of the bumps that it shows, and the arrow keys move it."""
    figure = page.query_selector(f'{FIGURE}:has([data-fx="tilted"])')
    figure.scroll_into_view_if_needed()
    script = figure.query_selector("script").evaluate("script => script.textContent")
    told = json.JSONDecoder().raw_decode(script, script.index("const data = ") + len("const data = "))[0]
    bumps, asked = told["all"], {*zip(told["asked"]["x"], told["asked"]["y"], strict=True)}
    places = list(zip(bumps["x"], bumps["y"], strict=True))
    labels, weights = torch.tensor([int(place in asked) for place in places]), torch.tensor(bumps["logs"]).exp()
    again = explore.guidance(torch.tensor(places), labels, 1, scale=bumps["scale"], weights=weights)
    looks = []
    for weight, first, last in ((1.0, 0.0, 1.0), (3.0, 0.0, 1.0), (3.0, 0.1, 0.5), (4.0, 0.5, 0.25)):
        for name, value in (("weight", weight), ("first", first), ("last", last)):
            set_slider(figure, name, value)
        ends = again.ways(weight, first, last)[0][-1]
        spread = (ends - ends.mean(0)).square().sum(1).mean().sqrt().item()
        assert shown(figure, "gap") == pytest.approx(max(again.gap(weight, first, last), 0), abs=0.006)
        assert shown(figure, "flow-spread") == pytest.approx(spread, abs=0.006)
        looks += [figure.query_selector(f'[data-fx="{name}"]').screenshot() for name in ("plane", "tilted")]
    assert len(set(looks)) == 6
    assert looks[0] == looks[6]  # at weight 1 and where nothing is guided: the label alone
    assert looks[3] == looks[5]  # the tilted density does not depend on when the flow is guided
    figure.query_selector('[data-fx="weight"]').press("ArrowLeft")
    assert shown(figure, "weight-readout") == pytest.approx(3.95)


POINTED = {
    "03_flow_matching.html": the_pointer_tells_the_truth,
    "05_paths.html": the_menus_tell_the_truth,
    "06_diffusion.html": noise_is_under_the_finger,
    "09_guidance.html": weight_is_under_the_finger,
    "index.html": time_is_under_the_finger,
}
SPOILED = [
    ("03_flow_matching.html", "limit - (2 * limit * (event.clientY", "-limit + (2 * limit * (event.clientY"),
    ("03_flow_matching.html", '"pointermove"', '"pointerless"'),
    ("03_flow_matching.html", "signed(here.velocity)", "signed(-here.velocity)"),
    ("03_flow_matching.html", "signed(w * v)", "signed(v)"),
    ("05_paths.html", "const told = errors[path][method][k]", "const told = errors[path][0][k]"),
    ("05_paths.html", "${looks[method] * n} ${looks", "${n} ${looks"),
    ("05_paths.html", 'menu.addEventListener("change"', 'menu.addEventListener("changeless"'),
    ("06_diffusion.html", "0.5 * noise ** 2 * score", "1.5 * noise ** 2 * score"),
    ("06_diffusion.html", "ddim: redrawn(bumps, x, 0, n", "ddim: redrawn(bumps, x, eta, n"),
    ("06_diffusion.html", "shaken(bumps, x, level, shakes)", "shaken(bumps, x, level + 0.2, shakes)"),
    ("06_diffusion.html", "(z - x) / (1 - t)", "(z - x) / (1 - t / 2)"),
    ("06_diffusion.html", '"pointermove"', '"pointerless"'),
    ("09_guidance.html", "(1 - w) * value + w * asked[i]", "w * value + (1 - w) * asked[i]"),
    ("09_guidance.html", "[last, 1, plain]]", "[last, 1, guided]]"),
    ("09_guidance.html", "2 * a + ((b * t)", "a + ((b * t)"),
    ("09_guidance.html", "x + dx, y + dy, log - div", "x + 0.9 * dx, y + dy, log - div"),
    ("09_guidance.html", "w * a + (1 - w) * all[i]", "a + (1 - w) * all[i]"),
    ("09_guidance.html", 'control.addEventListener("input", update)', 'control.addEventListener("inputs", update)'),
    ("index.html", '"pointermove"', '"pointerless"'),
    ("index.html", "times[0] + part *", "times[0] + (1 - part) *"),
]


@pytest.mark.parametrize("name", sorted(set(POINTED) & set(PAGES)))
def test_a_figure_follows_the_pointer(desktop: Visit, name: str) -> None:
    POINTED[name](desktop.open(HTML / name))
    assert desktop.errors == []


@pytest.mark.parametrize(("name", "right", "wrong"), [row for row in SPOILED if row[0] in PAGES])
def test_a_spoiled_figure_is_found_out(desktop: Visit, tmp_path: Path, name: str, right: str, wrong: str) -> None:
    text = (HTML / name).read_text()
    assert right in text
    (tmp_path / name).write_text(
        text.replace(right, wrong).replace("<head>", f'<head><base href="{HTML.as_uri()}/">', 1)
    )
    with pytest.raises((AssertionError, ValueError)):
        POINTED[name](desktop.open(tmp_path / name))


PLANTED = {
    "request": '<img src="https://example.org/x.png" alt="">',
    "error": "<script>throw new Error('planted')</script>",
    "sideways": '<div style="width: 900px">wide</div>',
    "math": r'<div class="math">\(x\)</div>',
    "dead": '<div class="fmtutor-explore"><input type="range" disabled style="visibility:hidden"><p>still</p></div>',
}


@pytest.mark.parametrize("kind", PLANTED)
def test_the_checks_find_what_is_planted(browser: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html><body><article>{PLANTED[kind]}</article></body></html>")
    with Visit(browser, width=390) as visit:
        page = visit.open(path)
        found = {
            "request": lambda: bool(visit.requests),
            "error": lambda: bool(visit.errors),
            "sideways": lambda: page.evaluate(SIDEWAYS) > 0,
            "math": lambda: bool(page.evaluate(RAW_MATH)),
            "dead": lambda: not responds(page, page.query_selector(FIGURE)),
        }
        assert found[kind]()
