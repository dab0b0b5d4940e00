"""Serving: pools of Triton, the gateway before them, and the controller of rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.flows import Flow, Pods, asks_api, scraped
from components.model import Image, together
from components.model_repository.repository import ModelRepository
from components.triton import gateway_files as files
from components.triton import pods
from components.triton.autoscaling import scaled_object
from components.triton.checks import serving_checks
from components.triton.config import (
    CLIENTS_PORT,
    CONTROL_PORT,
    CONTROLLER,
    GATEWAY,
    GATEWAY_METRICS_PORT,
    GRPC_PORT,
    HOST,
    HTTP_PORT,
    METRICS_PORT,
    NAMESPACE,
    PORT,
    RUNTIME_PORT,
    SYNC_PORT,
    UID,
    TritonConfig,
)
from components.triton.dashboard import serving_dashboard
from components.triton.pods import Seat
from components.triton.rules import serving_rules
from components.workload import (
    API_MOUNT,
    TRUST_CONFIG_MAP,
    Component,
    api_token_volume,
    by_https,
    certificate,
    checksum,
    config_map_volume,
    container_security,
    disruption_budget,
    granted,
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
    waive,
)
from model_repo.declared import Desired
from services.serving.model import ASSIGNMENTS, STATE, TRACKS, TRAFFIC, Track
from services.serving.settings import ControlSettings, RegistrySettings

_ALONE: Mapping[Track, str] = {
    "stable": "the environment asks for one replica of this pool",
    "canary": "it takes a share of the requests, and only while a version is tried",
}
"""Why one replica will do."""
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
_DOMAIN = f"{NAMESPACE}.svc.cluster.local"
_mount = k8s.core.v1.VolumeMountArgs
_rule = k8s.rbac.v1.PolicyRuleArgs


class Serving(Component):
    """`url` takes KServe's v2 protocol by HTTP, and by gRPC on the same host and port."""

    url: pulumi.Output[str]
    pods: Pods
    """Of the gateway: whoever infers opens a flow to them."""

    def __init__(
        self,
        name: str,
        config: TritonConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        native_image: Image | None = None,
        service_image: Image,
        proxy_image: Image,
        repository: ModelRepository,
        models: Sequence[Desired],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        autoscaler: Sequence[pulumi.Resource] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`models`: what is declared; `native_image` is of pools that are native, `autoscaler` what
        takes a ScaledObject.
        """
        for pool in config.pools:
            if pool.native and native_image is None:
                raise ValueError(f"pool {pool.name} is native: give native_image")
        super().__init__("estate:serving:Serving", name, opts)
        self._config, self._namespace = config, namespace
        self._image, self._native_image = image, native_image
        self._service_image, self._proxy_image = service_image, proxy_image
        self._repository, self._authority, self._issuer = repository, authority, issuer
        self._seats = [Seat(pool, track) for pool in config.pools for track in TRACKS]
        tls = self._certificates()
        gateway = self._gateway(tls)
        controller = self._controller(tls)
        servers = self._servers(tls)
        self._scale(autoscaler, servers)
        self.pods = Pods(name=GATEWAY, namespace=NAMESPACE, selector=labels(GATEWAY))
        self._control = Pods(name=CONTROLLER, namespace=NAMESPACE, selector=labels(CONTROLLER))
        self._flows()
        if monitors is not None:
            self._monitor(monitors)
        self.url = pulumi.Output.all(*(one.id for one in (gateway, controller, *servers))).apply(
            lambda _: f"https://{HOST}:{PORT}"
        )
        self._expect()
        self.checks += serving_checks(
            models=models,
            registry=repository,
            gateway=files.haproxy_cfg(config, _DOMAIN),
            open_gateway=files.haproxy_cfg(config, _DOMAIN, guarded=False),
            deaf_gateway=files.haproxy_cfg(config, _DOMAIN, asks_certificate=False),
        )
        self.register_outputs({"url": self.url})

    # -- what all have --------------------------------------------------------------------------

    def _certificates(self) -> dict[str, pulumi.Resource]:
        opts = self.child(depends_on=list(self._issuer))
        issuer = self._authority.issuer
        return {
            "triton": certificate(pods.TLS, self._namespace, [pods.SYNC_NAME], opts, issuer=issuer),
            GATEWAY: certificate(
                f"{GATEWAY}-tls",
                self._namespace,
                service_dns(GATEWAY, NAMESPACE),
                opts,
                issuer=issuer,
            ),
            # The gateway's runtime API takes this common name alone.
            CONTROLLER: certificate(
                f"{CONTROLLER}-tls",
                self._namespace,
                [f"{CONTROLLER}.{_DOMAIN}"],
                opts,
                common_name=CONTROLLER,
                client=True,
                issuer=issuer,
            ),
        }

    def _registry(self, url: str) -> RegistrySettings:
        return pods.registry_settings(url, public=self._repository.authority is None)

    def _config_map(
        self, name: str, data: Mapping[str, pulumi.Input[str]]
    ) -> k8s.core.v1.ConfigMap:
        return k8s.core.v1.ConfigMap(
            f"{name}-config",
            metadata=meta(f"{name}-config", self._namespace, labels(name)),
            data=dict(data),
            opts=self.child(),
        )

    def _account(
        self, name: str, rules: Sequence[k8s.rbac.v1.PolicyRuleArgs]
    ) -> list[pulumi.Resource]:
        made = service_account(name, self._namespace, self.child())
        opts = self.child()
        return [made, *granted(name, self._namespace, rules, opts, labelled=labels(name))]

    def _deployment(
        self,
        name: str,
        replicas: int,
        pod: k8s.core.v1.PodSpecArgs,
        settings: k8s.core.v1.ConfigMap,
        depends_on: Sequence[pulumi.Resource],
        *,
        pod_labels: Mapping[str, str] | None = None,
        reasons: Mapping[str, str] | None = None,
        strategy: k8s.apps.v1.DeploymentStrategyArgs | None = None,
        min_ready_s: int | None = None,
        scaled: bool = False,
    ) -> k8s.apps.v1.Deployment:
        selector = labels(name)
        return k8s.apps.v1.Deployment(
            name,
            metadata=meta(name, self._namespace, selector, waive(reasons or {})),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=replicas,
                strategy=strategy,
                min_ready_seconds=min_ready_s,
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=selector),
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(
                        labels=dict(pod_labels or selector),
                        annotations={"estate.dev/settings": checksum(settings.data)},
                    ),
                    spec=pod,
                ),
            ),
            opts=self.child(
                depends_on=[*depends_on, settings],
                # It begins with so many; from then on the queue decides.
                ignore_changes=["spec.replicas"] if scaled else None,
            ),
        )

    # -- Triton ---------------------------------------------------------------------------------

    def _servers(self, tls: Mapping[str, pulumi.Resource]) -> list[k8s.apps.v1.Deployment]:
        reads = _rule(
            api_groups=[""],
            resources=["configmaps"],
            resource_names=[ASSIGNMENTS],
            verbs=["get", "list", "watch"],
        )
        account = self._account("triton", [reads])
        return [self._server(seat, [*account, tls["triton"]]) for seat in self._seats]

    def _image_of(self, seat: Seat) -> Image:
        if not seat.pool.native:
            return self._image
        assert self._native_image is not None
        return self._native_image

    def _server(self, seat: Seat, depends_on: Sequence[pulumi.Resource]) -> k8s.apps.v1.Deployment:
        settings = self._config_map(
            seat.name,
            {
                "settings.json": self._repository.read_url.apply(
                    lambda url: pods.sync_settings(
                        self._config, seat.pool, seat.track, self._registry(url)
                    ).model_dump_json()
                )
            },
        )
        port = k8s.core.v1.ServicePortArgs
        service = k8s.core.v1.Service(
            seat.name,
            metadata=meta(seat.name, self._namespace, seat.selector, _SKIP_AWAIT),
            spec=k8s.core.v1.ServiceSpecArgs(
                # The gateway balances: it wants the pods' addresses.
                cluster_ip="None",
                selector=seat.selector,
                ports=[
                    port(name="http", port=HTTP_PORT, target_port="http"),
                    port(name="grpc", port=GRPC_PORT, target_port="grpc"),
                ],
            ),
            opts=self.child(),
        )
        deployment = self._deployment(
            seat.name,
            seat.replicas,
            pods.pod_spec(
                seat,
                self._config,
                image=self._image_of(seat),
                sync_image=self._service_image,
                account="triton",
                repository=self._repository,
            ),
            settings,
            [service, *depends_on, *self._repository.ready],
            pod_labels=seat.labels,
            strategy=k8s.apps.v1.DeploymentStrategyArgs(
                type="RollingUpdate",
                rolling_update=k8s.apps.v1.RollingUpdateDeploymentArgs(
                    max_unavailable=0, max_surge=1
                ),
            ),
            # The gateway finds a new pod within a second or two: the old one goes after.
            min_ready_s=3,
            scaled=seat.scaled,
            reasons={"kube-score.deployment-replicas": _ALONE[seat.track]}
            if seat.replicas == 1
            else None,
        )
        if seat.replicas > 1:
            disruption_budget(seat.name, self._namespace, seat.selector, self.child())
        return deployment

    def _scale(
        self, autoscaler: Sequence[pulumi.Resource], servers: Sequence[pulumi.Resource]
    ) -> None:
        for seat in self._seats:
            if seat.scaled:
                scaled_object(seat, self._namespace, self.child(depends_on=[*autoscaler, *servers]))

    # -- the gateway ----------------------------------------------------------------------------

    def _gateway(self, tls: Mapping[str, pulumi.Resource]) -> k8s.apps.v1.Deployment:
        config, selector = self._config, labels(GATEWAY)
        settings = self._config_map(
            GATEWAY,
            {"haproxy.cfg": files.haproxy_cfg(config, _DOMAIN), "serve.sh": files.SERVE},
        )
        account = service_account(GATEWAY, self._namespace, self.child())
        service = k8s.core.v1.Service(
            GATEWAY,
            metadata=meta(GATEWAY, self._namespace, selector, _SKIP_AWAIT),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=selector,
                ports=[k8s.core.v1.ServicePortArgs(name="https", port=PORT, target_port="clients")],
            ),
            opts=self.child(),
        )
        if config.gateway_replicas > 1:
            disruption_budget(GATEWAY, self._namespace, selector, self.child())
        return self._deployment(
            GATEWAY,
            config.gateway_replicas,
            self._gateway_pod(selector),
            settings,
            [account, service, tls[GATEWAY]],
            min_ready_s=2,
        )

    def _gateway_pod(self, selector: Mapping[str, str]) -> k8s.core.v1.PodSpecArgs:
        config = self._config
        port = k8s.core.v1.ContainerPortArgs
        alive = ("/alive", "metrics")
        return k8s.core.v1.PodSpecArgs(
            service_account_name=GATEWAY,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(UID),
            topology_spread_constraints=topology_spread(
                selector, config.spread, config.gateway_replicas
            ),
            termination_grace_period_seconds=config.request_timeout_s + 15,
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="gateway",
                    image=self._proxy_image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/sh", f"{files.CONFIG}/serve.sh"],
                    ports=[
                        port(name="clients", container_port=CLIENTS_PORT),
                        port(name="runtime", container_port=RUNTIME_PORT),
                        port(name="metrics", container_port=GATEWAY_METRICS_PORT),
                    ],
                    security_context=container_security(),
                    resources=requirements(config.gateway_resources),
                    readiness_probe=probe(http=alive, scheme="HTTPS", period_s=2, failures=2),
                    liveness_probe=probe(http=alive, scheme="HTTPS", period_s=20),
                    lifecycle=k8s.core.v1.LifecycleArgs(
                        pre_stop=k8s.core.v1.LifecycleHandlerArgs(
                            sleep=k8s.core.v1.SleepActionArgs(seconds=5)
                        )
                    ),
                    volume_mounts=[
                        _mount(name="config", mount_path=files.CONFIG, read_only=True),
                        _mount(name="tls", mount_path=files.TLS, read_only=True),
                        _mount(name="trust", mount_path=files.TRUST, read_only=True),
                        _mount(name="traffic", mount_path=files.TRAFFIC, read_only=True),
                        _mount(name="run", mount_path=files.RUN),
                    ],
                )
            ],
            volumes=[
                config_map_volume("config", f"{GATEWAY}-config"),
                config_map_volume("trust", TRUST_CONFIG_MAP),
                secret_volume("tls", f"{GATEWAY}-tls"),
                k8s.core.v1.VolumeArgs(
                    name="traffic",
                    config_map=k8s.core.v1.ConfigMapVolumeSourceArgs(name=TRAFFIC, optional=True),
                ),
                memory_volume("run", 2),
            ],
        )

    # -- the controller -------------------------------------------------------------------------

    def _controller(self, tls: Mapping[str, pulumi.Resource]) -> k8s.apps.v1.Deployment:
        config = self._config
        settings = self._config_map(
            CONTROLLER,
            {
                "settings.json": self._repository.read_url.apply(
                    lambda url: _control_settings(config, self._registry(url)).model_dump_json()
                )
            },
        )
        account = self._account(
            CONTROLLER,
            [
                _rule(api_groups=[""], resources=["configmaps"], verbs=["get", "list", "watch"]),
                # A name cannot be asked of what is only being made.
                _rule(api_groups=[""], resources=["configmaps"], verbs=["create"]),
                _rule(
                    api_groups=[""],
                    resources=["configmaps"],
                    resource_names=[ASSIGNMENTS, STATE, TRAFFIC],
                    verbs=["update"],
                ),
                _rule(api_groups=[""], resources=["pods"], verbs=["list"]),
            ],
        )
        port = k8s.core.v1.ContainerPortArgs
        pod = k8s.core.v1.PodSpecArgs(
            service_account_name=CONTROLLER,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(UID),
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="controller",
                    image=self._service_image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/usr/bin/python3", "-m", "services.serving"],
                    args=["control", "/serving/config/settings.json"],
                    ports=[port(name="control", container_port=CONTROL_PORT)],
                    security_context=container_security(),
                    resources=requirements(config.controller_resources),
                    startup_probe=probe(
                        http=("/healthz", "control"), scheme="HTTPS", period_s=1, failures=120
                    ),
                    readiness_probe=probe(http=("/readyz", "control"), scheme="HTTPS", period_s=2),
                    liveness_probe=probe(http=("/healthz", "control"), scheme="HTTPS", period_s=20),
                    volume_mounts=[
                        _mount(name="tmp", mount_path="/tmp"),
                        API_MOUNT,
                        *pods.own_mounts(),
                    ],
                )
            ],
            volumes=[
                memory_volume("tmp", 16),
                api_token_volume(),
                *pods.own_volumes(CONTROLLER, f"{CONTROLLER}-tls", self._repository),
            ],
        )
        return self._deployment(
            CONTROLLER,
            1,
            pod,
            settings,
            [*account, tls[CONTROLLER], *self._repository.ready],
            # It is in no request's way, and what it has begun is written down; two would take steps
            # twice.
            strategy=k8s.apps.v1.DeploymentStrategyArgs(type="Recreate"),
        )

    # -- around ---------------------------------------------------------------------------------

    def _flows(self) -> None:
        self.flows += [
            asks_api(self._control),
            self._repository.read_by(self._control),
            Flow(source=self._control, target=self.pods, ports=[RUNTIME_PORT]),
        ]
        for seat in self._seats:
            server = Pods(name=seat.name, namespace=NAMESPACE, selector=seat.selector)
            self.flows += [
                asks_api(server),
                self._repository.read_by(server),
                Flow(source=self.pods, target=server, ports=[HTTP_PORT, GRPC_PORT]),
                Flow(
                    source=self._control,
                    target=server,
                    ports=[HTTP_PORT, METRICS_PORT, SYNC_PORT],
                ),
            ]

    def _expect(self) -> None:
        config = self._config
        for seat in self._seats:
            self.expected_pods.append(
                ExpectedPods(
                    name=seat.name,
                    namespace=NAMESPACE,
                    selector=seat.selector,
                    count=seat.replicas,
                    resources=together(seat.pool.resources, seat.pool.sync_resources),
                    spread=seat.pool.spread,
                )
            )
        for name, count, resources in (
            (GATEWAY, config.gateway_replicas, config.gateway_resources),
            (CONTROLLER, 1, config.controller_resources),
        ):
            self.expected_pods.append(
                ExpectedPods(
                    name=name,
                    namespace=NAMESPACE,
                    selector=labels(name),
                    count=count,
                    resources=resources,
                )
            )

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        for seat in self._seats:
            tracked = [
                {
                    "action": "replace",
                    "targetLabel": label,
                    "replacement": value,
                }
                for label, value in (("pool", seat.pool.name), ("track", seat.track))
            ]
            pod_monitor(
                seat.name,
                self._namespace,
                seat.selector,
                [
                    {"port": "metrics", "relabelings": tracked},
                    {"port": "sync", "relabelings": tracked, **by_https(pods.SYNC_NAME)},
                ],
                opts,
                waived={"encryption": "Triton has no TLS for metrics: counts, no payloads"},
            )
            server = Pods(name=seat.name, namespace=NAMESPACE, selector=seat.selector)
            self.flows.append(scraped(server, METRICS_PORT, SYNC_PORT))
        for name, port, number, server_name in (
            (GATEWAY, "metrics", GATEWAY_METRICS_PORT, HOST),
            (CONTROLLER, "control", CONTROL_PORT, f"{CONTROLLER}.{_DOMAIN}"),
        ):
            pod_monitor(
                name, self._namespace, labels(name), [{"port": port, **by_https(server_name)}], opts
            )
            target = self.pods if name == GATEWAY else self._control
            self.flows.append(scraped(target, number))
        prometheus_rule("serving", self._namespace, serving_rules(NAMESPACE, self._config), opts)
        self.dashboards.append(serving_dashboard("serving", NAMESPACE, self._config))


def _control_settings(config: TritonConfig, registry: RegistrySettings) -> ControlSettings:
    return ControlSettings.model_validate(
        {
            "namespace": NAMESPACE,
            "registry": registry,
            "triton_port": HTTP_PORT,
            "metrics_port": METRICS_PORT,
            "sync_port": SYNC_PORT,
            "sync_name": pods.SYNC_NAME,
            "gateway_selector": f"app.kubernetes.io/name={GATEWAY}",
            "pools": [pool.name for pool in config.pools],
            "gateway_port": RUNTIME_PORT,
            "gateway_name": HOST,
            "ca": "/serving/ca/ca.crt",
            "client_certificate": "/serving/tls/tls.crt",
            "client_key": "/serving/tls/tls.key",
            "server": pods.server_settings(CONTROL_PORT),
        }
    )
