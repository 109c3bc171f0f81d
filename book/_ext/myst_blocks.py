"""A page of the book as a list of blocks: text, code cells, directives and labels.

It reads the part of MyST that the chapters use and no more; `make_notebooks.py` turns the blocks into a notebook.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

OPEN = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
DIRECTIVE = re.compile(r"^\{(?P<name>[\w:.+-]+)\}\s*(?P<argument>.*)$")
OPTION = re.compile(r"^:(?P<key>[\w-]+):\s*(?P<value>.*)$")
LABEL = re.compile(r"^\((?P<label>[^()\s]+)\)=\s*$")
MATH_END = re.compile(r"\$\$\s*(?:\((?P<label>[^()\s]+)\))?\s*$")
VERBATIM = {"code-cell", "code", "code-block", "sourcecode", "literalinclude", "math", "raw", "eval-rst", "toctree",
            "tableofcontents", "bibliography", "figure", "image", "list-table", "csv-table"}  # fmt: skip


@dataclass
class Block:
    """One piece of a page.

    `kind` is "text", "fence" (an ordinary code fence), "math" (a display), "label", or the directive's own name.
    """

    kind: str
    text: str = ""
    argument: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    children: list[Block] = field(default_factory=list)
    indent: str = ""
    line: int = 0

    def walk(self) -> Iterator[Block]:
        """This block and all below it, in reading order."""
        yield self
        for child in self.children:
            yield from child.walk()


def front_matter(source: str) -> tuple[dict[str, Any], str, int]:
    """The YAML at the top of a page, the rest, and the number of lines skipped."""
    lines = source.split("\n")
    if lines[0].strip() != "---":
        return {}, source, 0
    end = next(i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    return yaml.safe_load("\n".join(lines[1:end])) or {}, "\n".join(lines[end + 1 :]), end + 1


def parse(source: str, first_line: int = 1) -> list[Block]:
    """The blocks of a page or of a directive's body, gated exercises and solutions already put together."""
    return gather(list(_blocks(source.split("\n"), first_line)))


def _blocks(lines: list[str], first_line: int) -> Iterator[Block]:
    text: list[str] = []
    i = 0

    def flush() -> Iterator[Block]:
        joined = "\n".join(text).strip("\n")
        text.clear()
        if joined.strip():
            yield Block("text", joined, line=first_line + i)

    while i < len(lines):
        line = lines[i]
        fence, label = OPEN.match(line), LABEL.match(line)
        if fence and not (fence["fence"][0] == ":" and not DIRECTIVE.match(fence["info"].strip())):
            yield from flush()
            end = _closing(lines, i, fence["fence"])
            yield _fenced(fence, lines[i + 1 : end], first_line + i)
            i = end
        elif line.lstrip().startswith("$$"):
            yield from flush()
            end = _math_end(lines, i)
            yield _display(lines[i : end + 1], first_line + i)
            i = end
        elif label:
            yield from flush()
            yield Block("label", label["label"], line=first_line + i)
        elif not (line.startswith("% ") or line.strip() in {"%", "+++"}):
            text.append(line)
        i += 1
    yield from flush()


def _closing(lines: list[str], start: int, fence: str) -> int:
    for i in range(start + 1, len(lines)):
        stripped = lines[i].strip()
        if len(stripped) >= len(fence) and set(stripped) == {fence[0]}:
            return i
    raise ValueError(f"the fence {lines[start]!r} is never closed")


def _math_end(lines: list[str], start: int) -> int:
    first = lines[start].lstrip()[2:]
    if "$$" in first:
        return start
    for i in range(start + 1, len(lines)):
        if MATH_END.search(lines[i]):
            return i
    raise ValueError(f"the display {lines[start]!r} is never closed")


def _display(lines: list[str], line: int) -> Block:
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    body = "\n".join(part.removeprefix(indent) for part in lines)
    end = MATH_END.search(body)
    if end is None:
        return Block("text", "\n".join(lines), line=line)
    options = {"label": end["label"]} if end["label"] else {}
    return Block("math", body[: end.start()].strip()[2:].strip(), options=options, indent=indent, line=line)


def _fenced(fence: re.Match[str], body: list[str], line: int) -> Block:
    indent = fence["indent"]
    body = [part.removeprefix(indent) for part in body]
    directive = DIRECTIVE.match(fence["info"].strip())
    if directive is None:
        return Block("fence", "\n".join(body), argument=fence["info"].strip(), indent=indent, line=line)
    options, body, skipped = _options(body)
    block = Block(directive["name"], "\n".join(body), directive["argument"].strip(), options, indent=indent, line=line)
    if block.kind == "math" and options.get("label") is None and options.get("name"):
        options["label"] = options["name"]
    if block.kind not in VERBATIM:
        block.children = parse(block.text, line + 1 + skipped)
    return block


def _options(body: list[str]) -> tuple[dict[str, Any], list[str], int]:
    """Directive options, in the short form (`:key: value`) or the long one (a YAML block between `---`)."""
    if body and body[0].strip() == "---":
        end = next(i for i, part in enumerate(body[1:], start=1) if part.strip() == "---")
        return yaml.safe_load("\n".join(body[1:end])) or {}, body[end + 1 :], end + 1
    options: dict[str, Any] = {}
    count = 0
    for part in body:
        option = OPTION.match(part.strip())
        if option is None:
            break
        value = option["value"]
        options[option["key"]] = yaml.safe_load(value) if value.startswith(("[", "{")) else value
        count += 1
    return options, body[count:], count


def gather(blocks: list[Block]) -> list[Block]:
    """Puts what stands between `exercise-start` and `exercise-end` into one block, and the same for solutions."""
    out: list[Block] = []
    gates: list[Block] = []
    for block in blocks:
        if block.kind in {"exercise-start", "solution-start"}:
            block.kind = block.kind.removesuffix("-start")
            gates.append(block)
        elif block.kind in {"exercise-end", "solution-end"}:
            done = gates.pop()
            (gates[-1].children if gates else out).append(done)
        else:
            (gates[-1].children if gates else out).append(block)
    if gates:
        raise ValueError(f"{gates[-1].kind}-start on line {gates[-1].line} has no end")
    return out
