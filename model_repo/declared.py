"""`model.yaml`: how a model is served, and which version each environment and edge group takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from model_repo.oci import OciError, canonical
from model_repo.version import Digest, Name

FOLDER = Path(__file__).parent / "models"
FILE = "model.yaml"
REHEARSAL = "local"
"""The environment whose models are made where it runs: the one that needs no digests."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DynamicBatching(_Strict):
    """Requests that are waiting become one batch."""

    max_queue_delay_us: int = Field(
        default=0, ge=0, le=1_000_000, description="a lone request waits for others; 0: none does"
    )
    preferred_sizes: tuple[int, ...] = Field(default=(), max_length=8, strict=False)
    priority_levels: int = Field(default=0, ge=0, le=8, description="1 is served first; 0: none")
    queue_size: int = Field(default=0, ge=0, le=100_000, description="0: as long as it gets")
    timeout_us: int = Field(default=0, ge=0, description="in the queue; 0: none")


class RateLimit(_Strict):
    """What an instance needs of a resource before it runs (Triton's rate limiter)."""

    resources: dict[Name, Annotated[int, Field(ge=1)]] = Field(min_length=1)
    priority: int = Field(default=1, ge=1, le=1000)


class Serving(_Strict):
    """How Triton runs every version of the model."""

    pool: Name = "cpu"
    max_batch_size: int = Field(default=32, ge=1, le=4096)
    instances: int = Field(default=1, ge=1, le=64, description="of each replica")
    dynamic_batching: DynamicBatching | None = DynamicBatching()
    response_cache: bool = False
    warm_up: bool = True
    rate_limit: RateLimit | None = None

    @model_validator(mode="after")
    def _batches_fit(self) -> Serving:
        sizes = self.dynamic_batching.preferred_sizes if self.dynamic_batching else ()
        if wrong := [size for size in sizes if not 1 <= size <= self.max_batch_size]:
            raise ValueError(
                f"dynamic_batching.preferred_sizes: {wrong[0]} is not within 1 and max_batch_size "
                f"({self.max_batch_size})"
            )
        return self


class Step(_Strict):
    """Per cent of the requests that the new version gets, and for how long at least."""

    weight: int = Field(ge=1, le=99)
    for_s: int = Field(ge=1, le=604_800)


class Rollout(_Strict):
    """How a new version replaces the one that is served, and what takes it back.

    Before the first step it has to answer the golden set of its artifact; while it gets traffic,
    its failures and its latency are compared with these limits.
    """

    steps: tuple[Step, ...] = Field(
        default=(Step(weight=5, for_s=10), Step(weight=50, for_s=10)),
        max_length=20,
        strict=False,
    )
    min_requests: int = Field(default=20, ge=0, description="judged at each step; a step waits")
    max_wait_s: int = Field(default=60, ge=1, description="for them; then the step is judged")
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    max_latency_ms: float = Field(default=100.0, gt=0, description="99th percentile")
    allow_new_contract: bool = Field(
        default=False, description="other inputs or outputs than the served version's"
    )
    max_latency_ratio: float = Field(
        default=2.0, ge=1, description="to the served version's, above half of max_latency_ms"
    )

    @model_validator(mode="after")
    def _rises(self) -> Rollout:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"steps: weights {weights} do not rise")
        return self


class Served(_Strict):
    """A version by number and digest.

    Without a digest only in a rehearsal, whose models are made where it runs.
    """

    version: int = Field(ge=1)
    digest: Digest | None = None


@dataclass(frozen=True, order=True)
class Place:
    """What takes a version: an environment or an edge group."""

    kind: Literal["environments", "edge_groups"]
    name: str

    def __str__(self) -> str:
        """`environment local`, `edge group press`."""
        return f"{'environment' if self.kind == 'environments' else 'edge group'} {self.name}"


class DeclaredModel(_Strict):
    """One `model.yaml`."""

    serving: Serving = Serving()
    rollout: Rollout = Rollout()
    environments: dict[Name, Served] = Field(default_factory=dict)
    edge_groups: dict[Name, Served] = Field(default_factory=dict)

    def places(self) -> dict[Place, Served]:
        """All that takes a version, and which."""
        found = {Place("environments", name): one for name, one in self.environments.items()}
        return found | {Place("edge_groups", name): one for name, one in self.edge_groups.items()}


class Desired(_Strict):
    """What an environment is to serve: `model.json`, in the cluster."""

    name: Name
    version: int = Field(ge=1)
    digest: Digest
    serving: Serving
    rollout: Rollout

    def document(self) -> str:
        """The same always gives the same bytes."""
        return canonical(self.model_dump(mode="json")).decode()

    @classmethod
    def parse(cls, text: str | bytes, thing: str) -> Desired:
        """What `document` wrote. Raises OciError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise OciError(thing, _first(error, "model.json")) from None


def models(folder: Path = FOLDER) -> dict[str, DeclaredModel]:
    """Every model that is declared, by the name of its folder. Raises OciError."""
    return {name: read(folder / name / FILE) for name in names(folder)}


def names(folder: Path = FOLDER) -> list[str]:
    """The models' names. Raises OciError when a folder has a name that no model can have."""
    try:
        found = sorted(one.name for one in folder.iterdir() if one.is_dir())
    except OSError as error:
        raise OciError(str(folder), f"cannot be read: {error.strerror}") from None
    for name in found:
        try:
            _NAME.validate_python(name)
        except ValidationError:
            words = "a model's name is its folder's: lower case, digits and single -, 63 at most"
            raise OciError(str(folder / name), words) from None
    return found


def read(file: Path) -> DeclaredModel:
    """Raises OciError that names the file, the key, the value and what is allowed."""
    try:
        return parse(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise OciError(str(file), "is not there") from None
    except OSError as error:
        raise OciError(str(file), f"cannot be read: {error.strerror}") from None


def parse(content: bytes, thing: str) -> DeclaredModel:
    """What a file holds. Raises OciError."""
    node = composed(content, thing)
    try:
        value = _constructed(node)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise OciError(thing, f"cannot be read: {' '.join(str(error).split())}") from None
    try:
        return DeclaredModel.model_validate(value)
    except ValidationError as error:
        raise OciError(thing, _first(error, FILE)) from None


def composed(content: bytes, thing: str) -> yaml.MappingNode:
    """The file's mapping with the places of its parts. Raises OciError.

    Stricter than YAML: no key twice, and nothing by reference, so that what stands at a place is
    what counts there, and a line that is edited changes nothing elsewhere.
    """
    try:
        # In characters: of bytes, PyYAML would count those of its own decoding.
        node = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise OciError(thing, "is no mapping of names to values")
        seen: set[int] = set()
        for mark, words in _unclear(node, seen):
            raise OciError(f"{thing}:{mark.line + 1}", words)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise OciError(thing, f"cannot be read: {' '.join(str(error).split())}") from None
    return node


def _unclear(node: yaml.Node, seen: set[int]) -> Iterator[tuple[yaml.Mark, str]]:
    if id(node) in seen:
        yield node.start_mark, "is referred to by an alias (*): write it out at both places"
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                yield key.start_mark, f"{key.value}: is there twice: remove one"
            if key.tag == "tag:yaml.org,2002:merge":
                yield key.start_mark, "<<: merging is not taken: write the keys out"
            keys.add(str(key.value))
            yield from _unclear(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _unclear(value, seen)


def _constructed(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _first(error: ValidationError, whole: str) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or whole
    given = "" if first["type"] == "missing" else f" ({str(first.get('input'))[:80]})"
    return f"{place}{given}: {first['msg']}"


_NAME: TypeAdapter[str] = TypeAdapter(Name)
