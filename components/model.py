"""Building blocks of every component's configuration: strict, frozen, free of Pulumi.

Configuration is data: nothing here reads a file, the environment or the network, so that the
command line can load and judge an environment without starting Pulumi.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
GPU = "nvidia.com/gpu"
GPU_NODE = {"nvidia.com/gpu.present": "true"}
"""The label that NVIDIA's feature discovery gives to nodes with a GPU."""
DIGEST = r"^sha256:[0-9a-f]{64}$"

Name = Annotated[str, Field(pattern=DNS_LABEL, description="a DNS label (RFC 1123)")]
MigProfile = Annotated[
    str,
    Field(pattern=r"^[1-7]g\.[0-9]{1,3}gb$", description="slice of a GPU: 1g.10gb, 2g.20gb, ..."),
]
Percent = Annotated[int, Field(ge=0, le=100)]


class Model(BaseModel):
    """A frozen configuration model that refuses unknown keys and does not coerce types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _resources_over_defaults(cls, values: Any) -> Any:
        """Keys of `resources` that are left out keep the component's own defaults."""
        if not isinstance(values, Mapping):
            return values
        merged = dict(values)
        for key, field in cls.model_fields.items():
            if isinstance(field.default, Resources) and isinstance(values.get(key), Mapping):
                merged[key] = {**field.default.model_dump(), **values[key]}
        return merged


def problem(key: str, value: object, allowed: str) -> dict[str, Any]:
    """One cross-field problem: key below the model (`users.2.name`), value, way out."""
    return {"key": key, "value": value, "allowed": allowed}


def refuse(problems: list[dict[str, Any]]) -> None:
    """Raise one validation error that carries all problems of a model; none: return."""
    if problems:
        _raise(problems)


def _raise(problems: list[dict[str, Any]]) -> NoReturn:
    lines = "; ".join(f"{p['key']} is {p['value']!r}: {p['allowed']}" for p in problems)
    # The braces of the values must not be read as a template: the text goes in as a variable.
    raise PydanticCustomError("estate", "{text}", {"text": lines, "problems": problems})


def immutable(default: Any = ..., **constraints: Any) -> Any:
    """A field that must not change once deployed, because the change would lose data.

    `configs.schema` collects the marks: an update that touches one is refused with the key's
    name unless the operator replaces the component on purpose.
    """
    return Field(default, json_schema_extra={"immutable": True}, **constraints)


_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_PATH = r"^[A-Za-z0-9_.@:-]+(/[A-Za-z0-9_.@:-]+)*$"


class VaultRef(Model):
    """One key of a secret in a KV version 2 engine of Vault; always its newest version."""

    mount: str = Field(default="secret", pattern=_PATH, description="path of the KV engine")
    path: str = Field(pattern=_PATH, description="of the secret, as `vault kv get` takes it")
    key: str = Field(min_length=1)

    def __str__(self) -> str:
        """`secret/data-lake/kafka#admin`."""
        return f"{self.mount}/{self.path}#{self.key}"


class AwsSecretRef(Model):
    """A secret of AWS Secrets Manager, or one key of it where it is a JSON object."""

    secret_id: str = Field(min_length=1, max_length=2048, description="its name or ARN")
    key: str | None = Field(default=None, min_length=1)
    region: str | None = Field(
        default=None, min_length=1, description="None: that of the ARN, or as the AWS CLI finds it"
    )

    def __str__(self) -> str:
        """`estate/kafka#admin`, or `estate/kafka` for all of it."""
        return self.secret_id + (f"#{self.key}" if self.key is not None else "")


_SOURCES = ("env", "file", "vault", "aws", "pulumi")


class SecretRef(Model):
    """Where a secret's value comes from; never the value itself. Exactly one source is set."""

    env: str | None = Field(
        default=None, pattern=_VARIABLE, description="name of an environment variable"
    )
    file: str | None = Field(
        default=None, pattern=_PATH, description="file below the secrets folder ($ESTATE_SECRETS)"
    )
    vault: VaultRef | None = Field(default=None, description="{path, key} of Vault, mount `secret`")
    aws: AwsSecretRef | None = Field(default=None, description="{secret_id, key} of AWS")
    pulumi: str | None = Field(
        default=None, pattern=_PATH, description="Pulumi config key (encrypted)"
    )

    @model_validator(mode="after")
    def _one_source(self) -> SecretRef:
        chosen = [key for key in _SOURCES if getattr(self, key) is not None]
        if len(chosen) != 1:
            raise ValueError(
                f"a secret names exactly one source: {', '.join(_SOURCES[:-1])} or {_SOURCES[-1]}; "
                f"got {', '.join(chosen) or 'none'}"
            )
        if self.file is not None and ".." in self.file.split("/"):
            raise ValueError("file is below the secrets folder; leave `..` out")
        return self

    @property
    def source(self) -> str:
        """The reference in words, for messages: `file kafka/admin`."""
        for key in _SOURCES:
            value = getattr(self, key)
            if value is not None:
                return f"{key} {value}"
        raise AssertionError("validated above")


class Image(Model):
    """A container image pinned by digest; the tag is for people."""

    repository: str = Field(min_length=1)
    tag: str = Field(min_length=1)
    digest: str = Field(pattern=DIGEST)

    @property
    def ref(self) -> str:
        """`repository:tag@sha256:...`, what a pod spec carries."""
        return f"{self.repository}:{self.tag}@{self.digest}"


class MissingImage(KeyError):
    """An image that the environment does not pin; the text says where its digest belongs."""

    def __str__(self) -> str:
        """The text itself, where KeyError would quote it."""
        return str(self.args[0])


class Images(Mapping[str, Image]):
    """The images of an environment by key; a missing key says which keys exist."""

    def __init__(self, images: Mapping[str, Image]) -> None:
        self._images = dict(images)

    def __getitem__(self, key: str) -> Image:
        try:
            return self._images[key]
        except KeyError:
            known = ", ".join(sorted(self._images)) or "none"
            raise MissingImage(
                f"image {key!r} has no digest in this environment (known: {known}); name it in "
                f"images.digests.{key} of the environment, or in configs/versions.toml for all"
            ) from None

    def __iter__(self) -> Any:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def mig_resource(profile: str) -> str:
    """A slice as NVIDIA's device plugin names it where its strategy is `mixed`."""
    return f"nvidia.com/mig-{profile}"


class Resources(Model):
    """Requests and limits of one container: CPU in thousandths of a core, memory in MiB.

    `cpu_limit_m` may stay unset where throttling would hurt more than it protects. GPUs are whole
    devices of NVIDIA's device plugin.
    """

    cpu_request_m: int = Field(ge=1, le=256_000)
    cpu_limit_m: int | None = Field(default=None, ge=1, le=256_000)
    memory_request_mib: int = Field(ge=4, le=4_194_304)
    memory_limit_mib: int = Field(ge=4, le=4_194_304)
    gpus: int = Field(default=0, ge=0, le=64)

    @model_validator(mode="after")
    def _limits_cover_requests(self) -> Resources:
        if self.memory_limit_mib < self.memory_request_mib:
            raise ValueError(
                f"memory_limit_mib is {self.memory_limit_mib}, below memory_request_mib "
                f"{self.memory_request_mib}; raise the limit or lower the request"
            )
        if self.cpu_limit_m is not None and self.cpu_limit_m < self.cpu_request_m:
            raise ValueError(
                f"cpu_limit_m is {self.cpu_limit_m}, below cpu_request_m {self.cpu_request_m}; "
                "raise the limit, lower the request or leave the limit out"
            )
        return self

    def quantities(self) -> dict[str, dict[str, str]]:
        """As Kubernetes writes it: {"requests": {...}, "limits": {...}}."""
        limits = {"memory": f"{self.memory_limit_mib}Mi"}
        if self.cpu_limit_m is not None:
            limits["cpu"] = f"{self.cpu_limit_m}m"
        requests = {"cpu": f"{self.cpu_request_m}m", "memory": f"{self.memory_request_mib}Mi"}
        if self.gpus:
            limits[GPU] = requests[GPU] = str(self.gpus)
        return {"requests": requests, "limits": limits}


def together(*containers: Resources) -> Resources:
    """What a pod of these containers asks for; one without a limit of CPU leaves it without one."""
    limits = [one.cpu_limit_m for one in containers]
    return Resources(
        cpu_request_m=sum(one.cpu_request_m for one in containers),
        cpu_limit_m=None if None in limits else sum(filter(None, limits)),
        memory_request_mib=sum(one.memory_request_mib for one in containers),
        memory_limit_mib=sum(one.memory_limit_mib for one in containers),
        gpus=sum(one.gpus for one in containers),
    )


class Storage(Model):
    """A claim per replica. Both fields are fixed when the claim is made."""

    size_gib: int = immutable(ge=1, le=65_536)
    storage_class: str | None = immutable(
        None, min_length=1, description="None: the cluster's default class"
    )


Spread = Literal["prefer", "require", "require-zones"]
"""How replicas are kept apart: on different nodes if it can be (`prefer`: one node will do), on
different nodes, or in different zones. Three replicas or more want three nodes, or zones."""


def topology(spread: Spread) -> tuple[str, bool]:
    """The topology key of a spread, and whether it is required."""
    key = "topology.kubernetes.io/zone" if spread == "require-zones" else "kubernetes.io/hostname"
    return key, spread != "prefer"


def topology_spread(
    spread: Spread, labels: Mapping[str, str], replicas: int
) -> list[dict[str, Any]]:
    """`topologySpreadConstraints`: at most one more on one node, or in one zone, than in another.

    Where it is required, fewer than three nodes or zones do not do for three replicas or more:
    Kubernetes alone would call all of them in the only zone evenly spread.
    """
    key, required = topology(spread)
    constraint = {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule" if required else "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(labels)},
    }
    return [constraint | ({"minDomains": min(replicas, 3)} if required else {})]
