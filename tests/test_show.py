"""The source shown is the source that runs: it is executed again and answers the same."""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fmtutor import _validate, check
from fmtutor.show import Source, results, show

ROOT = Path(__file__).parents[1]


def halve(x: float) -> float:
    """Half of `x`.

    More words.
    """

    # why: nobody knows
    def inner(y: float) -> float:
        """Inner words."""
        return y / 2

    return inner(x)


def only_words() -> None:
    """Nothing but words."""


class Thing:
    """A thing."""

    size = 3

    def double(self) -> int:
        """Twice the size."""
        return 2 * self.size


def run(source: Source, name: str) -> Any:
    space: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.code, space)
    return space[name]


@pytest.mark.parametrize("docstring", [True, False])
def test_the_source_shown_runs(docstring: bool) -> None:
    assert run(show(halve, docstring=docstring), "halve")(3.0) == 1.5
    assert run(show(Thing, docstring=docstring), "Thing")().double() == 6
    assert run(show(Thing.double, docstring=docstring), "double")(Thing) == 6
    assert run(show(only_words, docstring=docstring), "only_words")() is None


def test_docstrings_go_and_comments_stay() -> None:
    short, long = show(halve).code, show(halve, docstring=True).code
    assert "words" not in short
    assert "More words." in long
    assert "# why" in short
    assert show(halve).code.split("\n")[1].strip() == "# why: nobody knows"
    assert "thing" not in show(Thing).code
    assert "Twice" not in show(Thing).code
    assert "Checks of what a caller" not in show(_validate).code


def test_partial_wrapped_and_bound_show_what_they_call() -> None:
    assert show(functools.partial(halve, 3.0)).code == show(halve).code
    assert show(Thing().double).code == show(Thing.double).code
    assert "def conditional_velocity" in show(check.conditional_velocity).code


@pytest.mark.parametrize("obj", [len, 3, torch.tensor(1.0), "text", None, torch.exp, int])
def test_no_source_is_a_type_error_that_names_what_came(obj: Any) -> None:
    with pytest.raises(TypeError, match=r"obj must be .* got .*"):
        show(obj)


def test_html_says_the_same_and_escapes() -> None:
    def tricky(a: int) -> str:
        return "<script>" if a < 3 else "&amp;"

    page = show(tricky)._repr_html_()
    assert "<script>" not in page
    assert 'class="highlight"' in page
    assert '<span class="k">def</span>' in page
    text = re.sub("<[^>]+>", "", page.split("<pre>")[1].split("</pre>")[0])
    assert html.unescape(text) == show(tricky).code == repr(show(tricky))


def test_results_are_what_the_benchmark_wrote() -> None:
    """Pages read them from the checkout; the wheel carries the same files, see `test_packaging`."""
    file = ROOT / "book" / "results" / "likelihood.json"
    assert results("likelihood") == json.loads(file.read_text())
    with pytest.raises(FileNotFoundError, match="nothing_yet has not been measured yet: known are checkerboard"):
        results("nothing_yet")
