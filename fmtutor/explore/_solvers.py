"""The same noise, followed with few steps and with many: where it ends on each path, and how far from the truth.

Chapter 5 lets its reader choose path, solver and number of steps with it.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.explore._figure import (
    DATA,
    GREY,
    PLAY,
    Explorable,
    directions,
    encode,
    img,
    no_script,
    opacities,
    slider,
    uri,
)
from fmtutor.ode import ORDER

Runs = Mapping[str, Mapping[str, Sequence[Tensor]]]
CHART = "The error against the number of evaluations, for each solver on the chosen path"
WAYS, KNOTS = 32, 33  # so many particles have their way drawn, with so many corners at most


class Solvers(Explorable):
    """The figure that `solvers` returns."""

    scripts = ("solvers.js",)

    def __init__(
        self,
        runs: Runs,
        reference: Float[Tensor, "n 2"],
        target: Distribution | None,
        start: tuple[str, str],
        alt: str,
        ring: float = 0.5,
    ) -> None:
        super().__init__(alt)
        self.runs, self.reference, self.target, self.start, self.ring = runs, reference, target, start, ring
        self.paths = list(runs)
        self.methods = list(runs[self.paths[0]])
        self.steps = [len(states) - 1 for states in runs[self.paths[0]][self.methods[0]]]
        self.limit = 1.12 * reference.abs().max().item()

    def error(self, states: Float[Tensor, "knots n 2"]) -> float:
        """Root mean square distance of the ends from where the exact flow goes."""
        return (states[-1] - self.reference).square().sum(1).mean().sqrt().item()

    def errors(self, path: str, method: str) -> list[float]:
        """One error for each number of steps."""
        return [self.error(states) for states in self.runs[path][method]]

    def each(self) -> Iterator[Float[Tensor, "knots n 2"]]:
        """The states of every run, in the order in which the page counts them."""
        for path in self.paths:
            for method in self.methods:
                yield from self.runs[path][method]

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        return {
            "path": ipywidgets.Dropdown(options=self.paths, value=self.start[0], description="path"),
            "method": ipywidgets.Dropdown(options=self.methods, value=self.start[1], description="solver"),
            "steps": ipywidgets.SelectionSlider(options=self.steps, value=self._first(), description="steps"),
        }

    def _first(self) -> int:
        return self.steps[min(2, len(self.steps) - 1)]

    def draw(self, **values: Any) -> Figure:
        path, method, steps = (values[name] for name in ("path", "method", "steps"))
        figure = Figure(figsize=(7.6, 3.9), layout="constrained")
        plane, chart = figure.subplots(1, 2)
        self._draw_plane(plane, self.runs[path][method][self.steps.index(steps)])
        self._draw_chart(chart, path, method, steps)
        return figure

    def _draw_plane(self, ax: Axes, states: Float[Tensor, "knots n 2"]) -> None:
        if self.target is not None:
            shade = opacities(self.target, self.limit).reshape(64, 64) / 255
            window = (-self.limit, self.limit, -self.limit, self.limit)
            ax.imshow(torch.ones_like(shade), cmap="Oranges", vmin=0, vmax=2, alpha=shade.numpy(), extent=window)
        for way in knots(states).transpose(0, 1)[:WAYS]:
            ax.plot(*way.T, color=GREY, alpha=0.45, linewidth=0.8)
        colours, bins = directions(self.reference)
        x, y = states[-1].T
        ax.scatter(x, y, c=colours[bins.long()].numpy(), s=9, linewidths=0)
        far = (states[-1] - self.reference).norm(dim=1) > self.ring
        ax.scatter(x[far], y[far], s=36, facecolors="none", edgecolors=GREY, linewidths=0.8)
        if outside := int((states[-1].abs().amax(1) > self.limit).sum()):
            ax.set_title(f"{outside} of {len(x)} points outside the picture")
        ax.set(xlim=(-self.limit, self.limit), ylim=(-self.limit, self.limit), aspect="equal")
        ax.set_axis_off()

    def _draw_chart(self, ax: Axes, path: str, method: str, steps: int) -> None:
        for name in self.methods:
            evaluations = [ORDER[name] * n for n in self.steps]
            color, width = (DATA, 2.5) if name == method else (GREY, 1)
            ax.loglog(evaluations, self.errors(path, name), "o-", ms=3, color=color, linewidth=width)
        error = self.errors(path, method)[self.steps.index(steps)]
        ax.loglog([ORDER[method] * steps], [error], "o", ms=10, color=DATA)
        ax.set(xlabel="evaluations of the field", ylabel="rms error", title=f"rms error {error:.3g}")

    def markup(self) -> str:
        menus = "".join(
            f'<label>{label} <select data-fx="{name}" aria-label="{label}">'
            + "".join(f"<option{' selected' * (o == chosen)}>{html.escape(o)}</option>" for o in options)
            + "</select></label>"
            for name, label, options, chosen in (
                ("path", "path", self.paths, self.start[0]),
                ("method", "solver", self.methods, self.start[1]),
            )
        )
        control = slider("slider", "steps", 0, len(self.steps) - 1, 1, self.steps.index(self._first()), "")
        still = self.draw(path=self.start[0], method=self.start[1], steps=self._first())
        square = '<canvas data-fx="{}" style="--fx-aspect:1" role="img" aria-label="{}"></canvas>'
        canvases = square.format("plane", html.escape(self.alt)) + square.format("chart", CHART)
        return (
            f'<div class="fx-pair">{canvases}</div><div class="fx-row">{menus}</div>'
            f'<div class="fx-row">{PLAY}{control}</div><p class="fx-hint" data-fx="said" aria-live="polite"></p>'
            f"{no_script(img(uri(still, 'webp', dpi=72), self.alt))}"
        )

    def data(self) -> dict[str, Any]:
        reach = 1.6 * self.limit  # what flies off further is drawn at the edge of this; its error counts in full
        ends = torch.stack([states[-1] for states in self.each()])
        ways = torch.cat([knots(states)[:, :WAYS].flatten() for states in self.each()])
        colours, bins = directions(self.reference)
        return {
            "paths": self.paths,
            "methods": self.methods,
            "looks": [ORDER[method] for method in self.methods],
            "steps": self.steps,
            "knots": [len(knots(states)) for states in self.runs[self.paths[0]][self.methods[0]]],
            "count": len(self.reference),
            "ways": min(WAYS, len(self.reference)),
            "limit": round(self.limit, 4),
            "ring": self.ring,
            "goals": _sixteen_bits(self.reference, reach),
            "reach": reach,
            "ends": _sixteen_bits(ends, reach),
            "corners": _sixteen_bits(ways, reach),
            "errors": [[[float(f"{e:.4g}") for e in self.errors(p, m)] for m in self.methods] for p in self.paths],
            "palette": [",".join(f"{255 * c:.0f}" for c in colour) for colour in colours.tolist()],
            "shades": encode(bins, "uint8"),
            "density": None if self.target is None else encode(opacities(self.target, self.limit), "uint8"),
        }


def knots(states: Float[Tensor, "steps n 2"]) -> Float[Tensor, "knots n 2"]:
    """All states, or so many of them, evenly picked, with both ends."""
    return states[torch.linspace(0, len(states) - 1, min(KNOTS, len(states))).round().long()]


def _sixteen_bits(places: Tensor, reach: float) -> str:
    return encode(((places.clamp(-reach, reach) + reach) * (65535 / (2 * reach))).round(), "uint16")


def solvers(
    runs: Runs,
    reference: Float[Tensor, "n 2"],
    target: Distribution | None = None,
    *,
    start: tuple[str, str] | None = None,
    ring: float = 0.5,
    alt: str = "Points that follow a field with few steps, beside the error for each number of evaluations",
) -> Solvers:
    """The same particles on several paths, with several solvers and numbers of steps, chosen by the reader.

    A particle's colour says in which direction the exact flow takes it, and one that goes astray has a ring. 250
    particles, four paths, four solvers and up to 64 steps make about 450 kB on the page.

    Args:
        runs: for each path and solver, by name, one tensor of states `(steps + 1, n, 2)` for each number of steps;
            the numbers rise, and are the same for all.
        reference: `(n, 2)`, where the exact flow takes the particles.
        target: where given, its density is laid faintly behind the picture.
        start: the path and the solver that are shown first; the first of each unless given.
        ring: a particle that ends further than this from its place in `reference` has a ring.
        alt: what there is to see, for readers who cannot.

    Raises:
        TypeError: a tensor of states is none, or does not hold floating-point numbers.
        ValueError: there are no runs, shapes or numbers of steps differ, a solver is none of those with fixed steps,
            `start` names none of the runs, or `ring` is not positive.

    Example:
        >>> states = [torch.rand(n + 1, 50, 2) for n in (1, 2, 4)]
        >>> solvers({"linear": {"euler": states}}, torch.rand(50, 2), alt="Fifty points")
        <Solvers: Fifty points>
    """
    if _validate.finite("reference", reference).dim() != 2 or reference.shape[1] != 2 or not reference.any():
        raise ValueError(f"reference must have shape (n, 2) and not be zero, got {tuple(reference.shape)}")
    kept = _alike(runs, reference)
    path, method = start or (next(iter(kept)), next(iter(next(iter(kept.values())))))
    if path not in kept or method not in kept[path]:
        raise ValueError(
            f"start must be a path of {list(kept)} and a solver of {list(kept[next(iter(kept))])}, got {start}"
        )
    ring = _validate.positive("ring", ring)
    return Solvers(kept, reference.detach().cpu().float(), target, (path, method), alt, ring)


def _alike(runs: Runs, reference: Float[Tensor, "n 2"]) -> dict[str, dict[str, list[Tensor]]]:
    """The runs in float32, if all paths have the same solvers and all solvers the same numbers of steps."""
    if not runs or not all(runs.values()):
        raise ValueError("runs must name at least one path, and a solver for each, got none")
    kept: dict[str, dict[str, list[Tensor]]] = {path: {} for path in runs}
    for path, by_method in runs.items():
        for method, by_steps in by_method.items():
            _validate.choice("solver", method, list(ORDER))
            for states in by_steps:
                if _validate.finite("states", states).shape[1:] != reference.shape:
                    wanted, came = f"(steps + 1, {len(reference)}, 2)", tuple(states.shape)
                    raise ValueError(f"states must have shape {wanted}, got {came} on {path} with {method}")
            kept[path][method] = [states.detach().cpu().float() for states in by_steps]
    steps = {p: {m: [len(states) - 1 for states in by_steps] for m, by_steps in r.items()} for p, r in kept.items()}
    first = next(iter(steps.values()))
    numbers = next(iter(first.values()))
    if any(other != first for other in steps.values()) or any(other != numbers for other in first.values()):
        raise ValueError(f"runs must have the same solvers and numbers of steps on every path, got {steps}")
    if not numbers or numbers[0] < 1 or numbers != sorted(set(numbers)):
        raise ValueError(f"numbers of steps must rise from at least 1, got {numbers}")
    return kept
