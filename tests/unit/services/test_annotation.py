"""Runs tests/annotation with Supervisely's SDK, whose pins keep it apart from the launcher's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import paths, wheels

LOCK = paths.root() / "rehearsal" / "toolchain" / "requirements-annotation.lock"
SOURCES = ("async-asgi-testclient", "imutils", "numerize", "stringcase")
"""Published without wheels."""


def sdk() -> Path:
    """The SDK and what it needs, unpacked once."""
    folder = paths.ensure(paths.cache() / "annotation", "cache") / "sdk"
    return wheels.unpacked(
        LOCK,
        folder,
        what="supervisely",
        way_out="give pip a package index that has supervisely",
        sources=SOURCES,
    )


def test_with_the_sdk(tmp_path: Path) -> None:
    search = os.pathsep.join([str(sdk()), str(paths.root())])
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"),
            *("--durations=5", f"--basetemp={tmp_path / 'inner'}", "tests/annotation"),
        ],
        cwd=paths.root(),
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout[-6000:] + done.stderr[-2000:], pytrace=False)
