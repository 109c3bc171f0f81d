"""What a page of the book writes in code, for tests: its functions by name, and whole cells with smaller numbers.

A slip is a pair of strings, what stands on the page and a mistake in its place. It is made wherever its first string
is found, and a test then says that the mistake shows.
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

BOOK = Path(__file__).parents[1] / "book"
CELL = re.compile(r"^```\{code-cell\} ipython3\n(?:---\n.*?^---\n|:tags:.*?\n\n?)?(.*?)^```", re.M | re.S)
Slip = tuple[str, str]
RIGHT: Slip = ("", "")


def cells(page: str) -> list[str]:
    """The code of a page, cell by cell."""
    return CELL.findall((BOOK / f"{page}.md").read_text())


def functions(page: str, known: dict[str, Any], *names: str, slip: Slip = RIGHT) -> Any:
    """Writes the page's functions of these names into `known`; returns the last one."""
    found = {
        f.name: ast.get_source_segment(cell, f) or ""
        for cell in cells(page)
        for f in ast.parse(cell).body
        if isinstance(f, ast.FunctionDef | ast.ClassDef)
    }
    for name in names:
        exec(found[name].replace(*slip) if slip[0] else found[name], known)
    return known[names[-1]]


def run(page: str, known: dict[str, Any], words: str, *changes: Slip, slip: Slip = RIGHT) -> str:
    """Runs the one cell that holds these words, with changes that it must allow; returns what it prints."""
    (cell,) = [cell for cell in cells(page) if words in cell]
    for old, new in changes:
        assert old in cell, old
        cell = cell.replace(old, new)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(cell.replace(*slip) if slip[0] else cell, known)
    return said.getvalue()


def beginning(page: str, names: Sequence[str], *words: str) -> dict[str, Any]:
    """What is known after a page's imports, its functions of these names, and its cells that hold these words."""
    known: dict[str, Any] = {}
    run(page, known, "plots.use_style()", ("plots.use_style()", ""))
    functions(page, known, *names)
    for each in words:
        run(page, known, each)
    return known


def numbers(line: str) -> list[float]:
    """The numbers in a printed line."""
    return [float(n) for n in re.findall(r"(?<![\w.])[-+]?\d+\.?\d*(?:e[-+]?\d+)?", line)]


def with_slips(*slips: Slip) -> pytest.MarkDecorator:
    """What the page says, and each slip."""
    return pytest.mark.parametrize("slip", [RIGHT, *slips], ids=["right", *(new or f"no {old}" for old, new in slips)])


def judge(off: float, slip: Slip, close: float, far: float) -> None:
    """The page is right, or the slip is seen."""
    assert off < close if slip == RIGHT else off > far or math.isnan(off), off
