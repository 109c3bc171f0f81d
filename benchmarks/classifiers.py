"""Trains the classifiers that come with the package, in whose features `fmtutor.images` compares images.

`python benchmarks/classifiers.py digits fashion_mnist` writes `fmtutor/images/weights/classifier_NAME.safetensors` and
`book/results/images_classifiers.json`.
"""

from __future__ import annotations

import sys
import time

import torch
from record import record

from fmtutor import save_weights
from fmtutor.images import Classifier, Images, train_classifier
from fmtutor.images.pretrained import CLASSIFIERS, WEIGHTS
from fmtutor.images.run import load

SETTINGS = {
    "digits": {"width": 32, "halvings": 2, "steps": 500, "lr": 5e-3},
    "fashion_mnist": {"width": 48, "halvings": 4, "steps": 4000, "lr": 2e-3},
}


def right(model: Classifier, data: Images) -> float:
    """The share of images that it names rightly."""
    said = torch.cat([model(part).argmax(1) for part in data.images.split(500)])
    return (said == data.labels).float().mean().item()


def one(name: str) -> dict[str, object]:
    """Train and save the classifier of a data set; what is to be known of it."""
    (train, _), (test, _), began = load(name), load(name, "test"), time.process_time()
    model = train_classifier(*train, **SETTINGS[name])
    spent = time.process_time() - began
    accuracy = {"train": right(model, train), "test": right(model, test)}
    notes = {"data": name, "channels": train.images.shape[1], "classes": 10, **SETTINGS[name], "accuracy": accuracy}
    path = save_weights(model, WEIGHTS / f"classifier_{name}.safetensors", **notes)
    return {**notes, "seed": 0, "batch": 128, "cpu_seconds": round(spent, 1), "bytes": path.stat().st_size}


if __name__ == "__main__":
    names = sys.argv[1:] or CLASSIFIERS
    torch.set_num_threads(1)
    print(record("images_classifiers", {name: one(name) for name in names}))
