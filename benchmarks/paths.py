"""Which path is easy to learn: one network, one budget, five seeds, on conditional-OT and on diffusion paths.

    python benchmarks/paths.py            # about an hour on one core

Chapter 5 reads `book/results/paths.json`. Every row trains the same network for the same steps on the checkerboard,
with times drawn uniformly and its waves damped by the noise of its own path; only what a row says differs. Measured are
nats to the truth while it trains, evaluations that dopri5 needs, the error of few evaluations, and where the same noise
ends, beside the exact field's answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import product
from typing import Any

import torch
from record import record
from torch import Tensor, nn

from fmtutor import (
    AffinePath,
    Checkerboard,
    ContinuousFlow,
    Cosine,
    Linear,
    StandardNormal,
    VarianceExploding,
    VariancePreserving,
    VelocityMLP,
    as_velocity,
    fit,
    metrics,
    prediction_loss,
    solve,
)

FIRST_SEED, SEEDS = 100, 5
STEPS = (250, 500, 1000, 2000, 4000, 8000)
EVALUATIONS = (4, 8, 16, 32)
SHOWN, POINTS = (250, 1000, 8000), 300  # of the samples during training, in the picture
LAST = 1 - 1e-5  # VP's velocity is infinite at 1; every path is drawn and solved up to here, for all alike
SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "VP": VariancePreserving(), "VE": VarianceExploding()}
ROWS: dict[str, dict[str, Any]] = {
    "linear (conditional OT)": {"path": "linear"},
    "cosine": {"path": "cosine"},
    "VP": {"path": "VP"},
    "VP, score matching": {"path": "VP", "predict": "score"},
    "VE": {"path": "VE"},
}
DAMPING: dict[str, dict[str, Any]] = {
    f"{name}, waves damped by 1 - t": {"path": name, "damped": "1 - t"} for name in ("cosine", "VP", "VE")
}


class Score(nn.Module):
    """A score `-e / sigma(t)` through a network that returns e, as Song et al. (2021) divide theirs."""

    def __init__(self, network: nn.Module, path: AffinePath) -> None:
        super().__init__()
        self.network, self.path = network, path

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        return -self.network(t, x) / self.path.coefficients(t, x).sigma


def run(seed: int, path: str, predict: str = "velocity", damped: str = "own", draws: int = 5000) -> dict[str, Any]:
    """Train once and measure."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    schedule = SCHEDULES[path]
    way, board = AffinePath(schedule), Checkerboard()
    start = way.coefficients(0.0, torch.zeros(1, 2)).sigma.item()
    base = StandardNormal(2, scale=start)
    network = VelocityMLP(dim=2, noise=schedule.sigma if damped == "own" else None)
    model = Score(network, way) if predict == "score" else network
    weight = (lambda t: schedule.sigma(t).square()) if predict == "score" else None

    def loss() -> Tensor:
        x0, x1 = torch.randn(1024, 2), board.sample((1024,))
        return prediction_loss(model, way, x0, x1, LAST * torch.rand(1024), predict=predict, weight=weight)

    velocity = as_velocity(model, way, predict)
    flow = ContinuousFlow(velocity, base, method="dopri5", rtol=1e-5, atol=1e-5, t1=LAST)
    noise = start * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {"kl": [], "kl_error": [], "grid": [], "looks": 0.0}

    def look(step: int) -> None:
        if step in STEPS:
            before = time.process_time()
            drawing = torch.Generator().manual_seed(seed)  # of the measurement: the training must not notice it
            gap = metrics.kl(board, flow, n=draws, generator=drawing)
            found["kl"].append(float(gap.value)), found["kl_error"].append(float(gap.error))
            ends = solve(velocity, noise[:POINTS], t1=LAST, method="dopri5").x
            found["grid"].append([[round(v, 2) for v in row] for row in ends.tolist()])
            found["looks"] += time.process_time() - before

    began = time.process_time()
    fit(model, loss, steps=STEPS[-1], callback=look, log_every=STEPS[0], progress=False, threads=1)
    found["seconds"] = time.process_time() - began - found.pop("looks")
    found |= sampled(velocity, way, base, noise)
    return found


@torch.no_grad()
def sampled(velocity: Any, way: AffinePath, base: StandardNormal, noise: Tensor) -> dict[str, Any]:
    """Evaluations and ends of the finished field, from the same noise for every row."""
    board = Checkerboard()
    whole = solve(velocity, noise, t1=LAST, method="dopri5", rtol=1e-5, atol=1e-5)
    exact = solve(
        lambda t, x: way.marginal_velocity(t, x, board), noise.double(), t1=LAST, method="dopri5", rtol=1e-7, atol=1e-7
    ).x
    truth = board.sample((10_000,), generator=torch.Generator().manual_seed(1))
    start = base.sample((10_000,), generator=torch.Generator().manual_seed(2))
    few: dict[str, dict[str, float]] = {"euler": {}, "midpoint": {}}
    off: dict[str, dict[str, float]] = {"euler": {}, "midpoint": {}}
    for method, n in product(few, EVALUATIONS):
        steps = {"method": method, "steps": n if method == "euler" else n // 2}
        few[method][str(n)] = metrics.energy_distance(solve(velocity, start, t1=LAST, **steps).x, truth)
        off[method][str(n)] = rms(solve(velocity, noise, t1=LAST, **steps).x, whole.x)
    return {
        "nfe": whole.nfe,
        "few": few,
        "off": off,
        "to_exact": rms(whole.x, exact),
        "ends": [[round(v, 4) for v in row] for row in whole.x.tolist()],
    }


def rms(a: Tensor, b: Tensor) -> float:
    return (a - b).square().sum(1).mean().sqrt().item()


def main() -> None:
    done: dict[str, list[dict[str, Any]]] = {}
    for what, settings in (ROWS | DAMPING).items():
        for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
            command = [sys.executable, "-W", "ignore", __file__, json.dumps({"seed": seed, **settings})]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            done.setdefault(what, []).append(found)
            told = {key: value for key, value in found.items() if key not in ("ends", "grid")}
            print(what, seed, json.dumps(told), flush=True)
    record("paths", summary(done))


def summary(done: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the book reads of all runs."""
    seeds = list(range(FIRST_SEED, FIRST_SEED + SEEDS))
    ends = {what: torch.tensor([run["ends"] for run in done[what][:2]]) for what in ROWS}

    def apart(a: str, b: str) -> float:
        """Two rows from one noise; a row and itself are its first two seeds."""
        return rms(ends[a][0], ends[b][int(a == b)])

    def row(what: str, settings: dict[str, Any]) -> dict[str, Any]:
        runs = done[what]
        columns = {key: [run[key] for run in runs] for key in ("kl", "kl_error", "nfe", "to_exact", "seconds")}
        solved = {
            key: {
                m: {str(n): [run[key][m][str(n)] for run in runs] for n in EVALUATIONS} for m in ("euler", "midpoint")
            }
            for key in ("few", "off")
        }
        described = {"schedule": repr(SCHEDULES[settings["path"]]), "predict": settings.get("predict", "velocity")}
        return {"what": what, **described, "seeds": seeds, **columns, **solved}

    return {
        "steps": STEPS,
        "rows": [row(*item) for item in ROWS.items()],
        "apart": {"names": list(ROWS), "rms": [[apart(a, b) for b in ROWS] for a in ROWS]},
        "grid": {
            "steps": SHOWN,
            "points": {what: [done[what][0]["grid"][STEPS.index(k)] for k in SHOWN] for what in ROWS},
        },
        "damping": [
            {"what": what, "schedule": repr(SCHEDULES[settings["path"]]), "damped": settings.get("damped", "own"),
             "kl": [run["kl"][-1] for run in done[what]]}
            for what, settings in (ROWS | DAMPING).items()
        ],
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run(**json.loads(sys.argv[1]))))
    else:
        main()
