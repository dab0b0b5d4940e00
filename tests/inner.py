"""Tests that need packages apart from the launcher's: a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import paths


def run_with(packages: Path, tests: str, *, basetemp: Path, durations: int = 0) -> None:
    """Run tests with a folder of packages before the launcher's; fails with what they said.

    Args:
        packages: what `wheels.unpacked` returned.
        tests: a file or folder, from the repository's root.
        basetemp: pytest's folder for temporary files; it is emptied.
        durations: of how many tests the time is shown; 0 means all.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--durations={durations}", f"--basetemp={basetemp}", tests),
        ],
        cwd=paths.root(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(paths.root())])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout[-6000:] + done.stderr[-2000:], pytrace=False)
