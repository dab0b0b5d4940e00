"""What must be true of running annotation, and how the statement is broken to prove it."""

from __future__ import annotations

from components.checks import Check, SecretKeyRef, settings_fault
from components.datalake.annotation_config import PORT


def annotation_checks(
    name: str, *, namespace: str, host: str, silence_s: int, misled: str
) -> list[Check]:
    """The checks of one deployment; `misled` is a settings.json with a server that is nowhere."""
    return [
        Check(
            id=f"{name}.run",
            title="the last run sent and fetched every version, and was not long ago",
            probe="annotation_run",
            args={
                "url": f"https://{host}:{PORT}/metrics",
                "ca": SecretKeyRef(namespace=namespace, secret=f"{name}-tls", key="ca.crt").arg(),
                "silence_s": silence_s,
            },
            fault=settings_fault(
                namespace, f"{name}-config", {"settings.json": misled}, restart=name
            ),
        )
    ]
