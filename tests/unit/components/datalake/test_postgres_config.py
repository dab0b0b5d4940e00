from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.datalake.pgpool import check_connections, pool_passwd
from components.datalake.pgpool_config import (
    MONITOR,
    PgpoolConfig,
    exporter_conf,
    exporter_start,
    pgpool_conf,
)
from components.datalake.postgres_config import PostgresConfig, own_parameters
from components.datalake.postgres_spec import HBA, cluster_spec, failover_timing
from components.model import Image

IMAGE = Image(repository="ghcr.io/x/postgresql", tag="15.18", digest="sha256:" + "1" * 64)


def role(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "password": {"file": f"postgres/{name}"}, **more}


def config(**changes: Any) -> PostgresConfig:
    values: dict[str, Any] = {
        "owner": role("app"),
        "roles": [role("monitor", member_of=["pg_monitor"])],
    }
    return PostgresConfig.model_validate(values | changes)


def spec(**changes: Any) -> dict[str, Any]:
    return cluster_spec(
        config(**changes),
        IMAGE,
        secrets={"app": "postgres-app", "monitor": "postgres-monitor"},
        server_tls="postgres-server",
        replication_tls="postgres-replication",
        ca="postgres-ca",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instances": 1}, ["synchronous_standbys", "at most 0"]),
        ({"instances": 2}, ["instances", "at least 3", "stops all writes"]),
        ({"shared_buffers_mib": 300}, ["shared_buffers_mib", "half", "512"]),
        ({"roles": []}, ["roles", "monitor"]),
        ({"roles": [role("monitor"), role("app")]}, ["roles.1.name", "declared twice"]),
        ({"roles": [role("monitor"), role("cnpg_x")]}, ["roles.1.name", "reserved"]),
        ({"parameters": {"max_connections": "9"}}, ["parameters.max_connections", "remove it"]),
        ({"owner": {"name": "app", "password": "hunter2"}}, ["owner.password"]),
        ({"replicas": 3}, ["replicas"]),
        (
            {"databases": [{"name": "a", "owner": "nobody"}]},
            ["databases.0.owner", "nobody", "monitor"],
        ),
        ({"databases": [{"name": "app", "owner": "monitor"}]}, ["databases.0.name", "twice"]),
        ({"databases": [{"name": "postgres", "owner": "monitor"}]}, ["databases.0.name", "reserv"]),
        (
            {"databases": [{"name": "a", "owner": "monitor", "readers": ["monitor"]}]},
            ["databases.0.readers.0", "an owner reads anyway"],
        ),
        (
            {"databases": [{"name": "a", "owner": "monitor", "readers": ["nobody"]}]},
            ["databases.0.readers.0", "declare it there"],
        ),
    ],
)
def test_a_wrong_configuration_names_key_and_way_out(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    for word in words:
        assert word in str(caught.value)


def test_an_acknowledged_row_is_on_a_standby_and_failover_waits_for_it() -> None:
    assert spec()["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }


def test_one_instance_asks_for_no_synchronous_standby() -> None:
    assert "synchronous" not in spec(instances=1, synchronous_standbys=0)["postgresql"]


def test_the_lease_is_as_short_as_admission_allows() -> None:
    lease = failover_timing()["primaryLease"]
    assert lease["renewDeadlineSeconds"] > 1.2 * lease["retryPeriodSeconds"]
    assert lease["leaseDurationSeconds"] > lease["renewDeadlineSeconds"]
    assert lease["leaseDurationSeconds"] <= 3


def test_stopping_does_not_wait_for_clients_and_ends_within_its_grace() -> None:
    timing = failover_timing()
    assert timing["smartShutdownTimeout"] == 0
    # The instance manager gives a stop at least 15 s (instance_manager.md).
    assert timing["stopDelay"] >= 15


def test_a_primary_that_hangs_is_dead_before_the_operator_names_another() -> None:
    probes = failover_timing()["probes"]
    live, ready = probes["liveness"], probes["readiness"]
    killed_s = live["periodSeconds"] * live["failureThreshold"] + live["timeoutSeconds"]
    killed_s += live["terminationGracePeriodSeconds"]
    given_up_s = ready["periodSeconds"] * (ready["failureThreshold"] - 1)
    assert killed_s < given_up_s


def test_every_certificate_is_the_estates() -> None:
    assert spec()["certificates"] == {
        "serverTLSSecret": "postgres-server",
        "serverCASecret": "postgres-ca",
        "replicationTLSSecret": "postgres-replication",
        "clientCASecret": "postgres-ca",
    }


def test_clients_without_tls_are_refused_by_the_last_rule() -> None:
    assert spec()["postgresql"]["pg_hba"] == HBA
    assert HBA[-1] == "hostnossl all all all reject"


def test_the_image_is_pinned_by_digest() -> None:
    assert spec()["imageName"].endswith("@sha256:" + "1" * 64)


def test_passwords_come_from_secrets_only() -> None:
    made = spec()
    assert made["bootstrap"]["initdb"]["secret"] == {"name": "postgres-app"}
    assert made["managed"]["roles"][0]["passwordSecret"] == {"name": "postgres-monitor"}
    assert made["enableSuperuserAccess"] is False


def test_operators_own_parameters_reach_postgresql() -> None:
    made = spec(parameters={"work_mem": "8MB"})["postgresql"]["parameters"]
    assert made["work_mem"] == "8MB"
    assert made["wal_retrieve_retry_interval"] == "500ms"
    assert all(isinstance(value, str) for value in own_parameters(config()).values())


def settings(text: str) -> dict[str, str]:
    """Settings of a pgpool.conf; a name that is set twice is an error."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            assert name not in found, f"{name} is set twice"
            found[name] = value.strip("'")
    return found


def pool() -> dict[str, str]:
    return settings(
        pgpool_conf(
            PgpoolConfig(sessions_per_replica=16), write_host="rw", read_host="ro", port=5432
        )
    )


def test_pgpool_never_fails_over() -> None:
    found = pool()
    assert found["backend_flag0"] == "ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER"
    assert found["backend_flag1"] == "DISALLOW_TO_FAILOVER"
    assert found["failover_on_backend_error"] == "off"
    assert found["failover_on_backend_shutdown"] == "off"
    assert found["failover_command"] == ""
    assert found["health_check_period"] == "0"


def test_reads_go_to_standbys_and_writes_to_the_primary() -> None:
    found = pool()
    assert (found["backend_hostname0"], found["backend_weight0"]) == ("rw", "0")
    assert (found["backend_hostname1"], found["backend_weight1"]) == ("ro", "1")
    assert found["load_balance_mode"] == "on"


def test_the_pool_keeps_no_connection_to_what_was_the_primary() -> None:
    assert pool()["connection_cache"] == "off"
    assert int(pool()["connect_timeout"]) <= 1000


def test_clients_use_scram_over_tls() -> None:
    found = pool()
    assert found["enable_pool_hba"] == "on"
    assert found["allow_clear_text_frontend_auth"] == "off"
    assert found["ssl"] == "on"
    assert found["ssl_ca_cert"].endswith("ca.crt")


def test_the_exporter_verifies_the_pool() -> None:
    assert "sslmode=verify-full" in exporter_conf("app", "monitor")
    assert "password" not in exporter_conf("app", "monitor")


def test_the_exporters_password_file_is_written_escaped_and_for_nobody_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text(r"a:b\\c")
    script = exporter_start("monitor").replace(MONITOR, str(tmp_path))
    script = script.replace("exec prometheus-sql-exporter", "exec true")
    target = tmp_path / "pgpass"
    command = ["/bin/sh", "-c", script]
    subprocess.run(command, env={"PGPASSFILE": str(target), "PATH": os.defpath}, check=True)
    assert target.read_text() == r"localhost:5432:*:monitor:a\:b\\\\c" + "\n"
    assert target.stat().st_mode & 0o777 == 0o600


def test_too_many_sessions_name_both_keys_and_the_need() -> None:
    check_connections("pgpool", PgpoolConfig(replicas=2, sessions_per_replica=24), 100)
    with pytest.raises(ValueError, match=r"2 x 48.*needs 111.*max_connections is 100"):
        check_connections("pgpool", PgpoolConfig(replicas=2, sessions_per_replica=48), 100)


def test_a_password_file_has_a_line_per_role() -> None:
    assert pool_passwd({"app": "a:b", "monitor": "c"}) == "app:TEXTa:b\nmonitor:TEXTc\n"


@pytest.mark.parametrize("password", ["", "two\nlines"])
def test_a_password_that_breaks_the_file_is_refused_without_showing_it(password: str) -> None:
    with pytest.raises(ValueError, match="role 'app'") as caught:
        pool_passwd({"app": password})
    assert "two" not in str(caught.value)
