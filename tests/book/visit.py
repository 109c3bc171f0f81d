"""A browser for the tests of the built book: Chromium, offline, with every complaint of a page kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts)


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, or playwright's own; without one the test is skipped, aloud."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        bundled = Path(playwright.chromium.executable_path)
        if CHROMIUM is None and not bundled.exists():
            pytest.skip("no Chromium here: install one, or run `playwright install chromium`")
        started = playwright.chromium.launch(executable_path=CHROMIUM or str(bundled), args=FLAGS)
        yield started
        started.close()


class Visit:
    """A page opened offline, and everything that went wrong while it was open."""

    def __init__(self, browser: Any, width: int = 1280, scheme: str = "light", **settings: Any) -> None:
        # With less motion asked for, nothing plays by itself, and what changes is what the test moved.
        look = {"color_scheme": scheme, "reduced_motion": "reduce", **settings}
        self.context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, **look)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.route(re.compile(r"^(?!file:|data:|blob:|about:)"), self._refuse)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self._failed)

    def _refuse(self, route: Any) -> None:
        self.requests.append(route.request.url)
        route.abort()

    def _failed(self, request: Any) -> None:
        # What is still on its way when the next page is asked for is given up by the browser, and is not missing.
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"not found: {request.url}")

    def open(self, path: Path) -> Any:
        self.requests.clear()
        self.errors.clear()
        self.page.goto(path.as_uri(), wait_until="load")
        # MathJax, where the page has it, says itself when the last formula is set.
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self.page

    def unfold(self) -> None:
        self.page.evaluate("() => document.querySelectorAll('article details').forEach(fold => fold.open = true)")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
