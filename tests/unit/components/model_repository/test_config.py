"""The model registry's configuration: what is refused, and what Nexus needs of PostgreSQL."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from components.model_repository.config import ModelRepositoryConfig
from configs.errors import ConfigError
from configs.schema import load
from tests.rendering import ONPREM

PUBLIC = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
VALUES: dict[str, Any] = {
    "publisher": {"file": "models/publisher"},
    "reader": {"file": "models/reader"},
    "trusted_keys": [{"pem": PUBLIC}],
}
NEXUS: dict[str, Any] = {"admin": {"file": "models/admin"}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"implementation": "nexus"}, r"declare model_repository\.nexus"),
        ({"nexus": NEXUS}, "of another implementation than distribution"),
        ({"trusted_keys": []}, "at least 1 item"),
        ({"trusted_keys": [{}]}, "either pem .* or reference"),
        ({"trusted_keys": [{"pem": PUBLIC, "reference": {"file": "a"}}]}, "either pem"),
        ({"trusted_keys": [{"pem": PUBLIC.replace("PUBLIC", "PRIVATE")}]}, "should match pattern"),
        (
            {"implementation": "nexus", "nexus": {**NEXUS, "heap_mib": 4096}},
            r"at least 8704: twice heap_mib \(4096\)",
        ),
    ],
)
def test_what_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelRepositoryConfig.model_validate({**VALUES, **values})


def onprem() -> dict[str, Any]:
    return copy.deepcopy(ONPREM)


def test_nexus_needs_its_database() -> None:
    values = onprem()
    values["postgres"]["databases"].pop()
    with pytest.raises(ConfigError, match=r"database 'nexus' \(model_repository\.nexus\) is miss"):
        load(values)


def test_nexus_needs_the_extension_that_it_searches_by() -> None:
    values = onprem()
    values["postgres"]["databases"][-1].pop("extensions")
    with pytest.raises(ConfigError, match="lacks extension 'pg_trgm'"):
        load(values)


def test_nexus_needs_postgres() -> None:
    values = onprem()
    for part in ("postgres", "pgpool", "mongodb", "pipeline", "console", "backup"):
        values.pop(part)
    with pytest.raises(ConfigError, match="Nexus keeps its records in PostgreSQL"):
        load(values)


def test_a_rehearsal_has_no_nexus() -> None:
    values = {
        "images": {"source": "rehearsal"},
        "model_repository": {**VALUES, "implementation": "nexus", "nexus": NEXUS},
    }
    with pytest.raises(ConfigError, match="take `distribution`"):
        load(values)
