"""Which path is easy to learn on images: one network, one budget, three seeds, on conditional-OT and diffusion paths.

    python benchmarks/image_paths.py            # about half an hour on one core

Chapter 8 reads `book/results/image_paths.json`. Every run trains the same `UNet` with `fmtutor.images.train` on digits
that are spread over their grey levels; only the schedule and the seed differ. Measured are bits per dimension of digits
held out, the Frechet distance of drawn ones, and what dopri5 needs to draw them. A run lives in a folder below `_build`
and its numbers in a file beside it, so the command goes on where it was killed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from record import record
from torch import Generator, Tensor

from fmtutor.images import (
    ImageModel,
    digits,
    feature_distance,
    nearest_distance,
    pretrained_classifier,
    quantize,
    train,
)
from fmtutor.images.evaluate import FeatureDistance

FOLDER = Path(__file__).parents[1] / "_build" / "image_paths"
ROWS = {"linear (conditional OT)": "linear", "cosine": "cosine", "VP": "vp"}
SEEDS = (100, 101, 102)
SETTINGS: dict[str, Any] = {
    "steps": 2500, "batch": 64, "lr": 3e-3, "ema": 0.995, "width": 32, "labelled": False, "dequantize": True,
}  # fmt: skip
EVALUATIONS = (2, 4, 8, 16, 32)
TOLERANCES = (1e-3, 1e-5)
LIKELIHOOD_STEPS = (1, 2, 4, 8, 16)
DRAWN, PROBES, REPEATS = 1000, 1, 100
LEVELS = 17


def run(seed: int, schedule: str) -> dict[str, Any]:
    """Train once and measure."""
    torch.set_num_threads(1)
    folder = FOLDER / f"{schedule}-{seed}"
    model, _ = train(folder, "digits", seed=seed, schedule=schedule, **SETTINGS, look_every=SETTINGS["steps"],
                     checkpoint_every=500, progress=False)  # fmt: skip
    spent = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["cpu_seconds"]
    held = digits("test").images
    return {"cpu_seconds": spent, **likelihoods(model, held), **drawings(model, held)}


@torch.no_grad()
def likelihoods(model: ImageModel, held: Tensor) -> dict[str, Any]:
    """Bits per dimension with dopri5, and what so many midpoint steps would say; one noise for every model."""
    x = spread(held)
    exact = model.bits_per_dim(held, method="dopri5", probes=PROBES, generator=Generator().manual_seed(0))
    told = {}
    for steps in LIKELIHOOD_STEPS:
        torch.manual_seed(0)  # of the probes
        flow = model.flow(steps=steps, estimator="rademacher", probes=PROBES)
        told[str(steps)] = bits(flow.log_prob(x)).mean().item()
    return {"bits": exact.mean().item(), "bits_error": error(exact), "bits_at": told}


def spread(images: Tensor) -> Tensor:
    """Images whose pixels are drawn uniformly from their grey level, always alike."""
    noise = torch.rand(images.shape, generator=Generator().manual_seed(0)) - 0.5
    return images + noise * 2 / (LEVELS - 1)


def bits(log_prob: Tensor) -> Tensor:
    """Bits per dimension of a digit from its log-density in nats: a grey level is 2/16 wide."""
    return -log_prob / 64 / math.log(2) - math.log2(2 / (LEVELS - 1))


def error(values: Tensor) -> float:
    """Standard error of the mean."""
    return (values.std() / len(values) ** 0.5).item()


@torch.no_grad()
def drawings(model: ImageModel, held: Tensor) -> dict[str, Any]:
    """Evaluations and Frechet distances, from one noise for every model; `off` is the rms from dopri5's end."""
    noise = torch.randn(DRAWN, 1, 8, 8, generator=Generator().manual_seed(1))
    calls, ends = {}, noise
    for tolerance in TOLERANCES:
        flow = model.flow(method="dopri5", rtol=tolerance, atol=tolerance)
        ends = flow.trajectory(noise, times=2).x
        calls[f"{tolerance:g}"] = flow.nfe
    few, off = {}, {}
    for n in EVALUATIONS:
        x = model.flow(method="midpoint", steps=n // 2).trajectory(noise, times=2).x
        few[str(n)], off[str(n)] = distance(x, held).distance, (x - ends).square().mean().sqrt().item()
    found = distance(ends, held)
    copies = nearest_distance(quantize(ends), digits("train").images).mean().item()
    return {"calls": calls, "frechet": found.distance, "nearest": copies, "few": few, "off": off}


def distance(x: Tensor, held: Tensor) -> FeatureDistance:
    """The Frechet distance between halves of the held-out digits and as many of these."""
    judge = pretrained_classifier("digits")
    return feature_distance(judge.features, quantize(x), held, repeats=REPEATS, generator=Generator().manual_seed(0))


def real(known: Tensor, held: Tensor) -> dict[str, float]:
    """What real digits score, and the bits of the Gaussian that chapter 8 begins with."""
    found = distance(known, held)
    return {"frechet": found.reference, "frechet_of_training_digits": found.distance,
            "nearest": nearest_distance(held, known).mean().item(), "gaussian_bits": gaussian(known, held)}  # fmt: skip


def gaussian(known: Tensor, held: Tensor) -> float:
    """Bits per dimension under the Gaussian with the means and covariances of the training digits."""
    rows = known.flatten(1).double()
    covariance = rows.T.cov() + torch.eye(64) * (2 / (LEVELS - 1)) ** 2 / 12  # of a grey level
    fitted = torch.distributions.MultivariateNormal(rows.mean(0), covariance)
    return bits(fitted.log_prob(spread(held).flatten(1).double())).mean().item()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[dict[str, Any]]] = {what: [] for what in ROWS}
    for seed in SEEDS:
        for what, schedule in ROWS.items():
            file = FOLDER / f"{schedule}-{seed}.json"
            if not file.exists():
                command = [sys.executable, "-W", "ignore", __file__, str(seed), schedule]
                subprocess.run([*command, str(file)], check=True)
            done[what].append(json.loads(file.read_text()))
            print(what, seed, json.dumps(done[what][-1]), flush=True)
    record("image_paths", summary(done))


def summary(done: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the book reads of all runs."""
    (known, _), (held, _) = digits("train"), digits("test")
    columns = ("bits", "bits_error", "frechet", "nearest", "calls", "few", "off", "bits_at", "cpu_seconds")
    return {
        "data": f"digits, {len(known)} to learn from, {len(held)} held out",
        "network": "images.UNet(width=32), no labels",
        "settings": SETTINGS,
        "seeds": SEEDS,
        "protocol": {
            "bits": f"held-out digits spread over their grey levels, dopri5 at 1e-5, {PROBES} Rademacher probe, "
                    "the same noise and probes for every run",
            "bits_at": "the same with so many midpoint steps",
            "frechet": f"features of pretrained_classifier('digits'); {DRAWN} draws from one noise, dopri5 at 1e-5, "
                       f"moved to {LEVELS} greys; halves of the held-out digits against as many draws, mean over "
                       f"{REPEATS} halvings; real: half against half",
            "nearest": "mean distance of those draws from the nearest training digit; real: of the held-out digits",
            "few": "the same with so many evaluations of midpoint",
            "off": "rms per pixel from where dopri5 at 1e-5 ends, same noise, so many evaluations of midpoint",
            "ends": "VP starts at N(0, I), which its path misses by alpha(0) = 0.0066, and stops at t = 1 - 1e-5; "
                    "times of all trainings are below 1 - 1e-5",
            "beside": "other programs ran on this machine: read the seconds as seconds of the processor",
        },
        "real": real(known, held),
        "rows": [{"what": what, "schedule": ROWS[what], **{key: [run[key] for run in runs] for key in columns}}
                 for what, runs in done.items()],
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[3]).write_text(json.dumps(run(int(sys.argv[1]), sys.argv[2])))
    else:
        main()
