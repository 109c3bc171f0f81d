"""Picks and numbers are read leniently, and judged for what they say."""

from __future__ import annotations

import math

import pytest
import torch

from fmtutor.check._predictions import choose, number, read_number

HALVES = {"the second half": "second", "both halves": "both", "neither half": "neither"}
IMAGES = {"a new image": "new", "a mixture of training images": "mixture", "an average image": "average"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512", 512),
        ("0.25", 0.25),
        ("-1.84", -1.84),
        ("−1.84", -1.84),
        ("2e-3", 2e-3),
        ("1 - 1/e", 1 - 1 / math.e),
        ("1-e^-1", 1 - 1 / math.e),
        ("63 %", 0.63),
        ("63.2%", 0.632),
        ("63 percent", 0.63),
        ("63 per cent of the way.", 0.63),
        ("about 63 %", 0.63),
        ("10^2", 100),
        ("10**2", 100),
        ("100x", 100),
        ("100-fold", 100),
        ("1 000", 1000),
        ("1,000", 1000),
        ("0,632", 0.632),
        ("8 × 64", 512),
        ("512 passes", 512),
        ("1.84 nats.", 1.84),
        ("log(2 pi)", math.log(2 * math.pi)),
        ("ln(2π)", math.log(2 * math.pi)),
        ("math.log(2 * math.pi)", math.log(2 * math.pi)),
        ("0.5 log2(8)", 1.5),
        ("sqrt(2 ln 2)", math.sqrt(2 * math.log(2))),
        ("√(2 ln2)", math.sqrt(2 * math.log(2))),
        ("2√2", 2 * math.sqrt(2)),
        ("2ln2", 2 * math.log(2)),
        ("log2 8", 3),
        ("log 2.5", math.log(2.5)),
        ("ln(2) / 2", math.log(2) / 2),
        ("ln of 2", None),
        ("2e", 2 * math.e),
        ("`40`", 40),
        ("minus infinity", -math.inf),
        ("many", None),
        ("True", None),
        ("", None),
        ("1/0", None),
        ("9**9**9**9", None),
        ("log(-1)", None),
        ("__import__('os').getcwd()", None),
        ("().__class__", None),
        ("print(3)", None),
        ("x" * 10_000, None),
        ("(" * 500 + "1" + ")" * 500, None),
    ],
)
def test_numbers_as_text(text: str, value: float | None) -> None:
    got = read_number(text)
    assert got == value if value is None else got == pytest.approx(value)


def test_a_number_may_be_rounded_as_far_as_is_said_and_no_further() -> None:
    def wrong(answer: object) -> str | None:
        return number(answer, 1 - 1 / math.e, {"left": math.exp(-1)}, decimals=2, tolerance=5e-4)

    for answer in (0.63, 0.632, 0.6321, 0.63212, "63 %", torch.tensor([[0.6319]]), 1 - math.exp(-1)):
        assert wrong(answer) is None, answer
    for answer in (0.638, 0.634, 0.625, 0.64, 0.6):
        assert wrong(answer), answer
    assert wrong(0.37) == "left"
    assert "0.25, '25 %'" in (wrong("two thirds") or "")
    assert "True" in (wrong(True) or "")
    assert "shape (3,)" in (wrong(torch.ones(3)) or "")
    assert "a function: call it" in (wrong(lambda: 0.63) or "")
    assert "nan" in (wrong(math.nan) or "")
    assert "sign is wrong" in (wrong(-0.63) or "")
    assert "upside down" in (wrong(1 / 0.63) or "")
    assert "Very close" in (wrong(0.638) or "")


def test_a_number_is_not_given_away() -> None:
    assert "2" not in (number(3.0, 2.0, {}) or "2").replace("Off by 1", "")


@pytest.mark.parametrize(
    "answer", ["the first half", "first half", " The FIRST half. ", "first", "1st half", "'first half'"]
)
def test_one_pick_in_many_words(answer: str) -> None:
    assert choose(answer, "the first half", HALVES) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Second half!", "second"),
        ("both", "both"),
        ("neither", "neither"),
        ("none", "neither"),
        ("half", "Pick one"),
        ("first and second half", "Pick one"),
        ("not the second half", "Pick one"),
        ("not the first half", "Pick one"),
        ("", "Pick one"),
        (7, "Pick one of 'both halves', 'neither half', 'the first half', 'the second half'; you wrote '7'"),
        (print, "you gave a function"),
    ],
)
def test_another_pick_is_another_pick(answer: object, words: str) -> None:
    assert words in (choose(answer, "the first half", HALVES) or "passed")


def test_a_phrase_inside_another() -> None:
    same = {"copy": "", "exact": ""}
    for answer in ("training image", "a copy of a training image", "training images", "training"):
        assert choose(answer, "a training image", IMAGES, same) is None, answer
    assert choose("a mixture of some training images", "a training image", IMAGES, same) == "mixture"
    assert choose("mixture", "a training image", IMAGES, same) == "mixture"
    assert "Pick one" in (choose("image", "a training image", IMAGES, same) or "")
