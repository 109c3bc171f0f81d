"""What torchdiffeq does for `solve`: steps that choose themselves, and adjoints; inside the interval, with an end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchdiffeq
from torch import Tensor
from tqdm.auto import tqdm

from fmtutor.ode.steps import FIXED, Field, grid

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
HINT = "An exact field has no velocity at t = 1: stop a little earlier, at t1=0.999 say"
PATIENCE = 2.0  # seconds before a bar says that a solve is under way


class Count:
    """How often a field was asked; with a limit, and a bar where an adaptive method takes long.

    Example:
        >>> count = Count("dopri5", most=1)
        >>> count.one_more(torch.tensor(0.0)), count.one_more(torch.tensor(0.1))
        Traceback (most recent call last):
        ...
        ValueError: velocity needs more than max_nfe = 1 evaluations by dopri5, which has come to t = 0.1: ...
    """

    def __init__(self, method: str, most: int) -> None:
        self.method, self.most = method, most
        self.bar: tqdm | None = None
        self.restart()

    def restart(self, *_: object) -> None:
        """Count from 0: also on the way back through an adjoint."""
        self.n, self.began = 0, 0.0

    def one_more(self, t: Tensor) -> None:
        """The field is asked at t."""
        self.n += 1
        if self.method in FIXED:  # which knows its end
            return
        if self.n > self.most:
            self.close()
            raise ValueError(
                f"velocity needs more than max_nfe = {self.most} evaluations by {self.method}, which has come to "
                f"t = {float(t):g}: it is stiff there, or the tolerance is too tight. Give a larger max_nfe, rtol or "
                "atol, or a method with fixed steps"
            )
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        self.began = self.began or now
        if self.bar is None and now - self.began > PATIENCE and not os.environ.get("TQDM_DISABLE"):
            self.bar = tqdm(desc=self.method, initial=self.n, disable=None, leave=False, unit=" evaluations")
        elif self.bar is not None:
            self.bar.update()

    def close(self) -> int:
        """How many it were; the bar goes away."""
        if self.bar is not None:
            self.bar.close()
        return self.n


def integrate(
    method: str,
    v: Field,
    start: Tensor,
    end: Tensor,
    x: Tensor,
    steps: int,
    first: Tensor,
    reach: tuple[Tensor, ...] | None,
    rtol: float,
    atol: float,
) -> Tensor:
    """Where x at `start` is at `end`, by torchdiffeq; `reach`, if not None, holds the leaves of an adjoint."""
    times = torch.stack([start, end])
    how: dict[str, Any] = {"method": method, "rtol": rtol, "atol": atol}
    if method in FIXED:
        forth: dict[str, Any] = {"grid_constructor": lambda v, x, ends: torch.stack(grid(ends[0], ends[-1], steps))}
        back = forth
    else:
        # left to itself torchdiffeq looks beyond the last time, where a field need not exist, and interpolates back
        below = start if start < end else -start  # the adjoint counts falling times from below
        forth, back = ({"first_step": first, "step_t": last[None]} for last in (end, below))
    with _named_underflow(method):
        if reach is None:
            return torchdiffeq.odeint(v, x, times, options=forth, **how)[-1]
        adjoint = {"adjoint_params": reach, "adjoint_options": back}
        return torchdiffeq.odeint_adjoint(v, x, times, options=forth, **adjoint, **how)[-1]


@contextmanager
def _named_underflow(method: str) -> Iterator[None]:
    """Where an adaptive method's steps shrink to nothing, an error that says so; torchdiffeq asserts."""
    try:
        yield
    except AssertionError as error:
        if "underflow" not in str(error):  # the velocity's own
            raise
        raise ValueError(
            f"velocity must be finite and smooth, but {method} cannot follow it: {error}. {HINT}"
        ) from error


def intervals(times: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Neighbouring times, each a hair inside where two intervals meet.

    A field may jump there, and each side is then asked for its own value. The hair has no gradient: the ends do.
    """
    starts, ends = times[:-1], times[1:]
    with torch.no_grad():
        into, out_of = torch.nextafter(starts, ends) - starts, torch.nextafter(ends, starts) - ends
        into[0], out_of[-1] = 0, 0
    return zip((starts + into).unbind(), (ends + out_of).unbind(), strict=True)
