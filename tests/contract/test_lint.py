"""The style and type checks, as tests: one command runs everything there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rehearsal import paths


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=paths.root(),
        capture_output=True,
        text=True,
        check=False,
        # mypy's cache outlives a fresh clone: it goes by content where times differ.
        env={**os.environ, "MYPY_CACHE_DIR": str(paths.cache() / "mypy"), "NO_COLOR": "1"},
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", "--no-cache")


def test_the_format_is_ruffs() -> None:
    check("ruff", "format", "--check", "--no-cache")


def test_mypy_strict_finds_nothing() -> None:
    check("mypy")
