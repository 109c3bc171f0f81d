"""Guidance in the plane: where the guided flow ends, and the tilted density that it is often said to sample.

Chapter 9 has it; the weight is under the reader's finger.
"""

from __future__ import annotations

import html
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from fmtutor import _validate
from fmtutor.distributions import GaussianMixture
from fmtutor.explore._figure import DATA, GREY, PATH, Explorable, even, img, no_script, slider, uri
from fmtutor.guidance import guide
from fmtutor.ode import divergence, solve
from fmtutor.paths import AffinePath

_POINTS, _STEPS, _END, _GRID, _WAYS = 400, 20, 1 - 1e-9, 96, 24
_TOLD = [(1.0, 0.0, 1.0), (2.0, 0.0, 1.0), (3.0, 0.0, 1.0), (3.0, 0.5, 1.0), (3.0, 0.0, 0.5)]  # without the sliders
_LABELS = {"weight": "weight w", "first": "guided from t", "last": "until t"}
_MOST = {"weight": 5.0, "first": 1.0, "last": 1.0}


class Guidance(Explorable):
    """The figure that `guidance` returns."""

    scripts = ("guidance_math.js", "guidance.js")

    def __init__(self, everything: GaussianMixture, asked: GaussianMixture, start: dict[str, float], alt: str) -> None:
        super().__init__(alt)
        self.everything, self.asked, self.start, self.path = everything, asked, start, AffinePath()
        self.limit = round(everything.means.abs().max().item() + 4 * everything.scale, 3)
        share, turn = (even(0, _POINTS - 1, _POINTS) + 0.5) / _POINTS, math.pi * (3 - math.sqrt(5))
        radius, angle = (-2 * torch.log1p(-share)).sqrt(), turn * even(0, _POINTS - 1, _POINTS)
        self.noise = (radius * torch.stack([angle.cos(), angle.sin()])).T.mul(1e4).round().div(1e4)

    def velocity(self, t: Tensor, x: Float[Tensor, "n 2"], label: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """The exact field of the linear path: of the label asked for where `label` is 1, of all where it is 0."""
        free, asked = (self.path.marginal_velocity(t, x, target) for target in (self.everything, self.asked))
        return torch.where(label[:, None] == 1, asked, free)

    def ways(self, weight: float, first: float, last: float) -> tuple[Float[Tensor, "times n 2"], Float[Tensor, " n"]]:
        """The states of all points, guided from `first` until `last`, and the log-density at their ends."""
        on = first < last
        field = guide(self.velocity, 1, weight if on else 1.0, null=0, interval=(first, last) if on else (0.0, 1.0))
        parts = [(0.0, first), (first, last), (last, 1.0)] if on else [(0.0, 1.0)]
        times = torch.cat([_equal(*part) for part in parts if part[0] < part[1]]).unique().clamp(max=_END)

        def along(t: Tensor, state: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
            u, spread = divergence(field, t, state[:, :2])
            return torch.cat([u, -spread[:, None]], 1)

        x0 = torch.cat([self.noise, _log_normal(self.noise)[:, None]], 1)
        states = solve(along, x0, times=times, method="rk4", steps=1).states
        return states[..., :2], states[-1, :, 2]

    def tilted(self, weight: float) -> tuple[Float[Tensor, "size size"], float]:
        """`log p(x | y)^w p(x)^(1 - w)` on a grid, top row first, and the logarithm of its integral."""
        logs = self._log_tilted(weight, self._places())
        return logs.reshape(_GRID, _GRID), logs.logsumexp(0).item() + 2 * math.log(2 * self.limit / _GRID)

    def _places(self) -> Float[Tensor, "cells 2"]:
        line = self.limit * ((2 * even(0, _GRID - 1, _GRID) + 1) / _GRID - 1)
        return torch.cartesian_prod(line.flip(0), line).flip(1)

    def gap(self, weight: float, first: float = 0.0, last: float = 1.0) -> float:
        """The Kullback-Leibler divergence of what the flow draws from the tilted density, in nats."""
        states, log_prob = self.ways(weight, first, last)
        return (log_prob - self._log_tilted(weight, states[-1])).mean().item() + self.tilted(weight)[1]

    def _log_tilted(self, weight: float, x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        return weight * self.asked.log_prob(x) + (1 - weight) * self.everything.log_prob(x)

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        look = {"min": 0, "step": 0.05, "continuous_update": False}
        return {
            name: ipywidgets.FloatSlider(value=self.start[name], max=_MOST[name], description=label, **look)
            for name, label in _LABELS.items()
        }

    def draw(self, **values: float) -> Figure:
        weight, first, last = (float(values[name]) for name in _LABELS)
        (states, _), (logs, _) = self.ways(weight, first, last), self.tilted(weight)
        figure = Figure(figsize=(7.6, 4.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i in range(_WAYS):
            left.plot(*states[:, int((i + 0.5) * _POINTS / _WAYS)].T, color=GREY, alpha=0.5, linewidth=0.8)
        left.scatter(*states[-1].T, s=7, color=PATH, alpha=0.75, linewidths=0)
        shade = (logs - logs.max()).exp().mul(0.9).numpy()
        window = (-self.limit, self.limit, -self.limit, self.limit)
        right.imshow(torch.ones_like(logs).numpy(), cmap=_flat(PATH), alpha=shade, extent=window)
        for ax, title in ((left, "guided flow"), (right, "tilted density")):
            self._rings(ax)
            ax.set_title(title, color=GREY, fontsize=10)
        figure.suptitle(self.words(weight, first, last), color=GREY, fontsize=9)
        return figure

    def words(self, weight: float, first: float, last: float) -> str:
        """The weight, when it holds, both spreads and the gap, in one line."""
        when = f", guided from t = {first:g} until {last:g}" if first < last else ", nothing is guided"
        ends, gap = self.ways(weight, first, last)[0][-1], max(self.gap(weight, first, last), 0)
        spread = (ends - ends.mean(0)).square().sum(1).mean().sqrt()
        both = f"spread {spread:.2f}, tilted {self.tilted_spread(weight):.2f}"
        return f"weight {weight:g}{when}: {both}; gap from flow to tilted {gap:.2f} nats"

    def tilted_spread(self, weight: float) -> float:
        """The root mean square distance of the tilted density from its mean."""
        places = self._places()
        share = self._log_tilted(weight, places).softmax(0)[:, None]
        return (share * (places - (share * places).sum(0)).square()).sum().sqrt().item()

    def _rings(self, ax: Axes) -> None:
        """Every bump at two standard deviations, in colour where the label is the one asked for."""
        for target, look in ((self.everything, {"color": GREY, "lw": 1}), (self.asked, {"color": DATA, "lw": 2.5})):
            for centre in target.means.tolist():
                ax.add_patch(Circle(centre, 2 * target.scale, fill=False, **look))
        ax.set(xlim=(-self.limit, self.limit), ylim=(-self.limit, self.limit), aspect="equal")
        ax.set_axis_off()

    def markup(self) -> str:
        weight, *times = (
            slider(name, label, 0, _MOST[name], 0.05, self.start[name], f"{self.start[name]:.2f}")
            for name, label in _LABELS.items()
        )
        square = '<canvas data-fx="{}" style="--fx-aspect:1" role="img" aria-label="{}"></canvas>'
        right = "The tilted density on the same axes, with the same rings around the bumps of the data"
        canvases = square.format("plane", html.escape(self.alt)) + square.format("tilted", right)
        cells = '<td data-fx="flow-spread"></td><td data-fx="tilted-spread"></td>'
        return (
            f'<div class="fx-pair fx-side">{canvases}</div>'
            f'<div class="fx-row">{weight}</div><div class="fx-row">{"".join(times)}</div>'
            '<table><thead><tr><th scope="col"></th><th scope="col">guided flow</th>'
            '<th scope="col">tilted density</th></tr></thead>'
            f'<tbody><tr><th scope="row">spread around the mean</th>{cells}</tr></tbody>'
            "<tfoot><tr><td>gap from flow to tilted, in nats</td>"
            '<td data-fx="gap" aria-live="polite"></td><td></td></tr></tfoot></table>'
            '<p class="fx-hint" data-fx="said" aria-live="polite"></p>'
            f"{no_script(self._still())}"
        )

    def _still(self) -> str:
        """One picture, and in words what the sliders would have shown."""
        picture = img(uri(self.draw(**self.start), "webp", dpi=72), f"{self.alt}. {self.words(**self.start)}")
        lines = "".join(f"<li>{html.escape(self.words(*at))}</li>" for at in _TOLD)
        return f"{picture}<p>What the sliders would show:</p><ul>{lines}</ul>"

    def data(self) -> dict[str, Any]:
        return {
            "asked": _bumps(self.asked),
            "all": _bumps(self.everything),
            "limit": self.limit,
            "steps": _STEPS,
            "noise": self.noise.tolist(),
        }


def _equal(start: float, end: float) -> Float[Tensor, " times"]:
    """The ends of equal steps, as many as the share of all time asks for, rounded up."""
    return even(start, end, max(1, math.ceil((end - start) * _STEPS - 1e-3)) + 1)


def _log_normal(x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    return -x.square().sum(1) / 2 - math.log(2 * math.pi)


def _bumps(target: GaussianMixture) -> dict[str, Any]:
    x, y = target.means.T
    return {"x": x.tolist(), "y": y.tolist(), "logs": target.weights.log().tolist(), "scale": target.scale}


def _flat(colour: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


def guidance(
    means: Float[Tensor, "k 2"],
    labels: Int[Tensor, " k"],
    label: int,
    *,
    scale: float = 0.45,
    weights: Float[Tensor, " k"] | None = None,
    start: tuple[float, float, float] = (2.0, 0.0, 1.0),
    alt: str | None = None,
) -> Guidance:
    """Classifier-free guidance in the plane: the ends of the guided flow beside the tilted density, and their gap.

    The data are round bumps with labels. Both fields are exact: the one of the bumps with the label asked for, and the
    one of all bumps. So what is seen is what guidance does, and no network's error. 400 points start from the same
    noise for every weight, spread evenly over it. Their gap is the Kullback-Leibler divergence, in nats, of what the
    flow draws from `p(x | y)^w p(x)^(1 - w)`, made a density: 0 at the weights 0 and 1, to about 0.01 elsewhere.

    Args:
        means: `(k, 2)`, the centres of 2 to 12 bumps.
        labels: a whole number for each.
        label: the one that is asked for; at least one bump has it, and one has not.
        scale: the standard deviation of a bump, above 0.
        weights: their probabilities; equal ones when left out.
        start: what is shown first: the weight, from 0 to 5, and the times from and until which the flow is guided.
        alt: what there is to see, for readers who cannot; the bumps and the weight, when left out.

    Raises:
        TypeError: means hold no floating-point numbers, or labels no whole ones.
        ValueError: shapes do not fit, no bump or every one has the label, the scale is not above 0, or `start` leaves
            its ranges.

    Example:
        >>> means = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]])
        >>> figure = guidance(means, torch.tensor([1, 0, 0]), label=1)
        >>> max(abs(figure.gap(0.0)), abs(figure.gap(1.0))) < 0.01, figure.gap(3.0) > 0.5
        (True, True)
    """
    if _validate.finite("means", means).dim() != 2 or means.shape[1] != 2 or not 2 <= len(means) <= 12:
        raise ValueError(f"means must have shape (k, 2) with 2 to 12 rows, got {tuple(means.shape)}")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be a tensor of whole numbers, got {labels!r}")
    weights = torch.ones(len(means)) if weights is None else _validate.finite("weights", weights)
    if labels.shape != means.shape[:1] or weights.shape != labels.shape:
        came = f"{tuple(labels.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"labels and weights must be {len(means)}, one for each bump, got shapes {came}")
    chosen = labels == label
    if chosen.all() or not chosen.any() or (weights <= 0).any():
        raise ValueError(f"label must be that of some bumps and not of all, their weights above 0, got {label}")
    values = dict(zip(_LABELS, map(float, start), strict=False))
    if len(start) != 3 or not all(0 <= values[name] <= most for name, most in _MOST.items()):
        raise ValueError(f"start must be (weight in [0, {_MOST['weight']:g}], two times in [0, 1]), got {start}")
    _validate.positive("scale", scale)
    places, shares = means.detach().cpu().double(), weights.detach().cpu().double()
    everything = GaussianMixture(places, scale, shares)
    if alt is None:
        alt = (
            f"Left: the points where the guided flow ends, at first of weight {values['weight']:g}, among {len(means)} "
            f"rings, the bumps, {int(chosen.sum())} of them with the label asked for. Right: the tilted density. "
            "Below: both spreads, and the gap from flow to tilted density"
        )
    return Guidance(everything, GaussianMixture(places[chosen], scale, shares[chosen]), values, alt)
