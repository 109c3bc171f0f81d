"""Checks of the exercises of chapter 1, normalizing flows: densities of moved points, inverses and log-determinants.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`: a density
in `densities`, what a layer does in `layers`, a prediction in `predictions`.
"""

from fmtutor.check.normalizing.densities import lognormal_log_prob, pixel_bits
from fmtutor.check.normalizing.layers import coupling_inverse, planar_log_det
from fmtutor.check.normalizing.predictions import forgotten_volume, network_passes, untouched_half

__all__ = [
    "coupling_inverse",
    "forgotten_volume",
    "lognormal_log_prob",
    "network_passes",
    "pixel_bits",
    "planar_log_det",
    "untouched_half",
]
