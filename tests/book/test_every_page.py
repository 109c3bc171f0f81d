"""Every page of the built book, as its reader opens it: each is loaded once at a width, for all that is looked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from looks import on_a_desktop, on_a_phone
from visit import HTML, PAGES, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason="the book is not built: run make book first"),
]


@pytest.fixture(scope="module")
def wide(browser: Any) -> Iterator[Visit]:
    """A desktop's 1280 pixels, 15 of which a scroll bar takes in many browsers."""
    with Visit(browser, width=1265) as visit:
        yield visit


@pytest.fixture(scope="module")
def narrow(browser: Any) -> Iterator[Visit]:
    with Visit(browser, width=390, scheme="dark") as visit:
        yield visit


@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_a_desktop_and_on_paper(wide: Visit, name: str) -> None:
    wide.open(HTML / name)
    wide.unfold()
    assert {what: found for what, found in on_a_desktop(wide).items() if found} == {}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_a_phone(narrow: Visit, name: str) -> None:
    narrow.open(HTML / name)
    narrow.unfold()
    assert {what: found for what, found in on_a_phone(narrow).items() if found} == {}


EVERY_FAULT = r"""<!doctype html><html lang=en data-theme=light><title>x</title>
<style>p { color: #777 } [data-theme=dark] p { background: #888 }</style>
<script>matchMedia('(prefers-color-scheme: dark)').addEventListener('change',
    e => document.documentElement.dataset.theme = e.matches ? 'dark' : 'light')</script>
<script>throw new Error('planted')</script>
<body><img src="https://example.org/x.png"><article><p>words</p>
<div class=math>\(x\)</div>
<pre style="width: 200px; overflow: auto">WIDE</pre>
<mjx-container display=true style="display: block; overflow: auto; width: 200px" tabindex=0>WIDE</mjx-container>
<div style="width: 900px">words</div></article>""".replace("WIDE", 80 * "x")


def test_the_looks_find_every_fault_on_a_page_that_has_them_all(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(EVERY_FAULT)
    for width, look in ((1265, on_a_desktop), (390, on_a_phone)):
        with Visit(browser, width=width) as visit:
            visit.open(tmp_path / "page.html")
            missed = [what for what, found in look(visit).items() if not found]
        assert missed == []


def test_a_missing_file_is_told_from_one_that_the_browser_gave_up(browser: Any, tmp_path: Path) -> None:
    with Visit(browser) as visit:
        (tmp_path / "page.html").write_text("<!doctype html><title>x</title><img src=missing.png>")
        visit.open(tmp_path / "page.html")
        assert [error for error in visit.errors if "missing.png" in error] != []
        failed: list[str] = []
        visit.page.on("requestfailed", lambda request: failed.append(request.failure))
        visit.page.route("**/slow.png", lambda route: None)  # never answered
        visit.page.evaluate("() => { new Image().src = 'slow.png' }")
        visit.open(tmp_path / "page.html")
        assert "net::ERR_ABORTED" in failed
        assert not any("slow.png" in error for error in visit.errors)
