from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.datalake.ferretdb_files import SETTINGS, backend_url, password_line
from components.datalake.mongodb_config import FerretDb, MongodbConfig, postgres_problems
from components.datalake.postgres_config import PostgresConfig
from configs.errors import ConfigError
from configs.schema import load

VERIFY = {
    "name": "verify",
    "password": {"file": "mongodb/verify"},
    "access": [{"database": "estate_verify"}],
}
COMMUNITY = {
    "implementation": "community",
    "replicas": 3,
    "community": {"metrics_password": {"file": "mongodb/metrics"}},
}


def user(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "password": {"file": f"mongodb/{name}"},
        "access": [{"database": "lake"}],
    }


def config(**changes: Any) -> MongodbConfig:
    return MongodbConfig.model_validate({"users": [VERIFY]} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"users": []}, ["users", "verify", "estate_verify"]),
        ({"users": [user("verify")]}, ["estate_verify"]),
        ({"users": [VERIFY, VERIFY]}, ["users.1.name", "declared twice"]),
        ({"users": [VERIFY, user("config")]}, ["users.1.name", "reserved"]),
        ({"community": COMMUNITY["community"]}, ["community", "leave it out"]),
        (COMMUNITY | {"replicas": 2}, ["replicas", "3, 5 or 7"]),
        (COMMUNITY | {"community": None}, ["community", "exporter"]),
        (COMMUNITY | {"ferretdb": {}}, ["ferretdb", "leave it out"]),
        ({"users": [VERIFY | {"access": []}]}, ["access"]),
        ({"replikas": 2}, ["replikas"]),
    ],
)
def test_a_wrong_configuration_names_key_and_way_out(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    for word in words:
        assert word in str(caught.value)


def postgres(**changes: Any) -> PostgresConfig:
    roles = [{"name": name, "password": {"file": name}} for name in ("monitor", "ferretdb")]
    values: dict[str, Any] = {
        "owner": {"name": "app", "password": {"file": "app"}},
        "roles": roles,
        "databases": [{"name": "documents", "owner": "ferretdb"}],
    }
    return PostgresConfig.model_validate(values | changes)


@pytest.mark.parametrize(
    ("beside", "pooled", "words"),
    [
        (None, 0, "declare postgres, or leave both"),
        (postgres(databases=[]), 0, "one of postgres.databases (none)"),
        (postgres(), 80, "at least 110"),
    ],
)
def test_what_ferretdb_stands_on_is_asked_for(
    beside: PostgresConfig | None, pooled: int, words: str
) -> None:
    (found,) = postgres_problems(config(), beside, pooled)
    assert words in found["allowed"]
    assert not postgres_problems(config(), postgres(), 63)


def test_an_environment_that_builds_its_images_has_no_mongod() -> None:
    values = {"images": {"source": "rehearsal"}, "mongodb": {"users": [VERIFY], **COMMUNITY}}
    with pytest.raises(ConfigError, match="no package has mongod"):
        load(values)


def test_ferretdb_listens_with_tls_alone_and_asks_for_passwords() -> None:
    assert SETTINGS["FERRETDB_LISTEN_ADDR"] == ""
    assert SETTINGS["FERRETDB_LISTEN_TLS"] == ":27017"
    assert SETTINGS["FERRETDB_TEST_ENABLE_NEW_AUTH"] == "true"
    assert SETTINGS["FERRETDB_TELEMETRY"] == "disable"


def test_its_backend_is_verified_and_the_password_is_in_a_file() -> None:
    url = backend_url(FerretDb(), "ferretdb", "postgres-rw", 5432)
    assert url.startswith("postgres://ferretdb@postgres-rw:5432/documents?sslmode=verify-full&")
    assert "passfile=/etc/ferretdb/backend/pgpass" in url
    assert "target_session_attrs=read-write" in url
    assert password_line("ferretdb", r"a:b\c") == r"*:*:*:ferretdb:a\:b\\c" + "\n"
    with pytest.raises(ValueError, match="role 'ferretdb'") as caught:
        password_line("ferretdb", "two\nlines")
    assert "two" not in str(caught.value)
