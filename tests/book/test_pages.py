"""What the pages say: minutes that fit their lengths, exercises by their full numbers, hints, terms in order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from fmtutor import results

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


LINK = re.compile(r"\{test\}`[^`<]*<(\w+)>`")
HERE = Path(__file__).parent


def names_in(paths: Iterable[Path]) -> list[str]:
    return [name for path in paths for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)]


def test_every_linked_test_exists_once() -> None:
    """And each link has words of its own, so that no page shows the bare name."""
    defined = names_in(HERE.parent.rglob("test_*.py"))
    for page in sorted(BOOK.glob("*.md")):
        text = page.read_text()
        linked = LINK.findall(text)
        assert len(linked) == text.count("{test}"), page.name
        assert {name: defined.count(name) for name in linked} == dict.fromkeys(linked, 1), page.name


def test_the_errata_name_every_test_of_an_erratum() -> None:
    linked = set(LINK.findall((BOOK / "errata.md").read_text()))
    tests = set(names_in(HERE.glob("test_errata*.py")))
    assert len(tests) > 25
    assert tests - linked == set()


def test_every_erratum_says_where_what_is_right_and_which_test() -> None:
    entries = re.findall(r"^### ([A-Z])(\d+)\. .+?\n\n(.*?)(?=^##)", (BOOK / "errata.md").read_text(), re.S | re.M)
    numbers: dict[str, list[int]] = {}
    for kind, number, text in entries:
        numbers.setdefault(kind, []).append(int(number))
        said = re.findall(r"^- \*\*(\w+)\.\*\*", text, re.M)
        assert said == (["Said", "Right"] if kind == "B" else ["Where", "There", "Right"]), (kind, number)
        assert LINK.search(text), (kind, number)
    assert list(numbers) == list("NLCBO")
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_the_names_of_other_code_are_tested() -> None:
    linked = set(LINK.findall((BOOK / "notation.md").read_text()))
    assert set(names_in([HERE.parent / "test_names_elsewhere.py"])) == linked


def test_what_chapter_5_says_of_its_long_study_is_in_its_numbers() -> None:
    """The order of the paths in nats, in evaluations and in few steps; a shift by one row would break each of them."""
    study = results("paths")["measured"]
    rows = {row["what"].split(" (")[0]: row for row in study["rows"]}
    nats = {name: torch.tensor(row["kl"], dtype=torch.float64) for name, row in rows.items()}

    def below(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """How far one mean lies below the other, in standard errors of the difference."""
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        return (other.mean(0) - one.mean(0)) / error

    assert (below(nats["cosine"], nats["linear"]) > 2).all()
    early = below(nats["VP"], nats["linear"])  # at 250, 500, 1 000, 2 000, 4 000 and 8 000 steps
    assert (early[:4] > 1).all()
    assert (early[[0, 2]] > 2).all()
    assert abs(early[-1]) < 1
    last = {name: kl.mean(0)[-1] for name, kl in nats.items()}
    first = {name: kl.mean(0)[0] for name, kl in nats.items()}
    exact = {name: sum(row["to_exact"]) for name, row in rows.items()}
    assert "VP, score matching" in sorted(last, key=last.__getitem__)[:3]
    assert max(exact, key=exact.__getitem__) == "VP, score matching"
    assert min(last, key=last.__getitem__) == max(first, key=first.__getitem__) == "VE"
    looks = {name: sum(row["nfe"]) for name, row in rows.items()}
    assert looks["linear"] == min(looks.values())
    assert looks["linear"] < looks["cosine"] < looks["VP"] < looks["VP, score matching"]
    for n in ("4", "8", "16", "32"):
        few = {name: sum(row["off"]["euler"][n]) for name, row in rows.items()}
        assert few["cosine"] < few["VP"] < few["linear"] < few["VE"]
    apart = dict(zip(study["apart"]["names"], study["apart"]["rms"], strict=True))
    seeds = max(apart[name][k] for k, name in enumerate(("linear (conditional OT)", "cosine", "VP")))
    assert max(apart["linear (conditional OT)"][1:3] + apart["cosine"][2:3]) < seeds
    damped = {row["what"]: torch.tensor(row["kl"])[:, None] for row in study["damping"]}
    gains = {
        name: below(damped[name], damped[f"{name}, waves damped by 1 - t"]).item() for name in ("cosine", "VP", "VE")
    }
    assert gains["cosine"] < 2 < gains["VP"] < gains["VE"]
