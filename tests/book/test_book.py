"""The machinery of the book, on tiny books with the real configuration; and what the built book must hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

for needed in ("jupyter_book", "sphinx_proof", "sphinx_exercise", "myst_nb"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from execute_pages import cores  # noqa: E402
from myst_index import Book, address_of_test, pages_in_toc  # noqa: E402


def not_built() -> bool:
    """Whether a page is missing from the built book, or was changed after it was built."""
    sources = ((ROOT / "book" / f"{name}.md", HTML / f"{name}.html") for name in pages_in_toc(ROOT))
    return any(not page.exists() or page.stat().st_mtime < source.stat().st_mtime for source, page in sources)


built = pytest.mark.skipif(not_built(), reason="the book is not built, or older than its pages: run make book first")

HEAD = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
"""


def tiny(root: Path, **pages: str) -> Path:
    """A book of the given pages with the real configuration, extension and package versions."""
    shutil.copytree(ROOT / "book" / "_ext", root / "book" / "_ext", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    for name in ("_config.yml", "pyproject.toml", "constraints.txt", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    (root / "fmtutor").mkdir()
    (root / "fmtutor" / "__init__.py").write_text("")
    names = list(pages)
    chapters = "".join(f"  - file: {name}\n" for name in names[1:])
    (root / "_toc.yml").write_text(
        f"format: jb-book\nroot: {names[0]}\n" + (f"chapters:\n{chapters}" if chapters else "")
    )
    for name, text in pages.items():
        (root / "book" / f"{name}.md").write_text(text)
    return root


def build(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command of `make book`, less its `rm`: the extension has to do without it."""
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        "book",
        "--config",
        f"{root}/_config.yml",
    ]
    command += ["--toc", f"{root}/_toc.yml", "--path-output", ".", "-W", "-n", "--keep-going"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)


STATEMENTS = r"""
# A page

See {prf:ref}`here`, {eq}`sum` and {cite}`lipman2023flow`, after [noise]{.fm-noise}.

$$\noise{x} + \data{y}$$ (sum)

```{prf:theorem} Named
:label: here
One.
```
```{prf:proof}
:class: dropdown
Plain.
```
```{exercise} Two
:label: two
What?
```
```{solution} two
:class: dropdown
This.
```
```{code-cell} ipython3
---
mystnb:
  image:
    alt: A line that falls
---
import matplotlib.pyplot as plt

plt.plot([1, 0]);
```

```{bibliography}
```
"""


def test_a_sound_page_builds_and_a_failed_cell_fails_every_time(tmp_path: Path) -> None:
    root = tiny(tmp_path, index="# Start\n", **{"03_page": HEAD + STATEMENTS})
    sound = build(root)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    page = (root / "_build" / "html" / "03_page.html").read_text()
    for wanted in ("Theorem 3.1", "Exercise 3.1", 'alt="A line that falls"', "<summary>Proof</summary>", "fm-noise"):
        assert wanted in page, wanted
    assert "<summary>Solution" in page
    owner = Book(root).repository.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{owner}/blob/main/notebooks/03_page.ipynb" in page
    assert 'href="notebooks/03_page.ipynb"' in page
    assert (root / "_build" / "html" / "notebooks" / "03_page.ipynb").exists()
    assert "_sources/03_page.ipynb" not in page

    source = root / "book" / "03_page.md"
    source.write_text(source.read_text() + "\n```{code-cell} ipython3\nraise RuntimeError('planted')\n```\n")
    for attempt in ("first", "second"):
        failed = build(root)
        assert failed.returncode != 0, f"the {attempt} build after planting an error passed"
        assert "planted" in failed.stdout + failed.stderr


def cell(code: str) -> str:
    """A code cell that first leaves a line in `runs.txt`, so that executions can be counted."""
    return f"```{{code-cell}} ipython3\nopen('runs.txt', 'a').write('run\\n')\n{code}\n```\n"


def meeting(me: str, other: str) -> str:
    """A page that ends only where the other one is being executed at the same time."""
    return cell(f"""\
import os, pathlib, time
pathlib.Path("{me}.here").touch()
for _ in range(200):
    if pathlib.Path("{other}.here").exists():
        break
    time.sleep(0.1)
else:
    raise RuntimeError("alone")
print("threads:", os.environ["OMP_NUM_THREADS"])
{{"{me}": 1}}""")


def executed(root: Path) -> dict[str, Any]:
    """What the cache holds, by hash, without the ids that are drawn anew at each reading."""
    found = (root / "_build" / ".jupyter_cache").glob("*/executed/*/base.ipynb")
    notebooks = {path.parent.name: json.loads(path.read_text()) for path in found}
    for notebook in notebooks.values():
        for code in notebook["cells"]:
            code.pop("id", None)
    return notebooks


@pytest.mark.skipif(cores() < 2, reason="on one core pages are executed one after the other")
def test_pages_are_executed_side_by_side_and_once(tmp_path: Path) -> None:
    pages = {"index": "# Start\n", "03_page": HEAD + "# A\n\n" + meeting("a", "b")}
    root = tiny(tmp_path / "ours", **pages, **{"04_page": HEAD + "# B\n\n" + meeting("b", "a")})
    for attempt in ("first", "second"):
        done = build(root, OMP_NUM_THREADS="4")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("03_page: executed in" in done.stdout) == (attempt == "first")
        assert (root / "book" / "runs.txt").read_text() == "run\n" * 2, f"the {attempt} build executed a page again"
    assert "threads: 1" in (root / "_build" / "html" / "04_page.html").read_text()

    # By itself myst-nb runs one page after the other. What it stores is the same, to the byte.
    alone = tiny(tmp_path / "alone", **pages)
    (alone / "book" / "_ext" / "execute_pages.py").write_text("def execute_side_by_side(app, env, names): ...\n")
    (alone / "book" / "b.here").touch()
    assert build(alone).returncode == 0
    ((key, wanted),) = executed(alone).items()
    assert executed(root)[key] == wanted
    assert wanted["cells"][0]["outputs"], "nothing to compare"


def test_pages_that_fail_name_themselves_and_stop_no_other(tmp_path: Path) -> None:
    pages = {"03_raises": cell("1 / 0"), "04_dies": cell("import os; os._exit(1)"), "08_sound": cell("print(2 * 21)")}
    root = tiny(tmp_path, index="# Start\n", **{name: f"{HEAD}# Page\n\n{code}" for name, code in pages.items()})
    for runs in (3, 5):
        failed = build(root)
        said = failed.stdout + failed.stderr
        assert failed.returncode != 0
        for wanted in ("book/03_raises.md:8\n", "book/04_dies.md:8\n", "ZeroDivisionError", "DeadKernelError"):
            assert wanted in said, said
        assert "\n1 / 0\n" in said, "the cell is not shown"
        assert "\nimport os; os._exit(1)\n" in said, "the cell is not shown"
        assert "\n03_raises, 04_dies: " in said, "the last lines name them once more"
        assert (root / "book" / "runs.txt").read_text() == "run\n" * runs, "the sound page was not executed once"
        report = (root / "_build" / "html" / "reports" / "03_raises.err.log").read_text()
        assert "ZeroDivisionError" in report
        assert "\x1b" not in report

    (root / "book" / "03_raises.md").write_text(f"{HEAD}# Page\n\n{cell('1 / 1')}")
    (root / "book" / "04_dies.md").write_text(f"{HEAD}# Page\n\n{cell('1 / 2')}")
    mended = build(root)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert not (root / "_build" / "html" / "reports").exists()


def test_a_broken_reference_fails(tmp_path: Path) -> None:
    broken = "# Start\n\nSee {prf:ref}`nowhere`, {cite}`nobody2000` and {py:class}`fmtutor.Nothing`.\n"
    failed = build(tiny(tmp_path, index=broken))
    assert failed.returncode != 0
    for name in ("nowhere", "nobody2000", "fmtutor.Nothing"):
        assert name in failed.stdout + failed.stderr, f"{name} went unnoticed"


def test_a_page_links_to_a_test_by_its_name(tmp_path: Path) -> None:
    root = tiny(tmp_path, index="# Start\n\nSee {test}`that <test_there>`.\n")
    for name in ("here", "elsewhere"):
        (root / "tests" / name).mkdir(parents=True)
    file = root / "tests" / "here" / "test_it.py"
    file.write_text("\n\ndef test_there() -> None: ...\n")
    sound = build(root)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    link = f"{Book(root).repository}/blob/main/tests/here/test_it.py"
    assert address_of_test(root, "test_there") == link
    assert f'href="{link}#L3"' in (root / "_build" / "html" / "index.html").read_text()
    file.write_text("def test_renamed() -> None: ...\n")
    gone = build(root)
    assert gone.returncode != 0
    assert "'test_there' stands in no file" in gone.stdout + gone.stderr


def test_the_execution_cache_sees_the_package_the_pins_and_the_results(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_external_toc")
    from fmtutor_book import cache_key

    root = tiny(tmp_path, index="# Start\n")
    keys = [cache_key(root)]
    assert cache_key(root) == keys[0]
    (root / "fmtutor" / "deep").mkdir()
    for name, text in (
        ("fmtutor/__init__.py", "x = 1\n"),
        ("fmtutor/__init__.py", "x = 2\n"),
        ("fmtutor/deep/new.py", ""),
        ("constraints.txt", "torch==0\n"),
        ("book/results/speed.json", "{}"),
        ("book/results/speed.json", '{"seconds": 1}'),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
        keys.append(cache_key(root))
    (root / "fmtutor" / "deep" / "new.py").rename(root / "fmtutor" / "deep" / "renamed.py")
    keys.append(cache_key(root))
    assert len(set(keys)) == len(keys), "a change went unnoticed"
    (root / "README.md").write_text("no matter")
    assert cache_key(root) == keys[-1]


def test_the_repository_is_named_in_one_place() -> None:
    name = Book(ROOT).repository.removeprefix("https://github.com/")
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "book").rglob("*.md"), *(ROOT / "book").rglob("*.py")]
    sources += [*(ROOT / "fmtutor").rglob("*.py"), *(ROOT / "book" / "_static").rglob("*.css")]
    assert [path.name for path in sources if f"github.com/{name}" in path.read_text()] == []


def test_every_chapter_leaves_its_number_to_its_file_name() -> None:
    for page in Book(ROOT).pages.values():
        assert not re.match(r"(chapter )?\d", page.title, re.IGNORECASE), f"{page.name}.md is numbered twice"


def too_wide(page: str) -> list[str]:
    """Lines of code on a page that would have to be scrolled to be read at its full width."""
    cells = re.findall(r"^```(?:\{code-cell\}|python).*?\n(?:---\n.*?^---\n)?(.*?)^```", page, re.M | re.S)
    lines = [line for cell in cells for line in cell.splitlines() if len(line) > 98]
    return [line for line in lines if not line.endswith("# KL(target, flow) in nats")]  # the program, as it stands


def broken_numbers(page: str) -> list[str]:
    """Numbers in the text that the end of a line may tear at their gap, which wants a thin space that holds."""
    text = re.sub(r"^```(?:\{code-cell\}|python).*?^```|`[^`\n]*`", "", page, flags=re.M | re.S)
    return re.findall(r"(?<![\d.])\d{1,3} \d{3}\b", text)


def test_code_fits_the_page_and_numbers_hold_together() -> None:
    assert too_wide("```{code-cell} ipython3\n---\nalt: " + 99 * "a" + "\n---\nx = 1\n```\n") == []
    assert too_wide("```{code-cell} ipython3\nx = 1  # " + 99 * "a" + "\n```\n") != []
    assert broken_numbers("of 1 352 digits") == ["1 352"]
    assert broken_numbers("of 1\u202f352 digits, `x[1 000]`") == []
    for name in pages_in_toc(ROOT):
        page = (ROOT / "book" / f"{name}.md").read_text()
        assert too_wide(page) == [], name
        assert broken_numbers(page) == [], name


class Reader(HTMLParser):
    """Collects what the tests look at: pictures, ids, classes of check cards."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.cards: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        if tag == "img":
            self.images.append(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        classes = attributes.get("class", "").split()
        self.cards += [name.removeprefix("fmtutor-check-") for name in classes if name.startswith("fmtutor-check-")]


def no_real_alt(image: dict[str, str]) -> bool:
    """An alt text is missing, is a file's name, or is a word or two."""
    alt = image.get("alt", "").strip()
    return len(alt.split()) < 3 or bool(re.search(r"\.(png|svg|jpe?g|webp)$|^_images/|[0-9a-f]{32}", alt))


@pytest.mark.parametrize("alt", ["", "plot", "_images/3f2a.png", "../_images/" + "0" * 64 + ".png", "a figure.svg"])
def test_the_search_for_alt_text_finds_what_is_planted(alt: str) -> None:
    assert no_real_alt({"alt": alt})
    assert not no_real_alt({"alt": "A line that falls"})


def pages() -> list[Path]:
    return [HTML / f"{name}.html" for name in Book(ROOT).pages]


def article(path: Path) -> str:
    """What the author wrote, without the theme around it."""
    inside = path.read_text().partition('<article class="bd-article"')[2].partition("</article>")[0]
    assert inside, f"{path.name} has no article"
    return inside


@built
def test_every_picture_says_what_there_is_to_see() -> None:
    for path in pages():
        body = article(path)
        poor = [image.get("src", "")[:80] for image in Reader(body).images if no_real_alt(image)]
        assert poor == [], f"{path.name} has pictures without alt text"


@built
def test_every_solution_passes_and_every_exercise_waits() -> None:
    exercises = solutions = 0
    for page in Book(ROOT).pages.values():
        if not page.has_code:
            continue
        cells = [part for block in page.blocks for part in block.walk() if part.kind == "code-cell"]
        tags = [set(cell.options.get("tags") or []) for cell in cells if "check." in cell.text]
        waiting, solved = sum("exercise" in t for t in tags), sum("solution" in t for t in tags)
        cards = Reader((HTML / f"{page.name}.html").read_text()).cards
        assert cards.count("passed") >= solved, f"{page.name}: a solution does not pass its own check"
        assert cards.count("pending") == waiting, f"{page.name}: an exercise cell is not waiting for the reader"
        exercises, solutions = exercises + waiting, solutions + solved
    assert exercises == solutions


@built
def test_numbers_are_the_same_on_the_page_and_in_the_notebook() -> None:
    book = Book(ROOT)
    pattern = re.compile(r"\b(Theorem|Definition|Lemma|Proposition|Corollary|Exercise) (\d+(?:\.\d+)?)\b")
    for page in book.pages.values():
        if page.has_code:
            text = re.sub(r"<[^>]+>", "", (HTML / f"{page.name}.html").read_text())
            ours = {
                (part.kind.removeprefix("prf:").capitalize(), book.numbers[id(part)])
                for block in page.blocks
                for part in block.walk()
                if id(part) in book.numbers and part.kind != "math" and "figure" not in part.kind
            }
            shown = set(pattern.findall(" ".join(text.split())))
            assert {one for one in ours if one[0] != "Code-cell"} <= shown, page.name


@built
def test_ids_are_unique_on_every_page() -> None:
    for path in pages():
        ids = Reader(article(path)).ids
        assert sorted({one for one in ids if ids.count(one) > 1}) == [], path.name
