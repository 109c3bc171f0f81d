"""The model of clothes that comes with the package: trained on one core, and judged along its way.

`python benchmarks/clothes.py train FOLDER` trains it with `fmtutor.images.train` and keeps the averaged weights of
every look; started again, it goes on. `python benchmarks/clothes.py judge FOLDER` measures them all with the classifier
of the package, writes `book/results/images_fashion_mnist_cpu.json`, and ships the last in `fmtutor/images/weights/`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from fmtutor.images import ImageModel, train

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


if __name__ == "__main__":
    command, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if command == "train":
        train(folder, "fashion_mnist", **SETTINGS, look=keep(folder), progress=False)
