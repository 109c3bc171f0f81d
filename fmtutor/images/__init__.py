"""Everything that only images need: data, a U-Net, grids, and numbers that say how good generated images are.

Chapter 8 trains on the digits of this folder; nothing here is loaded before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmtutor.images.classifier import Classifier, class_histogram, confidence, train_classifier
    from fmtutor.images.data import Images, cifar10, digits, fashion_mnist, folder, mnist, quantize
    from fmtutor.images.evaluate import (
        Inception,
        classifier_two_sample,
        feature_distance,
        frechet_distance,
        inception_distance,
        kernel_distance,
        nearest_distance,
    )
    from fmtutor.images.files import read_idx
    from fmtutor.images.grid import grid, strip
    from fmtutor.images.judge import judge, watch
    from fmtutor.images.model import ImageModel
    from fmtutor.images.pretrained import pretrained, pretrained_classifier
    from fmtutor.images.run import train
    from fmtutor.images.unet import UNet

_HOME = {
    "classifier": ("Classifier", "class_histogram", "confidence", "train_classifier"),
    "data": ("Images", "cifar10", "digits", "fashion_mnist", "folder", "mnist", "quantize"),
    "evaluate": (
        "Inception",
        "classifier_two_sample",
        "feature_distance",
        "frechet_distance",
        "inception_distance",
        "kernel_distance",
        "nearest_distance",
    ),
    "files": ("read_idx",),
    "grid": ("grid", "strip"),
    "judge": ("judge", "watch"),
    "model": ("ImageModel",),
    "pretrained": ("pretrained", "pretrained_classifier"),
    "run": ("train",),
    "unet": ("UNet",),
}

__all__ = [
    "Classifier",
    "ImageModel",
    "Images",
    "Inception",
    "UNet",
    "cifar10",
    "class_histogram",
    "classifier_two_sample",
    "confidence",
    "digits",
    "fashion_mnist",
    "feature_distance",
    "folder",
    "frechet_distance",
    "grid",
    "inception_distance",
    "judge",
    "kernel_distance",
    "mnist",
    "nearest_distance",
    "pretrained",
    "pretrained_classifier",
    "quantize",
    "read_idx",
    "strip",
    "train",
    "train_classifier",
    "watch",
]


def __getattr__(name: str) -> Any:
    """The public name `name`, from the file it lives in, which is imported on first use."""
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
