"""The cells of chapter 9 that compare, draw or print: what stands in a column or a panel is what its title says."""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from pages import Slip, beginning, cells, functions, judge, numbers, run, with_slips
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from fmtutor import AffinePath, GaussianMixture, guide, inpaint, solve

PAGE = "09_guidance"


@cache
def start() -> dict[str, Any]:
    return beginning(PAGE, ("mixed", "with_label", "spread"), "group_at = torch.tensor", "angle = torch.linspace")


def page(**more: Any) -> dict[str, Any]:
    return start() | more


@pytest.fixture(autouse=True)
def nothing_drawn_is_left() -> Any:
    yield
    plt.close("all")


class Exact(nn.Module):
    """The two crescents and both of them, exactly; `steps` says how long it was trained, and worsens the answer."""

    def __init__(self, steps: int = 10**9) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, t: Any, x: Tensor, label: Tensor) -> Tensor:
        targets = (*start()["crescents"], start()["both"])
        at = torch.as_tensor(t).clamp(max=0.999)
        answers = torch.stack([AffinePath().marginal_velocity(at, x, target) for target in targets])
        return answers[label, torch.arange(len(x))] + 1 / self.steps


@with_slips(
    ("x1, torch.rand(n))", "x1, torch.rand(1).expand(n))"),
    ("torch.randn(n, 2), x1", "torch.randn(1, 2).expand(n, 2), x1")
)  # fmt: skip
def test_each_pair_has_its_own_time_and_noise(slip: Slip) -> None:
    known, seen = page(), []

    def network(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        noise = x / (1 - t[:, None])  # all data are at 0
        seen.append(min(t.std().item() / 0.29, noise.std(0).min().item()))
        return torch.zeros_like(x)

    torch.manual_seed(0)
    crescents = [GaussianMixture(torch.zeros(1, 2), 1e-3)] * 2
    functions(PAGE, known | {"crescents": crescents}, "loss", slip=slip)(network, n=5000)
    judge(max(0.0, 0.9 - seen[0]), slip, 0.01, 0.2)


@with_slips(("kept[100]", "kept[500]"), ("copy.deepcopy(network)", "network"), ("log_every=100", "log_every=50"))
def test_the_early_copy_is_early(slip: Slip) -> None:
    """A training that counts its steps in the network."""
    known = page(Labelled=lambda width: Exact(0))

    def fit(network: Any, loss: Any, *, steps: int, callback: Any, log_every: int) -> str:
        for step in range(log_every, steps + 1, log_every):
            network.steps = step
            callback(step)
        if log_every != 100:
            network.steps = 10**6
        return "done"

    known["fit"] = fit
    (cell,) = [cell for cell in cells(PAGE) if "early = kept" in cell]
    code = cell[cell.index("torch.manual_seed(0)\nnetwork") :]
    exec(code.replace(*slip) if slip[0] else code, known)
    judge(abs(known["early"].steps - 100) + abs(known["network"].steps - 500), slip, 1, 50)


@with_slips(
    ("(*crescents, both)", "(both, *crescents)"), ("with_label(network, k), path", "with_label(network, 0), path"),
)  # fmt: skip
def test_the_table_of_learned_fields(slip: Slip) -> None:
    """The exact ones in the network's place: zeros on the diagonal, and in its last row less than in the others."""
    torch.manual_seed(0)
    told = run(PAGE, page(network=Exact()), "mean square error of the field", slip=slip).splitlines()[3:]
    rows = torch.tensor([numbers(line[9:]) for line in told])
    off = rows.diagonal().abs().max().item() + (rows[:2].sum() < 4).item() + (rows[2, :2].max() > 0.7).item()
    judge(off, slip, 0.02, 0.05)


@with_slips(
    ("w * group.log_prob(end) + (1 - w)", "(1 - w) * group.log_prob(end) + w"), ("- log_h", "+ log_h"),
    ("toll(way.states[:-1]", "toll(way.states[1:]"),
)  # fmt: skip
def test_the_theorem_point_by_point(slip: Slip) -> None:
    torch.manual_seed(0)
    told = run(PAGE, page(), "by the flow   by the theorem", slip=slip).splitlines()[2:]
    assert len(told) == 5
    judge(max(abs(a - b) for a, b in map(numbers, told)), slip, 0.02, 0.04)


@with_slips(
    ("(1 - w) * 0.2:8.2f", "(w - 1) * 0.2:8.2f"),
    ("0.6**2:9.2f", "0.6:9.2f"),
    ("mixed(*fields, w)", "mixed(*fields, 1)"),
)
def test_the_table_of_equal_shapes(slip: Slip) -> None:
    torch.manual_seed(0)
    rows = [numbers(line) for line in run(PAGE, page(), "all_of_them = ", slip=slip).splitlines()[2:]]
    judge(max(abs(row[1] - row[2]) + abs(row[3] - row[4]) for row in rows), slip, 0.04, 0.1)


def two_blobs(w: float, m: float = 1.0, s: float = 0.6) -> tuple[float, float, float, float]:
    """Mean of the tilted density and of the guided points, and both variances: by quadrature, with p(x) p(y | x)^w."""
    at = torch.linspace(-7, 7, 20_001, dtype=torch.float64)
    all_of_them = torch.exp(-((at - m) ** 2) / (2 * s**2)) + torch.exp(-((at + m) ** 2) / (2 * s**2))
    p = all_of_them * torch.sigmoid(2 * m * at / s**2) ** w
    p = p / p.sum()
    mean = (p @ at).item()

    def velocity(t: float, x: Any) -> Any:  # of the two: only E[x1 | x] differs
        spread = t**2 * s**2 + (1 - t) ** 2
        end = lambda c: c + t * s**2 / spread * (x - t * c)  # noqa: E731
        share = 1 / (1 + np.exp(-2 * t * m * x / spread))
        return ((1 - w) * (share * end(m) + (1 - share) * end(-m)) + w * end(m) - x) / (1 - t)

    noise = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000).numpy()
    ends = solve_ivp(velocity, (0, 1 - 1e-6), noise, rtol=1e-6, atol=1e-6).y[:, -1]
    return mean, ends.mean(), (p @ (at - mean) ** 2).item(), ends.var()


@with_slips(
    ("(1 - w) * pair.log_prob(fine)", "(1 + w) * pair.log_prob(fine)"), ("(fine - mean) ** 2", "fine ** 2"),
    ("for p in (one, pair)", "for p in (one, all_of_them)"), ("[[-1.0], [1.0]]), 0.6)", "[[-1.0], [1.0]]), 0.9)"),
    ("{x.var():8.2f}", "{x.std():8.2f}"),
)  # fmt: skip
def test_two_equal_blobs_are_not_the_case_in_which_the_formula_holds(slip: Slip) -> None:
    """The usual picture: the class against both blobs. By quadrature, and by scipy's solver for 2 000 even points."""
    torch.manual_seed(0)
    known = page()
    run(PAGE, known, "all_of_them = ", ("(1.0, 2.0, 4.0)", "()"))
    told = run(PAGE, known, "pair =", slip=slip).splitlines()[2:]
    rows = {row[0]: row[1:] for row in map(numbers, told)}
    off = max(abs(a - b) for w, row in rows.items() for a, b in zip(row, two_blobs(w), strict=True))
    judge(off, slip, 0.035, 0.04)
    if not slip[0]:
        for w in (2.0, 4.0):
            tilted, guided, tilted_variance, variance = rows[w]
            assert guided > tilted + 0.2
            assert variance < 0.75 * tilted_variance


@with_slips(
    ("gap(tilted, guided), gap(guided, tilted)", "gap(guided, tilted), gap(tilted, guided)"),
    ("gap(log_group, guided)", "gap(guided, log_group)"), ('"not at all": (2.0, 3.0)', '"not at all": (0.0, 3.0)'),
    ("compare(3.0, *part)", "compare(3.0)"),
)  # fmt: skip
def test_the_table_of_intervals(slip: Slip) -> None:
    """In the columns what their headings say, for gaps that are told apart by their names."""
    names = {"tilted": 1.0, "guided": 2.0, "class": 3.0}

    def compare(w: float, first: float = 0.0, last: float = 1.0) -> tuple[str, tuple[str, float]]:
        return "tilted", ("guided", 0.0 if first > 1 else last - first)

    def gap(p: Any, q: Any) -> Tensor:
        name, span = q if isinstance(q, tuple) else (q, 0.0)
        first, more = p if isinstance(p, tuple) else (p, 0.0)
        return torch.tensor(10 * names[first] + names[name] + span + more)

    told = run(PAGE, page(compare=compare, gap=gap, log_group="class"), "gap in nats at w = 3", slip=slip)
    rows = [(line[:12].strip(), numbers(line[12:])) for line in told.splitlines()[3:]]
    spans = {"not at all": 0.0, "0.00 to 0.10": 0.1, "0.10 to 0.50": 0.4, "0.00 to 1.00": 1.0}
    table, off = dict(rows), 0.0
    for name, span in spans.items():
        off = max(off, *(abs(a - b - span) for a, b in zip(table[name], (12, 21, 32), strict=True)))
    judge(off, slip, 0.01, 0.05)


@with_slips(
    ("(1 - t) / t * pull", "t / (1 - t) * pull"), ("-off.square()", "off.square()"), ("x + (1 - t) * u", "x + t * u"),
    ("where(known, image", "where(~known, image"), ("(2 * (1 - t) ** 2)", "(1 - t) ** 2"),
)  # fmt: skip
def test_the_field_that_fills_in_is_that_of_the_package(slip: Slip) -> None:
    """At several times, and for standard normal data by its closed form: each known one is pulled to its value."""
    known = page()
    filled_in = functions(PAGE, known, "filled_in", slip=slip)
    image, where, x = torch.tensor([0.0, 0.4]), torch.tensor([False, True]), torch.randn(50, 2)
    off = 0.0
    for t in (0.2, 0.5, 0.8):
        ours = filled_in(known["labelled"], t, x, image, where)
        theirs = inpaint(known["labelled"], AffinePath(), image, where)(t, x)
        off = max(off, ((ours - theirs).abs().max() / theirs.abs().max()).item())
        plain = lambda t, x: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # noqa: E731
        pulled = filled_in(plain, t, x, image, where)[:, 1]
        off = max(off, (pulled - (0.4 - x[:, 1]) / (1 - t)).abs().max().item())  # u(x | x1) of the linear path
    judge(off, slip, 1e-4, 1e-2)


@with_slips(
    ("log_everything, log_group, tilted, guided)", "log_everything, log_group, guided, tilted)"),
    (".view(side, side).T", ".view(side, side)"),
    ('"tilted, w = 3", "guided, w = 3"', '"guided, w = 3", "tilted, w = 3"'),
)  # fmt: skip
def test_the_panels_of_the_plane(slip: Slip) -> None:
    """Each panel holds the density of its title, with the first coordinate to the right."""
    torch.manual_seed(0)
    line = (torch.arange(50) + 0.5) / 50 * 9 - 4.5
    x = torch.cartesian_prod(line, line)
    centres = {
        "all data": (2.0, 0.0),
        "the class": (-2.0, 1.0),
        "tilted, w = 3": (1.0, 2.0),
        "guided, w = 3": (0.0, -3.0),
    }
    logs = {k: GaussianMixture(torch.tensor([c]), 0.4).log_prob(x) for k, c in centres.items()}
    known = page(side=50, limit=4.5, log_everything=logs["all data"], log_group=logs["the class"])
    known["pairs"] = {3.0: (logs["tilted, w = 3"], logs["guided, w = 3"])}
    run(PAGE, known, 'titles = ["all data"', slip=slip)
    off = 0.0
    for ax in known["axes"]:
        image = torch.as_tensor(ax.images[0].get_array())
        found = torch.stack([image.sum(0) @ line, image.sum(1) @ line]) / image.sum()
        off = max(off, (found - torch.tensor(centres[ax.get_title()])).abs().max().item())
    judge(off, slip, 0.02, 0.5)


@with_slips(
    ("autoguide(asked, with_label(early, 0), 2.0)", "autoguide(with_label(early, 0), asked, 2.0)"),
    ("guide(network, 0, 1.5, NONE)", "guide(network, NONE, 1.5, 0)"), ("interval=(0.5, 1.0)", "interval=(0.0, 0.5)"),
    ('"100 steps, w = 1": with_label(early, 0)', '"100 steps, w = 1": asked'),
    ("solve(field, noise", "solve(asked, noise"),
)  # fmt: skip
def test_the_fields_of_the_crescent(slip: Slip) -> None:
    """Each by its own formula, for networks whose answers are known."""
    network, early = Exact(), Exact(2)
    known = page(network=network, early=early)
    torch.manual_seed(0)
    run(PAGE, known, '"autoguided, w = 2":', ("n = 4000", "n = 20"), slip=slip)
    ask = lambda net, t, x, k: net(t, x, torch.full((len(x),), k))  # noqa: E731
    formulas = {
        "w = 1": lambda t, x: ask(network, t, x, 0),
        "w = 1.5": lambda t, x: 1.5 * ask(network, t, x, 0) - 0.5 * ask(network, t, x, 2),
        "w = 2": lambda t, x: 2 * ask(network, t, x, 0) - ask(network, t, x, 2),
        "w = 2, t above 0.5": guide(network, 0, 2.0, 2, interval=(0.5, 1.0)),
        "autoguided, w = 2": lambda t, x: 2 * ask(network, t, x, 0) - ask(early, t, x, 0),
        "100 steps, w = 1": lambda t, x: ask(early, t, x, 0),
    }
    ends = {k: solve(f, known["noise"], times=[0.0, 0.5, 1.0], steps=20).x for k, f in formulas.items()}
    judge(max((known["drawn"][k] - end).abs().max().item() for k, end in ends.items()), slip, 1e-3, 1e-2)


@with_slips(("manual_seed(4)", "manual_seed(w)"), ("manual_seed(3)", "manual_seed(w)"), ("scale=w", "scale=1"))
def test_every_row_of_clothes_begins_with_the_same_noise(slip: Slip) -> None:
    asked: list[tuple[float, int]] = []

    def sample(n: int, label: Any, scale: float, steps: int, generator: Any) -> Tensor:
        asked.append((float(scale), generator.initial_seed()))
        return torch.rand(n, 1, 2, 2)

    nothing = types.SimpleNamespace(
        pretrained=lambda _: types.SimpleNamespace(sample=sample), grid=lambda *_, **__: None,
        pretrained_classifier=lambda _: lambda x: torch.zeros(len(x), 10), confidence=lambda _, x: torch.ones(len(x)),
    )  # fmt: skip
    known = page(images=nothing)
    run(PAGE, known, "same_noise = torch.Generator().manual_seed(3)", slip=slip)
    run(PAGE, known, "same_noise = torch.Generator().manual_seed(4)", slip=slip)
    scales, seeds = zip(*asked, strict=True)
    off = len(set(seeds[:3])) + len(set(seeds[3:])) - 2 + (scales != (1.0, 2.0, 4.0) * 2)
    judge(float(off), slip, 0.5, 0.5)


@with_slips(
    ("{row['confidence']:6.3f}", "{row['frechet']:6.3f}"), ("rows, real_ones =", "real_ones, rows ="),
    ("t > {row['first']:g}", "t > {row['w']:g}"), ('"w = {row[\'w\']:g}{part}"', '"w = {row[\'first\']:g}{part}"'),
)  # fmt: skip
def test_the_table_of_the_longer_run(slip: Slip) -> None:
    """Each number under its own heading, and each row with its weight and its times."""
    row = lambda w, first, frechet: {  # noqa: E731
        "w": w, "first": first, "read_as_asked": 0.25, "confidence": 0.5, "apart": 7.0, "frechet": frechet,
    }  # fmt: skip
    found = {
        "measured": {
            "rows": [row(1.0, 0.0, 40.0), row(3.0, 0.5, 30.0), row(5.0, 0.0, 90.0)],
            "real": row(0.0, 0.0, 20.0),
            "protocol": {"images": 11},
        },
        "machine": {"cores": 2, "processor": "a processor"}, "date": "today", "commit": "none",
    }  # fmt: skip
    try:
        told = run(PAGE, page(results=lambda name: {"guidance": found}[name]), "show_row(", slip=slip).splitlines()
    except (TypeError, KeyError):
        assert slip[0]
        return
    rows = [numbers(line[14:].replace("%", "")) for line in told[2:6]]
    right = [[25.0, 0.5, 7.0, distance] for distance in (40.0, 30.0, 90.0, 20.0)]
    names = [line[:14].strip() for line in told[2:6]] == ["w = 1", "w = 3, t > 0.5", "w = 5", "real"]
    judge(float(rows != right or not names), slip, 0.5, 0.5)


@with_slips(
    ("** 2) / 0.5)", "** 2) / 0.25)"), ("normal @ weight", "normal @ weight.flip(0)"), ("density=True", "density=False")
)
def test_the_histogram_stands_beside_the_exact_density(slip: Slip) -> None:
    """Line and bars hold one each, and the line has the mean and the variance of the mixture."""
    weight = torch.tensor([0.8, 0.2])
    known = page(two_bumps=torch.tensor([[-1.5, 0.5], [1.5, -0.5]]), found={2: (torch.randn(4000, 2), weight)})
    run(PAGE, known, "ax.hist(x[:, 0]", slip=slip)
    (line,), bars = known["ax"].lines, known["ax"].patches
    at, p = (torch.as_tensor(part) for part in line.get_data())
    step = at[1] - at[0]
    mean = (p * at).sum() * step
    off = abs(p.sum() * step - 1) + abs(mean - (0.8 * -1.5 + 0.2 * 1.5)) + abs((p * at**2).sum() * step - 2.25 - 0.25)
    off += abs(sum(bar.get_width() * bar.get_height() for bar in bars) - 1)
    judge(float(off), slip, 0.01, 0.05)


@with_slips(
    ("seen[:, :14]", "seen[:, 14:]"), ("torch.where(seen, originals, 0.0)", "torch.where(seen, 0.0, originals)")
)
def test_the_rows_of_half_pictures(slip: Slip) -> None:
    """Originals, the upper half of them, and two fillings that keep it."""
    shown: list[Tensor] = []
    originals = 0.6 * torch.ones(6, 1, 28, 28)
    network = lambda t, x, label: (2 * t - 1) / (t**2 + (1 - t) ** 2) * x  # of standard normal data  # noqa: E731
    known = page(
        model=types.SimpleNamespace(network=network, path=AffinePath(), sample=lambda *_, **__: originals),
        images=types.SimpleNamespace(grid=lambda x, **_: shown.append(x)),
    )
    run(PAGE, known, "filling = inpaint", slip=slip)
    whole, half, *filled = shown[0].split(6)
    off = (whole - originals).abs().max() + (half[:, :, :14] - 0.6).abs().max() + half[:, :, 14:].abs().max()
    off += sum((x[:, :, :14] - 0.6).abs().mean() for x in filled) / 2
    different = (filled[0] - filled[1])[:, :, 14:].abs().mean()
    judge(float(off) + float(different < 0.1), slip, 0.02, 0.1)
