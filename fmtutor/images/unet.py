"""A compact U-Net that reads an image and a time and answers with a velocity of the image's shape.

Chapter 8 prints and trains it; chapter 9 gives it class labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from fmtutor import _validate


class FourierTime(nn.Module):
    """Time as sines and cosines of rising frequency, then a small network: `(batch,)` to `(batch, width)`."""

    frequencies: Tensor

    def __init__(self, width: int, features: int = 32, highest: float = 100.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, torch.tensor(highest).log10().item(), features))
        self.mlp = nn.Sequential(nn.Linear(2 * features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        angle = t[:, None] * self.frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the embedding scales and shifts what stands between them."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(min(8, inside), inside)
        self.norm2 = nn.GroupNorm(min(8, outside), outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * outside)
        self.shortcut = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h) * (1 + scale) + shift))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """Each place looks at all others, in heads of 32 channels, beside a shortcut; it starts by changing nothing.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; in a U-Net, Ho et al. 2020, appendix B.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 32, 1)
        self.norm = nn.GroupNorm(8, channels)
        self.ask, self.answer = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        for parameter in self.answer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        n, c, height, width = x.shape
        parts = self.ask(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width).transpose(-1, -2)
        seen = scaled_dot_product_attention(*parts.unbind(1)).transpose(-1, -2)
        return x + self.answer(seen.reshape(n, c, height, width))


class UNet(nn.Module):
    """A velocity field on images: down to a coarse view, up again, with a bridge at every resolution.

    Each level halves height and width. What the way down has seen at a resolution is handed across to the way up, so
    that fine detail need not pass through the coarse middle. The last convolution starts at zero: so does the field.

    Args:
        channels: of the image, 1 for grey.
        width: the unit of channels, a multiple of 8.
        multipliers: channels of each level in units of `width`; one level more than there are halvings.
        classes: number of class labels, or None for a field that knows of none.
        attention: let the places of the coarsest view look at each other, between its two ways. It costs little
            where that view is small: its work grows with the square of its number of pixels.

    Raises:
        ValueError: for an image whose sides the halvings do not divide, a wrong number of channels, or labels that
            are missing from `classes`.

    Source: Ronneberger et al. 2015 (arXiv:1505.04597) for the shape; Ho et al. 2020 (arXiv:2006.11239), appendix B,
    for residual blocks with time; Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3, for scale and shift.

    Example:
        >>> v = UNet(channels=1, width=16)
        >>> v(0.5, torch.randn(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        classes: int | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        _validate.whole("channels", channels), _validate.whole("classes", 1 if classes is None else classes)
        if width < 8 or width % 8 or not multipliers:
            raise ValueError(f"width must be a multiple of 8 and multipliers not empty, got {width} and {multipliers}")
        self.channels, self.classes, self.factor = channels, classes or 0, 2 ** (len(multipliers) - 1)
        embedding, widths = 4 * width, [width * m for m in multipliers]
        self.time = FourierTime(embedding)
        self.label = None if classes is None else nn.Embedding(classes + 1, embedding)  # the last: no label
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(ResidualBlock(a, b, embedding) for a, b in zip(before, widths, strict=True))
        self.middle = ResidualBlock(widths[-1], widths[-1], embedding)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        self.settings = {"channels": channels, "width": width, "multipliers": list(multipliers), "classes": classes,
                         "attention": attention}  # fmt: skip
        self.up = nn.ModuleList(
            ResidualBlock(2 * b, a, embedding) for a, b in zip(reversed(before), reversed(widths), strict=True)
        )
        self.last = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels, 3, padding=1))
        for parameter in self.last[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        t: Float[Tensor, " batch"] | float,
        x: Float[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """The velocity at time `t`; the label `classes`, and no label at all, mean "any class"."""
        self._check(x, label)
        embedding = self.time(_validate.time(t, x).flatten())
        if self.label is not None:
            label = torch.full(x.shape[:1], self.classes, device=x.device) if label is None else label
            embedding = embedding + self.label(label)
        embedding, h, bridges = silu(embedding), self.first(x), []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else nn.functional.avg_pool2d(h, 2), embedding)
            bridges.append(h)
        h = self.attention(self.middle(h, embedding))
        for level, block in enumerate(self.up):
            h = h if level == 0 else interpolate(h, scale_factor=2)
            h = block(torch.cat([h, bridges.pop()], dim=1), embedding)
        return self.last(h)

    def _check(self, x: Tensor, label: Tensor | None) -> None:
        _validate.same_dtype("x", x, self)
        if x.dim() != 4 or x.shape[1] != self.channels or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"x must have shape (batch, {self.channels}, height, width) with sides divisible by {self.factor}, "
                f"got {tuple(x.shape)}"
            )
        if label is None:
            return
        if not isinstance(label, Tensor) or label.dtype not in (torch.int64, torch.int32):
            came = label.dtype if isinstance(label, Tensor) else type(label).__name__
            raise TypeError(f"label must be a tensor of torch.int64 or torch.int32, got {came}")
        if self.label is None or label.shape != x.shape[:1]:
            wanted = "None: this network was built with classes=None" if self.label is None else f"of shape ({len(x)},)"
            raise ValueError(f"label must be {wanted}, got shape {tuple(label.shape)}")
        if _validate.readable(label) and not ((label >= 0) & (label <= self.classes)).all():
            raise ValueError(
                f"label must lie in [0, {self.classes}], where {self.classes} is none, got {label.tolist()}"
            )
