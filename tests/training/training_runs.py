"""What the tests of this folder train: a network with everything that a resume could forget, on a small regression."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from fmtutor.training import History, fit
from fmtutor.training.randomness import Source
from fmtutor.training.weights import weights

quiet = partial(fit, progress=False)


def net(seed: int = 0) -> nn.Module:
    """Small, and with everything that a resume could forget: dropout, running statistics, a constant buffer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    model.register_buffer("frequencies", torch.tensor([1.0, -torch.inf]))
    return model


def generators() -> list[Source]:
    """One of each kind that a loss may have for itself."""
    mersenne = numpy.random.Generator(numpy.random.MT19937(9))
    return [torch.Generator().manual_seed(7), numpy.random.default_rng(8), mersenne, random.Random(10)]


def regression(model: nn.Module, own: Sequence[Source] = (), act: Callable[[int], None] | None = None):
    """A loss that draws from all global generators and from its own; `act` is called in each step, with its number."""
    steps = itertools.count(1)

    def loss() -> Tensor:
        if act is not None:
            act(next(steps))
        noise = numpy.random.normal() + random.gauss(0, 1)  # noqa: NPY002
        for g in own:
            noise += torch.randn((), generator=g).item() if isinstance(g, torch.Generator) else g.random()
        x = torch.randn(8, 3)
        return (model(x) - x[:, :2].sin() - 0.1 * noise).square().mean()

    return loss


def fingerprint(model: nn.Module, history: History) -> list[bytes]:
    return [t.numpy().tobytes() for t in (*weights(model).values(), history.losses, history.learning_rates)]


def kill_at(step: int) -> Callable[[int], None]:
    """Break a training off in the middle of a step: what it had not written then is lost."""

    def act(now: int) -> None:
        if now == step:
            raise InterruptedError("killed")

    return act


def run(folder: Path | None, act: Callable[[int], None] | None = None, seed: int = 0, model=None, **changes):
    """A model after its training, and the history."""
    model, own = net(seed) if model is None else model, generators()
    numpy.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    numpy.random.normal(), random.gauss(0, 1)  # noqa: NPY002 (both make two at a time, and keep the second one)
    options = {"steps": 60, "clip": 1.0, "generators": own, "checkpoint_every": 10, "log_every": 7, **changes}
    return model, quiet(model, regression(model, own, act), checkpoint=folder, **options)


def train(folder: Path | None, act: Callable[[int], None] | None = None, seed: int = 0, **changes) -> list[bytes]:
    return fingerprint(*run(folder, act, seed, **changes))


def killed(folder: Path, **changes) -> None:
    with pytest.raises(InterruptedError):
        train(folder, kill_at(36), **changes)


def resumed(folder: Path, **changes) -> list[bytes]:
    """What a second call makes of it, with other weights and another seed: all of that is in the checkpoint."""
    return train(folder, seed=99, **changes)


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
