"""`model.yaml`: how a model is served, and which version each environment and edge group takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_repo.oci import OciError
from model_repo.version import Digest, Name

FOLDER = Path(__file__).parent / "models"
FILE = "model.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DynamicBatching(_Strict):
    """Requests that wait at most so long become one batch."""

    max_queue_delay_us: int = Field(default=500, ge=0, le=1_000_000)
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
    max_latency_ms: float = Field(default=100.0, gt=0, description="99th percentile in Triton")
    max_latency_ratio: float = Field(default=2.0, ge=1, description="to the served version's")

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


class DeclaredModel(_Strict):
    """One `model.yaml`."""

    serving: Serving = Serving()
    rollout: Rollout = Rollout()
    environments: dict[Name, Served] = Field(default_factory=dict)
    edge_groups: dict[Name, Served] = Field(default_factory=dict)


def read(file: Path) -> DeclaredModel:
    """Raises OciError that names the file, the key, the value and what is allowed."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OciError(str(file), "is not there") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OciError(str(file), f"cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise OciError(str(file), "is no mapping of names to values")
    try:
        return DeclaredModel.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or FILE
        given = "" if first["type"] == "missing" else f" ({str(first.get('input'))[:80]})"
        raise OciError(str(file), f"{place}{given}: {first['msg']}") from None
