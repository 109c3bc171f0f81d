"""One browser for all tests of the built book."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from visit import Visit, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def desktop(browser: Any) -> Iterator[Visit]:
    with Visit(browser) as visit:
        yield visit
