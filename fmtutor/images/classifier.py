"""A small classifier of images: an instrument, in whose features generated images are compared with real ones.

Chapter 8 trains one on its digits, and asks it how sure it is.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fmtutor import _validate
from fmtutor.training import fit


class Classifier(nn.Module):
    """A small convolutional network for images of any size: `features` are what it sees, logits what it says.

    The features are averages over the image of what its last convolution finds, as in the FID: they hold the style of
    the strokes as well as the class, where a layer nearer to the logits has forgotten all but the class.

    Args:
        channels: of the image, 1 for grey.
        classes: how many it tells apart.
        width: how many features it has.
        halvings: how often it halves the image: with 2 each of its last numbers has seen 9 x 9 pixels, with 4 it has
            seen 33 x 33. An image of 8 x 8 wants 2, one of 28 x 28 wants 4.
    """

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 32, halvings: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = [(width, 2 * width, 2), *[(2 * width, 2 * width, 2)] * (halvings - 2), (2 * width, width, 2)]
        for inside, outside, stride in ((channels, width, 1), *inner):
            layers += [nn.Conv2d(inside, outside, 3, padding=1, stride=stride), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.last(self.features(x))


def train_classifier(
    images: Float[Tensor, "n channels height width"],
    labels: Int[Tensor, " n"],
    *,
    width: int = 32,
    halvings: int = 2,
    steps: int = 500,
    batch: int = 128,
    lr: float = 5e-3,
    seed: int = 0,
) -> Classifier:
    """A `Classifier`, trained by cross-entropy, in evaluation mode and with frozen weights.

    It is an instrument, so it is always the same one: its randomness is its own `seed`, and the caller's is left
    as it was.

    Raises:
        TypeError: for labels that are not whole numbers.
        ValueError: for images and labels of different number, a negative label, or fewer than two classes.

    Example:
        >>> from fmtutor.images import digits
        >>> classifier = train_classifier(*digits("train"), steps=200)
        >>> x, y = digits("test")
        >>> bool((classifier(x).argmax(1) == y).float().mean() > 0.95)
        True
    """
    _images("images", images)
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise TypeError(
            f"labels must be a tensor of whole numbers, got {getattr(labels, 'dtype', type(labels).__name__)}"
        )
    if labels.shape != images.shape[:1] or labels.unique().numel() < 2 or labels.min() < 0:
        raise ValueError(f"labels must be one for each of {len(images)} images, from 0 to 1 at least, got {labels}")
    labels, batch = labels.long(), _validate.whole("batch", batch)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)
        model = Classifier(images.shape[1], int(labels.max()) + 1, width, halvings).to(images)

        def loss() -> Tensor:
            rows = torch.randint(len(images), (batch,)).to(labels.device)
            return cross_entropy(model(images[rows]), labels[rows])

        adam = partial(torch.optim.AdamW, weight_decay=1e-2)
        fit(model, loss, steps=steps, lr=lr, warmup=0.0, ema=None, optimizer=adam, progress=False)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def confidence(classifier: nn.Module, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, " n"]:
    """How sure the classifier is of each image: the largest of its class probabilities.

    Low values mark images between classes. High ones prove little: a classifier can be sure of nonsense.

    Raises:
        ValueError: for anything but finite images.

    Example:
        >>> confidence(nn.Flatten(), torch.zeros(2, 1, 1, 4)).tolist()
        [0.25, 0.25]
    """
    return classifier(_images("images", images)).softmax(1).amax(1)


@torch.no_grad()
def class_histogram(classifier: nn.Module, images: Float[Tensor, "n channels height width"]) -> Int[Tensor, " classes"]:
    """How many images the classifier puts into each class: a missing class is a mode the generator has dropped.

    Raises:
        ValueError: for anything but finite images.

    Example:
        >>> class_histogram(nn.Flatten(), torch.eye(3).reshape(3, 1, 1, 3)).tolist()
        [1, 1, 1]
    """
    logits = classifier(_images("images", images))
    return logits.argmax(1).bincount(minlength=logits.shape[1])


def _images(name: str, x: Tensor) -> Tensor:
    """`x`, if it is a finite batch of images."""
    if _validate.finite(name, x).dim() != 4 or len(x) == 0:
        raise ValueError(f"{name} must have shape (n, channels, height, width) with n > 0, got {tuple(x.shape)}")
    return x
