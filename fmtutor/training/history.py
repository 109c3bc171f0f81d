"""What a training leaves behind beside the weights: its curves, in numbers (chapter 4 draws them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What happened during `fit`, one number for each step.

    Attributes:
        losses: Loss of each step, before its update; float64, on the CPU.
        learning_rates: Learning rate of each step; float64, on the CPU.
        seconds: Time spent training, over all resumed parts.
        device: Where the model was.
        seed: Of torch's global generator: the argument of the last `torch.manual_seed`, or else what
            torch began with.
        logged: For each name that `callback` returned: the steps, and the numbers after them.
        resumed: Steps that had been taken before, and came from a checkpoint.
        stopped: Why training ended before its last step; empty if it did not.
    """

    losses: Float[Tensor, " steps"]
    learning_rates: Float[Tensor, " steps"]
    seconds: float
    device: str
    seed: int
    logged: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    resumed: int = 0
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return len(self.losses)

    def smooth(self, window: int = 100) -> Float[Tensor, " steps"]:
        """Mean of the loss over each step and the `window - 1` before it (over fewer, where fewer came before).

        Example:
            >>> losses, rates = torch.tensor([4.0, 2.0, 3.0]), torch.ones(3)
            >>> History(losses, rates, seconds=0.1, device="cpu", seed=0).smooth(2)
            tensor([4.0000, 3.0000, 2.5000], dtype=torch.float64)
        """
        window = _validate.whole("window", window)
        total = torch.cat([torch.zeros(1, dtype=torch.float64), self.losses.double().cumsum(0)])
        end = torch.arange(1, self.steps + 1)
        start = (end - window).clamp(min=0)
        return (total[end] - total[start]) / (end - start)

    def __repr__(self) -> str:
        first, last = self.losses[0].item(), self.smooth()[-1].item()
        on = f"on {self.device}, seed {self.seed}"
        resumed = f", {self.resumed} of them from a checkpoint" if self.resumed else ""
        stopped = f", {self.stopped}" if self.stopped else ""
        return f"{self.steps} steps in {self.seconds:.1f} s {on}: loss {first:.4g} -> {last:.4g}{resumed}{stopped}"
