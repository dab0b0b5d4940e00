"""What a load is made of and comes to: when each request is due, what became of it, the figures.

Open loop: a request is due whether or not the one before it was answered, and its latency counts
from the moment it was due. So a server that stalls is seen in the latencies of all that it kept
waiting, and a generator that is late is seen too ("coordinated omission").
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Protocol = Literal["http", "grpc"]
Kind = Literal["ok", "connection", "timeout", "status", "wrong"]
LATE_MS = 2.0
"""A generator whose 99th percentile of lateness is above distorts what it measures."""
_ERRORS_SHOWN = 8


@dataclass(frozen=True)
class Plan:
    """One load. `targets` are taken in turn; `seconds` None: until it is told to end.

    `starts_at` is of the monotonic clock, so that several loads can begin together; None: at once.
    `closed` is the number of clients that each send as soon as they have an answer, instead of a
    rate. `retry_connection`: how often one request is sent again when its connection broke or the
    gateway lost its server (HTTP 502 to 504, gRPC UNAVAILABLE); those are counted apart.
    """

    model: str
    targets: tuple[str, ...]
    protocol: Protocol = "http"
    rate: float = 200.0
    seconds: float | None = None
    poisson: bool = False
    seed: int = 1
    closed: int = 0
    timeout_s: float = 5.0
    retry_connection: int = 0
    starts_at: float | None = None

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def of(cls, value: dict[str, Any]) -> Plan:
        """The inverse of `json_object`."""
        return cls(**{**value, "targets": tuple(value["targets"])})


def schedule(plan: Plan) -> Iterator[float]:
    """Seconds from the start at which requests are due: evenly, or as independent arrivals."""
    chance = random.Random(plan.seed)
    at, number = 0.0, 0
    while plan.seconds is None or at < plan.seconds:
        yield at
        number += 1
        # Not summed up: an error of the rate would grow with the time.
        at = at + chance.expovariate(plan.rate) if plan.poisson else number / plan.rate


@dataclass(slots=True)
class Sent:
    """One request; times are of the monotonic clock.

    `first_ended` is the end of its first attempt, `first` what became of that.
    """

    due: float
    began: float
    ended: float = math.nan
    kind: Kind = "ok"
    version: str = ""
    track: str = ""
    error: str = ""
    attempts: int = 1
    first_ended: float = math.nan
    first: Kind = "ok"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of the sorted values do not exceed; NaN for none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass
class Spread:
    """Percentiles in milliseconds."""

    p50: float = math.nan
    p90: float = math.nan
    p99: float = math.nan
    max: float = math.nan

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of these durations."""
        ordered = sorted(seconds)
        return cls(*(round(percentile(ordered, at) * 1000, 3) for at in (50, 90, 99, 100)))


@dataclass
class Second:
    """What was due in one second, counted from the start of the load."""

    at: int
    sent: int
    ok: int
    failed: int
    retried: int
    p99_ms: float
    versions: dict[str, int]


@dataclass
class Result:
    """What a load came to.

    Latency is of what was answered well, from the moment it was due; what was not is in `failed`,
    by kind. `lateness` is the generator's own: how long after it was due a request was begun.
    `first_failed`: requests whose first attempt failed, by kind; `retried` those of them that went
    well in the end. `first_s`: version -> seconds from `began` to its first answer. `cpu_share`: of
    one core, by the process of the generator.
    """

    plan: Plan
    began: float
    seconds: float
    sent: int
    ok: int
    failed: dict[str, int]
    errors: dict[str, int]
    first_failed: dict[str, int]
    retried: int
    latency: Spread
    lateness: Spread
    versions: dict[str, int]
    tracks: dict[str, int]
    first_s: dict[str, float]
    timeline: list[Second]
    cpu_share: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.ok / self.seconds if self.seconds else math.nan

    @property
    def all_ok(self) -> bool:
        """Whether something was sent and every request was answered, in time and right."""
        return self.sent > 0 and self.ok == self.sent and not self.failed

    @property
    def late(self) -> bool:
        """Whether the generator itself was late, so that the latencies are partly its own."""
        return self.lateness.p99 > LATE_MS

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "late": self.late, "per_s": round(self.rate, 1)}

    @classmethod
    def of(cls, value: dict[str, Any]) -> Result:
        """The inverse of `json_object`."""
        kept = {key: item for key, item in value.items() if key not in ("late", "per_s")}
        kept["plan"] = Plan.of(kept["plan"])
        kept["latency"], kept["lateness"] = Spread(**kept["latency"]), Spread(**kept["lateness"])
        kept["timeline"] = [Second(**one) for one in kept["timeline"]]
        return cls(**kept)


@dataclass
class Tally:
    """All requests of a load. Not ended ones are those without an end."""

    plan: Plan
    began: float
    requests: list[Sent] = field(default_factory=list)

    def in_flight(self, since: float, until: float) -> int:
        """How many first attempts were under way at some moment between two."""
        return sum(one.began <= until and since < _end(one.first_ended) for one in self.requests)

    def second(self, number: int) -> Second:
        """What was due in a second and has ended."""
        start, found = self.began + number, []
        for one in reversed(self.requests):  # in the order in which they were due
            if one.due < start:
                break
            if one.due < start + 1:
                found.append(one)
        return _second(number, found)

    def result(self, ended: float, cpu_s: float) -> Result:
        """The figures. A request without an end has timed out."""
        for one in self.requests:
            if math.isnan(one.ended):
                one.ended, one.kind, one.error = ended, "timeout", "no answer when the load ended"
            if math.isnan(one.first_ended):
                one.first_ended, one.first = one.ended, one.kind
        good = [one for one in self.requests if one.kind == "ok"]
        by_second: dict[int, list[Sent]] = defaultdict(list)
        for one in self.requests:
            by_second[int(one.due - self.began)].append(one)
        first: dict[str, float] = {}
        for one in sorted(self.requests, key=lambda one: one.ended):
            if one.version:
                first.setdefault(one.version, round(one.ended - self.began, 3))
        seconds = max(ended - self.began, 1e-9)
        return Result(
            plan=self.plan,
            began=self.began,
            seconds=round(seconds, 3),
            sent=len(self.requests),
            ok=len(good),
            failed=dict(Counter(one.kind for one in self.requests if one.kind != "ok")),
            errors=dict(
                Counter(one.error for one in self.requests if one.error).most_common(_ERRORS_SHOWN)
            ),
            first_failed=dict(Counter(one.first for one in self.requests if one.first != "ok")),
            retried=sum(one.attempts > 1 for one in good),
            latency=Spread.of([one.ended - one.due for one in good]),
            lateness=Spread.of([one.began - one.due for one in self.requests]),
            versions=dict(Counter(one.version for one in self.requests if one.version)),
            tracks=dict(Counter(one.track for one in self.requests if one.track)),
            first_s=first,
            timeline=[_second(number, of) for number, of in sorted(by_second.items())],
            cpu_share=round(cpu_s / seconds, 3),
        )


def _end(at: float) -> float:
    return math.inf if math.isnan(at) else at


def _second(number: int, requests: Sequence[Sent]) -> Second:
    good = [one for one in requests if one.kind == "ok" and not math.isnan(one.ended)]
    return Second(
        at=number,
        sent=len(requests),
        ok=len(good),
        failed=sum(one.kind != "ok" for one in requests),
        retried=sum(one.attempts > 1 for one in requests),
        p99_ms=Spread.of([one.ended - one.due for one in good]).p99,
        versions=dict(sorted(Counter(one.version for one in requests if one.version).items())),
    )
