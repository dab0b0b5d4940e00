"""The world as the controller sees it in one round: pods, gateway, registry."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3
from pydantic import ValidationError

from model_repo.golden import Golden, compare
from model_repo.oci import OciError
from model_repo.version import contract
from services.serving.cluster import Pod
from services.serving.model import Declared, PodStatus, Refusal, Seen, Track, Version
from services.serving.rollout import Loaded
from services.serving.settings import ControlSettings
from services.serving.sync import gate_of
from services.serving.triton import Triton, TritonError, TritonTimeout, failures, latency_ms

_log = logging.getLogger("serving")
_TIMEOUT = urllib3.Timeout(connect=2, read=5)
_TURNS = 5
"""How often one example is asked for its latency, of which the median counts."""


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
        with urllib3.HTTPConnectionPool(
            pod.address, settings.metrics_port, timeout=_TIMEOUT, retries=False
        ) as plain:
            metrics = plain.request("GET", "/metrics").data.decode()
    except (urllib3.exceptions.HTTPError, OSError, ValidationError, ValueError) as error:
        _log.warning("pod %s: %s", pod.name, str(error)[:200])
    return Seat(pod, status, metrics)


class LiveWorld:
    """What `rollout.World` asks for, as of this round."""

    def __init__(
        self, settings: ControlSettings, seats: Sequence[Seat], seen: Mapping[str, Seen]
    ) -> None:
        self._settings, self._seats, self._seen = settings, seats, seen

    def verify(self, declared: Declared, served: Version | None) -> Refusal | None:
        """See rollout.World."""
        try:
            repository = self._settings.registry.repository()
            stored = repository.verify(declared.name, declared.digest)
            if stored.version.version != declared.version:
                raise OciError(
                    f"{declared.name}@{declared.digest}",
                    f"is version {stored.version.version}, not {declared.version}",
                )
            before = repository.show(declared.name, served.digest) if served else None
        except (OciError, OSError) as error:
            return Refusal(gate=gate_of(error), why=str(error)[:500])
        try:
            repository.golden(stored)
        except OciError as error:
            away = gate_of(error) == "registry"
            return Refusal(gate="registry" if away else "golden", why=str(error)[:500])
        fixed = before is not None and not declared.rollout.allow_new_contract
        if before is not None and fixed and (changed := contract(before.version, stored.version)):
            return Refusal(gate="contract", why="; ".join(changed)[:500])
        return None

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

    def golden(self, declared: Declared) -> Refusal | None:
        """See rollout.World."""
        try:
            repository = self._settings.registry.repository()
            wanted = repository.golden(repository.show(declared.name, declared.digest))
        except (OciError, OSError) as error:
            return Refusal(gate=gate_of(error), why=str(error)[:500])
        for seat in self._of("canary", declared):
            triton = Triton(f"http://{seat.pod.address}:{self._settings.triton_port}")
            if refusal := answers(triton, declared, wanted):
                return refusal
        return None

    def seen(self, declared: Declared) -> Seen:
        """See rollout.World."""
        gateway = self._seen.get(f"{declared.name}/canary", Seen())
        # gRPC tells of failures in trailers, which the gateway does not count: Triton does.
        own = sum(
            failures(seat.metrics, declared.name, declared.version)
            for seat in self._of("canary", declared)
            if seat.metrics
        )
        return Seen(requests=gateway.requests, failures=max(gateway.failures, own))

    def latency_ms(self, track: Track, declared: Declared, version: Version) -> float | None:
        """See rollout.World: the slowest pod's."""
        found = [
            latency_ms(seat.metrics, declared.name, version.version)
            for seat in self._of(track, declared)
            if seat.metrics
        ]
        return max((one for one in found if one is not None), default=None)

    def _of(self, track: Track, declared: Declared) -> list[Seat]:
        pool = declared.serving.pool
        return [s for s in self._seats if s.pod.track == track and s.pod.pool == pool]


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
    except TritonError as error:
        return Refusal(gate="golden", why=str(error)[:500])
    if (took := statistics.median(times)) > most:
        words = f"one example takes {took:.1f} ms, max_latency_ms is {most:g}"
        return Refusal(gate="latency", why=words)
    return None
