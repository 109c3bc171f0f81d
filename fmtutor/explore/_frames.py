"""A picture that follows a slider: drawn live in a notebook, from frames made beforehand on a page.

Any chapter may use it, for whatever changes with one number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from fmtutor import _validate
from fmtutor.explore._figure import PLAY, Explorable, Picture, img, no_script, slider, uri


class Frames(Explorable):
    """The figure that `frames` returns."""

    scripts = ("frames.js",)

    def __init__(
        self, draw: Callable[[Any], Picture], values: Sequence[Any], names: list[str], label: str, **look: Any
    ) -> None:
        super().__init__(look.pop("alt"))
        self._draw, self.values, self.names, self.label = draw, values, names, label
        self.start, self.seconds, self.kind, self.dpi = (look[k] for k in ("start", "seconds", "kind", "dpi"))

    def draw(self, **values: Any) -> Picture:
        return self._draw(self.values[values["index"]])

    @functools.cached_property
    def pictures(self) -> list[str]:
        """Every frame as a data URI, drawn once however often the figure is shown."""
        return [uri(self._draw(value), self.kind, self.dpi) for value in self.values]

    def controls(self) -> dict[str, Any]:
        import ipywidgets

        options = [(name, i) for i, name in enumerate(self.names)]
        chosen = ipywidgets.SelectionSlider(options=options, value=self.start, description=self.label)
        play = ipywidgets.Play(min=0, max=len(options) - 1, interval=int(1000 * self.seconds / len(options)))
        ipywidgets.jslink((play, "value"), (chosen, "index"))
        return {"play": play, "index": chosen}

    def markup(self) -> str:
        shown = img(self.pictures[self.start], self.alt)
        control = slider("slider", self.label, 0, len(self.names) - 1, 1, self.start, self.names[self.start])
        return f'{shown}<div class="fx-row">{PLAY}{control}</div>{no_script()}'

    def data(self) -> dict[str, Any]:
        return {"frames": self.pictures, "names": self.names, "label": self.label, "seconds": self.seconds}


def frames(
    draw: Callable[[Any], Picture],
    values: Iterable[Any],
    label: str = "t",
    *,
    alt: str | None = None,
    start: int = 0,
    seconds: float = 4.0,
    kind: str = "webp",
    dpi: int = 110,
) -> Frames:
    """A picture for each value, with a slider and a play button.

    Args:
        draw: Value -> a matplotlib figure, or an image `(height, width[, 3 or 4])` of floats in [0, 1] or bytes.
        values: What the slider runs over. Twenty to forty make a smooth movie of less than a megabyte.
        label: What stands beside the slider.
        alt: What there is to see, for readers who cannot.
        start: Index of the value that is shown first.
        seconds: Time from the first value to the last when played.
        kind: "webp" (small), "png" (exact) or "svg" (sharp; for a few lines, never for thousands of points).
        dpi: Resolution of figures.

    Raises:
        ValueError: `values` is empty, `start` is no index of it, or `kind` is unknown.

    Example:
        >>> import torch
        >>> frames(lambda t: torch.full((8, 8), t), [0.0, 0.5, 1.0], alt="A grey square gets lighter")
        <Frames: A grey square gets lighter>
    """
    values = list(values)
    if not 0 <= start < len(values):
        raise ValueError(f"start must be an index of values, got start={start} and {len(values)} values")
    _validate.choice("kind", kind, ["webp", "png", "svg"])
    _validate.positive("seconds", seconds)
    names = [value if isinstance(value, str) else _short(value) for value in values]
    alt = alt or f"A picture that changes with {label}"
    return Frames(draw, values, names, label, alt=alt, start=start, seconds=seconds, kind=kind, dpi=dpi)


def _short(value: Any) -> str:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return f"{number:.2f}" if isinstance(number, float) else str(number)
