"""What a page shows and did not make itself: the package's own source, never a copy, and what benchmarks have measured.

Every chapter uses `show` after it has built a thing from scratch; chapters 2, 4 and 8 read `results`.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

# Colours for a notebook, where no theme styles the classes: mid tones that read on white and on black. `:where` has no
# weight of its own, so a page's theme wins.
_STYLE = """
:where(.fmtutor-show) :where(.k, .kn, .kc, .kd, .kr, .ow) { color: #0a7fbf; font-weight: 600; }
:where(.fmtutor-show) :where(.s, .s1, .s2, .sa, .sd, .se, .si, .sf) { color: #b8750a; }
:where(.fmtutor-show) :where(.nf, .fm, .nc, .nd) { color: #0b8f6a; }
:where(.fmtutor-show) :where(.mi, .mf, .bp, .nb) { color: #c05a94; }
:where(.fmtutor-show) :where(.c, .c1) { color: #767676; font-style: italic; }
.fmtutor-show pre { overflow-x: auto; line-height: 1.4; }
"""


def own_ground(name: str) -> str:
    """CSS that keeps a dark page from laying a light ground behind the outputs of class `name`.

    The book's theme does that to every output of a cell, because most are made for white paper.
    """
    plain = "background: none !important; color: inherit !important; padding: 0 !important;"
    return f".text_html:has(> .{name}) {{ {plain} }}"


class Source:
    """The source of an object: highlighted in a notebook and on a page, plain in a terminal.

    Args:
        code: The text of the source.
        name: What it is the source of.
    """

    def __init__(self, code: str, name: str) -> None:
        self.code, self.name = code, name

    def __repr__(self) -> str:
        return self.code

    def _repr_html_(self) -> str:
        # `notranslate` and the two classes are those of a page's own code blocks, whose theme then styles this one.
        style = own_ground("fmtutor-show") + _STYLE
        return (
            f'<div class="fmtutor-show highlight-python notranslate" aria-label="Source of {html.escape(self.name)}">'
            f'<style>{style}</style><div class="highlight"><pre>{_marked(self.code)}</pre></div></div>'
        )


def _marked(code: str) -> str:
    """`code` with pygments' classes around its tokens, or plain where pygments is missing."""
    try:
        from pygments import highlight  # type: ignore[import-untyped]
        from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
        from pygments.lexers import PythonLexer  # type: ignore[import-untyped]
    except ImportError:
        return html.escape(code)
    return highlight(code, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")


def show(obj: Any, *, docstring: bool = False) -> Source:
    """The source of a function, method, class or module.

    Args:
        obj: What to show.
        docstring: Whether the docstrings come along; a page that has just explained the thing needs none.

    Raises:
        TypeError: `obj` has no Python source: a number, a builtin, or something compiled.

    Example:
        >>> from fmtutor import _validate
        >>> show(_validate.function)
        def function(name: str, value: Any) -> Any:
            if not callable(value):
                raise TypeError(f"{name} must be a function, got {type(value).__name__}")
            return value
    """
    obj = inspect.unwrap(getattr(obj, "func", obj)) if callable(obj) else obj
    try:
        code = textwrap.dedent(inspect.getsource(obj)).rstrip()
    except (TypeError, OSError):
        raise TypeError(
            f"obj must be a function, method, class or module written in Python, got {_what(obj)}, which has no source"
        ) from None
    return Source(code if docstring else _undocumented(code), getattr(obj, "__name__", "code"))


def _what(obj: Any) -> str:
    name = getattr(obj, "__name__", None)
    return f"{type(obj).__name__} {name!r}" if name else f"a {type(obj).__name__}"


def _undocumented(code: str) -> str:
    """`code` without docstrings; a body that was nothing else keeps its own, or it would no longer be Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a lambda in the middle of an expression
        return code
    lines = code.split("\n")
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    for node in ast.walk(tree):
        if not isinstance(node, documented) or ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        first, last = node.body[0].lineno - 1, node.body[0].end_lineno or node.body[0].lineno
        while last < len(lines) and not lines[last].strip():
            last += 1
        lines[first:last] = ["\0"] * (last - first)
    return "\n".join(line for line in lines if line != "\0")


def results(name: str) -> dict[str, Any]:
    """What a benchmark of the book has measured elsewhere, with where, when and how.

    Args:
        name: of the file in `book/results/`, such as "checkerboard".

    Returns:
        A dictionary of "measured", and beside it "machine", "date", "commit" and "command".

    Raises:
        FileNotFoundError: nothing of that name has been measured yet.

    Example:
        >>> results("checkerboard")["command"]
        'python benchmarks/checkerboard.py'
    """
    package = Path(__file__).parent
    folders = (package.parent / "book" / "results", package / "book_results")  # in a checkout, and in a wheel
    known = {file.stem: file for folder in folders for file in folder.glob("*.json")}
    if name not in known:
        raise FileNotFoundError(f"{name} has not been measured yet: known are {', '.join(sorted(known))}")
    return json.loads(known[name].read_text(encoding="utf-8"))
