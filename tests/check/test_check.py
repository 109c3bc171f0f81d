"""Every check passes the right answer in any form, tells typical mistakes apart, and waits for a first try.

The cases stand in `cases/`, one file per chapter with a table `CASES`; an exercise without a row fails here.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fmtutor import check
from fmtutor.check import _diagnose, _predictions
from fmtutor.check._card import Result
from fmtutor.images import digits

ROOT = Path(__file__).parents[2]
Cases = dict[str, tuple[Any, list[tuple[Any, str]], list[Any]]]


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
def test_right_answers_in_unusual_form_pass(name: str) -> None:
    others = CASES[name][2]
    assert len(others) >= 3
    for i, answer in enumerate(others):
        result = getattr(check, name)(answer)
        assert result, (i, result)


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_does_not_hang_on_the_points(name: str) -> None:
    right, wrong, _ = CASES[name]
    torch.manual_seed(1)
    assert getattr(check, name)(right)
    for answer, words in wrong:
        assert words in getattr(check, name)(answer).message, words


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_told_apart(name: str) -> None:
    """Each wrong answer gets its own message: its words are in that one and in no other."""
    wrong = CASES[name][1]
    results = [getattr(check, name)(answer) for answer, _ in wrong]
    assert len(wrong) >= 3
    for i, (_, words) in enumerate(wrong):
        assert results[i].status == "failed", (words, results[i])
        assert [words in result.message for result in results] == [i == j for j in range(len(wrong))], (words, results)
        assert not results[i].message.startswith("Off by up to"), results[i]
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
    before = torch.get_rng_state()
    getattr(check, name)(CASES[name][0])
    getattr(check, name)(CASES[name][1][0][0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_readers_default_dtype_and_no_grad_change_no_verdict(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        assert getattr(check, name)(CASES[name][0])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "two_point_floor" and callable(CASES[n][0])])
def test_numbers_kept_from_an_earlier_call_do_not_pass(name: str) -> None:
    """Its points are the one thing that `two_point_floor` has: 50 times, each with one right number."""
    kept: list[Any] = []

    def recording(*args: Any) -> Any:
        kept.append(CASES[name][0](*args))
        return kept[-1]

    assert getattr(check, name)(recording)
    torch.randn(1)  # the reader has gone on
    again = iter(2 * kept)
    assert not getattr(check, name)(lambda *args: next(again))


TABLES = [name for name in NAMES if callable(CASES[name][0])]


@pytest.mark.parametrize("name", TABLES)
def test_no_message_stands_in_the_shadow_of_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version in a check's table is met by its own message, and the right answer by none."""
    seen: list[tuple[Any, ...]] = []
    module = sys.modules[inspect.unwrap(getattr(check, name)).__module__]

    def recording(answer: Any, truth: Any, mistakes: Any, points: Any, **options: Any) -> str | None:
        seen.append((truth, mistakes, points, options))
        return _diagnose.diagnose(answer, truth, mistakes, points, **options)

    monkeypatch.setattr(module, "diagnose", recording)
    getattr(check, name)(CASES[name][0])
    (truth, mistakes, points, options), *_ = seen
    assert len(mistakes) >= 10
    for message, wrong in mistakes.items():
        for version in wrong if isinstance(wrong, tuple) else (wrong,):
            assert _diagnose.diagnose(version, truth, mistakes, points, **options) == message


@pytest.mark.parametrize("name", [n for n in NAMES if not callable(CASES[n][0])])
def test_every_message_about_a_number_has_a_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    module = sys.modules[inspect.unwrap(getattr(check, name)).__module__]

    def recording(answer: Any, right: float, mistakes: dict[str, Any], **options: Any) -> str | None:
        seen.append(mistakes)
        return _predictions.number(answer, right, mistakes, **options)

    monkeypatch.setattr(module, "number", recording, raising=False)
    told = {getattr(check, name)(answer).message for answer, _ in CASES[name][1]}
    assert not set().union(*map(set, seen)) - told


MISSABLE = [n for n in NAMES if (callable(r := CASES[n][0]) and not isinstance(r, type)) or isinstance(r, int | float)]


@pytest.mark.parametrize("name", MISSABLE)
def test_an_answer_that_is_nearly_right_is_wrong(name: str) -> None:
    """One in a hundred off, everywhere; two checks take what random pairs give, to 3 and to 2 in a hundred."""
    right, by = CASES[name][0], {"two_point_floor": 1.04, "largest_floor": 1.025}.get(name, 1.01)
    near = (lambda *args: by * torch.as_tensor(right(*args))) if callable(right) else by * right
    result = getattr(check, name)(near)
    assert result.status == "failed", result


def test_numbers_are_those_of_the_pages() -> None:
    """Exercise 2.6 of the catalogue is the sixth on the page of chapter 2, and asks for its check there."""
    on_the_pages = []
    for page in sorted((ROOT / "book").glob("[0-9][0-9]_*.md")):
        blocks = page.read_text().split("{exercise-start}")[1:]
        for number, block in enumerate(blocks, 1):
            asked = re.findall(r"^check\.(\w+)\(", block.partition("{exercise-end}")[0], re.M)
            assert asked, f"{page.name}: exercise {number} has no check"
            on_the_pages += [(int(page.name[:2]), number, name) for name in asked]
    assert [(entry.chapter, entry.number, entry.name) for entry in check.catalogue()] == on_the_pages


def test_known_wrong_numbers_that_lie_close_together_are_told_apart() -> None:
    """Right is 972.03. Within 1 % of bits, 1402.3, lies the sign of the logarithm, 1415.8; and so of the factor 1/2."""
    mistakes = {"bits": 1402.342, "sign": 1415.837}
    assert _predictions.number(1415.8, 972.03, mistakes, tolerance=0.005) == "bits"  # too wide
    assert _predictions.number(1415.8, 972.03, mistakes, tolerance=0.005, known=1e-3) == "sign"
    assert "Off by" in str(_predictions.number(1409.0, 972.03, mistakes, tolerance=0.005, known=1e-3))
    told = {text: check.unscaled_start(text).message for text in (1402.3, 1415.8, 1944.06, 1927.2, 1265.8, 955.2)}
    assert "bits" in told[1402.3]
    assert "sign" in told[1415.8]
    assert "Twice" in told[1944.06]
    assert "counted twice" in told[1927.2]
    assert "counted twice" in told[1265.8]
    assert "1.44" not in told[955.2]


def test_training_digits_by_few_hands_are_a_forgery_and_one_class_is_not() -> None:
    images, labels = digits("train")
    assert all(check.forgery(images[start : start + 200]) for start in (0, 400, 1152))  # in the order of the writers
    assert "there is no 3 among" in check.forgery(images[labels < 3][:300]).message
    bold = images[images.flatten(1).mean(1).argsort()[-200:]]
    assert not check.forgery(bold)
    assert "there is no 5 among" in check.forgery(images[labels < 5][:300]).message
    mirrored = torch.cat([images[:700], images[700:].flip(-1)])  # half of these were never scanned
    assert not check.forgery(mirrored)
    assert "same few images" in check.forgery(images[:150].repeat(2, 1, 1, 1)).message
    assert "NaN" in check.forgery(images / 0).message


def test_letters_and_numbers_may_be_written_in_other_ways() -> None:
    for answer in ("a, c and e", "a/c/e", "A & C & E", "`a` `c` `e`"):
        assert check.same_field(answer), answer
    assert "(3 of the six" in check.same_field("all").message
    assert "None of them" in check.same_field("none").message
    assert "a median of theirs" in check.same_field({"a": True, "b": True, "c": True, "e": True}).message
    assert "gave a function" in check.same_field(lambda: "ace").message
    assert "you gave a function" in check.perfect_fit(print).message
    for answer in (torch.tensor([60]), torch.tensor(60, dtype=torch.int32), 60.0):
        assert check.model_calls(answer), answer
    assert not check.model_calls(torch.tensor(True))


@pytest.mark.parametrize("root", [lambda v: v**0.5, lambda v: v**0.5 if v >= 0 else complex(0, (-v) ** 0.5)])
def test_the_root_of_a_negative_number_is_told_by_its_sign(root: Any) -> None:
    """Python's own root of it is a complex number, in a list and alone."""
    told = check.ddpm_noise(lambda t: [root(2 * (s - 1) / s) for s in t.tolist()])
    assert "The sign is turned" in told.message
    for answer in (root(2 * math.log(0.5)), torch.tensor(2 * math.log(0.5)).sqrt()):
        assert "root of a negative" in check.halving_noise(answer).message
    assert check.ddpm_noise(lambda t: [root(2 * (1 - s) / s) for s in t.tolist()])
    assert check.halving_noise(root(2 * math.log(2)))
