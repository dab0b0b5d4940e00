"""What must be true of a running registry, and how each statement is broken to prove it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from components.checks import Check, Fault, ObjectRef, SecretKeyRef
from components.model_repository.config import (
    NAMESPACE,
    PUBLISH_PORT,
    PUBLISHER,
    READ_PORT,
    READER,
    VERIFY_REPOSITORY,
)


@dataclass(frozen=True)
class Faults:
    """Ways to break it.

    `no_writes` lets nobody publish, `open_reader` opens the reader's door for writes, `open_doors`
    asks for no password.
    """

    no_writes: Fault
    open_reader: Fault
    open_doors: Fault


def model_repository_checks(name: str, *, host: str, faults: Faults) -> list[Check]:
    """The checks of one registry, whoever runs it."""

    def user(of: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=NAMESPACE, secret=f"{name}-{of}", key="password").arg()

    doors: dict[str, JsonValue] = {
        "publish_url": f"https://{host}:{PUBLISH_PORT}",
        "read_url": f"https://{host}:{READ_PORT}",
        "publisher": user(PUBLISHER),
        "reader": user(READER),
        "ca": SecretKeyRef(namespace=NAMESPACE, secret=f"{name}-tls", key="ca.crt").arg(),
        "repository": VERIFY_REPOSITORY,
    }
    return [
        Check(
            id=f"{name}.round-trip",
            title="what the publisher pushes the reader gets by its digest, byte by byte",
            probe="model_registry_round_trip",
            args=doors,
            fault=faults.no_writes,
        ),
        Check(
            id=f"{name}.read-only",
            title="the reader reads, and may push at neither door",
            probe="model_registry_read_only",
            args=doors,
            fault=faults.open_reader,
        ),
        Check(
            id=f"{name}.password",
            title="a wrong password, and none, is refused at both doors",
            probe="model_registry_password",
            args=doors,
            fault=faults.open_doors,
        ),
    ]


def ecr_checks(name: str, *, url: str, secret: str, models: Sequence[str]) -> list[Check]:
    """The check of one registry that is Amazon's; without models there is nowhere to ask."""
    if not models:
        return []
    user: dict[str, JsonValue] = {
        key: SecretKeyRef(namespace=NAMESPACE, secret=secret, key=key).arg()
        for key in ("username", "password")
    }
    spoiled = base64.b64encode(b"spoiled").decode()
    return [
        Check(
            id=f"{name}.token",
            title="the reader's token is taken for reading, and for no upload",
            probe="model_registry_token",
            args={"url": url, "user": user, "repository": f"models/{models[0]}"},
            fault=Fault(
                target=ObjectRef(api_version="v1", kind="Secret", namespace=NAMESPACE, name=secret),
                patch={"data": {"password": spoiled}},
            ),
        )
    ]
