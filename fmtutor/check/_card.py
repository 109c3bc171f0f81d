"""What a check answers, in a terminal and as a card in a notebook or on a page.

Every chapter with exercises shows these cards; `fmtutor.check._exercise` decides what they say.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fmtutor.show import own_ground

# A theme's colours come first (the built page), then Jupyter's, then Okabe-Ito ones that read on white and on black.
_COLOUR = {
    "passed": "var(--pst-color-success, #009E73)",
    "failed": "var(--pst-color-danger, #D55E00)",
    "pending": "var(--pst-color-text-muted, #767676)",
}
_MARK = {"passed": "✓", "failed": "✗", "pending": "…"}
_WORD = {"passed": "passed", "failed": "not yet", "pending": "not attempted yet"}


def _prose(text: str) -> str:
    """`text` as HTML, with `code` between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)).replace("\n", "<br>")


@dataclass(frozen=True)
class Result:
    """The answer of a check: true in an `if` exactly when the exercise is solved.

    Args:
        passed: Whether the exercise is solved.
        message: What the reader is told; code stands between backticks.
        name: The exercise.
        pending: Whether there was no answer to look at yet.

    Example:
        >>> Result(False, "look at the sign of `x1 - x`", name="conditional_velocity")
        ✗ conditional_velocity: not yet. look at the sign of `x1 - x`
        >>> bool(Result(True, "right"))
        True
    """

    passed: bool
    message: str
    name: str = ""
    pending: bool = False

    @property
    def status(self) -> str:
        """One of "passed", "failed" and "pending"."""
        return "passed" if self.passed else "pending" if self.pending else "failed"

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        head = f"{_MARK[self.status]} {self.name}: {_WORD[self.status]}".replace(" : ", " ")
        return head if self.message == _WORD[self.status] else f"{head}. {self.message}"

    def _repr_html_(self) -> str:
        colour, status = _COLOUR[self.status], self.status
        message = "" if self.message == _WORD[status] else f'<div style="margin-top:.3em">{_prose(self.message)}</div>'
        name = f" <code>{html.escape(self.name)}</code>" if self.name else ""
        return (
            f'<div class="fmtutor-check fmtutor-check-{status}" role="status" style="max-width:100%;'
            f"margin:.5em 0;padding:.6em .9em;border:1px solid rgba(127,127,127,.35);border-left:.3em solid {colour};"
            "border-radius:.3em;background:rgba(127,127,127,.08);color:var(--pst-color-text-base, inherit);"
            'overflow-wrap:anywhere">'
            f'<strong style="color:{colour}"><span aria-hidden="true">{_MARK[status]}</span> {_WORD[status]}</strong>'
            f"{name}{message}<style>{own_ground('fmtutor-check')}</style></div>"
        )


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: where the exercise stands, the name after `check.`, and what is asked."""

    chapter: int
    number: int
    name: str
    statement: str

    @property
    def place(self) -> str:
        """Chapter and exercise as the page has them, such as "2.6"."""
        return f"{self.chapter}.{self.number}"


@dataclass(frozen=True)
class Catalogue:
    """All exercises, in the order of the book: a table in a terminal and in a notebook, and iterable."""

    entries: tuple[Entry, ...]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        width = max((len(entry.name) for entry in self), default=0)
        lines = (f"{entry.place:>8}  check.{entry.name:<{width}}  {entry.statement}" for entry in self)
        return "\n".join([f"exercise  {'check':<{width + 6}}  what is asked", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{entry.place}</td><td><code>check.{html.escape(entry.name)}</code></td>"
            f'<td style="text-align:left;min-width:14em">{_prose(entry.statement)}</td></tr>'
            for entry in self
        )
        head = '<tr><th scope="col">exercise</th><th scope="col">check</th><th scope="col">what is asked</th></tr>'
        return (
            f'<div class="fmtutor-catalogue" style="overflow-x:auto"><style>{own_ground("fmtutor-catalogue")}</style>'
            '<table class="table">'
            f"<thead>{head}</thead><tbody>{rows}</tbody></table></div>"
        )
