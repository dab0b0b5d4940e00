"""The controller: every second it looks at what is declared and what is, and takes one step."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

from pydantic import ValidationError

from services.serving import gateway, metrics, rollout, server
from services.serving.cluster import FAILURES, Cluster
from services.serving.model import (
    ASSIGNMENTS,
    DECLARED_KEY,
    DECLARED_LABEL,
    STATE,
    TRACKS,
    Declared,
    Progress,
    Seen,
)
from services.serving.settings import ControlSettings
from services.serving.world import LiveWorld, look

_log = logging.getLogger("serving")
_EVERY_S = 1.0


class Controller:
    """Declared models, the state of their rollouts, and where both are written."""

    def __init__(self, settings: ControlSettings, cluster: Cluster) -> None:
        self._settings, self._cluster = settings, cluster
        self._progress: dict[str, Progress] = {}
        self._written: dict[str, dict[str, str]] = {}
        self._declared: dict[str, Declared] = {}

    def begin(self) -> None:
        """Go on from what was written last. Raises one of FAILURES, ValidationError."""
        found = self._cluster.config_map(STATE) or {}
        self._progress = {name: Progress.model_validate_json(text) for name, text in found.items()}

    def read(self) -> None:
        """What is declared now; a declaration that makes no sense changes nothing.

        Raises one of FAILURES.
        """
        found: dict[str, Declared] = {}
        for name, data in self._cluster.labelled(DECLARED_LABEL).items():
            try:
                one = Declared.model_validate_json(data.get(DECLARED_KEY, ""))
            except ValidationError as error:
                _log.error("ConfigMap %s: %s", name, str(error).splitlines()[0])
                before = name.removeprefix("model-")
                if before in self._declared:
                    found[before] = self._declared[before]
                continue
            found[one.name] = one
        self._declared = found

    def round(self) -> None:
        """One step of each rollout; what it means for pods and gateway is written and sent.

        Raises one of FAILURES.
        """
        gateways = self._gateways()
        pods = self._cluster.pods("estate.dev/track")
        seen = _sum([one for each in gateways if (one := _seen(each)) is not None])
        world = LiveWorld(self._settings, look(self._settings, pods), seen)
        now = time.time()
        before = dict(self._progress)
        self._progress = {
            name: rollout.advance(one, self._progress.get(name, Progress()), world, now)
            for name, one in self._declared.items()
        }
        # First: what pods and gateway are told must be known to a controller that begins anew.
        self._write(STATE, {name: one.model_dump_json() for name, one in self._progress.items()})
        self._write(ASSIGNMENTS, self._assignments())
        self._share(gateways)
        self._measure(before)

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

    def _gateways(self) -> list[gateway.Gateway]:
        settings = self._settings
        try:
            context = gateway.context(settings.ca, settings.client_certificate, settings.client_key)
        except OSError as error:
            _log.error("the certificate: %s", error)
            return []
        return [
            gateway.Gateway(pod.address, settings.gateway_port, settings.gateway_name, context)
            for pod in self._cluster.pods(settings.gateway_selector)
        ]

    def _share(self, gateways: list[gateway.Gateway]) -> None:
        weights = {name: one.weight for name, one in self._progress.items()}
        pools = {name: one.serving.pool for name, one in self._declared.items()}
        self._write("serving-traffic", _maps(weights, pools))
        for one in gateways:
            try:
                one.share(weights, pools)
            except gateway.GatewayError as error:
                _log.warning("%s", error)

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


def _seen(one: gateway.Gateway) -> dict[str, Seen] | None:
    try:
        return one.seen()
    except gateway.GatewayError as error:
        _log.warning("%s", error)
        return None


def _sum(found: list[dict[str, Seen]]) -> dict[str, Seen]:
    total: dict[str, Seen] = {}
    for one in found:
        for key, value in one.items():
            had = total.get(key, Seen())
            total[key] = Seen(
                requests=had.requests + value.requests, failures=had.failures + value.failures
            )
    return total


def _maps(weights: Mapping[str, int], pools: Mapping[str, str]) -> dict[str, str]:
    """The gateway's maps as it reads them when it starts."""
    return {
        name: "".join(f"{model} {value}\n" for model, value in sorted(values.items()))
        for name, values in (("weights.map", weights), ("pools.map", pools))
    }


def run(settings: ControlSettings) -> NoReturn:
    """Serve until ended."""
    cluster = Cluster(settings.namespace)
    controller = Controller(settings, cluster)
    changed = threading.Event()
    cluster.watching(changed.set, label_selector=DECLARED_LABEL)
    began = False
    last = [time.monotonic()]
    server.serve(
        settings.server,
        {
            "/readyz": lambda: (200, "ready\n") if began else (503, "not ready\n"),
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
            controller.read()
            controller.round()
            began = True
        except FAILURES as error:
            _log.error("Kubernetes API: %s", str(error).splitlines()[0][:300])
        last[0] = time.monotonic()
        changed.wait(_EVERY_S)
