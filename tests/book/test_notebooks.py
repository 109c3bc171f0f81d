"""The readers' notebooks: one for each page with code, readable, and exactly what the pages say."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("pybtex")
ROOT = Path(__file__).resolve().parents[2]
EXT = ROOT / "book" / "_ext"
sys.path.insert(0, str(EXT))

import make_notebooks  # noqa: E402
from myst_blocks import parse  # noqa: E402
from myst_index import Book, places_of_tests  # noqa: E402

# What only Sphinx understands: directives, roles, labels, options, block breaks, attributes, the book's own macros.
RAW = {
    "directive": re.compile(r"^\s*(`{3,}|:{3,})\s*\{[\w:.+-]+\}", re.M),
    "role": re.compile(r"\{[a-zA-Z][\w:+-]*\}`"),
    "label": re.compile(r"^\([^()\s]+\)=\s*$", re.M),
    "equation label": re.compile(r"\$\$\s*\([\w:.-]+\)\s*$", re.M),
    "option": re.compile(r"^\s*:[\w-]+:(\s|$)", re.M),
    "break": re.compile(r"^\+\+\+|^% ", re.M),
    "attribute": re.compile(r"\]\{\.[\w-]+\}"),
    "macro": re.compile(r"\\(noise|data|vel|model|floor|KL|Var|Normal|class)\b"),
}
# Code is code, whatever it says: a fence with a language, and a span that no role stands before.
CODE = re.compile(r"^```\w+\n.*?^```$|(?<![`}])(`{1,2})(?!`).+?(?<!`)\1(?!`)", re.S | re.M)


def raw_syntax(source: str) -> list[str]:
    """The kinds of raw syntax in a Markdown cell."""
    source = CODE.sub("", source)
    return [kind for kind, pattern in RAW.items() if pattern.search(source)]


def book() -> Book:
    return Book(ROOT)


def with_code() -> list[str]:
    """Counted by a second route: the pages of the table of contents in which a code cell opens."""
    toc = (ROOT / "_toc.yml").read_text()
    names = re.findall(r"^(?:root|\s*- file): (\S+)", toc, re.M)
    return [n for n in names if "```{code-cell}" in (ROOT / "book" / f"{n}.md").read_text()]


def saved() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_is_one_notebook_for_each_page_with_code() -> None:
    names = with_code()
    assert len(names) >= 4
    assert [path.stem for path in saved()] == sorted(names)


def test_the_notebooks_are_what_the_pages_say() -> None:
    assert make_notebooks.main(["--check"]) == 0
    assert make_notebooks.notebooks(ROOT) == make_notebooks.notebooks(ROOT), "two runs give two results"


@pytest.mark.parametrize("path", saved(), ids=lambda path: path.stem)
def test_every_cell_is_readable(path: Path) -> None:
    transform = pytest.importorskip("IPython.core.inputtransformer2").TransformerManager().transform_cell
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {"name": "python3", "language": "python", "display_name": "Python 3"}
    first = notebook.cells[0]
    assert first.cell_type == "code"
    assert f"fmtutor @ git+{book().repository}" in first.source
    assert re.search(r"^try:\n    import fmtutor\nexcept ModuleNotFoundError:\n    %pip install", first.source, re.M)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            ast.parse(transform(cell.source))
        else:
            assert raw_syntax(cell.source) == [], cell.source


def test_exercises_are_live_and_solutions_are_folded() -> None:
    for page in book().pages.values():
        if not page.has_code:
            continue
        blocks = [part for block in page.blocks for part in block.walk()]
        notebook = nbformat.read(ROOT / "notebooks" / f"{page.name}.ipynb", as_version=4)
        solutions = [c for c in notebook.cells if c.source.startswith("<details>\n<summary><b>Solution to Exercise")]
        assert len(solutions) == sum(block.kind == "solution" for block in blocks)
        assert all(cell.cell_type == "markdown" for cell in solutions)
        live = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
        assert len(live) == sum("exercise" in (block.options.get("tags") or []) for block in blocks)
        assert not any("solution" in cell.metadata.get("tags", []) for cell in notebook.cells)


def test_a_page_gets_a_gpu_where_it_asks_for_one() -> None:
    for page in book().pages.values():
        if page.has_code:
            metadata = nbformat.read(ROOT / "notebooks" / f"{page.name}.ipynb", as_version=4).metadata
            assert metadata.get("accelerator") == (page.meta.get("fmtutor") or {}).get("accelerator")
            assert metadata.colab.name == f"{page.name}.ipynb"
    assert nbformat.read(ROOT / "notebooks" / "08_images.ipynb", as_version=4).metadata.accelerator == "GPU"


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("directive", "Look:\n\n```{prf:theorem} Bayes\nText\n```"),
        ("directive", "::::{grid}\n::::"),
        ("role", "as in {cite:t}`lipman2023flow`"),
        ("role", "see {prf:ref}`thm`"),
        ("label", "(the-path)=\n## The path"),
        ("equation label", "$$ a $$ (eq-a)"),
        ("option", ":label: floor\nText"),
        ("break", "one\n\n+++\n\ntwo"),
        ("attribute", "[noise]{.fm-noise}"),
        ("macro", r"$\noise{x}$"),
    ],
)
def test_the_search_finds_what_is_planted(kind: str, source: str) -> None:
    assert kind in raw_syntax(source)


def tiny(root: Path, body: str) -> Path:
    """A book of one chapter, with the real configuration and bibliography."""
    (root / "book").mkdir(parents=True)
    for name in ("_config.yml", "pyproject.toml", "book/references.bib"):
        (root / name).write_text((ROOT / name).read_text())
    (root / "_toc.yml").write_text("format: jb-book\nroot: 03_page\n")
    (root / "book" / "03_page.md").write_text(f"---\nkernelspec: {{name: python3}}\n---\n# Page\n\n{body}")
    return root


def test_every_form_a_chapter_uses_becomes_markdown(tmp_path: Path) -> None:
    body = r"""
(here)=
## Here
As {cite:t}`albergo2023building` and {cite}`lipman2023flow,vincent2011connection` say, {prf:ref}`t`, {eq}`e`,
{ref}`here`, [noise]{.fm-noise}, `{code}` and {py:class}`~fmtutor.paths.AffinePath`.

$$
\noise{x_t} = \E[\data{\tfrac{1}{2} x}]
$$ (e)

```{prf:theorem} A name
:label: t
One $\KL(p, q)$.
```
````{prf:proof}
:class: dropdown
Word.

```{math}
a = b
```
````
:::{admonition} Predict
What?
:::
```{exercise-start} The floor
:label: floor
```
Question.
```{code-cell} ipython3
:tags: [exercise]
floor = ...
```
```{exercise-end}
```
```{solution-start} floor
:class: dropdown
```
Because.
```{code-cell} ipython3
:tags: [solution]
floor = 1
```
```{solution-end}
```
"""
    made = make_notebooks.notebooks(tiny(tmp_path, body))
    cells = nbformat.reads(made["03_page.ipynb"], as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells[1:])
    for wanted in (
        "# 3. Page",
        "[Albergo and Vanden-Eijnden (2023)](https://arxiv.org/abs/2209.15571)",
        "([Lipman et al., 2023](https://arxiv.org/abs/2210.02747); Vincent, 2011)",
        "Theorem 3.1, (3.1),\nHere,",
        "`{code}` and `AffinePath`",
        r"{\color{#56B4E9}{x_t}} = \mathbb{E} [{\color{#E69F00}{\tfrac{1}{2} x}}] \tag{3.1}",
        r"**Theorem 3.1 (A name).** One $\operatorname{KL} (p, q)$.",
        "<details>\n<summary><b>Proof</b></summary>\n\nWord.\n\n$$\na = b\n$$\n\n∎\n\n</details>",
        "**Predict.** What?",
        "#### Exercise 3.1 (The floor)\n\nQuestion.",
        "<summary><b>Solution to Exercise 3.1</b></summary>\n\nBecause.\n\n```python\nfloor = 1\n```\n\n</details>",
        "## References",
    ):
        assert wanted in text, f"{wanted!r} is not in\n{text}"
    assert [raw_syntax(cell.source) for cell in cells if cell.cell_type == "markdown"] == [[]] * 7


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("```{youtube} abc\n```\n```{code-cell}\n1\n```", "no way to write {youtube}"),
        ("{emphasis}`a`\n\n```{code-cell}\n1\n```", "no way to write the role {emphasis}"),
        ("{ref}`nowhere`\n\n```{code-cell}\n1\n```", "nowhere"),
        ("```{exercise-start}\n:label: a\n```\n```{code-cell}\n1\n```", "has no end"),
        ("```{code-cell}\n1", "never closed"),
    ],
)
def test_what_cannot_be_written_stops_the_run(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_notebooks.notebooks(tiny(tmp_path, body))


def test_a_stale_notebook_is_noticed_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tiny(tmp_path, "```{code-cell}\n1\n```")
    assert make_notebooks.main([], root) == 0
    assert make_notebooks.main(["--check"], root) == 0
    path = root / "notebooks" / "03_page.ipynb"
    path.write_text(path.read_text().replace("# 3. Page", "# Edited by hand"))
    (root / "notebooks" / "gone.ipynb").write_text("{}")
    assert make_notebooks.main(["--check"], root) == 1
    assert "03_page.ipynb is not what its chapter says" in capsys.readouterr().err
    assert make_notebooks.main([], root) == 0
    assert not (root / "notebooks" / "gone.ipynb").exists()
    assert make_notebooks.main(["--check"], root) == 0


def test_formulas_are_written_so_that_every_reader_shows_them(tmp_path: Path) -> None:
    """One that opens a statement stands on lines of its own, and no space comes before a closing dollar."""
    statement = "```{prf:definition} A name\n:label: name\n$$\na = b\n$$\n```\n\nHere $\\div$ and $\\d$."
    made = make_notebooks.notebooks(tiny(tmp_path, f"```{{code-cell}}\n1\n```\n\n{statement}\n"))
    text = "\n\n".join(cell.source for cell in nbformat.reads(made["03_page.ipynb"], as_version=4).cells)
    assert "**Definition 3.1 (A name).**\n\n$$\na = b\n$$" in text, text
    assert r"Here $\operatorname{div}$ and $\mathrm{d}$." in text, text


def test_a_link_to_a_test_leads_to_the_repository(tmp_path: Path) -> None:
    root = tiny(tmp_path, "```{code-cell}\n1\n```\n\nSee {test}`that <test_there>`.\n")
    with pytest.raises(ValueError, match="'test_there' stands in no file"):
        make_notebooks.notebooks(root)
    places_of_tests.cache_clear()
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text("def test_there() -> None: ...\n")
    made = make_notebooks.notebooks(root)["03_page.ipynb"]
    assert f"See [that]({Book(root).repository}/blob/main/tests/test_it.py)." in made


def test_a_role_inside_code_is_left_alone() -> None:
    assert importlib.util.find_spec("myst_inline")
    (block,) = parse("Write `` {cite}`key` `` so.")
    from myst_inline import Inline

    any_book = book()
    assert Inline(any_book, next(iter(any_book.pages.values())))(block.text) == "Write `` {cite}`key` `` so."
