"""The one look of every figure: colours with a meaning, nothing behind them, panels of one size.

`fmtutor.plots` draws with it in every chapter, and hands on `panels` and `COLORS` for figures that it has no name for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import torch
from cycler import cycler
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from fmtutor import _validate

INK = "#767676"  # contrast of at least 4 to 1 on white and on #121212
COLORS = {
    "noise": "#56B4E9",
    "data": "#E69F00",
    "velocity": "#009E73",
    "model": "#0072B2",
    "reference": "#CC79A7",
    "emphasis": "#D55E00",
    "ink": INK,
}
"""Okabe and Ito's colours, which the colour-blind can tell apart, by what they stand for."""

STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.size": 12,  # at 7.2 inches a page of 720 px shows it at 16 px, a phone at half of that
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "image.interpolation": "nearest",
    "axes.prop_cycle": cycler(color=[c for name, c in COLORS.items() if name != "ink"]),
    "svg.hashsalt": "fmtutor",  # the same figure gives the same bytes
}
WIDTH = 7.2  # inches: the text column


def style() -> AbstractContextManager[None]:
    """The book's look for the figures made and saved inside a `with` block.

    Example:
        >>> with style():
        ...     mpl.rcParams["axes.edgecolor"]
        '#767676'
    """
    return mpl.rc_context(STYLE)


def use_style() -> None:
    """Give every figure from here on the book's look, and in a notebook draw it as SVG, sharp at every size."""
    mpl.rcParams.update(STYLE)
    if "inline" in mpl.get_backend():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")


def panels(
    titles: Sequence[str] | int, *, columns: int | None = None, square: bool = True, height: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Panels of one size across the page, in as many rows as it takes.

    Args:
        titles: one title for each panel, or how many there are.
        columns: panels in a row; None puts up to three.
        square: panels are square and share their axes, as pictures of one plane do.
        height: of one row, in inches.

    Example:
        >>> fig, (left, right) = panels(["noise", "data"])
        >>> right.get_title()
        'data'
    """
    names = [""] * titles if isinstance(titles, int) else list(titles)
    if not names:
        raise ValueError("titles must name at least one panel, got none")
    columns = min(len(names), columns or 3)
    rows = math.ceil(len(names) / columns)
    size = WIDTH / max(columns, 2)
    with style():
        fig, grid = plt.subplots(
            rows,
            columns,
            figsize=(size * columns, (height or (size + 0.35 if square else 0.85 * size)) * rows),
            squeeze=False,
            sharex=square,
            sharey=square,
        )
        axes = list(grid.flat)
        for ax, name in zip(axes, names, strict=False):
            ax.set_title(name)
            ax.tick_params(colors=INK, labelsize=STYLE["xtick.labelsize"])
            ax.set_box_aspect(1 if square else None)
        for ax in axes[len(names) :]:
            ax.remove()
        for ax in axes[max(len(names) - columns, 0) : len(names)]:
            ax.tick_params(labelbottom=True)  # the lowest of its column, even where the last row ends before it
    return fig, axes[: len(names)]


def named_color(color: str) -> str:
    """The hex code of a name in `COLORS`, or of any other colour matplotlib knows.

    Example:
        >>> named_color("noise")
        '#56b4e9'
    """
    try:
        return to_hex(COLORS.get(color, color))
    except ValueError:
        raise ValueError(
            f"color must be one of {', '.join(map(repr, COLORS))} or a matplotlib colour, got {color!r}"
        ) from None


def colormap(color: str, *, start: float = 0.0) -> LinearSegmentedColormap:
    """From `color` at opacity `start` to `color` in full: on a light page and on a dark one, more stands out more.

    Example:
        >>> [round(float(part), 2) for part in colormap("data")(0.5)]
        [0.9, 0.62, 0.0, 0.5]
    """
    low, high = to_rgba(named_color(color), start), to_rgba(named_color(color))
    return LinearSegmentedColormap.from_list(f"fmtutor-{color}-{start}", [low, high])


def plane(ax: Axes | None, limits: float | Sequence[float]) -> tuple[Axes, tuple[float, float, float, float]]:
    """The axes of a plane and its window (left, right, bottom, top)."""
    window = (-limits, limits, -limits, limits) if isinstance(limits, int | float) else tuple(map(float, limits))
    if len(window) != 4 or not (window[0] < window[1] and window[2] < window[3]):
        raise ValueError(f"limits must be half a side or (left, right, bottom, top), got {limits}")
    ax = ax or panels(1)[1][0]
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    ax.locator_params(nbins=5)
    if ax.xaxis.get_tick_params().get("labelbottom", True):  # panels share their axes: only the outer ones are labelled
        ax.set_xlabel("$x^{(1)}$")
    if ax.yaxis.get_tick_params().get("labelleft", True):
        ax.set_ylabel("$x^{(2)}$")
    return ax, window


def grid(window: tuple[float, float, float, float], resolution: int, like: Tensor | None) -> Float[Tensor, "n 2"]:
    """Centres of `resolution` x `resolution` pixels, row by row from the bottom."""
    _validate.whole("resolution", resolution)
    like = torch.zeros(()) if like is None else like
    left, right, bottom, top = window
    middle = (torch.arange(resolution, dtype=like.dtype, device=like.device) + 0.5) / resolution
    y, x = torch.meshgrid(bottom + (top - bottom) * middle, left + (right - left) * middle, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)
