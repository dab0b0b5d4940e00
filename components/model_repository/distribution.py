"""The registry by the CNCF's distribution: two processes on one claim, behind one proxy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import Fault, settings_fault
from components.model import Image, together
from components.model_repository import distribution_files as files
from components.model_repository import proxy
from components.model_repository.checks import Faults, model_repository_checks
from components.model_repository.config import (
    NAMESPACE,
    PUBLISH_PORT,
    READ_PORT,
    USERS,
    ModelRepositoryConfig,
)
from components.model_repository.registry import Registry, mount
from components.shell import HEALTH
from components.workload import (
    config_map_volume,
    container_security,
    memory_volume,
    passwords_volume,
    probe,
    requirements,
    secret_volume,
)

UID = 1000
_DOORS = tuple(
    proxy.Door(name=door, port=number, behind=files.BEHIND[door], health="/")
    for door, number in ((files.PUBLISH, PUBLISH_PORT), (files.READ, READ_PORT))
)


class Distribution(Registry):
    """The door `publish` writes, the door `read` is a registry in maintenance: it takes nothing."""

    def __init__(
        self,
        name: str,
        config: ModelRepositoryConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        proxy_image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        trusted: Sequence[pulumi.Input[str]],
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
        settings = [
            self._config_map(
                "proxy",
                {
                    "haproxy.cfg": proxy.haproxy_cfg(
                        _DOORS, files.METRICS, ready=tuple(files.BEHIND)
                    ),
                    "serve.sh": proxy.SERVE,
                },
            ),
            self._config_map(
                "config", {f"{door}.yaml": files.registry_config(door) for door in files.BEHIND}
            ),
            self._config_map(
                "scripts", {"hash-passwords.sh": files.HASH_PASSWORDS, "health.sh": HEALTH}
            ),
        ]
        service = self._service({})
        workload = self._stateful_set(settings, self._containers(image), [service, *settings])
        self._monitor(monitors, tuple(files.METRICS))
        self._expect(together(config.proxy_resources, config.resources, config.resources))
        self.checks += model_repository_checks(name, host=self.host, faults=self._faults())
        self._hand_over([workload])

    def _containers(self, image: Image) -> k8s.core.v1.PodSpecArgs:
        name = self._name
        scripts = mount(name="scripts", mount_path=files.SCRIPTS, read_only=True)
        hashing = k8s.core.v1.ContainerArgs(
            name="hash-passwords",
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", f"{files.SCRIPTS}/hash-passwords.sh"],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            volume_mounts=[
                scripts,
                mount(name="auth", mount_path=files.AUTH),
                mount(name="users", mount_path=files.USERS, read_only=True),
            ],
        )
        return self._pod(
            UID,
            [self._proxy({}), *(self._process(image, door) for door in files.BEHIND)],
            [
                config_map_volume("proxy", f"{name}-proxy"),
                config_map_volume("config", f"{name}-config"),
                config_map_volume("scripts", f"{name}-scripts"),
                secret_volume("tls", f"{name}-tls"),
                passwords_volume("users", {user: f"{name}-{user}" for user in USERS}),
                memory_volume("auth", 1),
            ],
            grace_s=30,
            first=[hashing],
        )

    def _process(self, image: Image, door: str) -> k8s.core.v1.ContainerArgs:
        def alive(period_s: int, failures: int = 3) -> k8s.core.v1.ProbeArgs:
            return probe(
                command=[
                    "/bin/bash",
                    f"{files.SCRIPTS}/health.sh",
                    str(files.BEHIND[door]),
                    "/",
                ],
                period_s=period_s,
                timeout_s=5,
                failures=failures,
            )

        return k8s.core.v1.ContainerArgs(
            name=door,
            image=image.ref,
            image_pull_policy="IfNotPresent",
            command=["/usr/local/bin/registry", "serve", f"{files.CONFIG}/{door}.yaml"],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            startup_probe=alive(1, failures=60),
            readiness_probe=alive(10),
            liveness_probe=alive(30),
            volume_mounts=[
                mount(name="config", mount_path=files.CONFIG, read_only=True),
                mount(name="scripts", mount_path=files.SCRIPTS, read_only=True),
                mount(name="auth", mount_path=files.AUTH, read_only=True),
                mount(name="data", mount_path=files.DATA, read_only=door == files.READ),
            ],
        )

    def _faults(self) -> Faults:
        def fault(**texts: str) -> Fault:
            data = {f"{door}.yaml": text for door, text in texts.items()}
            return settings_fault(NAMESPACE, f"{self._name}-config", data, restart=self._name)

        return Faults(
            no_writes=fault(publish=files.registry_config(files.PUBLISH, read_only=True)),
            open_reader=fault(read=files.registry_config(files.READ, read_only=False)),
            open_doors=fault(publish=files.registry_config(files.PUBLISH, guarded=False)),
        )
