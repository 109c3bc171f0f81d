"""Checks of the exercises of chapter 8, images: digits on a laptop.

Add an exercise by writing a function that returns what is wrong with an answer, and its name in `__all__`.
"""

from __future__ import annotations

__all__: list[str] = []
