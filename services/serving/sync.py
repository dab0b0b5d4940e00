"""The sidecar of a Triton: brings what its track is assigned, by digest, and says what is ready.

A version is pulled into a folder of its own, which appears whole or not at all, once its signature
was found; Triton reads it only when it is told to, and serves the former until the new one is
ready. What cannot be brought is named and changes nothing of what is served.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from model_repo import triton as layout
from model_repo.oci import NoAnswer, NotThere, OciError
from model_repo.repository import Stored
from model_repo.signing import Unsigned
from services.serving import metrics, server
from services.serving.cluster import FAILURES, Cluster
from services.serving.model import (
    ASSIGNMENTS,
    Assigned,
    Assignments,
    Gate,
    PodStatus,
    Refusal,
    Version,
    VersionStatus,
)
from services.serving.settings import SyncSettings
from services.serving.triton import Triton, TritonError

_log = logging.getLogger("serving")
_EVERY_S = 1.0
BACKEND = Path(__file__).parent / "backend" / layout.PROGRAM
"""What Triton's Python backend runs, for every framework."""
_RETRY_S = 10.0


@dataclass
class _Model:
    """One model here: what is there of it, and the work that is being done on it."""

    applied: Assigned | None = None
    """What Triton was told of last."""
    stored: dict[Version, Stored] = field(default_factory=dict)
    refused: dict[Version, Refusal] = field(default_factory=dict)
    tried: float = 0.0
    work: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work.done()


class Sync:
    """Keeps one Triton at what is assigned to its track and pool."""

    def __init__(self, settings: SyncSettings, triton: Triton) -> None:
        self._settings, self._triton = settings, triton
        self._models: dict[str, _Model] = {}
        self._assigned: dict[str, Assigned] = {}
        self._known = False
        """Whether the assignments were read once."""
        self._ready: dict[str, set[int]] = {}
        self._live = False
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="model")

    def assign(self, assigned: Mapping[str, Assigned]) -> None:
        """From now on this is what is to be served."""
        self._assigned, self._known = dict(assigned), True

    def round(self) -> None:
        """Look what Triton serves, and begin what is missing."""
        self._live = self._triton.live()
        try:
            self._ready = self._triton.ready() if self._live else {}
        except TritonError:
            self._ready = {}
        if not self._live or not self._known:
            return
        for name in {*self._models, *self._assigned}:
            model = self._models.setdefault(name, _Model())
            if model.busy:
                continue
            self._told(name, model)
            wanted = self._assigned.get(name)
            if wanted is None:
                model.work = self._pool.submit(self._leave, name)
            elif self._lacks(name, model, wanted):
                model.tried = time.monotonic()
                model.work = self._pool.submit(self._bring, name, model, wanted)
        self._measure()

    def _told(self, name: str, model: _Model) -> None:
        if model.work is not None and (error := model.work.exception()) is not None:
            _log.error("%s: %s", name, error)
        model.work = None

    def _lacks(self, name: str, model: _Model, wanted: Assigned) -> bool:
        if model.applied != wanted:
            return True
        good = {one.version for one in wanted.versions if one not in model.refused}
        missing = not good <= self._ready.get(name, set())
        again = any(one.gate == "registry" for one in model.refused.values())
        return (missing or again) and time.monotonic() - model.tried > _RETRY_S

    def _bring(self, name: str, model: _Model, wanted: Assigned) -> None:
        for one in wanted.versions:
            if one not in model.stored and not _final(model.refused.get(one)):
                self._pull(name, model, one)
        good = [one for one in wanted.versions if one in model.stored]
        if good:
            self._load(name, model, wanted, good)
        model.applied = wanted
        for gone in set(model.stored) - set(wanted.versions):
            del model.stored[gone]
            shutil.rmtree(self._folder(name, gone), ignore_errors=True)
        for gone in set(model.refused) - set(wanted.versions):
            del model.refused[gone]

    def _pull(self, name: str, model: _Model, one: Version) -> None:
        began = time.monotonic()
        folder = self._folder(name, one)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            repository = self._settings.registry.repository()
            stored = repository.pull(name, one.digest, folder)
            if stored.version.version != one.version:
                raise OciError(f"{name}@{one.digest}", f"is version {stored.version.version}")
        except (OciError, OSError) as error:
            model.refused[one] = Refusal(gate=gate_of(error), why=str(error)[:500])
            _log.error("%s version %s: %s", name, one.version, error)
            return
        metrics.PULLED.observe(time.monotonic() - began)
        model.stored[one] = stored
        model.refused.pop(one, None)
        _log.info("%s version %s is here (%s)", name, one.version, one.digest)

    def _load(self, name: str, model: _Model, wanted: Assigned, good: list[Version]) -> None:
        newest = good[-1]
        told = model.stored[newest].version
        text = layout.configuration(
            told,
            wanted.serving,
            [one.version for one in good],
            native=self._settings.native,
            gpu=self._settings.gpu,
        )
        folders = {one.version: self._folder(name, one) for one in good}
        try:
            own = layout.is_native(told.framework, native=self._settings.native)
            layout.lay_out(self._settings.repository, name, text, folders, None if own else BACKEND)
            self._triton.load(name)
        except (TritonError, OSError) as error:
            metrics.LOADS.labels(name, "failed").inc()
            _log.error("%s: load: %s", name, error)
            # What was served before is not the reason, and goes on.
            served = self._ready.get(name, set())
            for one in good:
                if one.version not in served:
                    model.refused[one] = Refusal(gate="load", why=str(error)[:500])
            return
        metrics.LOADS.labels(name, "done").inc()
        _log.info("%s: versions %s are loaded", name, [one.version for one in good])

    def _leave(self, name: str) -> None:
        try:
            self._triton.unload(name)
        except TritonError as error:
            _log.warning("%s: unload: %s", name, error)
            return
        shutil.rmtree(self._settings.repository / name, ignore_errors=True)
        shutil.rmtree(self._settings.versions / name, ignore_errors=True)
        self._models.pop(name, None)
        _log.info("%s: not served any more", name)

    def _folder(self, name: str, one: Version) -> Path:
        return self._settings.versions / name / one.digest.removeprefix("sha256:")[:24]

    def _measure(self) -> None:
        metrics.READY.clear()
        metrics.REFUSED.clear()
        for name, versions in self.status().models.items():
            for number, one in versions.items():
                metrics.READY.labels(name, str(number)).set(one.state == "ready")
                if one.refusal:
                    metrics.REFUSED.labels(name, str(number), one.refusal.gate).set(1)

    def status(self) -> PodStatus:
        """Each assigned version and how far it is."""
        return PodStatus(
            triton=self._live,
            models={
                name: {one.version: self._version(name, one) for one in assigned.versions}
                for name, assigned in self._assigned.items()
            },
        )

    def _version(self, name: str, one: Version) -> VersionStatus:
        model = self._models.get(name, _Model())
        if refusal := model.refused.get(one):
            return VersionStatus(digest=one.digest, state="refused", refusal=refusal)
        if one in model.stored and one.version in self._ready.get(name, set()):
            return VersionStatus(digest=one.digest, state="ready")
        return VersionStatus(digest=one.digest, state="loading" if model.busy else "waiting")

    def ready(self) -> bool:
        """Whether requests may come: every model that is assigned is served in some version.

        The canary's pods are ready without: what does not load there gets no traffic.
        """
        if not self._live or not self._known:
            return False
        if self._settings.track == "canary":
            return True
        return all(self._ready.get(name) for name in self._assigned)


def gate_of(error: Exception) -> Gate:
    """Which gate an error of the registry belongs to; `registry` is tried again."""
    if isinstance(error, Unsigned):
        return "signature"
    if isinstance(error, NotThere):
        return "digest"
    if isinstance(error, OciError) and error.status is None and not isinstance(error, NoAnswer):
        return "digest"
    return "registry"


def _final(refusal: Refusal | None) -> bool:
    return refusal is not None and refusal.gate != "registry"


def assigned_to(data: Mapping[str, str] | None, settings: SyncSettings) -> dict[str, Assigned]:
    """What a track and pool have to serve. Raises ValidationError."""
    found = Assignments.model_validate(
        {track: json.loads(text) for track, text in (data or {}).items()}
    )
    mine = found.stable if settings.track == "stable" else found.canary
    return {one.name: one for one in mine if one.serving.pool == settings.pool}


def run(settings: SyncSettings) -> NoReturn:
    """Serve until ended."""
    cluster = Cluster(settings.namespace)
    sync = Sync(settings, Triton(settings.triton))
    changed = threading.Event()
    changed.set()
    cluster.watching(changed.set, field_selector=f"metadata.name={ASSIGNMENTS}")
    server.serve(
        settings.server,
        {
            "/status": lambda: (200, sync.status().model_dump_json()),
            "/readyz": lambda: (200, "ready\n") if sync.ready() else (503, "not ready\n"),
            "/healthz": lambda: (200, "alive\n"),
        },
    )
    while True:
        if changed.is_set():
            changed.clear()
            try:
                data = cluster.config_map(ASSIGNMENTS)
                if data is not None:
                    sync.assign(assigned_to(data, settings))
            except (*FAILURES, ValidationError, ValueError) as error:
                _log.error("%s: %s", ASSIGNMENTS, str(error).splitlines()[0][:300])
                time.sleep(1)
                changed.set()
        sync.round()
        changed.wait(_EVERY_S)
