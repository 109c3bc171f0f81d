"""How good are generated images, as numbers, each beside the number that real held-out images get.

Chapter 8 judges its digits with these, because a flow matching loss cannot (chapter 4), and eyes are generous.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fmtutor import _validate
from fmtutor.distributions.target import wide
from fmtutor.training import fit


class Classifier(nn.Module):
    """A small convolutional network for images of any size: `features` are what it sees, logits what it says.

    The features are averages over the image of what its last convolution finds, as in the FID: they hold the style of
    the strokes as well as the class, where a layer nearer to the logits has forgotten all but the class.
    """

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, width, 2)):
            layers += [nn.Conv2d(inside, outside, 3, padding=1, stride=stride), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.last(self.features(x))


def train_classifier(
    images: Float[Tensor, "n channels height width"],
    labels: Int[Tensor, " n"],
    *,
    steps: int = 500,
    batch: int = 128,
    lr: float = 5e-3,
    seed: int = 0,
) -> Classifier:
    """A `Classifier` trained by cross-entropy, in evaluation mode and with frozen weights.

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
        model = Classifier(images.shape[1], int(labels.max()) + 1).to(images)

        def loss() -> Tensor:
            rows = torch.randint(len(images), (batch,)).to(labels.device)
            return cross_entropy(model(images[rows]), labels[rows])

        adam = partial(torch.optim.AdamW, weight_decay=1e-2)
        fit(model, loss, steps=steps, lr=lr, warmup=0.0, ema=None, optimizer=adam, progress=False)
    return model.eval().requires_grad_(False)


class TwoSample(NamedTuple):
    """Share of images sorted rightly into generated and real, and its standard error; 0.5 is a coin."""

    accuracy: float
    error: float


def classifier_two_sample(
    generated: Float[Tensor, "n *event"],
    real: Float[Tensor, "m *event"],
    *,
    folds: int = 5,
    trees: int = 200,
    generator: torch.Generator | None = None,
) -> TwoSample:
    """Can a classifier tell generated images from real ones? 0.5 means it cannot, 1 that it always does.

    The larger sample is thinned to the size of the smaller, so that guessing scores 0.5. A random forest learns from
    all folds but one and is asked about that one, for every fold in turn. On digits it sees more than a support vector
    machine or a small network: noise of 0.1 on real ones, for example, the faint grey of a careless generator.

    Args:
        generated: moved to the grey levels of the real images first (`quantize`).
        real: images that the generator was not trained on.
        folds: parts of each sample.
        trees: in the forest.
        generator: draws the folds and the forest.

    Returns:
        Accuracy, and the standard error sqrt(accuracy (1 - accuracy) / images asked about).

    Raises:
        ValueError: for different shapes, NaN, or fewer than two images a fold in either sample.

    Source: Lopez-Paz and Oquab 2017 (arXiv:1610.06545), with cross-validation in place of one split.

    Example:
        >>> a, b = torch.randn(200, 4), torch.randn(200, 4) + 2
        >>> classifier_two_sample(a, b).accuracy > 0.9
        True
    """
    from sklearn.ensemble import RandomForestClassifier

    _validate.whole("folds", folds, least=2)
    _pair(generated, real, least=2 * folds, names=("generated", "real"))
    n = min(len(generated), len(real))
    picks = [x[torch.randperm(len(x), generator=generator)[:n].to(x.device)].flatten(1) for x in (generated, real)]
    x = torch.cat([pick.double().cpu() for pick in picks])
    y = torch.arange(2).repeat_interleave(n)
    fold = torch.arange(n).repeat(2) % folds
    seed = int(torch.randint(2**31, (), generator=generator))
    right = 0
    for k in range(folds):
        inside, outside = fold != k, fold == k
        forest = RandomForestClassifier(trees, random_state=seed).fit(x[inside].numpy(), y[inside].numpy())
        right += int((forest.predict(x[outside].numpy()) == y[outside].numpy()).sum())
    share = right / (2 * n)
    return TwoSample(share, (share * (1 - share) / (2 * n)) ** 0.5)


def frechet_distance(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> float:
    """Squared 2-Wasserstein distance between the Gaussians that have the means and covariances of two samples.

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2), where A and B are covariances. With A = R'R and B = S'S from
    QR decompositions of the centred samples, the last trace is the sum of the singular values of R S': no square root
    of a matrix is taken, and a covariance without full rank does no harm. In float64.

    It is biased upwards for small samples: compare only distances from samples of one size.

    Raises:
        ValueError: for different shapes, NaN, or fewer than two rows.

    Source: Dowson and Landau 1982; used on a network's features by Heusel et al. 2017 (arXiv:1706.08500), the FID.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, 3 * x + 1), 6)  # means 1 and 4, standard deviations 1.414 and 4.243
        17.0
    """
    _pair(a, b, least=2, names=("a", "b"))
    if a.dim() != 2:
        raise ValueError(f"a and b must have shape (n, features), got {tuple(a.shape)}")
    means, roots = [], []
    for x in (a.double(), b.double()):
        means.append(x.mean(0))
        roots.append(torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5).R)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    total = (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * cross
    return max(float(total), 0.0)


class FeatureDistance(NamedTuple):
    """Frechet distance of generated from real images, of real from real at the same size, and how both spread."""

    distance: float
    reference: float
    spread: float
    reference_spread: float


@torch.no_grad()
def feature_distance(
    features: Callable[[Tensor], Tensor],
    generated: Float[Tensor, "n *event"],
    real: Float[Tensor, "m *event"],
    *,
    repeats: int = 20,
    generator: torch.Generator | None = None,
) -> FeatureDistance:
    """Frechet distance in a network's features, with the same distance between halves of the real images as its scale.

    Each repeat cuts the real images into two halves at random, and measures one half against the other, and against
    as many generated images. The means over the repeats are returned: a perfect generator scores `reference`, not zero.

    Args:
        features: `Classifier.features`, or any map from images to `(n, features)`.
        generated: at least half as many as there are real ones.
        real: images that neither the generator nor the network was trained on.
        repeats: random halvings.
        generator: draws them.

    Returns:
        Mean distance and mean reference, and the standard deviation of each over the halvings.

    Raises:
        ValueError: for different shapes, NaN, or too few images.

    Example:
        >>> x, y = torch.randn(100, 3), torch.randn(100, 3) + 5
        >>> d = feature_distance(lambda x: x, y, x)
        >>> 50 < d.distance < 100 and d.reference < 1
        True
    """
    _pair(generated, real, least=4, names=("generated", "real"))
    half = len(real) // 2
    _validate.whole("repeats", repeats, least=2)
    if len(generated) < half:
        raise ValueError(f"generated must hold at least {half} images, half as many as real, got {len(generated)}")
    a, b = features(generated), features(real)
    pairs = []
    for _ in range(repeats):
        rows = torch.randperm(len(b), generator=generator).to(b.device)
        others = torch.randperm(len(a), generator=generator)[:half].to(a.device)
        one, two = b[rows[:half]], b[rows[half : 2 * half]]
        pairs.append((frechet_distance(a[others], one), frechet_distance(two, one)))
    found = torch.tensor(pairs, dtype=torch.float64)
    return FeatureDistance(*found.mean(0).tolist(), *found.std(0).tolist())


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


def nearest_distance(images: Float[Tensor, "n *event"], train: Float[Tensor, "m *event"]) -> Float[Tensor, " n"]:
    """Euclidean distance from each image to the nearest training image.

    A generator that copies has distances near zero. One that does not has the distances of held-out images: compare
    the two, not with zero.

    Raises:
        ValueError: for different shapes or NaN.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]])).tolist()
        [5.0]
    """
    _pair(images, train, least=1, names=("images", "train"))
    images, train = wide(images.flatten(1)), wide(train.flatten(1))
    return torch.cdist(images, train, compute_mode="donot_use_mm_for_euclid_dist").amin(1)


def _images(name: str, x: Tensor) -> Tensor:
    """`x`, if it is a finite batch of images."""
    if _validate.finite(name, x).dim() != 4 or len(x) == 0:
        raise ValueError(f"{name} must have shape (n, channels, height, width) with n > 0, got {tuple(x.shape)}")
    return x


def _pair(a: Tensor, b: Tensor, *, least: int, names: tuple[str, str]) -> None:
    """Raise unless two samples are finite, hold `least` events each, and events of one shape."""
    for name, x in zip(names, (a, b), strict=True):
        if _validate.finite(name, x).dim() < 2 or len(x) < least:
            raise ValueError(f"{name} must hold at least {least} events in shape (n, *event), got {tuple(x.shape)}")
    if a.shape[1:] != b.shape[1:]:
        shapes = f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
        raise ValueError(f"{names[0]} and {names[1]} must hold events of one shape, got {shapes}")
