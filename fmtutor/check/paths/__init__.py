"""Checks of the exercises of chapter 5, which path: what all paths share, and what a choice of path changes.

What is about the one map and its clock is in `clock`, what is about steps, straightness and starts in `steps`.
"""

from fmtutor.check.paths.clock import cosine_clock, cosine_from_linear, what_a_path_changes
from fmtutor.check.paths.steps import cosine_step, straight_noise, unscaled_start

__all__ = [
    "cosine_clock",
    "cosine_from_linear",
    "cosine_step",
    "straight_noise",
    "unscaled_start",
    "what_a_path_changes",
]
