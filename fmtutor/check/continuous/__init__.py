"""Checks of the exercises of chapter 2, continuous flows: divergence, densities along a flow, solvers and probes.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`: what is
about volume in `densities`, what is about steps in `solvers`.
"""

from fmtutor.check.continuous.densities import field_divergence, hutchinson_variance, stretched_density
from fmtutor.check.continuous.solvers import fresh_probes, midpoint_step, solver_order

__all__ = [
    "field_divergence",
    "fresh_probes",
    "hutchinson_variance",
    "midpoint_step",
    "solver_order",
    "stretched_density",
]
