"""Checks of the exercises of chapter 4, conditional flow matching: equal gradients and the floor of the loss.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`: what is
about the loss in `loss`, what is about its lowest value in `floor`.
"""

from fmtutor.check.conditional.floor import largest_floor, two_point_floor
from fmtutor.check.conditional.loss import batch_factor, cfm_loss, same_field

__all__ = ["batch_factor", "cfm_loss", "largest_floor", "same_field", "two_point_floor"]
