"""What the controller says of a model's delivery: ConfigMap `serving-state`, one key per model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rehearsal.access import SERVING
from rehearsal.errors import EstateError
from rehearsal.kube import Api
from rehearsal.rehearsal import Rehearsal

STATE = "serving-state"
PROFILE = "serving"
GATES = ("registry", "signature", "digest", "contract", "load", "golden", "latency", "errors")
"""What stops a version."""


@dataclass(frozen=True)
class Version:
    """A version by number and digest."""

    version: int
    digest: str

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Version | None:
        """From its JSON; None for none."""
        return cls(int(value["version"]), str(value["digest"])) if value else None


@dataclass(frozen=True)
class Refused:
    """Which version was stopped, by which gate and why; `at` in seconds since 1970."""

    which: Version
    gate: str
    why: str
    at: float


@dataclass(frozen=True)
class Delivery:
    """Where a model's delivery stands. `weight`: per cent of the requests to the candidate."""

    stable: Version | None
    candidate: Version | None
    weight: int
    phase: str
    refused: Refused | None

    @property
    def words(self) -> str:
        """In one line."""
        said = f"{self.phase}, stable {'none' if self.stable is None else self.stable.version}"
        if self.candidate is not None:
            said += f", {self.candidate.version} at {self.weight} %"
        if self.refused is not None:
            said += f"; {self.refused.which.version} refused, {self.refused.gate}"
            said += f": {self.refused.why}"
        return said


def parse(text: str) -> Delivery:
    """A value of the ConfigMap. Raises ValueError when it is none."""
    try:
        value = json.loads(text)
        refused = value.get("refused")
        return Delivery(
            Version.of(value["stable"]),
            Version.of(value["candidate"]),
            int(value["weight"]),
            str(value["phase"]),
            refused and _refused(refused),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{STATE}: no state of a model: {error!r}") from None


def _refused(value: Mapping[str, Any]) -> Refused:
    which = Version.of(value)
    assert which is not None
    return Refused(which, str(value["gate"]), str(value["why"]), float(value["at"]))


def read(api: Api, model: str) -> Delivery | None:
    """The model's delivery, None where the controller says nothing of it. Raises ApiError."""
    found = api.get(api.path("v1", "ConfigMap", SERVING, STATE))
    text = (found or {}).get("data", {}).get(model)
    return None if text is None else parse(text)


def served(rehearsal: Rehearsal, model: str) -> Delivery:
    """The same of a model that is served. Raises EstateError when it is not."""
    if PROFILE not in rehearsal.required().profiles:
        raise EstateError(
            f"rehearsal {rehearsal.name}",
            "serves no models",
            f"run: ./estate up --name {rehearsal.name} --profile {PROFILE}",
        )
    found = read(Api(rehearsal.kubeconfig), model)
    if found is None or found.stable is None:
        raise EstateError(
            f"model {model}",
            "is not served" if found is None else f"is not served yet: {found.words}",
            f"declare it in model_repo/models/{model}/model.yaml, then run: {rehearsal.up_command}",
        )
    return found
