"""How good an image model is, as one record: distances, bits, calls and copies, and how they were measured.

`python -m fmtutor.images evaluate` writes what `judge` returns; chapter 8 explains its numbers.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmtutor import _validate
from fmtutor.images.data import Images
from fmtutor.images.evaluate import frechet_distance, inception_distance, kernel_distance, nearest_distance
from fmtutor.images.model import LEAST_STEPS, ImageModel
from fmtutor.images.provenance import commit, machine


@torch.no_grad()
def judge(
    model: ImageModel,
    classifier: nn.Module,
    train: Images,
    test: Images,
    *,
    samples: int | None = None,
    scale: float = 1.0,
    method: str = "midpoint",
    steps: int = 20,
    likelihood: int = 200,
    likelihood_steps: int = 50,
    inception: nn.Module | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of a model beside those of real images, and how they were measured.

    Args:
        model: what is judged; with labels, each class is drawn as often as it is in the held-out images.
        classifier: in whose `features` images are compared; trained on images of this kind, not on the model's.
        train: the images that the model was trained on, to find copies of.
        test: held-out images; the first `samples` are the reference, the next as many real images stand beside it.
        samples: images to draw; at most half as many as there are held-out ones; 2000, or that half, unless given.
        scale: of guidance; 1 without.
        method, steps: of the solver that draws.
        likelihood: held-out images whose bits per dimension are computed, with one Rademacher probe; 0 for none.
        likelihood_steps: midpoint steps of that.
        inception: the network of the FID, `Inception()`; None leaves that distance out.
        seed: of all draws.

    Returns:
        A dictionary that JSON can hold: `numbers`, `real` (the same numbers for real images) and `protocol`.

    Raises:
        ValueError: fewer held-out images than twice `samples`, or as `ImageModel.sample` and `bits_per_dim`.
    """
    samples = min(2000, len(test.images) // 2) if samples is None else _validate.whole("samples", samples, least=2)
    if len(test.images) < 2 * samples:
        raise ValueError(f"samples must be at most half of {len(test.images)} held-out images, got {samples}")
    if not 0 <= likelihood <= len(test.images):
        raise ValueError(f"likelihood must lie in [0, {len(test.images)}], the held-out images, got {likelihood}")
    if likelihood and likelihood_steps < LEAST_STEPS:
        raise ValueError(
            f"likelihood_steps must be at least {LEAST_STEPS} for a likelihood to mean anything, got {likelihood_steps}"
        )
    weight, began = next(model.network.parameters()), time.perf_counter()
    generator = torch.Generator(weight.device).manual_seed(seed)
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(seed)).split(samples)
    known, reference, beside = (x.to(weight.device) for x in (train.images, *(test.images[k] for k in order[:2])))
    label = test.labels[order[0]].to(weight.device) if model.network.classes else None
    solver = {"method": method, "steps": steps}
    drawn, effort = _drawn(model, samples, label, scale, generator=generator, **solver)
    numbers, real = (_distances(classifier, inception, x, reference, known) for x in (drawn, beside))
    if likelihood:
        numbers |= _bits(model, test.images[torch.cat(order)[:likelihood]], likelihood_steps, generator)
    protocol = {
        "samples": samples, "reference": f"{samples} of {len(test.images)} held-out images, drawn with the seed",
        "features": f"{type(classifier).__name__}, {features_of(classifier, reference[:1]).shape[1]} numbers",
        **solver, "evaluations": effort["calls_per_sample"], "scale": scale, "seed": seed, "probes": 1,
        "likelihood_images": likelihood, "likelihood_steps": likelihood_steps, "model": model.notes,
        "precision": str(weight.dtype).removeprefix("torch."), "machine": machine(), "commit": commit(),
        "date": datetime.date.today().isoformat(), "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
    return {"numbers": numbers | effort, "real": real, "protocol": protocol}


def _drawn(model: ImageModel, n: int, *asked: Any, **how: Any) -> tuple[Tensor, dict[str, float]]:
    """Images of the model, and what they took."""
    began = time.perf_counter()
    with calls(model.network) as rows:
        images = model.sample(n, *asked, **how)
    if images.is_cuda:
        torch.cuda.synchronize()
    return images, {"calls_per_sample": rows[0] / n, "seconds_to_draw": time.perf_counter() - began}


def _bits(model: ImageModel, images: Tensor, steps: int, generator: torch.Generator) -> dict[str, float]:
    """Bits per dimension, and the standard error of their mean over the images."""
    bits = model.bits_per_dim(images.to(generator.device), steps=steps, generator=generator)
    return {"bits_per_dim": bits.mean().item(), "bits_error": (bits.std() / len(bits) ** 0.5).item()}


@contextmanager
def calls(network: nn.Module) -> Iterator[list[int]]:
    """Counts how many images a network is asked about, twice under guidance; the number is in the list.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with calls(layer) as asked:
        ...     _ = layer(torch.zeros(5, 2)), layer(torch.zeros(3, 2))
        >>> asked
        [8]
    """
    asked = [0]

    def count(_: nn.Module, given: tuple[Any, ...]) -> None:
        asked[0] += len(given[-1])

    handle = network.register_forward_pre_hook(count)
    try:
        yield asked
    finally:
        handle.remove()


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
        found = frechet_distance(features_of(classifier, drawn), reference)
        return {"frechet": round(found, 3), "real": round(real, 3)}

    return look


@torch.no_grad()
def features_of(classifier: nn.Module, images: Tensor, batch: int = 500) -> Float[Tensor, "n features"]:
    """What the classifier sees in images, some at a time, on its own device."""
    device = next(classifier.parameters(), images).device
    return torch.cat([classifier.features(part.to(device)) for part in images.split(batch)])  # type: ignore[operator]


def _distances(
    classifier: nn.Module, inception: nn.Module | None, images: Tensor, reference: Tensor, train: Tensor
) -> dict[str, float]:
    a, b = features_of(classifier, images), features_of(classifier, reference)
    near = torch.cat([nearest_distance(part, train) for part in images[:500].split(100)])
    fid = {} if inception is None else {"inception": inception_distance(images, reference, inception)}
    return {
        "frechet": frechet_distance(a, b),
        "kernel": kernel_distance(a, b),
        "nearest_training_image": near.median().item(),
        **fid,
    }
