"""The world as the controller sees it in one round: pods, gateway, registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import urllib3

from model_repo.golden import Golden, compare
from model_repo.oci import OciError
from model_repo.version import contract
from services.serving.cluster import Pod
from services.serving.gateway import Time
from services.serving.model import Declared, PodStatus, Refusal, Seen, Track, Version
from services.serving.rollout import PENDING, Latency, Loaded, Verdict
from services.serving.settings import ControlSettings, RegistrySettings
from services.serving.sync import gate_of
from services.serving.triton import (
    Triton,
    TritonError,
    TritonSilent,
    TritonTimeout,
    failures,
)

_log = logging.getLogger("serving")
_TIMEOUT = urllib3.Timeout(connect=2, read=5)
_TURNS = 5
"""How often one example is asked for its latency: a slow model is slow each time."""


@dataclass(frozen=True)
class Seat:
    """A pod, what its sidecar says, and Triton's metrics; None where it does not answer."""

    pod: Pod
    status: PodStatus | None
    metrics: str | None


def look(settings: ControlSettings, pods: Sequence[Pod]) -> list[Seat]:
    """Ask all pods at once."""
    if not pods:
        return []
    with ThreadPoolExecutor(min(16, len(pods))) as pool:
        return list(pool.map(lambda pod: _seat(settings, pod), pods))


def _seat(settings: ControlSettings, pod: Pod) -> Seat:
    status = metrics = None
    try:
        with urllib3.HTTPSConnectionPool(
            pod.address,
            settings.sync_port,
            ca_certs=str(settings.ca),
            assert_hostname=settings.sync_name,
            server_hostname=settings.sync_name,
            timeout=_TIMEOUT,
            retries=False,
        ) as pool:
            answer = pool.request("GET", "/status")
            status = PodStatus.model_validate_json(answer.data)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        _log.warning("pod %s: /status: %s", pod.name, " ".join(str(error).split())[:200])
    try:
        with urllib3.HTTPConnectionPool(
            pod.address, settings.metrics_port, timeout=_TIMEOUT, retries=False
        ) as plain:
            metrics = plain.request("GET", "/metrics").data.decode()
            failures(metrics)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        metrics = None
        _log.warning("pod %s: /metrics: %s", pod.name, " ".join(str(error).split())[:200])
    return Seat(pod, status, metrics)


class Counters:
    """What sources counted since this controller began, each of which may begin anew or be away.

    A source that is seen for the first time has counted before: that is no news.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Seen]] = {}
        self._total: dict[str, Seen] = {}

    def add(self, found: Mapping[str, Mapping[str, Seen]]) -> None:
        """Source -> key -> what it counted so far; a source that did not answer is left out."""
        for source, counts in found.items():
            before = self._last.get(source)
            if before is not None:
                for key, now in counts.items():
                    new = now.since(before.get(key, Seen()))
                    self._total[key] = self._total.get(key, Seen()).plus(new)
            self._last[source] = dict(counts)

    def __getitem__(self, key: str) -> Seen:
        return self._total.get(key, Seen())


class Jobs:
    """Work that takes longer than a round: begun once, and its outcome taken when it is there.

    `done` is called, by the thread that worked, when an outcome is there.
    """

    def __init__(self, done: Callable[[], None] = lambda: None) -> None:
        self._done = done
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="job")
        self._begun: dict[Hashable, Future[Refusal | None]] = {}
        self._asked: set[Hashable] = set()

    def ask(self, key: Hashable, work: Callable[[], Refusal | None]) -> Verdict:
        """What came of it, once."""
        self._asked.add(key)
        if key not in self._begun:
            self._begun[key] = self._pool.submit(work)
            self._begun[key].add_done_callback(lambda _: self._done())
        if not self._begun[key].done():
            return PENDING
        return self._begun.pop(key).result()

    def tidy(self) -> None:
        """Forget what nobody has asked for since this was called last."""
        for key in set(self._begun) - self._asked:
            self._begun.pop(key).cancel()
        self._asked.clear()


class LiveWorld:
    """What `rollout.World` asks for, as of this round."""

    def __init__(
        self,
        settings: ControlSettings,
        seats: Sequence[Seat],
        counters: Counters,
        jobs: Jobs,
        times: Sequence[Time] = (),
        *,
        told: bool,
    ) -> None:
        self._settings, self._seats = settings, seats
        self._counters, self._jobs, self._told = counters, jobs, told
        self._times = times

    def verify(self, declared: Declared, served: Version | None) -> Verdict:
        """See rollout.World. All bytes are read, of which there may be many."""
        key = ("verify", declared.name, declared.wanted, served, declared.rollout)
        return self._jobs.ask(key, lambda: verified(self._settings.registry, declared, served))

    def told(self) -> bool:
        """See rollout.World."""
        return self._told

    def loaded(self, track: Track, declared: Declared, version: Version) -> Loaded:
        """See rollout.World. A stable pod that is only starting loads the same anyway."""
        seats = [
            seat
            for seat in self._of(track, declared)
            if track == "canary" or seat.pod.ready or seat.status is not None
        ]
        found = [
            seat.status.models.get(declared.name, {}).get(version.version)
            for seat in seats
            if seat.status is not None
        ]
        # A number that was served before with other content is not this version.
        mine = [one for one in found if one is not None and one.digest == version.digest]
        refusal = next((one.refusal for one in mine if one.refusal), None)
        return Loaded(sum(one.state == "ready" for one in mine), len(seats), refusal)

    def golden(self, declared: Declared) -> Verdict:
        """See rollout.World."""
        pods = tuple(seat.pod.address for seat in self._of("canary", declared))
        key = ("golden", declared.name, declared.wanted, declared.rollout, pods)
        return self._jobs.ask(key, lambda: self._golden(declared, pods))

    def _golden(self, declared: Declared, pods: Sequence[str]) -> Refusal | None:
        try:
            repository = self._settings.registry.repository()
            wanted = repository.golden(repository.show(declared.name, declared.digest))
        except (OciError, OSError, ValueError) as error:
            return Refusal(gate="registry", why=str(error)[:500])
        for address in pods:
            triton = Triton(f"http://{address}:{self._settings.triton_port}")
            if refusal := answers(triton, declared, wanted):
                return refusal
        return None

    def seen(self, track: Track, declared: Declared) -> Seen:
        """See rollout.World. What Triton counts besides is of the canary alone."""
        by_gateway = self._counters[f"{declared.name}/{track}"]
        if track == "stable":
            return by_gateway
        return by_gateway.plus(self._counters[f"{declared.name}/{declared.version}"])

    def latency(self, track: Track, declared: Declared, since: float) -> Latency:
        """See rollout.World."""
        key = f"{declared.name}/{track}"
        return Latency.of([one.took_ms for one in self._times if one.key == key and one.at > since])

    def _of(self, track: Track, declared: Declared) -> list[Seat]:
        pool = declared.serving.pool
        return [s for s in self._seats if s.pod.track == track and s.pod.pool == pool]


def counted(seats: Sequence[Seat]) -> dict[str, dict[str, Seen]]:
    """For Counters: pod -> `model/version` -> what a Triton of the canary could not answer."""
    return {
        seat.pod.name: {
            f"{model}/{version}": Seen(errors=number)
            for (model, version), number in failures(seat.metrics).items()
        }
        for seat in seats
        if seat.pod.track == "canary" and seat.metrics is not None
    }


def verified(
    settings: RegistrySettings, declared: Declared, served: Version | None
) -> Refusal | None:
    """Signature, every byte, the golden set, and the contract."""
    try:
        repository = settings.repository()
    except (OciError, OSError, ValueError) as error:
        return Refusal(gate="registry", why=str(error)[:500])
    try:
        stored = repository.verify(declared.name, declared.digest)
        if stored.version.version != declared.version:
            raise OciError(
                f"{declared.name}@{declared.digest}",
                f"is version {stored.version.version}, not {declared.version}",
            )
    except (OciError, OSError) as error:
        return Refusal(gate=gate_of(error), why=str(error)[:500])
    try:
        repository.golden(stored)
    except (OciError, OSError) as error:
        away = gate_of(error) == "registry"
        return Refusal(gate="registry" if away else "golden", why=str(error)[:500])
    if served is None or declared.rollout.allow_new_contract:
        return None
    try:
        before = repository.show(declared.name, served.digest)
    except (OciError, OSError) as error:
        away = gate_of(error) == "registry"
        words = f"{error}: the contract of the served version is not known; rollout."
        words += "allow_new_contract lets this one pass without"
        return Refusal(gate="registry" if away else "contract", why=words[:500])
    if changed := contract(before.version, stored.version):
        return Refusal(gate="contract", why="; ".join(changed)[:500])
    return None


def answers(triton: Triton, declared: Declared, wanted: Golden) -> Refusal | None:
    """Ask the golden set, then one example some times more: is it right, is it quick enough?"""
    name, version = declared.name, declared.version
    most = declared.rollout.max_latency_ms
    one = wanted.batches(1)[0]
    times: list[float] = []
    try:
        for part in wanted.batches(declared.serving.max_batch_size):
            outputs, _ = triton.infer(name, version, part.request())
            if different := compare(part, outputs):
                return Refusal(gate="golden", why="; ".join(different)[:500])
        for _ in range(_TURNS):
            outputs, took = triton.infer(name, version, one.request())
            if different := compare(one, outputs):
                return Refusal(gate="golden", why="; ".join(different)[:500])
            times.append(took)
    except TritonTimeout as error:
        return Refusal(gate="latency", why=str(error))
    except TritonSilent as error:
        return Refusal(gate="golden", why=str(error), passing=True)
    except TritonError as error:
        return Refusal(gate="golden", why=str(error)[:500])
    if (took := min(times)) > most:
        words = f"one example takes {took:.1f} ms, max_latency_ms is {most:g}"
        # Others may be loading just now: it is asked again, and serves nobody until then.
        return Refusal(gate="latency", why=words, passing=True)
    return None
