"""What ships with the package: the classifiers name what they are shown, and the model draws what it is asked for."""

from __future__ import annotations

import pytest
import torch

from fmtutor import results
from fmtutor.images import pretrained, pretrained_classifier
from fmtutor.images.pretrained import CLASSIFIERS, MODELS, WEIGHTS
from fmtutor.images.run import load
from fmtutor.training.weights import read_weights


def test_every_file_is_small_and_described() -> None:
    files = sorted(path.name for path in WEIGHTS.glob("*"))
    assert files == sorted([f"classifier_{n}.safetensors" for n in CLASSIFIERS] + [f"{n}.safetensors" for n in MODELS])
    assert all((WEIGHTS / name).stat().st_size < 2e6 for name in files)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_as_good_as_is_said_of_it(name: str) -> None:
    try:
        (images, labels), _ = load(name, "test")
    except OSError:
        pytest.skip(f"{name} is not on this machine")
    model = pretrained_classifier(name)
    right = torch.cat([model(part).argmax(1) for part in images.split(500)]) == labels
    stated = results("images_classifiers")["measured"][name]["accuracy"]["test"]
    assert abs(right.float().mean().item() - stated) < 2e-3
    assert read_weights(WEIGHTS / f"classifier_{name}.safetensors")[1]["accuracy"]["test"] == stated
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_clothes_are_what_was_asked_for() -> None:
    model, classifier = pretrained("fashion_mnist"), pretrained_classifier("fashion_mnist")
    label = torch.arange(10).repeat(4)
    drawn = model.sample(40, label, steps=8, generator=torch.Generator().manual_seed(0))
    assert (classifier(drawn).argmax(1) == label).float().mean() > 0.6
    torch.testing.assert_close((drawn + 1) * 127.5, ((drawn + 1) * 127.5).round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("get", [pretrained, pretrained_classifier])
def test_another_name_is_refused(get: object) -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*got 'imagenet'"):
        get("imagenet")  # type: ignore[operator]
