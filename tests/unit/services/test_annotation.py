"""Runs tests/annotation with Supervisely's SDK, whose pins keep it apart from the launcher's."""

from __future__ import annotations

from pathlib import Path

from rehearsal import paths, wheels
from tests.inner import run_with

LOCK = paths.root() / "rehearsal" / "images" / "recipes" / "annotation.requirements.lock"
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
    run_with(sdk(), "tests/annotation", durations=5, basetemp=tmp_path / "inner")
