"""`fmtutor.images.evaluate`: distances against closed forms, and a judge that neither accuses nor acquits wrongly."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pickle import UnpicklingError
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from fmtutor.images import (
    Classifier,
    Inception,
    class_histogram,
    classifier_two_sample,
    confidence,
    digits,
    feature_distance,
    frechet_distance,
    inception_distance,
    nearest_distance,
    quantize,
    train_classifier,
)


@pytest.fixture(scope="module")
def judge() -> Classifier:
    return train_classifier(*digits("train"), steps=200)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(n: int = 60, m: int = 80, d: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated samples that differ in mean and in covariance."""
    g = seeded()

    def draw(k: int) -> torch.Tensor:
        return torch.randn(k, d, dtype=torch.float64, generator=g) @ torch.randn(d, d, dtype=torch.float64, generator=g)

    return draw(n), draw(m) + 1.5


def by_scipy(a: torch.Tensor, b: torch.Tensor, cross: float = 2.0, root=sqrtm) -> float:
    """The textbook formula with a square root of a matrix; `cross` and `root` are there to be planted wrong."""
    x, y = a.numpy(), b.numpy()
    one, two = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + two - cross * root(one @ two).real))


def agrees(a: torch.Tensor, b: torch.Tensor, candidate: float) -> bool:
    return math.isclose(frechet_distance(a, b), candidate, rel_tol=1e-8)


def test_frechet_agrees_with_scipy_and_no_planted_mistake_does() -> None:
    a, b = pair()
    assert agrees(a, b, by_scipy(a, b))
    assert not agrees(a, b, by_scipy(a, b, cross=0.0))  # without the term that couples the covariances
    assert not agrees(a, b, by_scipy(a, b, cross=1.0))
    assert not agrees(a, b, by_scipy(a, b, root=lambda m: m))  # without the square root
    diagonal = ((a.mean(0) - b.mean(0)) ** 2).sum() + ((a.std(0) - b.std(0)) ** 2).sum()
    assert not agrees(a, b, float(diagonal))  # standard deviations in place of covariances


def test_frechet_of_gaussians_of_known_moments_is_the_closed_form() -> None:
    """Samples made to have exactly mean m and covariance diag(s^2): the distance is |m - m'|^2 + |s - s'|^2."""
    z = torch.randn(50, 4, dtype=torch.float64, generator=seeded())
    white = torch.linalg.qr(z - z.mean(0)).Q * 7  # mean zero, covariance one
    s, r = torch.tensor([1.0, 2.0, 3.0, 0.0]).double(), torch.tensor([2.0, 0.5, 3.0, 1.0]).double()
    m = torch.tensor([1.0, -1.0, 0.0, 2.0]).double()
    wanted = float(m.square().sum() + (s - r).square().sum())
    assert frechet_distance(white * s + m, white * r) == pytest.approx(wanted, rel=1e-10)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=seeded(1))).Q
    assert frechet_distance((white * s + m) @ turn, (white * r) @ turn) == pytest.approx(wanted, rel=1e-10)


def test_frechet_is_a_distance_and_survives_a_covariance_without_full_rank() -> None:
    a, b = pair()
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * a.shape[1], rel=1e-10)
    few, other = pair(n=4, m=3, d=9)
    assert frechet_distance(few, other) == pytest.approx(by_scipy(few, other), rel=1e-5)


def test_the_judge_knows_digits_and_is_the_same_each_time(judge: Classifier) -> None:
    x, y = digits("test")
    assert (judge(x).argmax(1) == y).float().mean() > 0.95
    assert not any(p.requires_grad for p in judge.parameters())
    few = [t[:100] for t in digits("train")]
    torch.manual_seed(3)
    one, next_draw = train_classifier(*few, steps=5), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(next_draw, torch.rand(1))  # the caller's randomness is untouched
    torch.manual_seed(4)
    assert torch.equal(one(x), train_classifier(*few, steps=5)(x))


def test_two_samples_of_one_distribution_cannot_be_told_apart() -> None:
    """Twelve pairs: the mean accuracy lies within three standard errors of 0.5 (a false alarm once in 370)."""
    found = [classifier_two_sample(*torch.randn(2, 100, 4, generator=seeded(i)), trees=20) for i in range(12)]
    mean = sum(f.accuracy for f in found) / 12
    assert abs(mean - 0.5) < 3 * 0.5 / math.sqrt(12 * 200)
    assert found[0].error == pytest.approx(math.sqrt(found[0].accuracy * (1 - found[0].accuracy) / 200))


def test_digits_held_out_by_writer_are_told_apart_less_often_than_by_guessing() -> None:
    """Chapter 8 says why real digits score below one half: every fourth digit of a writer and class is held out, so the
    nearest relatives of a held-out digit are all on the other side. Drawn by chance from the same digits, the two
    sides score one half. Means of eight splits, each with a standard error of about 0.006: measured 0.472 and 0.495.
    """
    train, held = digits("train").images, digits("test").images
    every = torch.cat([train, held])

    def mean(pick: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> float:
        return sum(classifier_two_sample(*pick(i), trees=40, generator=seeded(i)).accuracy for i in range(8)) / 8

    def by_chance(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        some = every[torch.randperm(len(every), generator=seeded(100 + i))]
        return some[: len(held)], some[len(held) : 2 * len(held)]

    ours, chance = mean(lambda i: (train, held)), mean(by_chance)
    assert ours < 0.485
    assert chance > 0.485


def test_two_samples_that_differ_are_told_apart_unless_their_labels_are_shuffled() -> None:
    x = digits("test").images
    noisy = x + 0.2 * torch.randn(x.shape, generator=seeded())
    assert classifier_two_sample(noisy, x, trees=30, generator=seeded()).accuracy > 0.9
    mixed = torch.cat([noisy, x])[torch.randperm(2 * len(x), generator=seeded())]
    accuracy, error = classifier_two_sample(mixed[: len(x)], mixed[len(x) :], trees=30, generator=seeded())
    assert abs(accuracy - 0.5) < 3 * error


def test_guessing_scores_a_half_however_unequal_the_samples() -> None:
    a, b = torch.randn(60, 4, generator=seeded()), torch.randn(600, 4, generator=seeded(1))
    assert classifier_two_sample(a, b, trees=20, generator=seeded()).accuracy < 0.65  # 0.91 for "always b"
    assert classifier_two_sample(a, b, trees=20, generator=seeded()) == classifier_two_sample(
        a, b, trees=20, generator=seeded()
    )


def test_every_image_is_asked_about_once_by_a_forest_that_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forest that writes down what it learns from and what it is asked, and calls all of it real."""
    learned, asked = [], []

    class Recorder:
        def __init__(self, trees: int, random_state: int) -> None:
            assert trees == 7

        def fit(self, x: np.ndarray, y: np.ndarray) -> Recorder:
            learned.append((x, y))
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            asked.append(x)
            return np.ones(len(x))

    monkeypatch.setattr("sklearn.ensemble.RandomForestClassifier", Recorder)
    few, many = torch.arange(23.0)[:, None], 1000 + torch.arange(90.0)[:, None]  # a row is its own name
    found = classifier_two_sample(few, many, folds=5, trees=7, generator=seeded())
    assert found.accuracy == 0.5
    assert found.error == pytest.approx(math.sqrt(0.25 / 46))
    every = np.concatenate(asked).ravel()
    assert len(asked) == 5
    assert len(every) == len(set(every)) == 46  # all of the small sample, as many of the large one, each once
    assert set(every[every < 1000]) == set(range(23))
    assert set(every[every >= 1000]) != set(range(1000, 1023))  # thinned at random, not cut
    for (x, y), questions in zip(learned, asked, strict=True):
        assert set(x.ravel()) == set(every) - set(questions.ravel())
        assert ((x.ravel() >= 1000) == y).all()
        assert abs(2 * y.mean() - 1) < 1e-9  # as many of each, so that guessing scores a half
        assert len(questions) in (8, 10)


def test_feature_distance_of_unequal_halves_by_the_same_draws() -> None:
    """Nine real images and seven drawn ones: three sets of four, and by scipy the same distances."""
    g = seeded(5)
    real, drawn = torch.randn(9, 2, generator=g).double(), 1 + torch.randn(7, 2, generator=g).double()
    found = feature_distance(lambda x: 2 * x, drawn, real, repeats=3, generator=seeded(1))
    g, pairs, whole = seeded(1), [], []
    for _ in range(3):
        rows, others = torch.randperm(9, generator=g), torch.randperm(7, generator=g)
        a, b, c = 2 * drawn[others[:4]], 2 * real[rows[:4]], 2 * real[rows[4:8]]
        pairs.append((by_scipy(a, b), by_scipy(c, b)))
        whole.append((by_scipy(2 * drawn[others], b), by_scipy(2 * real[rows[4:]], b)))  # sizes that differ: biased
    wanted, other = np.array(pairs), np.array(whole)
    assert found[:2] == pytest.approx(wanted.mean(0))
    assert found[2:] == pytest.approx(wanted.std(0, ddof=1))
    assert found[:2] != pytest.approx(other.mean(0), rel=1e-2)
    assert found[2:] != pytest.approx(wanted.std(0), rel=1e-2)


def test_feature_distance_is_its_reference_for_real_images_and_above_it_for_others(judge: Classifier) -> None:
    train, real = digits("train"), digits("test").images
    spare = train.images[torch.randperm(len(train.images), generator=seeded())]
    same = feature_distance(judge.features, spare, real, generator=seeded())
    assert same.distance < 1.5 * same.reference
    without = spare[judge(spare).argmax(1) > 3]  # four classes dropped
    assert feature_distance(judge.features, without, real, generator=seeded()).distance > 2 * same.reference
    noise = torch.randn(real.shape, generator=seeded())
    assert feature_distance(judge.features, noise, real, generator=seeded()).distance > 2 * same.reference
    # A generator that is right to second order, class by class, and still draws no strokes.
    gaussians = []
    for k in range(10):
        x = train.images[train.labels == k].flatten(1)
        spread = torch.linalg.cholesky(x.T.cov() + 1e-4 * torch.eye(64))
        gaussians.append(x.mean(0) + torch.randn(45, 64, generator=seeded(k)) @ spread.T)
    blurred = quantize(torch.cat(gaussians).reshape(-1, 1, 8, 8))
    assert feature_distance(judge.features, blurred, real, generator=seeded()).distance > 1.5 * same.reference


def test_confidence_and_histogram_follow_the_classifier(judge: Classifier) -> None:
    x, y = digits("test")
    found = class_histogram(judge, x)
    assert found.sum() == len(x)
    assert (found - y.bincount()).abs().max() <= 8
    probabilities = torch.nn.functional.softmax(judge(x), dim=1)
    torch.testing.assert_close(confidence(judge, x), probabilities.max(1).values)
    assert class_histogram(judge, x[y == 3]).argmax() == 3
    assert confidence(judge, x).mean() > confidence(judge, (x + x.flip(0)) / 2).mean() + 0.1


def test_nearest_distance_finds_copies_and_agrees_with_brute_force() -> None:
    train, real = digits("train").images, digits("test").images
    assert not nearest_distance(train[5:9], train).any()
    brute = torch.stack([(train - x).flatten(1).norm(dim=1).min() for x in real[:20]])
    torch.testing.assert_close(nearest_distance(real[:20], train), brute)
    assert nearest_distance(real, train).median() > 1
    for dtype in (torch.bfloat16, torch.float16):  # as the numbers they are, and not rounded again
        half, other = real[:20].to(dtype) + 100, train.to(dtype) + 100
        assert nearest_distance(half, other).equal(nearest_distance(half.float(), other.float()))


class Few(torch.nn.Module):
    """Stands for Inception: three numbers of an image's bytes."""

    num_features = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        x = pixels.double() / 255
        return torch.stack([x[:, 0].mean((1, 2)), x[:, 1, 0, 0] * 5, x[:, 2].square().mean((1, 2))], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inception_distance_is_the_frechet_distance_of_its_features(channels: int) -> None:
    pytest.importorskip("torchmetrics")
    a = quantize(torch.rand(70, channels, 4, 4, generator=seeded()) * 2 - 1, 256)
    b = quantize(torch.rand(30, channels, 4, 4, generator=seeded(1)) * 1.7 - 1, 256)
    found = inception_distance(a, b, Few())
    seen = [Few()(((x + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)) for x in (a, b)]
    assert found == pytest.approx(frechet_distance(*seen), rel=1e-6)
    assert found == pytest.approx(by_scipy(*seen), rel=1e-6)
    for wrong in (lambda x: ((x + 1) * 127.5).byte(), lambda x: (x * 255).byte()):  # cut, or as if from 0 to 1
        others = [Few()(wrong(x).expand(-1, 3, -1, -1)) for x in (a, b)]
        assert found != pytest.approx(frechet_distance(*others), rel=1e-6)
    assert inception_distance(a * 3, b * 3, Few()) == inception_distance(
        a.mul(3).clamp(-1, 1), b.mul(3).clamp(-1, 1), Few()
    )


def loaded(error: Exception | None) -> SimpleNamespace:
    """Stands for the file of torch-fidelity that has the network; its weights arrive, or an error does."""

    def network(name: str, features: list[str]) -> Callable[[torch.Tensor], tuple[torch.Tensor]]:
        assert (name, features) == ("inception-v3-compat", ["2048"])
        if error is not None:
            raise error
        return lambda images: (images.double().mean((2, 3)),)

    return SimpleNamespace(URL_INCEPTION_V3="https://example.org/weights.pth", FeatureExtractorInceptionV3=network)


def test_inception_is_used_where_it_can_be_had_and_missed_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    name = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, loaded(None))
    assert Inception()(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).tolist() == [[7.0] * 3] * 2
    for error in (URLError("no name"), UnpicklingError("cut"), EOFError("cut"), RuntimeError("zip archive")):
        monkeypatch.setitem(sys.modules, name, loaded(error))
        with pytest.raises(
            OSError, match=r"Put https://example\.org/weights\.pth into .*checkpoints by hand, or leave"
        ):
            inception_distance(X, X)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs torch-fidelity and torchmetrics, pip install 'fmtutor\[fid\]'"):
        Inception()
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"needs torch-fidelity and torchmetrics, pip install 'fmtutor\[fid\]'"):
        inception_distance(X, X, Few())


X = torch.zeros(20, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(torch.zeros(3, 2), torch.zeros(3, 4)), "events of one shape"),
        (lambda: frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2)), "at least 2 events"),
        (lambda: frechet_distance(X, X), r"shape \(n, features\)"),
        (lambda: frechet_distance(torch.full((3, 2), torch.nan), torch.zeros(3, 2)), "6 NaN"),
        (lambda: classifier_two_sample(X, X[..., :2]), "events of one shape"),
        (lambda: classifier_two_sample(X, X / 0), "NaN"),
        (lambda: classifier_two_sample(X[:5], X), "at least 10 events"),
        (lambda: classifier_two_sample(X, X, folds=1), "folds must be a whole number of at least 2"),
        (lambda: feature_distance(torch.nn.Flatten(), X[:5], X), "at least 10 images"),
        (lambda: feature_distance(torch.nn.Flatten(), X, X[:3]), "at least 4 events"),
        (lambda: inception_distance(X.expand(-1, 2, -1, -1), X.expand(-1, 2, -1, -1), Few()), "1 or 3 channels"),
        (lambda: inception_distance(X, X[..., :2], Few()), "events of one shape"),
        (lambda: nearest_distance(X, X[:, :, :2]), "images and train must hold events of one shape"),
        (lambda: nearest_distance(X, X[:0]), "at least 1 events"),
        (lambda: confidence(torch.nn.Flatten(), X[0]), r"shape \(n, channels, height, width\)"),
        (lambda: class_histogram(torch.nn.Flatten(), X / 0), "NaN"),
        (lambda: train_classifier(X, torch.arange(19)), "one for each of 20 images"),
        (lambda: train_classifier(X, torch.zeros(20, dtype=torch.long)), "from 0 to 1 at least"),
        (lambda: train_classifier(X, torch.arange(20) - 1), "from 0 to 1 at least"),
        (lambda: train_classifier(X, torch.arange(20), batch=0), "batch must be a whole number"),
    ],
)
def test_bad_samples_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
