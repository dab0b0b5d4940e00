"""What must be true of running documents, and how each statement is broken to prove its check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.checks import Check, Fault, SecretKeyRef
from components.datalake.mongodb_config import (
    PORT,
    VERIFY_DATABASE,
    VERIFY_USER,
    MongodbConfig,
)


@dataclass(frozen=True)
class Faults:
    """What breaks each statement; it depends on who serves the protocol."""

    round_trip: Fault
    wrong_password: Fault
    encrypted: Fault
    declared: Fault
    replicas: Fault


def checks(
    name: str,
    namespace: str,
    config: MongodbConfig,
    faults: Faults,
    *,
    selector: str,
    replica_set: str | None,
) -> list[Check]:
    """The checks, the same whoever serves; `selector` finds the replicas' pods."""

    def secret(of: str, key: str) -> dict[str, Any]:
        return dict(SecretKeyRef(namespace=namespace, secret=f"{name}-{of}", key=key).arg())

    server: dict[str, Any] = {
        "host": f"{name}.{namespace}.svc.cluster.local",
        "port": PORT,
        "replica_set": replica_set,
        "ca": secret("tls", "ca.crt"),
        "username": VERIFY_USER,
        "password": secret(VERIFY_USER, "password"),
    }
    users: list[Any] = [
        {
            "username": user.name,
            "password": secret(user.name, "password"),
            "access": [one.model_dump() for one in user.access],
        }
        for user in config.users
    ]
    return [
        Check(
            id=f"{name}.round-trip",
            title="documents are inserted, indexed, found and counted (SCRAM over TLS)",
            probe="mongodb_round_trip",
            args={**server, "database": VERIFY_DATABASE},
            fault=faults.round_trip,
        ),
        Check(
            id=f"{name}.wrong-password",
            title="a wrong password, and none, are refused by authentication",
            probe="mongodb_wrong_password",
            args={**server, "database": VERIFY_DATABASE},
            fault=faults.wrong_password,
        ),
        Check(
            id=f"{name}.encrypted",
            title="a client without TLS gets no answer",
            probe="mongodb_encrypted",
            args=server,
            fault=faults.encrypted,
        ),
        Check(
            id=f"{name}.declared",
            title="every declared user logs in with his own password",
            probe="mongodb_declared",
            args={**server, "users": users, "authorization": replica_set is not None},
            fault=faults.declared,
        ),
        Check(
            id=f"{name}.replicas",
            title=f"what is written is read at each of {config.replicas} replicas",
            probe="mongodb_replicas",
            args={
                **server,
                "database": VERIFY_DATABASE,
                "namespace": namespace,
                "selector": selector,
                "replicas": config.replicas,
            },
            fault=faults.replicas,
        ),
    ]
