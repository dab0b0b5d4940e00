"""What both registries in the cluster have: doors, users, trust, certificate, monitoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.flows import Pods, scraped
from components.model import Image, Resources
from components.model_repository import proxy
from components.model_repository.config import (
    METRICS_PORT,
    NAMESPACE,
    PUBLISH_PORT,
    READ_PORT,
    TRUST,
    TRUST_KEY,
    USERS,
    ModelRepositoryConfig,
)
from components.model_repository.dashboard import model_repository_dashboard
from components.model_repository.repository import ModelRepository
from components.model_repository.rules import model_repository_rules
from components.workload import (
    Component,
    by_https,
    certificate,
    checksum,
    claim_template,
    container_security,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    service_account,
    service_dns,
    waive,
)

mount = k8s.core.v1.VolumeMountArgs
port = k8s.core.v1.ContainerPortArgs
_CLAIM = "data"


class Registry(Component):
    """One pod behind the Service `model-registry`: a proxy, and what it leads to.

    `repository` is what other components take; `claim` is the pod's volume.
    """

    repository: ModelRepository
    pods: Pods
    claim: str

    def __init__(
        self,
        token: str,
        name: str,
        config: ModelRepositoryConfig,
        *,
        namespace: pulumi.Input[str],
        passwords: Mapping[str, pulumi.Input[str]],
        trusted: Sequence[pulumi.Input[str]],
        proxy_image: Image,
        authority: Authority,
        issuer: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions | None,
    ) -> None:
        super().__init__(token, name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._proxy_image, self._selector = proxy_image, labels(name)
        self._passwords = dict(passwords)
        self.host = f"{name}.{NAMESPACE}.svc.cluster.local"
        self.pods = Pods(name=name, namespace=NAMESPACE, selector=self._selector)
        # As a StatefulSet calls that of its first pod.
        self.claim = f"{_CLAIM}-{name}-0"
        self._tls = certificate(
            f"{name}-tls",
            namespace,
            service_dns(name, NAMESPACE),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        self._secrets = {
            user: k8s.core.v1.Secret(
                f"{name}-{user}",
                metadata=meta(f"{name}-{user}", namespace, self._selector),
                string_data={"username": user, "password": passwords[user]},
                opts=self.child(),
            )
            for user in USERS
        }
        self._trust = trust(namespace, self._selector, trusted, self.child())
        self._account = service_account(name, namespace, self.child())

    def _config_map(self, part: str, data: dict[str, str]) -> k8s.core.v1.ConfigMap:
        return k8s.core.v1.ConfigMap(
            f"{self._name}-{part}",
            metadata=meta(f"{self._name}-{part}", self._namespace, self._selector),
            data=data,
            opts=self.child(),
        )

    def _service(self, more: Mapping[str, int]) -> k8s.core.v1.Service:
        doors = {"publish": PUBLISH_PORT, "read": READ_PORT, **more}
        ports = [
            k8s.core.v1.ServicePortArgs(name=door, port=number, target_port=door)
            for door, number in doors.items()
        ]
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(selector=self._selector, ports=ports),
            opts=self.child(),
        )

    def _stateful_set(
        self,
        settings: Sequence[k8s.core.v1.ConfigMap],
        pod: k8s.core.v1.PodSpecArgs,
        depends_on: Sequence[pulumi.Resource],
        reasons: Mapping[str, str] | None = None,
    ) -> k8s.apps.v1.StatefulSet:
        spec = k8s.apps.v1.StatefulSetSpecArgs(
            replicas=1,
            service_name=self._name,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        # Changed settings or passwords restart it; a renewed certificate does not.
                        "estate.dev/settings": checksum(*(one.data for one in settings)),
                        "estate.dev/passwords": checksum(
                            *(self._passwords[user] for user in sorted(self._passwords))
                        ),
                    },
                ),
                spec=pod,
            ),
            volume_claim_templates=[claim_template(_CLAIM, self._config.storage)],
        )
        one = "one pod, reached through its Service and never by a name of its own"
        return k8s.apps.v1.StatefulSet(
            self._name,
            metadata=meta(
                self._name,
                self._namespace,
                self._selector,
                waive({"kube-score.statefulset-has-servicename": one, **(reasons or {})}),
            ),
            spec=spec,
            opts=self.child(
                depends_on=[self._tls, self._account, *self._secrets.values(), *depends_on],
                protect=self._config.protect,
            ),
        )

    def _pod(
        self,
        uid: int,
        containers: Sequence[k8s.core.v1.ContainerArgs],
        volumes: Sequence[k8s.core.v1.VolumeArgs],
        *,
        grace_s: int,
        first: Sequence[k8s.core.v1.ContainerArgs] = (),
    ) -> k8s.core.v1.PodSpecArgs:
        return k8s.core.v1.PodSpecArgs(
            service_account_name=self._name,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(uid),
            termination_grace_period_seconds=grace_s,
            init_containers=list(first),
            containers=list(containers),
            volumes=list(volumes),
        )

    def _proxy(self, more: Mapping[str, int]) -> k8s.core.v1.ContainerArgs:
        doors = {"publish": PUBLISH_PORT, "read": READ_PORT, **more, "metrics": METRICS_PORT}
        return k8s.core.v1.ContainerArgs(
            name="proxy",
            image=self._proxy_image.ref,
            image_pull_policy="IfNotPresent",
            command=["/bin/sh", f"{proxy.CONFIG}/serve.sh"],
            ports=[port(name=door, container_port=number) for door, number in doors.items()],
            security_context=container_security(),
            resources=requirements(self._config.proxy_resources),
            readiness_probe=probe(http=("/ready", "metrics"), scheme="HTTPS", period_s=3),
            liveness_probe=probe(http=("/alive", "metrics"), scheme="HTTPS", period_s=20),
            volume_mounts=[
                mount(name="proxy", mount_path=proxy.CONFIG, read_only=True),
                mount(name="tls", mount_path=proxy.TLS, read_only=True),
            ],
        )

    def _monitor(self, monitors: Sequence[pulumi.Resource] | None, paths: Sequence[str]) -> None:
        if monitors is None:
            return
        name, opts = self._name, self.child(depends_on=list(monitors))
        tls = by_https(self.host)
        endpoints: list[dict[str, Any]] = [
            {
                "port": "metrics",
                "path": f"/{program}",
                # One address for all: without a label of their own they would be one series.
                "relabelings": [
                    {"action": "replace", "targetLabel": "program", "replacement": program}
                ],
                **tls,
            }
            for program in ("proxy", *paths)
        ]
        pod_monitor(name, self._namespace, self._selector, endpoints, opts)
        prometheus_rule(name, self._namespace, model_repository_rules(name, NAMESPACE), opts)
        self.dashboards.append(
            model_repository_dashboard(name, NAMESPACE, distribution=bool(paths))
        )
        self.flows.append(scraped(self.pods, METRICS_PORT))

    def _expect(self, resources: Resources) -> None:
        self.expected_pods.append(
            ExpectedPods(
                name=self._name,
                namespace=NAMESPACE,
                selector=self._selector,
                count=1,
                resources=resources,
                claims=[self._config.storage.size_gib],
            )
        )

    def _hand_over(self, ready: Sequence[pulumi.Resource]) -> None:
        """Fill the outputs; the addresses count once everything in `ready` is made."""

        def url(number: int) -> pulumi.Output[str]:
            found = f"https://{self.host}:{number}"
            return pulumi.Output.all(*(one.urn for one in ready)).apply(lambda _: found)

        self.repository = ModelRepository(
            publish_url=url(PUBLISH_PORT),
            read_url=url(READ_PORT),
            secrets={user: f"{self._name}-{user}" for user in USERS},
            ready=[*ready, self._trust],
            pods=self.pods,
        )
        self.register_outputs(
            {"publish_url": self.repository.publish_url, "read_url": self.repository.read_url}
        )


def trust(
    namespace: pulumi.Input[str],
    labelled: Mapping[str, str],
    keys: Sequence[pulumi.Input[str]],
    opts: pulumi.ResourceOptions,
) -> k8s.core.v1.ConfigMap:
    """The ConfigMap of the public keys of which one must have signed what is served."""
    return k8s.core.v1.ConfigMap(
        TRUST,
        metadata=meta(TRUST, namespace, labelled),
        data={TRUST_KEY: pulumi.Output.unsecret(pulumi.Output.all(*keys).apply(_bundle))},
        opts=opts,
    )


def _bundle(keys: Sequence[str]) -> str:
    """Public keys, one after the other. Raises ValueError, with nothing of the text in it."""
    if any("PRIVATE KEY" in key for key in keys):
        raise ValueError(
            "model_repository.trusted_keys: one is a private key; name its public half, and take "
            "another key: what was put here may have been seen"
        )
    return "".join(f"{key.strip()}\n" for key in keys)
