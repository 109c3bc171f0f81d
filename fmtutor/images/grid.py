"""Images on a page: a tidy grid of them, and strips that follow a few of them through time.

Chapter 8 looks at its digits through these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from fmtutor import _validate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#767676"  # readable on a light page and on a dark one
_TITLE = 0.38  # room above an image for its title, as a part of the image's side


def grid(
    images: Float[Tensor, "n channels height width"],
    columns: int = 10,
    *,
    titles: Sequence[object] | None = None,
    size: float = 0.6,
) -> Figure:
    """Images in rows of `columns`, values from -1 to 1, each clipped to that range.

    Args:
        images: one channel for grey (ink is dark), three for colour.
        columns: images a row.
        titles: one short text above each image, or above each column, or None.
        size: side of an image in inches.

    Returns:
        A matplotlib figure with a transparent background.

    Raises:
        ValueError: for anything but a batch of grey or colour images, or titles for neither each image nor each column.

    Example:
        >>> import torch
        >>> len(grid(torch.zeros(12, 1, 8, 8), columns=6).axes)
        12
    """
    _check(images, 4)
    columns = min(columns, len(images))
    if columns < 1 or (titles is not None and len(titles) not in (columns, len(images))):
        raise ValueError(
            f"columns must be at least 1 and titles one for each of {len(images)} images or of {columns} columns, got "
            f"columns={columns} and {None if titles is None else len(titles)} titles"
        )
    titles = titles or []
    above, between = (_TITLE if len(titles) > n else 0.0 for n in (0, columns))
    figure, axes = _axes(-(-len(images) // columns), columns, size, headroom=above, between=between)
    for i, axis in enumerate(axes):
        if i >= len(images):
            axis.remove()
            continue
        _show(axis, images[i])
        if i < len(titles):
            axis.set_title(str(titles[i]), color=_GREY, fontsize=10, pad=3)
    return figure


def strip(
    states: Float[Tensor, "times n channels height width"],
    times: Float[Tensor, " times"] | Sequence[float],
    *,
    size: float = 0.6,
) -> Figure:
    """Each image as a row that runs through time: noise on the left, data on the right.

    Args:
        states: the same `n` images at every time, as `Solution.states` holds them.
        times: one for each column, written above it.
        size: side of an image in inches.

    Raises:
        ValueError: for states of another shape, or another number of times.

    Example:
        >>> import torch
        >>> len(strip(torch.zeros(5, 3, 1, 8, 8), [0, 0.25, 0.5, 0.75, 1]).axes)
        15
    """
    _check(states, 5)
    if len(times) != len(states):
        raise ValueError(f"times must be one for each of {len(states)} states, got {len(times)}")
    figure, axes = _axes(states.shape[1], len(states), size, headroom=_TITLE)
    for i, axis in enumerate(axes):
        row, column = divmod(i, len(states))
        _show(axis, states[column, row])
        if row == 0:
            axis.set_title(f"t = {float(times[column]):.2g}", color=_GREY, fontsize=9, pad=3)
    return figure


def _check(images: Tensor, dim: int) -> None:
    _validate.finite("images" if dim == 4 else "states", images)
    if images.dim() != dim or images.shape[-3] not in (1, 3) or 0 in images.shape:
        wanted = "(n, channels, height, width)" if dim == 4 else "(times, n, channels, height, width)"
        raise ValueError(f"images must have shape {wanted} with 1 or 3 channels, got {tuple(images.shape)}")


def _axes(
    rows: int, columns: int, size: float, headroom: float = 0.0, between: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Axes for square images of side `size`, with room above the first row and between two, in sides of an image."""
    from matplotlib.figure import Figure

    gap = 0.08  # between images that need no room for titles
    width, height = columns * (1 + gap) - gap, rows * (1 + gap) - gap + headroom + (rows - 1) * between
    figure = Figure(figsize=(size * width, size * height), facecolor="none", layout="none")  # type: ignore[arg-type]
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1 - headroom / height, gap, gap + between)
    return figure, list(axes.flat)


def _show(axis: Axes, image: Tensor) -> None:
    picture = (image.detach().float().cpu().clamp(-1, 1) + 1) / 2
    axis.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
