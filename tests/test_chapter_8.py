"""What chapter 8 writes from scratch, by a second route; what it reads from `book/results/`; its long cells, small."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import RIGHT, Slip, functions, judge, numbers, run, with_slips

from fmtutor import AffinePath, ContinuousFlow, Empirical, StandardNormal, images, plots, results
from fmtutor.images import ImageModel, Images, UNet
from fmtutor.images.judge import judge as judge_images

ROOT = Path(__file__).parents[1]
PAGE = "08_images"
CURVE = [
    {"step": 1000 * k, "seconds": 230.0 * k, "cpu_seconds": 200.0 * k, "frechet": 40.0 / k, "kernel": 1500.0 / k**2}
    for k in range(1, 21)
]


@cache
def start() -> dict[str, Any]:
    known: dict[str, Any] = {}
    run(PAGE, known, "from torch import nn", ("plots.use_style()", ""))
    return known


def page(**more: Any) -> dict[str, Any]:
    return start() | more


# From scratch


@with_slips(("1 - t) ** 2", "1 - t)"), ("t**2 * digits", "t * digits"), ("weight @ digits - points", "weight @ digits"))
def test_the_exact_field_of_a_list_of_images(slip: Slip) -> None:
    digits = start()["train"][:40]
    field = functions(PAGE, page(rows=digits.flatten(1)), "exact", slip=slip)
    t, x, _ = AffinePath().sample(torch.randn(8, 1, 8, 8), digits[:8], torch.linspace(0.1, 0.7, 8))
    truth = AffinePath().marginal_velocity(t, x.double(), Empirical(digits))
    judge((field(t, x.double()) - truth).abs().max().item(), slip, 1e-9, 1e-2)


@with_slips(("2 / (levels - 1)", "2 / levels"), ("2 / (levels - 1)", "1 / (levels - 1)"),
            ("- math.log2", "+ math.log2"), ("math.log(2)", "1"))  # fmt: skip
def test_bits_of_a_density_that_is_known(slip: Slip) -> None:
    """A density that is the same in every cell and sums up to one: each image costs what a table of cells says."""
    bits = functions(PAGE, page(), "bits", slip=slip)
    for levels in (4, 17, 256):
        share = torch.rand(levels, dtype=torch.float64) + 0.1
        share = share / share.sum()
        image = torch.randint(levels, (50, 6))
        log_p = (share / (2 / (levels - 1))).log()[image].sum(1)  # of pixels, each somewhere in its cell
        off = (bits(log_p, 6, levels) - -share.log2()[image].mean(1)).abs().max().item()
        judge(off, slip, 1e-9, 1e-3)


@with_slips((" - 0.5", ""), ("2 / (levels - 1)", "2 / levels"), ("rand_like", "randn_like"))
def test_spread_fills_the_cells_and_leaves_none(slip: Slip) -> None:
    spread, off = functions(PAGE, page(), "spread", slip=slip), 0.0
    for levels in (4, 17):
        grey = torch.randint(levels, (2000, 1)) * 2 / (levels - 1) - 1
        where = (spread(grey, levels) - grey) * (levels - 1) / 2  # in widths of a cell, uniform around its middle
        outside = (where.abs() > 0.5 + 1e-5).float().mean()
        off = max(off, (where.mean().abs() + (where.std() - 12**-0.5).abs() + outside).item())
    judge(off, slip, 0.05, 0.06)


def gaussian() -> dict[str, Any]:
    """Mean, covariance and its axes, as the page names them."""
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    m, S = torch.arange(5.0, dtype=torch.float64), root @ root.T + 0.01 * torch.eye(5, dtype=torch.float64)
    values, axes = torch.linalg.eigh(S)
    return {"m": m, "S": S, "values": values, "axes": axes}


@with_slips(("t * values - (1 - t)", "t * values + (1 - t)"), ("x - t * m", "x - m"), ("@ axes.T", "@ axes"),
            ("m + pull", "pull"))  # fmt: skip
def test_the_field_of_a_gaussian(slip: Slip) -> None:
    """Against the score of the Gaussian on its way, turned into a velocity by the path."""
    known = page(**gaussian())
    field = functions(PAGE, known, "gaussian_velocity", slip=slip)
    x, off = torch.randn(20, 5, dtype=torch.float64), 0.0
    for t in (0.2, 0.5, 0.9):
        spread = t**2 * known["S"] + (1 - t) ** 2 * torch.eye(5, dtype=torch.float64)
        score = -torch.linalg.solve(spread, (x - t * known["m"]).T).T
        off = max(off, (field(t, x) - AffinePath().convert(t, x, score, "score", "velocity")).abs().max().item())
    judge(off, slip, 1e-9, 1e-2)


@pytest.fixture(scope="module")
def few_steps() -> tuple[dict[str, Any], list[str]]:
    """What the cell about the Gaussian of the digits leaves, and its lines."""
    known = page()
    return known, run(PAGE, known, "def gaussian_velocity").splitlines()


def test_few_steps_invent_bits_and_many_end_at_the_theory(few_steps: tuple[dict[str, Any], list[str]]) -> None:
    known, said = few_steps
    found = {int(numbers(line)[0]): numbers(line)[-1] for line in said if "midpoint" in line}
    (theory,) = [numbers(line)[-1] for line in said if "theory" in line]
    assert found[2] < theory - 0.1
    assert found[32] == pytest.approx(theory, abs=0.005)
    assert theory < math.log2(17)
    other = torch.distributions.MultivariateNormal(known["m"], 2 * known["S"]).log_prob(known["new"])
    assert abs(known["bits"](other, 64, 17).mean() - theory) > 0.01  # another Gaussian would be seen


def test_what_few_steps_claim_adds_up_to_more_than_one(few_steps: tuple[dict[str, Any], list[str]]) -> None:
    """The claimed log-density of the Gaussian is quadratic, so its integral follows from three values on each axis."""
    known, h = few_steps[0], 0.1
    around = h * known["axes"].T

    def log_mass(log_prob: Any) -> float:
        middle, up, down = (log_prob(known["m"] + off) for off in (torch.zeros(1, 64), around, -around))
        curve, slope = (2 * middle - up - down) / h**2, (up - down) / (2 * h)
        return float(middle + (slope.square() / (2 * curve) + (2 * math.pi / curve).log() / 2).sum())

    flows = [ContinuousFlow(known["gaussian_velocity"], known["wide"], steps=steps) for steps in (2, 8, 64)]
    masses = [log_mass(flow.log_prob) for flow in flows]
    assert masses[0] > masses[1] > 1
    assert abs(masses[2]) < 0.05
    exact = torch.distributions.MultivariateNormal(known["m"], known["S"])
    assert abs(log_mass(exact.log_prob)) < 1e-6


# Results


def verdict() -> dict[str, Any]:
    """A small network, judged as the one in the package will be."""
    x, y = images.digits("test")
    model = ImageModel(UNet(1, width=8, multipliers=(1,)), (1, 8, 8), 17)
    return judge_images(model, images.pretrained_classifier("digits"), Images(x, y), Images(x[:60], y[:60]),
                        samples=30, steps=1, likelihood=4, likelihood_steps=10)  # fmt: skip


def of_clothes() -> dict[str, Any]:
    """What `benchmarks/clothes.py` will have written."""
    return {
        "machine": {"processor": "abacus"},
        "date": "2026-01-01",
        "commit": "abc",
        "measured": {
            "curve": CURVE, "real": {"frechet": 1.5, "kernel": -0.5}, "final": verdict(), "settings": {},
            "calls": [{"method": method, "calls": n, "frechet": 99.0 / n, "kernel": 0.0}
                      for method in ("euler", "midpoint") for n in (2, 4)],
            "parameters": 559_009, "bytes": 1_126_602, "images_seen": 1_280_000, "history_seconds": 4300.0,
        },
    }  # fmt: skip


@pytest.fixture
def drawn() -> Iterator[list[Any]]:
    """The figures of the page."""
    import matplotlib.pyplot as plt

    plots.use_style()
    yield plt.get_fignums  # type: ignore[misc]
    plt.close("all")


def test_a_result_that_is_not_there_is_said_and_nothing_fails() -> None:
    def nothing(name: str) -> Any:
        raise FileNotFoundError(name)

    known = page(results=nothing)
    assert "images_fashion_mnist_cpu: not measured yet" in run(PAGE, known, "def measured(name)")
    assert run(PAGE, known, "steps   minutes") == run(PAGE, known, "verdict(study") == ""
    assert run(PAGE, known, 'measured("image_paths")') == "image_paths: not measured yet\n"


def test_the_curve_of_the_clothes_and_its_table(drawn: Any) -> None:
    known = page(results={"images_fashion_mnist_cpu": of_clothes()}.__getitem__)
    assert run(PAGE, known, "def measured(name)") == ""
    (axes,) = known["fig"].axes
    curve, real = axes.lines
    assert list(curve.get_xdata()) == [row["cpu_seconds"] / 60 for row in CURVE]
    assert list(curve.get_ydata()) == [row["frechet"] for row in CURVE]
    assert set(real.get_ydata()) == {1.5}
    table = run(PAGE, known, "steps   minutes")
    rows = [numbers(line) for line in table.splitlines() if line.startswith(" ") and numbers(line)]
    assert rows[0] == [2000, 6.7, 20.0, 375]
    assert rows[-1][0] == 20_000
    assert len(rows) <= 11
    assert "559,009 weights" in table
    assert "abacus" in table
    told = run(PAGE, known, "verdict(study")
    final = of_clothes()["measured"]["final"]
    for name in final["numbers"]:
        assert name in told
    assert "steps: 1;" in told
    assert numbers(told.splitlines()[-1]) == [4, 24.8, 24.8]
    assert "{" not in told
    assert max(map(len, (table + told).splitlines())) <= 80


@with_slips(('row["frechet"]', 'row["kernel"]'), ('row["cpu_seconds"] / 60', 'row["seconds"] / 60'))
def test_a_slip_in_the_curve_shows(slip: Slip, drawn: Any) -> None:
    known = page(results={"images_fashion_mnist_cpu": of_clothes()}.__getitem__)
    run(PAGE, known, "def measured(name)", slip=slip)
    curve, _ = known["fig"].axes[0].lines
    wanted = [(row["cpu_seconds"] / 60, row["frechet"]) for row in CURVE]
    assert (list(zip(curve.get_xdata(), curve.get_ydata(), strict=True)) == wanted) == (slip == RIGHT)


def test_what_is_said_of_the_clothes_holds_in_the_numbers() -> None:
    found = results("images_fashion_mnist_cpu")["measured"]
    last, real, final = found["curve"][-1], found["real"], found["final"]
    assert abs(last["frechet"] - real["frechet"]) < 0.1 * real["frechet"]  # a thousand images do not tell them apart
    assert final["protocol"]["samples"] == 5000
    assert 1.3 * final["real"]["frechet"] < final["numbers"]["frechet"] < 0.8 * last["frechet"]
    assert final["numbers"]["nearest_training_image"] > 1.05 * final["real"]["nearest_training_image"]
    few = {(row["method"], row["calls"]): row["frechet"] / real["frechet"] for row in found["calls"]}
    assert all(0.9 < few["midpoint", calls] < 1.1 for calls in (8, 16, 32, 64))
    assert few["midpoint", 4] > 1.3
    assert few["euler", 32] < 1.1 < few["euler", 16]
    assert final["numbers"]["bits_per_dim"] < 8


# A run of one's own


@with_slips(('"whole", **small', '"whole", **small, seed=1'), ("images.train(room / \"cut\", **small)",
            'images.train(room / "anew", **{**small, "steps": 39})'))  # fmt: skip
def test_a_run_that_was_cut_ends_where_a_whole_one_does(slip: Slip) -> None:
    known = page()
    said = run(PAGE, known, "def power_cut").splitlines()
    assert said[0] == "no power at step 20"
    assert {"settings.json", "step-00000010.safetensors", "samples-00000020.png"} <= set(said)
    assert "model.safetensors" not in said
    gap = numbers(run(PAGE, known, "mended, _", ('print((room / "cut" / "log.jsonl").read_text())', ""), slip=slip))[-1]
    assert (gap == 0) == (slip == RIGHT)
    assert "batch is 16 there and 32 now" in run(PAGE, known, '"batch": 32')


def test_the_verdict_on_the_digits() -> None:
    known = page(model=UNet(1, width=8), judge=images.pretrained_classifier("digits"))
    functions(PAGE, known, "verdict")
    said = run(PAGE, known, "as_model = ", ("steps=10", "steps=1"))
    assert "samples: 222" in said
    assert numbers(next(line for line in said.splitlines() if line.startswith("calls")))[-1] == 2


def test_the_kernel_distance_of_222_digits_is_noise() -> None:
    features, apart = images.pretrained_classifier("digits").features(images.digits("test").images), []
    for seed in range(20):
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        apart.append(images.kernel_distance(features[order[:222]], features[order[222:444]]))
    assert min(apart) < -3000
    assert max(apart) > 8000


@pytest.mark.usefixtures("_fresh_state")
def test_the_cell_for_a_gpu_runs_with_small_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor, in bf16, on a handful of digits that pose as clothes."""
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    known = page(label=torch.arange(60) % 10, kinds=[str(k) for k in range(10)], display=shown.append)
    functions(PAGE, known, "verdict")
    small = [
        ("torch.cuda.is_available()", "True"), ("torch.cuda.get_device_capability() >= (8, 0)", "True"),
        ('"cuda"', '"cpu"'), ("10_000", "4"), ("=128", "=8, width=8"), ("look_every=1000", "look_every=2"),
        ("fashion_mnist(", "digits("), ('"fashion_mnist"', '"digits"'), ("watch(expert, unseen)", "watch(expert, "
        "unseen, samples=20, steps=1)"), ("known, unseen))", "known, unseen, samples=20, likelihood=0, steps=1))"),
    ]  # fmt: skip
    said = run(PAGE, known, "get_device_capability", *small)
    assert "4 steps" in said
    assert "samples: 20" in said
    assert len(shown[0].axes) == 60
    lines = [json.loads(line) for line in (tmp_path / "clothes" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all("frechet" in line for line in lines)


def test_the_cell_for_a_gpu_says_that_it_did_not_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, and the cell would train for minutes")
    assert run(PAGE, page(), "get_device_capability") == "no GPU here: not run\n"


# The study of paths


@pytest.fixture
def study() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import image_paths

    yield image_paths
    sys.path.remove(str(ROOT / "benchmarks"))


@torch.no_grad()
def test_the_bits_of_the_study_are_those_of_the_package(study: Any) -> None:
    torch.manual_seed(0)
    model = ImageModel(UNet(1, width=8), (1, 8, 8), study.LEVELS, "vp")
    torch.nn.init.normal_(model.network.last[-1].weight, std=0.1)
    x = images.digits("test").images[:20]
    torch.manual_seed(1)
    package = model.bits_per_dim(x, steps=16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    flow = ContinuousFlow(model.network, StandardNormal(1, 8, 8), steps=16, t1=1 - 1e-5, estimator="rademacher")
    torch.testing.assert_close(study.bits(flow.log_prob(study.spread(x))), package, rtol=1e-4, atol=1e-4)
    assert (study.bits(flow.log_prob(x)) - package).abs().max() > 1e-3  # without the spread


def test_the_table_of_the_study(study: Any) -> None:
    """Its columns are means over seeds of what the file holds."""
    try:
        found = results("image_paths")
    except FileNotFoundError:
        pytest.skip("benchmarks/image_paths.py has not been run yet")
    known = page()
    functions(PAGE, known, "measured")
    lines = run(PAGE, known, 'measured("image_paths")').splitlines()
    for row in found["measured"]["rows"]:
        (line,) = [line for line in lines if line.startswith(row["what"].split(" (")[0])]
        mean, spread, frechet, *_ = numbers(line)
        assert mean == pytest.approx(sum(row["bits"]) / 3, abs=6e-4)
        assert spread == pytest.approx(torch.tensor(row["bits"]).std().item(), abs=6e-4)
        assert frechet == pytest.approx(sum(row["frechet"]) / 3, abs=0.06)
    assert max(map(len, lines)) <= 76


def test_what_is_said_of_the_three_paths_holds_in_every_run() -> None:
    try:
        found = results("image_paths")["measured"]
    except FileNotFoundError:
        pytest.skip("benchmarks/image_paths.py has not been run yet")
    linear, cosine, vp = found["rows"]
    for column in ("bits", "frechet"):
        assert min(vp[column]) > max(linear[column] + cosine[column])
        assert min(cosine[column]) < max(linear[column])
        assert min(linear[column]) < max(cosine[column])
    calls = [[run["1e-05"] for run in row["calls"]] for row in (linear, cosine, vp)]
    assert min(calls[2]) > max(calls[0] + calls[1])
    assert max(calls[0]) >= min(calls[1])
    for n in ("2", "4"):
        assert max(run[n] for run in linear["few"]) < min(run[n] for run in cosine["few"])
    for row in (linear, cosine):
        for claimed, bits in zip(row["bits_at"], row["bits"], strict=True):
            assert claimed["2"] < bits
            assert max(claimed["4"], claimed["8"]) < bits - 0.1
    assert all(claimed["1"] > bits + 1 for claimed, bits in zip(vp["bits_at"], vp["bits"], strict=True))
    assert sum(run["16"] for run in vp["bits_at"]) < sum(run["16"] for run in linear["bits_at"])
    assert found["real"]["frechet_of_training_digits"] < min(linear["frechet"]) < found["real"]["frechet"]
    gaps = [a - b for a, b in zip(vp["bits"], linear["bits"], strict=True)]
    assert max(gaps) < 0.11  # of the paper
    assert max(a / b for a, b in zip(vp["frechet"], linear["frechet"], strict=True)) < 8.06 / 6.35
    assert max(a / b for a, b in zip(calls[2], calls[0], strict=True)) < 183 / 142
