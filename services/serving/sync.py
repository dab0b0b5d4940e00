"""The sidecar of a Triton: brings what its track is assigned, by digest, and says what is ready.

A version is pulled into a folder of its own, which appears whole or not at all, once its signature
was found; Triton reads it only when it is told to, and serves the former until the new one is
ready. What cannot be brought is named and changes nothing of what is served.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from model_repo import triton as layout
from model_repo.declared import Serving
from model_repo.oci import NoAnswer, NotThere, OciError
from model_repo.repository import Repository, Stored
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
from services.serving.triton import Triton, TritonError, TritonSilent, TritonTimeout, ended

_log = logging.getLogger("serving")
_EVERY_S = 1.0
_READ_S = 15.0
"""The assignments are read so often, whether or not the watch tells of a change."""
BACKEND = Path(__file__).parent / "backend" / layout.PROGRAM
"""What Triton's Python backend runs, for every framework."""
_RETRY_S = 10.0
_DEATHS = 2
"""So often a Triton may end while it loads a version; then it is the version's fault."""
_AGAIN_S = 60.0
"""What was refused is tried again after this: a key, a file or memory may be there by then."""


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    at: float


@dataclass
class _Model:
    """One model here: what is there of it, and the work that is being done on it."""

    applied: Assigned | None = None
    """What was worked on last."""
    loaded: tuple[Version, ...] = ()
    serving: Serving | None = None
    """What Triton took last, and how it serves it."""
    stored: dict[Version, Stored] = field(default_factory=dict)
    refused: dict[Version, _Refused] = field(default_factory=dict)
    deaths: Counter[Version] = field(default_factory=Counter)
    """How often Triton ended while it loaded a version."""
    tried: float = 0.0
    work: Future[bool] | None = None
    """True when the model is not here any more."""

    @property
    def busy(self) -> bool:
        return self.work is not None and not self.work.done()

    def refuse(self, one: Version, gate: Gate, why: str) -> None:
        self.refused[one] = _Refused(Refusal(gate=gate, why=why[:500]), time.monotonic())

    def final(self, one: Version) -> bool:
        """Whether it was refused, and for now that is all there is to it."""
        refused = self.refused.get(one)
        if refused is None or refused.refusal.gate == "registry":
            return False
        return time.monotonic() - refused.at < _AGAIN_S


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
        self._whole = False
        """Whether this Triton has served all that was assigned, once since it began."""
        self._hangs: socket.socket | None = None
        """The witness of a Triton, of a canary, that has to begin anew."""
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="model")

    def assign(self, assigned: Mapping[str, Assigned]) -> None:
        """From now on this is what is to be served."""
        if not self._known and self._settings.versions.is_dir():
            # What a sidecar before this one has left.
            for entry in self._settings.versions.iterdir():
                self._models.setdefault(entry.name, _Model())
        self._assigned, self._known = dict(assigned), True

    def round(self) -> None:
        """Look what Triton serves, and begin what is missing."""
        self._look()
        if self._live and self._known and self._hangs is None:
            # Triton may still have what an earlier sidecar loaded.
            for name in {*self._models, *self._assigned, *self._ready}:
                self._begin(name)
        self._measure()

    def _look(self) -> None:
        self._live = self._triton.live()
        try:
            self._ready = self._triton.ready() if self._live else {}
        except TritonError as error:
            _log.warning("%s", error)
            self._live, self._ready = False, {}
        if self._hangs is not None and ended(self._hangs):
            self._hangs.close()
            self._hangs = None
        if not self._live or (self._assigned and not self._ready):
            self._whole = False  # it began anew
        elif self._known and all(map(self._settled, self._assigned)):
            self._whole = True

    def _settled(self, name: str) -> bool:
        """Whether a model is served in some version.

        A canary's version may be one that can't be; what is served elsewhere others go on with.
        """
        if self._ready.get(name):
            return True
        model = self._models.get(name, _Model())
        return self._canary and all(map(model.final, self._assigned[name].versions))

    @property
    def _canary(self) -> bool:
        return self._settings.track == "canary"

    def _begin(self, name: str) -> None:
        model = self._models.setdefault(name, _Model())
        if model.busy:
            return
        if model.work is not None and model.work.result():
            self._models[name] = model = _Model()
        model.work = None
        wanted = self._assigned.get(name)
        if wanted is not None:
            if self._lacks(name, model, wanted):
                model.tried = time.monotonic()
                model.work = self._pool.submit(self._bring, name, model, wanted)
        elif model != _Model() or self._ready.get(name) or self._left(name):
            model.work = self._pool.submit(self._leave, name)
        else:
            del self._models[name]

    def _left(self, name: str) -> bool:
        places = (self._settings.repository, self._settings.versions)
        return any((place / name).exists() for place in places)

    def _lacks(self, name: str, model: _Model, wanted: Assigned) -> bool:
        if model.applied != wanted:
            return True
        if time.monotonic() - model.tried <= _RETRY_S:
            return False
        return any(
            not model.final(one) and not (one in model.loaded and self._serves(name, (one,)))
            for one in wanted.versions
        )

    def _serves(self, name: str, versions: tuple[Version, ...]) -> bool:
        return {one.version for one in versions} <= self._ready.get(name, set())

    def _bring(self, name: str, model: _Model, wanted: Assigned) -> bool:
        try:
            for one in wanted.versions:
                if one not in model.stored and not model.final(one):
                    self._pull(name, model, one)
            good = [one for one in wanted.versions if one in model.stored and not model.final(one)]
            if good:
                self._load(name, model, wanted, good)
            self._tidy(name, model, wanted)
        except Exception as error:  # whatever it is, the other models go on
            _log.exception("%s", name)
            for one in wanted.versions:
                if one not in model.loaded:
                    model.refuse(one, "load", f"{type(error).__name__}: {error}")
        model.applied = wanted
        return False

    def _pull(self, name: str, model: _Model, one: Version) -> None:
        began = time.monotonic()
        folder = self._folder(name, one)
        try:
            repository = self._settings.registry.repository()
        except (OciError, OSError, ValueError) as error:
            # Keys or passwords are not as they should be, which says nothing of a version.
            model.refuse(one, "registry", str(error))
            _log.error("%s version %s: %s", name, one.version, error)
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stored = _pulled(repository, name, one, folder)
        except (OciError, OSError) as error:
            model.refuse(one, gate_of(error), str(error))
            _log.error("%s version %s: %s", name, one.version, error)
            return
        metrics.PULLED.observe(time.monotonic() - began)
        model.stored[one] = stored
        model.refused.pop(one, None)
        _log.info("%s version %s is here (%s)", name, one.version, one.digest)

    def _load(self, name: str, model: _Model, wanted: Assigned, good: list[Version]) -> None:
        """Have Triton serve these; without the newest, if it does not take all of them.

        Triton takes all versions or none: one that does not load would keep the others away from
        a Triton that has just begun.
        """
        newest = good[-1]
        # There is one configuration, with the tensors of the newest.
        shape = _shape(model.stored[newest])
        good = [one for one in good if _shape(model.stored[one]) == shape]
        if self._has(name, model, wanted.serving, good):
            return
        numbers = [one.version for one in good]
        try:
            self._lay_out(name, model, wanted.serving, good)
            self._triton.load(name)
        except (TritonError, OciError, OSError) as error:
            metrics.LOADS.labels(name, "failed").inc()
            _log.error("%s: load of versions %s: %s", name, numbers, error)
            if isinstance(error, TritonSilent):
                hangs = isinstance(error, TritonTimeout)
                model.deaths[newest] += self._canary or not hangs
                if hangs and self._canary:
                    self._give_up(name)
                if model.deaths[newest] < _DEATHS:
                    return  # it is told again when it answers
            model.refuse(newest, "load", str(error))
            rest = good[:-1]
            if rest and not self._has(name, model, wanted.serving, rest):
                self._load(name, model, wanted, rest)
            elif model.loaded and model.serving:
                # It serves what it had, of which a process may yet be begun anew.
                self._lay_out(name, model, model.serving, list(model.loaded))
            return
        model.loaded, model.serving = tuple(good), wanted.serving
        for one in good:
            model.refused.pop(one, None)
            model.deaths.pop(one, None)
        metrics.LOADS.labels(name, "done").inc()
        _log.info("%s: versions %s are loaded", name, numbers)

    def _has(self, name: str, model: _Model, serving: Serving, good: list[Version]) -> bool:
        """Whether that is what Triton took last, and serves."""
        same = (tuple(good), serving) == (model.loaded, model.serving)
        return same and self._serves(name, model.loaded)

    def _lay_out(self, name: str, model: _Model, serving: Serving, good: list[Version]) -> None:
        told = model.stored[good[-1]].version
        native = self._settings.native
        text = layout.configuration(
            told,
            serving,
            [one.version for one in good],
            native=native,
            gpu=self._settings.gpu,
        )
        folders = {one.version: self._folder(name, one) for one in good}
        own = layout.is_native(told.framework, native=native)
        layout.lay_out(self._settings.repository, name, text, folders, None if own else BACKEND)

    def _tidy(self, name: str, model: _Model, wanted: Assigned) -> None:
        """Take away what is neither assigned nor served."""
        kept = {*wanted.versions, *model.loaded}
        for gone in set(model.stored) - kept:
            del model.stored[gone]
        for gone in set(model.refused) - set(wanted.versions):
            del model.refused[gone]
        folders = {self._folder(name, one) for one in kept}
        parent = self._settings.versions / name
        for entry in parent.iterdir() if parent.is_dir() else ():
            if entry not in folders:
                shutil.rmtree(entry, ignore_errors=True)

    def _leave(self, name: str) -> bool:
        try:
            self._triton.unload(name)
        except TritonError as error:
            _log.warning("%s: unload: %s", name, error)
            if isinstance(error, TritonTimeout) and self._canary:
                self._give_up(name)
            return False
        shutil.rmtree(self._settings.repository / name, ignore_errors=True)
        shutil.rmtree(self._settings.versions / name, ignore_errors=True)
        _log.info("%s: not served any more", name)
        return True

    def _give_up(self, name: str) -> None:
        """Have this Triton begin anew, without the model: one that hangs it would keep for good.

        A canary's alone, which serves nobody else. Its liveness says so, and the kubelet ends it.
        """
        shutil.rmtree(self._settings.repository / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # it has ended
            self._hangs = self._hangs or self._triton.witness()

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
        if refused := model.refused.get(one):
            return VersionStatus(digest=one.digest, state="refused", refusal=refused.refusal)
        # A number may be ready with the content that it had before.
        if one in model.loaded and one.version in self._ready.get(name, set()):
            return VersionStatus(digest=one.digest, state="ready")
        return VersionStatus(digest=one.digest, state="loading" if model.busy else "waiting")

    def alive(self) -> bool:
        """Whether Triton answers, and can still be told what to serve."""
        return self._live and self._hangs is None

    def ready(self) -> bool:
        """Whether requests may come: this Triton has served all that was assigned.

        It stays so while one model of many is brought, or breaks: the others go on. A canary's pod
        that begins in the middle of a rollout gets its share only when it has the version.
        """
        return self._whole


def _pulled(repository: Repository, name: str, one: Version, folder: Path) -> Stored:
    """The version, in its folder. Raises OciError and OSError."""
    try:
        stored = repository.pull(name, one.digest, folder)
    except OciError as error:
        if error.thing != str(folder):
            raise
        # A node that went down may leave files of the right names and wrong bytes.
        _log.warning("%s: pulled once more", error)
        shutil.rmtree(folder)
        stored = repository.pull(name, one.digest, folder)
    if stored.version.version != one.version:
        raise OciError(f"{name}@{one.digest}", f"is version {stored.version.version}")
    return stored


def _shape(stored: Stored) -> object:
    """What versions have in common that one configuration can serve."""
    told = stored.version
    return told.framework, told.inputs, told.outputs


def gate_of(error: Exception) -> Gate:
    """Which gate an error of the registry belongs to; `registry` is tried again."""
    if isinstance(error, Unsigned):
        return "signature"
    if isinstance(error, NotThere):
        return "digest"
    if isinstance(error, OciError) and error.status is None and not isinstance(error, NoAnswer):
        return "digest"
    return "registry"


def assigned_to(data: Mapping[str, str], settings: SyncSettings) -> dict[str, Assigned]:
    """What a track and pool have to serve. Raises ValueError.

    Both tracks must be there: an object without them is no order to serve nothing.
    """
    found = Assignments.model_validate({track: json.loads(text) for track, text in data.items()})
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
            "/triton": lambda: (200, "alive\n") if sync.alive() else (503, "hangs\n"),
        },
    )
    read = 0.0
    while True:
        if changed.is_set() or time.monotonic() - read > _READ_S:
            changed.clear()
            read = time.monotonic()
            try:
                data = cluster.config_map(ASSIGNMENTS)
                if data is not None:
                    sync.assign(assigned_to(data, settings))
            except (*FAILURES, ValueError) as error:
                _log.error("ConfigMap %s: %s", ASSIGNMENTS, _line(error))
                time.sleep(1)
                changed.set()
        try:
            sync.round()
        except Exception:  # what is served goes on being served
            _log.exception("a round")
        changed.wait(_EVERY_S)


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split())[:300] or type(error).__name__
