"""MongoDB saved at night: mongodump of the whole replica set, to the store outside."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.backup_config import BACKUP_USER, DumpBackup
from components.datalake.backup_job import BACKUP, BackupJob
from components.datalake.backup_store import BackupStore
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_config import AUTH_DATABASE
from components.flows import Flow
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    config_map_volume,
    labels,
    meta,
    secret_volume,
)

PART = "mongodb"
_SECRET = "mongodump"
_FOLDER, _TRUST = "/run/secrets/estate/mongodump", "/run/estate/trust"
_FILE = "mongodump.yaml"


class MongodbBackup(Component):
    """The CronJob, and the file that gives mongodump its password."""

    job: BackupJob

    def __init__(
        self,
        name: str,
        config: DumpBackup,
        *,
        namespace: pulumi.Input[str],
        mongodb: MongodbCluster,
        password: pulumi.Input[str],
        store: BackupStore,
        image: Image,
        rclone: Image,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:MongodbBackup", name, opts)
        file = k8s.core.v1.Secret(
            _SECRET,
            metadata=meta(_SECRET, namespace, labels(_SECRET)),
            string_data={
                _FILE: pulumi.Output.from_input(password).apply(
                    # A string of JSON is one of YAML.
                    lambda value: f"password: {json.dumps(value.strip())}\n"
                )
            },
            opts=self.child(),
        )
        self.job = BackupJob(
            PART,
            config,
            namespace=namespace,
            store=store,
            image=image,
            command=["/bin/sh", "-euc", dump(mongodb.address)],
            volumes=[
                (secret_volume("password", _SECRET), _FOLDER),
                (config_map_volume("trust", TRUST_CONFIG_MAP), _TRUST),
            ],
            reaches=Flow(source=mongodb.pods, target=mongodb.pods, ports=[mongodb.port]),
            rclone=rclone,
            depends_on=[file, *mongodb.ready],
            monitors=monitors,
            opts=self.child(),
        )
        self.flows += self.job.flows
        self.expected_pods += self.job.expected_pods
        self.dashboards += self.job.dashboards
        self.register_outputs({})


def dump(address: str) -> str:
    """The shell's words: all databases and, by the oplog, the moment at which the dump ends."""
    options = (
        f"authSource={AUTH_DATABASE}&authMechanism=SCRAM-SHA-256"
        f"&tlsCAFile={_TRUST}/ca.crt&readPreference=secondaryPreferred"
    )
    uri = f"{address.replace('://', f'://{BACKUP_USER}@', 1)}&{options}"
    return (
        f"mkdir -m 0700 {BACKUP}\n"
        f"exec mongodump --config={_FOLDER}/{_FILE} --uri='{uri}' --oplog --gzip "
        f"--archive={BACKUP}/mongodb.archive.gz\n"
    )
