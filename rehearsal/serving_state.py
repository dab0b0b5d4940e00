"""What the controller says of a model's delivery: ConfigMap `serving-state`, one key per model.

And which versions the cluster refers to: declared, assigned, or in that state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from model_repo.declared import Served
from rehearsal.access import SERVING
from rehearsal.errors import EstateError
from rehearsal.kube import Api, ApiError
from rehearsal.rehearsal import Rehearsal
from services.serving.model import (
    ASSIGNMENTS,
    DECLARED_KEY,
    DECLARED_LABEL,
    STATE,
    Assignments,
    Declared,
    Phase,
    Progress,
    Refused,
    Version,
)

PROFILE = "serving"


@dataclass(frozen=True)
class Delivery:
    """Where a model's delivery stands. `weight`: per cent of the requests to the candidate."""

    stable: Version | None
    candidate: Version | None
    weight: int
    phase: Phase
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
    at = Progress.model_validate_json(text)
    # The controller writes all of them; what leaves one out was not written by it.
    if left := {"stable", "candidate", "weight", "phase"} - at.model_fields_set:
        raise ValueError(f"{STATE}: no state of a model: {', '.join(sorted(left))}: missing")
    return Delivery(at.stable, at.candidate, at.weight, at.phase, at.refused)


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


def uses(rehearsal: Rehearsal) -> dict[str, dict[Served, str]]:
    """What its cluster declares, serves or could go back to: model -> version -> why.

    Files may say something else by now: they reach the cluster by `up`. Raises EstateError when
    the cluster does not say all of it.
    """
    name = f"rehearsal {rehearsal.name}"
    try:
        api = Api(rehearsal.kubeconfig)
        # All at once: a version that goes from one of them to the next meanwhile is in the list.
        items = api.request("GET", api.path("v1", "ConfigMap", SERVING))["items"]
    except ApiError as error:
        words = " ".join(str(error).split())
        raise EstateError(
            name, f"does not say which models it serves: {words}", f"run: {rehearsal.up_command}"
        ) from None
    found: dict[str, dict[Served, str]] = {}
    for item in items:
        thing = item["metadata"]["name"]
        labels = item["metadata"].get("labels") or {}
        try:
            for model, one, word in _uses(thing, labels, item.get("data") or {}):
                served = Served(version=one.version, digest=one.digest)
                found.setdefault(model, {})[served] = f"{word} {name}"
        except ValueError:
            raise EstateError(
                f"{name}: ConfigMap {thing}",
                "cannot be read, so nobody knows which models it serves",
                f"mend it, or run: {rehearsal.up_command}",
            ) from None
    return found


def _uses(
    thing: str, labels: Mapping[str, str], data: Mapping[str, str]
) -> Iterator[tuple[str, Version, str]]:
    """The versions in one ConfigMap. Raises ValueError when it is not what its name says."""
    if DECLARED_LABEL in labels:
        declared = Declared.model_validate_json(data.get(DECLARED_KEY, ""))
        yield declared.name, declared.wanted, "declared in"
    elif thing == ASSIGNMENTS:
        value = {track: json.loads(text) for track, text in data.items()}
        read = Assignments.model_validate(value)
        for assigned in (*read.stable, *read.canary):
            for one in assigned.versions:
                yield assigned.name, one, "served by"
    elif thing == STATE:
        for model, text in data.items():
            at = Progress.model_validate_json(text)
            for before in at.before:
                yield model, before, "served before by"
            for now in (at.stable, at.candidate):
                if now is not None:
                    yield model, now, "served by"
