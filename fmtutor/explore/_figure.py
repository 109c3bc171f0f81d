"""What every figure to play with shares: a widget where Python runs, a page's own script where it does not.

Each figure has a file with its script beside it; the landing page and chapters 3 to 13 use them.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import sys
from importlib import resources
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from fmtutor.show import own_ground

NOISE, DATA, PATH, GREY = "#56B4E9", "#E69F00", "#009E73", "#767676"
# Around the picture once: a particle's colour says in which direction it ends, or began.
_WHEEL = ("#E69F00", "#D55E00", "#CC79A7", "#0072B2", "#56B4E9", "#009E73")

Picture = Figure | np.ndarray | Tensor

_numbers = itertools.count(1)


class Explorable:
    """A figure with two faces, chosen by whoever displays it.

    A subclass says how its picture is drawn in Python (`draw`), which controls it has there (`controls`), and what the
    page gets: the markup of its controls (`markup`), its numbers (`data`) and its scripts (`scripts`).

    Args:
        alt: What there is to see, for readers who cannot.
    """

    scripts: tuple[str, ...] = ()

    def __init__(self, alt: str) -> None:
        self.alt = alt

    def draw(self, **values: Any) -> Picture:
        """The picture at the controls' values."""
        raise NotImplementedError

    def controls(self) -> dict[str, Any]:
        """An ipywidgets control for each argument of `draw`."""
        raise NotImplementedError

    def markup(self) -> str:
        """The HTML of the page's own controls and canvas."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """What the script needs to know, as JSON."""
        raise NotImplementedError

    def html(self) -> str:
        """The figure as HTML that needs nothing else: no kernel, no network, no library."""
        name = f"fmtutor-explore-{next(_numbers)}"
        numbers = json.dumps(self.data(), allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
        script = "\n".join(map(_resource, ("common.js", *self.scripts)))
        # A page may hold one name twice (a cell run again, an output shown twice): each copy is started once.
        return (
            f'<div class="fmtutor-explore" id="{name}" role="group" aria-label="{html.escape(self.alt)}">'
            f"<style>{own_ground('fmtutor-explore')}\n{_resource('explore.css')}</style>{self.markup()}"
            f"<script>for (const root of document.querySelectorAll('#{name}:not([data-alive])')) "
            f"{{ root.dataset.alive = 1; (() => {{ const data = {numbers};\n{script} }})(); }}</script></div>"
        )

    def widget(self) -> Any:
        """The figure as an ipywidgets box whose sliders call `draw`."""
        import ipywidgets

        controls = self.controls()
        sliders = {name: control for name, control in controls.items() if not isinstance(control, ipywidgets.Play)}
        picture = ipywidgets.HTML()

        def redraw(_: Any = None) -> None:
            values = {name: slider.value for name, slider in sliders.items()}
            picture.value = img(uri(self.draw(**values), "webp"), self.alt)

        for slider in sliders.values():
            slider.observe(redraw, "value")
        redraw()
        return ipywidgets.VBox([picture, ipywidgets.HBox(list(controls.values()))])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.html()}
        try:
            view = self.widget()
        except ImportError:
            return bundle
        if view.model_id:
            reference = {"version_major": 2, "version_minor": 0, "model_id": view.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = reference
        return bundle

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.alt}>"


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def uri(picture: Picture, kind: str = "png", dpi: int = 110) -> str:
    """A figure, or an image `(height, width)` or `(height, width, 3 or 4)`, as a data URI with a transparent ground."""
    file = io.BytesIO()
    if isinstance(picture, Figure):
        quality = {"pil_kwargs": {"quality": 90}} if kind == "webp" else {}
        picture.savefig(file, format=kind, dpi=dpi, transparent=True, **quality)
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(picture)  # or every frame would be shown once more below the cell
    else:
        kind = "png" if kind == "svg" else kind
        _save_array(file, picture, kind)
    mime = {"svg": "svg+xml"}.get(kind, kind)
    return f"data:image/{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def _save_array(file: io.BytesIO, picture: Any, kind: str) -> None:
    """Write an image array; a small one is magnified by whole pixels, because browsers would blur it."""
    from PIL import Image

    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"a picture must have shape (height, width) or (height, width, 3 or 4), got {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        array = (np.clip(array, 0, 1) * 255).round()
    scale = max(1, 480 // array.shape[1])
    array = array.astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(array).save(file, format=kind, **({"lossless": True} if kind == "webp" else {}))


def img(source: str, alt: str) -> str:
    """A picture on a page; the class keeps the built page's dark theme from laying white behind it."""
    return f'<img class="dark-light" data-fx="picture" alt="{html.escape(alt)}" src="{source}">'


def slider(name: str, label: str, low: float, high: float, step: float | str, value: float, readout: str) -> str:
    """A labelled range input with a readout, for the page."""
    shown = "readout" if name == "slider" else f"{name}-readout"
    return (
        f'<label>{html.escape(label)} <input type="range" data-fx="{name}" aria-label="{html.escape(label)}" '
        f'min="{low:g}" max="{high:g}" step="{step}" value="{value:g}">'
        f'<output data-fx="{shown}">{html.escape(readout)}</output></label>'
    )


PLAY = '<button type="button" data-fx="button">▶ Play</button>'


def no_script(still: str = "") -> str:
    """What a page without scripts has in place of controls that do nothing: a picture, and what is missing."""
    hidden = ".fmtutor-explore :is(canvas, .fx-row, .fx-hint, table) { display: none }"
    words = "This is one picture of a figure that moves where JavaScript is switched on."
    return f"<noscript><style>{hidden}</style>{still}<p>{words}</p></noscript>"


def encode(numbers: Tensor, dtype: Any) -> str:
    """Whole numbers as little-endian bytes in base64."""
    return base64.b64encode(numbers.cpu().numpy().astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def even(low: float, high: float, n: int) -> Tensor:
    """`n` evenly spaced numbers in float64."""
    return torch.linspace(low, high, n, dtype=torch.float64)


def directions(points: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "colours 3"], UInt8[Tensor, " n"]]:
    """Colours once around the picture, and for each point the one of its direction."""
    wheel = blend(torch.tensor([to_rgb(colour) for colour in (*_WHEEL, _WHEEL[0])]), 6)
    x, y = points.T
    return wheel, ((torch.atan2(y, x) / (2 * math.pi) % 1) * (len(wheel) - 1)).round().byte()


def blend(colours: Float[Tensor, "k 3"], steps: int) -> Float[Tensor, "n 3"]:
    """`steps` steps of mixture from each colour to the next."""
    mix = torch.linspace(0, 1, steps + 1)[:-1, None]
    parts = [torch.lerp(a, b, mix) for a, b in itertools.pairwise(colours)]
    return torch.cat([*parts, colours[-1:]])


def opacities(target: Distribution, limit: float, size: int = 64) -> Float[Tensor, " pixels"]:
    """A density on a square of pixels, top row first, from 0 to 110."""
    line = even(-limit, limit, size).float()
    grid = torch.cartesian_prod(line.flip(0), line).flip(1)
    p = target.log_prob(grid).exp().nan_to_num(0)
    return (p / p.max() * 110).round()
