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
from components.datalake.postgres_archive import PostgresArchive, archive_rules, scheduled_spec
from components.datalake.postgres_config import (
    METRICS_PORT,
    MONITOR_ROLE,
    NAMESPACE,
    PORT,
    STATUS_PORT,
    PostgresConfig,
)
from components.datalake.postgres_dashboards import postgres_dashboard
from components.datalake.postgres_rules import postgres_rules
from components.datalake.postgres_spec import cluster_spec
from components.flows import OUTSIDE, Flow, Pods, asks_api, scraped
from components.model import Image, together
from components.workload import (
    Component,
    by_https,
    certificate,
    labels,
    meta,
    pod_monitor,
    prometheus_rule,
    service_dns,
)


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
        archive: PostgresArchive | None = None,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Postgres", name, opts)
        self._name, self._config, self._archive = name, config, archive
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
                archive=archive,
            ),
            opts=self.child(
                depends_on=[
                    *operator,
                    *tls,
                    *secrets.values(),
                    *(archive.ready if archive is not None else ()),
                ],
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
        if archive is not None:
            self._schedule(archive, cluster)
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
                resources=config.resources
                if archive is None
                else together(config.resources, archive.config.resources),
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

    def _schedule(self, archive: PostgresArchive, cluster: CustomResource) -> None:
        self.flows.append(Flow(source=self.pods, target=OUTSIDE, ports=[archive.port]))
        CustomResource(
            f"{self._name}-scheduled-backup",
            api_version="postgresql.cnpg.io/v1",
            kind="ScheduledBackup",
            metadata=meta(self._name, self._namespace, labels(self._name)),
            spec=scheduled_spec(self._name, archive.config),
            opts=self.child(depends_on=[cluster]),
        )

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
                    **by_https(self.host("rw")),
                }
            ],
            opts,
        )
        prometheus_rule(name, self._namespace, self._rules(), opts)
        archived = self._archive.config if self._archive is not None else None
        self.dashboards.append(postgres_dashboard(name, self._namespace_name, config, archived))

    def _rules(self) -> list[dict[str, Any]]:
        found = postgres_rules(self._name, self._namespace_name, self._config)
        if self._archive is not None:
            found += archive_rules(self._name, self._namespace_name, self._archive.config)
        return found

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
