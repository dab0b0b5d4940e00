"""What the controller says of a model's delivery: ConfigMap `serving-state`, one key per model."""

from __future__ import annotations

from dataclasses import dataclass

from rehearsal.access import SERVING
from rehearsal.errors import EstateError
from rehearsal.kube import Api
from rehearsal.rehearsal import Rehearsal
from services.serving.model import STATE, Phase, Progress, Refused, Version

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
