"""What `judge` and `watch` report, number by number, from images and bits that the test chose; and the sum in KID."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch

from fmtutor.images import (
    ImageModel,
    Images,
    UNet,
    digits,
    frechet_distance,
    inception_distance,
    judge,
    kernel_distance,
    nearest_distance,
    pretrained_classifier,
    watch,
)
from fmtutor.images.__main__ import main
from fmtutor.images.pretrained import WEIGHTS


class Known(ImageModel):
    """Draws the training images in an order of its own, prices images by their place, and keeps what it was asked."""

    def __init__(self, known: Images, classes: int | None = 10) -> None:
        super().__init__(UNet(1, 8, (1,), classes), (1, 8, 8), 17)
        self.known = known.images[torch.randperm(len(known.images), generator=torch.Generator().manual_seed(1))]
        self.asked: dict[str, Any] = {}

    def sample(self, n: int, *asked: Any, **how: Any) -> torch.Tensor:  # type: ignore[override]
        self.asked |= {"sample": asked, **how}
        with torch.no_grad():
            self.network(0.5, torch.zeros(2 * n, 1, 8, 8)), self.network(0.5, torch.zeros(n, 1, 8, 8))
        return self.known[:n]

    def bits_per_dim(self, images: torch.Tensor, **how: Any) -> torch.Tensor:  # type: ignore[override]
        self.asked |= {"priced": images, "price": how}
        return torch.arange(len(images)).float()


def test_every_number_of_a_judgement_is_the_one_it_says() -> None:
    known, held_out = digits("train"), digits("test")
    classifier, model = pretrained_classifier("digits"), Known(known)
    found = judge(
        model, classifier, known, held_out, samples=150, scale=2.0, method="heun2", steps=7, likelihood=9,
        likelihood_steps=31, seed=5,
    )  # fmt: skip
    order = torch.randperm(445, generator=torch.Generator().manual_seed(5))
    reference, beside = held_out.images[order[:150]], held_out.images[order[150:300]]
    label, scale = model.asked["sample"]
    assert label.equal(held_out.labels[order[:150]])
    assert (scale, model.asked["method"], model.asked["steps"]) == (2.0, "heun2", 7)
    assert model.asked["priced"].equal(held_out.images[order[:9]])
    assert model.asked["price"]["steps"] == 31
    see = classifier.features
    for images, row in ((model.known[:150], found["numbers"]), (beside, found["real"])):
        assert row["frechet"] == pytest.approx(frechet_distance(see(images), see(reference)), rel=1e-5)
        assert row["kernel"] == pytest.approx(kernel_distance(see(images), see(reference)), rel=1e-4)
        assert row["nearest_training_image"] == nearest_distance(images, known.images).median().item()
    assert found["numbers"]["nearest_training_image"] == 0  # it copies
    assert found["numbers"]["bits_per_dim"] == 4
    assert found["numbers"]["bits_error"] == pytest.approx((60 / 8) ** 0.5 / 3)  # of 0 to 8: variance 60 / 8
    assert found["numbers"]["calls_per_sample"] == found["protocol"]["evaluations"] == 3
    assert json.loads(json.dumps(found)) == found
    protocol = {"samples": 150, "method": "heun2", "steps": 7, "scale": 2.0, "seed": 5, "likelihood_images": 9}
    protocol |= {"likelihood_steps": 31, "probes": 1, "precision": "float32"}
    assert protocol.items() <= found["protocol"].items()
    assert {"reference", "features", "machine", "commit", "date", "seconds"} <= set(found["protocol"])
    assert found["protocol"]["machine"]["torch"] == torch.__version__


def test_without_labels_none_are_asked_for_and_samples_have_to_be_there_twice() -> None:
    known, held_out = digits("train"), digits("test")
    model, classifier = Known(known, classes=None), pretrained_classifier("digits")
    found = judge(model, classifier, known, held_out, samples=20, likelihood=0)
    assert model.asked["sample"] == (None, 1.0)
    assert "bits_per_dim" not in found["numbers"]
    with pytest.raises(ValueError, match="samples must be at most half of 445 held-out images, got 300"):
        judge(model, classifier, known, held_out, samples=300)


class Corner(torch.nn.Module):
    """Stands for Inception: two numbers of an image's bytes."""

    num_features = 2

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, 3:5, 3].double()


def test_the_inception_distance_is_among_the_numbers_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    known, held_out = digits("train"), digits("test")
    model = Known(known)
    found = judge(
        model, pretrained_classifier("digits"), known, held_out, samples=100, likelihood=0, inception=Corner()
    )
    order = torch.randperm(len(held_out.images), generator=torch.Generator().manual_seed(0))
    reference, beside = held_out.images[order[:100]], held_out.images[order[100:200]]
    assert found["real"]["inception"] == inception_distance(beside, reference, Corner())
    assert found["numbers"]["inception"] == inception_distance(model.known[:100], reference, Corner())
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(SystemExit, match=r"ImportError: .* needs torch-fidelity and torchmetrics"):
        main(["evaluate", str(WEIGHTS / "fashion_mnist.safetensors"), "--inception"])


def test_every_look_measures_the_same_draws_beside_real_images() -> None:
    images, labels = digits("test")
    classifier, model = pretrained_classifier("digits"), Known(digits("train"))
    look = watch(classifier, Images(images, labels), samples=100, method="heun2", steps=3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    see = classifier.features
    states = []
    for step in (500, 1000):
        found = look(model, step)
        assert model.asked["sample"][0].equal(labels[order[:100]])
        assert (model.asked["method"], model.asked["steps"]) == ("heun2", 3)
        states.append(model.asked["generator"].get_state())
        reference = see(images[order[:100]])
        assert found["frechet"] == pytest.approx(frechet_distance(see(model.known[:100]), reference), abs=1e-3)
        assert found["real"] == pytest.approx(frechet_distance(see(images[order[100:200]]), reference), abs=1e-3)
    assert states[0].equal(states[1])  # from one noise
    assert torch.Generator().manual_seed(0).get_state().equal(states[0])


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 3), torch.randn(5, 3) + 1

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within = [
        sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    between = sum(k(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between, rel=1e-5)
    same = [kernel_distance(*torch.randn(2, 50, 3)) for _ in range(200)]
    mean = sum(same) / 200
    error = (sum((v - mean) ** 2 for v in same) / 199 / 200) ** 0.5
    assert abs(mean) < 4 * error  # not biased: at one size as at another


def test_a_judgement_does_not_claim_what_it_cannot_have_measured() -> None:
    known, held_out = digits("train"), digits("test")
    model, classifier = Known(known, classes=None), pretrained_classifier("digits")
    assert judge(model, classifier, known, held_out, likelihood=0)["protocol"]["samples"] == 222
    for images in (-3, 446):
        with pytest.raises(ValueError, match=rf"likelihood must lie in \[0, 445\], the held-out images, got {images}"):
            judge(model, classifier, known, held_out, samples=20, likelihood=images)
    with pytest.raises(ValueError, match=r"likelihood_steps must be at least 10 .* got 4"):
        judge(model, classifier, known, held_out, samples=20, likelihood=5, likelihood_steps=4)
