"""What must be true of a running object store, and how each statement is proven able to fail."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import JsonValue

from components.checks import Check, Fault, ObjectRef, SecretKeyRef, scale_to, settings_fault
from components.datalake import ceph_files
from components.datalake.ceph_config import REGION, VERIFY_BUCKET, VERIFY_USER, CephConfig


@dataclass(frozen=True)
class Run:
    """What depends on who runs the daemons: where the active manager is, and what breaks them.

    `no_gateway` keeps S3 from answering, `not_healthy` the cluster from HEALTH_OK.
    """

    namespace: str
    manager: str
    port: int
    no_gateway: Fault
    not_healthy: Fault


def statefulset(name: str, namespace: str, config: CephConfig) -> Run:
    """Without an operator nobody mends what is scaled down."""
    return Run(
        namespace=namespace,
        manager=f"app.kubernetes.io/name={name}-mgr",
        port=ceph_files.METRICS_PORT,
        no_gateway=scale_to(0, "StatefulSet", namespace, f"{name}-gateway"),
        not_healthy=scale_to(config.osds - 1, "StatefulSet", namespace, f"{name}-osd"),
    )


def checks(name: str, namespace: str, config: CephConfig, endpoint: str, run: Run) -> list[Check]:
    """The checks of a cluster, the same whoever runs it.

    In `namespace` are the ConfigMap `<name>-declaration` with the declaration and the users'
    Secrets, in that of `run` the Secret `<name>-gateway-tls`.
    """

    def secret_key(user: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=f"s3-{user}", key="secret-key").arg()

    store: dict[str, JsonValue] = {
        "endpoint": endpoint,
        "region": REGION,
        "ca": SecretKeyRef(
            namespace=run.namespace, secret=f"{name}-gateway-tls", key="ca.crt"
        ).arg(),
    }
    verify: dict[str, JsonValue] = {
        **store,
        "user": VERIFY_USER,
        "secret_key": secret_key(VERIFY_USER),
        "bucket": VERIFY_BUCKET,
    }
    undeclared = config.declaration()
    undeclared["buckets"][0] = {
        **undeclared["buckets"][0],
        "versioning": not undeclared["buckets"][0]["versioning"],
    }
    verify_keys = ObjectRef(
        api_version="v1", kind="Secret", namespace=namespace, name=f"s3-{VERIFY_USER}"
    )
    owners = sorted({bucket.owner for bucket in config.buckets})
    return [
        Check(
            id=f"{name}.put-get",
            title="objects, one of several parts, come back as they were put (S3 over TLS)",
            probe="ceph_put_get",
            args=verify,
            fault=run.no_gateway,
        ),
        Check(
            id=f"{name}.wrong-key",
            title="a wrong key is refused by its signature, and nobody without one gets in",
            probe="ceph_wrong_key",
            args=verify,
            # Then the store knows no such user: refused, but for another reason.
            fault=Fault(target=verify_keys, patch={"data": {"access-key": "bm9ib2R5"}}),
        ),
        Check(
            id=f"{name}.healthy",
            title=f"health is OK, {config.osds} OSDs are up and in, all placement groups clean",
            probe="ceph_healthy",
            args={
                "namespace": run.namespace,
                "selector": run.manager,
                "port": run.port,
                "osds": config.osds,
            },
            fault=run.not_healthy,
        ),
        Check(
            id=f"{name}.declared",
            title="buckets, their grants, versioning and lifecycle are what the declaration says",
            probe="ceph_declared",
            args={
                **store,
                "namespace": namespace,
                "config_map": f"{name}-declaration",
                "owners": {owner: secret_key(owner) for owner in owners},
            },
            fault=settings_fault(
                namespace,
                f"{name}-declaration",
                {"declaration.json": json.dumps(undeclared, indent=1)},
            ),
        ),
    ]
