"""Runs tests/pipeline with the packages of the pipeline's image, one process per file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rehearsal import paths, wheels
from tests.inner import run_with

LOCK = paths.root() / "rehearsal" / "images" / "recipes" / "pipeline.requirements.lock"
FILES = sorted((paths.root() / "tests" / "pipeline").glob("test_*.py"))


def image_wheels() -> Path:
    """The packages of the image, unpacked once."""
    folder = paths.ensure(paths.cache() / "pipeline", "cache") / "image"
    return wheels.unpacked(
        LOCK, folder, what="pipeline", way_out="give pip a package index that has dagster"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_with_the_packages_of_the_image(file: Path, tmp_path: Path) -> None:
    run_with(image_wheels(), str(file), basetemp=tmp_path / "inner")
