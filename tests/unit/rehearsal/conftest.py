"""Folders of their own for the tests of the rehearsal's modules."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest


class Folders(NamedTuple):
    """Where a test's rehearsals and caches lie."""

    state: Path
    cache: Path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Point ESTATE_STATE and ESTATE_CACHE into the test's own folder."""
    made = Folders(tmp_path / "state", tmp_path / "cache")
    monkeypatch.setenv("ESTATE_STATE", str(made.state))
    monkeypatch.setenv("ESTATE_CACHE", str(made.cache))
    return made
