"""A registry in memory for each test, and a clone whose models are in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_repo.oci import Registry
from model_repo.repository import Repository
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.site import Site
from tests.unit.model_repo.test_repository import KEY


@pytest.fixture
def server() -> Iterator[MemoryRegistry]:
    made = MemoryRegistry()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, server: MemoryRegistry) -> Site:
    repository = Repository(Registry(f"{server.url}/estate"), [KEY.public_key()])
    return Site(tmp_path / "clone", repository)
