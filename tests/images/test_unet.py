"""`fmtutor.images.unet` and `grid`: what goes in comes out in shape, and everything that should matter does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmtutor.images import UNet, grid, strip
from fmtutor.images.unet import Attention
from fmtutor.ode import divergence


def awake(**arguments) -> UNet:
    """A network whose last convolution is no longer zero, so that all it does can be seen."""
    torch.manual_seed(0)
    net = UNet(width=8, **arguments)
    torch.nn.init.normal_(net.last[-1].weight)
    return net


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shape_of_the_image_comes_back(size: int, channels: int) -> None:
    x = torch.randn(2, channels, size, size)
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.5, 0.5])):
        assert UNet(channels=channels, width=8)(t, x).shape == x.shape


def test_the_field_starts_at_zero_and_only_the_last_layer_makes_it_so() -> None:
    x = torch.randn(3, 1, 8, 8)
    assert not UNet(width=8)(0.3, x).any()
    assert awake()(0.3, x).abs().mean() > 0.1


def test_the_answer_depends_on_time_and_a_scalar_is_a_batch_of_one_time() -> None:
    net, x = awake(), torch.randn(3, 1, 8, 8)
    t = torch.tensor([0.1, 0.5, 0.9])
    together = net(t, x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], net(t[i], x[i : i + 1]), rtol=1e-4, atol=1e-5)
    assert (net(0.1, x) - net(0.15, x)).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="t must be a scalar or have shape"):
        net(torch.zeros(2), x)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    net, x = awake(), torch.randn(3, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(0.5, x)[1].sum(), x)
    assert gradient[1].abs().min() > 0  # every pixel of the image is seen
    assert not gradient[[0, 2]].any()


def test_labels_matter_and_no_label_is_a_label_of_its_own() -> None:
    net, x = awake(classes=4), torch.randn(3, 1, 8, 8)
    one, two = net(0.5, x, torch.tensor([0, 1, 2])), net(0.5, x, torch.tensor([0, 1, 3]))
    assert torch.equal(one[:2], two[:2])
    assert not torch.allclose(one[2], two[2])
    assert torch.equal(net(0.5, x), net(0.5, x, torch.full((3,), 4)))
    assert not torch.allclose(net(0.5, x), one)
    with pytest.raises(ValueError, match=r"label must be of shape \(3,\), got shape \(2,\)"):
        net(0.5, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"label must be None: .* classes=None"):
        awake()(0.5, x, torch.tensor([0, 1, 2]))
    for bad in (5, -1):
        with pytest.raises(ValueError, match=r"label must lie in \[0, 4\]"):
            net(0.5, x, torch.tensor([0, 1, bad]))


def test_a_gradient_reaches_every_parameter() -> None:
    net = awake(classes=2)
    net(torch.rand(6), torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])).square().mean().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    # The same check sees a layer that the way through the network forgets.
    net.zero_grad()
    net.middle.modulate.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    net(torch.rand(6), torch.randn(6, 1, 8, 8)).square().mean().backward()
    assert net.middle.modulate.weight.grad is None or not net.middle.modulate.weight.grad.any()


def test_bridges_carry_detail_that_the_middle_has_lost() -> None:
    """A change that averages to zero over every 4x4 patch cannot pass the coarse level; it comes back all the same."""
    net, x = awake(), torch.zeros(1, 1, 8, 8)
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert (net(0.5, x + checks) - net(0.5, x)).abs().mean() > 1e-2


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13))
def test_sides_that_do_not_halve_are_refused_with_the_number_that_they_need(height: int, width: int) -> None:
    net, x = UNet(width=8), torch.randn(1, 1, height, width)
    if height % 4 or width % 4:
        with pytest.raises(ValueError, match=rf"sides divisible by 4, got \(1, 1, {height}, {width}\)"):
            net(0.5, x)
    else:
        assert net(0.5, x).shape == x.shape


def test_wrong_images_and_widths_are_refused() -> None:
    net = UNet(width=8)
    for bad in (torch.randn(2, 3, 8, 8), torch.randn(1, 8, 8), torch.randn(2, 64)):
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 1, height, width\)"):
            net(0.5, bad)
    with pytest.raises(TypeError, match="floating-point"):
        net(0.5, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    for width in (0, 12):
        with pytest.raises(ValueError, match="width must be a multiple of 8"):
            UNet(width=width)


def test_computation_follows_dtype_and_memory_format() -> None:
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    net = awake().double()
    assert net(0.5, x).dtype == torch.float64
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(0.5, x), net(0.5, x))


def test_the_divergence_does_not_ask_how_weights_lie_in_memory() -> None:
    """Without a gradient, vmap refuses a convolution with weights in channels_last, as a training leaves them."""
    x, net, signs = torch.randn(3, 1, 4, 4), awake(), {"estimator": "rademacher"}

    @torch.no_grad()
    def looks() -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [divergence(net, 0.5, x)[1], divergence(net, 0.5, x, **signs, probes=3)[1]]

    before = looks()
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(looks(), before, rtol=1e-4, atol=1e-3)
    jacobian = torch.autograd.functional.jacobian(lambda at: net(0.5, at).flatten(1).sum(0), x)  # (16, 3, 1, 4, 4)
    torch.testing.assert_close(before[0], torch.einsum("ibi->b", jacobian.flatten(2)), rtol=1e-4, atol=1e-3)
    pull = torch.func.vjp(lambda at: net(0.5, at), x)[1]
    with torch.no_grad(), pytest.raises(RuntimeError, match="memory_format"):  # how it was done before
        torch.func.vmap(lambda z: pull(z)[0])(torch.randn(3, *x.shape))


def test_a_grid_shows_each_image_in_its_place_dark_for_ink() -> None:
    images = torch.linspace(-1, 1, 7)[:, None, None, None].expand(7, 1, 8, 8)
    figure = grid(images, columns=3, titles=list("abcdefg"))
    assert len(figure.axes) == 7
    for i, axis in enumerate(figure.axes):
        shown = axis.images[0]
        assert shown.get_array()[0, 0] == pytest.approx(i / 6)
        assert axis.get_title() == "abcdefg"[i]
    first, last = (axis.images[0] for axis in (figure.axes[0], figure.axes[-1]))
    assert first.cmap(first.norm(first.get_array()[0, 0]))[0] > last.cmap(last.norm(last.get_array()[0, 0]))[0]
    assert figure.get_facecolor()[3] == 0
    assert len(grid(torch.zeros(2, 3, 4, 4)).axes) == 2


def test_titles_of_columns_take_no_room_between_the_rows() -> None:
    images, heads = torch.zeros(6, 1, 8, 8), ["a", "b"]
    each, head, none = (grid(images, 2, titles=titles) for titles in (heads * 3, heads, None))
    assert [axis.get_title() for axis in head.axes] == ["a", "b", "", "", "", ""]
    assert [axis.get_title() for axis in each.axes] == heads * 3
    heights = [figure.get_size_inches()[1] for figure in (none, head, each)]
    assert heights[2] - heights[1] == pytest.approx(2 * (heights[1] - heights[0]))
    gaps = [figure.axes[0].get_position().y0 - figure.axes[2].get_position().y1 for figure in (none, head)]
    assert gaps[1] * heights[1] == pytest.approx(gaps[0] * heights[0])
    for wrong in (heads * 2, ["a"], []):
        with pytest.raises(ValueError, match=r"titles one for each of 6 images or of 2 columns"):
            grid(images, 2, titles=wrong)


def test_a_strip_runs_through_time_from_left_to_right() -> None:
    states = torch.arange(6.0).reshape(3, 2, 1, 1, 1).expand(3, 2, 1, 4, 4) / 5
    figure = strip(states, torch.tensor([0.0, 0.5, 1.0]))
    shown = [2 * axis.images[0].get_array()[0, 0] - 1 for axis in figure.axes]
    assert shown == pytest.approx([0, 0.4, 0.8, 0.2, 0.6, 1], abs=1e-6)
    assert [axis.get_title() for axis in figure.axes] == ["t = 0", "t = 0.5", "t = 1", "", "", ""]


def test_figures_refuse_what_they_cannot_show() -> None:
    images = torch.zeros(4, 1, 8, 8)
    for bad in (images[0], torch.zeros(4, 2, 8, 8), images[:0]):
        with pytest.raises(ValueError, match="must have shape"):
            grid(bad)
    with pytest.raises(ValueError, match="3 titles"):
        grid(images, titles=["a", "b", "c"])
    with pytest.raises(ValueError, match="columns=0"):
        grid(images, columns=0)
    with pytest.raises(ValueError, match="NaN"):
        grid(images / 0)
    with pytest.raises(ValueError, match="one for each of 2 states, got 3"):
        strip(images[None].expand(2, -1, -1, -1, -1), [0, 0.5, 1])
    with pytest.raises(ValueError, match="must have shape"):
        strip(images, [0, 0, 0, 0])


def test_attention_is_softmax_over_places_in_heads_of_32_channels() -> None:
    torch.manual_seed(0)
    layer, x = Attention(64).double(), torch.randn(2, 64, 3, 2, dtype=torch.float64)
    assert layer(x).equal(x)  # at first it changes nothing
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    places = torch.nn.functional.group_norm(x, 8, layer.norm.weight, layer.norm.bias).flatten(2).transpose(1, 2)
    ask = layer.ask.weight[:, :, 0, 0]
    q, k, v = (places @ w.T + b for w, b in zip(ask.split(64), layer.ask.bias.split(64), strict=True))
    heads = []
    for h in (slice(0, 32), slice(32, 64)):
        weight = torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / 32**0.5, -1)
        heads.append(weight @ v[..., h])
    seen = torch.cat(heads, -1) @ layer.answer.weight[:, :, 0, 0].T + layer.answer.bias
    wanted = x + seen.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), wanted)
    one_head = torch.softmax(q @ k.transpose(1, 2) / 8, -1) @ v  # the wrong version
    wrong = one_head @ layer.answer.weight[:, :, 0, 0].T + layer.answer.bias
    assert (layer(x) - x - wrong.transpose(1, 2).reshape(x.shape)).abs().max() > 0.01


def test_with_attention_a_far_pixel_reaches_every_other() -> None:
    """One level, two blocks of two convolutions: without attention a pixel sees no farther than seven."""
    for attention in (False, True):
        torch.manual_seed(0)
        net, x = UNet(1, 8, (1,), attention=attention).double(), torch.zeros(1, 1, 24, 1, dtype=torch.float64)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
        for module in net.modules():
            if isinstance(module, torch.nn.GroupNorm):  # it looks at all pixels, too
                module.forward = lambda h: h  # type: ignore[method-assign]
        bumped = x.clone()
        bumped[0, 0, 0] = 1.0
        moved = (net(0.5, bumped) - net(0.5, x)).abs().flatten()
        assert bool(moved[-1] > 0) is attention
    assert net.settings == {"channels": 1, "width": 8, "multipliers": [1], "classes": None, "attention": True}
