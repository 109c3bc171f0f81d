"""What every page owes to whoever reads it: whole lines, signs where something goes on, a keyboard, contrast, paper."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from visit import HTML, PAGES, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PAGES, reason="the book is not built: run make book first"),
]

CUT_CODE = """() => [...document.querySelectorAll('article pre')].filter(pre => pre.scrollWidth > pre.clientWidth)
    .map(pre => pre.textContent.split('\\n').reduce((a, b) => b.length > a.length ? b : a))"""

# What is wider than its box: it must scroll, and its ground must be the one that draws a shadow at the edge, with no
# other ground laid over it.
NO_SIGN = """() => {
const covered = box => {
    box.scrollIntoView({block: 'center'});
    const at = box.getBoundingClientRect();
    return [0.1, 0.3, 0.5, 0.7, 0.9].some(part => document.elementsFromPoint(at.right - 4, at.top + part * at.height)
        .some(e => e !== box && box.contains(e) && getComputedStyle(e).backgroundColor !== 'rgba(0, 0, 0, 0)'));
};
return [...document.querySelectorAll('article, article *')].filter(box => {
    const look = getComputedStyle(box), over = box.scrollWidth - box.clientWidth;
    if (over <= 1 || look.display === 'inline' || look.overflowX === 'visible' || !box.checkVisibility()) return false;
    if (box.parentElement.closest('mjx-container')) return false;  // the parts of a glyph that is drawn out
    const grounds = look.backgroundAttachment.split(', ');
    const signed = grounds.includes('local') && grounds.includes('scroll') && !covered(box);
    return !(['auto', 'scroll'].includes(look.overflowX) && signed);
}).map(box => box.outerHTML.slice(0, 120));
}"""
WIDE_FORMULAS = """() => [...document.querySelectorAll('article mjx-container[display="true"]')]
    .filter(box => box.scrollWidth > box.clientWidth)
    .map(box => MathJax.startup.document.getMathItemsWithin(box)[0]?.math ?? box.textContent)"""

TAB_STOPS_IN_FORMULAS = "() => document.querySelectorAll('mjx-container[tabindex], mjx-container [tabindex]').length"
HERE = """() => { const at = document.activeElement, look = getComputedStyle(at);
    return [at.tagName, at.className, look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2,
            at.outerHTML.slice(0, 120)]; }"""

# Without its preload, axe does not fetch the style sheets again, which a browser refuses it for pages from a folder.
AXE = """(rules) => axe.run(document, {resultTypes: ['violations'], preload: false,
        runOnly: rules ? {type: 'rule', values: rules} : ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})
    .then(found => found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => `${v.id}, ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 160)} ${v.nodes[0].failureSummary}`))"""

# On paper nothing scrolls, so what a box hides is lost, and an empty frame is noise.
ON_PAPER = """() => {
    const shown = box => box.checkVisibility({contentVisibilityAuto: true}) && box.getBoundingClientRect().height > 0;
    const all = names => [...document.querySelectorAll(names)];
    return {
        cut: all('article :is(pre, mjx-container[display="true"], table, dt.sig)').filter(shown)
            .filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent.slice(0, 60)),
        hidden: all('article .fm-folded-proof > *').filter(box => !shown(box)).length,
        solutions: all('article .fm-folded-solution').filter(shown).length,
        frames: all('article :is(pre, .highlight, .cell_input, .cell_output, .cell, details)').filter(shown)
            .filter(box => !box.innerText.trim() && !box.querySelector('img, svg, canvas'))
            .map(box => box.outerHTML.slice(0, 120)),
        left: all('article :is(.cell_input, .highlight)').filter(shown)  // at the foot of a page, its code on the next
            .filter(box => getComputedStyle(box).breakInside !== 'avoid').length,
    };
}"""
SCREEN = {"width": 1265, "height": 900}
A4 = {"width": 718, "height": 1046}  # 190 mm of text, in CSS pixels


def axe() -> str:
    """axe-core itself, as the package brings it along: no test goes online for it."""
    pytest.importorskip("axe_playwright_python")
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def test_no_line_of_code_is_cut(on_desktop: Visit) -> None:
    assert on_desktop.page.evaluate(CUT_CODE) == []


def test_no_formula_is_a_tab_stop(on_desktop: Visit) -> None:
    assert on_desktop.page.evaluate(TAB_STOPS_IN_FORMULAS) == 0


def test_axe_finds_nothing_serious(on_desktop: Visit) -> None:
    page = on_desktop.page
    page.evaluate(axe())
    assert page.evaluate(AXE) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(AXE, ["color-contrast"]) == []
    page.emulate_media(color_scheme="light")


def test_a_page_prints_whole(on_desktop: Visit) -> None:
    page = on_desktop.page
    page.evaluate("() => document.querySelectorAll('article details').forEach(fold => fold.open = false)")
    page.emulate_media(media="print")
    page.set_viewport_size(A4)
    found = page.evaluate(ON_PAPER)
    page.emulate_media(media="screen")
    page.set_viewport_size(SCREEN)
    on_desktop.unfold()
    assert found == {"cut": [], "hidden": 0, "solutions": 0, "frames": [], "left": 0}


def test_paper_is_light_whatever_the_screen_was(browser: Any) -> None:
    with Visit(browser, scheme="dark") as visit:
        page = visit.open(HTML / "03_flow_matching.html")
        page.emulate_media(media="print", color_scheme="dark")
        brightest = page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('article :is(p, h2, pre span, mjx-math, a, code)')]
                .flatMap(e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)))"""
        )
        assert brightest < 3 * 150


def test_what_is_wider_than_a_phone_shows_that_it_goes_on(on_phone: Visit) -> None:
    assert on_phone.page.evaluate(NO_SIGN) == []


def test_every_displayed_formula_fits_a_phone(on_phone: Visit) -> None:
    assert on_phone.page.evaluate(WIDE_FORMULAS) == []


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
    "contrast": (AXE, "<p style='color:#2f86bd;background:#fff'>noise</p>"),
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
