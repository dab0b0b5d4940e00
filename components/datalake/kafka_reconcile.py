"""Makes Kafka's topics, SCRAM users and ACLs what the declaration says; run as a Job.

    python3 kafka_reconcile.py <declaration.json> <client.json> <passwords folder>

The declaration is KafkaConfig.declaration(); the client file is librdkafka's configuration of
the administrator (mTLS); the folder has one file per user with its password. Topics are created
and grown, never deleted or shrunk: that would lose data. Users and grants that are not declared
are removed. Running it again changes nothing. Exit 1: a difference that it must not resolve.
"""

# confluent_kafka.admin hands its classes on without declaring it.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

TIMEOUT_S = 20.0
ITERATIONS = 8192
"""SCRAM iterations; Kafka's minimum for SHA-512 is 4096."""


def main(arguments: list[str]) -> int:
    """Reconcile once; prints what it changed."""
    declaration = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    client = AdminClient(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
    folder = Path(arguments[2])
    passwords = {
        user["name"]: (folder / user["name"]).read_text(encoding="utf-8").strip()
        for user in declaration["users"]
    }
    wait_for_brokers(client, needed=max_factor(declaration))
    refused = reconcile_topics(client, declaration["topics"])
    reconcile_users(client, passwords)
    reconcile_acls(client, declaration["users"])
    for line in refused:
        print(f"error: {line}", flush=True)
    return 1 if refused else 0


def max_factor(declaration: Mapping[str, Any]) -> int:
    """The brokers that must answer before topics can be created."""
    return max((topic["replication_factor"] for topic in declaration["topics"]), default=1)


def wait_for_brokers(client: AdminClient, *, needed: int, limit_s: float = 120.0) -> None:
    """Wait until `needed` brokers are registered. Raises TimeoutError."""
    end = time.monotonic() + limit_s
    while True:
        try:
            found = len(client.list_topics(timeout=5).brokers)
        except KafkaException as error:
            found, reason = 0, str(error)
        else:
            reason = f"{found} of {needed} brokers"
        if found >= needed:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"brokers did not answer in {limit_s:.0f} s: {reason}")
        time.sleep(1)


def reconcile_topics(client: AdminClient, topics: list[dict[str, Any]]) -> list[str]:
    """Create missing topics, add partitions, set configs; returns what it must not change."""
    existing = client.list_topics(timeout=TIMEOUT_S).topics
    missing = [topic for topic in topics if topic["name"] not in existing]
    if missing:
        _done(
            client.create_topics(
                [
                    NewTopic(
                        topic["name"],
                        num_partitions=topic["partitions"],
                        replication_factor=topic["replication_factor"],
                        config=topic["configs"],
                    )
                    for topic in missing
                ],
                operation_timeout=TIMEOUT_S,
            ),
            lambda name: f"topic {name}: created",
        )
    refused: list[str] = []
    present = [topic for topic in topics if topic["name"] in existing]
    for topic in present:
        partitions = existing[topic["name"]].partitions
        refused += _grow(client, topic, partitions)
    _configure(client, present)
    return refused


def _grow(client: AdminClient, topic: dict[str, Any], partitions: Mapping[int, Any]) -> list[str]:
    refused = []
    name, wanted, have = topic["name"], topic["partitions"], len(partitions)
    if have < wanted:
        _done(
            client.create_partitions([NewPartitions(name, wanted)]),
            lambda _: f"topic {name}: {have} -> {wanted} partitions",
        )
    elif have > wanted:
        refused.append(
            f"topic {name} has {have} partitions, {wanted} are declared: partitions cannot be "
            "taken away; declare what is there or make a new topic"
        )
    factor = min(len(partition.replicas) for partition in partitions.values())
    if factor != topic["replication_factor"]:
        refused.append(
            f"topic {name} has replication factor {factor}, {topic['replication_factor']} is "
            "declared: move its replicas with a reassignment, or declare what is there"
        )
    return refused


def _configure(client: AdminClient, topics: list[dict[str, Any]]) -> None:
    if not topics:
        return
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic["name"]) for topic in topics]
    current = {
        resource.name: {key: entry.value for key, entry in future.result(TIMEOUT_S).items()}
        for resource, future in client.describe_configs(resources).items()
    }
    changes = []
    for topic in topics:
        different = {
            key: value
            for key, value in topic["configs"].items()
            if current[topic["name"]].get(key) != value
        }
        if different:
            entries = [
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in different.items()
            ]
            changes.append(
                ConfigResource(
                    ConfigResource.Type.TOPIC, topic["name"], incremental_configs=entries
                )
            )
            print(f"topic {topic['name']}: {different}", flush=True)
    if changes:
        _done(client.incremental_alter_configs(changes))


def reconcile_users(client: AdminClient, passwords: Mapping[str, str]) -> None:
    """Set the password of every declared user; remove the users that are not declared."""
    described = cast(Any, client.describe_user_scram_credentials())
    existing = described.result(TIMEOUT_S)
    alterations: list[Any] = [
        UserScramCredentialUpsertion(
            name,
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS),
            password.encode(),
            secrets.token_bytes(24),
        )
        for name, password in passwords.items()
    ]
    for name in sorted(set(existing) - set(passwords)):
        for credential in existing[name].scram_credential_infos:
            alterations.append(UserScramCredentialDeletion(name, credential.mechanism))
    if alterations:
        _done(
            client.alter_user_scram_credentials(alterations),
            lambda name: f"user {name}: {'set' if name in passwords else 'removed'}",
        )


def bindings(users: list[dict[str, Any]]) -> set[AclBinding]:
    """The ACLs of the declaration."""
    return {
        AclBinding(
            ResourceType[grant["resource"].upper()],
            grant["name"],
            ResourcePatternType[grant["pattern"].upper()],
            f"User:{user['name']}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for user in users
        for grant in user["grants"]
        for operation in grant["operations"]
    }


def existing_acls(client: AdminClient) -> set[AclBinding]:
    """Every ACL that the cluster has."""
    any_text = cast(str, None)  # None is "any" here, though the types say str
    everything = AclBindingFilter(
        ResourceType.ANY,
        any_text,
        ResourcePatternType.ANY,
        any_text,
        any_text,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    return set(client.describe_acls(everything).result(TIMEOUT_S))


def reconcile_acls(client: AdminClient, users: list[dict[str, Any]]) -> None:
    """Exactly the declared ACLs; what is new first, so that nobody loses a right in between."""
    existing = existing_acls(client)
    wanted = bindings(users)
    if wanted - existing:
        _done(client.create_acls(sorted(wanted - existing, key=str)), lambda acl: f"added {acl}")
    surplus = [
        AclBindingFilter(
            acl.restype,
            acl.name,
            acl.resource_pattern_type,
            acl.principal,
            acl.host,
            acl.operation,
            acl.permission_type,
        )
        for acl in existing - wanted
    ]
    if surplus:
        _done(client.delete_acls(surplus), lambda acl: f"removed {acl}")


def _done(futures: Mapping[Any, Any], say: Callable[[Any], str] | None = None) -> None:
    for subject, future in futures.items():
        future.result(TIMEOUT_S)
        if say is not None:
            print(say(subject), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
