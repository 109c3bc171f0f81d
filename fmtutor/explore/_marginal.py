"""The marginal velocity as what it is, an average: whose paths pass through a point, and their mean velocity.

Chapter 3 explains it; chapter 5 shows it again for other schedules.
"""

from __future__ import annotations

import html
import math
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from fmtutor import _validate
from fmtutor.explore._figure import DATA, GREY, NOISE, PATH, Explorable, even, img, no_script, slider, uri
from fmtutor.schedules import Linear, Schedule

_T_MAX = 0.99


class MarginalVelocity(Explorable):
    """The figure that `marginal_velocity` returns."""

    scripts = ("marginal_math.js", "marginal.js")

    def __init__(
        self, points: Tensor, weights: Tensor, schedule: Schedule, start: tuple[float, float], alt: str
    ) -> None:
        super().__init__(alt)
        self.points, self.weights, self.schedule, self.start = points, weights, schedule, start
        widest = float(schedule.sigma(even(0, _T_MAX, 2))[0])
        self.limit = round(max(1.35 * points.abs().max().item(), 2.6 * widest), 3)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, d_alpha and d_sigma at `t`."""
        s = self.schedule
        return s.alpha(t), s.sigma(t), s.d_alpha(t), s.d_sigma(t)

    def weigh(self, t: float, x: float) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], float]:
        """Posterior weight and conditional velocity of every data point at `(t, x)`, and their weighted mean."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(torch.tensor(t, dtype=torch.float64))
        noise = (x - alpha * self.points) / sigma
        posterior = torch.softmax(self.weights.log() - noise**2 / 2, dim=0)
        velocities = d_alpha * self.points + d_sigma * noise
        return posterior, velocities, float(posterior @ velocities)

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        (t, x), limit = self.start, self.limit
        return {
            "t": ipywidgets.FloatSlider(value=t, min=0, max=_T_MAX, step=0.01, description="time t"),
            "x": ipywidgets.FloatSlider(value=x, min=-limit, max=limit, step=limit / 100, description="place x"),
        }

    def draw(self, **values: float) -> Figure:
        t, x = values["t"], values["x"]
        posterior, velocities, mean = self.weigh(t, x)
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        ax = figure.add_subplot()
        times = even(0, _T_MAX, 100)
        alpha, sigma, _, _ = self.coefficients(times)
        reach = min(0.16, 0.7 * (1 - t))
        for point, w, v in zip(self.points.tolist(), posterior.tolist(), velocities.tolist(), strict=True):
            at, width = self.coefficients(torch.tensor(t, dtype=torch.float64))[:2]
            noise = (x - float(at) * point) / float(width)
            ax.plot(times, alpha * point + sigma * noise, color=DATA, alpha=0.12 + 0.88 * w, linewidth=0.75 + 3 * w)
            ax.plot([0], [float(alpha[0]) * point + float(sigma[0]) * noise], "o", color=NOISE, alpha=0.15 + 0.85 * w)
            ax.plot([1], [point], "o", color=DATA, alpha=0.35 + 0.65 * w, clip_on=False)
            _arrow(ax, t, x, v, reach, DATA, 0.15 + 0.85 * w, 1 + 2 * w)
        _arrow(ax, t, x, mean, reach, PATH, 1.0, 3.5)
        ax.plot([t], [x], "o", color=GREY)
        ax.set(xlim=(0, 1), ylim=(-self.limit, self.limit), xlabel="time t (noise to data)", ylabel="x")
        ax.set_title(f"marginal velocity {mean:.2f}", color=GREY)
        ax.tick_params(colors=GREY)
        ax.xaxis.label.set_color(GREY)
        ax.yaxis.label.set_color(GREY)
        ax.spines[:].set_color(GREY)
        return figure

    def markup(self) -> str:
        (t, x), limit = self.start, self.limit
        sliders = slider("t", "time t", 0, _T_MAX, "any", t, f"{t:.2f}")
        sliders += slider("x", "place x", -limit, limit, "any", x, f"{x:.2f}")
        head = "".join(
            f'<th scope="col">{name}</th>' for name in ("data point x₁", "weight", "its velocity", "weight × velocity")
        )
        rows = f"<tr>{'<td></td>' * 4}</tr>" * len(self.points)
        still = img(uri(self.draw(t=t, x=x), "webp", dpi=72), self.alt)
        return (
            '<p class="fx-hint">Move over the plane, or drag the point. A click holds it.</p>'
            f'<canvas data-fx="canvas" class="fx-plane" role="img" aria-label="{html.escape(self.alt)}"></canvas>'
            f'<div class="fx-row">{sliders}</div>'
            f'<table><thead><tr>{head}</tr></thead><tbody data-fx="rows">{rows}</tbody>'
            '<tfoot><tr><td colspan="3">sum: the marginal velocity</td><td data-fx="mean"></td></tr></tfoot></table>'
            f"{no_script(still)}"
        )

    def data(self) -> dict[str, Any]:
        names = ("alpha", "sigma", "d_alpha", "d_sigma")
        columns = self.coefficients(even(0, _T_MAX, 100))
        one = torch.ones((), dtype=torch.float64)
        quantiles = torch.special.ndtri(even(0.03, 0.97, 13)) * float(columns[1][0])
        return {
            "table": {name: c.expand(100).tolist() for name, c in zip(names, columns, strict=True)},
            "t_max": _T_MAX,
            "points": self.points.tolist(),
            "weights": self.weights.tolist(),
            "limit": self.limit,
            "starts": quantiles.tolist(),
            "end": [float(self.schedule.alpha(one)), float(self.schedule.sigma(one))],
        }


def _arrow(ax: Any, t: float, x: float, v: float, reach: float, colour: str, alpha: float, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "alpha": alpha, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (t + reach, x + reach * v), (t, x), arrowprops=style, annotation_clip=False)


def marginal_velocity(
    data: Float[Tensor, " n"],
    *,
    weights: Float[Tensor, " n"] | None = None,
    schedule: Schedule | None = None,
    start: tuple[float, float] = (0.5, 0.2),
    alt: str = "Noise on the left, data points on the right; the paths through one place and their mean velocity",
) -> MarginalVelocity:
    """The (t, x) plane of a few data points: choose a place, see whose paths pass there and their mean velocity.

    Args:
        data: 2 to 12 numbers, the data points.
        weights: Their probabilities; equal ones when left out.
        schedule: The path; linear when left out.
        start: The place `(t, x)` shown first.
        alt: What there is to see, for readers who cannot.

    Raises:
        ValueError: `data` does not hold 2 to 12 finite numbers, or `weights` are not as many positive ones.

    Source: Lipman et al. (2023), equation 8, for a data set in place of q.

    Example:
        >>> figure = marginal_velocity(torch.tensor([-1.0, 1.0]))
        >>> posterior, velocities, mean = figure.weigh(t=0.5, x=0.5)
        >>> [round(w, 3) for w in posterior.tolist()], velocities.tolist(), round(mean, 3)
        ([0.119, 0.881], [-3.0, 1.0], 0.523)
    """
    _validate.finite("data", data)
    if data.dim() != 1 or not 2 <= len(data) <= 12:
        raise ValueError(f"data must hold 2 to 12 numbers, got shape {tuple(data.shape)}")
    weights = torch.ones_like(data) if weights is None else _validate.finite("weights", weights)
    _validate.same_shape("data", data, "weights", weights)
    if not (weights > 0).all():
        raise ValueError(f"weights must be above 0, got {weights.min().item():g}")
    if not (0 <= start[0] <= _T_MAX and math.isfinite(start[1])):
        raise ValueError(f"start must be a time in [0, {_T_MAX}] and a place, got {start}")
    weights = weights.detach().cpu().double()
    return MarginalVelocity(data.detach().cpu().double(), weights / weights.sum(), schedule or Linear(), start, alt)
