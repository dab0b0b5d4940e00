"""Prometheus' custom resource: what it selects, keeps and tells Alertmanager."""

from __future__ import annotations

from typing import Any

from components.model import Image, Spread, topology_spread
from components.monitoring.alertmanager import pod_security, web_tls
from components.monitoring.config import PrometheusConfig
from components.workload import MONITOR_LABELS, by_https

PORT = 9090


def spec(
    config: PrometheusConfig,
    image: Image,
    name: str,
    *,
    alertmanager: str,
    namespace: str,
    spread: Spread,
) -> dict[str, Any]:
    """`.spec` of the `Prometheus`; `alertmanager` is the name of the service in `namespace`."""
    selected = {"matchLabels": dict(MONITOR_LABELS)}
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
        "portName": "web",
        "serviceAccountName": name,
        "serviceDiscoveryRole": "EndpointSlice",
        "scrapeInterval": f"{config.scrape_interval_s}s",
        "evaluationInterval": f"{config.scrape_interval_s}s",
        "retention": f"{config.retention_days}d",
        # The oldest blocks go before the claim is full: a full disk stops everything.
        "retentionSize": f"{config.storage.size_gib * 1024 * 85 // 100}MiB",
        "walCompression": True,
        "resources": config.resources.quantities(),
        "securityContext": pod_security(),
        "storage": {"volumeClaimTemplate": {"spec": storage}},
        "web": web_tls(name),
        "podMetadata": {"labels": {"app.kubernetes.io/part-of": "estate"}},
        "topologySpreadConstraints": topology_spread(spread, {"prometheus": name}, config.replicas),
        # Everything of the estate, in every namespace that the operator watches.
        **{
            f"{kind}{part}": selected if part == "Selector" else {}
            for kind in ("serviceMonitor", "podMonitor", "probe", "rule")
            for part in ("Selector", "NamespaceSelector")
        },
        "alerting": {
            "alertmanagers": [
                {
                    "namespace": namespace,
                    "name": alertmanager,
                    "port": "web",
                    "apiVersion": "v2",
                    **by_https(f"{alertmanager}.{namespace}.svc.cluster.local"),
                }
            ]
        },
        "containers": [
            {
                "name": "prometheus",
                # The rehearsal's images have no entry point; upstream's is this same path.
                "command": ["/bin/prometheus"],
                # The operator's 15 s would add to every start; the limit of 15 minutes stays.
                "startupProbe": {"periodSeconds": 2, "failureThreshold": 450},
            }
        ],
    }
