"""What comes with the package, ready to use: a model that draws clothes, and the classifiers that judge images.

Chapter 8 tells how they were made: `python -m fmtutor.images train` for the model, `benchmarks/classifiers.py` for the
classifiers. What each was measured to do is kept in its own notes and in `book/results/`.
"""

from __future__ import annotations

from pathlib import Path

from fmtutor import _validate
from fmtutor.images.classifier import Classifier
from fmtutor.images.model import ImageModel
from fmtutor.training.weights import copy_weights, read_weights

WEIGHTS = Path(__file__).parent / "weights"
MODELS = ("fashion_mnist",)
CLASSIFIERS = ("digits", "fashion_mnist")


def pretrained(name: str = "fashion_mnist") -> ImageModel:
    """The model of images that comes with the package, in evaluation mode, on the CPU.

    Its `notes` say how it was trained.

    Args:
        name: "fashion_mnist", a class-conditional model of 28x28 photographs of clothes.

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> model = pretrained("fashion_mnist")
        >>> model.sample(2, label=7, steps=2).shape  # 7 is a sneaker
        torch.Size([2, 1, 28, 28])
    """
    return ImageModel.load(WEIGHTS / f"{_validate.choice('name', name, MODELS)}.safetensors")


def pretrained_classifier(name: str) -> Classifier:
    """The classifier of a data set that comes with the package, in evaluation mode and with frozen weights.

    Args:
        name: "digits" or "fashion_mnist".

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> from fmtutor.images import digits
        >>> x, y = digits("test")
        >>> bool((pretrained_classifier("digits")(x).argmax(1) == y).float().mean() > 0.95)
        True
    """
    file = WEIGHTS / f"classifier_{_validate.choice('name', name, CLASSIFIERS)}.safetensors"
    tensors, meta = read_weights(file)
    model = Classifier(meta["channels"], meta["classes"], meta["width"], meta["halvings"])
    copy_weights(model, {key: tensor.float() for key, tensor in tensors.items()}, str(file))
    return model.eval().requires_grad_(False)
