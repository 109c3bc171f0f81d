"""How good an image model is, as one record: distances, bits, calls and copies, and how they were measured.

`python -m fmtutor.images evaluate` writes what `judge` returns; chapter 8 explains its numbers.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate
from fmtutor.images.data import Images
from fmtutor.images.evaluate import frechet_distance, kernel_distance, nearest_distance
from fmtutor.images.model import ImageModel
from fmtutor.ode import solve


@torch.no_grad()
def judge(
    model: ImageModel,
    classifier: nn.Module,
    train: Images,
    test: Images,
    *,
    samples: int = 2000,
    scale: float = 1.0,
    method: str = "midpoint",
    steps: int = 20,
    likelihood: int = 200,
    likelihood_steps: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of a model beside those of real images, and how they were measured.

    Args:
        model: what is judged; with labels, each class is drawn as often as it is in the held-out images.
        classifier: in whose `features` images are compared; trained on images of this kind, not on the model's.
        train: the images that the model was trained on, to find copies of.
        test: held-out images; the first `samples` are the reference, the next as many real images stand beside it.
        samples: images to draw; at most half as many as there are held-out ones.
        scale: of guidance; 1 without.
        method, steps: of the solver that draws.
        likelihood: held-out images whose bits per dimension are computed, with one Rademacher probe; 0 for none.
        likelihood_steps: midpoint steps of that.
        seed: of all draws.

    Returns:
        A dictionary that JSON can hold: `numbers`, `real` (the same numbers for real images) and `protocol`.

    Raises:
        ValueError: fewer held-out images than twice `samples`, or as `ImageModel.sample` and `bits_per_dim`.
    """
    _validate.whole("samples", samples, least=2)
    if len(test.images) < 2 * samples:
        raise ValueError(f"samples must be at most half of {len(test.images)} held-out images, got {samples}")
    device = next(model.network.parameters()).device
    generator, began = torch.Generator(device).manual_seed(seed), time.perf_counter()
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(seed))
    reference, beside = (test.images[rows].to(device) for rows in (order[:samples], order[samples : 2 * samples]))
    label = test.labels[order[:samples]].to(device) if model.network.classes else None
    drawn = model.sample(samples, label, scale, method=method, steps=steps, generator=generator)
    drawing = time.perf_counter() - began
    numbers = _distances(classifier, drawn, reference, train.images.to(device))
    real = _distances(classifier, beside, reference, train.images.to(device))
    if likelihood:
        held_out = test.images[order[:likelihood]].to(device)
        bits = model.bits_per_dim(held_out, steps=likelihood_steps, generator=generator)
        numbers |= {"bits_per_dim": bits.mean().item(), "bits_error": (bits.std() / len(bits) ** 0.5).item()}
    noise = torch.randn(1, *model.shape, device=device)
    calls = solve(model.network, noise, t1=1 - 1e-5, method=method, steps=steps).nfe
    return {
        "numbers": {**numbers, "calls_per_sample": calls * (2 if scale != 1 else 1), "seconds_to_draw": drawing},
        "real": real,
        "protocol": {
            "samples": samples, "reference": f"{samples} held-out images, drawn with seed {seed}",
            "features": f"{type(classifier).__name__}, {features_of(classifier, reference[:1]).shape[1]} numbers",
            "method": method, "steps": steps, "scale": scale, "seed": seed, "likelihood_images": likelihood,
            "likelihood_steps": likelihood_steps, "probes": 1, "dtype": str(drawn.dtype), "device": _device(device),
            "torch": torch.__version__, "date": datetime.date.today().isoformat(), "model": model.notes,
        },
    }  # fmt: skip


def watch(
    classifier: nn.Module, held_out: Images, *, samples: int = 1000, method: str = "midpoint", steps: int = 10
) -> Callable[[ImageModel, int], dict[str, float]]:
    """What `train` measures at each look: the Frechet distance of a few drawn images from held-out ones.

    Every look draws from the same noise, in the classes of the held-out images; the distance of as many other
    held-out images, `real`, is the mark to reach.

    Args:
        classifier: in whose `features` images are compared.
        held_out: images that the model does not train on.
        samples: images to draw, at most half as many as are held out.
        method, steps: of the solver.
    """
    n = min(_validate.whole("samples", samples, least=2), len(held_out.images) // 2)
    order = torch.randperm(len(held_out.images), generator=torch.Generator().manual_seed(0))
    labels = held_out.labels[order[:n]]
    reference, beside = (features_of(classifier, held_out.images[rows]) for rows in (order[:n], order[n : 2 * n]))
    real = frechet_distance(beside, reference)

    def look(model: ImageModel, step: int) -> dict[str, float]:
        device = next(model.network.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        label = labels.to(device) if model.network.classes else None
        drawn = model.sample(n, label, method=method, steps=steps, generator=generator)
        found = frechet_distance(features_of(classifier, drawn.to(reference.device)), reference)
        return {"frechet": round(found, 3), "real": round(real, 3)}

    return look


@torch.no_grad()
def features_of(classifier: nn.Module, images: Tensor, batch: int = 500) -> Float[Tensor, "n features"]:
    """What the classifier sees in images, some at a time."""
    return torch.cat([classifier.features(part) for part in images.split(batch)])  # type: ignore[operator]


def _distances(classifier: nn.Module, images: Tensor, reference: Tensor, train: Tensor) -> dict[str, float]:
    a, b = features_of(classifier, images), features_of(classifier, reference)
    near = torch.cat([nearest_distance(part, train) for part in images[:500].split(100)])
    return {
        "frechet": frechet_distance(a, b),
        "kernel": kernel_distance(a, b),
        "nearest_training_image": near.median().item(),
    }


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
