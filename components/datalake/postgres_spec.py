"""What CloudNativePG is told about the cluster, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.datalake.postgres_archive import PostgresArchive
from components.datalake.postgres_config import PostgresConfig, own_parameters
from components.model import Image, topology

HBA = [
    # CloudNativePG ends its file with `host all all all scram-sha-256`: without these two lines
    # a client could hand over its password without TLS.
    "hostssl all all all scram-sha-256",
    "hostnossl all all all reject",
]


def cluster_spec(
    config: PostgresConfig,
    image: Image,
    *,
    secrets: Mapping[str, pulumi.Input[str]],
    server_tls: str,
    replication_tls: str,
    ca: str,
    archive: PostgresArchive | None = None,
) -> dict[str, Any]:
    """`.spec` of the `Cluster`; `secrets` maps a role to the Secret with its password.

    Where the seconds of a failover go was read in CloudNativePG 1.30's source; each is named
    beside its setting. With the defaults a primary's pod deleted by force cost 23 s.
    """
    synchronous = {
        "method": "any",
        "number": config.synchronous_standbys,
        # Writes stop rather than go on with fewer copies: an acknowledged row is never lost.
        "dataDurability": "required",
        "failoverQuorum": config.failover_quorum,
    }
    key, required = topology(config.spread)
    initdb = {
        "database": config.database,
        "owner": config.owner.name,
        "secret": {"name": secrets[config.owner.name]},
        "dataChecksums": True,
    }
    return {
        "instances": config.instances,
        "imageName": image.ref,
        "imagePullPolicy": "IfNotPresent",
        "primaryUpdateStrategy": "unsupervised",
        "primaryUpdateMethod": "switchover",
        "enableSuperuserAccess": False,
        "enablePDB": True,
        "storage": {"size": f"{config.storage.size_gib}Gi"}
        | (
            {"storageClass": config.storage.storage_class}
            if config.storage.storage_class is not None
            else {}
        ),
        "resources": config.resources.quantities(),
        "affinity": {
            "enablePodAntiAffinity": True,
            "topologyKey": key,
            "podAntiAffinityType": "required" if required else "preferred",
        },
        "certificates": {
            "serverTLSSecret": server_tls,
            "serverCASecret": ca,
            "replicationTLSSecret": replication_tls,
            "clientCASecret": ca,
        },
        "bootstrap": {"initdb": initdb},
        "managed": {
            "roles": [
                {
                    "name": role.name,
                    "ensure": "present",
                    "login": True,
                    "superuser": False,
                    "inherit": True,
                    "connectionLimit": role.connection_limit,
                    "inRoles": list(role.member_of),
                    "passwordSecret": {"name": secrets[role.name]},
                }
                for role in config.roles
            ]
        },
        "postgresql": {
            "parameters": own_parameters(config) | config.parameters,
            "pg_hba": HBA,
        }
        | ({"synchronous": synchronous} if config.synchronous_standbys else {}),
        "monitoring": {"tls": {"enabled": True}},
        **failover_timing(),
        **(archive.cluster_spec(initdb) if archive is not None else {}),
    }


def failover_timing() -> dict[str, Any]:
    """Settings that decide how long writes are refused when the primary is lost.

    The chain, from the source: pod gone -> operator reconciles at once (watch) -> the old
    PostgreSQL must be dead and all WAL receivers down, looked at every 1 s (replicas.go) ->
    target primary set -> candidate waits for the primary lease (runnable.go) -> promotion and
    checkpoint -> role label and with it the `-rw` endpoint -> the other standby follows.
    """
    return {
        # The largest part. A primary deleted by force cannot give its lease back: its token is
        # bound to the pod that is gone, so the API server refuses it, and the kubelet leaves it
        # one second. The candidate then watches the lease stand still for leaseDuration (default
        # 15 s) before it promotes. 3/2/1 is the smallest that admission takes (renewDeadline
        # above 1.2 x retryPeriod, leaseDuration above renewDeadline, whole seconds). A primary
        # that cannot renew for a moment only retries: it stops when another one *holds* the
        # lease, and only the pod that the operator named may take it.
        "primaryLease": {
            "leaseDurationSeconds": 3,
            "renewDeadlineSeconds": 2,
            "retryPeriodSeconds": 1,
            "releasedLeaseDurationSeconds": 1,
        },
        # A pod that is told to stop first waits this long for its clients to leave (default
        # 180 s) and keeps answering them meanwhile; pooled clients never leave.
        "smartShutdownTimeout": 0,
        # Grace of the pod, and how long a switchover waits for a clean stop before an immediate
        # one (defaults 1800 and 3600 s); what was acknowledged is on a standby already.
        "stopDelay": 30,
        "switchoverDelay": 30,
        "failoverDelay": 0,
        # A primary that hangs is killed by its kubelet (28 s and 5 s at most) before the operator
        # gives it up (40 s at least). Given up first, as with two probes here, it came back from
        # the pause for a second, while another was primary already: a standby whose connection
        # had waited for it confirmed what it wrote, and diverged for good (ADR 30).
        "probes": {
            "startup": {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600},
            "readiness": {"periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 9},
            "liveness": {
                "periodSeconds": 5,
                "timeoutSeconds": 3,
                "failureThreshold": 5,
                "terminationGracePeriodSeconds": 5,
                # Stops a primary that reaches neither the API server nor any other instance.
                # An API server that is down alone stops nobody.
                "isolationCheck": {"enabled": True},
            },
        },
    }
