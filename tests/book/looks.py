"""What is looked for on every page of the built book: a look returns what is wrong, and nothing where all is well."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from visit import Visit

RAW_MATH = r"""() => [...document.querySelectorAll('article .math')].filter(
    box => !box.querySelector('mjx-container') || /\\[(\[]/.test(box.textContent) || box.querySelector('mjx-merror')
).map(box => box.textContent.slice(0, 80))"""
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

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
    .map(box => window.MathJax?.startup.document.getMathItemsWithin(box)[0]?.math ?? box.textContent)"""

TAB_STOPS_IN_FORMULAS = "() => document.querySelectorAll('mjx-container[tabindex], mjx-container [tabindex]').length"

# Contrast is decided by a text's own look and by every ground it stands on, and measuring it is most of axe's work. A
# chapter has thousands of words and some hundred looks: axe measures the first and the last word of each.
EACH_LOOK = """() => {
    const grounds = [], texts = [], looks = {}, controls = 'input, select, textarea, button';
    for (const e of document.querySelectorAll('html, body, body *')) {
        delete e.dataset.look;
        if (!e.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true})) continue;
        const look = getComputedStyle(e), ground = look.backgroundColor + look.backgroundImage + look.opacity;
        const at = e.getBoundingClientRect(), words = [...e.childNodes].filter(n => n.nodeType === Node.TEXT_NODE);
        if (ground !== 'rgba(0, 0, 0, 0)none1') grounds.push([e, at, ground]);
        if (at.width > 1 && at.height > 1 && (e.matches(controls) || words.some(n => n.data.trim())))
            texts.push([e, at, [look.color, look.fontSize, look.fontWeight, look.textShadow,
                /\\w\\w/.test(e.textContent), !!e.closest('[disabled], [aria-disabled]'), e.matches(controls)]]);
    }
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    for (const [e, at, own] of texts) {
        const below = grounds.filter(([g, box]) => meet(at, box) && (g === e || !e.contains(g))).map(found => found[2]);
        (looks[[...own, ...below].join('|')] ??= []).push(e);
    }
    for (const same of Object.values(looks)) same[0].dataset.look = same.at(-1).dataset.look = '';
    return [texts.length, Object.keys(looks).length];
}"""

# Without its preload, axe does not fetch the style sheets again, which a browser refuses it for pages from a folder.
AXE = """(rules) => {
    axe.configure({rules: [{id: 'color-contrast', selector: '[data-look]'}]});
    return axe.run(document, {resultTypes: ['violations'], preload: false,
        runOnly: rules ? {type: 'rule', values: rules} : ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})
    .then(found => found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
        .map(v => `${v.id}, ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 160)} ${v.nodes[0].failureSummary}`));
}"""

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


def serious(page: Any, rules: list[str] | None = None) -> list[str]:
    """What axe finds by all its rules, or by these."""
    page.evaluate(EACH_LOOK)
    return page.evaluate(AXE, rules)


def in_the_dark(page: Any) -> list[str]:
    """Colours are all that a dark page changes."""
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    found = serious(page, ["color-contrast"])
    page.emulate_media(color_scheme="light")
    return found


def on_paper(page: Any) -> dict[str, Any]:
    """What goes wrong on A4, where the page was folded as its reader opened it."""
    page.evaluate("() => document.querySelectorAll('article details').forEach(fold => fold.open = false)")
    page.emulate_media(media="print")
    page.set_viewport_size(A4)
    found = page.evaluate(ON_PAPER)
    page.emulate_media(media="screen")
    page.set_viewport_size(SCREEN)
    return {what: seen for what, seen in found.items() if seen}


def on_a_desktop(visit: Visit) -> dict[str, Any]:
    """All that may be wrong with a page that is open at 1280 pixels, unfolded."""
    page = visit.page
    page.evaluate(axe())
    return {
        "formulas not set": page.evaluate(RAW_MATH),
        "TeX in the text": "\\(" in page.inner_text("body"),
        "lines of code cut": page.evaluate(CUT_CODE),
        "formulas that are Tab stops": page.evaluate(TAB_STOPS_IN_FORMULAS),
        "axe": serious(page),
        "axe in the dark": in_the_dark(page),
        "on paper": on_paper(page),
        "asked of the network": visit.requests,
        "errors": visit.errors,
    }


def on_a_phone(visit: Visit) -> dict[str, Any]:
    """All that may be wrong with a page that is open at 390 pixels, unfolded."""
    page = visit.page
    wide = "() => [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > 391)"
    names = page.evaluate(f"() => ({wide})().slice(0, 5).map(e => e.outerHTML.slice(0, 90))")
    return {
        "wider than the screen": names if page.evaluate(SIDEWAYS) > 0 else [],
        "wide without a sign": page.evaluate(NO_SIGN),
        "formulas too wide": page.evaluate(WIDE_FORMULAS),
        "errors": visit.errors,
    }
