"""What a page does for its reader: folded blocks, code out of the way of its figure, a search that works from a folder.

Everything here is markup. What it looks like, on a screen and on paper, is in `_static/fmtutor.css`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# The exercise and proof directives give these to every block, and ids are unique.
SHARED_IDS = {"proof", "proof-content", "exercise-content", "solution-content"}
# Cells with these tags show their output, and below it a fold with their code: it draws or prints, and teaches nothing.
CODE_OF = {"figure": "Show the code of this figure", "table": "Show the code of this table"}
NO_SCRIPT = (
    '<noscript><p class="fm-no-script">JavaScript is switched off, so formulas stay as they are typed in TeX, a figure '
    "with a slider shows one of its pictures, and the search finds nothing. All the rest is here.</p></noscript>"
)


class Folded(nodes.General, nodes.Element):
    """A `<details>`: it needs no script, opens when a link points inside it, and prints."""


def visit_folded(self: Any, node: Folded) -> None:
    summary = html.escape(node["summary"])
    self.body.append(f'<details class="fm-folded fm-folded-{node["kind"]}"><summary>{summary}</summary>\n')


def depart_folded(self: Any, node: Folded) -> None:
    self.body.append("</details>\n")


def fold(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Folds every proof, solution and admonition of class `dropdown`, and the code of cells that only draw or print.

    A picture that a cell draws gets a box of its own, which scrolls where the picture is wider than a phone.
    """
    for node in list(doctree.findall(nodes.Element)):
        node["ids"] = [i for i in node.get("ids", []) if i not in SHARED_IDS]
        if "dropdown" in node.get("classes", []):
            _fold_block(node)
        elif node.get("nb_element") == "cell_code":
            _fold_code(node)
        elif isinstance(node, nodes.image) and node.parent.get("nb_element") == "cell_code_output":
            box = nodes.container("", classes=["fm-figure"])
            node.replace_self(box)
            box.append(node)


def _fold_block(node: nodes.Element) -> None:
    classes = node["classes"]
    summary = "Proof" if "proof" in classes else ""
    if isinstance(node[0], nodes.title):
        summary = node.pop(0).astext()
    elif summary and isinstance(first := next(node.findall(nodes.Text)), nodes.Text):
        first.parent.replace(first, nodes.Text(first.removeprefix("Proof. ")))
    if summary:
        classes.remove("dropdown")
        kind = "hint" if "hint" in summary.lower() else next((c for c in classes if c in {"proof", "solution"}), "note")
        folded = Folded(summary=summary, kind=kind)
        node.replace_self(folded)
        folded.append(node)


def _fold_code(cell: nodes.Element) -> None:
    """The output first, since the text is about it; then the code, folded."""
    for tag, summary in CODE_OF.items():
        if f"tag_{tag}" in cell["classes"]:
            cell.append(Folded("", cell.pop(0), summary=summary, kind="code"))


def name_parts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mends what a screen reader trips over in the markup of Sphinx and of the theme, and speaks up without scripts."""
    if "body" in context:
        context["body"] = NO_SCRIPT + accessible(context["body"])
    toctree = context.get("generate_toctree_html")
    if toctree is not None:
        context["generate_toctree_html"] = lambda *args, **kwargs: named_folds(str(toctree(*args, **kwargs)))
    if page == "search":
        app.add_js_file("sections.js", loading_method="defer")
        app.add_js_file("search.js", loading_method="defer")


def accessible(body: str) -> str:
    """A signature's parameters are no list of definitions without terms; references are items of their list."""
    body = re.sub(r"\(</span>\s*<dl>\n((?:<dd>.*</dd>\n)+)</dl>", _parameters, body)
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def _parameters(match: re.Match[str]) -> str:
    lines = match[1].replace("<dd>", '<span class="fm-parameter">').replace("</dd>", "</span>")
    return f"(</span>{lines}"


def named_folds(navigation: str) -> str:
    """The arrows that unfold a part of the sidebar say of which part."""
    return re.sub(
        r"(<a[^>]*>(?P<title>(?:(?!</a>).)*)</a>\s*<details[^>]*>\s*)<summary>",
        lambda m: f'{m[1]}<summary aria-label="Pages below {re.sub("<[^>]+>", "", m["title"]).strip()}">',
        navigation,
        flags=re.DOTALL,
    )


Section = tuple[str, str, str, str]


def collect_sections(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Keeps the words of a page whose references are resolved, so that a citation is an author and not a key."""
    if not hasattr(app, "fmtutor_sections"):
        app.fmtutor_sections = {}  # type: ignore[attr-defined]
    app.fmtutor_sections[docname] = list(sections(docname, doctree))  # type: ignore[attr-defined]


def sections(docname: str, doctree: nodes.document) -> Iterator[Section]:
    """Each section of a page: page, id, title, and its own words, without those of the sections below it."""
    for section in doctree.findall(_is_section):
        title = next(iter(section.findall(nodes.title)), None)
        words = (_words(node) for node in _own_blocks(section))
        yield docname, section["ids"][0], title.astext() if title else "", " ".join(" ".join(words).split())


def _is_section(node: nodes.Node) -> bool:
    """Not the inside of a proof or an exercise, which is a section too and has no name to link to."""
    return isinstance(node, nodes.section) and bool(node["ids"])


def _own_blocks(section: nodes.Element) -> Iterator[nodes.Element]:
    for child in section.children:
        if not isinstance(child, nodes.Element) or isinstance(child, nodes.raw | nodes.title) or _is_section(child):
            continue
        if child.get("nb_element") == "cell_code_output":
            continue
        if isinstance(child, nodes.TextElement | nodes.math_block | addnodes.desc_signature):
            yield child
        else:
            yield from _own_blocks(child)


def _words(node: nodes.Element) -> str:
    """Without what only colours or lays out a formula."""
    text = node.astext()
    if isinstance(node, nodes.math_block):
        text = re.sub(r"\\(?:begin|end)\{\w+\}|\\\\|&", " ", text)
    return re.sub(r"\\(?:noise|data|vel|model|floor)\{([^{}]*)\}", r"\1", text)


def write_sections(app: Sphinx, exception: Exception | None) -> None:
    """What `search.js` looks through: a browser reads no second page from a folder, but it runs a script."""
    if exception is not None or app.builder.format != "html":
        return
    found = [section for _, those in sorted(app.fmtutor_sections.items()) for section in those]  # type: ignore[attr-defined]
    titles = {page: title.astext() for page, title in app.env.titles.items()}
    text = json.dumps({"titles": titles, "sections": found}, ensure_ascii=False, separators=(",", ":"))
    static = Path(app.outdir) / "_static"
    (static / "sections.js").write_text(f"const PAGES = {text};\n", encoding="utf-8")
    # Not in `book/_static`, or Jupyter Book would load it on every page.
    (static / "search.js").write_bytes((Path(__file__).parent / "search.js").read_bytes())


def setup(app: Sphinx) -> None:
    """Called by the local extension."""
    app.add_node(Folded, html=(visit_folded, depart_folded))
    app.connect("doctree-resolved", fold)
    app.connect("doctree-resolved", collect_sections, priority=900)
    app.connect("html-page-context", name_parts, priority=900)
    app.connect("build-finished", write_sections)
