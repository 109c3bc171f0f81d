"""What every page owes to whoever reads it: whole lines, signs where something goes on, a keyboard, contrast, paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from looks import AXE, CUT_CODE, NO_SIGN, ON_PAPER, TAB_STOPS_IN_FORMULAS, axe, serious
from visit import HTML, PAGES, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason="the book is not built: run make book first"),
]

HERE = """() => { const at = document.activeElement, look = getComputedStyle(at);
    return [at.tagName, at.className, look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2,
            at.outerHTML.slice(0, 120)]; }"""


def test_paper_is_light_whatever_the_screen_was(browser: Any) -> None:
    with Visit(browser, scheme="dark") as visit:
        page = visit.open(HTML / "03_flow_matching.html")
        page.emulate_media(media="print", color_scheme="dark")
        brightest = page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('article :is(p, h2, pre span, mjx-math, a, code)')]
                .flatMap(e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)))"""
        )
        assert brightest < 3 * 150


def edge(page: Any, box: Any) -> bytes:
    """The last ten pixels at the right edge of what is seen of a box."""
    at = box.bounding_box()
    clip = {"x": at["x"] + at["width"] - 10, "y": at["y"] + at["height"] - 8, "width": 8, "height": 6}
    return bytes(page.screenshot(clip=clip))


def test_the_shadow_goes_when_the_end_is_reached(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    sheet = (HTML / "_static" / "fmtutor.css").as_uri()
    path.write_text(
        f"<!doctype html><html data-theme=light><link rel=stylesheet href='{sheet}'><style>html{{--pst-color-surface:"
        "#fff;--pst-color-background:#fff}</style><body><main class=bd-main><article class=bd-article>"
        f"<pre style='overflow-x:auto'>{'x = 1   ' * 30}\n</pre><pre>\n</pre></article></main></body></html>"
    )
    with Visit(browser, width=390) as visit:
        page = visit.open(path)
        wide, short = page.query_selector_all("pre")
        assert edge(page, wide) != edge(page, short)
        wide.evaluate("box => box.scrollLeft = box.scrollWidth")
        page.wait_for_timeout(100)
        assert edge(page, wide) == edge(page, short)


def test_a_wide_figure_keeps_its_letters_on_a_phone(browser: Any, tmp_path: Path) -> None:
    """At three quarters of its size and more, in a box that scrolls; a narrow one and a desktop are as they were."""
    svg = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='{}' height='90'/%3E"
    figures = "".join(
        f'<div class=cell_output><div class=fm-figure><img src="{svg.format(width)}"></div></div>'
        for width in (720, 200)
    )
    path = tmp_path / "page.html"
    sheet = (HTML / "_static" / "fmtutor.css").as_uri()
    path.write_text(
        f"<!doctype html><html><link rel=stylesheet href='{sheet}'><body><main class=bd-main>"
        f"<article class=bd-article><div class=cell>{figures}</div>"
        "</article></main></body></html>"
    )
    for width, least, most in ((390, 540, 600), (1280, 720, 720)):
        with Visit(browser, width=width) as visit:
            page = visit.open(path)
            wide, narrow = (img.bounding_box()["width"] for img in page.query_selector_all("img"))
            assert least <= wide <= most
            assert narrow == 200
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_shows_where_it_is(desktop: Visit) -> None:
    """From the top of a page through the search and the sidebar to the buttons of the header."""
    page = desktop.open(HTML / "02_continuous_flows.html")
    met = []
    for _ in range(32):
        page.keyboard.press("Tab")
        tag, name, outlined, markup = page.evaluate(HERE)
        assert outlined, markup
        met.append(f"{tag} {name}")
    for wanted in ("search-button", "reference internal", "SUMMARY", "btn-fmtutor-notebook", "theme-switch"):
        assert any(wanted in stop for stop in met), (wanted, met)


@pytest.mark.parametrize("words", ["Hutchinson", "marginal velocity", "UNet"])
def test_the_search_works_from_a_folder(desktop: Visit, words: str) -> None:
    page, search = desktop.page, (HTML / "search.html").as_uri()
    desktop.errors.clear()
    page.goto(f"{search}?q={words.replace(' ', '+')}", wait_until="load")
    page.wait_for_selector("ul.search li a[href*='#']")
    found = [item.inner_text().lower() for item in page.query_selector_all("ul.search li:has(.context)")]
    assert found
    assert all(word in found[0] for word in words.lower().split())
    link = page.query_selector("ul.search li:has(.context) a")
    target, anchor = link.get_attribute("href").split("#")
    assert f'id="{anchor}"' in (HTML / target).read_text()
    assert desktop.errors == []
    page.goto(f"{search}?q=zzzyx", wait_until="load")
    page.wait_for_function("() => document.body.innerText.includes('Nothing found:')")


@pytest.mark.parametrize("name", [name for name in PAGES if 'class="fmtutor-explore' in (HTML / name).read_text()])
def test_a_page_without_scripts_shows_its_stills(browser: Any, name: str) -> None:
    with Visit(browser, java_script_enabled=False) as visit:
        visit.page.goto((HTML / name).as_uri())
        assert "JavaScript is switched off" in visit.page.inner_text("article .fm-no-script")
        for figure in visit.page.query_selector_all(".fmtutor-explore"):
            picture = figure.query_selector("img")
            assert picture is not None
            assert picture.is_visible()
            assert not any(control.is_visible() for control in figure.query_selector_all("button, canvas, input"))


COVERED = (
    "<div style='width:200px;overflow:auto;background:linear-gradient(red,red) local,linear-gradient(red,red) scroll'>"
    "<div style='width:300px;background:white'>wide</div></div>"
)
PLANTED = {
    "cut": (CUT_CODE, "<pre style='width:200px;overflow:auto'>" + 80 * "x" + "</pre>"),
    "no sign": (NO_SIGN, "<div style='width:200px;overflow:auto'><div style='width:300px'>wide</div></div>"),
    "covered": (NO_SIGN, COVERED),
    "hidden": (NO_SIGN, "<div style='width:200px;overflow:hidden'><div style='width:300px'>wide</div></div>"),
    "tab stop": (TAB_STOPS_IN_FORMULAS, "<mjx-container tabindex=0>x</mjx-container>"),
    "list": (AXE, "<div role=list><a href='#x'>one</a></div>"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_the_checks_find_what_is_planted(browser: Any, tmp_path: Path, kind: str) -> None:
    check, markup = PLANTED[kind]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html lang=en><title>x</title><body><article>{markup}</article></body></html>")
    with Visit(browser) as visit:
        page = visit.open(path)
        page.evaluate(axe())
        assert page.evaluate(check)


FAINT = {
    "its colour": "<p style='color:#2f86bd'>words</p>",
    "its size": "<p style='color:#888;font-size:12px'>words</p>",
    "its weight": "<p style='color:#888;font-size:20px;font-weight:400'>words</p>",
    "its ground": "<p style='background:#555'>words</p>",
    "a ground far below": "<div style='background:#545454'><div><p>words</p></div></div>",
    "a veil": "<div style='opacity:.4'><p>words</p></div>",
    "a box beside it": "<div style='position:relative'><i style='position:absolute;inset:0;background:#565656'></i>"
    "<p style='position:relative'>words</p></div>",
}


@pytest.mark.parametrize("place", ["first", "between", "last"])
def test_a_faint_word_among_many_is_found(browser: Any, tmp_path: Path, place: str) -> None:
    """One text of each look finds what all texts find, wherever the faint ones stand among those that are not."""
    good = "<p>words</p><p style='color:#888;font-size:20px;font-weight:700'>words</p>" * 20
    faint = "".join(FAINT.values())
    body = {"first": faint + good, "between": good + faint + good, "last": good + faint}[place]
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html lang=en><title>x</title><body>{body}")
    with Visit(browser) as visit:
        page = visit.open(path)
        page.evaluate(axe())
        (few,) = serious(page, ["color-contrast"])
        page.evaluate("() => document.querySelectorAll('p').forEach(text => text.dataset.look = '')")
        (all_of_them,) = page.evaluate(AXE, ["color-contrast"])
    assert few == all_of_them
    assert few.startswith(f"color-contrast, {len(FAINT)} times")


def test_the_check_of_paper_finds_what_is_planted(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><body><article><pre style='width:200px;overflow:hidden'>" + 80 * "x" + "</pre>"
        "<details class=fm-folded-proof><summary>Proof</summary><p>words</p></details>"
        "<details class=fm-folded-solution><summary>Solution</summary><p>words</p></details>"
        "<div class=cell_input style='height:20px'></div></article></body>"
    )
    with Visit(browser) as visit:
        found = visit.open(path).evaluate(ON_PAPER)
    assert all(found.values()), found
