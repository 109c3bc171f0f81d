"""Executes the pages of the book side by side, before Sphinx reads them one after the other.

Pages are read, matched and run by the functions of myst-nb, and land in the cache in which it then finds them. A page
that it would not find there it executes itself, later and alone.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
LONG = 60  # seconds on one thread, the most that the book's design gives a page
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class PagesFailed(SphinxError):
    """Names the pages that failed."""

    category = "Pages failed"


@dataclass
class Page:
    """A page on its way through a kernel: the cell it is at, and what stopped it there."""

    name: str
    path: Path
    notebook: NotebookNode
    at: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    def begin(self, cell: NotebookNode, cell_index: int) -> None:
        self.at = cell_index

    def report(self) -> str:
        """Where the page stopped, in which cell, and why: for a person, so without the colours of a terminal."""
        lines = self.notebook.metadata.get("source_map", [0] * len(self.notebook.cells))
        cell = self.notebook.cells[self.at].source
        why = COLOUR.sub("", f"{type(self.error).__name__}: {self.error}").strip()
        return f"{self.path}:{lines[self.at] + 1}\n{why}\n" + (f"\n{cell}\n" if cell not in why else "")


def cores() -> int:
    """How many cores this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stale_pages(env: BuildEnvironment, names: list[str], cache: JupyterCacheAbstract) -> list[Page]:
    """The pages that the cache does not know, those with most cells first, so that the cores finish together."""
    config: NbParserConfig = env.mystnb_config
    pages = []
    for name in names:
        path = Path(env.doc2path(name))
        text = path.read_text(encoding="utf-8-sig")
        reader = create_nb_reader(str(path), env.myst_config, config, text)
        if reader is None:  # no code
            continue
        page = Page(name, path, reader.read(text))
        if config.metadata_key in page.notebook.metadata:  # settings of its own, which only myst-nb reads
            continue
        try:
            cache.match_cache_notebook(page.notebook)
        except KeyError:
            pages.append(page)
    return sorted(pages, key=lambda page: sum(cell.cell_type == "code" for cell in page.notebook.cells), reverse=True)


def execute(page: Page, config: NbParserConfig) -> Page:
    """Runs a page in a kernel of its own."""
    start = time.perf_counter()
    try:
        page.error = single_nb_execution(
            page.notebook,
            cwd=str(page.path.parent),
            timeout=config.execution_timeout,
            allow_errors=config.execution_allow_errors,
            on_cell_execute=page.begin,
        ).err
    except Exception as error:  # a kernel that died or never came up stops its own page only
        page.error = error
    page.seconds = time.perf_counter() - start
    return page


def say(page: Page, reports: Path) -> None:
    """A line for each page as it ends, and what stopped it, here and in a file."""
    long = f", longer than the {LONG} s a page may take" if page.seconds > LONG else ""
    if page.error is None:
        LOGGER.info(f"{page.name}: executed in {page.seconds:.1f} s{long}")
        return
    LOGGER.info(f"{page.name}: failed after {page.seconds:.1f} s{long}\n\n{page.report()}")
    file = reports / f"{page.name}.err.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page.report())


def execute_side_by_side(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Executes the stale ones of these pages, as many at once as there are cores, one thread each.

    Raises:
        PagesFailed: at the end, if a page failed. The others are in the cache then, and it is not.
    """
    config: NbParserConfig = env.mystnb_config
    if config.execution_mode != "cache":
        return
    os.environ |= dict.fromkeys(ONE_THREAD, "1")
    reports = Path(app.outdir) / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    cache = get_cache(config.execution_cache_path)
    failed = []
    # Threads are enough, each only listens to its kernel; this one alone opens the cache's database.
    with ThreadPool(cores()) as pool:
        for page in pool.imap_unordered(lambda page: execute(page, config), stale_pages(env, names, cache)):
            say(page, reports)
            if page.error is None:
                bundle = CacheBundleIn(page.notebook, str(page.path), data={"execution_seconds": page.seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            else:
                failed.append(page.name)
    if failed:
        raise PagesFailed(f"{', '.join(sorted(failed))}: the cells and tracebacks stand above, and in {reports}")
