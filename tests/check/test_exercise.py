"""What all checks share: blanks, errors, cards, the catalogue, and mistakes that need no table to be seen."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from fmtutor import check
from fmtutor.check._card import Result
from fmtutor.check._diagnose import agrees, diagnose
from fmtutor.check._exercise import EXERCISES, exercise


@pytest.fixture
def square():
    """A toy exercise, taken out of the catalogue again."""

    @exercise(chapter=99, number=1, right="yes")
    def square(answer: Any) -> str | None:
        """Write the square of `x`.

        More words.
        """
        points = [(torch.linspace(-1, 2, 7),)]
        return diagnose(answer, lambda x: x**2, {"twice, not squared": lambda x: 2 * x}, points)

    yield square
    EXERCISES.pop()


def test_a_missing_return_is_said(square) -> None:
    def forgetful(x):
        y = x**2  # noqa: F841

    def shy(x):
        print(x**2)

    def described(x):
        """Only described so far."""

    assert "returned None" in square(forgetful).message
    assert "returned None" in square(shy).message
    assert square(described).status == "pending"


def test_pending_when_dots_stand_inside_the_body(square) -> None:
    def halfway(x):
        factor = ...
        return x * factor

    assert square(halfway).status == "pending"
    assert square(lambda x: torch.tensor(...)).status == "pending"
    assert square(lambda x: (x, ...)).status == "pending"


def test_a_forgotten_return_and_a_way_out_are_said(square) -> None:
    def forgotten(x):
        x * x

    def told(x):
        """Only what it is for."""

    assert "is a `return` missing" in square(forgotten).message
    assert square(told).status == "pending"
    assert "SystemExit" in square(lambda x: sys.exit()).message
    assert "single ellipsis" in square(lambda x: x.numpy()[..., ...]).message  # an error of its own, no blank


def test_an_answer_that_is_nearly_right_is_told_so(square) -> None:
    assert "Very close: yours is 1.01 times" in square(lambda x: 1.01 * x * x).message


def test_errors_are_shown_with_their_line(square) -> None:
    def broken(x):
        y = x[:, None]
        return y @ x.reshape(2, 2)

    result = square(broken)
    assert result.status == "failed"
    assert "RuntimeError" in result.message
    assert "return y @ x.reshape(2, 2)" in result.message
    assert "`x` (7,)" in result.message
    assert "TypeError" in square(lambda x, y: x).message
    assert "ZeroDivisionError" in repr(square(lambda x: 1 / 0))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: 2 * x, "twice"),
        (lambda x: x[:, None] ** 2, "shape (7, 1)"),
        (lambda x: (x**2).sum(), "shape ()"),
        (lambda x: x**2 / (x * 0), "NaN or infinite in 7 of 7"),
        (lambda x: (x**2).long(), "torch.int64"),
        (lambda x: "x", "a str"),
        (lambda x: torch.square, "a function: call it"),
        (3.0, "A function is wanted here, you gave a float"),
        (3, "you gave an int"),
        (lambda x: (x[:3], x[3:]), "a tuple of 2: is a `torch.cat` missing"),
        (lambda x: x[:, None] * x, "everything met everything"),
        (lambda x: torch.stack([x, x], 1), "still to be summed"),
        (lambda x: x**2 + (x > 1.9), "Right at 6 of 7 places, and off by up to 1"),
        (lambda x: x**2 + 0.01 * x, "Very close"),
        (lambda x: x**2 + torch.rand(()), "draws random numbers"),
        (lambda x: -(x**2), "sign is wrong"),
        (lambda x: 3 * x**2, "3 times"),
        (lambda x: x**2 + 0.5, "+0.5"),
        (lambda x: x**3, "furthest off at `x` = 2: yours is 8, right is 4"),
    ],
)
def test_generic_mistakes(square, answer: Any, words: str) -> None:
    result = square(answer)
    assert result.status == "failed"
    assert words in result.message


def test_numpy_answers_and_answers_that_overwrite_their_input_pass(square) -> None:
    assert square(lambda x: x.numpy() ** 2)
    assert square(lambda x: x.mul_(x))


def test_the_tolerance_is_what_it_says() -> None:
    """An error of nine tenths of the tolerance passes, of eleven tenths does not, on large and small values."""
    x = torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64)
    size = math.sqrt(25 / 3)
    for at, scale in ((0, size), (2, 4.0)):
        for share, right in ((0.9, True), (1.1, False), (1.9, False)):
            error = torch.zeros(3, dtype=torch.float64)
            error[at] = share * 1e-3 * scale
            assert agrees(lambda x, error=error: x + error, lambda x: x, [(x,)], 1e-3) is right, (at, share)


def test_an_infinite_mistake_is_met_by_itself_only() -> None:
    table = {"all infinite": lambda x: x / 0.0}
    points = [(torch.tensor([1.0, 2.0]),)]
    assert diagnose(lambda x: x / 0, lambda x: x, table, points) == "all infinite"
    assert diagnose(lambda x: x + 1, lambda x: x, table, points) != "all infinite"


def test_an_argument_that_is_not_used_is_named() -> None:
    points = [(torch.tensor(t), torch.randn(4)) for t in (0.2, 0.5, 0.7)]

    def said(answer: Any) -> str:
        return diagnose(answer, lambda t, x: t * x, {}, points) or ""

    assert "no notice of `t`" in said(lambda t, x: 0.3 * x)
    assert "no notice of `t`" in said(lambda t, x: torch.rand(()) * x)
    assert "no notice of `x`" in said(lambda t, x: t * torch.ones(4))
    assert "takes `(x, t)`, and it is called with `(t, x)`" in said(lambda x, t: t**2 * x)
    assert "takes `(x, t)`" in said(lambda x, t: x[:, None] * t)  # an error, and the reason for it
    assert "notice" not in said(lambda t, x: t * x + t)


def test_a_column_will_do_where_rows_are_counted() -> None:
    points = [(torch.randn(5, 2),)]
    for answer in (lambda x: x.sum(1, keepdim=True), lambda x: x.sum(1).tolist()):
        assert diagnose(answer, lambda x: x.sum(1), {}, points, rows=True) is None
    assert "one axis too many" in (diagnose(lambda x: x.sum(1, keepdim=True), lambda x: x.sum(1), {}, points) or "")
    assert diagnose(lambda x: x.sum(1)[None], lambda x: x.sum(1), {}, points, rows=True)


def test_parameters_that_have_to_be_named_are_filled_in_their_order() -> None:
    @exercise(chapter=99, number=1)
    def power(answer: Any) -> str | None:
        """Write `power(x, n)`."""
        return diagnose(answer, lambda x, n: x**n, {}, [(torch.linspace(1, 2, 4), n) for n in (2, 3)])

    EXERCISES.pop()
    assert power(lambda *, x, n: x**n)
    assert power(lambda x, *, n, verbose=False: x**n)
    assert "in this order" in power(lambda *, n, x: x**n).message


def test_cards() -> None:
    for result, status in [
        (Result(True, "a < b, `x1 - x`", "name"), "passed"),
        (Result(False, "a < b", "name"), "failed"),
        (Result(False, "not attempted yet", "name", pending=True), "pending"),
    ]:
        card = result._repr_html_()
        assert f'class="fmtutor-check fmtutor-check-{status}"' in card
        assert "a < b" not in card
        assert bool(result) is (status == "passed")
        assert "\n" not in repr(result)
        assert ".text_html:has(> .fmtutor-check) { background: none" in card  # readable on a dark page
    assert "<code>x1 - x</code>" in Result(True, "`x1 - x`")._repr_html_()
    assert repr(Result(False, "not attempted yet", "name", pending=True)) == "… name: not attempted yet"


def test_catalogue(square) -> None:
    table = check.catalogue()
    assert [entry.chapter for entry in table] == sorted(entry.chapter for entry in table)
    assert "99.1  check.square" in repr(table)
    assert "2.6  check.fresh_probes" in repr(table)
    assert [entry.place for entry in table if entry.chapter == 3] == ["3.1", "3.2", "3.3", "3.4"]
    assert "<td>2.6</td><td><code>check.fresh_probes</code>" in table._repr_html_()
    assert "Write the square of `x`." in repr(table)
    assert "More" not in repr(table)
    assert "<code>check.square</code>" in table._repr_html_()


def test_import_needs_no_drawing_library() -> None:
    code = "import fmtutor.check, sys; print([m for m in ('ipywidgets', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
