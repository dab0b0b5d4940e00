"""What may be said about backups, and what an environment must have for them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.datalake.backup_config import (
    BackupConfig,
    BackupStore,
    DumpBackup,
    PostgresBackup,
    cron,
)
from components.datalake.mongodb_config import MongodbConfig
from configs.errors import ConfigError
from configs.schema import load
from tests.rendering import ONPREM

STORE = {
    "endpoint": "https://s3.example.com",
    "bucket": "estate",
    "access_key": {"file": "backup/access-key"},
    "secret_key": {"file": "backup/secret-key"},
}


@pytest.mark.parametrize(
    "schedule", ["0 1 * * *", "*/15 * * * *", "30 1-5/2 1,15 1-12 0,6", "59 23 31 12 6"]
)
def test_a_schedule_of_five_fields_is_taken(schedule: str) -> None:
    assert cron(schedule) == schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 1 * *", "4 fields"),
        ("0 0 1 * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("60 1 * * *", "'60' is no minute; 0 to 59"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 1 0 * *", "'0' is no day of the month"),
        ("0 1 * 13 *", "'13' is no month"),
        ("0 1 * * 7", "'7' is no day of the week; 0 to 6"),
        ("0 5-1 * * *", "'5-1' is no hour"),
        ("*/0 1 * * *", r"'\*/0' is no minute"),
        ("0 1 * * MON", "'MON' is no day of the week"),
        ("0  1 * * *", "6 fields"),
    ],
)
def test_a_wrong_schedule_is_refused_by_its_field(schedule: str, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        DumpBackup(schedule=schedule)


@pytest.mark.parametrize(
    ("endpoint", "port"), [("https://s3.example.com", 443), ("https://s3.example.com:8443", 8443)]
)
def test_the_port_is_that_of_the_endpoint(endpoint: str, port: int) -> None:
    assert BackupStore.model_validate(STORE | {"endpoint": endpoint}).port == port


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"endpoint": "http://s3.example.com"}, "endpoint"),
        ({"endpoint": "https://s3.example.com/path"}, "endpoint"),
        ({"bucket": "Estate"}, "bucket"),
        ({"secret_key": "plain"}, "secret_key"),
        ({"ca": "/etc/ca.crt"}, "ca"),
        ({"prefix": "x"}, "prefix"),
    ],
)
def test_a_wrong_store_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        BackupStore.model_validate(STORE | changes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"recover": {"server": "postgres"}}, "server is 'postgres': .*such as postgres-2"),
        ({"server": "b", "recover": {"server": "a", "target_time": "yesterday"}}, "target_time"),
        ({"server": "b", "recover": {"server": "a", "target_time": "2026-11-29 04:00"}}, "target"),
        ({"retention_days": 1}, "retention_days"),
        ({"retention_days": 2, "max_age_h": 49}, "retention_days is 2: above max_age_h"),
        ({"wal_parallel": 0}, "wal_parallel"),
    ],
)
def test_a_wrong_archive_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        PostgresBackup.model_validate(values)


def test_a_backup_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing is saved"):
        BackupConfig.model_validate({"store": STORE})


def changed(part: str, **changes: Any) -> dict[str, Any]:
    return {**ONPREM, part: {**ONPREM[part], **changes}}


def test_onprem_is_taken() -> None:
    found = load(ONPREM).backup
    assert found is not None and found.parts == ["postgres", "mongodb", "kafka", "models"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({**ONPREM, "mongodb": None, "pipeline": None}, "backup.mongodb.*mongodb is not declared"),
        (
            changed("kafka", users=[u for u in ONPREM["kafka"]["users"] if u["name"] != "backup"]),
            r"kafka.users.*user 'backup' \(backup\) is missing",
        ),
        (
            changed("mongodb", users=[u for u in ONPREM["mongodb"]["users"] if "backup" not in u]),
            "mongodb.users.*with `backup: true` is missing",
        ),
        (
            {**ONPREM, "model_repository": None, "serving": None},
            "backup.models.*model_repository with implementation nexus is not declared",
        ),
        (
            changed("model_repository", implementation="distribution", nexus=None),
            "backup.models.*model_repository with implementation nexus is not declared",
        ),
        (
            changed("backup", postgres=None),
            "backup.postgres.*records of models' blobs are there",
        ),
        (
            changed("backup", models={"retention_days": 29}),
            r"backup.models.retention_days: 29 .*below that of postgres \(30\)",
        ),
        (
            changed("backup", models={"scratch": {"size_gib": 1}}),
            "backup.models.scratch",
        ),
        (
            changed("monitoring", state_metrics=None),
            "monitoring.state_metrics.*age of backup.mongodb",
        ),
    ],
)
def test_what_an_environment_lacks_for_its_backups_is_named(
    values: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(values)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"backup": True}, "users.1.backup is True: FerretDB knows no roles"),
        ({}, r"users.1.access is \[\]: nothing to read"),
    ],
)
def test_the_role_is_a_replica_sets(user: dict[str, Any], expected: str) -> None:
    verify = {"password": {"file": "v"}, "access": [{"database": "estate_verify"}]}
    users = [{"name": "verify", **verify}, {"name": "b", "password": {"file": "b"}, **user}]
    with pytest.raises(ValidationError, match=expected):
        MongodbConfig.model_validate({"users": users})
