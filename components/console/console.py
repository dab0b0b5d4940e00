"""The console: replicas of the REST API, each with what it may ask of the lake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.console.checks import console_checks
from components.console.config import (
    CATALOGUE,
    CLIENTS_PORT,
    INTERNAL_PORT,
    NAMESPACE,
    PORT,
    TOKEN_SECRET,
    USER,
    ConsoleConfig,
)
from components.console.dashboard import console_dashboard
from components.console.rules import console_rules
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_files import CLIENTS_PORT as KAFKA_PORT
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.object_store import ObjectStore
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PORT as POSTGRES_PORT
from components.flows import OUTSIDE, Flow, Pods, scraped
from components.model import Image
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    by_https,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    disruption_budget,
    labels,
    memory_volume,
    meta,
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
_ROOT = "/console"
_DOCUMENTATION = "/opt/estate/services/console/documentation"
_mount = k8s.core.v1.VolumeMountArgs


@dataclass(frozen=True)
class Backends:
    """What the console asks; what is None is not there, and its routes say so.

    `buckets` maps each bucket that is shown to the quota of its owner in bytes; `upload_url` and
    `upload_secret` are image transfer's. `ready` holds what must exist before any of it is asked.
    """

    kafka: KafkaCluster | None = None
    documents: MongodbCluster | None = None
    store: ObjectStore | None = None
    buckets: dict[str, int | None] = field(default_factory=dict)
    postgres: Postgres | None = None
    upload_url: str | None = None
    upload_secret: str | None = None
    ready: Sequence[pulumi.Resource] = ()


class Console(Component):
    """The REST API behind one Service. `url` is what callers ask; `token_secret` names the Secret
    of the estate's own issuer, where there is one.
    """

    url: pulumi.Output[str]
    token_secret: str | None
    pods: Pods

    def __init__(
        self,
        name: str,
        config: ConsoleConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = NAMESPACE,
        image: Image,
        backends: Backends,
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:console:Console", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._image, self._backends = image, backends
        self._selector = labels(name)
        self._host = f"{name}.{namespace_name}.svc.cluster.local"
        self.token_secret = TOKEN_SECRET if config.own_issuer else None
        settings = k8s.core.v1.ConfigMap(
            f"{name}-config",
            metadata=meta(f"{name}-config", namespace, self._selector),
            data=self._files(),
            opts=self.child(),
        )
        certificates = self._certificates(namespace_name, authority, issuer)
        account = service_account(name, namespace, self.child())
        service = self._service()
        workload = k8s.apps.v1.Deployment(
            name,
            metadata=meta(name, namespace, self._selector),
            spec=self._deployment(settings),
            opts=self.child(
                depends_on=[*certificates, account, service, settings, *backends.ready]
            ),
        )
        if config.replicas > 1:
            disruption_budget(name, namespace, self._selector, self.child())
        self.pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.flows += self._flows()
        if monitors is not None:
            self._monitor(monitors)
            self.flows.append(scraped(self.pods, INTERNAL_PORT))
        self.url = workload.id.apply(lambda _: f"https://{self._host}:{PORT}/api/docs")
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
        if config.own_issuer:
            self.checks += console_checks(
                name,
                config,
                namespace=namespace_name,
                host=self._host,
                settings=self._settings(),
                backends=self._declared(),
            )
        self.register_outputs({"url": self.url})

    # -- what the service is told ----------------------------------------------------------------

    def _declared(self) -> list[str]:
        """The backends as the service names them."""
        found = self._settings()
        return [name for name in ("kafka", "documents", "objects", "catalogue") if name in found]

    def _files(self) -> dict[str, str]:
        files = {"settings.json": json.dumps(self._settings(), indent=1)}
        for i, one in enumerate(self._config.issuers):
            if one.jwks is not None:
                files[f"jwks-{i}.json"] = json.dumps(one.jwks)
        return files

    def _settings(self) -> dict[str, Any]:
        config, asked = self._config, self._backends
        found: dict[str, Any] = {
            "port": CLIENTS_PORT,
            "internal_port": INTERNAL_PORT,
            "tls_certificate": f"{_ROOT}/tls/tls.crt",
            "tls_key": f"{_ROOT}/tls/tls.key",
            "trust": f"{_ROOT}/trust/ca.crt",
            "documentation": _DOCUMENTATION,
            "issuers": self._issuers(),
            "limits": {
                "requests_per_minute": config.requests_per_minute,
                "concurrent": config.concurrent,
                "backend_timeout_s": config.backend_timeout_s,
                "upload_token_s": config.upload_token_s,
            },
        }
        if asked.kafka is not None:
            found["kafka"] = {
                "bootstrap": asked.kafka.address,
                "user": USER,
                "password": f"{_ROOT}/kafka/password",
            }
        if asked.documents is not None:
            found["documents"] = {
                "url": asked.documents.address,
                "user": USER,
                "password": f"{_ROOT}/documents/password",
            }
        if asked.store is not None:
            found["objects"] = {
                "endpoint": asked.store.endpoint,
                "region": asked.store.region,
                "access_key": f"{_ROOT}/objects/access-key",
                "secret_key": f"{_ROOT}/objects/secret-key",
                "buckets": dict(asked.buckets),
            }
        if asked.postgres is not None:
            found["catalogue"] = {
                # What is read here was replicated long ago; writers keep the primary.
                "host": asked.postgres.host("r"),
                "port": POSTGRES_PORT,
                "database": CATALOGUE,
                "user": USER,
                "password": f"{_ROOT}/catalogue/password",
                "connections": config.catalogue_connections,
            }
        if asked.upload_secret is not None and asked.upload_url is not None:
            found["uploads"] = {"url": asked.upload_url, "key": f"{_ROOT}/uploads/tls.key"}
        return found

    def _issuers(self) -> list[dict[str, Any]]:
        own = {
            "issuer": "estate",
            "audience": "console",
            "algorithms": ["ES256"],
            "certificate": f"{_ROOT}/tokens/tls.crt",
        }
        found = [own] if self._config.own_issuer else []
        for i, one in enumerate(self._config.issuers):
            source: dict[str, Any] = (
                {"jwks_url": one.jwks_url}
                if one.jwks is None
                else {"jwks_file": f"{_ROOT}/config/jwks-{i}.json"}
            )
            shared = ("issuer", "audience", "algorithms", "role_claim", "roles")
            found.append({**source, **{key: getattr(one, key) for key in shared}})
        return found

    # -- objects -----------------------------------------------------------------------------------

    def _certificates(
        self, namespace: str, authority: Authority, issuer: Sequence[pulumi.Resource]
    ) -> list[pulumi.Resource]:
        found: list[pulumi.Resource] = [
            certificate(
                f"{self._name}-tls",
                self._namespace,
                service_dns(self._name, namespace),
                self.child(depends_on=list(issuer)),
                issuer=authority.issuer,
            )
        ]
        if self.token_secret is not None:
            # A key pair, no server's: renewed with its certificate, which the service reads again.
            found.append(
                certificate(
                    self.token_secret,
                    self._namespace,
                    [],
                    self.child(depends_on=list(issuer)),
                    common_name="Estate console tokens",
                    server=False,
                    issuer=authority.issuer,
                )
            )
        return found

    def _service(self) -> k8s.core.v1.Service:
        port = k8s.core.v1.ServicePortArgs(name="https", port=PORT, target_port="clients")
        return k8s.core.v1.Service(
            self._name,
            metadata=meta(
                self._name, self._namespace, self._selector, {"pulumi.com/skipAwait": "true"}
            ),
            spec=k8s.core.v1.ServiceSpecArgs(selector=self._selector, ports=[port]),
            opts=self.child(),
        )

    def _deployment(self, settings: k8s.core.v1.ConfigMap) -> k8s.apps.v1.DeploymentSpecArgs:
        return k8s.apps.v1.DeploymentSpecArgs(
            replicas=self._config.replicas,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            strategy=k8s.apps.v1.DeploymentStrategyArgs(
                type="RollingUpdate",
                rolling_update=k8s.apps.v1.RollingUpdateDeploymentArgs(
                    max_surge=1, max_unavailable=0
                ),
            ),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={"estate.dev/settings": checksum(settings.data)},
                ),
                spec=k8s.core.v1.PodSpecArgs(
                    service_account_name=self._name,
                    automount_service_account_token=False,
                    enable_service_links=False,
                    security_context=pod_security(UID),
                    topology_spread_constraints=topology_spread(
                        self._selector, self._config.spread, self._config.replicas
                    ),
                    termination_grace_period_seconds=40,
                    containers=[self._container()],
                    volumes=self._volumes(),
                ),
            ),
        )

    def _container(self) -> k8s.core.v1.ContainerArgs:
        port = k8s.core.v1.ContainerPortArgs
        return k8s.core.v1.ContainerArgs(
            name="console",
            image=self._image.ref,
            image_pull_policy="IfNotPresent",
            command=["/usr/bin/python3", "-m", "services.console"],
            args=[f"{_ROOT}/config/settings.json"],
            ports=[
                port(name="clients", container_port=CLIENTS_PORT),
                port(name="internal", container_port=INTERNAL_PORT),
            ],
            security_context=container_security(),
            resources=requirements(self._config.resources),
            startup_probe=probe(
                http=("/livez", "internal"), scheme="HTTPS", period_s=2, failures=60
            ),
            # Not ready when nothing at all answers it; one backend that is away is no reason.
            readiness_probe=probe(http=("/readyz", "internal"), scheme="HTTPS", period_s=5),
            liveness_probe=probe(http=("/livez", "internal"), scheme="HTTPS", period_s=20),
            # Whoever still sends requests here learns first that this replica goes.
            lifecycle=k8s.core.v1.LifecycleArgs(
                pre_stop=k8s.core.v1.LifecycleHandlerArgs(
                    sleep=k8s.core.v1.SleepActionArgs(seconds=5)
                )
            ),
            volume_mounts=[
                *(
                    _mount(name=volume, mount_path=f"{_ROOT}/{volume}", read_only=True)
                    for volume in ("config", "trust", "tls", *self._secrets())
                ),
                _mount(name="tmp", mount_path="/tmp"),
            ],
        )

    def _secrets(self) -> dict[str, tuple[pulumi.Input[str], dict[str, str] | None]]:
        """Volume -> Secret and which of its keys."""
        asked = self._backends
        found: dict[str, tuple[pulumi.Input[str], dict[str, str] | None]] = {}
        password = {"password": "password"}
        if self.token_secret is not None:
            # Not the key: who verifies tokens cannot make any.
            found["tokens"] = self.token_secret, {"tls.crt": "tls.crt"}
        if asked.kafka is not None:
            found["kafka"] = asked.kafka.users[USER], password
        if asked.documents is not None:
            found["documents"] = asked.documents.secret_name(USER), password
        if asked.store is not None:
            found["objects"] = asked.store.secrets[USER], None
        if asked.postgres is not None:
            found["catalogue"] = asked.postgres.secret_name(USER), password
        if asked.upload_secret is not None:
            found["uploads"] = asked.upload_secret, {"tls.key": "tls.key"}
        return found

    def _volumes(self) -> list[k8s.core.v1.VolumeArgs]:
        return [
            config_map_volume("config", f"{self._name}-config"),
            config_map_volume("trust", TRUST_CONFIG_MAP),
            secret_volume("tls", f"{self._name}-tls"),
            *(
                k8s.core.v1.VolumeArgs(
                    name=volume,
                    secret=k8s.core.v1.SecretVolumeSourceArgs(
                        secret_name=secret,
                        default_mode=0o440,
                        items=[k8s.core.v1.KeyToPathArgs(key=k, path=p) for k, p in items.items()]
                        if items
                        else None,
                    ),
                )
                for volume, (secret, items) in self._secrets().items()
            ),
            memory_volume("tmp", 16),
        ]

    def _flows(self) -> list[Flow]:
        asked, found = self._backends, []
        if asked.kafka is not None:
            found.append(Flow(source=self.pods, target=asked.kafka.brokers, ports=[KAFKA_PORT]))
        if asked.documents is not None:
            port = asked.documents.port
            found.append(Flow(source=self.pods, target=asked.documents.pods, ports=[port]))
        if asked.store is not None:
            port = asked.store.target_port
            found.append(Flow(source=self.pods, target=asked.store.pods, ports=[port]))
        if asked.postgres is not None:
            found.append(Flow(source=self.pods, target=asked.postgres.pods, ports=[POSTGRES_PORT]))
        if any(one.jwks_url is not None for one in self._config.issuers):
            found.append(Flow(source=self.pods, target=OUTSIDE, ports=[443]))
        return found

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        endpoint = {
            "port": "internal",
            "path": "/metrics",
            **by_https(self._host),
        }
        pod_monitor(self._name, self._namespace, self._selector, [endpoint], opts)
        rules = console_rules(self._name, NAMESPACE, self._config)
        prometheus_rule(self._name, self._namespace, rules, opts)
        self.dashboards.append(console_dashboard(self._name, NAMESPACE, self._config))
