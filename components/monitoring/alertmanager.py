"""Alertmanager's custom resource and configuration."""

from __future__ import annotations

import json
from typing import Any

from components.model import Image
from components.monitoring.config import AlertmanagerConfig

PORT = 9093
MESH_PORT = 9094  # the replicas among themselves, over TCP and UDP
UID = 65_534


def spec(config: AlertmanagerConfig, image: Image, name: str) -> dict[str, Any]:
    """`.spec` of the `Alertmanager`; its Secret `<name>-config` holds `configuration`."""
    storage: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{config.storage.size_gib}Gi"}},
    }
    if config.storage.storage_class is not None:
        storage["storageClassName"] = config.storage.storage_class
    return {
        "version": image.tag,
        "image": image.ref,
        "imagePullPolicy": "IfNotPresent",
        "replicas": config.replicas,
        "retention": "120h",
        "portName": "web",
        "configSecret": f"{name}-config",
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "resources": config.resources.quantities(),
        "securityContext": pod_security(),
        "storage": {"volumeClaimTemplate": {"spec": storage}},
        "web": web_tls(name),
        "podMetadata": {"labels": {"app.kubernetes.io/part-of": "estate"}},
        "containers": [
            {
                "name": "alertmanager",
                # The rehearsal's images have no entry point; upstream's is this same path.
                "command": ["/bin/alertmanager"],
                "readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 3},
            }
        ],
    }


def pod_security() -> dict[str, Any]:
    """Pod Security `restricted`, for what the operator's custom resources run."""
    return {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "fsGroup": UID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def web_tls(name: str) -> dict[str, Any]:
    """`.spec.web`: the certificate that cert-manager keeps in Secret `<name>-tls`.

    There is no login: who reaches the port inside the cluster may read. From outside only the
    gateway leads in, on loopback.
    """
    return {
        "tlsConfig": {
            "cert": {"secret": {"name": f"{name}-tls", "key": "tls.crt"}},
            "keySecret": {"name": f"{name}-tls", "key": "tls.key"},
            "minVersion": "TLS12",
        }
    }


def configuration(config: AlertmanagerConfig) -> str:
    """alertmanager.yaml (JSON is YAML): a route per webhook, everything else to nobody."""
    routes: list[dict[str, Any]] = [
        # Fires all the time to show that the chain works; nobody needs to be told.
        {"receiver": "nobody", "matchers": ['alertname="Watchdog"']}
    ]
    routes += [
        {
            "receiver": webhook.name,
            "matchers": [f'severity=~"{"|".join(webhook.severities)}"'],
            "continue": True,
        }
        for webhook in config.webhooks
    ]
    return json.dumps(
        {
            "route": {
                "receiver": "nobody",
                "group_by": ["alertname", "namespace"],
                "group_wait": f"{config.group_wait_s}s",
                "group_interval": f"{config.group_interval_s}s",
                "repeat_interval": f"{config.repeat_interval_h}h",
                "routes": routes,
            },
            "inhibit_rules": [
                {
                    "source_matchers": ['severity="critical"'],
                    "target_matchers": ['severity="warning"'],
                    "equal": ["namespace", "alertname"],
                }
            ],
            "receivers": [
                {"name": "nobody"},
                *(
                    {
                        "name": webhook.name,
                        "webhook_configs": [{"url": webhook.url, "send_resolved": True}],
                    }
                    for webhook in config.webhooks
                ),
            ],
        },
        indent=1,
    )
