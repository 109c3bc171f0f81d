"""A trained image model as one thing: the network, and what it takes to draw from it and to score with it.

Chapter 8 draws clothes from the one that comes with the package; `fmtutor.images.train` makes your own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.distributions import StandardNormal
from fmtutor.flows import ContinuousFlow
from fmtutor.guidance import guide
from fmtutor.images.data import quantize
from fmtutor.images.unet import UNet
from fmtutor.normalizing import bits_per_dim
from fmtutor.ode import ADAPTIVE, FIXED
from fmtutor.paths import AffinePath
from fmtutor.schedules import Cosine, Linear, Schedule, VariancePreserving
from fmtutor.training import save_weights
from fmtutor.training.weights import copy_weights, read_weights

SCHEDULES: Mapping[str, type[Schedule]] = {"linear": Linear, "cosine": Cosine, "vp": VariancePreserving}
LEAST_STEPS = 10
"""Steps below which a likelihood is refused: the sum over so few says nothing about the density of the flow."""


class ImageModel:
    """A velocity field of images, with the shape and the grey levels of what it draws.

    Args:
        network: the `UNet`.
        shape: of an image, `(channels, height, width)`.
        levels: how many values a pixel of the data has, 256 for bytes.
        schedule: "linear", "cosine" or "vp", the path that it was trained on.
        notes: whatever else is to be kept beside the weights.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, or the schedule is unknown.

    Example:
        >>> model = ImageModel(UNet(1, width=8, multipliers=(1,)), (1, 8, 8), levels=17)
        >>> model.sample(3, steps=2).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        network: UNet,
        shape: tuple[int, int, int],
        levels: int,
        schedule: str = "linear",
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = _validate.kind("network", network, UNet)
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.levels = _validate.whole("levels", levels, least=2)
        self.schedule = _validate.choice("schedule", schedule, SCHEDULES)
        self.notes = dict(notes or {})

    @property
    def path(self) -> AffinePath:
        """The path that it was trained on."""
        return AffinePath(SCHEDULES[self.schedule]())

    def flow(
        self, label: Int[Tensor, " batch"] | int | None = None, scale: float = 1.0, **solver: Any
    ) -> ContinuousFlow:
        """The model as a distribution of images, for a label and with guidance of some scale.

        Args:
            label: a class for all images, or one for each; None for any.
            scale: the weight of the labelled field, see `guide`; 1 without guidance.
            solver: as `ContinuousFlow` takes it.

        Raises:
            ValueError: a label is asked for and the network knows none; guidance without a label.
        """
        if label is None and scale != 1:
            raise ValueError(f"scale {scale} must come with a label: guidance needs something to listen to")
        if label is not None and not self.network.classes:
            raise ValueError("label must be None: this network was trained without labels")
        device = next(self.network.parameters()).device
        if label is None:
            velocity: Any = self.network
        else:
            velocity = guide(self.network, label, scale, null=self.network.classes).to(device)
        options = {"t1": 1 - 1e-5, **solver} if self.schedule == "vp" else solver
        return ContinuousFlow(velocity, StandardNormal(*self.shape).to(device), **options)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        label: Int[Tensor, " n"] | int | None = None,
        scale: float = 1.0,
        *,
        batch: int = 250,
        generator: Generator | None = None,
        **solver: Any,
    ) -> Float[Tensor, "n channels height width"]:
        """`n` images, moved to the grey levels of the data; `batch` at a time, so that memory does not grow with n."""
        _validate.whole("n", n), _validate.whole("batch", batch)
        labels = None if label is None else torch.as_tensor(label).expand(n)
        drawn = []
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            chosen = None if labels is None else labels[rows]
            size = (rows.stop - rows.start,)
            drawn.append(self.flow(chosen, scale, **solver).sample(size, generator=generator))
        return quantize(torch.cat(drawn), self.levels)

    @torch.no_grad()
    def bits_per_dim(
        self,
        images: Float[Tensor, "n channels height width"],
        *,
        steps: int = 50,
        method: str = "midpoint",
        probes: int = 1,
        generator: Generator | None = None,
    ) -> Float[Tensor, " n"]:
        """What each image costs in bits for each of its numbers, spread over its grey levels by uniform noise.

        The divergence is estimated by `probes` random vectors: single values are noisy, their mean is not biased.

        Raises:
            ValueError: images of another shape, or too few steps for a likelihood to mean anything.

        Source: Theis et al. (2016); Grathwohl et al. (2019) for the estimate.
        """
        if images.shape[1:] != self.shape:
            raise ValueError(f"images must have shape (n, {str(self.shape)[1:-1]}), got {tuple(images.shape)}")
        if _validate.choice("method", method, FIXED + ADAPTIVE) in FIXED and steps < LEAST_STEPS:
            raise ValueError(f"steps must be at least {LEAST_STEPS} for a likelihood to mean anything, got {steps}")
        half, dims = (self.levels - 1) / 2, math.prod(self.shape)
        values = ((images + 1) * half).round()
        noise = torch.rand(images.shape, generator=generator, device=images.device) - 0.5
        flow = self.flow(steps=steps, method=method, estimator="rademacher", probes=probes)
        log_prob = flow.log_prob((values + noise) / half - 1)
        return bits_per_dim(log_prob + dims * math.log(self.levels / half), dims, self.levels)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write the model to one safetensors file, its description beside the weights.

        `torch.float16` or `torch.bfloat16` halves the file and rounds the weights; `load` returns float32 always.
        """
        network = copy.deepcopy(self.network).to(dtype)
        return save_weights(network, path, network=self.network.settings, shape=self.shape, levels=self.levels,
                            schedule=self.schedule, notes=self.notes)  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> ImageModel:
        """The model in a file that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds the weights of something else.
        """
        tensors, meta = read_weights(Path(path).expanduser())
        if not {"network", "shape", "levels", "schedule"} <= meta.keys():
            raise ValueError(f"{path} holds weights, but no image model: it was not written by ImageModel.save")
        network = UNet(**meta["network"])
        copy_weights(network, {name: tensor.float() for name, tensor in tensors.items()}, str(path))
        return cls(network.eval(), tuple(meta["shape"]), meta["levels"], meta["schedule"], meta["notes"])
