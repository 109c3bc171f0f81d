"""One browser for all tests of the built book, and a page loaded once for all tests that look at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from visit import HTML, PAGES, Visit, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def desktop(browser: Any) -> Iterator[Visit]:
    with Visit(browser) as visit:
        yield visit


@pytest.fixture(scope="session", params=PAGES)
def on_desktop(request: pytest.FixtureRequest, browser: Any) -> Iterator[Visit]:
    """Each page at 1280 pixels, 15 of which a scroll bar takes in many browsers; nothing is left folded."""
    with Visit(browser, width=1265) as visit:
        visit.open(HTML / request.param)
        visit.unfold()
        yield visit


@pytest.fixture(scope="session", params=PAGES)
def on_phone(request: pytest.FixtureRequest, browser: Any) -> Iterator[Visit]:
    with Visit(browser, width=390, scheme="dark") as visit:
        visit.open(HTML / request.param)
        visit.unfold()
        yield visit
