"""Pgpool: one address for PostgreSQL; writes go to the primary, reads to a standby."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import (
    Check,
    ExpectedPods,
    SecretKeyRef,
    scale_to,
    settings_fault,
)
from components.datalake.pgpool_config import (
    ALIVE,
    AUTH,
    EXPORTER_RUN,
    METRICS_PORT,
    MONITOR,
    POOL_HBA,
    PORT,
    READY,
    RESERVE,
    RUN,
    TLS,
    TRUST,
    PgpoolConfig,
    exporter_conf,
    exporter_start,
    pgpool_conf,
    serve,
)
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import MONITOR_ROLE, NAMESPACE
from components.datalake.postgres_dashboards import pgpool_dashboard
from components.datalake.postgres_rules import pgpool_rules
from components.flows import Flow, Pods, scraped
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    disruption_budget,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    service_account,
    service_dns,
    topology_spread,
    waive,
)

UID = 1000
"""`pgpool` in the image: libpq and pgpool look their user up."""


class Pgpool(Component):
    """The pool, its service and certificate. A StatefulSet without claims: its replicas take a
    renewed certificate in turns, by their ordinals.

    `host` and `port` are where clients connect (TLS, SCRAM), `ca` the Secret whose `ca.crt`
    verifies it. `passwords` are those of PostgreSQL's roles: a role without one here cannot
    log in through the pool.
    """

    host: pulumi.Output[str]
    port: int
    ca: str
    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: PgpoolConfig,
        *,
        postgres: Postgres,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        exporter_image: Image | None = None,
        passwords: Mapping[str, pulumi.Input[str]],
        owner: str,
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:Pgpool", name, opts)
        self._name, self._config, self._postgres = name, config, postgres
        self._namespace, self._namespace_name = namespace, namespace_name
        self._image = image
        self._exporter_image = exporter_image if config.exporter else None
        self._selector = labels(name)
        check_connections(name, config, postgres.max_connections)
        settings = self._settings()
        auth = self._auth(passwords)
        tls = certificate(
            f"{name}-tls",
            namespace,
            # `localhost` is for the exporter beside it.
            [*service_dns(name, namespace_name), "localhost"],
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        account = service_account(name, namespace, self.child())
        service = self._service()
        reasons = {
            "kube-score.statefulset-has-servicename": "clients take its Service; "
            "no replica is reached by a name of its own"
        }
        workload = k8s.apps.v1.StatefulSet(
            name,
            metadata=meta(name, namespace, self._selector, waive(reasons)),
            spec=self._stateful_set(settings, passwords),
            opts=self.child(depends_on=[tls, account, service, auth, *postgres.ready]),
        )
        if config.replicas > 1:
            disruption_budget(name, namespace, self._selector, self.child())
        pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.flows.append(Flow(source=pods, target=postgres.pods, ports=[postgres.port]))
        if monitors is not None:
            self._monitor(monitors)
            if self._exporter_image is not None:
                self.flows.append(scraped(pods, METRICS_PORT))
        host = f"{name}.{namespace_name}.svc.cluster.local"
        self.ready = [workload]
        self.host = workload.id.apply(lambda _: host)
        self.port, self.ca = PORT, f"{name}-tls"
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace_name,
                selector=self._selector,
                count=config.replicas,
                resources=config.resources,
                spread=config.spread,
            )
        )
        self._declare_checks(host, owner)
        self.register_outputs({"host": self.host, "port": self.port})

    def _settings(self) -> k8s.core.v1.ConfigMap:
        postgres = self._postgres
        data = {
            # Known before anything is deployed; the deployment itself waits for PostgreSQL.
            "pgpool.conf": pgpool_conf(
                self._config,
                write_host=postgres.host("rw"),
                read_host=postgres.host("ro"),
                port=postgres.port,
            ),
            "pool_hba.conf": POOL_HBA,
            "serve.sh": serve(self._config),
            "ready.sh": READY,
            "alive.sh": ALIVE,
            "exporter.yaml": exporter_conf(postgres.database, MONITOR_ROLE),
            "exporter.sh": exporter_start(MONITOR_ROLE),
        }
        return k8s.core.v1.ConfigMap(
            f"{self._name}-config",
            metadata=meta(f"{self._name}-config", self._namespace, self._selector),
            data=data,
            opts=self.child(),
        )

    def _auth(self, passwords: Mapping[str, pulumi.Input[str]]) -> k8s.core.v1.Secret:
        # Pgpool needs the passwords themselves: a SCRAM verifier cannot log in to a backend.
        # Encrypting them with a key that lies in the same Secret would protect nothing.
        users = sorted(passwords)
        content = pulumi.Output.all(*(passwords[user] for user in users)).apply(
            lambda values: pool_passwd(dict(zip(users, values, strict=True)))
        )
        return k8s.core.v1.Secret(
            f"{self._name}-auth",
            metadata=meta(f"{self._name}-auth", self._namespace, self._selector),
            # Secret as its parts are: passwords come in as secret outputs.
            string_data={"pool_passwd": content},
            opts=self.child(),
        )

    def _service(self) -> k8s.core.v1.Service:
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=self._selector,
                ports=[
                    k8s.core.v1.ServicePortArgs(
                        name="postgresql", port=PORT, target_port="postgresql"
                    )
                ],
            ),
            opts=self.child(),
        )

    def _stateful_set(
        self, settings: k8s.core.v1.ConfigMap, passwords: Mapping[str, pulumi.Input[str]]
    ) -> k8s.apps.v1.StatefulSetSpecArgs:
        config = self._config
        return k8s.apps.v1.StatefulSetSpecArgs(
            replicas=config.replicas,
            service_name=self._name,
            pod_management_policy="Parallel",
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        # Both are read at start only.
                        "estate.dev/settings": checksum(settings.data),
                        "estate.dev/passwords": checksum(
                            *(passwords[user] for user in sorted(passwords))
                        ),
                    },
                ),
                spec=k8s.core.v1.PodSpecArgs(
                    service_account_name=self._name,
                    automount_service_account_token=False,
                    enable_service_links=False,
                    security_context=pod_security(UID),
                    topology_spread_constraints=topology_spread(
                        self._selector, config.spread, config.replicas
                    ),
                    termination_grace_period_seconds=config.drain_s + 45,
                    containers=[self._pool(), *self._exporter()],
                    volumes=self._volumes(),
                ),
            ),
        )

    def _pool(self) -> k8s.core.v1.ContainerArgs:
        mount = k8s.core.v1.VolumeMountArgs
        return k8s.core.v1.ContainerArgs(
            name="pgpool",
            image=self._image.ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", "/etc/pgpool/config/serve.sh"],
            ports=[k8s.core.v1.ContainerPortArgs(name="postgresql", container_port=PORT)],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            # The image's psql must not look for files of a user that has no home.
            env=[k8s.core.v1.EnvVarArgs(name="HOME", value=RUN)],
            # All of them speak PostgreSQL's protocol to the pool itself. None asks a backend: a
            # primary that is being replaced must not take the pool out of service as well.
            startup_probe=probe(command=_is_ready(2), period_s=1, timeout_s=3, failures=60),
            readiness_probe=probe(
                command=["/bin/sh", "/etc/pgpool/config/ready.sh"],
                period_s=5,
                timeout_s=4,
                failures=2,
            ),
            liveness_probe=probe(
                command=["/bin/sh", "/etc/pgpool/config/alive.sh"],
                period_s=20,
                timeout_s=8,
                failures=4,
            ),
            volume_mounts=[
                mount(name="config", mount_path="/etc/pgpool/config", read_only=True),
                mount(name="auth", mount_path=AUTH, read_only=True),
                mount(name="tls", mount_path=TLS, read_only=True),
                mount(name="trust", mount_path=TRUST, read_only=True),
                mount(name="run", mount_path=RUN),
            ],
        )

    def _exporter(self) -> list[k8s.core.v1.ContainerArgs]:
        if self._exporter_image is None:
            return []
        mount = k8s.core.v1.VolumeMountArgs
        return [
            k8s.core.v1.ContainerArgs(
                name="exporter",
                image=self._exporter_image.ref,
                image_pull_policy="IfNotPresent",
                command=["/bin/sh", "/etc/pgpool/config/exporter.sh"],
                args=[
                    "-config.file=/etc/pgpool/config/exporter.yaml",
                    f"-web.listen-address=:{METRICS_PORT}",
                ],
                env=[
                    k8s.core.v1.EnvVarArgs(name="LOGLEVEL", value="WARN"),
                    k8s.core.v1.EnvVarArgs(name="PGPASSFILE", value=f"{EXPORTER_RUN}/pgpass"),
                ],
                ports=[k8s.core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT)],
                security_context=container_security(),
                resources=requirements(self._config.exporter_resources),
                readiness_probe=probe(http=("/healthz", "metrics"), period_s=10),
                liveness_probe=probe(http=("/healthz", "metrics"), period_s=30),
                volume_mounts=[
                    mount(name="config", mount_path="/etc/pgpool/config", read_only=True),
                    mount(name="trust", mount_path=TRUST, read_only=True),
                    mount(name="monitor", mount_path=MONITOR, read_only=True),
                    mount(name="exporter", mount_path=EXPORTER_RUN),
                ],
            )
        ]

    def _volumes(self) -> list[k8s.core.v1.VolumeArgs]:
        volume, secret = k8s.core.v1.VolumeArgs, k8s.core.v1.SecretVolumeSourceArgs
        memory = k8s.core.v1.EmptyDirVolumeSourceArgs
        monitor = secret(
            secret_name=self._postgres.secret_name(MONITOR_ROLE),
            default_mode=0o440,
            items=[k8s.core.v1.KeyToPathArgs(key="password", path="password")],
        )
        exporter = [
            volume(name="monitor", secret=monitor),
            volume(name="exporter", empty_dir=memory(medium="Memory", size_limit="1Mi")),
        ]
        return [
            volume(
                name="config",
                config_map=k8s.core.v1.ConfigMapVolumeSourceArgs(name=f"{self._name}-config"),
            ),
            volume(
                name="auth", secret=secret(secret_name=f"{self._name}-auth", default_mode=0o440)
            ),
            # pgpool refuses a key that others may read.
            volume(name="tls", secret=secret(secret_name=f"{self._name}-tls", default_mode=0o440)),
            config_map_volume("trust", TRUST_CONFIG_MAP),
            volume(name="run", empty_dir=memory(medium="Memory", size_limit="4Mi")),
            *(exporter if self._exporter_image is not None else []),
        ]

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        if self._exporter_image is None:
            return
        name = self._name
        opts = self.child(depends_on=list(depends_on))
        waived = {"encryption": "counts of nodes and reads, no rows and no credentials"}
        endpoints = [{"port": "metrics"}]
        pod_monitor(name, self._namespace, self._selector, endpoints, opts, waived=waived)
        prometheus_rule(
            name, self._namespace, pgpool_rules(name, self._namespace_name, self._config), opts
        )
        self.dashboards.append(pgpool_dashboard(name, self._namespace_name, self._config))

    def _declare_checks(self, host: str, owner: str) -> None:
        name, namespace, postgres = self._name, self._namespace_name, self._postgres

        def secret(of: str, key: str) -> Any:
            return SecretKeyRef(namespace=namespace, secret=of, key=key).arg()

        session = {
            "host": host,
            "port": PORT,
            "database": postgres.database,
            "user": owner,
            "password": secret(postgres.secret_name(owner), "password"),
            "ca": secret(f"{name}-tls", "ca.crt"),
        }
        self.checks += [
            Check(
                id=f"{name}.write",
                title="a write through the pool is read on a standby",
                probe="postgres_write",
                args={**session, "read_host": postgres.host("ro"), "read_port": postgres.port},
                # The pool goes on answering; its way to the primary leads nowhere.
                fault=settings_fault(
                    namespace,
                    f"{name}-config",
                    {
                        "pgpool.conf": pgpool_conf(
                            self._config,
                            write_host=postgres.host("ro"),
                            read_host=postgres.host("ro"),
                            port=postgres.port,
                        )
                    },
                    restart=name,
                ),
            ),
            Check(
                id=f"{name}.password",
                title="a wrong password is refused, and so is a client without TLS",
                probe="postgres_refuses",
                args=session,
                fault=settings_fault(
                    namespace,
                    f"{name}-config",
                    {"pool_hba.conf": "host all all 0.0.0.0/0 scram-sha-256\n"},
                    restart=name,
                ),
            ),
            Check(
                id=f"{name}.nodes",
                title=f"each of {self._config.replicas} replicas reaches primary and standbys",
                probe="pgpool_nodes",
                args={
                    **session,
                    "namespace": namespace,
                    "selector": "app.kubernetes.io/name=" + name,
                    "replicas": self._config.replicas,
                },
                fault=scale_to(max(self._config.replicas - 1, 0), "StatefulSet", namespace, name),
            ),
        ]


def _is_ready(timeout_s: int) -> list[str]:
    return [
        "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(PORT), "-U", MONITOR_ROLE,
        "-t", str(timeout_s),
    ]  # fmt: skip


def check_connections(name: str, config: PgpoolConfig, max_connections: int) -> None:
    """Every session of the pool holds a connection on the primary: ValueError if it has too few."""
    needed = config.replicas * config.sessions_per_replica + RESERVE
    if needed > max_connections:
        raise ValueError(
            f"{name}: replicas x sessions_per_replica is {config.replicas} x "
            f"{config.sessions_per_replica}; with {RESERVE} in reserve that needs {needed} "
            f"connections, and postgres.max_connections is {max_connections}: raise it, or lower "
            "pgpool.sessions_per_replica"
        )


def pool_passwd(passwords: Mapping[str, str]) -> str:
    """The pool's password file. Raises ValueError for a password that would break its lines."""
    for user, password in passwords.items():
        if not password or "\n" in password or "\r" in password:
            raise ValueError(
                f"password of PostgreSQL role {user!r} is empty or has a line break; choose another"
            )
    return "".join(f"{user}:TEXT{password}\n" for user, password in passwords.items())
