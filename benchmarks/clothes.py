"""The model of clothes that comes with the package: trained on one core, and judged along its way.

`python benchmarks/clothes.py train FOLDER` trains it with `fmtutor.images.train` and keeps the averaged weights of
every look; started again, it goes on. `... judge FOLDER` measures them all with the classifier of the package, writes
`book/results/images_fashion_mnist_cpu.json`, and ships the last in `fmtutor/images/weights/`; `... curve FOLDER`
measures those that are there so far.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from record import record

from fmtutor.images import Images, fashion_mnist, frechet_distance, judge, kernel_distance, pretrained_classifier, train
from fmtutor.images.judge import features_of
from fmtutor.images.model import ImageModel
from fmtutor.images.pretrained import WEIGHTS

SETTINGS: dict[str, Any] = {
    "steps": 20_000, "batch": 64, "lr": 2e-3, "warmup": 0.02, "ema": 0.999, "clip": 1.0, "width": 32,
    "attention": True, "drop": 0.1, "dequantize": True, "look_every": 1000, "checkpoint_every": 1000,
}  # fmt: skip


def keep(folder: Path) -> Any:
    """What saves the model at each look, in half precision."""

    def look(model: ImageModel, step: int) -> dict[str, float]:
        model.save(folder / f"model-{step:06d}.safetensors", torch.float16)
        return {}

    return look


@torch.no_grad()
def distances(images: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Frechet and kernel distance in the features of the classifier of clothes."""
    classifier = pretrained_classifier("fashion_mnist")
    a, b = features_of(classifier, images), features_of(classifier, reference)
    return {"frechet": round(frechet_distance(a, b), 3), "kernel": round(kernel_distance(a, b), 5)}


def curve(folder: Path, test: Images, n: int = 1000) -> list[dict[str, float]]:
    """The quality of each look, from one noise and with ten midpoint steps; kept in the folder as it is measured."""
    file = folder / "curve.json"
    done = json.loads(file.read_text()) if file.exists() else []
    for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        if line["step"] in [other["step"] for other in done]:
            continue
        model = ImageModel.load(folder / f"model-{line['step']:06d}.safetensors")
        drawn = model.sample(n, test.labels[:n], steps=10, method="midpoint", generator=seeded())
        clocks = {clock: line[clock] for clock in ("step", "seconds", "cpu_seconds")}
        done.append(clocks | distances(drawn, test.images[:n]))
        file.write_text(json.dumps(done))
        print(done[-1], flush=True)
    return done


def steps_of(model: ImageModel, test: Images, n: int = 1000) -> list[dict[str, Any]]:
    """The final model with fewer and more calls of the network."""
    rows = []
    for method, each in (("euler", 1), ("midpoint", 2)):
        for calls in (2, 4, 8, 16, 32, 64):
            drawn = model.sample(n, test.labels[:n], method=method, steps=calls // each, generator=seeded())
            rows.append({"method": method, "calls": calls, **distances(drawn, test.images[:n])})
            print(rows[-1], flush=True)
    return rows


def seeded() -> torch.Generator:
    """The same noise every time."""
    return torch.Generator().manual_seed(0)


def measure(folder: Path) -> dict[str, Any]:
    """Everything that the pages read about the run."""
    known, test = fashion_mnist("train"), fashion_mnist("test")
    found, model = curve(folder, test), ImageModel.load(folder / "model.safetensors")
    path = model.save(WEIGHTS / "fashion_mnist.safetensors", torch.float16)
    shipped = ImageModel.load(path)
    return {
        "settings": SETTINGS,
        "parameters": sum(p.numel() for p in shipped.network.parameters()),
        "bytes": path.stat().st_size,
        "images_seen": SETTINGS["steps"] * SETTINGS["batch"],
        "history_seconds": model.notes["seconds"],
        "curve": found,
        "curve_protocol": "1000 images from one noise in the classes of the first 1000 held-out images, which are the "
        "reference; 10 midpoint steps; features of the classifier of the package; averaged weights in half precision",
        "real": distances(test.images[1000:2000], test.images[:1000]),
        "calls": steps_of(shipped, test),
        "final": judge(shipped, pretrained_classifier("fashion_mnist"), known, test, samples=5000, likelihood=500),
    }


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if command == "train":
        train(where, "fashion_mnist", **SETTINGS, look=keep(where), progress=False)
    elif command == "curve":
        curve(where, fashion_mnist("test"))
    else:
        print(record("images_fashion_mnist_cpu", measure(where)))
