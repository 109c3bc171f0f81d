"""The exercises' checks: `check.NAME(answer)` says whether an answer is right and, if not, what is likely wrong.

Each chapter with exercises has a file of its own here; `check.catalogue()` lists them all.
"""

from __future__ import annotations

from fmtutor.check._card import Catalogue, Result
from fmtutor.check._exercise import EXERCISES
from fmtutor.check.conditional import *  # noqa: F403
from fmtutor.check.continuous import *  # noqa: F403
from fmtutor.check.diffusion import *  # noqa: F403
from fmtutor.check.flow_matching import *  # noqa: F403
from fmtutor.check.guidance import *  # noqa: F403
from fmtutor.check.images import *  # noqa: F403
from fmtutor.check.normalizing import *  # noqa: F403
from fmtutor.check.paths import *  # noqa: F403


def catalogue() -> Catalogue:
    """All exercises in the order of the pages: the number that the page gives it, its check, and what is asked.

    Example:
        >>> [entry.name for entry in catalogue() if entry.chapter == 3][0]
        'conditional_velocity'
    """
    return Catalogue(tuple(sorted(EXERCISES, key=lambda entry: (entry.chapter, entry.number))))


__all__ = ["Result", "catalogue", *[entry.name for entry in EXERCISES]]
