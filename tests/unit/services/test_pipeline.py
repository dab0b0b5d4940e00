"""Runs tests/pipeline with the packages of the pipeline's image, one process per file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import paths, wheels

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
    search = os.pathsep.join([str(image_wheels()), str(paths.root())])
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"),
            *("--durations=0", f"--basetemp={tmp_path / 'inner'}", str(file)),
        ],
        cwd=paths.root(),
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout[-6000:] + done.stderr[-2000:], pytrace=False)
