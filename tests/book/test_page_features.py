"""What the local extension does to a page: folds, signatures, the sidebar, and the words that the search knows."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))

pytest.importorskip("sphinx")

from myst_index import pages_in_toc  # noqa: E402
from page_features import CODE_OF, accessible, named_folds  # noqa: E402
from test_book import built  # noqa: E402

SIGNATURE = """<span class="sig-paren">(</span>

<dl>
<dd><em class="sig-param">x0</em>,</dd>
<dd><em class="sig-param">x1</em>,</dd>
</dl>

<span class="sig-paren">)</span><dl class="field-list"><dt>Returns</dt><dd>x0</dd></dl>"""


def test_the_parameters_of_a_signature_are_no_list_of_definitions() -> None:
    page = accessible(SIGNATURE)
    assert page.count("<dl") == page.count("</dl>") == 1
    assert re.findall(r'<span class="fm-parameter"><em class="sig-param">(x\d)</em>,</span>', page) == ["x0", "x1"]


def test_references_are_items_of_their_list() -> None:
    assert accessible('<div class="citation" role="doc-biblioentry">') == '<div class="citation" role="listitem">'


def test_an_arrow_of_the_sidebar_says_what_it_unfolds() -> None:
    one = '<li><a href="api.html"><code>API</code></a><details><summary><span></span></summary></details></li>'
    assert 'summary aria-label="Pages below API"' in named_folds(one)
    two = '<a href="a.html">First</a><ul></ul><a href="b.html">Second</a><details open=""><summary>'
    assert re.findall(r'aria-label="([^"]*)"', named_folds(two)) == ["Pages below Second"]


@built
def test_code_that_only_draws_or_prints_is_below_what_it_made() -> None:
    total = 0
    for name in pages_in_toc(ROOT):
        source, page = (ROOT / "book" / f"{name}.md").read_text(), (HTML / f"{name}.html").read_text()
        for tag, summary in CODE_OF.items():
            wanted = len(re.findall(rf"^(?:tags: |:tags: )\[{tag}\]$", source, re.MULTILINE))
            folds = re.findall(rf'<details class="fm-folded fm-folded-code"><summary>{summary}</summary>', page)
            assert len(folds) == wanted, (name, tag)
            total += wanted
        for start in (match.start() for match in re.finditer(r'<details class="fm-folded fm-folded-code">', page)):
            cell = page.rindex('<div class="cell ', 0, start)
            assert "cell_output" in page[cell:start], name
            assert "cell_input" not in page[cell:start], name
    assert total >= 20


@built
def test_the_search_knows_the_words_of_every_section() -> None:
    text = (HTML / "_static" / "sections.js").read_text()
    known = json.loads(text.removeprefix("const PAGES = ").rstrip().rstrip(";"))
    pages = {page for page, *_ in known["sections"]}
    assert set(pages_in_toc(ROOT)) <= pages
    assert set(known["titles"]) >= pages
    for page, anchor, title, words in known["sections"]:
        assert f'id="{anchor}"' in (HTML / f"{page}.html").read_text(), (page, anchor)
        assert title
        assert "<svg" not in words
        assert "\\begin{" not in words
    assert not any(re.search(r"\bchen2018neural\b", words) for *_, words in known["sections"]), "a key, not an author"


@built
def test_a_picture_that_a_cell_draws_has_a_box_that_scrolls() -> None:
    """Not the stills of a figure to play with, which are as wide as the figure."""
    for name in ("03_flow_matching", "05_paths"):
        page = (HTML / f"{name}.html").read_text()
        pictures = [match.start() for match in re.finditer(r"<img [^>]*_images/", page)]
        assert len(pictures) >= 3
        assert all(page[:start].rstrip().endswith('<div class="fm-figure docutils container">') for start in pictures)
