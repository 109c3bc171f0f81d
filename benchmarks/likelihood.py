"""Likelihoods through the same trained network, ours beside facebookresearch/flow_matching: error and seconds.

    python benchmarks/likelihood.py            # five to eight minutes on two cores

Their package (licence CC BY-NC) is fetched by pip into a folder of its own, run, and thrown away. Both solve with the
midpoint method. The error is the root mean square over points against a long solve in float64. "Equal error" are the
fewest steps of ours whose error is no larger than theirs with 20. Timed are rounds of theirs, ours, ours; a ratio is a
round's, so that whatever else the machine does touches both. The table goes to `book/results/likelihood.json`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from record import record
from torch import Tensor, nn

from fmtutor import AffinePath, Checkerboard, ContinuousFlow, GaussianMixture, StandardNormal, VelocityMLP

from fmtutor import conditional_flow_matching_loss, fit  # isort: skip

PACKAGE = "flow_matching==1.0.10"
STEPS, POINTS, JUDGED, ROUNDS = 20, 1000, 250, 5
OURS = (2, 4, 6, 8, *range(10, 31), 36, 40)
GOALS = {2: 1 / 2, 16: 1 / 3, 64: 1 / 3}


class PlainMLP(nn.Module):
    """Three layers of 128 that see t and x as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = [nn.Linear(dim + 1, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(128, dim))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t.reshape(-1, 1).expand(len(x), 1)], 1))


@contextmanager
def fetched() -> Iterator[None]:
    """Their package on the path for as long as it is needed; without a network we say so and stop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, PACKAGE]
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            sys.exit(f"Nothing measured: pip could not fetch {PACKAGE} (offline?).\n{done.stderr.strip()[-500:]}")
        sys.path.insert(0, folder)
        yield
        sys.path.remove(folder)


def trained(network: type[nn.Module], dim: int) -> tuple[nn.Module, Tensor]:
    """A network that has learned a checkerboard (2 dimensions) or eight blobs (more), and points of that target."""
    torch.manual_seed(0)
    target: Any = Checkerboard() if dim == 2 else GaussianMixture(1.5 * torch.randn(8, dim), 0.5)
    base, path, net = StandardNormal(dim), AffinePath(), network(dim)

    def loss() -> Tensor:
        return conditional_flow_matching_loss(net, path, base.sample((512,)), target.sample((512,)))

    fit(net, loss, steps=1000, progress=False)
    return net.eval(), target.sample((POINTS,))


def reference(net: nn.Module, x: Tensor) -> Tensor:
    """The log-density by 100 steps of fourth order in float64, checked against 70 of them."""
    base = StandardNormal(x.shape[1]).to(torch.float64)
    long, shorter = (
        ContinuousFlow(net.double(), base, method="rk4", steps=steps).log_prob(x.double()) for steps in (100, 70)
    )
    net.float()
    assert (long - shorter).abs().max() < 1e-3, "the reference has not settled"
    return long


def theirs(net: nn.Module, x: Tensor, exact: bool) -> Callable[[], Tensor]:
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Wrapped(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            return self.model(t, x)

    solver, base = ODESolver(Wrapped(net)), StandardNormal(x.shape[1])
    return lambda: solver.compute_likelihood(
        x, base.log_prob, step_size=1 / STEPS, method="midpoint", exact_divergence=exact
    )[1]


def ours(net: nn.Module, x: Tensor, exact: bool, steps: int) -> Callable[[], Tensor]:
    estimator = "exact" if exact else "rademacher"
    flow = ContinuousFlow(net, StandardNormal(x.shape[1]), steps=steps, estimator=estimator)
    return lambda: flow.log_prob(x)


def seconds(runs: list[Callable[[], Tensor]]) -> list[list[float]]:
    """The seconds of each run, in each of the interleaved rounds."""
    rounds = []
    for _ in range(ROUNDS):
        marks = [time.perf_counter()]
        for run in runs:
            run()
            marks.append(time.perf_counter())
        rounds.append([b - a for a, b in zip(marks, marks[1:], strict=False)])  # noqa: RUF007
    return rounds


def compare(net: nn.Module, x: Tensor, truth: Tensor, exact: bool) -> dict[str, Any]:
    """Error and seconds of theirs, of ours with as many steps, and of ours with as large an error."""

    def error(run: Callable[[], Tensor]) -> float:
        return float((run()[: len(truth)].double() - truth).square().mean().sqrt())

    goal = error(theirs(net, x, exact))
    steps = next((n for n in OURS if error(ours(net, x, exact, n)) <= goal), OURS[-1])
    runs = [theirs(net, x, exact), ours(net, x, exact, STEPS), ours(net, x, exact, steps)]
    rounds = seconds(runs)
    names = ("theirs", "same steps", "equal error")
    return {
        "steps": dict(zip(names, (STEPS, STEPS, steps), strict=True)),
        "error": dict(zip(names, map(error, runs), strict=True)),
        "seconds": {name: statistics.median(row[i] for row in rounds) for i, name in enumerate(names)},
        "ratios": {name: sorted(row[i] / row[0] for row in rounds) for i, name in enumerate(names) if i},
    }


def show(row: dict[str, Any]) -> str:
    cells = [f"{row['dim']:>3} {row['network']:<11} {row['divergence']:<10}"]
    for name in row["steps"]:
        cells.append(f"{row['steps'][name]:>3} steps {row['error'][name]:8.1e} {row['seconds'][name]:6.3f} s")
        if name != "theirs":
            ratios = row["ratios"][name]
            cells[-1] += f"  x{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return " | ".join(cells) + f" | goal x{row['goal']:.2f}"


def main() -> None:
    torch.set_num_threads(2)
    rows = []
    print("dim network  divergence | theirs: steps, error, median s | ours, same steps | ours, equal error | goal")
    with fetched():
        for dim in GOALS:
            for network in (VelocityMLP, PlainMLP):
                net, x = trained(network, dim)
                truth = reference(net, x[:JUDGED])
                for exact in (True, False):
                    kind = {"dim": dim, "network": network.__name__, "divergence": "exact" if exact else "Hutchinson"}
                    row = kind | {"goal": GOALS[dim] if exact else 1.0, **compare(net, x, truth, exact)}
                    rows.append(row)
                    print(show(row), flush=True)
    record("likelihood", {"package": PACKAGE, "method": "midpoint", "points": POINTS, "rows": rows})


if __name__ == "__main__":
    main()
