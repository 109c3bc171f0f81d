"""What a figure holds, read back from its artists and its pixels, is the data it was given, the right way up."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba
from torch import Tensor
from torch.distributions import MultivariateNormal

from fmtutor import plots


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    before = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def same_color(found: object, name: str) -> bool:
    return to_hex(found) == to_hex(plots.COLORS[name])


def pixels(fig: plt.Figure) -> np.ndarray:
    """The saved picture, (rows from the top, columns, RGBA) in [0, 1]."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    return plt.imread(buffer)


# One style


def luminance(color: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(color)[:3]]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable(color: str) -> bool:
    return contrast(color, "#ffffff") > 4 and contrast(color, "#121212") > 4


def test_text_reads_on_a_light_page_and_on_a_dark_one() -> None:
    assert readable(plots.COLORS["ink"])
    assert not readable("black")
    assert not readable("#a0a0a0")
    for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"):
        assert plots.STYLE[key] == plots.COLORS["ink"]


def test_colours_are_all_different_and_cycle() -> None:
    colors = [color.lower() for color in plots.COLORS.values()]
    assert len(set(colors)) == len(colors) == 7
    cycle = [entry["color"] for entry in plots.STYLE["axes.prop_cycle"]]
    assert cycle == [color for name, color in plots.COLORS.items() if name != "ink"]


def test_style_is_left_behind_by_its_block_only() -> None:
    before = dict(mpl.rcParams)
    with plots.style():
        assert mpl.rcParams["figure.facecolor"] == "none"
    assert dict(mpl.rcParams) == before
    with mpl.rc_context():
        plots.use_style()
        assert mpl.rcParams["axes.edgecolor"] == plots.COLORS["ink"]
        assert not mpl.rcParams["axes.spines.top"]


@pytest.mark.parametrize("fmt", ["png", "svg"])
def test_background_is_transparent_without_any_setting(fmt: str) -> None:
    fig = plots.samples(torch.zeros(1, 2)).figure
    if fmt == "png":
        image = pixels(fig)
        assert image[0, 0, 3] == 0
        assert (image[..., 3] == 0).mean() > 0.9
        ink = image[image[..., 3] > 0.5][:, :3]
        assert (np.abs(ink - to_rgba(plots.COLORS["ink"])[:3]).max(1) < 0.02).sum() > 50  # axes, ticks and labels
    else:
        fig.savefig(buffer := io.StringIO(), format="svg")
        assert "fill: #ffffff" not in buffer.getvalue()
    white = plt.figure(facecolor="white")
    assert pixels(white)[0, 0, 3] == 1  # what matplotlib does by itself


def test_the_same_figure_gives_the_same_svg() -> None:
    def drawn() -> str:
        with plots.style():
            fig = plots.field(lambda t, x: -x, 0.0, resolution=4).figure
            fig.savefig(buffer := io.StringIO(), format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert drawn() == drawn()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_panels_are_square_and_of_one_size(n: int) -> None:
    fig, axes = plots.panels([f"panel {k}" for k in range(n)])
    for ax in axes:
        plots.samples(torch.zeros(3, 2), ax)
    fig.canvas.draw()
    boxes = [ax.get_window_extent() for ax in axes]
    assert len({round(box.width) for box in boxes}) == len({round(box.height) for box in boxes}) == 1
    assert boxes[0].width == pytest.approx(boxes[0].height, abs=1)
    assert [ax.get_title() for ax in axes] == [f"panel {k}" for k in range(n)]
    assert len(fig.axes) == n
    assert fig.get_size_inches()[0] <= 7.2
    last = {min(k + 3 * j for j in range(3) if k + 3 * j + 3 >= n) for k in range(min(n, 3))}
    assert [bool(ax.get_xlabel()) for ax in axes] == [k in last for k in range(n)]
    assert [bool(ax.get_ylabel()) for ax in axes] == [k % 3 == 0 for k in range(n)]


def test_panels_need_a_title_or_a_number() -> None:
    assert len(plots.panels(4, columns=2, square=False)[1]) == 4
    with pytest.raises(ValueError, match="at least one panel"):
        plots.panels([])


# Samples


def test_samples_hold_the_points_in_their_colour() -> None:
    x = torch.randn(40, 2)
    ax = plots.samples(x, color="noise", limits=3.0)
    (dots,) = ax.collections
    np.testing.assert_allclose(dots.get_offsets(), x, rtol=1e-6)
    assert not np.allclose(dots.get_offsets(), x.flip(1))
    assert same_color(dots.get_facecolor()[0][:3], "noise")
    assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((-3, 3), (-3, 3), 1)
    assert plots.samples(x, ax) is ax


def test_many_samples_become_a_histogram_the_right_way_up() -> None:
    """All points sit in the square [2, 3] x [-1, 0]; its transpose is empty."""
    x = torch.rand(20_001, 2) + torch.tensor([2.0, -1.0])
    assert plots.samples(x).images[0].get_array().sum() == 20_001
    (image,) = plots.samples(x, limits=4.0, bins=80).images
    counts = image.get_array()
    assert counts[30:40, 60:70].sum() == 20_001
    assert counts.T[30:40, 60:70].sum() == 0
    assert list(image.get_extent()) == [-4, 4, -4, 4]
    assert image.origin == "lower"
    assert plots.samples(x[:10], bins=8).images[0].get_array().shape == (8, 8)


# Densities


def lopsided() -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([2.0, -1.0]), torch.diag(torch.tensor([0.5, 0.1])))


def brightest(image: np.ndarray) -> tuple[float, float]:
    """Where on the figure, as fractions from the left and from the bottom, the drawing has most opaque orange."""
    orange = np.abs(image[..., :3] - to_rgba(plots.COLORS["data"])[:3]).max(2) < 0.1
    rows, columns = np.nonzero(orange & (image[..., 3] > 0.9))
    return columns.mean() / image.shape[1], 1 - rows.mean() / image.shape[0]


def test_density_integrates_to_one_and_is_the_right_way_up() -> None:
    p = lopsided()
    ax = plots.density(p, limits=(-2.0, 6.0, -3.0, 3.0), resolution=240)
    (image,) = ax.images
    values = image.get_array()
    assert values.sum() * (8 / 240) * (6 / 240) == pytest.approx(1, abs=2e-3)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (-2 + (column + 0.5) * 8 / 240, -3 + (row + 0.5) * 6 / 240) == pytest.approx((2, -1), abs=0.04)
    assert list(image.get_extent()) == [-2, 6, -3, 3]
    assert image.origin == "lower"


def test_density_peaks_where_the_axes_say_in_the_saved_picture() -> None:
    def peak_is_right(log_prob: object) -> bool:
        ax = plots.density(log_prob, limits=4.0)
        ax.set_axis_off()
        ax.figure.set_layout_engine("none")
        ax.set_position([0, 0, 1, 1])
        ax.figure.savefig(buffer := io.BytesIO(), format="png", dpi=50, bbox_inches=None)
        buffer.seek(0)
        return brightest(plt.imread(buffer)) == pytest.approx((6 / 8, 3 / 8), abs=0.02)

    p = lopsided()
    assert peak_is_right(p)
    assert peak_is_right(p.log_prob)
    assert not peak_is_right(lambda x: p.log_prob(x.flip(1)))  # transposed
    assert not peak_is_right(lambda x: p.log_prob(x * torch.tensor([1.0, -1.0])))  # upside down


def test_density_lets_the_page_through_where_it_is_zero() -> None:
    (image,) = plots.density(lopsided(), color="model", vmax=0.4).images
    low, high = image.cmap([0.0, 1.0])
    assert low[3] == 0
    assert high[3] == 1
    assert same_color(high[:3], "model")
    assert image.get_clim() == (0, 0.4)


def test_density_computes_in_the_dtype_it_is_told() -> None:
    seen = []

    def log_prob(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return -x.square().sum(1)

    plots.density(log_prob, like=torch.zeros((), dtype=torch.float64))
    assert set(seen) == {torch.float64}


# Fields


def turn(t: Tensor, x: Tensor) -> Tensor:
    return torch.stack([-x[:, 1], x[:, 0]], 1) + t


def test_field_draws_the_field_at_its_points() -> None:
    (arrows,) = plots.field(turn, 0.3, limits=2.0, resolution=12).collections
    place = torch.as_tensor(arrows.get_offsets(), dtype=torch.float32)
    drawn = torch.as_tensor(np.stack([arrows.U, arrows.V], 1))
    truth = turn(torch.tensor(0.3), place)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(drawn, truth).min() > 0.9999
    assert cosine(drawn, turn(torch.tensor(0.3), place.flip(1))).min() < 0  # places transposed
    slow = truth.norm(dim=1) < truth.norm(dim=1).quantile(0.9)
    torch.testing.assert_close(drawn[slow], truth[slow], rtol=1e-5, atol=1e-5)
    assert len(place) == 144
    assert same_color(arrows.cmap(1.0)[:3], "velocity")
    assert arrows.cmap(0.0)[3] < arrows.cmap(0.5)[3] < arrows.cmap(1.0)[3] == 1  # faster is stronger


def test_longest_arrow_is_about_the_spacing() -> None:
    ax = plots.field(turn, 0.0, limits=2.0, resolution=16)
    (arrows,) = ax.collections
    assert np.hypot(arrows.U, arrows.V).max() / arrows.scale == pytest.approx(1.3 * 4 / 16, rel=1e-4)


def test_field_as_streams() -> None:
    ax = plots.field(turn, 0.0, streams=True)
    middle = np.concatenate(ax.collections[0].get_segments())
    assert len(middle) > 100
    a, b = (torch.as_tensor(np.stack(part)) for part in zip(*ax.collections[0].get_segments(), strict=True))
    moved = (b - a) / (b - a).norm(dim=1, keepdim=True).clamp(min=1e-9)
    radial = (moved * a / a.norm(dim=1, keepdim=True)).sum(1)
    assert radial.abs().median() < 0.05  # streams of a rotation run around, not out


def test_a_field_at_rest_is_drawn() -> None:
    assert len(plots.field(lambda t, x: 0 * x, 0.5).collections[0].U) == 256


# Trajectories


def test_trajectories_on_the_plane_run_from_noise_to_data() -> None:
    t = torch.linspace(0, 1, 7)
    start, end = torch.randn(5, 2), torch.randn(5, 2) + 3
    states = start + t[:, None, None] * (end - start)
    for ax in (plots.trajectories(states, t), plots.trajectories(states.flip(0), t.flip(0))):
        lines, noise, data = ax.collections
        np.testing.assert_allclose(noise.get_offsets(), start, rtol=1e-5)
        np.testing.assert_allclose(data.get_offsets(), end, rtol=1e-5)
        assert same_color(noise.get_facecolor()[0][:3], "noise")
        assert same_color(data.get_facecolor()[0][:3], "data")
        assert same_color(lines.get_color()[0][:3], "velocity")
        assert len(lines.get_segments()) == 5
        assert ax.get_xlim()[1] >= states.abs().max()


def test_trajectories_on_the_t_x_plane() -> None:
    t = torch.linspace(0, 1, 7)
    states = torch.randn(5) + t[:, None]
    for shape in ((7, 5), (7, 5, 1)):
        ax = plots.trajectories(SimpleNamespace(states=states.view(shape), times=t), n=3)
        segments = ax.collections[0].get_segments()
        assert len(segments) == 3
        np.testing.assert_allclose(segments[1], torch.stack([t, states[:, 1]], 1), rtol=1e-6)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("$t$", "$x$")


# Losses


def curve(n: int = 3000) -> Tensor:
    step = torch.arange(1, n + 1)
    return 2 + 3 / step.sqrt() + 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(0))


def test_loss_draws_each_step_their_means_and_the_floor() -> None:
    losses = curve()
    ax = plots.loss(SimpleNamespace(losses=losses), floor=2.0)
    raw, mean, floor = ax.lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 3001))
    np.testing.assert_allclose(raw.get_ydata(), losses)
    assert set(floor.get_ydata()) == {2.0}
    assert floor.get_linestyle() == "--"
    assert same_color(floor.get_color(), "reference")
    assert same_color(mean.get_color(), "model")
    assert [text.get_text() for text in ax.texts] == ["floor 2"]
    assert ax.get_xscale() == "log"
    truth = 2 + 3 / np.sqrt(mean.get_xdata())
    assert np.abs(mean.get_ydata() - truth)[-6:].max() < 0.06  # the mean is near the truth, a single step is not
    assert np.abs(losses.numpy() - truth[-1])[-100:].max() > 0.3


def test_loss_bins_are_equal_on_the_log_axis_and_keep_every_step() -> None:
    """The binned means, weighted by how many steps each holds, are the mean of all; edges are at 10^(k / 8)."""
    losses = curve(1000)
    mean = plots.loss(losses, smooth=8).lines[1]
    edges = [10 ** (k / 8) for k in range(26)]
    step = np.arange(1, 1001)
    inside = [(step >= a * (1 - 1e-12)) & (step < b * (1 - 1e-12)) for a, b in pairwise(edges)]
    inside = [chosen for chosen in inside if chosen.any()]
    np.testing.assert_allclose(mean.get_ydata(), [losses.numpy()[chosen].mean() for chosen in inside], rtol=1e-6)
    np.testing.assert_allclose(mean.get_xdata(), [math.exp(np.log(step[c]).mean()) for c in inside], rtol=1e-9)


def test_excess_is_the_loss_minus_the_floor_with_an_honest_band() -> None:
    ax = plots.loss(curve(), floor=2.0, excess=True)
    (line,) = ax.lines
    whole = plots.loss(curve()).lines[1]
    np.testing.assert_allclose(line.get_ydata(), whole.get_ydata() - 2.0, rtol=1e-9)
    assert ax.get_yscale() == "log"
    band = ax.collections[0].get_paths()[0].vertices
    truth = 3 / np.sqrt(line.get_xdata())
    half = [np.ptp(band[np.isclose(band[:, 0], x), 1]) / 2 for x in line.get_xdata()]
    covered = np.abs(line.get_ydata() - truth)[10:] < half[10:]
    assert covered.mean() > 0.8  # two standard errors


def test_floor_label_has_the_digits_one_reads() -> None:
    assert plots.loss([4.0, 3.9], floor=3.75312345).texts[0].get_text() == "floor 3.753"


# What is refused


@settings(deadline=None, max_examples=15)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: len(s) != 2 or s[1] != 2))
def test_samples_of_another_shape_are_refused(shape: list[int]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\)"):
        plots.samples(torch.rand(shape))


def test_bad_arguments_are_refused() -> None:
    t = torch.linspace(0, 1, 3)
    with pytest.raises(ValueError, match="finite"):
        plots.samples(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"color must be one of 'noise'.*got 'nose'"):
        plots.samples(torch.rand(3, 2), color="nose")
    with pytest.raises(ValueError, match="limits"):
        plots.samples(torch.rand(3, 2), limits=(3.0, -3.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="one log-density for each"):
        plots.density(lambda x: x)
    with pytest.raises(ValueError, match="40000 NaN"):
        plots.density(lambda x: x[:, 0] * float("nan"))
    with pytest.raises(ValueError, match="velocity must return the shape"):
        plots.field(lambda t, x: x[:, :1], 0.0)
    with pytest.raises(ValueError, match="velocity must be finite"):
        plots.field(lambda t, x: x / 0, 0.0)
    with pytest.raises(ValueError, match="one or two coordinates"):
        plots.trajectories(torch.rand(3, 4, 3), t)
    with pytest.raises(ValueError, match="one time for each row"):
        plots.trajectories(torch.rand(4, 4, 2), t)
    with pytest.raises(ValueError, match="history must be a list"):
        plots.loss(torch.rand(3, 2))
    with pytest.raises(ValueError, match="history must be finite"):
        plots.loss([1.0, float("inf")])
    with pytest.raises(ValueError, match="excess needs the floor"):
        plots.loss([1.0, 2.0], excess=True)
