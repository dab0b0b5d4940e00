"""`verify --prove`: every check's subject is broken, the check must turn red, then green again."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rehearsal import console, drift, journal, workloads
from rehearsal.errors import EstateError
from rehearsal.inside import Answer, Check, Probes
from rehearsal.kube import Api, ApiError, Object
from rehearsal.rehearsal import Rehearsal

RED_S, GREEN_S = 90.0, 240.0
"""How long a check may take to notice the fault, and to be green after its end."""

_PODS_S = 60.0  # for pods that were restarted with the fault to be there again, broken or not
_RESTORE_S = 30.0
# What observes everything turns red with everything: it is proven when nothing else is broken.
_OBSERVERS = ("monitoring",)


@dataclass(frozen=True)
class Proof:
    """One check's proof, in seconds; `said` is its red answer, or what went wrong (`error`)."""

    id: str
    red_s: float | None
    green_s: float | None
    said: str

    @property
    def error(self) -> bool:
        """Whether the check was not proven."""
        return self.red_s is None or self.green_s is None

    def cells(self) -> tuple[str, str, str, str, str]:
        """A row of the table."""
        state = "failed" if self.error else "passed"
        return self.id, state, _seconds(self.red_s), _seconds(self.green_s), self.said

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "ok": not self.error}


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


class _Stopped(Exception):
    """The user interrupted; what is broken gets restored, nothing is waited for."""


def restore(rehearsal: Rehearsal, api: Api) -> None:
    """Restore what a proof that was killed left broken; EstateError when that fails."""
    restored, failed = journal.restore_all(api, journal_file(rehearsal))
    if restored:
        console.warn(f"restored what an interrupted proof left broken: {', '.join(restored)}")
    for name, error in failed.items():
        raise EstateError(f"what the proof of {name} broke", error, "run ./estate up")


def journal_file(rehearsal: Rehearsal) -> Path:
    """Where a proof notes what it has broken."""
    return rehearsal.folder / "prove.json"


def run(rehearsal: Rehearsal, api: Api, probes: Probes, checks: Sequence[Check]) -> list[Proof]:
    """Prove the checks: namespaces side by side, one fault at a time in each."""
    notes = journal.Journal(journal_file(rehearsal))
    stop = threading.Event()
    lanes: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        lanes[check["fault"]["target"]["namespace"] or ""].append(check)
    done: dict[str, Proof] = {}

    def lane(name: str) -> None:
        for check in lanes[name]:
            if stop.is_set():
                return
            proof = _Subject(api, probes, notes, stop, check).prove()
            done[check["id"]] = proof
            words = proof.said if proof.error else f"red after {_seconds(proof.red_s)}, green again"
            console.step(f"{len(done)} of {len(checks)} {proof.id}: {words}")

    for together in (
        [name for name in lanes if name not in _OBSERVERS],
        [name for name in lanes if name in _OBSERVERS],
    ):
        with ThreadPoolExecutor(max(1, len(together))) as pool:
            running = [pool.submit(lane, name) for name in together]
            try:
                for future in running:
                    future.result()
            except BaseException:
                stop.set()  # the lanes restore what they broke before the pool lets go
                console.warn("restoring what is broken now")
                raise
    return [done[check["id"]] for check in checks if check["id"] in done]


class _Subject:
    """The subject of one check: broken, seen red, restored, seen green."""

    def __init__(
        self,
        api: Api,
        probes: Probes,
        notes: journal.Journal,
        stop: threading.Event,
        check: Check,
    ) -> None:
        self._api, self._probes, self._notes, self._stop = api, probes, notes, stop
        self._check, self._id = check, str(check["id"])
        self._fault = check["fault"]
        self._target = self._fault["target"]

    def prove(self) -> Proof:
        """Break, see red, restore, see green."""
        try:
            return self._prove()
        except _Stopped:
            return Proof(self._id, None, None, "interrupted")
        except (ApiError, EstateError) as error:
            return Proof(self._id, None, None, " ".join(str(error).split())[:240])

    def _prove(self) -> Proof:
        target = self._target
        path = self._api.path(
            target["api_version"], target["kind"], target["namespace"], target["name"]
        )
        before, _ = self._until(True, GREEN_S)
        if not before.ok:
            return Proof(self._id, None, None, f"red before anything was broken: {before.detail}")
        live = self._api.get(path)
        if live is None:
            return Proof(self._id, None, None, f"its fault's target does not exist: {path}")
        if journal.applied(self._fault["patch"], live):
            return Proof(self._id, None, None, "its fault changes nothing: cannot fail")
        live = {"apiVersion": target["api_version"], "kind": target["kind"], **live}
        entry = journal.restoring(live, self._fault["patch"], self._fault["restart"])
        self._notes.add(self._id, entry)
        broken = time.monotonic()
        try:
            self._api.merge(path, self._fault["patch"])
            if selector := self._fault["restart"]:
                self._restarted(lambda: self._api.restart(target["namespace"], selector))
            red, since = self._until(False, RED_S)
            red_s = since - broken
        finally:
            began = time.monotonic()
            self._restarted(lambda: self._restore(entry), wait=not self._stop.is_set())
            self._notes.drop(self._id)
        after, since = self._until(True, GREEN_S)
        green_s = since - began
        if red.ok:
            return Proof(self._id, None, green_s, f"cannot fail: still green, {red.detail}")
        if not after.ok:
            words = f"not green {GREEN_S:.0f} s after the fault's end: {after.detail}"
            return Proof(self._id, red_s, None, words)
        return Proof(self._id, red_s, green_s, red.detail)

    def _restore(self, entry: Object) -> None:
        """Restore, again if need be: the fault may have hit a webhook that must admit this."""
        deadline = time.monotonic() + _RESTORE_S
        while True:
            try:
                return journal.restore(self._api, entry)
            except ApiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)  # not _pause: an interrupt must not keep it from restoring

    def _restarted(self, change: Callable[[], None], *, wait: bool = True) -> None:
        """Do what deletes pods, and wait for the new ones.

        While they start every check is red, which proves nothing about the fault. When the fault
        is that they do not start, the wait ends by its time.
        """
        selector = self._fault["restart"]
        began = time.time()
        change()
        deadline = time.monotonic() + _PODS_S
        while selector and wait and time.monotonic() < deadline:
            if self._api.pods_ready(self._target["namespace"], selector, began):
                return
            self._pause(0.5)

    def _until(self, ok: bool, seconds: float) -> tuple[Answer, float]:
        """Ask until the answer is `ok`, a red one twice running; the last answer, and since when.

        The time is of the monotonic clock.
        """
        deadline = time.monotonic() + seconds
        first: float | None = None
        while True:
            answer = self._probes.ask(self._check)
            now = time.monotonic()
            if answer.ok is not ok:
                first = None
            elif ok or first is not None:
                return answer, first or now
            else:
                first = now
            if now > deadline and first is None:
                return answer, now
            self._pause(0.5)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped


def of_drift(rehearsal: Rehearsal, api: Api, objects: Sequence[drift.Declared], name: str) -> Proof:
    """Change, then delete, a declared disruption budget: both must be named, with kind and name."""
    budgets = [item for item in objects if item.body["kind"] == "PodDisruptionBudget"]
    if not budgets:
        return Proof(name, None, None, "the estate declares no PodDisruptionBudget to delete")
    chosen = budgets[0]
    path = api.path_of(chosen.body)
    live = api.get(path)
    if live is None:
        return Proof(name, None, None, f"red before anything was broken: {path} is missing")
    live = {"apiVersion": chosen.body["apiVersion"], "kind": chosen.body["kind"], **live}
    notes = journal.Journal(journal_file(rehearsal))
    limit = "minAvailable" if "minAvailable" in live["spec"] else "maxUnavailable"
    began = time.monotonic()
    seen: list[str] = []
    for patch in ({"spec": {limit: 0 if live["spec"][limit] != 0 else 1}}, None):
        entry = journal.restoring(live, patch, None)
        notes.add(name, entry)
        try:
            if patch is None:
                api.request("DELETE", path)
            else:
                api.merge(path, patch)
            seen += [f"{one.where} {one.what}" for one in drift.find(api, [chosen])]
            red_s = time.monotonic() - began
        finally:
            ended = time.monotonic()
            journal.restore(api, entry)
            notes.drop(name)
    green_s = time.monotonic() - ended
    if len(seen) != 2 or limit not in seen[0] or "deleted" not in seen[1]:
        return Proof(name, None, green_s, f"cannot fail: named was {seen or 'nothing'}")
    return Proof(name, red_s, green_s, "; ".join(seen)[:240])


def of_ready(api: Api, name: str) -> Proof:
    """Delete a pod of the Deployment with most: it must be missed until another is Ready."""
    spaces = workloads.namespaces(api)
    deployments = [
        body
        for body in api.items("apps/v1", "Deployment")
        if body["metadata"]["namespace"] in spaces and body["spec"].get("replicas", 1) > 0
    ]
    if not deployments:
        return Proof(name, None, None, "the estate declares no Deployment")
    chosen = max(deployments, key=lambda body: int(body["spec"].get("replicas", 1)))
    metadata, labels = chosen["metadata"], chosen["spec"]["selector"]["matchLabels"]
    path = api.path("v1", "Pod", metadata["namespace"])
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    pods = api.request("GET", path, query={"labelSelector": selector})["items"]
    began = time.monotonic()
    api.request("DELETE", f"{path}/{pods[0]['metadata']['name']}")
    said, red_s = _lacking(api, True, RED_S)
    ended = time.monotonic()
    if not said:
        return Proof(name, None, None, "cannot fail: green though a pod was deleted")
    still, green_s = _lacking(api, False, GREEN_S)
    if still:
        return Proof(name, red_s - began, None, f"not green again: {still}")
    return Proof(name, red_s - began, green_s - ended, said)


def _lacking(api: Api, wanted: bool, seconds: float) -> tuple[str, float]:
    """What is not ready as soon as there is something (or nothing) of it, and when."""
    deadline = time.monotonic() + seconds
    while True:
        _, lacking = workloads.unready(api)
        now = time.monotonic()
        if bool(lacking) is wanted or now > deadline:
            return ", ".join(lacking)[:240], now
        time.sleep(0.3)
