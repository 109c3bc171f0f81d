"""Everything that only images need: data, a U-Net, a training run, grids, and numbers that say how good images are.

Chapters 8 and 9 teach it, and `python -m fmtutor.images --help` is the same on a command line. Training uses a GPU
where there is one. With the package accelerate it also calculates in half precision and in several processes, with
TensorBoard it draws its curves (`pip install "fmtutor[train]"` brings both), and with torch-fidelity and torchmetrics
`evaluate` computes the FID (`pip install "fmtutor[fid]"`). Without them everything else works.
"""

from __future__ import annotations

# All at once: `judge`, `grid` and `pretrained` are names of files too, and a file that is imported later by itself
# would take the place of its function.
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
