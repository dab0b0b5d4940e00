"""Kafka's configuration: brokers, topics, users and what each user may do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.model import Model, Name, Resources, SecretRef, Spread, Storage, immutable, refuse
from components.model import problem as _problem

TopicName = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="1-249 of letters, digits, `.`, `_`, `-`"
    ),
]
Operation = Literal["read", "write", "create", "describe", "describe_configs", "delete"]

BROKER_PRINCIPAL = "kafka-broker"
ADMIN_PRINCIPAL = "kafka-admin"
VERIFY_USER = "verify"
VERIFY_TOPIC = "estate.verify"
BACKUP_USER = "backup"
"""Reads all topics and groups for a backup; a restore writes and empties them by it too."""


class Topic(Model):
    """A topic; `partitions` may grow, never shrink. None takes the broker's default."""

    name: TopicName
    partitions: int = Field(default=3, ge=1, le=10_000)
    replication_factor: int | None = Field(default=None, ge=1, le=15)
    min_insync_replicas: int | None = Field(default=None, ge=1, le=15)
    retention_h: int = Field(default=168, ge=1, le=87_600)
    cleanup: Literal["delete", "compact"] = "delete"
    max_message_kib: int = Field(default=1024, ge=1, le=102_400)

    def configs(self, default_min_isr: int) -> dict[str, str]:
        """The topic's dynamic configuration as Kafka names it."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_h * 3_600_000),
            "min.insync.replicas": str(self.min_insync_replicas or default_min_isr),
            "max.message.bytes": str(self.max_message_kib * 1024),
        }


class Grant(Model):
    """What a user may do with exactly one of a topic, a topic prefix or a consumer group.

    `group` and `topic` take `*` for all.
    """

    topic: str | None = Field(default=None, min_length=1)
    topic_prefix: str | None = Field(default=None, min_length=1)
    group: str | None = Field(default=None, min_length=1)
    group_prefix: str | None = Field(default=None, min_length=1)
    operations: list[Operation] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_subject(self) -> Grant:
        keys = ("topic", "topic_prefix", "group", "group_prefix")
        chosen = [key for key in keys if getattr(self, key) is not None]
        if len(chosen) != 1:
            text = f"exactly one of {', '.join(keys)} is required"
            refuse([_problem("topic", ", ".join(chosen) or "none", text)])
        return self

    def json_object(self) -> dict[str, Any]:
        """resource, name, pattern (literal or prefixed) and operations, for the reconciler."""
        for key, resource, pattern in (
            ("topic", "topic", "literal"),
            ("topic_prefix", "topic", "prefixed"),
            ("group", "group", "literal"),
            ("group_prefix", "group", "prefixed"),
        ):
            name = getattr(self, key)
            if name is not None:
                return {
                    "resource": resource,
                    "name": name,
                    "pattern": pattern,
                    "operations": sorted(self.operations),
                }
        raise AssertionError("validated above")


class Quota(Model):
    """What a user may use of each broker before it is slowed down. None: no limit."""

    produce_kib_per_s: int | None = Field(default=None, ge=1)
    consume_kib_per_s: int | None = Field(default=None, ge=1)
    request_percent: int | None = Field(
        default=None, ge=1, description="of one network or I/O thread's time, so above 100 too"
    )


class KafkaUser(Model):
    """A SCRAM-SHA-512 user; without grants it may authenticate and do nothing."""

    name: Name
    password: SecretRef
    grants: list[Grant] = Field(default_factory=list)
    quota: Quota | None = None


class Controllers(Model):
    """The quorum that keeps the cluster's metadata, on nodes of its own."""

    count: int = immutable(3, ge=1, le=9)
    storage: Storage = Storage(size_gib=10)
    heap_mib: int = Field(default=512, ge=192, le=32_768)
    resources: Resources = Resources(
        cpu_request_m=250, memory_request_mib=1024, memory_limit_mib=1024
    )


class StrimziCluster(Model):
    """What only a cluster run by Strimzi has: controllers apart, Cruise Control, its operators."""

    controllers: Controllers = Controllers()
    cruise_control: Resources = Resources(
        cpu_request_m=200, memory_request_mib=1024, memory_limit_mib=1024
    )
    topic_operator: Resources = Resources(
        cpu_request_m=50, memory_request_mib=256, memory_limit_mib=256
    )
    user_operator: Resources = Resources(
        cpu_request_m=50, memory_request_mib=256, memory_limit_mib=256
    )


class KafkaConfig(Model):
    """A KRaft cluster: `statefulset`, whose nodes are brokers and controllers at once, or one that
    Strimzi's operator runs.
    """

    implementation: Literal["statefulset", "strimzi"] = immutable("statefulset")
    strimzi: StrimziCluster | None = None
    brokers: int = immutable(3, ge=1, le=9)
    cluster_id: str | None = immutable(
        None,
        pattern=r"^[A-Za-z0-9_-]{22}$",
        description="22 letters of base64 for a `statefulset`; Strimzi makes its own",
    )
    replication_factor: int = Field(default=3, ge=1, le=9)
    min_insync_replicas: int = Field(default=2, ge=1, le=9)
    storage: Storage = Storage(size_gib=2)
    segment_mib: int = Field(default=64, ge=1, le=2047)
    retention_gib_per_partition: int | None = Field(default=None, ge=1)
    heap_mib: int = Field(default=320, ge=192, le=32_768, description="maximum heap of a broker")
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=512, memory_limit_mib=896
    )
    job_resources: Resources = Resources(
        cpu_request_m=10, memory_request_mib=48, memory_limit_mib=192
    )
    spread: Spread = "require"
    topics: list[Topic] = Field(default_factory=list)
    users: list[KafkaUser] = Field(default_factory=list)
    protect: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> KafkaConfig:
        refuse(
            [
                *self._implementation(),
                *self._quorum(),
                *self._memory(),
                *self._topic_problems(),
                *self._user_problems(),
            ]
        )
        return self

    @property
    def operated(self) -> StrimziCluster:
        """`strimzi`, or its defaults."""
        return self.strimzi or StrimziCluster()

    def _implementation(self) -> list[dict[str, Any]]:
        """What belongs to the other implementation."""
        found = []
        if self.implementation == "strimzi":
            if self.cluster_id is not None:
                found.append(
                    _problem("cluster_id", self.cluster_id, "Strimzi makes its own; leave it out")
                )
            if self.brokers < 2:
                text = "at least 2: Cruise Control, which Strimzi runs beside them, refuses one"
                found.append(_problem("brokers", self.brokers, text))
            return found
        only = "only Strimzi does this; leave it out or choose kafka.implementation strimzi"
        if self.cluster_id is None:
            text = "22 letters of base64 (A-Z a-z 0-9 _ -) are required; invent some"
            found.append(_problem("cluster_id", self.cluster_id, text))
        if self.strimzi is not None:
            found.append(_problem("strimzi", "declared", only))
        found += [
            _problem(f"users.{i}.quota", "declared", only)
            for i, user in enumerate(self.users)
            if user.quota is not None
        ]
        return found

    def _quorum(self) -> list[dict[str, Any]]:
        found = []
        if self.brokers < self.replication_factor:
            found.append(
                _problem(
                    "brokers",
                    self.brokers,
                    f"at least replication_factor ({self.replication_factor}) brokers hold the "
                    "replicas; raise brokers or lower kafka.replication_factor",
                )
            )
        elif self.implementation == "statefulset" and self.brokers % 2 == 0:
            found.append(
                _problem(
                    "brokers",
                    self.brokers,
                    "an odd number: brokers vote as controllers, and an even one outlives no more "
                    f"failures than {self.brokers - 1}",
                )
            )
        if self.min_insync_replicas >= self.replication_factor > 1:
            found.append(
                _problem(
                    "min_insync_replicas",
                    self.min_insync_replicas,
                    f"below replication_factor ({self.replication_factor}), or one broker "
                    "down stops all writes; lower it or raise kafka.replication_factor",
                )
            )
        count = self.operated.controllers.count
        if count % 2 == 0:
            text = f"an odd number: controllers vote, and {count} outlive what {count - 1} do"
            found.append(_problem("strimzi.controllers.count", count, text))
        return found

    def _memory(self) -> list[dict[str, Any]]:
        controllers = self.operated.controllers
        found = []
        for key, node, heap, resources in (
            ("", "broker", self.heap_mib, self.resources),
            ("strimzi.controllers.", "controller", controllers.heap_mib, controllers.resources),
        ):
            # Metaspace, code cache, threads, direct buffers: 220-260 MiB were measured beside the
            # heap.
            needed = heap + 256
            if resources.memory_limit_mib < needed:
                found.append(
                    _problem(
                        f"{key}resources.memory_limit_mib",
                        resources.memory_limit_mib,
                        f"at least heap_mib + 256 ({needed}), or the {node} is killed for memory; "
                        f"raise the limit or lower kafka.{key}heap_mib",
                    )
                )
        return found

    def _topic_problems(self) -> list[dict[str, Any]]:
        found = []
        names = [topic.name for topic in self.topics]
        # Kafka maps both `.` and `_` to `_` in metric names, so that such topics collide.
        folded = [name.replace(".", "_") for name in names]
        if VERIFY_TOPIC not in names:
            found.append(
                _problem("topics", names, f"topic {VERIFY_TOPIC!r} (checks) is missing; add it")
            )
        for i, topic in enumerate(self.topics):
            if topic.name in names[:i]:
                found.append(
                    _problem(f"topics.{i}.name", topic.name, "declared twice; every topic once")
                )
            elif folded[i] in folded[:i]:
                other = names[folded.index(folded[i])]
                found.append(
                    _problem(
                        f"topics.{i}.name",
                        topic.name,
                        f"collides with {other!r} in metrics (`.` and `_` are the same there); "
                        "rename one",
                    )
                )
            factor = topic.replication_factor or self.replication_factor
            if topic.replication_factor is not None and factor > self.brokers:
                found.append(
                    _problem(
                        f"topics.{i}.replication_factor",
                        factor,
                        f"at most the number of brokers ({self.brokers})",
                    )
                )
            minimum = topic.min_insync_replicas or self.min_insync_replicas
            explicit = topic.replication_factor or topic.min_insync_replicas
            if explicit and minimum >= factor > 1:
                found.append(
                    _problem(
                        f"topics.{i}.min_insync_replicas",
                        minimum,
                        f"below its replication factor ({factor})",
                    )
                )
        return found

    def _user_problems(self) -> list[dict[str, Any]]:
        found = []
        users = [user.name for user in self.users]
        topics = [topic.name for topic in self.topics]
        if VERIFY_USER not in users:
            found.append(
                _problem("users", users, f"user {VERIFY_USER!r} (checks) is missing; add it")
            )
        for i, user in enumerate(self.users):
            if user.name in users[:i]:
                found.append(
                    _problem(f"users.{i}.name", user.name, "declared twice; every user once")
                )
            if user.name in (BROKER_PRINCIPAL, ADMIN_PRINCIPAL):
                found.append(
                    _problem(
                        f"users.{i}.name",
                        user.name,
                        "this name is a super user by certificate; choose another",
                    )
                )
            for j, grant in enumerate(user.grants):
                if grant.topic not in (None, "*") and grant.topic not in topics:
                    found.append(
                        _problem(
                            f"users.{i}.grants.{j}.topic",
                            grant.topic,
                            f"a declared topic ({', '.join(topics)}) or `*`; declare it or "
                            "correct the name",
                        )
                    )
                prefix = grant.topic_prefix
                if prefix is not None and not any(name.startswith(prefix) for name in topics):
                    found.append(
                        _problem(
                            f"users.{i}.grants.{j}.topic_prefix",
                            prefix,
                            f"the beginning of a declared topic ({', '.join(topics)})",
                        )
                    )
        return found

    def declaration(self) -> dict[str, Any]:
        """What the reconciler makes true: topics, users' names and grants; no passwords."""
        return {
            "topics": [
                {
                    "name": topic.name,
                    "partitions": topic.partitions,
                    "replication_factor": topic.replication_factor or self.replication_factor,
                    "configs": topic.configs(self.min_insync_replicas),
                }
                for topic in self.topics
            ],
            "users": [
                {"name": user.name, "grants": [grant.json_object() for grant in user.grants]}
                for user in self.users
            ],
        }
