"""What guidance does to the model of clothes that comes with the package: how well it is read, and how varied it stays.

`python benchmarks/guidance.py` draws 100 images of each class at several weights, from the same noise, judges them
beside real ones and writes `book/results/guidance.json`, which chapter 9 shows; `python benchmarks/guidance.py 20`
takes 20. It is to be run anew for new weights of the model or of the classifier.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from jaxtyping import Float, Int
from record import record
from torch import Tensor

from fmtutor import ContinuousFlow, StandardNormal, guide
from fmtutor.images import (
    Classifier,
    ImageModel,
    confidence,
    fashion_mnist,
    frechet_distance,
    pretrained,
    pretrained_classifier,
    quantize,
)

STEPS, SEED, NONE = 10, 0, 10  # midpoint steps
RUNS: list[tuple[float, tuple[float, float]]] = [
    (1.0, (0.0, 1.0)), (1.5, (0.0, 1.0)), (2.0, (0.0, 1.0)), (3.0, (0.0, 1.0)), (5.0, (0.0, 1.0)),
    (3.0, (0.5, 1.0)), (5.0, (0.5, 1.0)),
]  # fmt: skip


@torch.no_grad()
def numbers(judge: Classifier, x: Tensor, label: Int[Tensor, " n"], reference: Tensor) -> dict[str, float]:
    """Read as asked, confidence, mean distance of two images of one class, and the distance from real images."""
    seen = judge.features(x)
    apart = torch.stack([torch.pdist(x[label == k].flatten(1)).mean() for k in range(NONE)])
    return {
        "read_as_asked": (judge(x).argmax(1) == label).float().mean().item(),
        "confidence": confidence(judge, x).mean().item(),
        "apart": apart.mean().item(),
        "frechet": frechet_distance(seen, reference),
    }


@torch.no_grad()
def draw(
    model: ImageModel, label: Int[Tensor, " n"], w: float, interval: tuple[float, float]
) -> Float[Tensor, "n 1 28 28"]:
    """One image for each label, all runs from the same noise; a step of the solver begins where the interval does."""
    generator, drawn = torch.Generator().manual_seed(SEED), []
    times = sorted({0.0, *interval, 1.0})
    for part in label.split(100):
        noise = torch.randn(len(part), *model.shape, generator=generator)
        flow = ContinuousFlow(guide(model.network, part, w, NONE, interval), StandardNormal(*model.shape), steps=STEPS)
        drawn.append(quantize(flow.trajectory(noise, times).x, model.levels))
    return torch.cat(drawn)


def real(each: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Two lots of held-out images, as many of each class, which share none."""
    rows = [(labels == k).nonzero()[: 2 * each, 0] for k in range(NONE)]
    return images[torch.cat([r[:each] for r in rows])], images[torch.cat([r[each:] for r in rows])]


def measure(each: int) -> dict[str, Any]:
    model, judge = pretrained("fashion_mnist"), pretrained_classifier("fashion_mnist")
    label = torch.arange(NONE).repeat_interleave(each)
    one, other = real(each, *fashion_mnist("test"))
    reference, rows = judge.features(one), []
    for w, interval in RUNS:
        began = time.process_time()
        drawn = draw(model, label, w, interval)
        spent = time.process_time() - began
        rows.append({"w": w, "first": interval[0], "last": interval[1], "cpu_seconds": round(spent, 1)}
                    | numbers(judge, drawn, label, reference))  # fmt: skip
        print(rows[-1], flush=True)
    return {
        "rows": rows,
        "real": numbers(judge, other, label, reference),
        "protocol": {
            "images": len(label), "of_each_class": each, "reference": f"{len(label)} other held-out images",
            "method": "midpoint", "steps": STEPS, "seed": SEED, "features": reference.shape[1], "model": model.notes,
        },
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(record("guidance", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100)))
