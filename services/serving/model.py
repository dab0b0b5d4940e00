"""What declarations, assignments and the state of a rollout say: JSON in ConfigMaps."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from model_repo.declared import Desired, Serving
from model_repo.version import Digest, Name

Track = Literal["stable", "canary"]
TRACKS: tuple[Track, ...] = ("stable", "canary")
Gate = Literal["registry", "signature", "digest", "contract", "load", "golden", "latency", "errors"]
"""What stops a version: in the order in which it comes to them, errors and latency at each step."""
Phase = Literal["idle", "verifying", "loading", "golden", "canary", "promoting", "draining"]
DECLARED_LABEL = "estate.dev/model"
DECLARED_KEY = "model.json"
ASSIGNMENTS = "serving-assignments"
STATE = "serving-state"
TRAFFIC = "serving-traffic"
"""The gateway's maps, as a gateway that starts reads them."""
POOL_LABEL, TRACK_LABEL = "estate.dev/pool", "estate.dev/track"
REMEMBERED = 5
"""Versions served before, which need no canary to come back."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Strict):
    """A version of a model that is named elsewhere."""

    version: int = Field(ge=1)
    digest: Digest


class Declared(Desired):
    """What `model-<name>` asks for."""

    @property
    def wanted(self) -> Version:
        """The version alone."""
        return Version(version=self.version, digest=self.digest)


class Assigned(_Strict):
    """What the pods of one track have to serve of a model, the newest version last."""

    name: Name
    versions: tuple[Version, ...]
    serving: Serving


class Assignments(_Strict):
    """`serving-assignments`: one key for each track."""

    stable: tuple[Assigned, ...]
    canary: tuple[Assigned, ...]


class Refusal(_Strict):
    """Why a version does not serve.

    `passing`: nothing is wrong with the version as far as is known, so it is tried again, as after
    one of gate `registry`.
    """

    gate: Gate
    why: str
    passing: bool = False

    @property
    def again(self) -> bool:
        """Whether it is tried again."""
        return self.passing or self.gate == "registry"


class Refused(Refusal):
    """Which version it was, and when (seconds since 1970)."""

    version: int
    digest: Digest
    at: float

    @property
    def which(self) -> Version:
        """The version alone."""
        return Version(version=self.version, digest=self.digest)


class Seen(_Strict):
    """Requests of a version and those of them that failed, since the counters began.

    `failures` the gateways counted, `errors` Triton: what failed by gRPC, whose trailers the
    gateways do not read, too.
    """

    requests: int = 0
    failures: int = 0
    errors: int = 0

    @property
    def failed(self) -> int:
        """Most failures are seen by both."""
        return max(self.failures, self.errors)

    def plus(self, other: Seen) -> Seen:
        """Both together."""
        return Seen(
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            errors=self.errors + other.errors,
        )

    def since(self, base: Seen) -> Seen:
        """What came since; counters that were begun anew count from nothing."""
        requests, failures = self.requests - base.requests, self.failures - base.failures
        errors = self.errors - base.errors
        if min(requests, failures, errors) < 0:
            return self
        return Seen(requests=requests, failures=failures, errors=errors)


class Progress(_Strict):
    """Where the rollout of one model is; a controller that starts anew goes on from it."""

    stable: Version | None = None
    before: tuple[Version, ...] = ()
    candidate: Version | None = None
    phase: Phase = "idle"
    step: int = 0
    weight: int = Field(default=0, ge=0, le=100)
    since: float = 0.0
    base: Seen = Seen()
    stable_base: Seen = Seen()
    refused: Refused | None = None


class VersionStatus(_Strict):
    """What a pod's sidecar says of one version."""

    digest: Digest
    state: Literal["waiting", "loading", "ready", "refused"]
    refusal: Refusal | None = None


class PodStatus(_Strict):
    """`/status` of a sidecar: model -> number -> status."""

    triton: bool
    models: dict[str, dict[int, VersionStatus]]
