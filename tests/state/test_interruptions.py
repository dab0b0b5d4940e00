"""The drills that make a rehearsal of their own, in short: interrupted once, and once around."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rehearsal import paths


@pytest.mark.parametrize(("which", "count", "rounds"), [("interruptions", 1, 1), ("rounds", 1, 2)])
def test_it_converges(which: str, count: int, rounds: int, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = subprocess.run(
        [str(paths.root() / "estate"), "drill", which, "--count", str(count), "--out", str(out)],
        env={**os.environ, "ESTATE_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(out.read_text())["rounds"]
    assert len(found) == rounds
    assert all(one["wrong"] == [] and one["up_s"] > 1 for one in found)
    assert not list((tmp_path / "state").glob("*/rehearsal.json"))
