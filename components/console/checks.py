"""What must be true of the running console, and how each statement is broken to prove it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import JsonValue

from components.checks import Check, Fault, SecretKeyRef, scale_to, settings_fault
from components.console.config import PORT, TOKEN_SECRET, ConsoleConfig


def console_checks(
    name: str,
    config: ConsoleConfig,
    *,
    namespace: str,
    host: str,
    settings: dict[str, Any],
    backends: list[str],
) -> list[Check]:
    """The checks, by tokens of the estate's own issuer; `settings` are the service's."""

    def secret(of: str, key: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=of, key=key).arg()

    def fault(changed: dict[str, Any]) -> Fault:
        data = {"settings.json": json.dumps(changed)}
        return settings_fault(namespace, f"{name}-config", data, restart=name)

    door: dict[str, JsonValue] = {
        "url": f"https://{host}:{PORT}",
        "ca": secret(f"{name}-tls", "ca.crt"),
        "key": secret(TOKEN_SECRET, "tls.key"),
    }
    own, *others = settings["issuers"]
    everybody = {**own, "roles": dict.fromkeys(("viewer", "operator", "admin"), "admin")}
    deaf = {**settings, "issuers": [{**own, "audience": "nobody"}, *others]}
    cut_off = {
        **settings,
        **{one: _elsewhere(settings[one]) for one in backends},
    }
    return [
        Check(
            id=f"{name}.roles",
            title="every route of its OpenAPI document refuses whoever may not ask it",
            probe="console_roles",
            args=door,
            fault=fault({**settings, "issuers": [everybody, *others]}),
        ),
        Check(
            id=f"{name}.token",
            title="a token of the estate's issuer is taken, and says who asks",
            probe="console_token",
            args=door,
            fault=fault(deaf),
        ),
        Check(
            id=f"{name}.backends",
            title=f"it reaches {', '.join(backends) or 'nothing'}",
            probe="console_backends",
            args={**door, "backends": list(backends)},
            fault=fault(cut_off) if backends else fault(deaf),
        ),
        Check(
            id=f"{name}.replicas",
            title=f"each of {config.replicas} replicas answers",
            probe="console_replicas",
            args={
                **door,
                "namespace": namespace,
                "selector": f"app.kubernetes.io/name={name}",
                "replicas": config.replicas,
            },
            fault=scale_to(max(config.replicas - 1, 0), "Deployment", namespace, name),
        ),
    ]


def _elsewhere(backend: dict[str, Any]) -> dict[str, Any]:
    """A backend's settings that lead to where nobody listens."""
    nowhere = {
        "bootstrap": "127.0.0.1:9",
        "url": "mongodb://127.0.0.1:9/?tls=true",
        "endpoint": "https://127.0.0.1:9",
        "host": "127.0.0.1",
    }
    return {**backend, **{key: value for key, value in nowhere.items() if key in backend}}
