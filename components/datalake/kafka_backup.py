"""Kafka's messages saved at night in the format of `./estate restore`, to the store outside."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.backup_config import BACKUP_USER, DumpBackup
from components.datalake.backup_job import BACKUP, BackupJob
from components.datalake.backup_store import BackupStore
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_files import CLIENTS_PORT
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
from services import backup
from services.backup import folder, messages, records, topics

PART = "kafka"
_CONFIG = f"{PART}-backup"
_ROOT = "/backup"
_CODE = {
    # Pulumi drops keys that begin with two underscores.
    "init.py": backup,
    "folder.py": folder,
    "messages.py": messages,
    "records.py": records,
    "topics.py": topics,
}


class KafkaBackup(Component):
    """The CronJob, and the code and settings that it runs with."""

    job: BackupJob

    def __init__(
        self,
        name: str,
        config: DumpBackup,
        *,
        namespace: pulumi.Input[str],
        kafka: KafkaCluster,
        store: BackupStore,
        image: Image,
        rclone: Image,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:KafkaBackup", name, opts)
        files = k8s.core.v1.ConfigMap(
            _CONFIG,
            metadata=meta(_CONFIG, namespace, labels(_CONFIG)),
            data={
                "client.json": json.dumps(client(kafka.address), indent=1),
                **{file: inspect.getsource(module) for file, module in _CODE.items()},
            },
            opts=self.child(),
        )
        code = [
            k8s.core.v1.KeyToPathArgs(
                key=file, path=f"services/backup/{file.replace('init.py', '__init__.py')}"
            )
            for file in _CODE
        ]
        settings = k8s.core.v1.KeyToPathArgs(key="client.json", path="client.json")
        volume = k8s.core.v1.VolumeArgs(
            name="code",
            config_map=k8s.core.v1.ConfigMapVolumeSourceArgs(name=_CONFIG, items=[*code, settings]),
        )
        self.job = BackupJob(
            PART,
            config,
            namespace=namespace,
            store=store,
            image=image,
            command=[
                *("/usr/bin/python3", "-m", "services.backup.messages"),
                *(f"{_ROOT}/code/client.json", f"{_ROOT}/user/password", BACKUP),
            ],
            env={"PYTHONPATH": f"{_ROOT}/code"},
            volumes=[
                (volume, f"{_ROOT}/code"),
                (
                    secret_volume("user", f"{PART}-{BACKUP_USER}", {"password": "password"}),
                    f"{_ROOT}/user",
                ),
                (config_map_volume("trust", TRUST_CONFIG_MAP), f"{_ROOT}/trust"),
            ],
            reaches=Flow(source=kafka.brokers, target=kafka.brokers, ports=[CLIENTS_PORT]),
            rclone=rclone,
            depends_on=[files, *kafka.ready],
            monitors=monitors,
            opts=self.child(),
        )
        self.flows += self.job.flows
        self.expected_pods += self.job.expected_pods
        self.dashboards += self.job.dashboards
        self.register_outputs({})


def client(address: str) -> dict[str, str]:
    """The reader's configuration of librdkafka, without his password."""
    return {
        "bootstrap.servers": address,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": BACKUP_USER,
        "ssl.ca.location": f"{_ROOT}/trust/ca.crt",
    }
