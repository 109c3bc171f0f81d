"""Particles that a flow carries from noise to data, with time under the reader's finger.

The landing page opens with it; chapters use it for every two-dimensional flow.
"""

from __future__ import annotations

import html
from typing import Any

import torch
from jaxtyping import Float, UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.explore._figure import (
    DATA,
    NOISE,
    PLAY,
    Explorable,
    blend,
    directions,
    encode,
    img,
    no_script,
    opacities,
    slider,
    uri,
)  # fmt: skip


class Particles(Explorable):
    """The figure that `particles` returns."""

    scripts = ("particles.js",)

    def __init__(self, states: Tensor, times: Tensor, target: Distribution | None, **look: Any) -> None:
        super().__init__(look.pop("alt"))
        self.states, self.times, self.target = states, times, target
        self.color, self.travel, self.autoplay = look["color"], look["travel"], look["autoplay"]
        self.seconds, self.aspect = look["seconds"], look["aspect"]
        ends = self.states[[0, -1]].abs().flatten(1)
        self.limit = 1.08 * max(ends[1].max().item(), ends[0].quantile(0.97).item())

    def palette(self) -> tuple[Float[Tensor, "colours 3"], UInt8[Tensor, " n"]]:
        """The colours, and the one of each particle."""
        if self.color == "time":
            return blend(torch.tensor([to_rgb(NOISE), to_rgb(DATA)]), 32), torch.zeros(self.states.shape[1]).byte()
        return directions(self.states[-1 if self.color == "final" else 0])

    def at(self, t: float) -> Float[Tensor, "n 2"]:
        """Where the particles are at time `t`, straight between two frames."""
        k = int(torch.searchsorted(self.times, t, right=True).clamp(1, len(self.times) - 1))
        part = ((t - self.times[k - 1]) / (self.times[k] - self.times[k - 1])).clamp(0, 1)
        return torch.lerp(self.states[k - 1], self.states[k], part)

    def draw(self, **values: float) -> Figure:
        t = values["t"]
        figure = Figure(figsize=(7, 7 / self.aspect))
        ax = figure.add_axes((0, 0, 1, 1))
        colours, bins = self.palette()
        chosen = colours[[round(t * 32)]] if self.color == "time" else colours[bins.long()]
        shift = self.limit * (self.aspect - 1) * (2 * t - 1) * self.travel
        x = self.at(t)
        if self.travel:
            left = self.states[0, :, 0] - self.limit * (self.aspect - 1)
            ax.scatter(left, self.states[0, :, 1], c=chosen, s=3, alpha=0.12, linewidths=0)
        ax.scatter(x[:, 0] + shift, x[:, 1], c=chosen, s=5, alpha=0.75, linewidths=0)
        ax.set(xlim=(-self.limit * self.aspect, self.limit * self.aspect), ylim=(-self.limit, self.limit))
        ax.set_axis_off()
        return figure

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        options = [(f"{t:.2f}", t) for t in self.times.tolist()]
        chosen = ipywidgets.SelectionSlider(options=options, value=options[-1][1], description="time t")
        play = ipywidgets.Play(min=0, max=len(options) - 1, interval=int(1000 * self.seconds / len(options)))
        ipywidgets.jslink((play, "value"), (chosen, "index"))
        return {"play": play, "t": chosen}

    def markup(self) -> str:
        low, high = self.times[0].item(), self.times[-1].item()
        control = slider("slider", "time t", low, high, "any", low, f"{low:.2f}")
        still = img(uri(self.draw(t=(low + high) / 2), "webp", dpi=72), self.alt)
        return (
            f'<canvas data-fx="canvas" style="--fx-aspect:{self.aspect:g};cursor:ew-resize" role="img" '
            f'aria-label="{html.escape(self.alt)}"></canvas><div class="fx-row">{PLAY}{control}</div>{no_script(still)}'
        )

    def data(self) -> dict[str, Any]:
        low, high = self.states.min().item(), self.states.max().item()
        steps = ((self.states - low) * (65535 / (high - low))).round()
        colours, bins = self.palette()
        return {
            "times": [round(t, 5) for t in self.times.tolist()],
            "count": self.states.shape[1],
            "low": low,
            "high": high,
            "states": encode(steps, "uint16"),
            "limit": self.limit,
            "palette": [",".join(f"{255 * c:.0f}" for c in colour) for colour in colours.tolist()],
            "shades": encode(bins, "uint8"),
            "gradient": self.color == "time",
            "density": None if self.target is None else encode(opacities(self.target, self.limit), "uint8"),
            "travel": self.travel,
            "autoplay": self.autoplay,
            "seconds": self.seconds,
        }


def particles(
    states: Float[Tensor, "frames n 2"],
    times: Float[Tensor, " frames"],
    target: Distribution | None = None,
    *,
    color: str = "final",
    travel: bool = True,
    autoplay: bool = True,
    seconds: float = 6.0,
    aspect: float = 2.2,
    alt: str = "Points of noise on the left flow to the right and become the data",
) -> Particles:
    """A cloud of particles along a flow, in motion: noise on the left, data on the right, time where the finger is.

    Its size on the page is about 5.4 bytes for each particle and frame: 1 500 particles and 40 frames make 340 kB.

    Args:
        states: Positions along the flow, as in `fmtutor.ode.Solution.states`.
        times: The time of each frame, increasing within [0, 1].
        target: Where given, its density is laid faintly behind the picture.
        color: "final" or "start" colours a particle by where it ends or begins, "time" all by the time.
        travel: Let the cloud travel from left to right as it changes; otherwise it stays in the middle.
        autoplay: Play once when the picture comes into view (never for readers who ask for less motion).
        seconds: Time from noise to data when played.
        aspect: Width over height.
        alt: What there is to see, for readers who cannot.

    Raises:
        ValueError: A shape is wrong, a position is not finite, times do not increase, or `color` is unknown.

    Example:
        >>> x0, x1 = torch.randn(500, 2), torch.randn(500, 2).sign()
        >>> times = torch.linspace(0, 1, 11)
        >>> states = torch.stack([torch.lerp(x0, x1, t) for t in times])
        >>> particles(states, times, alt="A cloud splits in four")
        <Particles: A cloud splits in four>
    """
    _validate.finite("states", states)
    _validate.finite("times", times)
    if states.dim() != 3 or states.shape[2] != 2 or len(states) < 2 or not states.shape[1]:
        raise ValueError(f"states must have shape (frames, n, 2) with two frames or more, got {tuple(states.shape)}")
    if not states.any():
        raise ValueError("states must hold points in different places, got zeros alone")
    if times.shape != states.shape[:1]:
        raise ValueError(f"times must have shape ({len(states)},), one for each frame, got {tuple(times.shape)}")
    if not (times.diff() > 0).all() or times[0] < 0 or times[-1] > 1:
        raise ValueError(f"times must increase within [0, 1], got {[round(t, 3) for t in times.tolist()]}")
    _validate.choice("color", color, ["final", "start", "time"])
    _validate.positive("seconds", seconds)
    _validate.positive("aspect", aspect)
    return Particles(
        states.detach().cpu().float(), times.detach().cpu().float(), target,
        color=color, travel=travel, autoplay=autoplay, seconds=seconds, aspect=aspect, alt=alt,
    )  # fmt: skip
