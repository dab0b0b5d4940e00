"""`./estate model load`: requests to a served model at a rate, each answer judged.

`Load` is what the drills and the bench use too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rehearsal import access, console, serving_state
from rehearsal.access import INFERENCE, Access
from rehearsal.clients import Clients, exclusive
from rehearsal.errors import EstateError, UsageError
from rehearsal.kube import Api, ApiError
from rehearsal.load_figures import LATE_MS, Plan, Result, Second
from rehearsal.rehearsal import Rehearsal
from services.serving.model import Version

_READY_S, _ANSWER_S = 60.0, 30.0
_LOOK_S = 0.5
TIMELINE = ("second", "sent", "answered", "failed", "sent again", "p99", "versions")


class Load:
    """A process that sends, beside what it has said: loads by key, the newest second of each.

    `versions` are those whose answers can be judged from the start, by number and digest. Methods
    raise EstateError when the process ends or can't go on.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        model: str,
        versions: Mapping[int, str],
        hands: Access,
        **more: Any,
    ) -> None:
        told = {str(version): digest for version, digest in versions.items()}
        specification = {"model": model, "versions": told, **more}
        self.model = model
        self._known = set(versions)
        self._clients = Clients(rehearsal, "rehearsal.load_client", hands, specification)
        self.seconds: dict[str, list[Second]] = {}
        self.results: dict[str, Result] = {}
        self.notes: list[tuple[float, str]] = []
        self._answers: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Load:
        try:
            self._clients.wait_for("ready", _READY_S)
        except BaseException:
            self._clients.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()

    def start(self, key: str, plan: Plan) -> None:
        """Begin a load."""
        self.seconds[key] = []
        self.results.pop(key, None)
        self._clients.send("start", key=key, plan=plan.json_object())

    def know(self, found: Version | None) -> None:
        """From now on the answers of this version too can be judged."""
        if found is not None and found.version not in self._known:
            self._known.add(found.version)
            self._clients.send("know", version=str(found.version), digest=found.digest)

    def listen(self, seconds: float) -> None:
        """Let time pass, and take what the process says."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            event = self._clients.event(left)
            if event is not None:
                self._heard(event)

    def end(self, key: str) -> Result:
        """Begin no further request, and wait for the result."""
        if key not in self.results:
            self._clients.send("end", key=key)
        return self.result(key, _ANSWER_S)

    def result(self, key: str, timeout_s: float) -> Result:
        """Wait for the result of a load that ends by itself."""
        deadline = time.monotonic() + timeout_s
        while key not in self.results:
            if time.monotonic() > deadline:
                raise EstateError(f"load {key}", f"has no result after {timeout_s:.0f} s", "")
            self.listen(0.2)
        return self.results[key]

    def in_flight(self, since: float, until: float) -> dict[str, int]:
        """How many first attempts were under way at some moment between two, by load."""
        counted = self._ask("in_flight", since=since, until=until)["counted"]
        assert isinstance(counted, dict)
        return counted

    def fetch(self, url: str) -> Any:
        """The JSON that a GET answers inside the sandbox; None for everything else."""
        return self._ask("fetch", "fetched", url=url)["content"]

    def _ask(self, command: str, event: str = "", **values: Any) -> dict[str, Any]:
        wanted = event or command
        self._answers.pop(wanted, None)
        self._clients.send(command, **values)
        deadline = time.monotonic() + _ANSWER_S
        while wanted not in self._answers:
            if time.monotonic() > deadline:
                raise EstateError(f"load's {command}", f"no answer in {_ANSWER_S:.0f} s", "")
            self.listen(0.1)
        return self._answers[wanted]

    def _heard(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "second":
                self.seconds[event["key"]].append(Second(**event["second"]))
            case "result":
                self.results[event["key"]] = Result.of(event["result"])
            case "in_flight" | "fetched":
                self._answers[event["event"]] = event
            case "unknown":
                text = f"version {event['version']} cannot be judged: {event['why']}"
                self.notes.append((time.monotonic(), text))


def run(
    model: str,
    *,
    name: str,
    rate: float,
    seconds: float,
    protocol: Literal["http", "grpc"],
    poisson: bool,
    as_json: bool,
) -> int:
    """Send for so long; 0 when every request was answered, in time and right."""
    rehearsal = Rehearsal(name)
    if protocol not in ("http", "grpc"):
        raise UsageError("--protocol", protocol, "use http or grpc")
    hands = access.of(rehearsal)
    delivery = serving_state.served(rehearsal, model)
    known = {one.version: one.digest for one in (delivery.stable, delivery.candidate) if one}
    plan = Plan(model, (INFERENCE,), protocol, rate, seconds, poisson)
    with (
        exclusive(rehearsal, "load"),
        Load(rehearsal, model, known, hands) as load,
        console.bars() as bars,
    ):
        task = bars.add_task(f"{model} by {protocol}", total=seconds, note="")
        load.start("load", plan)
        api = Api(rehearsal.kubeconfig, timeout_s=5)
        patience = time.monotonic() + seconds + plan.timeout_s + _ANSWER_S
        while "load" not in load.results:
            if time.monotonic() > patience:
                raise EstateError("load", "has no result", "see: ./estate logs")
            load.listen(_LOOK_S)
            if told := load.seconds["load"]:
                bars.update(task, completed=told[-1].at + 1, note=live(told))
            try:  # the API may be away while the model is served
                now = serving_state.read(api, model)
            except ApiError:
                continue
            if now is not None:
                load.know(now.candidate)
                load.know(now.stable)
        bars.update(task, completed=seconds)
        result = load.results["load"]
    if as_json:
        console.emit_json(result.json_object())
    else:
        show(result)
    for _, text in load.notes:
        console.warn(text)
    return 0 if result.all_ok else 1


def live(told: Sequence[Second]) -> str:
    """What goes on, in one line."""
    last, failed = told[-1], sum(one.failed for one in told)
    versions = ", ".join(f"version {key}: {count}" for key, count in last.versions.items())
    return f"{last.ok}/s, {failed} failed, p99 {last.p99_ms:.1f} ms, {versions or 'no answer'}"


def rows(result: Result) -> list[tuple[str, object]]:
    """The figures as a table: what, and the value with its unit."""
    latency, lateness = result.latency, result.lateness
    found: list[tuple[str, object]] = [
        ("sent", result.sent),
        ("answered well", result.ok),
        ("failed", _counted(result.failed) or 0),
        ("answered per second", f"{result.rate:.1f}"),
        ("latency p50 / p90 / p99", _ms(latency.p50, latency.p90, latency.p99)),
        ("latency max", _ms(latency.max)),
        ("generator late by p50 / p99 / max", _ms(lateness.p50, lateness.p99, lateness.max)),
        ("generator's CPU", f"{result.cpu_share * 100:.0f} % of a core"),
        ("answers by version", _counted(result.versions)),
    ]
    if result.tracks:
        found.append(("answers by track", _counted(result.tracks)))
    if result.first_failed:
        found.append(("first attempt failed", _counted(result.first_failed)))
        found.append(("sent again and answered", result.retried))
    return found


def show(result: Result) -> None:
    """The table, and what is to be said of it."""
    plan = result.plan
    how = f"{plan.closed} clients" if plan.closed else f"{plan.rate:g}/s"
    title = f"{plan.model} by {plan.protocol}: {how} for {result.seconds:.0f} s"
    console.table(title, ("what", "figure"), rows(result))
    if result.late:
        console.warn(
            f"the generator was late by more than {LATE_MS:g} ms (p99): the latencies are partly "
            "its own; lower --rate, or give it a quieter machine"
        )
    for words, count in result.errors.items():
        console.warn(f"{count} x {words}")


def timeline(result: Result) -> list[tuple[object, ...]]:
    """Second by second: what was sent, answered and failed, and which versions answered."""
    return [
        (
            f"{one.at} s",
            *(one.sent, one.ok, one.failed, one.retried, f"{one.p99_ms:.1f} ms"),
            _counted(one.versions),
        )
        for one in result.timeline
    ]


def versions(result: Result) -> list[str]:
    """Of each second the versions that answered, runs of the same as one: `0-12 s: 1`."""
    found: list[str] = []
    spans: list[list[Any]] = []
    for one in result.timeline:
        kinds = "+".join(one.versions) or "none"
        if spans and spans[-1][2] == kinds and spans[-1][1] == one.at - 1:
            spans[-1][1] = one.at
        else:
            spans.append([one.at, one.at, kinds])
    for first, last, kinds in spans:
        found.append(f"{first}-{last} s: {kinds}" if last > first else f"{first} s: {kinds}")
    return found


def _counted(of: Mapping[str, int]) -> str:
    return ", ".join(f"{key}: {count}" for key, count in Counter(of).most_common())


def _ms(*values: float) -> str:
    return " / ".join(f"{value:.2f}" for value in values) + " ms"
