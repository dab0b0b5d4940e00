"""The rollout of one model, step by step: what is true of the world decides what comes next.

Nothing here waits or speaks to anybody: `advance` is called about once a second, with the state
that it returned before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from model_repo.declared import Rollout
from services.serving.model import (
    REMEMBERED,
    Assigned,
    Declared,
    Gate,
    Phase,
    Progress,
    Refusal,
    Refused,
    Seen,
    Track,
    Version,
)

LOAD_S = 180.0
"""For all pods of a track to have a version ready."""
DRAIN_S = 3.0
"""Between a weight of nothing and the end of the version: requests on their way are answered."""
RETRY_S = 20.0
_FEW = 20
"""Requests: of fewer, a rate says nothing."""
_NOISE = 0.5
"""Of `max_latency_ms`: below it, twice the latency is no sign of anything."""


@dataclass(frozen=True)
class Loaded:
    """How many of a track's pods have a version ready, or what one of them says against it."""

    ready: int
    pods: int
    refusal: Refusal | None = None

    @property
    def everywhere(self) -> bool:
        """On every pod, of which there is one at least."""
        return self.pods > 0 and self.ready == self.pods


class Pending:
    """There is no answer yet: it is asked for again in the next round."""


PENDING: Final = Pending()
Verdict = Refusal | Pending | None


@dataclass(frozen=True)
class Latency:
    """The 99th percentile of so many requests, in ms."""

    requests: int = 0
    p99_ms: float = 0.0

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """The two slowest alone never count: among few, they would be the percentile."""
        if len(times) < 3:
            return cls(len(times))
        place = min(math.ceil(0.99 * len(times)) - 1, len(times) - 3)
        return cls(len(times), sorted(times)[place])


class World(Protocol):
    """What is asked of registry, pods and gateway."""

    def verify(self, declared: Declared, served: Version | None) -> Verdict:
        """Signature, digest, and the contract: the same tensors as the version that is served."""

    def loaded(self, track: Track, declared: Declared, version: Version) -> Loaded:
        """Which pods have it."""

    def golden(self, declared: Declared) -> Verdict:
        """Whether the canary's pods answer the golden set, and quickly enough."""

    def told(self) -> bool:
        """Whether every gateway that takes requests has the weights of the round before."""

    def seen(self, track: Track, declared: Declared) -> Seen:
        """Requests and failures of a track."""

    def latency(self, track: Track, declared: Declared, since: float) -> Latency:
        """What requests took since then, as the gateway has it."""


def advance(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    """The next state; the same object when nothing changes."""
    other = at.candidate is not None and at.candidate != declared.wanted
    # Once it is served everywhere it is too late to turn round: the next rollout does that.
    if other and at.phase not in ("promoting", "draining"):
        return _away(at, now)
    match at.phase:
        case "idle":
            return _idle(declared, at, now)
        case "verifying":
            return _verifying(declared, at, world, now)
        case "loading":
            return _loading(declared, at, world, now)
        case "golden":
            return _golden(declared, at, world, now)
        case "canary":
            return _canary(declared, at, world, now)
        case "promoting":
            return _promoting(declared, at, world, now)
        case "draining":
            # A gateway that was not told yet may still send requests to it.
            done = now - at.since >= DRAIN_S and world.told()
            return _phase(at, "idle", now, candidate=None) if done else at


def assigned(declared: Declared, at: Progress) -> dict[Track, Assigned | None]:
    """What the pods of each track have to serve of the model."""
    stable = [at.stable] if at.stable else []
    if at.phase == "promoting" and at.candidate and at.candidate not in stable:
        stable.append(at.candidate)
    canary = at.candidate if at.phase not in ("idle", "verifying") else None

    def of(versions: list[Version]) -> Assigned | None:
        if not versions:
            return None
        return Assigned(name=declared.name, versions=tuple(versions), serving=declared.serving)

    return {"stable": of(stable), "canary": of([canary] if canary else [])}


def _phase(at: Progress, phase: Phase, now: float, **changes: object) -> Progress:
    return at.model_copy(update={"phase": phase, "since": now, **changes})


def _refuse(at: Progress, refusal: Refusal, now: float) -> Progress:
    assert at.candidate is not None
    refused = Refused(**refusal.model_dump(), **at.candidate.model_dump(), at=now)
    return _away(at.model_copy(update={"refused": refused}), now)


def _away(at: Progress, now: float) -> Progress:
    """The candidate gets nothing any more; what no pod was told of is gone at once."""
    if at.phase == "verifying":
        return _phase(at, "idle", now, candidate=None)
    return _phase(at, "draining", now, weight=0)


def _idle(declared: Declared, at: Progress, now: float) -> Progress:
    wanted, refused = declared.wanted, at.refused
    if wanted == at.stable:
        # What was refused is not asked for any more.
        return at.model_copy(update={"refused": None}) if refused else at
    if refused is not None and refused.which == wanted and not _again(refused, now):
        return at
    return _phase(at, "verifying", now, candidate=wanted, step=0, weight=0)


def _again(refused: Refused, now: float) -> bool:
    return refused.again and now - refused.at >= RETRY_S


def _verifying(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    verdict = world.verify(declared, at.stable)
    if isinstance(verdict, Pending):
        return at
    return _refuse(at, verdict, now) if verdict else _phase(at, "loading", now)


def _late(at: Progress, loaded: Loaded, track: Track, now: float) -> Progress:
    if now - at.since < LOAD_S:
        return at
    words = f"{loaded.ready} of {loaded.pods} pods ({track}) have it ready after {LOAD_S:.0f} s"
    # Pods may be about to come, or an image; the version itself was not refused.
    return _refuse(at, Refusal(gate="load", why=words, passing=True), now)


def _loading(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    loaded = world.loaded("canary", declared, declared.wanted)
    if loaded.refusal:
        return _refuse(at, loaded.refusal, now)
    return _phase(at, "golden", now) if loaded.everywhere else _late(at, loaded, "canary", now)


def _golden(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    loaded = world.loaded("canary", declared, declared.wanted)
    if not loaded.everywhere:  # a pod was begun anew meanwhile: who is not asked proves nothing
        return _late(at, loaded, "canary", now)
    verdict = world.golden(declared)
    if isinstance(verdict, Pending):
        return at
    if verdict:
        return _refuse(at, verdict, now)
    known = at.stable is None or declared.wanted in at.before
    if known or not declared.rollout.steps:
        return _phase(at, "promoting", now)
    return _step(declared, at, world, 0, now)


def _step(declared: Declared, at: Progress, world: World, step: int, now: float) -> Progress:
    weight = declared.rollout.steps[step].weight
    return _phase(
        at,
        "canary",
        now,
        step=step,
        weight=weight,
        base=world.seen("canary", declared),
        stable_base=world.seen("stable", declared),
    )


def _canary(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    rollout = declared.rollout
    if at.step >= len(rollout.steps):  # the steps were changed meanwhile
        return _phase(at, "promoting", now)
    seen = world.seen("canary", declared).since(at.base)
    refusal = judged(
        rollout,
        seen,
        world.seen("stable", declared).since(at.stable_base),
        world.latency("canary", declared, at.since),
        world.latency("stable", declared, at.since),
    )
    if refusal:
        return _refuse(at, refusal, now)
    took, step = now - at.since, rollout.steps[at.step]
    waits = seen.requests < rollout.min_requests and took < step.for_s + rollout.max_wait_s
    if took < step.for_s or waits:
        weight = step.weight
        return at if at.weight == weight else at.model_copy(update={"weight": weight})
    if not world.told():  # what was seen is not what this share of the requests would have shown
        return at
    loaded = world.loaded("canary", declared, declared.wanted)
    if not loaded.everywhere:  # nor is it where a pod of the canary went meanwhile
        return _late(at, loaded, "canary", now)
    if at.step + 1 < len(rollout.steps):
        return _step(declared, at, world, at.step + 1, now)
    return _phase(at, "promoting", now)


def judged(
    rollout: Rollout, seen: Seen, beside: Seen, latency: Latency, served: Latency
) -> Refusal | None:
    """What speaks against a version, from what was seen of it at this step.

    Failures count at once: more of them than the step may have end it. Latency is judged by
    `min_requests` and more.
    """
    # What fails on the served version too is the clients' doing: Triton answers 500 to a body that
    # it cannot read.
    theirs = beside.failed / beside.requests if beside.requests >= _FEW else 0.0
    rate = rollout.max_error_rate + 2 * theirs
    allowed = rate * max(seen.requests, rollout.min_requests, 1)
    if seen.failed > allowed:
        return _against(
            "errors",
            f"{seen.failed} of {seen.requests} requests failed, max_error_rate is "
            f"{rollout.max_error_rate:g}; of the served version's {beside.failed} of "
            f"{beside.requests}",
        )
    least = max(1, rollout.min_requests)
    if latency.requests < least:
        return None
    latency_ms = latency.p99_ms
    if latency_ms > rollout.max_latency_ms:
        return _against(
            "latency",
            f"99th percentile {latency_ms:.1f} ms, max_latency_ms is {rollout.max_latency_ms:g}",
        )
    ratio = rollout.max_latency_ratio
    audible = latency_ms > _NOISE * rollout.max_latency_ms
    if served.requests >= least and audible and latency_ms > ratio * served.p99_ms:
        return _against(
            "latency",
            f"99th percentile {latency_ms:.1f} ms, the served version's is {served.p99_ms:.1f} ms, "
            f"max_latency_ratio is {ratio:g}",
        )
    return None


def _against(gate: Gate, why: str) -> Refusal:
    return Refusal(gate=gate, why=why)


def _promoting(declared: Declared, at: Progress, world: World, now: float) -> Progress:
    candidate = at.candidate
    assert candidate is not None
    loaded = world.loaded("stable", declared, candidate)
    if loaded.refusal:
        return _refuse(at, loaded.refusal, now)
    if not loaded.everywhere:
        return _late(at, loaded, "stable", now)
    before = [one for one in (at.stable, *at.before) if one and one != candidate]
    return _phase(
        at,
        "draining",
        now,
        weight=0,
        stable=candidate,
        before=tuple(before[:REMEMBERED]),
        refused=None,
    )
