"""What the pages say: minutes that fit their lengths, exercises by their full numbers, hints, terms in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = {path.stem: path.read_text() for path in sorted(BOOK.glob("[0-9][0-9]_*.md"))}
CELL = re.compile(r"^```\{code-cell\}.*?^```$", re.S | re.M)


def minutes(text: str) -> tuple[float, float]:
    """To read a chapter at 200 words and 20 lines of code a minute, and with ten for each exercise."""
    body, exercises = text.split("\n## Exercises\n")
    lines = sum(len(cell.splitlines()) for cell in CELL.findall(body))
    read = len(CELL.sub("", body).split()) / 200 + lines / 20
    return read, read + 10 * exercises.count("{exercise-start}")


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_landing_page_says_how_long_a_chapter_takes(name: str) -> None:
    page = (BOOK / "index.md").read_text()
    row = re.search(rf"^\| \d+\. \{{doc\}}`{name}` .*\| (\d+) min \| (\d+) min \|$", page, re.M)
    assert row, name
    for said, counted in zip(row.groups(), minutes(CHAPTERS[name]), strict=True):
        assert abs(int(said) - counted) <= max(5, 0.15 * counted), (said, counted)


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_exercise_is_named_by_its_full_number(name: str) -> None:
    chapter = str(int(name[:2]))
    assert re.findall(r"\bexercise \d+(?!\.?\d)", "see exercise 2 or exercise 2.6", re.I) == ["exercise 2"]
    assert re.findall(r"\bexercise \d+(?!\.?\d)", CHAPTERS[name], re.I) == []
    count = CHAPTERS[name].count("{exercise-start}")
    own = [int(n) for c, n in re.findall(r"\bexercise (\d+)\.(\d+)", CHAPTERS[name], re.I) if c == chapter]
    assert all(1 <= number <= count for number in own)


@pytest.mark.parametrize("name", CHAPTERS)
def test_between_an_exercise_and_its_solution_stands_a_folded_hint(name: str) -> None:
    between = re.findall(r"^```\{exercise-end\}\n```\n(.*?)^```\{solution-start\}", CHAPTERS[name], re.S | re.M)
    assert len(between) == CHAPTERS[name].count("{exercise-start}")
    hint = re.compile(r"^```\{admonition\} (A first hint|A second hint|Hint)\n:class: dropdown$", re.M)
    assert all(1 <= len(hint.findall(text)) <= 2 for text in between)


def test_the_glossary_is_in_order_and_names_nothing_twice() -> None:
    table = (BOOK / "notation.md").read_text().split("| English | 中文 | in one line |\n|---|---|---|\n")[1]
    terms = [row.split(" | ")[0][2:].lower().replace("–", "-") for row in table.strip().split("\n")]
    assert terms == sorted(set(terms))
