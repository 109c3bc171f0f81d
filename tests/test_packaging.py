"""The ground the project stands on: what is shipped, what is pinned, and that what is said twice is said the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fmtutor

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


def run(*command: str, cwd: Path = ROOT, code: int = 0) -> str:
    """The standard output of a command that has to end with `code`."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def tracked(*patterns: str) -> dict[str, str]:
    """The text of every tracked file that is text, by its path."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = {}
    for name in run("git", "-c", "safe.directory=*", "ls-files", "-z", "--", *patterns).split("\0"):
        if name and (ROOT / name).is_file():
            content = (ROOT / name).read_bytes()
            if b"\0" not in content:
                found[name] = content.decode(errors="replace")
    return found


# What is shipped


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked("fmtutor") if not name.endswith(".gitignore")} <= shipped
    measured = {Path(name).name for name in tracked("book/results")}
    assert {f"fmtutor/book_results/{name}" for name in measured} <= shipped  # what the notebooks read
    assert "fmtutor/py.typed" in shipped
    info = f"fmtutor-{PROJECT['version']}.dist-info/"
    assert {info + "licenses/LICENSE", info + "licenses/LICENSE-text"} <= shipped
    assert all(name.startswith(("fmtutor/", info)) for name in shipped)


HEAVY = {"IPython", "ipywidgets", "matplotlib", "ot", "pooch", "sklearn", "torchmetrics"}


def test_importing_the_package_leaves_the_heavy_libraries_alone():
    """A library is loaded by the first function that needs it; the second line shows that the probe would see one."""
    probe = f"""
import sys
import fmtutor
print(*{HEAVY!r} & sys.modules.keys())
import pooch
print(*{HEAVY!r} & sys.modules.keys())
"""
    assert run(sys.executable, "-c", probe).split("\n")[:2] == ["", "pooch"]


# What is pinned


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), (
        "a pin is name==version, without a local label"
    )
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned_inside_its_range():
    wanted = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement
        assert requirement.specifier, f"{requirement} needs a lower end"


def test_ranges_of_the_package_have_no_upper_end():
    """A notebook installs beside whatever Colab ships, and a cap would replace it."""
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert all(part.operator == ">=" for part in requirement.specifier), requirement


# What is said in more than one place


def mentions(text: str, repository: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(repository)}(?![\w-])", text) is not None


def test_the_repository_is_named_in_one_place():
    """Notebooks are generated from it, and travel alone; everything else reads it from pyproject.toml."""
    assert mentions(f"see github.com/{REPOSITORY}.git", REPOSITORY)
    sources = tracked(":!notebooks/*.ipynb")
    assert [name for name, text in sources.items() if mentions(text, REPOSITORY)] == ["pyproject.toml"]


ELSEWHERE = [  # written with a bracket, so that this file does not find itself
    r"[/](?:work|root|farm|opt/wheels|opt/pypi)/",
    r"[/]tmp/[a-z_]*jobs",
    r"[p]ypi\.org|[p]ythonhosted\.org|download\.[p]ytorch\.org|[r]egistry\.npmjs",
]


@pytest.mark.parametrize("pattern", ELSEWHERE, ids=["machine", "job", "registry"])
def test_no_tracked_file_knows_a_machine_or_a_registry(pattern):
    assert re.search(ELSEWHERE[0], "/" + "root/.cache")
    assert re.search(ELSEWHERE[2], "https://pypi" + ".org/simple")
    assert [name for name, text in tracked(":!book/_static/*.min.js").items() if re.search(pattern, text)] == []


def chapters() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [name for name in files if re.match(r"\d\d_", name)]


def test_every_chapter_stands_wherever_chapters_are_listed():
    assert chapters() == sorted(path.stem for path in (ROOT / "book").glob("[0-9][0-9]_*.md"))
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks & set(chapters()) == set(chapters())
    for page in ("README.md", "book/index.md"):
        text = (ROOT / page).read_text()
        assert [name for name in chapters() if name not in text] == [], page


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (newest, *_) = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert {citation["version"], newest, fmtutor.__version__} == {PROJECT["version"]}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_makefile_has_its_six_targets():
    assert targets() == {"book", "test", "notebooks", "serve", "lint", "clean"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_well_formed(path):
    workflow = yaml.load(path.read_text(), yaml.BaseLoader)  # the safe loader reads the key "on" as true
    assert {"name", "on", "permissions", "jobs"} <= workflow.keys()
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        asked = [step["run"] for step in job["steps"] if "run" in step]
        assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(asked))) <= targets()


def test_ci_runs_what_the_project_promises():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    run("bash", "-n", str(script))
    assert re.findall(r"^make (\w+)$", script.read_text(), re.M) == ["book", "test"]
    matrix = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    promised = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert matrix["python"] == promised
    assert PROJECT["requires-python"] == ">=" + promised[0]


@pytest.mark.parametrize(("line", "code"), [("from fmtutor import schedules", 0), ("from fmtutor import training", 1)])
def test_the_floors_hold_and_an_import_upwards_is_found(tmp_path, line, code):
    for module in (ROOT / "fmtutor").rglob("*.py"):  # the same modules, all of them empty
        empty = tmp_path / module.relative_to(ROOT)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    (tmp_path / "fmtutor" / "paths.py").write_text(line + "\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    floors = Path(sys.executable).parent / "lint-imports"
    assert ("KEPT" if code == 0 else "BROKEN") in run(str(floors), "--no-cache", cwd=tmp_path, code=code)


def test_a_topic_is_a_room():
    """What a module needs besides lies in its folder: no underscored file stands on the top level for somebody else."""
    top = {path.name for path in (ROOT / "fmtutor").glob("_*.py")}
    assert top == {"__init__.py", "_validate.py"}


# What CONTRIBUTING shows runs


def examples(kind: str) -> list[str]:
    """The blocks of code in CONTRIBUTING.md below a comment that names them."""
    return re.findall(rf"<!-- example: {kind} -->\n *(`{{3,}})\w+\n(.*?)\n *\1\n", CONTRIBUTING.read_text(), re.S)


def in_a_new_process(code: str) -> list[str]:
    return run(sys.executable, "-c", code).split()


def test_the_files_that_contributing_names_exist():
    named = set(re.findall(r"`((?:book|fmtutor|tests)/[\w/]+\.\w+)`", CONTRIBUTING.read_text()))
    example = {name for name in named if "clocks." in name}
    assert len(example) == 3
    assert [name for name in sorted(named - example) if not (ROOT / name).is_file()] == []


SCHEDULE = """
import torch
t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
schedule, h = Smoothstep(), 1e-6
by_autodiff = torch.stack([schedule.alpha(t), schedule.sigma(t), schedule.d_alpha(t), schedule.d_sigma(t)], dim=1)
hand = torch.tensor([by_hand("smoothstep", x) for x in t.tolist()], dtype=t.dtype)
assert torch.allclose(by_autodiff, hand, atol=1e-12)
for f, d in ((schedule.alpha, schedule.d_alpha), (schedule.sigma, schedule.d_sigma)):
    assert torch.allclose(d(t), (f(t + h) - f(t - h)) / (2 * h), atol=1e-8)
    assert not torch.allclose(-d(t), (f(t + h) - f(t - h)) / (2 * h), atol=1e-8)
assert torch.allclose(schedule.alpha(t) + schedule.sigma(t), torch.ones_like(t))
for name, ends in ({"alpha": (0.0, 1.0), "sigma": (1.0, 0.0)}).items():
    assert tuple(getattr(schedule, name)(torch.tensor([0.0, 1.0])).tolist()) == ends
"""


def test_the_schedule_of_contributing_runs():
    definition, use = (code for _, code in examples("schedule"))
    promised = float(use.rpartition(" ")[2])
    ((_, rows),) = examples("by hand")
    by_hand = "\ndef by_hand(name, t):\n" + indent(dedent(rows), "    ")
    (printed,) = in_a_new_process(definition + by_hand + SCHEDULE + "torch.manual_seed(0)\n" + use)
    assert float(printed.strip("tensor()")) == pytest.approx(promised, abs=0.05)


CHAPTER = """
right, wrong, others = CASES["clock"]
assert check.clock(right).status == "passed", check.clock(right)
messages = [check.clock(answer).message for answer, _ in wrong]
assert len(messages) >= 3
assert len(others) >= 3
assert all(check.clock(other) for other in others), [check.clock(other) for other in others]
for i, (_, words) in enumerate(wrong):
    assert [words in message for message in messages] == [i == j for j in range(len(messages))]
"""


def test_the_chapter_of_contributing_runs():
    ((_, checks),), ((_, cases),), ((_, page),) = examples("check"), examples("cases"), examples("page")
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(?::tags: \[(\w+)\]\n)?(.*?)^```$", page, re.S | re.M)
    assert [tag for tag, _ in cells] == ["", "exercise", "solution"]
    installed = "\nfrom fmtutor import check\ncheck.clock = clock\n"
    lesson = "".join(code.replace("check.clock(clock)", "print(check.clock(clock).status)") for _, code in cells)
    assert in_a_new_process(checks + installed + lesson + cases + CHAPTER)[-2:] == ["pending", "passed"]
