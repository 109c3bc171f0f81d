"""Six ways from noise to data through one density: without noise, with noise on the way, and by guessing the end.

Chapter 6 ends with it; the noise level is under the reader's finger.
"""

from __future__ import annotations

import html
import math
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Generator, Tensor

from fmtutor import _validate
from fmtutor.diffusion import ancestral, solve_sde
from fmtutor.distributions import GaussianMixture
from fmtutor.explore._figure import DATA, GREY, NOISE, PATH, Explorable, even, img, no_script, slider, uri
from fmtutor.paths import AffinePath

_SDE, _DDIM, _ANCESTRAL = "#2E8BC9", "#D55E00", "#CC79A7"
_STEPS, _CROWD, _SEED = 100, 400, 6
_ROWS = {
    "ode": ("ODE", PATH),
    "sde": ("SDE, all g", _SDE),
    "ddim": ("DDIM", _DDIM),
    "ancestral": ("ancestral", _ANCESTRAL),
}


class Samplers(Explorable):
    """The figure that `samplers` returns."""

    scripts = ("samplers_math.js", "samplers.js")

    def __init__(self, target: GaussianMixture, start: tuple[float, float, int, float], alt: str) -> None:
        super().__init__(alt)
        self.target, self.path = target, AffinePath()
        self.start = dict(zip(("noise", "eta", "looks", "start"), start, strict=True))
        self.limit = round(max(1.35 * target.means.abs().max().item(), 2.9), 3)

    def velocity(self, t: Tensor, x: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch 1"]:
        """The exact field of the linear path, which is what the ODE and the SDE follow."""
        return self.path.marginal_velocity(t, x, self.target)

    def guess(self, t: Tensor, x: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch 1"]:
        """The mean of the data given x, which is what the samplers that guess the end are told."""
        return self.target.posterior_mean(x, t, 1 - t)

    def ways(self, noise: float, eta: float, looks: int, start: Float[Tensor, "n 1"]) -> dict[str, list[Tensor]]:
        """The states of each sampler at its times, `(times, n, 1)`; the SDE with a quarter, a half and all of g."""
        times = even(0, 1, _STEPS + 1)

        def shaken(g: float) -> Tensor:
            draw = Generator().manual_seed(_SEED)
            how: dict[str, Any] = {"noise": g, "times": times, "steps": _STEPS, "generator": draw}
            return solve_sde(self.velocity, self.path, start, **how).states

        def redrawn(share: float) -> Tensor:
            draw = Generator().manual_seed(_SEED)
            return ancestral(self.guess, self.path, start, steps=looks, eta=share, generator=draw).states

        return {
            "ode": [shaken(0.0)],
            "sde": [shaken(noise / 4), shaken(noise / 2), shaken(noise)],
            "ddim": [redrawn(0.0)],
            "ancestral": [redrawn(eta)],
        }

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        at, limit = self.start, self.limit
        return {
            "noise": ipywidgets.FloatSlider(value=at["noise"], min=0, max=3, step=0.05, description="noise g"),
            "eta": ipywidgets.FloatSlider(value=at["eta"], min=0, max=1, step=0.05, description="eta"),
            "looks": ipywidgets.IntSlider(value=int(at["looks"]), min=1, max=50, description="guesses"),
            "start": ipywidgets.FloatSlider(value=at["start"], min=-limit, max=limit, step=0.05, description="start"),
        }

    def draw(self, **values: float) -> Figure:
        start = torch.full((1, 1), float(values["start"]), dtype=torch.float64)
        ways = self.ways(values["noise"], values["eta"], int(values["looks"]), start)
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        ax = figure.add_subplot()
        self._crowd(ax)
        for name, (label, colour) in _ROWS.items():
            for k, states in enumerate(ways[name]):
                line = states.flatten()
                rest = len(ways[name]) - 1 - k
                look: dict[str, Any] = {"color": colour, "alpha": 1 - 0.15 * rest}
                look["linewidth"] = {"ode": 3.0, "sde": 1.8 - 0.4 * rest, "ancestral": 2.2}.get(name, 1.3)
                look |= {"marker": "o", "ms": 4 if name == "ddim" else 7} if name in ("ddim", "ancestral") else {}
                look["zorder"] = 3 if name == "ddim" else 2  # where both are in one place, the ring is seen
                ax.plot(even(0, 1, len(line)), line, **look, label=None if rest else f"{label}: {line[-1]:.2f}")
        ax.set(xlim=(0, 1), ylim=(-self.limit, self.limit), xlabel="time t (noise to data)", ylabel="x")
        legend = ax.legend(ncols=4, loc="upper center", fontsize=9, frameon=False, labelcolor=GREY, title="ends at")
        legend.get_title().set_color(GREY)
        ax.tick_params(colors=GREY)
        ax.xaxis.label.set_color(GREY)
        ax.yaxis.label.set_color(GREY)
        ax.spines[:].set_color(GREY)
        return figure

    def _crowd(self, ax: Any) -> None:
        """The density behind the lines, each column by its own maximum."""
        times, places = even(0, 0.999, 120), even(self.limit, -self.limit, 160)
        columns = []
        for t in times.tolist():
            p = self.path.marginal_log_prob(t, places[:, None], self.target)
            columns.append((0.5 * (p - p.max())).exp())
        opacity = 0.4 * torch.stack(columns, 1)
        noise, data = (torch.tensor([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in (NOISE, DATA))
        colour = torch.lerp(noise, data, times[:, None].float()).expand(160, 120, 3)
        image = torch.cat([colour, opacity[..., None].float()], 2).numpy()
        ax.imshow(image, extent=(0, 1, -self.limit, self.limit), aspect="auto")

    def markup(self) -> str:
        at, limit = self.start, self.limit
        sliders = slider("noise", "noise g", 0, 3, "any", at["noise"], f"{at['noise']:.2f}")
        sliders += slider("eta", "eta", 0, 1, "any", at["eta"], f"{at['eta']:.2f}")
        sliders += slider("looks", "guesses", 1, 50, 1, at["looks"], str(at["looks"]))
        sliders += slider("start", "start", -limit, limit, "any", at["start"], f"{at['start']:.2f}")
        heads = ("sampler", "network calls", "ends at", f"gap of {_CROWD} ends")
        head = "".join(f'<th scope="col">{name}</th>' for name in heads)
        rows = "".join(_row(name, label, colour) for name, (label, colour) in _ROWS.items())
        still = img(uri(self.draw(**at), "webp", dpi=72), self.alt)
        return (
            f'<canvas data-fx="canvas" class="fx-plane" role="img" aria-label="{html.escape(self.alt)}"></canvas>'
            f'<div class="fx-row">{sliders}</div><p class="fx-hint">Three blue lines: a quarter, a half and all of the '
            "noise g, the more the thicker. The table has the one with all of it.</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{no_script(still)}"
        )

    def data(self) -> dict[str, Any]:
        target = self.target
        share = (even(0, _CROWD - 1, _CROWD) + 0.5) / _CROWD
        return {
            "bumps": {
                "centres": target.means[:, 0].tolist(),
                "weights": target.weights.tolist(),
                "scale": target.scale,
            },
            "limit": self.limit,
            "steps": _STEPS,
            "seed": _SEED,
            "crowd": [round(x, 4) for x in torch.special.ndtri(share).tolist()],
        }


def _row(name: str, label: str, colour: str) -> str:
    cells = "".join(f'<td data-fx="{name}-{what}"></td>' for what in ("looks", "end", "gap"))
    mark = f'<span aria-hidden="true" style="color:{colour}">■</span>'
    return f'<tr><th scope="row" style="white-space:nowrap">{mark}&nbsp;{label}</th>{cells}</tr>'


def samplers(
    data: Float[Tensor, " n"],
    *,
    scale: float = 0.15,
    weights: Float[Tensor, " n"] | None = None,
    start: tuple[float, float, int, float] = (1.0, 1.0, 8, 0.4),
    alt: str = "Trajectories of six samplers from one point of noise on the left to the data on the right",
) -> Samplers:
    """One start and six ways through the same densities: ODE, SDE at three noises, DDIM and the ancestral sampler.

    All are told the exact answers of the linear path, and nothing else; what differs is the sampler. The SDE's three
    lines have a quarter, a half and all of the noise g, and the same shakes. On a page, 400 more points show how far
    the law of the ends is from that of the data: the largest gap between the two distribution functions, which for
    400 right ones is about 0.04.

    Args:
        data: 2 to 12 numbers, the centres of the bumps that the data come from.
        scale: the standard deviation of a bump, above 0.
        weights: their probabilities; equal ones when left out.
        start: what is shown first: the noise g, from 0 to 3; eta, from 0 to 1; how often the end is guessed, from 1 to
            50; and the point of noise.
        alt: what there is to see, for readers who cannot.

    Raises:
        ValueError: `data` does not hold 2 to 12 finite numbers, `weights` are not as many, the scale is not above 0,
            or `start` leaves its ranges.

    Example:
        >>> figure = samplers(torch.tensor([-1.0, 1.0]))
        >>> one = torch.tensor([[0.3]], dtype=torch.float64)
        >>> ways = figure.ways(noise=1.0, eta=1.0, looks=1, start=one)
        >>> [round(ways[name][0][-1].item(), 1) for name in ("ode", "ddim")]  # one guess: the mean
        [0.9, 0.0]
    """
    if _validate.finite("data", data).dim() != 1 or not 2 <= len(data) <= 12:
        raise ValueError(f"data must hold 2 to 12 numbers, got shape {tuple(data.shape)}")
    weights = torch.ones_like(data) if weights is None else _validate.finite("weights", weights)
    _validate.same_shape("data", data, "weights", weights)
    target = GaussianMixture(
        data.detach().cpu().double()[:, None], _validate.positive("scale", scale), weights.double()
    )
    noise, eta, looks, x0 = start
    if not (0 <= noise <= 3 and 0 <= eta <= 1 and 1 <= looks <= 50 and math.isfinite(x0)):
        raise ValueError(f"start must be (g in [0, 3], eta in [0, 1], 1 to 50 guesses, a point), got {start}")
    return Samplers(target, start, alt)
