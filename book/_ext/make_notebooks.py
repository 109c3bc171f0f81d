"""Writes `notebooks/NAME.ipynb` from every page of the book that has code; `--check` says whether they are up to date.

A notebook is the page as a reader runs it: exercises live, solutions folded, no outputs, and nothing in any cell
that only Sphinx understands. A directive or a role that has no readable form here stops the run, so that none slips by.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
from myst_blocks import Block
from myst_index import HEADING, Book, Page
from myst_inline import Inline

ROOT = Path(__file__).resolve().parents[2]
INSTALL = """\
# Installs what is missing, as on Colab, and does nothing elsewhere.
try:
    import fmtutor
except ModuleNotFoundError:
    %pip install --quiet "fmtutor @ git+{repository}"
"""
ADMONITIONS = {"note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error", "seealso"}
PAGE_ONLY = {"toctree", "tableofcontents", "bibliography", "raw", "eval-rst", "image-gallery"}
PLAIN = {"div", "margin", "sidebar", "container", "grid", "grid-item", "card", "grid-item-card", "aside", "topic"}

Cell = dict[str, Any]


class Writer:
    """Turns one page into the cells of its notebook."""

    def __init__(self, book: Book, page: Page) -> None:
        self.book, self.page = book, page
        self.inline = Inline(book, page)

    def cells(self) -> Iterator[Cell]:
        """Code cells, and one Markdown cell for each run of text, statement or exercise between them."""
        yield nbformat.v4.new_code_cell(INSTALL.format(repository=self.book.repository).rstrip())
        yield from self._cells(self.page.blocks)
        if self.inline.cited:
            yield _markdown(f"## References\n\n{self.inline.references()}")

    def _cells(self, blocks: list[Block]) -> Iterator[Cell]:
        run: list[str] = []
        for block in blocks:
            own_cell = block.kind in {"code-cell", "exercise", "solution"} or block.kind.startswith("prf:")
            if own_cell and run:
                yield _markdown("\n\n".join(run))
                run = []
            if block.kind == "code-cell":
                yield from self._code(block)
            elif block.kind == "exercise":
                yield from self._exercise(block)
            elif own_cell:
                yield _markdown(self.markdown(block))
            elif text := self.markdown(block):
                run.append(text)
        if run:
            yield _markdown("\n\n".join(run))

    def _code(self, block: Block) -> Iterator[Cell]:
        """A code cell; its tags stay, what only the page needs (alt text, captions) goes."""
        tags = block.options.get("tags") or []
        if "page-only" in tags:
            return
        metadata = {key: value for key, value in block.options.items() if key not in {"mystnb", "tags"}}
        if tags:
            metadata["tags"] = list(tags)
        if {"hide-input", "remove-input"} & set(tags):
            metadata["jupyter"] = {"source_hidden": True}
        yield nbformat.v4.new_code_cell(block.text.strip("\n"), metadata=metadata)

    def _exercise(self, block: Block) -> Iterator[Cell]:
        """The question, then the reader's own cell; the first Markdown cell carries the exercise's name."""
        head = f"#### {self._name(block)}"
        first, *rest = list(self._cells(block.children))
        if first["cell_type"] == "markdown":
            first["source"] = f"{head}\n\n{first['source']}"
            yield first
        else:
            yield _markdown(head)
            yield first
        yield from rest

    def _name(self, block: Block) -> str:
        kind = block.kind.removeprefix("prf:").capitalize()
        title = f" ({self.inline(block.argument)})" if block.argument else ""
        return f"{kind} {self.book.numbers.get(id(block), '')}".strip() + title

    def markdown(self, block: Block) -> str:
        """Any block but a code cell of its own, as Markdown."""
        if block.kind.startswith("prf:"):
            text = self._statement(block)
        elif block.kind in ADMONITIONS | {"admonition", "dropdown"}:
            text = self._admonition(block)
        elif block.kind in PLAIN:
            text = "\n\n".join(filter(None, [self._bold(block.argument), self.inner(block)]))
        elif block.kind in PAGE_ONLY:
            text = ""
        else:
            text = self._other(block)
        return indent(text, block.indent) if block.indent else text

    def _other(self, block: Block) -> str:
        writers: dict[str, Callable[[Block], str]] = {
            "text": self._text,
            "label": lambda _: "",
            "fence": lambda b: f"```{b.argument}\n{b.text}\n```",
            "code": lambda b: f"```{b.argument}\n{b.text}\n```",
            "code-block": lambda b: f"```{b.argument}\n{b.text}\n```",
            "code-cell": lambda b: f"```python\n{b.text}\n```",
            "math": self._math,
            "figure": self._figure,
            "image": self._figure,
            "solution": self._solution,
            "exercise": lambda b: f"**{self._name(b)}.** {self.inner(b)}",
            "list-table": self._list_table,
            "table": lambda b: "\n\n".join(filter(None, [self.inner(b), self._bold(b.argument)])),
        }
        if block.kind not in writers:
            raise ValueError(f"{self.page.name}.md:{block.line}: no way to write {{{block.kind}}} in a notebook")
        return writers[block.kind](block)

    def inner(self, block: Block) -> str:
        """Everything inside a directive."""
        return "\n\n".join(filter(None, map(self.markdown, block.children)))

    def _text(self, block: Block) -> str:
        text = self.inline(block.text)
        if self.page.number and HEADING.match(text) and text.startswith("# "):
            text = f"# {self.page.number}. {text.removeprefix('# ')}"
        return text

    def _bold(self, words: str) -> str:
        return f"**{self.inline(words)}**" if words else ""

    def _statement(self, block: Block) -> str:
        if block.kind == "prf:proof":
            body = self.inner(block)
            body += "\n\n∎" if body.endswith("$$") else " ∎"
            return _details("Proof", body) if _folded(block) else f"*Proof.* {body}"
        name, body = self._name(block), self.inner(block)
        gap = "\n\n" if body.startswith("$$") else " "  # a formula on a line of its own is one everywhere
        return _details(name, body) if _folded(block) else f"**{name}.**{gap}{body}"

    def _admonition(self, block: Block) -> str:
        if block.kind in ADMONITIONS and block.argument:
            # Sphinx reads words on the first line of a note as its text, not as its title.
            body = "\n\n".join(filter(None, [self.inline(block.argument), self.inner(block)]))
            return f"**{block.kind.capitalize()}.** {body}"
        title = self.inline(block.argument) or block.kind.capitalize()
        if block.kind == "dropdown" or _folded(block):
            return _details(title, self.inner(block))
        return f"**{title.rstrip('.')}{'' if title[-1] in '?!:' else '.'}** {self.inner(block)}"

    def _solution(self, block: Block) -> str:
        target = self.book.targets[block.argument]
        return _details(f"Solution to {target.name}", self.inner(block))

    def _math(self, block: Block) -> str:
        number = self.book.numbers.get(id(block))
        tag = f" \\tag{{{number}}}" if number else ""
        body = self.inline.math(block.text.strip())
        return f"$$\n{body}{tag}\n$$"

    def _figure(self, block: Block) -> str:
        picture = f"![{block.options.get('alt', '')}]({self.inline.asset(block.argument)})"
        number = self.book.numbers.get(id(block))
        return f"{picture}\n\n*Figure {number}. {self.inline(block.text.strip())}*" if number else picture

    def _list_table(self, block: Block) -> str:
        rows = [
            re.split(r"^ *- ", row, flags=re.MULTILINE)[1:] for row in re.split(r"^\* ", block.text, flags=re.M)[1:]
        ]
        lines = ["| " + " | ".join(self.inline(" ".join(cell.split())) for cell in row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _folded(block: Block) -> bool:
    return "dropdown" in str(block.options.get("class", "")).split()


def _details(summary: str, body: str) -> str:
    return f"<details>\n<summary><b>{_html(summary)}</b></summary>\n\n{body}\n\n</details>"


def _html(markdown: str) -> str:
    """A summary is HTML, where Markdown's backticks and links mean nothing."""
    markdown = re.sub(r"`([^`]+)`", r"<code>\1</code>", markdown)
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", markdown)


def _markdown(source: str) -> Cell:
    return dict(nbformat.v4.new_markdown_cell(source.strip()))


def notebook(book: Book, page: Page) -> str:
    """The notebook of one page, as the text of its `.ipynb`: the same bytes for the same source."""
    ours = page.meta.get("fmtutor") or {}
    metadata: dict[str, Any] = {
        "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "colab": {"name": f"{page.name}.ipynb", "provenance": [], "toc_visible": True},
    }
    if ours.get("accelerator"):
        metadata["accelerator"] = ours["accelerator"]
        metadata["colab"]["gpuType"] = ours.get("gpu_type", "T4")
    for key in ("execution", "nbmake"):
        if key in ours:
            metadata[key] = ours[key]
    cells = [nbformat.from_dict(cell) for cell in Writer(book, page).cells()]
    _stable_ids(cells)
    made = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.validate(made)
    return nbformat.writes(made, version=4) + "\n"


def _stable_ids(cells: list[Any]) -> None:
    """Ids from the content, so that a changed paragraph changes one cell's id and no other."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def notebooks(root: Path = ROOT) -> dict[str, str]:
    """Every notebook of the book: file name to content."""
    book = Book(root)
    return {f"{page.name}.ipynb": notebook(book, page) for page in book.pages.values() if page.has_code}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Writes the notebooks, or compares them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook is not up to date")
    check = parser.parse_args(arguments).check
    folder = root / "notebooks"
    wanted = notebooks(root)
    there = {path.name: path.read_text() for path in folder.glob("*.ipynb")}
    stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if check:
        for name in stale:
            print(f"notebooks/{name} is not what its chapter says: run make notebooks", file=sys.stderr)
        return 1 if stale else 0
    folder.mkdir(exist_ok=True)
    for name in stale:
        if name in wanted:
            (folder / name).write_text(wanted[name])
        else:
            (folder / name).unlink()
        print(f"notebooks/{name}: {'written' if name in wanted else 'removed'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
