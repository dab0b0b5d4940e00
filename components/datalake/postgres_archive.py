"""PostgreSQL's archive outside of the estate: base backups and WAL by CloudNativePG's plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from components.dashboards import PODS, Panel, graph, stat
from components.datalake import backup_store
from components.datalake.backup_config import CHECKSUMS, PostgresBackup
from components.datalake.backup_store import BackupStore
from components.datalake.barman_cloud import PLUGIN
from components.workload import Component, alert, labels, meta

API_VERSION = "barmancloud.cnpg.io/v1"
SOURCE = "archive"
"""What a recovered `Cluster` calls the archive that it begins with."""
METRICS = "barman_cloud_cloudnative_pg_io"


class PostgresArchive(Component):
    """The `ObjectStore`: where one cluster's backups and WAL go, and how long they stay.

    `ready` comes before the `Cluster`, whose instances will not start without it; `port` is the
    store's.
    """

    config: PostgresBackup
    object_name: str
    ready: Sequence[pulumi.Resource]
    port: int

    def __init__(
        self,
        name: str,
        config: PostgresBackup,
        *,
        namespace: pulumi.Input[str],
        store: BackupStore,
        plugin: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:PostgresArchive", name, opts)
        self.config, self.object_name, self.port = config, name, store.config.port
        made = CustomResource(
            name,
            api_version=API_VERSION,
            kind="ObjectStore",
            metadata=meta(name, namespace, labels(name)),
            spec=store_spec(config, store),
            opts=self.child(depends_on=[*plugin, store]),
        )
        self.ready = [made]
        self.register_outputs({"name": name})

    def cluster_spec(self, initdb: Mapping[str, Any]) -> dict[str, Any]:
        """What a `Cluster` says of it: where WAL goes, and where the cluster comes from.

        `initdb` is how a new one would be made.
        """
        recover = self.config.recover
        own = {
            "plugins": [
                {
                    "name": PLUGIN,
                    "enabled": True,
                    "isWALArchiver": True,
                    "parameters": self._parameters(self.config.server),
                }
            ]
        }
        if recover is None:
            return own
        bootstrap: dict[str, Any] = {
            "source": SOURCE,
            **{key: initdb[key] for key in ("database", "owner", "secret")},
        }
        if recover.target_time is not None:
            bootstrap["recoveryTarget"] = {"targetTime": recover.target_time}
        source = {"name": PLUGIN, "parameters": self._parameters(recover.server)}
        return {
            **own,
            "bootstrap": {"recovery": bootstrap},
            "externalClusters": [{"name": SOURCE, "plugin": source}],
        }

    def _parameters(self, server: str) -> dict[str, str]:
        return {"barmanObjectName": self.object_name, "serverName": server}


def store_spec(config: PostgresBackup, store: BackupStore) -> dict[str, Any]:
    """`.spec` of the `ObjectStore`."""

    def key(name: str) -> dict[str, Any]:
        return {"name": store.secret, "key": name}

    where = store.config
    return {
        "retentionPolicy": f"{config.retention_days}d",
        "configuration": {
            "destinationPath": f"s3://{where.bucket}/postgres",
            "endpointURL": where.endpoint,
            **({"endpointCA": key(backup_store.CA)} if where.ca is not None else {}),
            "s3Credentials": {
                "accessKeyId": key(backup_store.ACCESS_KEY),
                "secretAccessKey": key(backup_store.SECRET_KEY),
            },
            "wal": {"compression": "gzip", "maxParallel": config.wal_parallel},
            "data": {"compression": "gzip", "jobs": 2},
        },
        "instanceSidecarConfiguration": {
            "logLevel": "info",
            "resources": config.resources.quantities(),
            "env": [
                {"name": "AWS_DEFAULT_REGION", "value": where.region},
                {"name": "AWS_REQUEST_CHECKSUM_CALCULATION", "value": CHECKSUMS},
                {"name": "AWS_RESPONSE_CHECKSUM_VALIDATION", "value": CHECKSUMS},
            ],
        },
    }


def scheduled_spec(cluster: str, config: PostgresBackup) -> dict[str, Any]:
    """`.spec` of the `ScheduledBackup`; one is made at once, for WAL alone restores nothing."""
    return {
        # CloudNativePG's has seconds too.
        "schedule": f"0 {config.schedule}",
        "immediate": True,
        "cluster": {"name": cluster},
        "backupOwnerReference": "cluster",
        "method": "plugin",
        "pluginConfiguration": {"name": PLUGIN},
        "target": "prefer-standby",
    }


def archive_rules(name: str, namespace: str, config: PostgresBackup) -> list[dict[str, Any]]:
    """Alerts about the backups of a cluster; the plugin's series come through its instances."""
    pods = f'namespace="{namespace}", pod=~"{name}-[0-9]+"'
    last = f"max({METRICS}_last_available_backup_timestamp{{{pods}}})"
    return [
        alert(
            "PostgresBackupOld",
            # 0 as long as there is none.
            f"time() - {last} > {config.max_age_h * 3600}",
            f"the last backup of {name} is older than {config.max_age_h} h; see its Backups",
            for_s=900,
        ),
        alert(
            "PostgresBackupUnknown",
            f"absent({METRICS}_last_available_backup_timestamp{{{pods}}})",
            f"no instance of {name} tells when its last backup was made; see the plugin's sidecar",
            for_s=1800,
            severity="warning",
        ),
        alert(
            "PostgresBackupFailed",
            f"max({METRICS}_last_failed_backup_timestamp{{{pods}}}) > {last}",
            f"the newest backup of {name} failed; see its Backups",
            for_s=900,
            severity="warning",
        ),
        alert(
            "PostgresWalNotArchived",
            f'max(cnpg_collector_pg_wal_archive_status{{{pods}, value="ready"}}) '
            f"> {config.wal_waiting}",
            f"WAL of {name} waits for its archive: what is written now is in no backup, and the "
            "disk fills",
            for_s=600,
        ),
    ]


def archive_health(config: PostgresBackup) -> list[Panel]:
    """Panels of the health row, judged by `archive_rules`."""
    return [
        stat(
            "Age of the last backup",
            f"One is made at `{config.schedule}`; see the Backups of the cluster.",
            f"time() - max({METRICS}_last_available_backup_timestamp{{{PODS}}})",
            "s",
            red_from=config.max_age_h * 3600,
        ),
        stat(
            "Can be restored back to",
            f"How long ago the oldest moment is; kept are {config.retention_days} days.",
            f"time() - max({METRICS}_first_recoverability_point{{{PODS}}})",
            "s",
        ),
        stat(
            "The last backup failed",
            "1 when none has succeeded since; see the Backups of the cluster.",
            f"max({METRICS}_last_failed_backup_timestamp{{{PODS}}}) > bool "
            f"max({METRICS}_last_available_backup_timestamp{{{PODS}}})",
            red_from=1,
        ),
    ]


def archive_saturation() -> list[Panel]:
    """Panels of the saturation row."""
    waiting = f'cnpg_collector_pg_wal_archive_status{{{PODS}, value="ready"}}'
    return [
        graph(
            "WAL that waits for the archive",
            "Files; they stay on the primary's disk until the store has them.",
            "short",
            {"{{pod}}": f"max by (pod) ({waiting})"},
        )
    ]
