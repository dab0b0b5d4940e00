"""What must be true of running image transfer, and how each statement is broken to prove it."""

from __future__ import annotations

from pydantic import JsonValue

from components.checks import Check, Fault, SecretKeyRef, scale_to, settings_fault
from components.datalake.object_store import ObjectStore
from components.datalake.transfer_config import (
    BASE_PATH,
    PEERS_PORT,
    PORT,
    TOKEN_SECRET,
    TransferConfig,
)
from components.datalake.transfer_files import settings, tusd_start


def transfer_checks(
    name: str,
    config: TransferConfig,
    *,
    namespace: str,
    host: str,
    kafka: str,
    store: ObjectStore,
    open_proxy: str,
) -> list[Check]:
    """The checks of one deployment; `open_proxy` is a haproxy.cfg that asks for no token."""

    def secret(of: str, key: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=of, key=key).arg()

    def fault(config_map: str, key: str, text: str) -> Fault:
        return settings_fault(namespace, config_map, {key: text}, restart=name)

    door: dict[str, JsonValue] = {
        "url": f"https://{host}:{PORT}{BASE_PATH}",
        "ca": secret(f"{name}-tls", "ca.crt"),
        "key": secret(TOKEN_SECRET, "tls.key"),
    }
    topics: dict[str, JsonValue] = {
        "bootstrap": kafka,
        "username": "verify",
        "password": secret("kafka-verify", "password"),
    }
    no_hook = tusd_start(config, store).replace("pre-create,post-finish", "pre-create")
    return [
        Check(
            id=f"{name}.resume",
            title="an upload that was cut goes on where it was, and arrives in Kafka by its hash",
            probe="transfer_resume",
            args={**door, **topics},
            # Uploads arrive, and nobody is told of them.
            fault=fault(f"{name}-config", "settings.json", settings(config, store, "127.0.0.1:9")),
        ),
        Check(
            id=f"{name}.token",
            title="without a token, with a wrong or an expired one nobody gets in",
            probe="transfer_token",
            args=door,
            fault=fault(f"{name}-proxy", "haproxy.cfg", open_proxy),
        ),
        Check(
            id=f"{name}.quarantine",
            title="an image that is not what it says is quarantined with the reason",
            probe="transfer_quarantine",
            args={**door, **topics},
            # Found by the next sweep only, later than the check waits.
            fault=fault(f"{name}-scripts", "tusd.sh", no_hook),
        ),
        Check(
            id=f"{name}.replicas",
            title=f"each of {config.replicas} replicas takes uploads",
            probe="transfer_replicas",
            args={
                **door,
                "namespace": namespace,
                "selector": f"app.kubernetes.io/name={name}",
                "replicas": config.replicas,
                "port": PEERS_PORT,
            },
            fault=scale_to(max(config.replicas - 1, 0), "StatefulSet", namespace, name),
        ),
    ]
