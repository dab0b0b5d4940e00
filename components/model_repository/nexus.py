"""The registry by Sonatype Nexus: its records in the estate's PostgreSQL, its blobs on a claim."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import Fault, settings_fault
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PORT as POSTGRES_PORT
from components.datalake.postgres_config import PostgresDatabase
from components.flows import Flow, Pods
from components.model import Image, together
from components.model_repository import nexus_files as files
from components.model_repository import nexus_setup, proxy
from components.model_repository.checks import Faults, model_repository_checks
from components.model_repository.config import (
    NAMESPACE,
    PUBLISH_PORT,
    READ_PORT,
    USERS,
    ModelRepositoryConfig,
    NexusConfig,
)
from components.model_repository.registry import Registry, mount
from components.workload import (
    TRUST_CONFIG_MAP,
    checksum,
    config_map_volume,
    container_security,
    labels,
    meta,
    passwords_volume,
    pod_security,
    probe,
    requirements,
    secret_volume,
    service_account,
)

UID = 200
"""`nexus` in Sonatype's image."""
_JOB_UID = 1000
_DOORS = (
    *(
        proxy.Door(
            name=door,
            port=number,
            behind=files.DOCKER_PORT,
            health="/v2/",
            # Well is also who asks for a password.
            well="200-399,401",
            read_only=door == "read",
        )
        for door, number in (("publish", PUBLISH_PORT), ("read", READ_PORT))
    ),
    proxy.Door(
        name=files.CONSOLE, port=files.CONSOLE_PORT, behind=files.API_PORT, health=files.STATUS
    ),
)


class Nexus(Registry):
    """Nexus with a Docker repository that gives a tag once; a Job makes its users and roles.

    Until that Job has run nobody answers at the two doors.
    """

    def __init__(
        self,
        name: str,
        config: ModelRepositoryConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        proxy_image: Image,
        admin_image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        admin_password: pulumi.Input[str],
        trusted: Sequence[pulumi.Input[str]],
        postgres: Postgres,
        database: PostgresDatabase,
        database_password: pulumi.Input[str],
        databases: Sequence[pulumi.Resource],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "estate:serving:ModelRepository",
            name,
            config,
            namespace=namespace,
            passwords=passwords,
            trusted=trusted,
            proxy_image=proxy_image,
            authority=authority,
            issuer=issuer,
            opts=opts,
        )
        assert config.nexus is not None  # the configuration's model asks for it
        self._nexus = config.nexus
        self._passwords["admin"] = admin_password
        self._passwords["database"] = database_password
        store = pulumi.Output.secret(database_password).apply(
            lambda value: files.store_properties(
                postgres.host("rw"), POSTGRES_PORT, database.name, database.owner, value
            )
        )
        secrets = [
            self._secret("admin", {"password": admin_password}),
            self._secret("store", {"nexus-store.properties": store}),
        ]
        settings = [
            self._config_map(
                "proxy",
                {
                    "haproxy.cfg": _haproxy_cfg(),
                    "serve.sh": proxy.SERVE,
                },
            ),
            self._config_map(
                "config", {"nexus.properties": files.PROPERTIES, "start.sh": files.START}
            ),
        ]
        service = self._service({files.CONSOLE: files.CONSOLE_PORT})
        workload = self._stateful_set(
            settings, self._containers(image), [service, *secrets, *settings, *databases]
        )
        job = self._job(admin_image, self._nexus, [workload, *secrets])
        setup = Pods(
            name=f"{name}-setup",
            namespace=NAMESPACE,
            selector=labels(f"{name}-setup"),
            lasting=False,
        )
        self.flows += [
            Flow(source=self.pods, target=postgres.pods, ports=[POSTGRES_PORT]),
            Flow(source=setup, target=self.pods, ports=[files.CONSOLE_PORT]),
        ]
        self._monitor(monitors, ())
        self._expect(together(config.proxy_resources, config.nexus.resources))
        self.checks += model_repository_checks(name, host=self.host, faults=self._faults())
        self._hand_over([workload, job])

    def _faults(self) -> Faults:
        """The proxy answers in Nexus' place: what its roles refuse, no patch of an object allows.

        No package has Nexus, so none of these ever ran.
        """

        def fault(door: str, line: str) -> Fault:
            data = {"haproxy.cfg": _haproxy_cfg({door: line})}
            return settings_fault(NAMESPACE, f"{self._name}-proxy", data, restart=self._name)

        return Faults(
            no_writes=fault("publish", "http-request deny deny_status 405 unless { method GET }"),
            open_reader=fault("read", "http-request return status 202 if { method POST }"),
            open_doors=fault("publish", "http-request return status 200 if { path /v2/ }"),
        )

    def _secret(self, part: str, data: dict[str, pulumi.Input[str]]) -> k8s.core.v1.Secret:
        return k8s.core.v1.Secret(
            f"{self._name}-{part}",
            metadata=meta(f"{self._name}-{part}", self._namespace, self._selector),
            string_data=data,
            opts=self.child(),
        )

    def _containers(self, image: Image) -> k8s.core.v1.PodSpecArgs:
        name = self._name

        def alive(period_s: int, failures: int = 3) -> k8s.core.v1.ProbeArgs:
            return probe(
                command=[
                    "wget",
                    "-q",
                    "-O",
                    "/dev/null",
                    f"http://127.0.0.1:{files.API_PORT}{files.STATUS}",
                ],
                period_s=period_s,
                timeout_s=10,
                failures=failures,
            )

        nexus = k8s.core.v1.ContainerArgs(
            name="nexus",
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", f"{files.CONFIG}/start.sh"],
            env=[
                k8s.core.v1.EnvVarArgs(
                    name="INSTALL4J_ADD_VM_PARAMS", value=files.java_options(self._nexus)
                )
            ],
            security_context=container_security(),
            resources=requirements(self._nexus.resources),
            # It starts in 40 s, and takes minutes when a new release changes its database.
            startup_probe=alive(10, failures=90),
            readiness_probe=alive(10),
            liveness_probe=alive(30, failures=6),
            volume_mounts=[
                *(
                    mount(name=volume, mount_path=f"{files.ROOT}/{volume}", read_only=True)
                    for volume in ("config", "store", "admin", "trust")
                ),
                mount(name="data", mount_path=files.DATA),
                mount(name="tmp", mount_path="/tmp"),
            ],
        )
        return self._pod(
            UID,
            [self._proxy({files.CONSOLE: files.CONSOLE_PORT}), nexus],
            [
                config_map_volume("proxy", f"{name}-proxy"),
                config_map_volume("config", f"{name}-config"),
                config_map_volume("trust", TRUST_CONFIG_MAP),
                secret_volume("tls", f"{name}-tls"),
                secret_volume("store", f"{name}-store"),
                secret_volume("admin", f"{name}-admin"),
                k8s.core.v1.VolumeArgs(
                    name="tmp",
                    empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="2Gi"),
                ),
            ],
            # Sonatype's own: it ends its uploads and closes its database.
            grace_s=120,
        )

    def _job(
        self, image: Image, config: NexusConfig, depends_on: Sequence[pulumi.Resource]
    ) -> k8s.batch.v1.Job:
        name = f"{self._name}-setup"
        selector = labels(name)
        settings = files.settings(config, f"https://{self.host}:{files.CONSOLE_PORT}")
        code = k8s.core.v1.ConfigMap(
            name,
            metadata=meta(name, self._namespace, selector),
            data={
                "nexus_setup.py": inspect.getsource(nexus_setup),
                "settings.json": settings,
            },
            opts=self.child(),
        )
        account = service_account(name, self._namespace, self.child())
        users = ("admin", *USERS)
        container = k8s.core.v1.ContainerArgs(
            name="setup",
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=[
                "/usr/bin/python3",
                f"{files.SETUP}/code/nexus_setup.py",
                f"{files.SETUP}/code/settings.json",
                f"{files.SETUP}/trust/ca.crt",
                f"{files.SETUP}/users",
            ],
            security_context=container_security(),
            resources=requirements(config.job_resources),
            volume_mounts=[
                mount(name=volume, mount_path=f"{files.SETUP}/{volume}", read_only=True)
                for volume in ("code", "trust", "users")
            ],
        )
        return k8s.batch.v1.Job(
            name,
            metadata=meta(name, self._namespace, selector),
            spec=k8s.batch.v1.JobSpecArgs(
                backoff_limit=4,
                active_deadline_seconds=1800,
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=selector,
                        annotations={
                            # A Job's template cannot change: what changes here makes a new one.
                            "estate.dev/settings": checksum(code.data),
                            "estate.dev/passwords": checksum(
                                *(self._passwords[user] for user in users)
                            ),
                        },
                    ),
                    spec=k8s.core.v1.PodSpecArgs(
                        restart_policy="OnFailure",
                        service_account_name=name,
                        automount_service_account_token=False,
                        enable_service_links=False,
                        security_context=pod_security(_JOB_UID),
                        containers=[container],
                        volumes=[
                            config_map_volume("code", name),
                            config_map_volume("trust", TRUST_CONFIG_MAP),
                            passwords_volume(
                                "users", {user: f"{self._name}-{user}" for user in users}
                            ),
                        ],
                    ),
                ),
            ),
            opts=self.child(depends_on=[*depends_on, code, account], delete_before_replace=True),
        )


def _haproxy_cfg(answered: Mapping[str, str] | None = None) -> str:
    return proxy.haproxy_cfg(_DOORS, {}, ready=(files.CONSOLE,), answered=answered)
