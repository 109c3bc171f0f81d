"""Every picture of the book in one style: samples, densities, fields, trajectories and loss curves.

Chapter 3 draws the first of them. Backgrounds are transparent and lines mid-grey, so a figure reads on a light page
and on a dark one; noise is sky blue, data orange, and noise stands on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from torch import Tensor
from torch.distributions import Distribution

from fmtutor import _validate
from fmtutor.plots.style import COLORS, STYLE, colormap, grid, named_color, panels, plane, style, use_style

if TYPE_CHECKING:
    from fmtutor.ode import Solution
    from fmtutor.training import History

__all__ = [
    "COLORS",
    "STYLE",
    "colormap",
    "density",
    "field",
    "loss",
    "panels",
    "samples",
    "style",
    "trajectories",
    "use_style",
]


def samples(
    x: Float[Tensor, "n 2"],
    ax: Axes | None = None,
    *,
    color: str = "data",
    limits: float | Sequence[float] = 4.0,
    bins: int | None = None,
) -> Axes:
    """Points of the plane; more than 20 000 of them, or any number with `bins`, as a histogram.

    Args:
        x: the points.
        color: a name in `COLORS` or any colour matplotlib knows.
        limits: the window: half its side, or (left, right, bottom, top).
        bins: squares along each side of the histogram.

    Raises:
        TypeError, ValueError: `x` is not a finite tensor of shape `(n, 2)`.

    Example:
        >>> ax = samples(torch.zeros(5, 2), color="noise")
        >>> len(ax.collections[0].get_offsets())
        5
    """
    points = _validate.finite("x", x).detach().cpu()
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"x must have shape (n, 2), got {tuple(points.shape)}")
    ax, window = plane(ax, limits)
    if bins is None and len(points) <= 20_000:
        size = min(max(6000 / max(len(points), 1), 1.5), 18)
        x_1, x_2 = points.T.numpy()
        raster = len(points) > 500  # so many circles would make a heavy SVG
        ax.scatter(x_1, x_2, s=size, color=named_color(color), alpha=0.8, linewidths=0, rasterized=raster)
    else:
        count = bins or 100
        image, *_ = torch.histogramdd(points.double(), [count, count], range=list(window))
        top = (
            float(image[image > 0].quantile(0.99)) if image.any() else 1.0
        )  # one crowded square must not pale the rest
        ax.imshow(image.T.numpy(), origin="lower", extent=window, cmap=colormap(color), vmin=0, vmax=top)
    return ax


def density(
    distribution: Distribution | Callable[[Tensor], Tensor],
    ax: Axes | None = None,
    *,
    color: str = "data",
    limits: float | Sequence[float] = 4.0,
    resolution: int = 200,
    vmax: float | None = None,
    alpha: float = 1.0,
    like: Tensor | None = None,
) -> Axes:
    """A density on the plane: where it is zero the page shows through, where it is largest the colour is full.

    Args:
        distribution: something with a `log_prob`, or a log-density itself, from `(n, 2)` to `(n,)`.
        resolution: pixels along each side; the density is taken at their centres.
        vmax: the density that is drawn in full colour; None takes the largest. Give it to compare panels.
        alpha: opacity of the largest density; less than 1 where something is drawn over it.
        like: a tensor of the dtype and on the device where the density is to be computed.

    Raises:
        ValueError: the log-density is NaN somewhere or has another shape.

    Example:
        >>> from torch.distributions import MultivariateNormal
        >>> ax = density(MultivariateNormal(torch.zeros(2), torch.eye(2)), resolution=64)
        >>> ax.images[0].get_array().shape
        (64, 64)
    """
    log_prob = distribution.log_prob if isinstance(distribution, Distribution) else distribution
    ax, window = plane(ax, limits)
    pixels = grid(window, resolution, like)
    with torch.no_grad():
        values = torch.cat([log_prob(chunk) for chunk in pixels.split(10_000)])
    if values.shape != pixels.shape[:1] or values.isnan().any():
        raise ValueError(
            f"distribution must give one log-density for each of {len(pixels)} points, without NaN, "
            f"got shape {tuple(values.shape)} with {int(values.isnan().sum())} NaN"
        )
    image = values.exp().view(resolution, resolution).cpu().numpy()
    ax.imshow(image, origin="lower", extent=window, cmap=colormap(color), vmin=0, vmax=vmax, alpha=alpha)
    return ax


def field(
    velocity: Callable[[Tensor, Tensor], Tensor],
    t: float,
    ax: Axes | None = None,
    *,
    color: str = "velocity",
    limits: float | Sequence[float] = 4.0,
    resolution: int = 16,
    streams: bool = False,
    like: Tensor | None = None,
) -> Axes:
    """A velocity field of the plane at one time: arrows along it, longer and stronger where it is faster.

    The fastest twentieth of them all have the same length, a little more than the arrows are apart.

    Args:
        velocity: the field, `v(t, x)`.
        t: the time.
        resolution: arrows along each side.
        streams: draw stream lines in place of arrows.
        like: a tensor of the dtype and on the device where the field is to be computed.

    Raises:
        ValueError: the field is not finite somewhere or has another shape.

    Example:
        >>> ax = field(lambda t, x: -x, 0.5, resolution=5)
        >>> ax.collections[0].N
        25
    """
    ax, window = plane(ax, limits)
    pixels = grid(window, resolution, like)
    time = torch.as_tensor(t, dtype=pixels.dtype, device=pixels.device)
    with torch.no_grad():
        v = _validate.output_like("velocity", velocity(time, pixels), pixels)
    _validate.finite("velocity", v)
    speed = v.norm(dim=1)
    top = max(float(speed.quantile(0.95)), 1e-12)
    v = v * (top / speed.clamp(min=top))[:, None]
    x, y, dx, dy, strength = (
        part.view(resolution, resolution).cpu().numpy() for part in (*pixels.T, *v.T, speed / top)
    )
    cmap, norm = colormap(color, start=0.4), Normalize(0, 1)
    if streams:
        width = 0.7 + 1.3 * strength.clip(max=1)
        ax.streamplot(x, y, dx, dy, color=strength, cmap=cmap, norm=norm, linewidth=width, arrowsize=0.9)
    else:
        scale = top / (1.3 * (window[1] - window[0]) / resolution)
        look: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "pivot": "mid", "width": 0.008}
        ax.quiver(x, y, dx, dy, strength, cmap=cmap, norm=norm, scale=scale, **look)
    return ax


def trajectories(
    states: Solution | Float[Tensor, "times batch *event"],
    times: Float[Tensor, " times"] | None = None,
    ax: Axes | None = None,
    *,
    n: int = 100,
    color: str = "velocity",
    limits: float | Sequence[float] | None = None,
) -> Axes:
    """Where points go: lines from noise (sky blue dots) to data (orange dots).

    Events of two coordinates are drawn on the plane, events of one on the (t, x) plane.

    Args:
        states: a `Solution` that was asked for `times`, or the states themselves, and then their times beside them.
        n: at most so many trajectories, the first ones.
        limits: the window, as in `samples`; None fits it to what is drawn.

    Raises:
        ValueError: events of other sizes, or times that are not one for each row of states.

    Example:
        >>> t = torch.linspace(0, 1, 5)
        >>> ax = trajectories(t[:, None] * torch.ones(3), t)  # three equal lines x = t
        >>> len(ax.collections[0].get_segments())
        3
    """
    if not isinstance(states, Tensor):
        times, states = states.times, states.states
    if states is None or times is None or times.shape != states.shape[:1]:
        raise ValueError("states needs one time for each row: give solve(..., times=...), or both as tensors")
    t, x = _validate.finite("times", times).detach().cpu(), _validate.finite("states", states).detach().cpu()
    _validate.whole("n", n)
    x = x[:, :n].flatten(2) if x.dim() > 2 else x[:, :n, None]
    if x.shape[2] not in (1, 2):
        raise ValueError(f"states must hold events of one or two coordinates, got shape {tuple(states.shape)}")
    flat = x.shape[2] == 1
    lines = torch.cat([t[:, None, None].expand(-1, x.shape[1], 1), x], 2) if flat else x
    if flat:
        ax = ax or panels(1, square=False)[1][0]
        ax.set(xlabel="$t$", ylabel="$x$")
    else:
        ax, _ = plane(ax, limits or 1.1 * float(x.abs().max()) or 1.0)
    ax.add_collection(
        LineCollection(list(lines.transpose(0, 1).numpy()), colors=named_color(color), linewidths=0.9, alpha=0.7)
    )
    for index, end in ((t.argmin(), "noise"), (t.argmax(), "data")):
        first, second = lines[index].T.numpy()
        ax.scatter(first, second, s=14, color=COLORS[end], linewidths=0, zorder=3, clip_on=not flat)
    return ax


def loss(
    history: History | Sequence[float] | Float[Tensor, " steps"],
    ax: Axes | None = None,
    *,
    floor: float | None = None,
    excess: bool = False,
    color: str = "model",
    label: str | None = None,
    smooth: int = 8,
) -> Axes:
    """A loss curve over log steps: each step faint, their mean in bins of equal width on the log axis in full.

    Args:
        history: what `fit` returned, or the losses themselves.
        floor: the least loss there can be; drawn as a dashed line with its value.
        excess: draw the binned loss minus the floor instead, on a log axis, with a band of two standard errors.
        smooth: bins for each factor of ten in steps.

    Raises:
        TypeError, ValueError: losses that are not a finite list of numbers, or `excess` without `floor`.

    Example:
        >>> ax = loss([4.0, 3.0, 2.5, 2.2], floor=2.0)
        >>> [text.get_text() for text in ax.texts]
        ['floor 2']
    """
    values = torch.as_tensor(getattr(history, "losses", history)).detach().cpu()
    _validate.finite("history", values)
    if values.dim() != 1 or len(values) == 0:
        raise ValueError(f"history must be a list of losses, one a step, got shape {tuple(values.shape)}")
    ax = ax or panels(1, square=False)[1][0]
    steps, means, errors = (part.numpy() for part in _bins(values.double(), smooth))
    color = named_color(color)
    ax.set(xscale="log", xlabel="step", ylabel="loss − floor" if excess else "loss")
    ax.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}".replace(",", "\u2009"))
    if excess:
        if floor is None:
            raise ValueError("excess needs the floor: loss(history, floor=..., excess=True)")
        above = means - floor
        low, high = (above - 2 * errors).clip(min=1e-12), above + 2 * errors
        ax.set_yscale("log", nonpositive="mask")
        ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        ax.plot(steps, above, color=color, label=label)
        ax.set_ylim(bottom=0.5 * above[above > 0].min() if (above > 0).any() else None)
        return ax
    ax.plot(range(1, len(values) + 1), values.numpy(), color=color, alpha=0.4, linewidth=0.8)
    ax.plot(steps, means, color=color, label=label)
    if floor is not None:
        ax.axhline(floor, color=COLORS["reference"], linestyle="--", zorder=3)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top"}
        ax.annotate(f"floor {floor:.4g}", (0.02, floor), xytext=(0, -4), color=COLORS["reference"], **place)
        ax.margins(y=0.12)
    return ax


def _bins(losses: Float[Tensor, " steps"], per_decade: int) -> tuple[Tensor, Tensor, Tensor]:
    """Middle, mean and standard error of the losses in bins that are equally wide on a log axis."""
    step = torch.arange(1, len(losses) + 1, dtype=torch.float64)
    index = torch.unique((per_decade * step.log10()).floor().long(), return_inverse=True)[1]
    count = torch.bincount(index).double()
    middle = (torch.bincount(index, step.log()) / count).exp()
    mean = torch.bincount(index, losses) / count
    variance = torch.bincount(index, (losses - mean[index]).square()) / (count - 1).clamp(min=1)
    return middle, mean, (variance / count).sqrt()
