"""The controller: every second it looks at what is declared and what is, and takes one step."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from pydantic import ValidationError

from model_repo.declared import Rollout, Serving
from services.serving import gateway, metrics, rollout, server
from services.serving.cluster import FAILURES, Cluster, Pod
from services.serving.model import (
    ASSIGNMENTS,
    DECLARED_KEY,
    DECLARED_LABEL,
    STATE,
    TRACK_LABEL,
    TRACKS,
    TRAFFIC,
    Assignments,
    Declared,
    Progress,
)
from services.serving.settings import ControlSettings
from services.serving.world import Counters, Jobs, LiveWorld, counted, look

_log = logging.getLogger("serving")
_EVERY_S = 1.0
_REPAIR_S = 30.0
"""What is written is written again after this."""


class Controller:
    """Declared models, the state of their rollouts, and where both are written.

    `wake` is called when the next round need not wait: a step was taken, or what one waits for is
    there.
    """

    def __init__(
        self, settings: ControlSettings, cluster: Cluster, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._cluster = settings, cluster
        self._progress: dict[str, Progress] = {}
        self._written: dict[str, dict[str, str]] = {}
        self._wrote = time.monotonic()
        self._declared: dict[str, Declared] = {}
        self._serving: dict[str, Serving] = {}
        """How the models were served when this controller began."""
        self._wake = wake
        self._counters, self._jobs = Counters(), Jobs(wake)
        self._told = False
        self._trust = gateway.Trust(settings.ca, settings.client_certificate, settings.client_key)

    def begin(self) -> None:
        """Go on from what was written last. Raises one of FAILURES, ValueError."""
        state = self._cluster.config_map(STATE) or {}
        progress = {}
        for name, text in state.items():
            try:
                progress[name] = Progress.model_validate_json(text)
            except ValidationError as error:
                words = "is no state of a rollout: mend it, or delete the key: what is served then "
                words += f"counts as it stands in {ASSIGNMENTS}"
                raise ValueError(f"{STATE}: {name}: {words} ({_first(error)})") from None
        written = self._cluster.config_map(ASSIGNMENTS)
        if written is not None:
            try:
                read = Assignments.model_validate(
                    {track: json.loads(text) for track, text in written.items()}
                )
            except ValueError as error:
                words = "is no list of models by track: mend it, or delete it to have it made anew"
                raise ValueError(f"{ASSIGNMENTS}: {words} ({_first(error)})") from None
            for one in read.stable:
                self._serving[one.name] = one.serving
                # Without its state a model would have to begin with nothing served.
                if one.name not in progress:
                    _log.warning("%s: %s says nothing of it; it is served", one.name, STATE)
                    progress[one.name] = Progress(stable=one.versions[0])
        self._progress = progress

    def read(self) -> None:
        """What is declared now; a declaration that makes no sense changes nothing.

        Raises one of FAILURES.
        """
        found: dict[str, Declared] = {}
        for name, data in self._cluster.labelled(DECLARED_LABEL).items():
            try:
                one = Declared.model_validate_json(data.get(DECLARED_KEY, ""))
            except ValidationError as error:
                _log.error("ConfigMap %s: %s: %s", name, DECLARED_KEY, _first(error))
                before = self._before(name.removeprefix("model-"))
                if before is not None:
                    found[before.name] = before
                continue
            found[one.name] = one
        self._declared = found

    def _before(self, name: str) -> Declared | None:
        """What was declared of a model, or would be if nothing but what is served were."""
        at = self._progress.get(name)
        if name in self._declared or at is None or at.stable is None or name not in self._serving:
            return self._declared.get(name)
        return Declared(
            name=name,
            version=at.stable.version,
            digest=at.stable.digest,
            serving=self._serving[name],
            rollout=Rollout(),
        )

    def round(self) -> None:
        """One step of each rollout; what it means for pods and gateway is written and sent.

        Raises one of FAILURES.
        """
        if time.monotonic() - self._wrote > _REPAIR_S:
            # Somebody may have deleted or changed it.
            self._written.clear()
            self._wrote = time.monotonic()
        gateways = self._gateways()
        seats = look(self._settings, self._cluster.pods(TRACK_LABEL))
        states = {
            pod.name: found for pod, one in gateways or () if (found := _state(one)) is not None
        }
        by_gateway = {name: state.seen for name, state in states.items()}
        self._counters.add({**by_gateway, **counted(seats)})
        times = self._times(gateways)
        world = LiveWorld(self._settings, seats, self._counters, self._jobs, times, told=self._told)
        before = dict(self._progress)
        now = time.time()
        self._progress = {
            name: self._step(one, self._progress.get(name, Progress()), world, now)
            for name, one in self._declared.items()
        }
        self._jobs.tidy()
        # First: what pods and gateway are told must be known to a controller that begins anew.
        self._write(STATE, {name: one.model_dump_json() for name, one in self._progress.items()})
        self._write(ASSIGNMENTS, self._assignments())
        self._share(gateways, states)
        self._measure(before)
        begin = Progress()
        if any(at.phase != before.get(name, begin).phase for name, at in self._progress.items()):
            self._wake()

    def _step(self, one: Declared, at: Progress, world: LiveWorld, now: float) -> Progress:
        try:
            return rollout.advance(one, at, world, now)
        except Exception:  # the other models go on, one of which may have to be taken back
            _log.exception("%s: %s", one.name, at.phase)
            return at

    def _times(self, gateways: Sequence[tuple[Pod, gateway.Gateway]] | None) -> list[gateway.Time]:
        if all(one.phase != "canary" for one in self._progress.values()):
            return []
        found: list[gateway.Time] = []
        for _, one in gateways or ():
            try:
                found += one.times()
            except gateway.GatewayError as error:
                _log.warning("%s", error)
        return found

    def _assignments(self) -> dict[str, str]:
        tracks: dict[str, list[object]] = {track: [] for track in TRACKS}
        for name in sorted(self._declared):
            for track, one in rollout.assigned(self._declared[name], self._progress[name]).items():
                if one is not None:
                    tracks[track].append(one.model_dump(mode="json"))
        return {track: json.dumps(value, sort_keys=True) for track, value in tracks.items()}

    def _write(self, name: str, data: dict[str, str]) -> None:
        if self._written.get(name) != data:
            self._cluster.write_config_map(name, data)
            self._written[name] = data

    def _gateways(self) -> list[tuple[Pod, gateway.Gateway]] | None:
        """All that run; None where the controller has no certificate for them."""
        settings = self._settings
        try:
            self._trust.refresh()
        except OSError as error:
            _log.error("the certificate: %s", error)
            return None
        return [
            (
                pod,
                gateway.Gateway(
                    pod.address, settings.gateway_port, settings.gateway_name, self._trust
                ),
            )
            for pod in self._cluster.pods(settings.gateway_selector)
        ]

    def _share(
        self,
        gateways: list[tuple[Pod, gateway.Gateway]] | None,
        states: Mapping[str, gateway.State],
    ) -> None:
        weights = {name: one.weight for name, one in self._progress.items()}
        pools = {name: one.serving.pool for name, one in self._declared.items()}
        self._write(TRAFFIC, _maps(weights, pools))
        self._told = gateways is not None
        for pod, one in gateways or ():
            try:
                one.share(weights, pools, states.get(pod.name))
            except gateway.GatewayError as error:
                _log.warning("%s", error)
                # One that is not ready gets no requests.
                self._told = self._told and not pod.ready

    def _measure(self, before: Mapping[str, Progress]) -> None:
        for gauge in (metrics.SERVED, metrics.WEIGHT, metrics.MODEL_REFUSED, metrics.SINCE):
            gauge.clear()
        for name, at in self._progress.items():
            metrics.WEIGHT.labels(name).set(at.weight)
            metrics.MODEL_REFUSED.labels(name).set(at.refused is not None)
            metrics.SINCE.labels(name, at.phase).set(at.since)
            if at.stable:
                metrics.SERVED.labels(name, "stable").set(at.stable.version)
            if at.candidate:
                metrics.SERVED.labels(name, "canary").set(at.candidate.version)
            was = before.get(name, Progress())
            if at.phase != was.phase:
                _log.info("%s: %s (%s)", name, at.phase, _words(at))
            if at.stable != was.stable:
                metrics.ROLLOUTS.labels(name, "promoted").inc()
            if at.refused and at.refused != was.refused:
                metrics.ROLLOUTS.labels(name, "refused").inc()
                _log.error("%s: refused at %s: %s", name, at.refused.gate, at.refused.why)
        metrics.ROUND_AT.set_to_current_time()


def _words(at: Progress) -> str:
    versions = [
        f"{word} {one.version}"
        for word, one in (("serves", at.stable), ("candidate", at.candidate))
        if one
    ]
    return ", ".join([*versions, f"weight {at.weight}"])


def _state(one: gateway.Gateway) -> gateway.State | None:
    try:
        return one.state()
    except gateway.GatewayError as error:
        _log.warning("%s", error)
        return None


def _maps(weights: Mapping[str, int], pools: Mapping[str, str]) -> dict[str, str]:
    """The gateway's maps as it reads them when it starts."""
    return {
        name: "".join(f"{model} {value}\n" for model, value in sorted(values.items()))
        for name, values in ((gateway.WEIGHTS, weights), (gateway.POOLS, pools))
    }


def run(settings: ControlSettings) -> NoReturn:
    """Serve until ended."""
    cluster = Cluster(settings.namespace)
    changed = threading.Event()
    controller = Controller(settings, cluster, changed.set)
    cluster.watching(changed.set, label_selector=DECLARED_LABEL)
    began = whole = False
    last = [time.monotonic()]
    server.serve(
        settings.server,
        {
            "/readyz": lambda: (200, "ready\n") if whole else (503, "not ready\n"),
            "/healthz": lambda: (
                (200, "alive\n") if time.monotonic() - last[0] < 300 else (503, "hangs\n")
            ),
        },
    )
    while True:
        changed.clear()
        try:
            if not began:
                controller.begin()
            began = True
            controller.read()
            controller.round()
            whole = True
        except FAILURES as error:
            _log.error("Kubernetes API: %s", " ".join(str(error).split())[:300])
        except ValueError as error:
            _log.error("ConfigMap %s", error)
        except Exception:  # rollouts that are under way still have to be judged
            _log.exception("a round")
        last[0] = time.monotonic()
        changed.wait(_EVERY_S)


def _first(error: ValueError) -> str:
    """What a document has wrong first, without what it holds."""
    if not isinstance(error, ValidationError):
        return str(error)[:300]
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
