"""What must be true of a running Kafka, and how each statement is broken to prove its check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from components.checks import Check, Fault, ObjectRef, SecretKeyRef, scale_to, settings_fault
from components.datalake import kafka_files as files
from components.datalake.kafka_config import VERIFY_TOPIC, VERIFY_USER, KafkaConfig


@dataclass(frozen=True)
class Access:
    """How the checks reach a cluster: addresses are `host:port,...`.

    `bootstrap` is the clients' service and `brokers` each broker's own listener for clients;
    `administrator` has a client certificate: bootstrap, ca, certificate, key.
    """

    bootstrap: str
    brokers: str
    administrator: dict[str, JsonValue]


@dataclass(frozen=True)
class Faults:
    """What breaks the statements that depend on who runs the brokers."""

    produce_consume: Fault
    wrong_password: Fault
    in_sync: Fault


def checks(name: str, namespace: str, config: KafkaConfig, hosts: Sequence[str]) -> list[Check]:
    """The checks of a StatefulSet whose brokers are `hosts`."""

    def object_ref(kind: str, suffix: str = "") -> ObjectRef:
        return ObjectRef(api_version="v1", kind=kind, namespace=namespace, name=f"{name}{suffix}")

    access = Access(
        bootstrap=f"{name}.{namespace}.svc.cluster.local:{files.CLIENTS_PORT}",
        brokers=join(hosts, files.CLIENTS_PORT),
        administrator={
            "bootstrap": join(hosts, files.INTERNAL_PORT),
            "ca": secret(namespace, f"{name}-admin", "ca.crt"),
            "certificate": secret(namespace, f"{name}-admin", "tls.crt"),
            "key": secret(namespace, f"{name}-admin", "tls.key"),
        },
    )
    faults = Faults(
        produce_consume=Fault(
            target=object_ref("Service"),
            patch={"spec": {"selector": {"app.kubernetes.io/name": "nobody"}}},
        ),
        wrong_password=Fault(
            target=object_ref("ConfigMap", "-config"),
            patch={
                "data": {
                    "server.properties": files.server_properties(config, hosts, authenticate=False)
                }
            },
            # One broker that lets everyone in is enough to be found.
            restart=f"statefulset.kubernetes.io/pod-name={name}-{config.brokers - 1}",
        ),
        in_sync=scale_to(config.brokers - 1, "StatefulSet", namespace, name),
    )
    return declare(name, namespace, config, access, faults)


def declare(
    name: str, namespace: str, config: KafkaConfig, access: Access, faults: Faults
) -> list[Check]:
    """The checks of a cluster, the same whoever runs it.

    The ConfigMap `<name>-declaration` holds KafkaConfig.declaration(), the Secrets `<name>-tls`
    and `<name>-<user>` the clients' CA and a user's password.
    """
    scram: dict[str, JsonValue] = {
        "username": VERIFY_USER,
        "password": secret(namespace, f"{name}-{VERIFY_USER}", "password"),
        "ca": secret(namespace, f"{name}-tls", "ca.crt"),
        "topic": VERIFY_TOPIC,
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
            args={**scram, "bootstrap": access.bootstrap},
            fault=faults.produce_consume,
        ),
        Check(
            id=f"{name}.wrong-password",
            title="each broker refuses a wrong password, and none, by authentication",
            probe="kafka_wrong_password",
            args={**scram, "bootstrap": access.brokers},
            fault=faults.wrong_password,
        ),
        Check(
            id=f"{name}.in-sync",
            title=f"{config.brokers} brokers, every partition has all its replicas in sync",
            probe="kafka_in_sync",
            args={**access.administrator, "brokers": config.brokers},
            fault=faults.in_sync,
        ),
        Check(
            id=f"{name}.declared",
            title="topics, users and ACLs are what the declaration says",
            probe="kafka_declared",
            args={
                **access.administrator,
                "namespace": namespace,
                "config_map": f"{name}-declaration",
            },
            fault=settings_fault(
                namespace,
                f"{name}-declaration",
                {"declaration.json": json.dumps(undeclared, indent=1)},
            ),
        ),
    ]


def secret(namespace: str, name: str, key: str) -> dict[str, JsonValue]:
    """A key of a Secret as a probe's argument."""
    return SecretKeyRef(namespace=namespace, secret=name, key=key).arg()


def join(hosts: Sequence[str], port: int) -> str:
    """The hosts as `host:port,...`."""
    return ",".join(f"{host}:{port}" for host in hosts)
