"""Whatever the moment at which the command is killed: given again, it ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are needed")
def test_the_command_killed_at_ten_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Mid-epoch, with labels left out, mirrored and spread over their greys; and once with two processes."""
    seed = int.from_bytes(os.urandom(4), "big")
    script, root = Path(__file__).with_name("kill_runs.py"), str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(seed)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    for processes, runs in found.items():
        assert runs["ends"] == [runs["whole"]] * len(runs["ends"]), f"seed {seed}, {processes} processes"
        assert len(runs["whole"]["losses"]) == runs["whole"]["steps"] == 30
    assert found["1"]["resumed"] >= 3, f"seed {seed}: hardly any kill fell between the first checkpoint and the end"
    one, two = (found[n]["whole"]["losses"] for n in "12")
    assert two == pytest.approx(one, rel=1e-4)  # the gradients of two processes are those of one
    assert two[-1] != two[0]
