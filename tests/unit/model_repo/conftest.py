"""A registry in memory for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.model_repo.registry import MemoryRegistry


@pytest.fixture
def server() -> Iterator[MemoryRegistry]:
    made = MemoryRegistry()
    yield made
    made.close()
