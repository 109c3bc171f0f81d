"""What a page may refer to: labels with their numbers, citations, macros, and where the book lives on the web.

The numbers are counted the way the built pages count them (chapter number from the file name, one counter for each
kind of statement), so that "Theorem 3.1" is the same theorem in a notebook and on a page.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from myst_blocks import Block, front_matter, parse
from pybtex.database import BibliographyData, Entry, parse_file

HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$", re.MULTILINE)
CHAPTER = re.compile(r"^(\d\d)_")


@dataclass(frozen=True)
class Target:
    """Something with a label: where it stands, what it is called ("Theorem", "section" ...) and its number."""

    page: str
    kind: str
    number: str = ""
    title: str = ""

    @property
    def name(self) -> str:
        """What a reference says when it is given no words of its own."""
        if self.kind == "equation":
            return f"({self.number})"
        return self.title if self.kind == "section" else f"{self.kind.capitalize()} {self.number}".strip()


@dataclass
class Page:
    """One source file: its front matter, its blocks, and the number of its chapter, if it is one."""

    name: str
    meta: dict[str, Any]
    blocks: list[Block]

    @property
    def number(self) -> str:
        """The chapter's number, "" for the landing page and the appendices."""
        match = CHAPTER.match(self.name)
        return str(int(match[1])) if match else ""

    @property
    def has_code(self) -> bool:
        """Whether the page becomes a notebook."""
        return any(part.kind == "code-cell" for block in self.blocks for part in block.walk())

    @property
    def title(self) -> str:
        """The first heading."""
        texts = (HEADING.search(block.text) for block in self.blocks if block.kind == "text")
        return next((match[2] for match in texts if match), self.name)


def repository(root: Path) -> str:
    """`https://github.com/OWNER/NAME`, from the one place where it stands."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return str(project["urls"]["Repository"]).rstrip("/")


@cache
def places_of_tests(root: Path) -> dict[str, list[tuple[str, int]]]:
    """Each test by its name: the files that define it, as paths below the root, and the lines."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if match := re.match(r"def (test_\w+)\(", line):
                found.setdefault(match[1], []).append((path.relative_to(root).as_posix(), number))
    return found


def address_of_test(root: Path, name: str, *, line: bool = False) -> str:
    """Where the test `name` is read in the repository, at its line if asked for.

    Raises:
        ValueError: no test has this name, or several have.
    """
    places = places_of_tests(root).get(name, [])
    if len(places) != 1:
        where = " and ".join(path for path, _ in places) or "no file"
        raise ValueError(f"a linked test must stand in one file below tests/, {name!r} stands in {where}")
    path, number = places[0]
    return f"{repository(root)}/blob/main/{path}" + (f"#L{number}" if line else "")


def pages_in_toc(root: Path) -> list[str]:
    """The names of all pages, in the order of the table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    names: list[str] = [toc["root"]]

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            names.extend([node["file"]] if "file" in node else [])
            for key in ("parts", "chapters", "sections"):
                collect(node.get(key, []))
        elif isinstance(node, list):
            for part in node:
                collect(part)

    collect({key: toc.get(key, []) for key in ("parts", "chapters")})
    return names


class Book:
    """All pages of the table of contents, and everything that one of them can refer to.

    Args:
        root: The folder that holds `_config.yml`, `_toc.yml`, `pyproject.toml` and `book/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = repository(root)
        self.owner, self.project = self.repository.removeprefix("https://github.com/").split("/")
        self.site = f"https://{self.owner}.github.io/{self.project}"
        self.pages = {name: self._read(name) for name in pages_in_toc(root)}
        self.targets: dict[str, Target] = {}
        self.numbers: dict[int, str] = {}
        counters: Counter[tuple[str, str]] = Counter()
        for page in self.pages.values():
            self._index(page, counters)

    def _read(self, name: str) -> Page:
        meta, body, skipped = front_matter((self.root / "book" / f"{name}.md").read_text())
        return Page(name, meta, parse(body, skipped + 1))

    def _index(self, page: Page, counters: Counter[tuple[str, str]]) -> None:
        pending: list[str] = []
        for block in (part for top in page.blocks for part in top.walk()):
            if block.kind == "label":
                pending.append(block.text)
                continue
            kind, label = _numbered(block)
            number = ""
            if kind and "nonumber" not in block.options:
                counters[page.number, kind] += 1
                number = ".".join(filter(None, [page.number, str(counters[page.number, kind])]))
                self.numbers[id(block)] = number
            if label:
                self.targets[label] = Target(page.name, kind or block.kind, number, block.argument)
            heading = HEADING.search(block.text) if block.kind == "text" else None
            for name in pending:
                self.targets[name] = Target(page.name, "section", "", heading[2] if heading else page.title)
            pending = []

    @cached_property
    def bibliography(self) -> BibliographyData:
        """The entries of `references.bib`."""
        return parse_file(str(self.root / "book" / "references.bib"))

    @cached_property
    def macros(self) -> dict[str, tuple[str, int]]:
        """The macros of `_config.yml`, as (replacement, number of arguments)."""
        config = yaml.safe_load((self.root / "_config.yml").read_text())["sphinx"]["config"]
        macros = config["mathjax3_config"]["tex"]["macros"]
        return {name: (m, 0) if isinstance(m, str) else (m[0], m[1]) for name, m in macros.items()}


def _numbered(block: Block) -> tuple[str, str]:
    """What a block is counted as ("" if it is not), and its label ("" if it has none)."""
    label = str(block.options.get("label") or block.options.get("name") or "")
    if block.kind.startswith("prf:"):
        return ("" if block.kind == "prf:proof" else block.kind.removeprefix("prf:")), label
    if block.kind == "code-cell":
        figure = (block.options.get("mystnb") or {}).get("figure") or {}
        return ("figure" if figure.get("caption") else ""), str(figure.get("name") or "")
    if block.kind == "math":
        return ("equation" if label else ""), label
    if block.kind == "figure":
        return ("figure" if block.text.strip() else ""), label
    if block.kind in {"table", "list-table", "csv-table"}:
        return ("table" if block.argument else ""), label
    return ("exercise" if block.kind == "exercise" else ""), label


def authors(entry: Entry) -> str:
    """`Lipman et al.`, `Salimans and Ho`, `Vincent`."""
    names = [" ".join(str(part) for part in person.rich_last_names) for person in entry.persons["author"]]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def link(entry: Entry) -> str:
    """Where to read it: arXiv if it is there, else its own address, else nothing."""
    eprint, url, doi = (entry.fields.get(key, "") for key in ("eprint", "url", "doi"))
    return f"https://arxiv.org/abs/{eprint}" if eprint else url or (f"https://doi.org/{doi}" if doi else "")
