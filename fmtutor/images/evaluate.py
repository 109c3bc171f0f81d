"""How good are generated images, as numbers, each beside the number that real held-out images get.

Chapter 8 judges its digits with these, because a flow matching loss cannot (chapter 4), and eyes are generous.
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fmtutor import _validate
from fmtutor.distributions.target import wide


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


KERNEL_ROWS = 2000  # of one sample against another at a time


@torch.no_grad()
def kernel_distance(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> float:
    """Squared maximum mean discrepancy of two samples of features, with the kernel `(x . y / features + 1)^3`; KID.

    Unbiased at every size, so that samples of different sizes can be compared, and it may come out below zero. In
    float64.

    Raises:
        ValueError: as in `frechet_distance`.

    Source: Binkowski et al. 2018 (arXiv:1801.01401), section 4.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> kernel_distance(x, x + 3)  # 1 + 4096 - (1 + 1 + 343 + 1331) / 2
        3259.0
    """
    _pair(a, b, least=2, names=("a", "b"))
    if a.dim() != 2:
        raise ValueError(f"a and b must have shape (n, features), got {tuple(a.shape)}")
    a, b = a.double(), b.double()

    def total(x: Tensor, y: Tensor) -> Tensor:
        """The sum of the kernel over all pairs."""
        parts = [(rows @ y.T / x.shape[1] + 1).pow(3).sum() for rows in x.split(KERNEL_ROWS)]
        return torch.stack(parts).sum()

    def within(x: Tensor) -> Tensor:
        """The mean over pairs of two different rows."""
        itself = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
        return (total(x, x) - itself) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b)))


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


FID = "the Inception distance needs torch-fidelity and torchmetrics, pip install 'fmtutor[fid]'"


class Inception(nn.Module):
    """The network of the FID, in its original weights: bytes `(n, 3, height, width)` to `(n, 2048)` features.

    Raises:
        ImportError: torch-fidelity, which has the network, is not installed.
        OSError: its weights (96 MB) are not here and cannot be fetched; where they belong is named.

    Source: Heusel et al. 2017 (arXiv:1706.08500); Szegedy et al. 2015 (arXiv:1512.00567), as TensorFlow had it in 2015,
    with that program's way to enlarge images to 299x299.
    """

    num_features = 2048  # torchmetrics asks

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError(f"{error}: {FID}") from error
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # no network, or half a file
            where = f"{torch.hub.get_dir()}/checkpoints"
            raise OSError(
                f"the weights of Inception could not be loaded: {error}. Put {URL_INCEPTION_V3} into {where} by hand, "
                "or leave this distance out"
            ) from error

    def forward(self, images: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 2048"]:
        return self.network(images)[0]


@torch.no_grad()
def inception_distance(
    generated: Float[Tensor, "n channels height width"],
    real: Float[Tensor, "m channels height width"],
    network: nn.Module | None = None,
    *,
    batch: int = 50,
) -> float:
    """The FID: the Frechet distance in the features of the Inception network, as torchmetrics computes it.

    Biased upwards for small samples, and by far: papers take 50 000. The same network for all images of the world
    makes numbers of different papers comparable; on small grey drawings it sees less than `Classifier` does.

    Args:
        generated: from -1 to 1, grey or colour.
        real: likewise.
        network: from bytes `(n, 3, height, width)` to features `(n, features)`; `Inception()` unless given.
        batch: images at a time.

    Raises:
        ImportError: torchmetrics or torch-fidelity is not installed.
        OSError: the weights of Inception can be neither found nor fetched.
        ValueError: for different shapes, NaN, fewer than two images, or neither one channel nor three.

    Source: Heusel et al. 2017 (arXiv:1706.08500).
    """
    _pair(generated, real, least=2, names=("generated", "real"))
    if real.dim() != 4 or real.shape[1] not in (1, 3):
        raise ValueError(f"real must have shape (n, channels, height, width), 1 or 3 channels, got {tuple(real.shape)}")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError(f"{error}: {FID}") from error
    metric = FrechetInceptionDistance(Inception() if network is None else network).to(real.device)
    for images, is_real in ((generated, False), (real, True)):
        for part in images.split(batch):
            pixels = ((part.clamp(-1, 1) + 1) * 127.5).round().byte()  # torchmetrics would cut, not round
            metric.update(pixels.expand(-1, 3, -1, -1), real=is_real)
    return float(metric.compute())


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


def _pair(a: Tensor, b: Tensor, *, least: int, names: tuple[str, str]) -> None:
    """Raise unless two samples are finite, hold `least` events each, and events of one shape."""
    for name, x in zip(names, (a, b), strict=True):
        if _validate.finite(name, x).dim() < 2 or len(x) < least:
            raise ValueError(f"{name} must hold at least {least} events in shape (n, *event), got {tuple(x.shape)}")
    if a.shape[1:] != b.shape[1:]:
        shapes = f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
        raise ValueError(f"{names[0]} and {names[1]} must hold events of one shape, got {shapes}")
