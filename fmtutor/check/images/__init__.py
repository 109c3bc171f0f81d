"""Checks of the exercises of chapter 8, images: times beside images, greys, a forger, a distance, its price, reports.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`: a formula
or a number in `formulas`, what is read off a protocol in `reports`; the forger has a file of its own.
"""

from fmtutor.check.images.forger import forgery
from fmtutor.check.images.formulas import frechet_on_a_line, image_path_point, model_calls, snap_to_greys
from fmtutor.check.images.reports import bits_too_many, comparable_reports

__all__ = [
    "bits_too_many",
    "comparable_reports",
    "forgery",
    "frechet_on_a_line",
    "image_path_point",
    "model_calls",
    "snap_to_greys",
]
