"""Every check passes the right answer, tells three typical mistakes apart or more, and waits for a first try.

The cases stand in `cases/`, one file per chapter with a table `CASES`; an exercise without a row fails here.
"""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fmtutor import check
from fmtutor.check._card import Result
from fmtutor.check._diagnose import choose, diagnose
from fmtutor.check._exercise import EXERCISES, exercise
from fmtutor.images import digits

Cases = dict[str, tuple[Any, list[tuple[Any, str]]]]


def load(path: Path) -> Cases:
    spec = importlib.util.spec_from_file_location(f"check_cases_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


FILES = sorted((Path(__file__).parent / "cases").glob("[!_]*.py"))
CASES: Cases = {name: case for path in FILES for name, case in load(path).items()}
NAMES = [entry.name for entry in check.catalogue()]


def test_every_exercise_has_a_row() -> None:
    assert sorted(CASES) == sorted(NAMES)
    assert len(NAMES) == len(set(NAMES))
    assert all(hasattr(check, name) and name in check.__all__ for name in NAMES)
    assert all(inspect.signature(getattr(check, name)).return_annotation is Result for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_right_answer_passes(name: str) -> None:
    result = getattr(check, name)(CASES[name][0])
    assert (bool(result), result.status) == (True, "passed"), result


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_told_apart(name: str) -> None:
    """Each wrong answer gets its own message: its words are in that one and in no other."""
    wrong = CASES[name][1]
    results = [getattr(check, name)(answer) for answer, _ in wrong]
    assert len(wrong) >= 3
    for i, (_, words) in enumerate(wrong):
        assert results[i].status == "failed", (words, results[i])
        assert [words in result.message for result in results] == [i == j for j in range(len(wrong))], (words, results)
        assert "Your code raised" not in results[i].message or words.startswith("Your code raised"), results[i]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_not_tried_waits(name: str) -> None:
    def unwritten(*args: Any) -> Any: ...

    answers = [..., None]
    if callable(CASES[name][0]) and not isinstance(CASES[name][0], type | torch.nn.Module):
        answers += [unwritten, lambda *args: ...]
    for answer in answers:
        result = getattr(check, name)(answer)
        assert (result.status, bool(result)) == ("pending", False), (answer, result)
        assert result.message == "not attempted yet"


@pytest.mark.parametrize("name", NAMES)
def test_a_check_leaves_the_readers_random_numbers_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    getattr(check, name)(CASES[name][0])
    assert torch.equal(torch.randn(4), expected)


@pytest.fixture
def square():
    """A toy exercise, taken out of the catalogue again."""

    @exercise(chapter=99, right="yes")
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


def test_training_digits_by_few_hands_are_a_forgery_and_one_class_is_not() -> None:
    images, labels = digits("train")
    assert all(check.forgery(images[start : start + 200]) for start in (0, 400, 1152))  # in the order of the writers
    few = images[labels < 3]
    assert "Seen through" in check.forgery(few[:300]).message
    assert "there is no 5 among" in check.forgery(images[labels < 5][:300]).message
    mirrored = torch.cat([images[:700], images[700:].flip(-1)])  # half of these were never scanned
    assert not check.forgery(mirrored)
    assert "same few images" in check.forgery(images[:150].repeat(2, 1, 1, 1)).message
    assert "NaN" in check.forgery(images / 0).message


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


def test_letters_and_numbers_may_be_written_in_other_ways() -> None:
    for answer in ("a, c and e", "a/c/e", "A & C & E", numpy.array(["a", "c", "e"])):
        assert check.same_field(answer), answer
    assert "gave a function" in check.same_field(lambda: "ace").message
    assert "you gave a function" in check.perfect_fit(print).message
    for answer in (torch.tensor([40]), torch.tensor(40, dtype=torch.int32), 40.0):
        assert check.model_calls(answer), answer
    assert not check.model_calls(torch.tensor(True))


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
        (3.0, "A function is wanted"),
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


def test_values_without_points() -> None:
    assert diagnose(2, 2.0, {}) is None
    assert diagnose(4.0, 2.0, {"half": 1.0, "double": 4.0}) == "double"
    assert "Off by" in (diagnose(3.0, 2.0, {"double": 4.0}) or "")
    assert "2" not in (diagnose(3.0, 2.0, {}) or "2").replace("Off by 1", "")  # a number is not given away


def test_choose() -> None:
    assert choose(" Between ", "between", {"zero": "no"}) is None
    assert choose("zero", "between", {"zero": "no"}) == "no"
    assert "'between', 'zero'" in (choose(7, "between", {"zero": "no"}) or "")


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
    assert "check.square" in repr(table)
    assert "Write the square of `x`." in repr(table)
    assert "More" not in repr(table)
    assert "<code>check.square</code>" in table._repr_html_()


def test_import_needs_no_drawing_library() -> None:
    code = "import fmtutor.check, sys; print([m for m in ('ipywidgets', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
