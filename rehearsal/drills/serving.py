"""What the drills of serving share: loads on a model, versions declared, what the controller says.

A drill declares a version as everybody does and only looks on; what is declared at the start is
declared again at the end, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from model_repo.oci import canonical
from rehearsal import access, serving_state
from rehearsal.access import INFERENCE, SERVING
from rehearsal.clients import Clients
from rehearsal.errors import EstateError
from rehearsal.kube import Api, ApiError, Object, ready
from rehearsal.load import Load
from rehearsal.load_figures import Plan, Result
from rehearsal.rehearsal import Rehearsal
from rehearsal.serving_state import Delivery
from services.serving.model import Version

MODEL = "digits-onnx"
HTTP, GRPC = "http", "grpc"
RATES = {HTTP: 200.0, GRPC: 20.0}
_LOOK_S = 0.25
_MADE_S = 60.0  # for a version to be in the registry
SETTLE_S = 180.0
"""For a model to be as it is declared."""

Event = tuple[float, str]


def declare(
    rehearsal: Rehearsal,
    name: str,
    version: int,
    digest: str,
    serving: Mapping[str, Any] | None = None,
) -> None:
    """Declare a version of a model in this rehearsal, and how it is served where that changes.

    Raises EstateError and ApiError.
    """
    api = Api(rehearsal.kubeconfig)
    path, value = _declaration(api, name)
    value |= {"version": version, "digest": digest}
    if serving is not None:
        value["serving"] = dict(serving)
    api.merge(path, {"data": {"model.json": canonical(value).decode()}})


def _declaration(api: Api, name: str) -> tuple[str, dict[str, Any]]:
    path = api.path("v1", "ConfigMap", SERVING, f"model-{name}")
    found = api.get(path)
    if found is None:
        raise EstateError(
            f"model {name}", "is not declared", f"write model_repo/models/{name}/model.yaml, run up"
        )
    value = json.loads(found["data"]["model.json"])
    assert isinstance(value, dict)
    return path, value


@contextlib.contextmanager
def declared_again(rehearsal: Rehearsal, name: str) -> Iterator[dict[str, Any]]:
    """What is declared of a model; it is declared again at the end."""
    _, value = _declaration(Api(rehearsal.kubeconfig), name)
    try:
        yield value
    finally:
        declare(rehearsal, name, value["version"], value["digest"], value["serving"])


@dataclass
class Publisher:
    """Puts versions into the registry (`serving_models`)."""

    process: Clients

    def add(self, kind: str, source: str) -> tuple[Version, dict[str, str]]:
        """A version of a kind, made of the version `source` (digest), and its files' digests."""
        self.process.send("add", kind=kind, source=source)
        made = self.process.wait_for("add", _MADE_S)["made"]
        return Version(version=made["version"], digest=made["digest"]), made["files"]

    def sign(self, digest: str) -> None:
        """Sign what was left unsigned."""
        self.process.send("sign", digest=digest)
        self.process.wait_for("sign", _MADE_S)


@dataclass
class Stage:
    """A drill under way. `seen`: all that the controller said, each with the time."""

    rehearsal: Rehearsal
    api: Api
    load: Load
    publisher: Publisher
    source: Version
    serving: dict[str, Any]
    say: Callable[[str], None]
    model: str = MODEL
    began: float = 0.0
    events: list[Event] = field(default_factory=list)
    seen: list[tuple[float, Delivery]] = field(default_factory=list)

    def start(self, *, retry_connection: int = 0) -> None:
        """Begin both loads, and let them run undisturbed for a while."""
        self.began = time.monotonic()
        for protocol, rate in RATES.items():
            plan = Plan(
                self.model,
                (INFERENCE,),
                "http" if protocol == HTTP else "grpc",
                rate,
                retry_connection=retry_connection,
            )
            self.load.start(protocol, plan)
        self.listen(10.0)

    def end(self) -> dict[str, Result]:
        """End both loads."""
        return {protocol: self.load.end(protocol) for protocol in RATES}

    def note(self, what: str) -> None:
        """Into the timeline, and onto the screen."""
        self.events.append((time.monotonic(), what))
        self.say(what)

    def look(self) -> Delivery | None:
        """What the controller says now, noted when it is new; None while the API is away."""
        try:
            now = serving_state.read(self.api, self.model)
        except (ApiError, ValueError) as error:
            self.events.append((time.monotonic(), f"observer: {str(error)[:120]}"))
            return None
        if now is not None and (not self.seen or self.seen[-1][1] != now):
            self.seen.append((time.monotonic(), now))
            self.note(now.words)
        return now

    def listen(self, seconds: float) -> None:
        """Let time pass under load, and look."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.load.listen(min(_LOOK_S, left))
            self.look()

    def declare(self, wanted: Version) -> float:
        """Declare a version; the moment of it."""
        self.note(f"declare version {wanted.version}")
        at = time.monotonic()
        declare(self.rehearsal, self.model, wanted.version, wanted.digest)
        return at

    def wait(
        self, what: Callable[[Delivery], bool], limit_s: float = SETTLE_S
    ) -> tuple[float, Delivery] | None:
        """Until the controller says so; when it did, None when it does not in time."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            self.load.listen(_LOOK_S)
            now = self.look()
            if now is not None and what(now):
                return time.monotonic(), now
        return None

    def pods(self) -> list[Object]:
        """The pods that serve the stable versions."""
        path = self.api.path("v1", "Pod", SERVING)
        found: list[Object] = self.api.request("GET", path)["items"]
        return [pod for pod in found if is_stable(str(pod["metadata"]["name"]))]


def is_stable(pod: str) -> bool:
    """Whether a pod is of a Deployment `triton-<pool>-stable`."""
    words = pod.split("-")
    return words[0] == "triton" and "stable" in words[2:]


def all_ready(pods: list[Object], wanted: int) -> bool:
    """Whether so many pods are there, each of them Ready."""
    return len(pods) == wanted and all(ready(pod) for pod in pods)


@contextlib.contextmanager
def stage(rehearsal: Rehearsal, say: Callable[[str], None], model: str = MODEL) -> Iterator[Stage]:
    """All that a drill needs, on a model that is as it is declared. Raises EstateError."""
    delivery = serving_state.served(rehearsal, model)
    assert delivery.stable is not None
    if delivery.candidate is not None:
        way_out = "wait until it is through: ./estate status"
        raise EstateError(f"model {model}", f"is about to change: {delivery.words}", way_out)
    hands = access.of(rehearsal)
    versions = {delivery.stable.version: delivery.stable.digest}
    with (
        declared_again(rehearsal, model) as declared,
        Clients(rehearsal, "rehearsal.drills.serving_models", hands, {"model": model}) as process,
        Load(rehearsal, model, versions, hands) as load,
    ):
        process.wait_for("ready", 60)
        api = Api(rehearsal.kubeconfig, timeout_s=5)
        yield Stage(
            *(rehearsal, api, load, Publisher(process), delivery.stable, declared["serving"]),
            *(say, model),
        )


@dataclass
class Outcome:
    """What a drill found. `wrong` says what was not as it must be; seconds are from the start."""

    drill: str
    title: str
    loads: dict[str, Result]
    figures: dict[str, Any]
    events: list[Event]
    wrong: list[str]
    green: bool = False

    @property
    def met(self) -> bool:
        """Whether all was as it must be."""
        return self.green and not self.wrong

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **asdict(self),
            "loads": {key: one.json_object() for key, one in self.loads.items()},
            "met": self.met,
        }


def failures(loads: dict[str, Result]) -> list[str]:
    """What is wrong with loads of which nothing may fail."""
    wrong = []
    for key, one in loads.items():
        if not one.sent:
            wrong.append(f"{key}: nothing was sent")
        elif not one.all_ok:
            kinds = ", ".join(f"{kind} {count}" for kind, count in one.failed.items())
            wrong.append(f"{key}: {one.sent - one.ok} of {one.sent} failed ({kinds})")
    return wrong
