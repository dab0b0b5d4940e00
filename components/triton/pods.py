"""The pods of one track of a pool: Triton, and the sidecar that brings its models."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi_kubernetes as k8s

from components.model import GPU_NODE, Image, mig_resource
from components.model_repository.config import TRUST_KEY
from components.model_repository.repository import ModelRepository
from components.triton.config import (
    GRPC_PORT,
    HTTP_PORT,
    METRICS_PORT,
    NAMESPACE,
    SYNC_PORT,
    UID,
    TritonConfig,
    TritonPool,
)
from components.workload import (
    API_MOUNT,
    TRUST_CONFIG_MAP,
    api_token_volume,
    config_map_volume,
    container_security,
    gpu_tolerations,
    labels,
    memory_volume,
    pod_security,
    probe,
    requirements,
    secret_volume,
    topology_spread,
)
from services.serving.model import POOL_LABEL, TRACK_LABEL, Track
from services.serving.settings import RegistrySettings, ServerSettings, SyncSettings

TLS = "triton-tls"
"""The sidecars' certificate, one for all: the controller asks each pod by its address."""
SYNC_NAME = f"triton.{NAMESPACE}.svc.cluster.local"
_CONFIG, _REGISTRY, _TRUST, _CA, _TLS = (
    f"/serving/{name}" for name in ("config", "registry", "trust", "ca", "tls")
)
REPOSITORY, VERSIONS = "/models/repository", "/models/versions"
"""Triton's own, and what was pulled, to which it leads."""
_mount = k8s.core.v1.VolumeMountArgs


def registry_settings(registry_url: str, *, public: bool) -> RegistrySettings:
    """Where a program of ours finds the registry and what it needs there.

    `public`: its certificate is by an authority that everybody knows.
    """
    return RegistrySettings.model_validate(
        {
            "url": registry_url,
            "ca": None if public else f"{_CA}/ca.crt",
            "username": f"{_REGISTRY}/username",
            "password": f"{_REGISTRY}/password",
            "trust": f"{_TRUST}/{TRUST_KEY}",
        }
    )


def server_settings(port: int) -> ServerSettings:
    """Where it serves."""
    return ServerSettings.model_validate(
        {"port": port, "certificate": f"{_TLS}/tls.crt", "key": f"{_TLS}/tls.key"}
    )


def sync_settings(
    config: TritonConfig, pool: TritonPool, track: Track, registry: RegistrySettings
) -> SyncSettings:
    """What the sidecar is told."""
    return SyncSettings.model_validate(
        {
            "namespace": NAMESPACE,
            "track": track,
            "pool": pool.name,
            "registry": registry,
            "repository": REPOSITORY,
            "versions": VERSIONS,
            "triton": f"http://127.0.0.1:{HTTP_PORT}",
            "native": pool.native,
            "gpu": pool.gpu,
            "server": server_settings(SYNC_PORT),
        }
    )


def own_mounts() -> list[k8s.core.v1.VolumeMountArgs]:
    """Settings, the registry's user, trusted keys, the authority, the certificate."""
    return [
        _mount(name=name, mount_path=path, read_only=True)
        for name, path in (
            ("config", _CONFIG),
            ("registry", _REGISTRY),
            ("model-trust", _TRUST),
            ("ca", _CA),
            ("tls", _TLS),
        )
    ]


def own_volumes(name: str, tls: str, repository: ModelRepository) -> list[k8s.core.v1.VolumeArgs]:
    """The volumes of `own_mounts`."""
    return [
        config_map_volume("config", f"{name}-config"),
        secret_volume("registry", repository.reader_secret),
        config_map_volume("model-trust", repository.trust),
        config_map_volume("ca", repository.authority or TRUST_CONFIG_MAP),
        secret_volume("tls", tls),
    ]


@dataclass(frozen=True)
class Seat:
    """One track of one pool."""

    pool: TritonPool
    track: Track

    @property
    def name(self) -> str:
        """Of its Deployment and its Service."""
        return f"triton-{self.pool.name}-{self.track}"

    @property
    def replicas(self) -> int:
        """How many, unless more are asked for by the queue."""
        return self.pool.replicas if self.track == "stable" else self.pool.canary_replicas

    @property
    def scaled(self) -> bool:
        """Whether KEDA decides how many there are."""
        return self.track == "stable" and self.pool.autoscaling is not None

    @property
    def selector(self) -> dict[str, str]:
        """The labels of its pods."""
        return labels(self.name)

    @property
    def labels(self) -> dict[str, str]:
        """With what the controller looks for."""
        return {**self.selector, POOL_LABEL: self.pool.name, TRACK_LABEL: self.track}


def pod_spec(
    seat: Seat,
    config: TritonConfig,
    *,
    image: Image,
    sync_image: Image,
    account: str,
    repository: ModelRepository,
) -> k8s.core.v1.PodSpecArgs:
    """The pod of one replica."""
    pool = seat.pool
    return k8s.core.v1.PodSpecArgs(
        service_account_name=account,
        # The sidecar reads what is assigned; Triton's container has no token.
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=pod_security(UID),
        topology_spread_constraints=topology_spread(seat.selector, pool.spread, seat.replicas),
        node_selector=GPU_NODE if pool.gpu else None,
        tolerations=gpu_tolerations() if pool.gpu else None,
        runtime_class_name=pool.runtime_class,
        # Triton answers what it has, for as long as a request may take.
        termination_grace_period_seconds=config.request_timeout_s + 15,
        containers=[_triton(seat, config, image), _sync(pool, sync_image)],
        volumes=[
            k8s.core.v1.VolumeArgs(
                name="repository",
                empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit="64Mi"),
            ),
            k8s.core.v1.VolumeArgs(
                name="versions",
                empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit=f"{pool.models_gib}Gi"),
            ),
            memory_volume("shared-memory", pool.shared_memory_mib),
            memory_volume("tmp", 64),
            memory_volume("sync-tmp", 16),
            api_token_volume(),
            *own_volumes(seat.name, TLS, repository),
        ],
    )


def _triton(seat: Seat, config: TritonConfig, image: Image) -> k8s.core.v1.ContainerArgs:
    pool = seat.pool
    port = k8s.core.v1.ContainerPortArgs
    # Where it limits rates, Triton 2.51 may touch an instance that it has just freed
    # (rate_limiter.cc, Release after OnRelease): each version that goes is a chance to crash.
    limiter = ["--rate-limit=execution_count"] if pool.rate_limiter else []
    cache = [f"--cache-config=local,size={pool.response_cache_mib << 20}"]
    resources = requirements(pool.resources)
    if pool.mig is not None:
        slice_ = {mig_resource(pool.mig): "1"}
        quantities = pool.resources.quantities()
        resources = k8s.core.v1.ResourceRequirementsArgs(
            requests={**quantities["requests"], **slice_},
            limits={**quantities["limits"], **slice_},
        )
    return k8s.core.v1.ContainerArgs(
        name="triton",
        image=image.ref,
        image_pull_policy="IfNotPresent",
        command=["tritonserver"],
        args=[
            f"--model-repository={REPOSITORY}",
            "--model-control-mode=explicit",
            # One that begins again has what the sidecar brought, before it takes a request.
            "--load-model=*",
            "--exit-on-error=false",
            # The configuration is written whole; to ask the model would start it once more.
            "--disable-auto-complete-config",
            # Ready when it can take requests; the sidecar knows of models.
            "--strict-readiness=false",
            "--allow-http=true",
            "--allow-grpc=true",
            f"--http-port={HTTP_PORT}",
            f"--grpc-port={GRPC_PORT}",
            f"--metrics-port={METRICS_PORT}",
            f"--exit-timeout-secs={config.request_timeout_s}",
            *limiter,
            *(cache if pool.response_cache_mib else ()),
        ],
        ports=[
            port(name="http", container_port=HTTP_PORT),
            port(name="grpc", container_port=GRPC_PORT),
            port(name="metrics", container_port=METRICS_PORT),
        ],
        # NVIDIA's images ask for all GPUs of a node, and a runtime may hand them over unasked.
        env=[k8s.core.v1.EnvVarArgs(name="NVIDIA_VISIBLE_DEVICES", value="void")]
        if pool.native and not pool.gpu
        else None,
        security_context=container_security(),
        resources=resources,
        startup_probe=probe(http=("/v2/health/live", "http"), period_s=1, failures=180),
        readiness_probe=probe(http=("/v2/health/ready", "http"), period_s=2, failures=2),
        # Triton itself says that it lives while a model in it hangs; the sidecar of a canary knows.
        liveness_probe=probe(http=("/triton", SYNC_PORT), scheme="HTTPS", period_s=10, failures=3)
        if seat.track == "canary"
        else probe(http=("/v2/health/live", "http"), period_s=10, failures=6),
        # The gateway learns first that this replica goes.
        lifecycle=k8s.core.v1.LifecycleArgs(
            pre_stop=k8s.core.v1.LifecycleHandlerArgs(sleep=k8s.core.v1.SleepActionArgs(seconds=5))
        ),
        volume_mounts=[
            _mount(name="repository", mount_path=REPOSITORY, read_only=True),
            _mount(name="versions", mount_path=VERSIONS, read_only=True),
            _mount(name="shared-memory", mount_path="/dev/shm"),
            _mount(name="tmp", mount_path="/tmp"),
        ],
    )


def _sync(pool: TritonPool, image: Image) -> k8s.core.v1.ContainerArgs:
    return k8s.core.v1.ContainerArgs(
        name="sync",
        image=image.ref,
        image_pull_policy="IfNotPresent",
        command=["/usr/bin/python3", "-m", "services.serving"],
        args=["sync", f"{_CONFIG}/settings.json"],
        ports=[k8s.core.v1.ContainerPortArgs(name="sync", container_port=SYNC_PORT)],
        security_context=container_security(),
        resources=requirements(pool.sync_resources),
        startup_probe=probe(http=("/healthz", "sync"), scheme="HTTPS", period_s=1, failures=120),
        # Every assigned model is served: only then requests come.
        readiness_probe=probe(http=("/readyz", "sync"), scheme="HTTPS", period_s=1, failures=5),
        liveness_probe=probe(http=("/healthz", "sync"), scheme="HTTPS", period_s=20),
        lifecycle=k8s.core.v1.LifecycleArgs(
            pre_stop=k8s.core.v1.LifecycleHandlerArgs(sleep=k8s.core.v1.SleepActionArgs(seconds=5))
        ),
        volume_mounts=[
            _mount(name="repository", mount_path=REPOSITORY),
            _mount(name="versions", mount_path=VERSIONS),
            _mount(name="sync-tmp", mount_path="/tmp"),
            API_MOUNT,
            *own_mounts(),
        ],
    )
