"""Dashboards of PostgreSQL (CloudNativePG's default queries) and of its pool (sql_exporter)."""

from __future__ import annotations

from components.dashboards import HERE, PODS, RATE, Dashboard, graph, quiet, stat
from components.datalake.backup_config import PostgresBackup
from components.datalake.pgpool_config import PgpoolConfig
from components.datalake.postgres_archive import archive_health, archive_saturation
from components.datalake.postgres_config import PostgresConfig


def postgres_dashboard(
    name: str, namespace: str, config: PostgresConfig, archive: PostgresBackup | None = None
) -> Dashboard:
    """Of one cluster; every number of its health row is judged by its rules."""
    database = "cnpg_pg_stat_database"

    def per_database(*counters: str) -> dict[str, str]:
        return {
            f"{counter} {{{{datname}}}}": "sum by (datname) "
            f"(rate({database}_{counter}{{{PODS}}}[{RATE}]))"
            for counter in counters
        }

    return Dashboard(
        name=name,
        title="PostgreSQL",
        description="Instances, replication, sessions and transactions of the cluster.",
        namespace=namespace,
        source="cnpg_collector_up",
        pods=True,
        alerts="Postgres.+",
        health=[
            stat(
                "Instances that answer",
                f"{config.instances} are declared; look at the pods of what is missing.",
                quiet(f"count(cnpg_collector_up{{{PODS}}} == 1)"),
                red_below=config.instances,
            ),
            stat(
                "Primaries",
                "Exactly one takes writes.",
                quiet(f"count(cnpg_pg_replication_in_recovery{{{PODS}}} == 0)"),
                red_below=1,
                red_from=2,
            ),
            stat(
                "Standbys that stream",
                f"{config.synchronous_standbys} must acknowledge a commit.",
                f"max(cnpg_pg_replication_streaming_replicas{{{PODS}}})",
                red_below=config.synchronous_standbys,
            ),
            stat(
                "Replication lag",
                "By how much the slowest standby is behind.",
                f"max(cnpg_pg_replication_lag{{{PODS}}})",
                "s",
                red_from=30,
            ),
            stat(
                "Age of transaction ids",
                "At two thousand million no more writes: vacuum must keep up.",
                f"max(cnpg_pg_database_xid_age{{{PODS}}})",
                red_from=1e9,
            ),
            *(archive_health(archive) if archive is not None else []),
        ],
        traffic=[
            graph(
                "Transactions",
                "Committed ones, by database.",
                "ops",
                per_database("xact_commit"),
            ),
            graph(
                "Rows",
                "Rows that are written, by database.",
                "ops",
                per_database("tup_inserted", "tup_updated", "tup_deleted"),
            ),
        ],
        saturation=[
            graph(
                "Sessions",
                f"Of {config.max_connections} that an instance takes.",
                "short",
                {"{{pod}}": f"sum by (pod) (cnpg_backends_total{{{PODS}}})"},
            ),
            graph(
                "Sessions that wait for locks",
                "Long ones: see pg_stat_activity for who holds the lock.",
                "short",
                {"{{pod}}": f"sum by (pod) (cnpg_backends_waiting_total{{{PODS}}})"},
            ),
            graph(
                "Size of databases",
                "As the largest instance has them; compare with its claim.",
                "bytes",
                {"{{datname}}": f"max by (datname) (cnpg_pg_database_size_bytes{{{PODS}}})"},
            ),
            graph(
                "Reads from memory",
                "Share of blocks that need no disk; one while nothing is read.",
                "percentunit",
                {
                    "hits": f"(sum(rate({database}_blks_hit{{{PODS}}}[{RATE}])) / "
                    f"(sum(rate({database}_blks_hit{{{PODS}}}[{RATE}])) + "
                    f"sum(rate({database}_blks_read{{{PODS}}}[{RATE}]))) >= 0) or vector(1)"
                },
            ),
            *(archive_saturation() if archive is not None else []),
        ],
        errors=[
            graph(
                "Rollbacks",
                "Transactions that were taken back, by database.",
                "ops",
                per_database("xact_rollback"),
            ),
            graph(
                "Deadlocks and conflicts",
                "Transactions that the server ended: deadlocks, and queries on standbys.",
                "ops",
                per_database("deadlocks", "conflicts"),
            ),
            graph(
                "Failed collections of metrics",
                "1 while the instance cannot be asked: see the log of its pod.",
                "short",
                {"{{pod}}": f"cnpg_collector_last_collection_error{{{PODS}}}"},
            ),
        ],
    )


def pgpool_dashboard(name: str, namespace: str, config: PgpoolConfig) -> Dashboard:
    """Of the pool; what it saturates first is the servers' sessions, which their exporter tells."""
    reads = f"sum by (hostname) (rate(sql_pgpool_node_selects{{{PODS}}}[{RATE}]))"
    failed = f"sql_exporter_last_scrape_failed{{{PODS}}}"
    return Dashboard(
        name=name,
        title="Pgpool",
        description="Replicas of the pool, and the servers behind it as the pool sees them.",
        namespace=namespace,
        source="sql_pgpool_writable",
        pods=True,
        alerts="Pgpool.+",
        health=[
            stat(
                "Replicas that answer",
                f"{config.replicas} are declared.",
                quiet(f'count(up{{{PODS}, job=~".*/{name}"}} == 1)'),
                red_below=config.replicas,
            ),
            stat(
                "Replicas that reach a primary",
                "With none writes are refused.",
                quiet(
                    f"sum(sql_pgpool_writable{{{PODS}}} == 1 unless on (pod) "
                    f'sql_exporter_last_scrape_failed{{{PODS}, query="pgpool_writable"}} == 1)'
                ),
                red_below=1,
            ),
            stat(
                "Exporters whose queries fail",
                "The exporter goes through its pool: see the log of that pod.",
                quiet(f"count(max by (pod) ({failed}) == 1)"),
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Reads sent to servers",
                "Writes go to the primary and are not in it.",
                "ops",
                {"{{hostname}}": reads},
            ),
        ],
        saturation=[
            graph(
                "Sessions of the servers",
                "From PostgreSQL's exporter: most of them are the pool's.",
                "short",
                {"{{usename}}": f"sum by (usename) (cnpg_backends_total{{{HERE}}})"},
            ),
        ],
        errors=[
            graph(
                "Servers by status",
                "A server that is not `up` gets no reads.",
                "short",
                {
                    "{{status}}": "count by (status) (max by (hostname, status) "
                    f"(sql_pgpool_node{{{PODS}}}))"
                },
            ),
            graph(
                "Failed queries of the exporter",
                "1 while a query fails.",
                "short",
                {"{{pod}} {{query}}": f"max by (pod, query) ({failed})"},
            ),
        ],
    )
