"""FerretDB: MongoDB's protocol on the estate's PostgreSQL, several replicas that hold nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods, Fault, ObjectRef, scale_to
from components.datalake import mongodb_users
from components.datalake.ferretdb_files import (
    FOLDER,
    METRICS_PORT,
    SETTINGS,
    backend_url,
    password_line,
)
from components.datalake.mongodb_checks import Faults, checks
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.mongodb_config import NAMESPACE, PORT, MongodbConfig
from components.datalake.mongodb_dashboard import mongodb_dashboard
from components.datalake.mongodb_rules import mongodb_rules
from components.datalake.postgres import Postgres
from components.flows import Flow, Pods, scraped
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    disruption_budget,
    labels,
    meta,
    passwords_volume,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    topology_spread,
)

UID = 1000
# Those of one client stay at one replica: it keeps the cursors of its own connections only.
_AFFINITY_S = 10_800


class FerretDB(MongodbCluster):
    """A Deployment, and a Job that makes its users what is declared.

    `role` is PostgreSQL's, which owns the database of `config.on_postgres`; `databases` holds what
    must exist before it can be used. The authority's bundle is read once, so another one starts the
    replicas again, and `issuer` must hold the ConfigMaps with it; a renewed certificate does not.
    """

    def __init__(
        self,
        name: str,
        config: MongodbConfig,
        *,
        postgres: Postgres,
        role: str,
        role_password: pulumi.Input[str],
        databases: Sequence[pulumi.Resource] = (),
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        admin_image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:FerretDB", name, opts)
        self._name, self._config = name, config
        self._namespace, self._namespace_name = namespace, namespace_name
        self._image, self._admin_image = image, admin_image
        self._postgres, self._role = postgres, role
        self._selector, self._users_name = labels(name), f"{name}-users"
        backend = self._backend(role_password)
        settings = self._settings()
        secrets = self._passwords(passwords)
        tls = certificate(
            f"{name}-tls",
            namespace,
            service_dns(name, namespace_name),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        before = [backend, settings, *databases, *postgres.ready]
        account = service_account(name, namespace, self.child())
        service = self._service()
        deployment = k8s.apps.v1.Deployment(
            name,
            metadata=meta(name, namespace, self._selector),
            spec=self._deployment(settings, authority, role_password),
            opts=self.child(depends_on=[*before, tls, account, service, *issuer]),
        )
        job = self._job(passwords, authority, [*before, *secrets.values(), *issuer])
        if config.replicas > 1:
            disruption_budget(name, namespace, self._selector, self.child())
        self.pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        keeper = Pods(
            name=self._users_name,
            namespace=namespace_name,
            selector=labels(self._users_name),
            lasting=False,
        )
        self.flows += [
            Flow(source=one, target=postgres.pods, ports=[postgres.port])
            for one in (self.pods, keeper)
        ]
        if monitors is not None:
            self._monitor(self.child(depends_on=list(monitors)))
            self.flows.append(scraped(self.pods, METRICS_PORT))
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
        restart = f"app.kubernetes.io/name={name}"
        self.checks = checks(
            name,
            namespace_name,
            config,
            self._faults(restart),
            selector=restart,
            replica_set=None,
        )
        self._declare(secrets, [deployment, job])

    def _backend(self, password: pulumi.Input[str]) -> k8s.core.v1.Secret:
        line = pulumi.Output.from_input(password).apply(
            lambda text: password_line(self._role, text)
        )
        return k8s.core.v1.Secret(
            f"{self._name}-backend",
            metadata=meta(f"{self._name}-backend", self._namespace, self._selector),
            string_data={"pgpass": line},
            opts=self.child(),
        )

    def _settings(self) -> k8s.core.v1.ConfigMap:
        postgres = self._postgres
        url = backend_url(self._config.on_postgres, self._role, postgres.host("rw"), postgres.port)
        return k8s.core.v1.ConfigMap(
            f"{self._name}-config",
            metadata=meta(f"{self._name}-config", self._namespace, self._selector),
            data={**SETTINGS, "FERRETDB_POSTGRESQL_URL": url},
            opts=self.child(),
        )

    def _service(self) -> k8s.core.v1.Service:
        port = k8s.core.v1.ServicePortArgs(name="mongodb", port=PORT, target_port="mongodb")
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=self._selector,
                ports=[port],
                session_affinity="ClientIP",
                session_affinity_config=k8s.core.v1.SessionAffinityConfigArgs(
                    client_ip=k8s.core.v1.ClientIPConfigArgs(timeout_seconds=_AFFINITY_S)
                ),
            ),
            opts=self.child(),
        )

    def _deployment(
        self,
        settings: k8s.core.v1.ConfigMap,
        authority: Authority,
        role_password: pulumi.Input[str],
    ) -> k8s.apps.v1.DeploymentSpecArgs:
        config, mount = self._config, k8s.core.v1.VolumeMountArgs
        alive = ("/debug/livez", "metrics")
        container = k8s.core.v1.ContainerArgs(
            name="ferretdb",
            image=self._image.ref,
            image_pull_policy="IfNotPresent",
            command=["/ferretdb"],
            env_from=[_from(self._name)],
            ports=[
                k8s.core.v1.ContainerPortArgs(name="mongodb", container_port=PORT),
                k8s.core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT),
            ],
            security_context=container_security(),
            resources=requirements(config.resources),
            # Whether it listens. None asks PostgreSQL: a primary that is being replaced must not
            # take all replicas out of service as well.
            startup_probe=probe(http=alive, period_s=1, failures=60),
            readiness_probe=probe(http=alive, period_s=5, failures=2),
            liveness_probe=probe(http=alive, period_s=15, timeout_s=5, failures=4),
            volume_mounts=[
                mount(name=volume, mount_path=f"{FOLDER}/{volume}", read_only=True)
                for volume in ("tls", "trust", "backend")
            ],
        )
        return k8s.apps.v1.DeploymentSpecArgs(
            replicas=config.replicas,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        # All three are read at start only.
                        "estate.dev/settings": checksum(settings.data),
                        "estate.dev/passwords": checksum(role_password),
                        "estate.dev/trust": checksum(authority.bundle),
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
                    termination_grace_period_seconds=20,
                    containers=[container],
                    volumes=[
                        secret_volume("tls", f"{self._name}-tls"),
                        *self._volumes(),
                    ],
                ),
            ),
        )

    def _volumes(self) -> list[k8s.core.v1.VolumeArgs]:
        return [
            config_map_volume("trust", TRUST_CONFIG_MAP),
            secret_volume("backend", f"{self._name}-backend"),
        ]

    def _job(
        self,
        passwords: Mapping[str, pulumi.Input[str]],
        authority: Authority,
        depends_on: Sequence[pulumi.Resource],
    ) -> k8s.batch.v1.Job:
        name, selector = self._users_name, labels(self._users_name)
        users = [user.name for user in self._config.users]
        source = inspect.getsource(mongodb_users)
        script = k8s.core.v1.ConfigMap(
            name,
            metadata=meta(name, self._namespace, selector),
            data={"mongodb_users.py": source},
            opts=self.child(),
        )
        account = service_account(name, self._namespace, self.child())
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._namespace, selector),
            spec=k8s.batch.v1.JobSpecArgs(
                backoff_limit=4,
                active_deadline_seconds=600,
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=selector,
                        # A Job's template cannot change: what changes here makes a new one.
                        annotations={
                            "estate.dev/users": checksum(users, source),
                            "estate.dev/passwords": checksum(*(passwords[one] for one in users)),
                            "estate.dev/trust": checksum(authority.bundle),
                        },
                    ),
                    spec=self._job_pod(users),
                ),
            ),
            opts=self.child(depends_on=[*depends_on, account, script], delete_before_replace=True),
        )

    def _job_pod(self, users: Sequence[str]) -> k8s.core.v1.PodSpecArgs:
        mount, variable = k8s.core.v1.VolumeMountArgs, k8s.core.v1.EnvVarArgs
        own = {
            # Reached by nobody but the container beside it, so it asks for no password.
            "FERRETDB_LISTEN_ADDR": f"127.0.0.1:{PORT}",
            "FERRETDB_LISTEN_TLS": "",
            "FERRETDB_DEBUG_ADDR": f":{METRICS_PORT}",
            "FERRETDB_TEST_ENABLE_NEW_AUTH": "false",
        }
        alive = ("/debug/livez", METRICS_PORT)
        server = k8s.core.v1.ContainerArgs(
            name="ferretdb",
            image=self._image.ref,
            image_pull_policy="IfNotPresent",
            command=["/ferretdb"],
            # A sidecar: it ends when the Job's work is done.
            restart_policy="Always",
            env_from=[_from(self._name)],
            env=[variable(name=key, value=value) for key, value in own.items()],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            startup_probe=probe(http=alive, period_s=1, failures=60),
            readiness_probe=probe(http=alive, period_s=5),
            liveness_probe=probe(http=alive, period_s=15, failures=4),
            volume_mounts=[
                mount(name=volume, mount_path=f"{FOLDER}/{volume}", read_only=True)
                for volume in ("trust", "backend")
            ],
        )
        keeper = k8s.core.v1.ContainerArgs(
            name="users",
            image=self._admin_image.ref,
            image_pull_policy="IfNotPresent",
            command=["/usr/bin/python3", "/users/code/mongodb_users.py", "/users/passwords"],
            security_context=container_security(),
            resources=requirements(self._config.on_postgres.job_resources),
            volume_mounts=[
                mount(name=volume, mount_path=f"/users/{volume}", read_only=True)
                for volume in ("code", "passwords")
            ],
        )
        return k8s.core.v1.PodSpecArgs(
            restart_policy="OnFailure",
            service_account_name=self._users_name,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(UID),
            init_containers=[server],
            containers=[keeper],
            volumes=[
                *self._volumes(),
                config_map_volume("code", self._users_name),
                passwords_volume("passwords", {user: self.secret_name(user) for user in users}),
            ],
        )

    def _monitor(self, opts: pulumi.ResourceOptions) -> None:
        pod_monitor(
            self._name,
            self._namespace,
            self._selector,
            [{"port": "metrics", "path": "/debug/metrics"}],
            opts,
            waived={"encryption": "counters of requests, no documents and no credentials"},
        )
        rules = mongodb_rules(self._name, self._namespace_name, self._config)
        prometheus_rule(self._name, self._namespace, rules, opts)
        self.dashboards.append(mongodb_dashboard(self._name, self._namespace_name, self._config))

    def _faults(self, restart: str) -> Faults:
        name, namespace = self._name, self._namespace_name

        def core(kind: str, of: str, patch: dict[str, Any], restart: str | None = None) -> Fault:
            target = ObjectRef(api_version="v1", kind=kind, namespace=namespace, name=of)
            return Fault(target=target, patch=patch, restart=restart)

        def changed(**settings: str) -> Fault:
            return core("ConfigMap", f"{name}-config", {"data": dict(settings)}, restart)

        nobody = {"spec": {"selector": {"app.kubernetes.io/name": "nobody"}}}
        other = {"data": {"password": "bm90IHRoZSBvbmU="}}
        return Faults(
            round_trip=core("Service", name, nobody),
            wrong_password=changed(FERRETDB_TEST_ENABLE_NEW_AUTH="false"),
            encrypted=changed(FERRETDB_LISTEN_ADDR=f":{PORT}", FERRETDB_LISTEN_TLS=""),
            # What is in the Secret is not what the server was told.
            declared=core("Secret", self.secret_name(self._config.users[0].name), other),
            replicas=scale_to(max(self._config.replicas - 1, 0), "Deployment", namespace, name),
        )


def _from(name: str) -> k8s.core.v1.EnvFromSourceArgs:
    reference = k8s.core.v1.ConfigMapEnvSourceArgs(name=f"{name}-config")
    return k8s.core.v1.EnvFromSourceArgs(config_map_ref=reference)
