"""Writes what a benchmark measured to `book/results/NAME.json`, with machine, date, commit and command beside it."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from fmtutor.images.provenance import commit, machine

RESULTS = Path(__file__).parents[1] / "book" / "results"


def rows_in_one_line(text: str) -> str:
    """JSON text with each list of numbers on a line of its own."""
    return re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def record(name: str, measured: Any) -> Path:
    """Write `measured` to `book/results/NAME.json`; a tree with changes in it is said to be one."""
    result = {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], RESULTS.parents[1]), *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "measured": measured,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(rows_in_one_line(json.dumps(result, indent=1)) + "\n")
    return path
