"""Alert rules about PostgreSQL and its pool; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.datalake.pgpool_config import PgpoolConfig
from components.datalake.postgres_config import PostgresConfig
from components.workload import alert


def postgres_rules(name: str, namespace: str, config: PostgresConfig) -> list[dict[str, Any]]:
    """Alert rules of one cluster; metric names are CloudNativePG's default queries."""
    pods = f'namespace="{namespace}", pod=~"{name}-[0-9]+"'
    found = [
        alert(
            "PostgresInstancesMissing",
            f"(count(cnpg_collector_up{{{pods}}} == 1) or vector(0)) < {config.instances}",
            f"fewer than {config.instances} instances of {name} answer",
            for_s=120,
        ),
        alert(
            "PostgresNoPrimary",
            f"(count(cnpg_pg_replication_in_recovery{{{pods}}} == 0) or vector(0)) != 1",
            f"{name} has not exactly one primary: writes are refused",
            for_s=30,
        ),
        alert(
            "PostgresReplicationLag",
            f"max by (pod) (cnpg_pg_replication_lag{{{pods}}}) > 30",
            "{{ $labels.pod }} is {{ $value }} s behind its primary",
            for_s=120,
            severity="warning",
        ),
        alert(
            "PostgresConnectionsNearLimit",
            f"sum by (pod) (cnpg_backends_total{{{pods}}}) > 0.85 * {config.max_connections}",
            f"{{{{ $labels.pod }}}} uses over 85 % of its {config.max_connections} connections",
            for_s=300,
            severity="warning",
        ),
        alert(
            "PostgresTransactionIdsRunOut",
            f"max by (pod, datname) (cnpg_pg_database_xid_age{{{pods}}}) > 1e9",
            "vacuum does not keep up in {{ $labels.datname }} on {{ $labels.pod }}",
            for_s=600,
        ),
    ]
    if config.instances > 1:
        found.append(
            alert(
                "PostgresStandbyNotStreaming",
                f"max(cnpg_pg_replication_streaming_replicas{{{pods}}}) < {config.instances - 1}",
                f"a standby of {name} does not follow the primary: one copy less, old reads",
                for_s=300,
                severity="warning",
            )
        )
    if config.synchronous_standbys:
        found.append(
            alert(
                "PostgresNoSynchronousStandby",
                f"max(cnpg_pg_replication_streaming_replicas{{{pods}}}) < "
                f"{config.synchronous_standbys}",
                f"no standby of {name} acknowledges: writes wait",
                for_s=60,
            )
        )
    return found


def pgpool_rules(name: str, namespace: str, config: PgpoolConfig) -> list[dict[str, Any]]:
    """Alert rules of the pool; names as sql_exporter makes them (`sql_<query>`)."""
    pods = f'namespace="{namespace}", pod=~"{name}-.*"'
    return [
        alert(
            "PgpoolReplicasMissing",
            f"(count(up{{{pods}}} == 1) or vector(0)) < {config.replicas}",
            f"fewer than {config.replicas} replicas of {name} answer",
            for_s=120,
            severity="warning",
        ),
        alert(
            "PgpoolCannotWrite",
            # The exporter keeps a query's last value when it fails.
            f"(sum(sql_pgpool_writable{{{pods}}} == 1 unless on (pod) "
            f'sql_exporter_last_scrape_failed{{{pods}, query="pgpool_writable"}} == 1)'
            " or vector(0)) == 0",
            f"no replica of {name} reaches a primary: writes are refused",
            # Longer than the first scrapes of a new estate, and than any failover.
            for_s=90,
        ),
        alert(
            "PgpoolQueriesFail",
            f"max by (pod) (sql_exporter_last_scrape_failed{{{pods}}}) == 1",
            "{{ $labels.pod }} does not answer its exporter's queries",
            for_s=120,
            severity="warning",
        ),
    ]
