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
GATES = ("signature", "digest", "contract", "load", "golden", "latency", "errors")
"""A reason begins with the gate that stopped the version, and a colon."""
STOPPED = ("rejected", "rolled-back")
"""Phases of a candidate that gets no traffic any more."""


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
class Delivery:
    """Where a model's delivery stands. `weight`: per cent of the requests to the candidate."""

    stable: Version | None
    candidate: Version | None
    weight: int
    phase: str
    reason: str
    since: str

    @property
    def gate(self) -> str | None:
        """What stopped the version that was to come; None when nothing did."""
        if self.phase not in STOPPED:
            return None
        gate = self.reason.partition(":")[0].strip()
        return gate if gate in GATES else "unknown"

    @property
    def words(self) -> str:
        """In one line."""
        stable = "none" if self.stable is None else str(self.stable.version)
        if self.candidate is None:
            said = f"{self.phase}, stable {stable}"
        else:
            said = f"{self.phase}, stable {stable}, {self.candidate.version} at {self.weight} %"
        return f"{said} ({self.reason})" if self.reason else said


def parse(text: str) -> Delivery:
    """A value of the ConfigMap. Raises ValueError when it is none."""
    try:
        value = json.loads(text)
        return Delivery(
            Version.of(value["stable"]),
            Version.of(value["candidate"]),
            int(value.get("weight") or 0),
            str(value["phase"]),
            str(value.get("reason") or ""),
            str(value.get("since") or ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{STATE}: no state of a model: {error!r}") from None


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
