"""The figures show the numbers they claim to: a script's arithmetic is run by node and compared with torch."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fmtutor import explore
from fmtutor.distributions import GaussianMixture
from fmtutor.schedules import Linear, Schedule, VariancePreserving

VIEW = "application/vnd.jupyter.widget-view+json"
POINTS = torch.tensor([-2.2, -0.4, 0.9, 2.0], dtype=torch.float64)


def line(t: float) -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1], [0, t])
    return figure


def cloud(n: int = 300, frames: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x0, times = torch.randn(n, 2, generator=generator), torch.linspace(0, 1, frames)
    x1 = x0.sign() + 0.2 * torch.randn(n, 2, generator=generator)
    return torch.stack([torch.lerp(x0, x1, t) for t in times]), times


def runs(n: int = 40, steps: tuple[int, ...] = (1, 2, 4, 64)) -> tuple[Any, torch.Tensor]:
    """Two paths and three solvers, each run another set of numbers; one point flies far off."""
    generator, reference = torch.Generator().manual_seed(2), cloud(n)[0][-1]
    made = {
        path: {
            method: [reference + torch.randn(k + 1, n, 2, generator=generator) / k for k in steps]
            for method in ("euler", "rk4", "midpoint")
        }
        for path in ("linear", "VP & co")
    }
    made["linear"]["euler"][0][-1, 0] = torch.tensor([300.0, -50.0])
    return made, reference


FIGURES = {
    "frames": lambda: explore.frames(line, [0.0, 0.5, 1.0], alt="A line that rises & <falls>"),
    "guidance": lambda: explore.guidance(
        torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.0]]), torch.tensor([1, 0, 0]), 1, alt="A pair & <planes>"
    ),
    "marginal_velocity": lambda: explore.marginal_velocity(POINTS, alt="A plane & <points>"),
    "particles": lambda: explore.particles(*cloud(), alt="A cloud & <dots>"),
    "samplers": lambda: explore.samplers(POINTS, alt="A few lines & <dots>"),
    "solvers": lambda: explore.solvers(*runs(), alt="A cloud & <steps>"),
}


def numbers(figure: Any) -> dict[str, Any]:
    """The numbers as they stand in the page."""
    page = figure.html()
    start = page.index("const data = ") + len("const data = ")
    return json.JSONDecoder().raw_decode(page, start)[0]


@pytest.mark.parametrize("name", FIGURES)
def test_one_object_two_faces(name: str) -> None:
    bundle = FIGURES[name]()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", VIEW}
    assert bundle[VIEW]["model_id"]


@pytest.mark.parametrize("name", FIGURES)
def test_page_needs_nothing_from_outside(name: str) -> None:
    page = FIGURES[name]().html()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"\bimport\b|src=\"(?!data:)|url\(", page)
    assert page.startswith('<div class="fmtutor-explore" id="')
    assert "&amp; &lt;" in page
    assert 'aria-label="A' in page
    assert all("aria-label" in slider for slider in re.findall(r"<input[^>]*>", page))


@pytest.mark.parametrize("name", FIGURES)
def test_twice_on_a_page(name: str) -> None:
    figure = FIGURES[name]()
    names = [re.search(r'id="([^"]+)"', figure.html()) for _ in range(2)]
    assert len({name[1] for name in names if name}) == 2


def test_scripts_are_valid() -> None:
    node = shutil.which("node") or pytest.skip("no node here")
    for make in FIGURES.values():
        script = re.findall(r"<script>(.*?)</script>", make().html(), re.DOTALL)[0]
        done = subprocess.run([node, "--check", "-"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_frames_are_drawn_in_the_order_of_the_values() -> None:
    seen: list[float] = []
    figure = explore.frames(lambda t: (seen.append(t), line(t))[1], [0.0, 0.5, 1.0], label="time")
    told = numbers(figure)
    assert seen == [0.0, 0.5, 1.0]
    assert told["names"] == ["0.00", "0.50", "1.00"]
    assert len(set(told["frames"])) == 3
    assert all(frame.startswith("data:image/webp;base64,") for frame in told["frames"])


@pytest.mark.parametrize(("kind", "magic"), [("webp", b"RIFF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_frames_hold_pictures(kind: str, magic: bytes) -> None:
    for picture in (line(0.5), torch.rand(4, 4), np.zeros((4, 4, 3), dtype=np.uint8)):
        frame = numbers(explore.frames(lambda _, picture=picture: picture, [1], kind=kind))["frames"][0]
        raw = base64.b64decode(frame.split(",")[1])
        assert raw.startswith(magic if isinstance(picture, Figure) or kind != "svg" else b"\x89PNG")


def test_widgets_draw_live() -> None:
    figure = explore.frames(line, [0.0, 1.0])
    picture, controls = figure.widget().children
    first = picture.value
    controls.children[1].index = 1
    assert picture.value != first
    picture, controls = FIGURES["marginal_velocity"]().widget().children
    first = picture.value
    controls.children[1].value = 1.3
    assert picture.value != first
    picture, controls = FIGURES["particles"]().widget().children
    first = picture.value
    controls.children[1].index = 2
    assert picture.value != first
    picture, controls = FIGURES["solvers"]().widget().children
    for control in controls.children:  # path, solver, steps
        first, control.index = picture.value, 1
        assert picture.value != first


def in_node(expression: str, figure: Any) -> Any:
    """What a function of the plane's script answers, with the page's own numbers."""
    node = shutil.which("node") or pytest.skip("no node here")
    script = resources.files("fmtutor.explore").joinpath("marginal_math.js").read_text()
    told = json.dumps(numbers(figure))
    program = f"const d = {told};\n{script}\nconsole.log(JSON.stringify({expression}))"
    return json.loads(subprocess.run([node], input=program, capture_output=True, text=True, check=True).stdout)


def places(schedule: Schedule, flip: bool = False) -> float:
    """The largest difference, over a grid of places, between the script and a softmax written out here."""
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    figure = explore.marginal_velocity(POINTS, weights=weights, schedule=schedule)
    grid = [(t, x) for t in (0.0, 0.123, 0.5, 0.777, 0.9513, 0.99) for x in (-3.0, -0.41, 0.0, 1.7)]
    here = "weigh(coefficients(d.table, d.t_max, t), d.points, d.weights, x)"
    told = in_node(f"{json.dumps(grid)}.map(([t, x]) => {here})", figure)
    worst = 0.0
    for (t, x), answer in zip(grid, told, strict=True):
        time = torch.tensor([t], dtype=torch.float64)
        a, s, da, ds = schedule.alpha(time), schedule.sigma(time), schedule.d_alpha(time), schedule.d_sigma(time)
        normal = torch.distributions.Normal(a * POINTS, s.expand(4))
        joint = weights.log() + normal.log_prob(torch.tensor(x, dtype=torch.float64))
        posterior = torch.softmax(joint, 0)
        velocity = ((-1 if flip else 1) * ds / s * (x - a * POINTS) + da * POINTS) @ posterior
        pairs = [
            (answer["velocity"], velocity.item()),
            (answer["logDensity"], joint.logsumexp(0).item()),
            *zip(answer["posterior"], posterior.tolist(), strict=True),
        ]
        worst = max(worst, *(abs(one - other) / (1 + abs(other)) for one, other in pairs))
    return worst


def test_script_agrees_with_softmax() -> None:
    assert places(Linear()) < 1e-6
    assert places(Linear(0.1)) < 1e-6
    assert places(VariancePreserving()) < 1e-4  # its table is interpolated
    assert places(Linear(), flip=True) > 0.1  # the same comparison rejects a wrong sign


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.1, 0.4, 0.3, 0.2]])
def test_python_face_agrees_with_the_mixture(weights: list[float]) -> None:
    share = torch.tensor(weights, dtype=torch.float64)
    figure = explore.marginal_velocity(POINTS, weights=share)
    posterior, velocities, mean = figure.weigh(0.6, 0.3)
    target = GaussianMixture(POINTS[:, None], 1e-9, share)
    data = target.posterior_mean(torch.tensor([[0.3]], dtype=torch.float64), torch.tensor(0.6), torch.tensor(0.4))
    assert mean == pytest.approx((data.item() - 0.3) / 0.4, abs=1e-6)
    assert posterior.sum().item() == pytest.approx(1)
    assert velocities.tolist() == pytest.approx(((POINTS - 0.3) / 0.4).tolist())


def test_trajectory_of_one_cluster_is_straight() -> None:
    """With one place for all data every path is straight, so the marginal trajectory ends where the line does."""
    figure = explore.marginal_velocity(torch.full((2,), 1.5, dtype=torch.float64))
    for end in (0.0, 0.99):
        told = in_node(f"trajectory(d.table, d.t_max, d.points, d.weights, 0.4, -0.7, {end}, 80).at(-1)", figure)
        assert told == pytest.approx([end, -0.7 + (end - 0.4) * (1.5 + 0.7) / 0.6], abs=1e-6)


def test_particles_come_back_from_the_page() -> None:
    states, times = cloud()
    told = numbers(explore.particles(states, times))
    steps = np.frombuffer(base64.b64decode(told["states"]), dtype="<u2").reshape(states.shape)
    back = told["low"] + steps * (told["high"] - told["low"]) / 65535
    assert np.abs(back - states.numpy()).max() <= (told["high"] - told["low"]) / 65535
    assert told["times"] == pytest.approx(times.tolist(), abs=1e-5)
    assert len(base64.b64decode(told["shades"])) == told["count"] == 300
    assert max(base64.b64decode(told["shades"])) < len(told["palette"])


def test_the_runs_come_back_from_the_page_in_their_order() -> None:
    """Ends, corners and errors of every run, where the script looks for them; what flies off stands at the edge."""
    made, reference = runs()
    told = numbers(explore.solvers(made, reference))
    ends, corners = (np.frombuffer(base64.b64decode(told[key]), dtype="<u2") for key in ("ends", "corners"))
    unit, per_method = 2 * told["reach"] / 65535, 2 * told["ways"] * sum(told["knots"])
    assert told["knots"] == [2, 3, 5, 33]
    assert told["looks"] == [1, 4, 2]
    for p, path in enumerate(made):
        for m, method in enumerate(made[path]):
            for k, states in enumerate(made[path][method]):
                run = (p * 3 + m) * 4 + k
                seen = ends[run * 80 : (run + 1) * 80].reshape(40, 2) * unit - told["reach"]
                assert np.abs(seen - states[-1].clamp(-told["reach"], told["reach"]).numpy()).max() <= unit
                first = (p * 3 + m) * per_method + 2 * told["ways"] * sum(told["knots"][:k])
                way = corners[first : first + 2 * told["ways"] * told["knots"][k]].reshape(told["knots"][k], 32, 2)
                wanted = states[:: 2 if k == 3 else 1, :32].clamp(-told["reach"], told["reach"])
                assert np.abs(way * unit - told["reach"] - wanted.numpy()).max() <= unit
                error = ((states[-1] - reference) ** 2).sum(1).mean() ** 0.5
                assert told["errors"][p][m][k] == pytest.approx(error.item(), rel=1e-3)
    assert told["errors"][0][0][0] > 40  # the one that flies off counts in full


def test_the_script_finds_the_numbers_of_a_run() -> None:
    """`runOf` and `cornersOf`, as they stand in the script, for every choice."""
    node = shutil.which("node") or pytest.skip("no node here")
    script = resources.files("fmtutor.explore").joinpath("solvers.js").read_text()
    start, end = script.index("const runOf"), script.index("// The ends as they are drawn")
    per_run = re.search(r"const perRun = .*", script)
    assert per_run
    program = (
        f"const data = {json.dumps(numbers(FIGURES['solvers']()))}; const {{ steps }} = data; {per_run[0]}\n"
        f"{script[start:end]}\n"
        "const all = [0, 1].flatMap(path => [0, 1, 2].flatMap(method => [0, 1, 2, 3].map(k => ({ path, method, k }))));"
        "console.log(JSON.stringify(all.map(choice => [runOf(choice), cornersOf(choice)])))"
    )
    told = json.loads(subprocess.run([node], input=program, capture_output=True, text=True, check=True).stdout)
    lengths = [2 * 32 * knots for _ in range(6) for knots in (2, 3, 5, 33)]
    assert told == [[run, sum(lengths[:run])] for run in range(24)]


def test_landing_size() -> None:
    states, times = cloud(1500, 40)
    target = GaussianMixture(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), 0.2)
    assert len(explore.particles(states, times, target).html()) < 400_000
    assert len(FIGURES["marginal_velocity"]().html()) < 40_000


def test_the_density_stands_upright() -> None:
    """One blob at the upper left: the brightest byte is in the first rows and the first columns."""
    states, times = cloud()
    told = numbers(explore.particles(states, times, GaussianMixture(torch.tensor([[-1.0, 1.0]]), 0.1)))
    pixels = np.frombuffer(base64.b64decode(told["density"]), dtype=np.uint8)
    side = int(len(pixels) ** 0.5)
    row, column = divmod(int(pixels.argmax()), side)
    centre = (1 - 1 / told["limit"]) / 2 * side
    assert abs(row - centre) < 2
    assert abs(column - centre) < 2


def test_particles_between_frames() -> None:
    states, times = cloud()
    figure = explore.particles(states, times)
    assert torch.allclose(figure.at(0.3), torch.lerp(states[2], states[3], 0.4), atol=1e-5)
    assert torch.equal(figure.at(0.0), states[0])
    assert torch.equal(figure.at(1.0), states[-1])


STATES, TIMES = cloud()
RUNS, ENDS = runs(5, (1, 2))


def changed(**methods: Any) -> Any:
    return {**RUNS, "linear": {**RUNS["linear"], **methods}}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: explore.frames(line, []), ValueError, "start"),
        (lambda: explore.frames(line, [1.0], kind="gif"), ValueError, "'webp'"),
        (lambda: explore.frames(lambda _: np.zeros(3), [1.0]).html(), ValueError, r"\(3,\)"),
        (lambda: explore.marginal_velocity(torch.tensor([1, 2])), TypeError, "data"),
        (lambda: explore.marginal_velocity(torch.tensor([1.0])), ValueError, "2 to 12"),
        (lambda: explore.marginal_velocity(torch.tensor([1.0, float("nan")])), ValueError, "finite"),
        (lambda: explore.marginal_velocity(POINTS, weights=torch.ones(3)), ValueError, "weights"),
        (lambda: explore.marginal_velocity(POINTS, weights=torch.zeros(4)), ValueError, "above 0"),
        (lambda: explore.marginal_velocity(POINTS, start=(1.0, 0.0)), ValueError, "start"),
        (lambda: explore.particles(STATES[0], TIMES), ValueError, "frames, n, 2"),
        (lambda: explore.particles(STATES, TIMES[1:]), ValueError, "times"),
        (lambda: explore.particles(STATES, TIMES.flip(0)), ValueError, "increase"),
        (lambda: explore.particles(STATES * float("inf"), TIMES), ValueError, "finite"),
        (lambda: explore.particles(STATES, TIMES, color="red"), ValueError, "'final'"),
        (lambda: explore.solvers({}, ENDS), ValueError, "at least one path"),
        (lambda: explore.solvers(RUNS, ENDS[:, 0]), ValueError, "reference"),
        (lambda: explore.solvers(RUNS, ENDS[1:]), ValueError, r"steps \+ 1, 4, 2"),
        (lambda: explore.solvers(changed(dopri5=RUNS["linear"]["euler"]), ENDS), ValueError, "solver must be one of"),
        (lambda: explore.solvers(changed(heun2=RUNS["linear"]["euler"]), ENDS), ValueError, "the same solvers"),
        (lambda: explore.solvers(changed(euler=RUNS["linear"]["euler"][1:]), ENDS), ValueError, "numbers of steps"),
        (lambda: explore.solvers({"x": {"euler": RUNS["linear"]["euler"][::-1]}}, ENDS), ValueError, "must rise"),
        (lambda: explore.solvers(changed(euler=[float("nan") * ENDS[None]]), ENDS), ValueError, "finite"),
        (lambda: explore.solvers(RUNS, ENDS, start=("cosine", "euler")), ValueError, "start must be a path of"),
        (lambda: explore.solvers(RUNS, ENDS, ring=0.0), ValueError, "ring"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", FIGURES)
def test_a_reader_without_scripts_sees_a_picture_and_is_told_what_is_missing(name: str) -> None:
    page = FIGURES[name]().html()
    without = re.search(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert without is not None
    assert "JavaScript" in without[1]
    still = without[1] if "<canvas" in page else page.replace(without[0], "")
    assert len(re.findall(r'<img [^>]*src="data:image/(?:webp|png|svg)[^"]{100,}"', still)) == 1
