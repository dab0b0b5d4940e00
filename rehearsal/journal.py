"""Breaking an object and restoring it exactly, also after a kill -9 in between.

Before anything is patched, what restores it is written to the rehearsal's folder; the next
`verify` or `up` that finds such a file restores first. The notes of who owns which field are put
back too: a later `pulumi up` must not meet a conflict with a proof that is long over.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from rehearsal import paths
from rehearsal.kube import Api, ApiError, Object
from rehearsal.processes import running


def inverse(patch: Mapping[str, Any], original: Mapping[str, Any]) -> Object:
    """The JSON merge patch that takes `patch` back on an object that was `original`."""
    back: Object = {}
    for key, value in patch.items():
        if key not in original:
            back[key] = None
        elif isinstance(value, Mapping) and isinstance(original[key], Mapping):
            back[key] = inverse(value, original[key])
        else:
            back[key] = copy.deepcopy(original[key])
    return back


def applied(patch: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether an object has every value that a JSON merge patch gives (null: no such field)."""
    for key, value in patch.items():
        if value is None:
            if live.get(key) is not None:
                return False
        elif isinstance(value, Mapping) and isinstance(live.get(key), Mapping):
            if not applied(value, live[key]):
                return False
        elif live.get(key) != value:
            return False
    return True


class Journal:
    """What must be restored, by the check's id; one file, readable by its owner only."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._entries: dict[str, Object] = {}
        self._lock = threading.Lock()

    def add(self, name: str, entry: Object) -> None:
        """Write an entry down; it is on the disk when this returns."""
        with self._lock:
            self._entries[name] = entry
            self._write()

    def drop(self, name: str) -> None:
        """Forget an entry that was restored; the last one takes the file along."""
        with self._lock:
            self._entries.pop(name, None)
            self._write()

    def _write(self) -> None:
        if not self._entries:
            self.file.unlink(missing_ok=True)
            return
        own = psutil.Process()
        value = {"pid": own.pid, "started": own.create_time(), "entries": self._entries}
        paths.replace(self.file, json.dumps(value), mode=0o600, durable=True)

    @staticmethod
    def left_behind(file: Path) -> dict[str, Object]:
        """The entries of a proof whose process is gone; none while it still runs."""
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            entries: dict[str, Object] = value["entries"]
        except (OSError, ValueError, KeyError):
            return {}
        try:
            process = running(value["pid"])
            if process is not None and abs(process.create_time() - value["started"]) < 1.0:
                return {}
        except (psutil.NoSuchProcess, KeyError):
            pass
        return entries


def restoring(live: Object, patch: Mapping[str, Any] | None, restart: str | None) -> Object:
    """The journal's entry for an object; `patch` None: it is about to be deleted."""
    return {
        **_of(live),
        "back": inverse(patch, live) if patch is not None else None,
        "object": _to_create(live) if patch is None else None,
        "managed": live["metadata"].get("managedFields", []),
        "restart": restart,
    }


def making(body: Object) -> Object:
    """The journal's entry for an object that is about to be made: restoring deletes it."""
    return {**_of(body), "back": None, "object": None}


def _of(body: Object) -> Object:
    """Which object an entry is about."""
    metadata = body["metadata"]
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
    }


def restore(api: Api, entry: Mapping[str, Any]) -> None:
    """Make an object as it was. Raises ApiError; may be repeated."""
    path = api.path(entry["apiVersion"], entry["kind"], entry["namespace"], entry["name"])
    if entry["back"] is None and entry["object"] is None:
        if api.get(path) is not None:
            api.request("DELETE", path)
        return
    if entry["back"] is not None:
        api.merge(path, entry["back"])
    elif api.get(path) is None:
        api.request("POST", path.rpartition("/")[0], entry["object"])
    live = api.get(path)
    assert live is not None
    # Status is the controllers' own and has moved on; all else as before.
    current = live["metadata"].get("managedFields", [])
    status = [note for note in current if note.get("subresource")]
    before = [note for note in entry["managed"] if not note.get("subresource")]
    if before:
        api.merge(path, {"metadata": {"managedFields": before + status}})
    if entry["restart"]:
        api.restart(entry["namespace"], entry["restart"])


def _to_create(live: Object) -> Object:
    servers = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
    metadata = {key: value for key, value in live["metadata"].items() if key not in servers}
    body = {key: value for key, value in live.items() if key not in ("status", "metadata")}
    return {**body, "metadata": metadata}


def restore_all(api: Api, file: Path) -> tuple[list[str], dict[str, ApiError]]:
    """Restore what a killed proof left behind: ids restored, and those that could not be."""
    restored: list[str] = []
    failed: dict[str, ApiError] = {}
    entries = Journal.left_behind(file)
    for name, entry in entries.items():
        try:
            restore(api, entry)
            restored.append(name)
        except ApiError as error:
            failed[name] = error
    if entries and not failed:
        file.unlink(missing_ok=True)
    return restored, failed
