"""What the book asks of Jupyter Book that it does not do by itself.

A build that cannot hide an earlier failure, an execution cache that sees the package, chapter numbers from file
names, notebooks to download and to open in Colab, and pages that load nothing from the network.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import page_features
from docutils import nodes
from docutils.nodes import Node, system_message
from execute_pages import execute_side_by_side
from make_notebooks import notebooks
from myst_index import CHAPTER, address_of_test, repository
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import ReferenceRole
from sphinx.util.nodes import make_refnode
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

COLAB = "https://colab.research.google.com/github/{owner}/blob/main/notebooks/{page}.ipynb"


def cache_key(root: Path) -> str:
    """A hash of what every page is computed with: the package's source, the pinned versions, and measured results."""
    digest = hashlib.sha256()
    source = sorted(path for path in (root / "fmtutor").rglob("*") if path.suffix in {".py", ".js", ".css"})
    results = sorted((root / "book" / "results").glob("*.json"))
    for path in [*source, root / "constraints.txt", *results]:
        if path.exists():
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def configure(app: Sphinx, config: Config) -> None:
    """Runs before anything is read from disk: the cache, the doctrees, and the repository's name."""
    root = Path(app.srcdir).parent
    gc.set_threshold(50_000, 20, 100)  # to search a book's million nodes for garbage takes a quarter of a build
    os.environ.pop("MPLBACKEND", None)  # with Agg in the environment, kernels would draw every figure to nowhere
    # A failed cell leaves its page in the doctrees, and the next build would then call it done.
    shutil.rmtree(app.doctreedir, ignore_errors=True)
    Path(app.doctreedir).mkdir(parents=True)

    caches = Path(app.outdir).parent / ".jupyter_cache"
    current = caches / cache_key(root)
    for old in caches.glob("*") if caches.exists() else []:
        if old != current:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    config.nb_execution_cache_path = str(current)

    options = dict(config.html_theme_options)
    options |= {
        "repository_url": repository(root),
        "repository_branch": "main",
        "path_to_docs": "book",
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_download_button": False,  # the theme's offers a notebook full of raw directives
        "launch_buttons": {},  # and its Colab button points at the Markdown
    }
    config.html_theme_options = options


def number_chapters(self: TocTreeCollectorWithStyles, env: BuildEnvironment) -> list[str]:
    """Chapter 3 is the file `03_...`, whatever stands before it: theorems keep their numbers as chapters are added."""
    old = env.toc_secnumbers
    env.toc_secnumbers = {}
    for page, toc in env.tocs.items():
        match = CHAPTER.match(page)
        if match is None:
            continue
        number = (int(match[1]),)
        references = list(toc.findall(nodes.reference))
        # An empty number below the title: sections are not numbered, what stands in them counts by chapter.
        env.toc_secnumbers[page] = {r["anchorname"]: number if r["anchorname"] == "" else () for r in references}
        for reference in references:
            reference["secnumber"] = number if reference["anchorname"] == "" else None
        env.titles[page]["secnumber"] = number
    return [page for page, numbers in env.toc_secnumbers.items() if numbers != old.get(page)]


def add_notebook_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """The generated notebook, to open in Colab and to download, first in the header."""
    if "kernelspec" not in app.env.metadata.get(page, {}) or f"{page}.ipynb" not in _notebooks(app):
        return
    owner = repository(Path(app.srcdir).parent).removeprefix("https://github.com/")
    context["header_buttons"][:0] = [
        {
            "type": "link",
            "url": COLAB.format(owner=owner, page=page),
            "text": "Colab",
            "tooltip": "Run this chapter in Colab",
            "icon": "fas fa-play",
            "label": "fmtutor-colab",
        },
        {
            "type": "link",
            "url": f"{context['pathto']('notebooks', 1)}/{page}.ipynb",
            "text": "Notebook",
            "tooltip": "Download this chapter as a notebook",
            "icon": "fas fa-download",
            "label": "fmtutor-notebook",
        },
    ]


def _notebooks(app: Sphinx) -> dict[str, str]:
    if not hasattr(app, "fmtutor_notebooks"):
        app.fmtutor_notebooks = notebooks(Path(app.srcdir).parent)  # type: ignore[attr-defined]
    return app.fmtutor_notebooks


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Puts the notebooks that the buttons download beside the pages."""
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "notebooks"
        folder.mkdir(exist_ok=True)
        for name, content in _notebooks(app).items():
            (folder / name).write_text(content)


def resolve_short_name(app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.Element) -> Any:
    """Links `AffinePath`, and a class that a public module borrows from a private one, to the page that has it."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rsplit(".", 1)[-1]
    objects = env.get_domain("py").get_objects()
    found = {(page, anchor) for full, _, _, page, anchor, _ in objects if full.rsplit(".", 1)[-1] == name}
    if len(found) != 1:
        # What only a private module has is named and not linked.
        return contnode if re.search(r"\._", f".{node['reftarget']}") else None
    page, anchor = found.pop()
    return make_refnode(app.builder, node["refdoc"], page, anchor, contnode, name)


class LinkedTest(ReferenceRole):
    """`` {test}`words <test_name>` ``: a link to a test in the repository; a name that no test has fails the build."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        """The link, or the error in its place."""
        words = self.title if self.has_explicit_title else "test"
        try:
            link = address_of_test(Path(self.env.srcdir).parent, self.target, line=True)
        except ValueError as error:
            return [], [self.inliner.reporter.error(str(error), line=self.lineno)]
        return [nodes.reference(self.rawtext, words, refuri=link, reftitle=self.target)], []


def escape_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """`|v - u|` is a norm in our docstrings, never a reStructuredText substitution."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = "`".join(p if j % 2 else p.replace("|", "\\|") for j, p in enumerate(line.split("`")))


def skip_aliases(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """A named tuple's fields are told by its docstring; "Alias for field number 0" tells nobody anything."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    TocTreeCollectorWithStyles.assign_section_numbers = number_chapters
    app.add_config_value("comments_config", {}, "env")  # Jupyter Book sets it even where nothing reads it
    page_features.setup(app)
    app.add_role("test", LinkedTest())
    app.connect("missing-reference", resolve_short_name)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("autodoc-process-docstring", escape_bars)
    # Before the theme (501) copies its options, after everyone else has set theirs.
    app.connect("config-inited", configure, priority=900)
    app.connect("env-before-read-docs", execute_side_by_side)
    app.connect("html-page-context", add_notebook_buttons, priority=900)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
