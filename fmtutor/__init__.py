"""Flow matching, to learn from and to work with: the package that the fmtutor book is built from.

The whole method is on one screen at the top of the book. Everything named here is taught in a chapter; `plots`,
`check`, `explore` and `images` are imported when they are first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from fmtutor.couplings import independent
from fmtutor.diffusion import ancestral, as_score, as_velocity, solve_sde
from fmtutor.distributions import (
    Checkerboard,
    EightGaussians,
    Empirical,
    GaussianMixture,
    Pinwheel,
    Spirals,
    StandardNormal,
    TwoMoons,
)
from fmtutor.fields import Bound
from fmtutor.flows import ContinuousFlow
from fmtutor.guidance import autoguide, drop_labels, guide, inpaint
from fmtutor.losses import conditional_flow_matching_loss, flow_matching_loss, prediction_loss
from fmtutor.nets import VelocityMLP
from fmtutor.normalizing import AffineCoupling, MaskedAutoregressive, NormalizingFlow, Planar, bits_per_dim, dequantize
from fmtutor.ode import Solution, divergence, solve
from fmtutor.paths import AffinePath, PathSample
from fmtutor.schedules import Cosine, Linear, Polynomial, Schedule, VarianceExploding, VariancePreserving
from fmtutor.show import results, show
from fmtutor.training import History, fit, load_weights, save_weights

__version__ = "0.1.0"

__all__ = [
    "AffineCoupling",
    "AffinePath",
    "Bound",
    "Checkerboard",
    "ContinuousFlow",
    "Cosine",
    "EightGaussians",
    "Empirical",
    "GaussianMixture",
    "History",
    "Linear",
    "MaskedAutoregressive",
    "NormalizingFlow",
    "PathSample",
    "Pinwheel",
    "Planar",
    "Polynomial",
    "Schedule",
    "Solution",
    "Spirals",
    "StandardNormal",
    "TwoMoons",
    "VarianceExploding",
    "VariancePreserving",
    "VelocityMLP",
    "ancestral",
    "as_score",
    "as_velocity",
    "autoguide",
    "bits_per_dim",
    "conditional_flow_matching_loss",
    "dequantize",
    "divergence",
    "drop_labels",
    "fit",
    "flow_matching_loss",
    "guide",
    "independent",
    "inpaint",
    "load_weights",
    "prediction_loss",
    "results",
    "save_weights",
    "show",
    "solve",
    "solve_sde",
]

_ON_DEMAND = ("check", "explore", "images", "metrics", "plots")


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return importlib.import_module(f"fmtutor.{name}")
    raise AttributeError(f"module 'fmtutor' has no attribute {name!r}")
