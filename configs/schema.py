"""The typed model of an environment: the only way configuration enters the program.

`load` takes a file (configs/Pulumi.<environment>.yaml) or the mapping that Pulumi hands over,
and raises ConfigError with one line per problem.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from components.console.config import ConsoleConfig, kafka_problems
from components.datalake import backup_config, pipeline_config, transfer_config
from components.datalake.annotation_config import AnnotationConfig, store_problems
from components.datalake.backup_config import BackupConfig
from components.datalake.ceph_config import CephConfig
from components.datalake.kafka_config import KafkaConfig
from components.datalake.mongodb_config import MongodbConfig, postgres_problems
from components.datalake.operators_config import (
    BarmanCloudConfig,
    CloudNativePgConfig,
    MongodbOperatorConfig,
    StrimziConfig,
)
from components.datalake.pgpool_config import RESERVE, PgpoolConfig
from components.datalake.pipeline_config import PipelineConfig
from components.datalake.postgres_config import PostgresConfig
from components.datalake.rook_config import RookConfig
from components.datalake.transfer_config import TransferConfig
from components.model import DIGEST, MigProfile, Model, Name, SecretRef, problem, refuse
from components.model_repository import config as model_repository_config
from components.model_repository.config import ModelRepositoryConfig
from components.monitoring.config import MonitoringConfig, PrometheusOperatorConfig
from components.platform.config import (
    CertManagerConfig,
    KedaConfig,
    NamespacesConfig,
    NetworkConfig,
    PkiConfig,
)
from components.realtime.collect_config import CollectConfig, collect_problems
from components.realtime.mosquitto_config import MosquittoConfig
from components.triton.config import TritonConfig
from configs import document, problems
from configs.document import CONFIG_KEY
from configs.errors import ConfigError
from policies.model import SHORTEST_REASON
from policies.rules import RULES, STACK_RULES
from services.events import QUARANTINED_TOPIC, RECEIVED_TOPIC

__all__ = ["CONFIG_KEY", "ConfigError", "Environment", "immutable_keys", "load", "secret_refs"]


class ClusterConfig(Model):
    """Which cluster: by default the one that KUBECONFIG and its current context name."""

    kubeconfig: SecretRef | None = Field(default=None, description="content of a kubeconfig")
    context: str | None = Field(default=None, min_length=1)
    client_qps: int = Field(default=200, ge=1, le=5000, description="requests per second")
    client_burst: int = Field(default=400, ge=1, le=10_000)


class ImagesConfig(Model):
    """`upstream`: digests of versions.toml; `rehearsal`: built here, digests in $ESTATE_IMAGES."""

    source: Literal["upstream", "rehearsal"] = "upstream"
    registry: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$",
        description="host and path that the images made here are pushed to",
    )
    digests: dict[str, Annotated[str, Field(pattern=DIGEST)]] = Field(
        default_factory=dict,
        description="of images that versions.toml has none of, or another one of, by key",
    )

    @model_validator(mode="after")
    def _built_here_need_neither(self) -> ImagesConfig:
        text = "what a rehearsal builds is pinned by its lock; leave it out"
        given = {"registry": self.registry, "digests": self.digests}
        if self.source == "rehearsal":
            refuse([problem(key, value, text) for key, value in given.items() if value])
        return self


class Taint(Model):
    """What keeps pods without a toleration off a node."""

    key: str = Field(min_length=1)
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class NodePool(Model):
    """Nodes of one kind, as they are bought: what `rehearse` schedules on. Zones take turns.

    `gpus` are those of a node that are given whole; `mig` are the slices that others are cut into.
    """

    name: Name
    count: int = Field(ge=1, le=1000)
    cpu: int = Field(ge=1, le=1024, description="cores of one node")
    memory_gib: int = Field(ge=1, le=65_536)
    disk_gib: int = Field(default=100, ge=1, description="for images, logs and scratch files")
    gpus: int = Field(default=0, ge=0, le=64)
    mig: dict[MigProfile, Annotated[int, Field(ge=1, le=448)]] = Field(default_factory=dict)
    arch: Literal["amd64", "arm64"] = "amd64"
    zones: list[Name] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    taints: list[Taint] = Field(default_factory=list)


class Environment(Model):
    """One environment of the estate. A part that is left out is not deployed."""

    profiles: dict[Name, list[str]] = Field(
        default_factory=dict,
        description="profile of a rehearsal -> the parts that only it brings; others are the core",
    )
    waivers: dict[str, str] = Field(
        default_factory=dict, description="policy -> reason: a rule that nothing here need keep"
    )
    images: ImagesConfig = ImagesConfig()
    cluster: ClusterConfig = ClusterConfig()
    nodes: list[NodePool] = Field(default_factory=list)
    namespaces: NamespacesConfig = NamespacesConfig()
    network: NetworkConfig = NetworkConfig()
    cert_manager: CertManagerConfig = CertManagerConfig()
    pki: PkiConfig = PkiConfig()
    mosquitto: MosquittoConfig | None = None
    kafka: KafkaConfig | None = None
    strimzi: StrimziConfig = StrimziConfig()
    cloudnative_pg: CloudNativePgConfig = CloudNativePgConfig()
    postgres: PostgresConfig | None = None
    pgpool: PgpoolConfig | None = None
    collect: CollectConfig | None = None
    transfer: TransferConfig | None = None
    pipeline: PipelineConfig | None = None
    annotation: AnnotationConfig | None = None
    mongodb: MongodbConfig | None = None
    mongodb_operator: MongodbOperatorConfig = MongodbOperatorConfig()
    ceph: CephConfig | None = None
    rook: RookConfig = RookConfig()
    model_repository: ModelRepositoryConfig | None = None
    serving: TritonConfig | None = None
    keda: KedaConfig = KedaConfig()
    backup: BackupConfig | None = None
    barman_cloud: BarmanCloudConfig = BarmanCloudConfig()
    console: ConsoleConfig | None = None
    prometheus_operator: PrometheusOperatorConfig = PrometheusOperatorConfig()
    monitoring: MonitoringConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Environment:
        refuse(_bad_waivers(self.waivers) + _bad_profiles(self.profiles))
        names = [pool.name for pool in self.nodes]
        refuse(
            [
                problem(f"nodes.{i}.name", name, "declared twice; every pool once")
                for i, name in enumerate(names)
                if name in names[:i]
            ]
        )
        for key, part, operator in (
            ("kafka", self.kafka, "strimzi"),
            ("ceph", self.ceph, "rook"),
        ):
            operated = part is not None and part.implementation == operator
            if operated and self.images.source == "rehearsal":
                text = (
                    f"no package has {operator.capitalize()}'s operator, so none can be built: "
                    "take `statefulset`"
                )
                refuse([problem(f"{key}.implementation", operator, text)])
        refuse(self._transfer_problems())
        if self.collect is not None:
            refuse(collect_problems(self.mosquitto, self.kafka))
        if self.pgpool is not None and self.postgres is None:
            refuse(
                [
                    problem(
                        "pgpool",
                        "declared",
                        "a pool needs the cluster behind it; declare postgres too, or leave both",
                    )
                ]
            )
        refuse(self._documents())
        if self.console is not None:
            refuse(kafka_problems(self.kafka))
        refuse(self._pipeline_problems())
        refuse(self._backup_problems())
        refuse(self._model_repository_problems())
        refuse(self._serving_problems())
        if self.annotation is not None:
            if self.images.source == "rehearsal":
                text = "there is no Supervisely in a rehearsal that it could speak to; leave it out"
                refuse([problem("annotation", "declared", text)])
            refuse(store_problems(self.ceph))
        return self

    def _documents(self) -> list[dict[str, Any]]:
        mongodb, pool = self.mongodb, self.pgpool
        if mongodb is None:
            return []
        if mongodb.implementation == "community":
            text = "no package has mongod, so none can be built: take `ferretdb`"
            built = self.images.source == "rehearsal"
            return [problem("mongodb.implementation", "community", text)] if built else []
        pooled = pool.replicas * pool.sessions_per_replica if pool is not None else 0
        return postgres_problems(mongodb, self.postgres, pooled + RESERVE)

    def _transfer_problems(self) -> list[dict[str, Any]]:
        """What image transfer needs of Kafka and the object store, and is not declared."""
        if self.transfer is None:
            return []
        if self.kafka is None:
            text = "received images are told to Kafka; declare kafka too, or leave both"
            return [problem("transfer", "declared", text)]
        if self.ceph is None:
            text = "received images are stored in S3; declare ceph too, or leave both"
            return [problem("transfer", "declared", text)]
        users = [user.name for user in self.kafka.users]
        topics = [topic.name for topic in self.kafka.topics]
        found = [
            problem("kafka.topics", topics, f"topic {topic!r} (image transfer) is missing; add it")
            for topic in (RECEIVED_TOPIC, QUARANTINED_TOPIC)
            if topic not in topics
        ]
        if transfer_config.USER not in [user.name for user in self.ceph.users]:
            text = f"user {transfer_config.USER!r} (image transfer) is missing; add it"
            found.append(problem("ceph.users", [user.name for user in self.ceph.users], text))
        if transfer_config.BUCKET not in [bucket.name for bucket in self.ceph.buckets]:
            text = f"bucket {transfer_config.BUCKET!r} (image transfer) is missing; add it"
            found.append(problem("ceph.buckets", [b.name for b in self.ceph.buckets], text))
        if transfer_config.USER not in users:
            text = f"user {transfer_config.USER!r} (image transfer) is missing; add it"
            found.append(problem("kafka.users", users, text))
        return found

    def _pipeline_problems(self) -> list[dict[str, Any]]:
        """What the pipeline needs of the other parts, and is not declared."""
        if self.pipeline is None:
            return []
        parts = ("ceph", "mongodb", "postgres", "kafka")
        if lacking := [part for part in parts if getattr(self, part) is None]:
            text = f"it needs {', '.join(lacking)}; declare them too, or leave it out"
            return [problem("pipeline", "declared", text)]
        assert self.ceph and self.mongodb and self.postgres and self.kafka
        need = pipeline_config
        databases = (need.DAGSTER, need.CATALOGUE)
        wanted = [
            ("ceph.users", [user.name for user in self.ceph.users], [need.USER]),
            ("mongodb.users", [user.name for user in self.mongodb.users], [need.USER]),
            ("kafka.users", [user.name for user in self.kafka.users], [need.USER]),
            ("kafka.topics", [one.name for one in self.kafka.topics], [RECEIVED_TOPIC]),
            ("postgres.databases", [one.name for one in self.postgres.databases], databases),
        ]
        return [
            problem(key, names, f"{name!r} (pipeline) is missing; add it")
            for key, names, needed in wanted
            for name in needed
            if name not in names
        ]

    def _backup_problems(self) -> list[dict[str, Any]]:
        """What backups need of the other parts, and is not declared."""
        if self.backup is None:
            return []
        kafka, mongodb, monitoring = self.kafka, self.mongodb, self.monitoring
        users = {
            "kafka": [user.name for user in kafka.users] if kafka is not None else [],
            "mongodb": [user.name for user in mongodb.users if user.backup]
            if mongodb is not None
            else [],
        }
        registry = self.model_repository
        declared = {
            "postgres": self.postgres,
            "mongodb": mongodb,
            "kafka": kafka,
            "models": registry.nexus if registry is not None else None,
        }
        aged = monitoring is None or monitoring.state_metrics is not None
        return backup_config.unmet(self.backup, declared, users, aged=aged)

    def _model_repository_problems(self) -> list[dict[str, Any]]:
        """What the model registry needs of the other parts, and is not declared."""
        config, postgres = self.model_repository, self.postgres
        if config is None:
            return []
        if config.implementation == "nexus" and self.images.source == "rehearsal":
            text = "no package has Nexus, so none can be built: take `distribution`"
            return [problem("model_repository.implementation", "nexus", text)]
        databases = {one.name: one for one in postgres.databases} if postgres is not None else None
        return model_repository_config.postgres_problems(config, databases)

    def _serving_problems(self) -> list[dict[str, Any]]:
        """What serving needs of the other parts and of the nodes, and is not declared."""
        config = self.serving
        if config is None:
            return []
        if self.model_repository is None:
            text = "its models come from a registry; declare model_repository too, or leave both"
            return [problem("serving", "declared", text)]
        found: list[dict[str, Any]] = []
        built = self.images.source == "rehearsal"
        most = max((pool.gpus for pool in self.nodes), default=0)
        slices = sorted({profile for pool in self.nodes for profile in pool.mig})
        for at, pool in enumerate(config.pools):
            key = f"serving.pools.{at}"
            if pool.native and built:
                text = "no package has NVIDIA's image, so none can be built: leave it out"
                found.append(problem(f"{key}.native", True, text))
            if self.nodes and pool.resources.gpus > most:
                text = f"no node has so many; a pool of `nodes` has {most} at most"
                found.append(problem(f"{key}.resources.gpus", pool.resources.gpus, text))
            if self.nodes and pool.mig is not None and pool.mig not in slices:
                text = f"no node has such slices; `nodes` have {', '.join(slices) or 'none'} (mig)"
                found.append(problem(f"{key}.mig", pool.mig, text))
            if pool.autoscaling is not None and (built or self.monitoring is None):
                text = (
                    "no package has KEDA's images, so none can be built: leave it out"
                    if built
                    else "it goes by what Prometheus measures; declare monitoring too, or leave it"
                )
                found.append(problem(f"{key}.autoscaling", "declared", text))
        return found

    def with_profiles(self, chosen: Collection[str]) -> Environment:
        """Return this environment without the parts of profiles that are not chosen."""
        left_out = [
            part for name, parts in self.profiles.items() if name not in chosen for part in parts
        ]
        return self.model_copy(update=dict.fromkeys(left_out))


def _bad_profiles(profiles: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    fields = Environment.model_fields
    parts = sorted(key for key, field in fields.items() if field.default is None)
    return [
        problem(
            f"profiles.{name}.{index}", part, f"no part that can be left out: {', '.join(parts)}"
        )
        for name, named in profiles.items()
        for index, part in enumerate(named)
        if part not in parts
    ]


def _bad_waivers(waivers: Mapping[str, str]) -> list[dict[str, Any]]:
    known = [rule.name for rule in (*RULES, *STACK_RULES)]
    bad = [
        problem(f"waivers.{name}", name, f"no such policy; there are {', '.join(known)}")
        for name in waivers
        if name not in known
    ]
    return bad + [
        problem(f"waivers.{name}", reason, "a waiver needs a reason; write a few words")
        for name, reason in waivers.items()
        if len(reason.strip()) < SHORTEST_REASON
    ]


def load(source: str | Path | Mapping[str, Any], *, name: str | None = None) -> Environment:
    """The environment in a Pulumi configuration file, or in the mapping of its key.

    `name` stands in messages for the origin of a mapping. Raises ConfigError.
    """
    others: dict[str, Any] = {}
    if isinstance(source, Mapping):
        origin, values = name or CONFIG_KEY, dict(source)
    else:
        path = Path(source)
        origin, (values, others) = name or document.short_name(path), document.read(path)
    document.refuse_impossible(origin, values)
    try:
        environment = Environment.model_validate(values)
    except ValidationError as error:
        # Mistyped keys first: what is missing is often what they mean.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise ConfigError(
            [
                f"{origin}: {line}"
                for detail in details
                for line in problems.lines(detail, values, Environment, CONFIG_KEY)
            ]
        ) from None
    known = {f"estate:{ref.pulumi}" for _, ref in secret_refs(environment) if ref.pulumi}
    if strange := [key for key in others if key not in known]:
        words = f"unknown key; beside {CONFIG_KEY} stand only secrets that it refers to"
        raise ConfigError([f"{origin}: config.{key}: {words}" for key in strange])
    if plain := [key for key, value in others.items() if not _encrypted(value)]:
        raise ConfigError(
            [
                f"{origin}: config.{key}: in clear, where a secret refers to it; "
                f"pulumi config set --secret {key}"
                for key in plain
            ]
        )
    return environment


def secret_refs(environment: BaseModel) -> Iterator[tuple[str, SecretRef]]:
    """Every secret reference with its key path, `mosquitto.users.0.password` for one."""
    for path, value in _walk(environment, ""):
        if isinstance(value, SecretRef):
            yield path, value


def immutable_keys(environment: BaseModel) -> dict[str, Any]:
    """Key path -> value of every field whose change would lose data (see model.immutable)."""
    found: dict[str, Any] = {}
    for path, value in _walk(environment, ""):
        if isinstance(value, BaseModel):
            for key, field in type(value).model_fields.items():
                extra = field.json_schema_extra
                if isinstance(extra, dict) and extra.get("immutable"):
                    found[f"{path}.{key}" if path else key] = getattr(value, key)
    return found


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, value
    items: list[tuple[str, Any]] = []
    if isinstance(value, BaseModel):
        items = [(key, getattr(value, key)) for key in type(value).model_fields]
    elif isinstance(value, Mapping):
        items = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(index), child) for index, child in enumerate(value)]
    for key, child in items:
        yield from _walk(child, f"{path}.{key}" if path else key)


def _encrypted(value: Any) -> bool:
    """Whether Pulumi wrote it with --secret: a mapping of nothing but `secure`."""
    return isinstance(value, dict) and set(value) == {"secure"} and bool(value["secure"])
