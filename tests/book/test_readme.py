"""The README: its program runs as it stands and is the book's, and its measured table is what was measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

sys.path.insert(0, str(ROOT / "benchmarks"))
from checkerboard import MARK, into_readme, table  # noqa: E402


def program(text: str) -> str:
    """The one-screen program in a text: its first Python block, or cell that runs, that imports fmtutor."""
    return next(b for b in re.findall(r"```(?:python|\{code-cell\} ipython3)\n(.*?)```", text, re.S) if "fmtutor" in b)


def test_the_program_runs_as_written_and_is_close_to_the_truth() -> None:
    torch.manual_seed(0)
    names: dict[str, torch.Tensor] = {}
    exec(program(README), names)
    assert names["samples"].shape == (10_000, 2)
    assert not names["gap"].requires_grad  # a number, not ten gigabytes of graph
    # The standard error of the gap is 0.003 nats, and it differs by 0.005 from seed to seed.
    assert 0.05 < names["gap"].item() <= 0.14


def test_the_landing_page_runs_the_same_program() -> None:
    page = (ROOT / "book" / "index.md").read_text()
    assert program(page) == program(README)
    assert "```python" not in page  # what is shown is what runs


def test_every_file_that_the_readme_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_is_planned_is_what_is_missing() -> None:
    written = {int(number) for number in re.findall(r"file: (\d\d)_", (ROOT / "_toc.yml").read_text())}
    for text in (README, (ROOT / "book" / "index.md").read_text()):
        line = re.search(r"^(Planned|The book is growing).*", text, re.M)
        planned = {int(number) for number in re.findall(r"\((\d+)\)", line.group())} if line else set()
        assert written | planned == set(range(1, 14))
        assert not written & planned


def test_the_table_is_what_was_measured() -> None:
    results = ROOT / "book" / "results" / "checkerboard.json"
    if not results.exists():
        pytest.skip("benchmarks/checkerboard.py has not been run yet")
    result = json.loads(results.read_text())
    assert into_readme(README, result) == README
    assert {"command", "date", "commit", "machine"} <= set(result)
    result["measured"][0]["gaps"][0] += 0.1  # a number typed by hand is noticed
    assert into_readme(README, result) != README


def test_every_part_of_the_program_earns_its_keep() -> None:
    results = ROOT / "book" / "results" / "checkerboard.json"
    if not results.exists():
        pytest.skip("benchmarks/checkerboard.py has not been run yet")
    rows = json.loads(results.read_text())["measured"]
    mean = {row["what"]: sum(row["gaps"]) / len(row["gaps"]) for row in rows}
    whole = mean["the program as it stands, 2 000 steps"]
    assert whole <= 0.14
    assert all(mean[what] > 1.2 * whole for what in mean if "Fourier" in what)
    assert mean["with times drawn uniformly"] > whole
    # Either a falling learning rate or an average of the weights will do; it is the loss of both that costs.
    assert mean["with a constant learning rate and without EMA"] > 1.2 * whole
    assert min(mean.values()) <= 0.06  # the long run
    assert table(json.loads(results.read_text())) in README.split(MARK)[1]


def test_the_clothes_of_the_readme_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.S) if "pretrained" in b)
    names: dict[str, torch.Tensor] = {}
    exec(block, names)
    assert names["sneakers"].shape == (16, 1, 28, 28)
    assert (tmp_path / "sneakers.png").stat().st_size > 1000
