"""Roles, references, citations and the book's own macros, rewritten as Markdown that any notebook shows.

`make_notebooks.py` calls it for every run of text.
"""

from __future__ import annotations

import re

from myst_index import Book, Page, Target, address_of_test, authors, link
from pybtex.richtext import Text

# One pass, leftmost first: what is matched is never looked at again, so nothing inside code or math is a role.
INLINE = re.compile(
    r"\{(?P<role>[a-zA-Z][\w:+-]*)\}(?P<tick>`+)(?P<inner>.+?)(?P=tick)(?!`)"
    r"|(?P<code>(?P<fence>`+)(?!`).+?(?<!`)(?P=fence)(?!`))"
    r"|(?P<math>(?<!\\)\$\$?(?=\S).+?(?<!\\)\$\$?|\\begin\{(?P<env>[a-z]+\*?)\}.+?\\end\{(?P=env)\})"
    r"|(?<!!)\[(?P<words>[^\[\]]*)\]\((?P<href>[^()\s]+)\)"
    r"|\[(?P<span>[^\[\]]+)\]\{\.(?P<class>[\w-]+)\}"
    r"|!\[(?P<alt>[^\[\]]*)\]\((?P<src>[^()\s]+)\)"
    r"|\[\^(?P<note>[\w-]+)\](?P<colon>:?)",
    re.DOTALL,
)
TITLED = re.compile(r"^(?P<words>.*?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)
CLASSED = re.compile(r"\\class\{fm-(\w+)\}")
# The figures' colours: in a notebook nobody knows whether the page is light or dark.
COLOURS = {"noise": "#56B4E9", "data": "#E69F00", "velocity": "#009E73", "model": "#0072B2", "floor": "#CC79A7"}
MARKS = {"sub": "sub", "sup": "sup", "kbd": "kbd", "abbr": "abbr"}


class Inline:
    """Rewrites running text for one page's notebook, and remembers what it cited.

    Args:
        book: Everything that can be referred to.
        page: The page whose text it is.
    """

    def __init__(self, book: Book, page: Page) -> None:
        self.book, self.page = book, page
        self.cited: list[str] = []

    def __call__(self, text: str) -> str:
        return INLINE.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        if match["role"]:
            return self._role(match["role"], match["inner"])
        if match["code"]:
            return str(match["code"])
        if match["math"]:
            return self.math(match["math"])
        if match["href"]:
            return self._link(match["words"], match["href"])
        if match["span"]:
            colour = COLOURS.get(match["class"].removeprefix("fm-"))
            return f'<span style="color:{colour}">{self(match["span"])}</span>' if colour else self(match["span"])
        if match["src"]:
            return f"![{match['alt']}]({self.asset(match['src'])})"
        return f"<sup>[{match['note']}]</sup>" + (" " if match["colon"] else "")

    def math(self, tex: str) -> str:
        """TeX with the book's macros written out and its colour classes as colours."""
        previous = None
        while previous != tex:
            previous = tex
            for name, (body, count) in self.book.macros.items():
                tex = _expand(tex, name, body, count)
        tex = CLASSED.sub(lambda m: rf"\color{{{COLOURS[m[1]]}}}", tex)
        inline = tex.startswith("$") and not tex.startswith("$$")
        return f"${tex[1:-1].strip()}$" if inline else tex  # with a space at its end, many readers leave it raw

    def asset(self, source: str) -> str:
        """A picture's address on the web: a notebook on Colab has no folder beside it."""
        if "://" in source:
            return source
        raw = self.book.repository.replace("github.com", "raw.githubusercontent.com")
        return f"{raw}/main/book/{source.lstrip('./')}"

    def _role(self, role: str, inner: str) -> str:
        titled = TITLED.match(inner)
        words, target = (titled["words"], titled["target"]) if titled else ("", inner)
        if role.startswith("cite"):
            return self._cite(role, inner)
        if role in {"ref", "numref", "prf:ref", "eq"}:
            return self._reference(words, target)
        if role == "doc":
            return self._page(words, target)
        if role == "math":
            return self.math(f"${inner}$")
        if role == "test":
            return f"[{words or 'test'}]({address_of_test(self.book.root, target)})"
        if role.startswith("py:") or role in {"func", "class", "meth", "mod", "obj", "attr", "exc"}:
            name = target.lstrip("~!")
            return f"`{words or (name.rsplit('.', 1)[-1] if target.startswith('~') else name)}`"
        if role in MARKS:
            return f"<{MARKS[role]}>{inner}</{MARKS[role]}>"
        if role in {"term", "download"}:
            return words or inner
        raise ValueError(f"{self.page.name}.md: no way to write the role {{{role}}}`{inner}` in a notebook")

    def _cite(self, role: str, keys: str) -> str:
        textual = role in {"cite:t", "cite:ts", "cite:ct"}
        parts = []
        for key in (part.strip() for part in keys.split(",")):
            entry = self.book.bibliography.entries[key]
            if key not in self.cited:
                self.cited.append(key)
            year = entry.fields["year"]
            shown = f"{authors(entry)} ({year})" if textual else f"{authors(entry)}, {year}"
            parts.append(f"[{shown}]({link(entry)})" if link(entry) else shown)
        return ", ".join(parts) if textual else f"({'; '.join(parts)})"

    def _reference(self, words: str, label: str) -> str:
        if label not in self.book.targets:
            raise ValueError(f"{self.page.name}.md refers to {label!r}, which no page defines")
        target = self.book.targets[label]
        shown = _numbered_words(words, target) or self(target.name)
        return shown if target.page == self.page.name else f"[{shown}]({self.address(target.page)})"

    def _page(self, words: str, name: str) -> str:
        page = self.book.pages[name.removeprefix("/")]
        return f"[{words or self(page.title)}]({self.address(page.name)})"

    def _link(self, words: str, href: str) -> str:
        if href.startswith("#"):
            return self._reference(self(words), href[1:])
        name, _, label = href.partition("#")
        name = name.removeprefix("./").removesuffix(".md")
        if name in self.book.pages:
            return self._reference(self(words), label) if label in self.book.targets else self._page(self(words), name)
        return f"[{self(words) or href}]({href})"

    def address(self, name: str) -> str:
        """The notebook beside this one, or the page on the web where there is no notebook."""
        return f"{name}.ipynb" if self.book.pages[name].has_code else f"{self.book.site}/{name}.html"

    def references(self) -> str:
        """The papers cited so far, as a list."""
        lines = []
        for key in sorted(self.cited):
            entry = self.book.bibliography.entries[key]
            title, venue = (
                Text.from_latex(entry.fields.get(part, "")).render_as("text") for part in ("title", "venue")
            )
            venue = venue or _venue(
                entry.fields.get("journal")
                or entry.fields.get("booktitle")
                or entry.fields.get("howpublished")
                or entry.fields.get("publisher")
                or "arXiv preprint"
            )
            title = f"[{title}]({link(entry)})" if link(entry) else title
            lines.append(f"- {authors(entry)} ({entry.fields['year']}). {title}. *{venue}*.")
        return "\n".join(lines)


def _venue(source: str) -> str:
    return str(Text.from_latex(source).render_as("text"))


def _numbered_words(words: str, target: Target) -> str:
    """`Theorem %s` and `Theorem {number}` with the number in place."""
    return words.replace("%s", target.number).replace("{number}", target.number).replace("{name}", target.title)


def _expand(tex: str, name: str, body: str, count: int) -> str:
    pattern = re.compile(rf"\\{name}(?![a-zA-Z])")
    while match := pattern.search(tex):
        arguments, end = [], match.end()
        for _ in range(count):
            argument, end = _argument(tex, end)
            arguments.append(argument)
        filled = body
        for i, argument in enumerate(arguments, start=1):
            filled = filled.replace(f"#{i}", argument)
        # The braces keep a colour, or an operator's neighbour, from running on.
        tex = tex[: match.start()] + (f"{{{filled}}}" if count else f"{filled} ") + tex[end:].lstrip(" " * (not count))
    return tex


def _argument(tex: str, start: int) -> tuple[str, int]:
    """The braced group or the single token that begins at `start`, and where it ends."""
    while tex[start] == " ":
        start += 1
    if tex[start] != "{":
        token = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL).match(tex, start)
        assert token is not None
        return token[0], token.end()
    depth = 0
    for i in range(start, len(tex)):
        escaped = i > 0 and tex[i - 1] == "\\"
        depth += 0 if escaped else {"{": 1, "}": -1}.get(tex[i], 0)
        if depth == 0:
            return tex[start + 1 : i], i + 1
    raise ValueError(f"a brace is never closed in {tex!r}")
