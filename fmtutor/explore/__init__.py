"""Figures that a reader plays with: live in a notebook, and alive on a built page, where no Python runs.

`frames` follows a slider, `marginal_velocity` is chapter 3's average over the data, `particles` is a flow in motion,
`solvers` compares paths and numbers of steps in chapter 5, `samplers` are chapter 6's ways through one density, and
`guidance` is chapter 9's weight under the finger.
"""

from __future__ import annotations

from fmtutor.explore._frames import frames
from fmtutor.explore._guidance import guidance
from fmtutor.explore._marginal import marginal_velocity
from fmtutor.explore._particles import particles
from fmtutor.explore._samplers import samplers
from fmtutor.explore._solvers import solvers

__all__ = ["frames", "guidance", "marginal_velocity", "particles", "samplers", "solvers"]
