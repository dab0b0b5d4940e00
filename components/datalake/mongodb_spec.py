"""What MongoDB's operator is told: members, users, storage, TLS, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.datalake.mongodb_config import AUTH_DATABASE, MongodbConfig, MongodbUser
from components.model import Image, Resources, Storage, topology_spread
from components.workload import TRUST_CONFIG_MAP

API_VERSION = "mongodbcommunity.mongodb.com/v1"
METRICS_PORT = 9216
ACCOUNT = "mongodb-database"
"""The service account of the members' pods: built into the operator."""
_MONGOD, _AGENT = "mongod", "mongodb-agent"
_HOOK, _READINESS = "mongod-posthook", "mongodb-agent-readinessprobe"
_SMALL = Resources(cpu_request_m=10, memory_request_mib=32, memory_limit_mib=64)


def pod_labels(name: str) -> dict[str, str]:
    """The members' pods, as the operator labels them (after the Service)."""
    return {"app": name}


def mongodb_version(image: Image) -> str:
    """The server's version in its image's tag, `8.0.28-noble` for one."""
    return image.tag.partition("-")[0]


def community_spec(
    name: str, config: MongodbConfig, images: Mapping[str, Image], *, tls: str, metrics: str
) -> dict[str, Any]:
    """`.spec` of the `MongoDBCommunity`; `tls` and `metrics` are Secrets."""
    return {
        "members": config.replicas,
        "type": "ReplicaSet",
        "version": mongodb_version(images["server"]),
        "security": {
            "authentication": {"modes": ["SCRAM-SHA-256"]},
            "tls": {
                "enabled": True,
                "certificateKeySecretRef": {"name": tls},
                "caConfigMapRef": {"name": TRUST_CONFIG_MAP},
            },
        },
        "users": users(name, config.users),
        "prometheus": {
            "username": "prometheus",
            "passwordSecretRef": {"name": metrics, "key": "password"},
            "port": METRICS_PORT,
            "tlsSecretKeyRef": {"name": tls},
        },
        # To the standard output, where every other log of the estate is.
        "agent": {"logFile": "/dev/stdout", "logLevel": "INFO"},
        "statefulSet": {"spec": _stateful_set(name, config, images)},
    }


def users(name: str, declared: Iterable[MongodbUser]) -> list[dict[str, Any]]:
    """`.spec.users`; each has his password in the Secret `<name>-<user>`."""
    return [_user(name, user) for user in declared]


def _user(name: str, user: MongodbUser) -> dict[str, Any]:
    return {
        "name": user.name,
        "db": AUTH_DATABASE,
        "passwordSecretRef": {"name": f"{name}-{user.name}", "key": "password"},
        # The operator adds a suffix of its own.
        "scramCredentialsSecretName": f"{name}-{user.name}",
        "roles": [
            {"name": "readWrite" if one.write else "read", "db": one.database}
            for one in user.access
        ]
        + ([{"name": "backup", "db": AUTH_DATABASE}] if user.backup else []),
    }


def _stateful_set(name: str, config: MongodbConfig, images: Mapping[str, Image]) -> dict[str, Any]:
    community = config.replica_set
    return {
        "serviceName": name,
        "template": {
            "spec": {
                "enableServiceLinks": False,
                "securityContext": {
                    "runAsUser": 2000,
                    "runAsNonRoot": True,
                    "fsGroup": 2000,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": topology_spread(
                    config.spread, pod_labels(name), config.replicas
                ),
                "initContainers": [
                    _container(_HOOK, images["hook"], _SMALL),
                    _container(_READINESS, images["readiness"], _SMALL),
                ],
                "containers": [
                    _container(_MONGOD, images["server"], config.resources),
                    _container(_AGENT, images["agent"], community.agent_resources),
                ],
            }
        },
        "volumeClaimTemplates": [
            _claim("data-volume", community.storage),
            _claim("logs-volume", community.logs),
        ],
    }


def _container(name: str, image: Image, resources: Resources) -> dict[str, Any]:
    """What is laid over the operator's own container of this name."""
    return {
        "name": name,
        "image": image.ref,
        "imagePullPolicy": "IfNotPresent",
        "resources": resources.quantities(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _claim(name: str, storage: Storage) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{storage.size_gib}Gi"}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    return {"metadata": {"name": name}, "spec": spec}
