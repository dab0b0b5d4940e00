"""PostgreSQL: three instances run by CloudNativePG, one synchronous standby acknowledged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority
from components.checks import Check, ExpectedPods, Fault, ObjectRef, SecretKeyRef
from components.datalake import cloudnative_pg
from components.datalake.postgres_config import (
    METRICS_PORT,
    MONITOR_ROLE,
    NAMESPACE,
    PORT,
    STATUS_PORT,
    PostgresConfig,
    own_parameters,
)
from components.datalake.postgres_dashboards import postgres_dashboard
from components.datalake.postgres_rules import postgres_rules
from components.flows import Flow, Pods, asks_api, scraped
from components.model import Image, topology
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    certificate,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_dns,
)

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
        "bootstrap": {
            "initdb": {
                "database": config.database,
                "owner": config.owner.name,
                "secret": {"name": secrets[config.owner.name]},
                "dataChecksums": True,
            }
        },
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
        # An instance that does not answer is given up after two probes (default three of 10 s).
        "probes": {
            "startup": {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600},
            "readiness": {"periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
            "liveness": {
                "periodSeconds": 5,
                "timeoutSeconds": 3,
                "failureThreshold": 6,
                # Stops a primary that reaches neither the API server nor any other instance.
                # An API server that is down alone stops nobody.
                "isolationCheck": {"enabled": True},
            },
        },
    }


class Postgres(Component):
    """The `Cluster`, its certificates, roles, rules.

    `write_host` is the primary's service, `read_host` the standbys'; `database` the database;
    `users` maps a role to its Secret's name (keys `username`, `password`), `ca` is the Secret
    whose `ca.crt` verifies the servers; `pods` are what a client's flow leads to. `ready` waits
    for the cluster, `cluster` is its object's name.
    """

    write_host: pulumi.Output[str]
    read_host: pulumi.Output[str]
    port: int
    cluster: str
    database: str
    users: dict[str, pulumi.Output[str]]
    ca: str
    pods: Pods
    max_connections: int
    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: PostgresConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        operator: Sequence[pulumi.Resource] = (),
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Postgres", name, opts)
        self._name, self._config = name, config
        self._namespace, self._namespace_name = namespace, namespace_name
        secrets = self._users(passwords)
        tls = self._certificates(authority, issuer)
        cluster = CustomResource(
            name,
            api_version="postgresql.cnpg.io/v1",
            kind="Cluster",
            metadata=meta(
                name,
                namespace,
                labels(name),
                annotations={"pulumi.com/waitFor": "condition=Ready"},
            ),
            spec=cluster_spec(
                config,
                image,
                secrets={role: made.metadata["name"] for role, made in secrets.items()},
                server_tls=f"{name}-server",
                replication_tls=f"{name}-replication",
                ca=f"{name}-ca",
            ),
            opts=self.child(
                depends_on=[*operator, *tls, *secrets.values()],
                # Deleting the Cluster deletes its claims, and with them the data.
                protect=config.protect,
                custom_timeouts=pulumi.CustomTimeouts(create="15m", update="30m"),
            ),
        )
        self.pods = Pods(name=name, namespace=namespace_name, selector={"cnpg.io/cluster": name})
        self.flows += [
            asks_api(self.pods),
            # Standbys replicate, and a primary looks whether it is cut off from the others.
            Flow(source=self.pods, target=self.pods, ports=[PORT, STATUS_PORT]),
            Flow(source=cloudnative_pg.PODS, target=self.pods, ports=[PORT, STATUS_PORT]),
        ]
        if monitors is not None:
            self._monitor(monitors)
            self.flows.append(scraped(self.pods, METRICS_PORT))
        self.ready, self.cluster = [cluster], name
        self.write_host = cluster.id.apply(lambda _: self.host("rw"))
        self.read_host = cluster.id.apply(lambda _: self.host("ro"))
        self.port, self.database, self.ca = PORT, config.database, f"{name}-ca"
        self.max_connections = config.max_connections
        self.users = {
            role: made.metadata.apply(lambda m: str(m.name)) for role, made in secrets.items()
        }
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector={"cnpg.io/cluster": name, "cnpg.io/podRole": "instance"},
                count=config.instances,
                resources=config.resources,
                spread=config.spread,
                exclusive=True,
                claims=[config.storage.size_gib],
            )
        )
        self._declare_checks()
        self.register_outputs(
            {
                "write_host": self.write_host,
                "read_host": self.read_host,
                "database": self.database,
                "users": self.users,
            }
        )

    def host(self, service: str) -> str:
        """The name of service `rw` (primary), `ro` (standbys) or `r` (any)."""
        return f"{self._name}-{service}.{self._namespace_name}.svc.cluster.local"

    def secret_name(self, role: str) -> str:
        """The Secret of a role, as `users` has it, for what must be known before deployment."""
        return f"{self._name}-{role.replace('_', '-')}"

    def _users(self, passwords: Mapping[str, pulumi.Input[str]]) -> dict[str, k8s.core.v1.Secret]:
        return {
            role.name: k8s.core.v1.Secret(
                self.secret_name(role.name),
                # The operator applies a changed password only from Secrets with this label.
                metadata=meta(
                    self.secret_name(role.name),
                    self._namespace,
                    {**labels(self._name), "cnpg.io/reload": ""},
                ),
                type="kubernetes.io/basic-auth",
                string_data={"username": role.name, "password": passwords[role.name]},
                opts=self.child(),
            )
            for role in (self._config.owner, *self._config.roles)
        }

    def _certificates(
        self, authority: Authority, issuer: Sequence[pulumi.Resource]
    ) -> list[pulumi.Resource]:
        name = self._name
        opts = self.child(depends_on=list(issuer), transformations=[_reload_on_renewal])
        hosts = [
            host
            for service in ("rw", "ro", "r")
            for host in service_dns(f"{name}-{service}", self._namespace_name)
        ]
        return [
            # Whom servers and standbys trust: all generations, where a certificate's own Secret
            # has its issuer alone. The operator takes a Secret only.
            k8s.core.v1.Secret(
                f"{name}-ca",
                metadata=meta(
                    f"{name}-ca", self._namespace, {**labels(name), "cnpg.io/reload": ""}
                ),
                string_data={"ca.crt": authority.bundle},
                opts=self.child(),
            ),
            certificate(f"{name}-server", self._namespace, hosts, opts, issuer=authority.issuer),
            # The client certificate with which standbys replicate; the common name is the role.
            certificate(
                f"{name}-replication",
                self._namespace,
                [],
                opts,
                common_name="streaming_replica",
                client=True,
                server=False,
                issuer=authority.issuer,
            ),
        ]

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        name, config = self._name, self._config
        opts = self.child(depends_on=list(depends_on))
        pod_monitor(
            name,
            self._namespace,
            {"cnpg.io/cluster": name, "cnpg.io/podRole": "instance"},
            [
                {
                    "port": "metrics",
                    "scheme": "https",
                    "tlsConfig": {
                        "ca": {"configMap": {"name": TRUST_CONFIG_MAP, "key": "ca.crt"}},
                        "serverName": self.host("rw"),
                    },
                }
            ],
            opts,
        )
        prometheus_rule(
            name, self._namespace, postgres_rules(name, self._namespace_name, config), opts
        )
        self.dashboards.append(postgres_dashboard(name, self._namespace_name, config))

    def _declare_checks(self) -> None:
        name, namespace = self._name, self._namespace_name
        password = SecretKeyRef(
            namespace=namespace, secret=self.secret_name(MONITOR_ROLE), key="password"
        )
        if self._config.synchronous_standbys:
            self.checks.append(
                Check(
                    id=f"{name}.synchronous",
                    title=f"{self._config.synchronous_standbys} synchronous standby or more",
                    probe="postgres_synchronous",
                    args={
                        "host": self.host("rw"),
                        "port": PORT,
                        "database": self._config.database,
                        "user": MONITOR_ROLE,
                        "password": password.arg(),
                        "ca": SecretKeyRef(namespace=namespace, secret=self.ca, key="ca.crt").arg(),
                        "minimum": self._config.synchronous_standbys,
                        "standbys": self._config.instances - 1,
                    },
                    # Fenced instances stop their server and keep their pod. Taking `synchronous`
                    # away instead is not always taken back: 1.30's instance manager may miss the
                    # reload when both changes come within seconds.
                    fault=Fault(
                        target=ObjectRef(
                            api_version="postgresql.cnpg.io/v1",
                            kind="Cluster",
                            namespace=namespace,
                            name=name,
                        ),
                        patch={"metadata": {"annotations": {"cnpg.io/fencedInstances": '["*"]'}}},
                    ),
                )
            )


def _reload_on_renewal(
    args: pulumi.ResourceTransformationArgs,
) -> pulumi.ResourceTransformationResult | None:
    """Label a certificate's Secret so that the instances load it again when it is renewed."""
    props = dict(args.props)
    spec: Any = props.get("spec")
    if props.get("kind") != "Certificate":
        return None
    props["spec"] = {**spec, "secretTemplate": {"labels": {"cnpg.io/reload": ""}}}
    return pulumi.ResourceTransformationResult(props, args.opts)
