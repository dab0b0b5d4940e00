"""What must be true of a running Kafka, and how each statement is broken to prove its check."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import JsonValue

from components.checks import Check, Fault, ObjectRef, SecretKeyRef, scale_to
from components.datalake import kafka_files as files
from components.datalake.kafka_config import VERIFY_TOPIC, VERIFY_USER, KafkaConfig


def checks(name: str, namespace: str, config: KafkaConfig, hosts: Sequence[str]) -> list[Check]:
    """The checks of a cluster whose brokers are `hosts`."""
    service = f"{name}.{namespace}.svc.cluster.local:{files.CLIENTS_PORT}"

    def secret(key: str, suffix: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=f"{name}-{suffix}", key=key).arg()

    def object_ref(kind: str, suffix: str = "") -> ObjectRef:
        return ObjectRef(api_version="v1", kind=kind, namespace=namespace, name=f"{name}{suffix}")

    scram: dict[str, JsonValue] = {
        "username": VERIFY_USER,
        "password": secret("password", VERIFY_USER),
        "ca": secret("ca.crt", "tls"),
        "topic": VERIFY_TOPIC,
    }
    administrator: dict[str, JsonValue] = {
        "bootstrap": _join(hosts, files.INTERNAL_PORT),
        "ca": secret("ca.crt", "admin"),
        "certificate": secret("tls.crt", "admin"),
        "key": secret("tls.key", "admin"),
    }
    undeclared = config.declaration()
    undeclared["topics"].append(
        {"name": "estate.missing", "partitions": 1, "replication_factor": 1, "configs": {}}
    )
    return [
        Check(
            id=f"{name}.produce-consume",
            title="a record written with acks=all is read back (SCRAM over TLS)",
            probe="kafka_produce_consume",
            args={**scram, "bootstrap": service},
            fault=Fault(
                target=object_ref("Service"),
                patch={"spec": {"selector": {"app.kubernetes.io/name": "nobody"}}},
            ),
        ),
        Check(
            id=f"{name}.wrong-password",
            title="a wrong password, and none, are refused by authentication",
            probe="kafka_wrong_password",
            args={**scram, "bootstrap": _join(hosts, files.CLIENTS_PORT)},
            fault=Fault(
                target=object_ref("ConfigMap", "-config"),
                patch={
                    "data": {
                        "server.properties": files.server_properties(
                            config, hosts, authenticate=False
                        )
                    }
                },
                restart=f"app.kubernetes.io/name={name}",
            ),
        ),
        Check(
            id=f"{name}.in-sync",
            title=f"{config.brokers} brokers, every partition has all its replicas in sync",
            probe="kafka_in_sync",
            args={**administrator, "brokers": config.brokers},
            fault=scale_to(config.brokers - 1, "StatefulSet", namespace, name),
        ),
        Check(
            id=f"{name}.declared",
            title="topics, users and ACLs are what the declaration says",
            probe="kafka_declared",
            args={
                **administrator,
                "namespace": namespace,
                "config_map": f"{name}-declaration",
            },
            fault=Fault(
                target=object_ref("ConfigMap", "-declaration"),
                patch={"data": {"declaration.json": json.dumps(undeclared, indent=1)}},
            ),
        ),
    ]


def _join(hosts: Sequence[str], port: int) -> str:
    return ",".join(f"{host}:{port}" for host in hosts)
