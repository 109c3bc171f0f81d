"""A result names the commit it came from where there is one, and nobody else's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import fmtutor
from fmtutor.images.provenance import commit, machine


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, version = tmp_path / "fmtutor" / "__init__.py", f"fmtutor {fmtutor.__version__}"
    file.parent.mkdir()
    file.write_text("")
    monkeypatch.setattr(fmtutor, "__file__", str(file))
    assert commit() == version
    git(tmp_path, "init", "-q")
    assert commit() == version  # under git, and not committed yet
    git(tmp_path, "add", "."), git(tmp_path, "commit", "-qm", "a")
    assert commit() == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    (tmp_path / "notes.txt").write_text("beside the package")
    assert not commit().endswith("with changes")
    file.write_text("changed")
    assert commit() == git(tmp_path, "rev-parse", "--short=12", "HEAD") + " with changes"
    deeper = tmp_path / "environment" / "fmtutor" / "__init__.py"  # installed somewhere in a project of somebody's
    monkeypatch.setattr(fmtutor, "__file__", str(deeper))
    assert commit() == version


def test_the_machine_is_described() -> None:
    assert machine()["processor"]
    assert machine()["cores"] >= 1
