"""Finished annotations as a new dataset version, which names the one that was sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from services.annotation.look import Seen, coco, look
from services.annotation.server import Supervisely, Trouble
from services.annotation.settings import Settings
from services.pipeline import datasets
from services.pipeline.datasets import Version
from services.pipeline.ports import Objects

_SHOWN = 5


@dataclass(frozen=True)
class FetchReport:
    """The version with the annotations (none while nothing is finished), and if it is a new one."""

    version: str | None
    new: bool
    images: int
    annotations: int
    unfinished: int


def fetch(version: Version, store: Objects, server: Supervisely, settings: Settings) -> FetchReport:
    """Store what is finished. The same annotations are the same version, so twice is once.

    Raises Trouble, and makes no version, when a label would be lost: of a class that is not
    declared, or of a shape that COCO has not.
    """
    seen = look(version, server, settings)
    if seen.place is None:
        raise Trouble(f"dataset {version.name}/{version.digest}: never sent; send it first")
    if seen.problems:
        more = f" and {len(seen.problems) - _SHOWN} more" if len(seen.problems) > _SHOWN else ""
        raise Trouble(
            f"{'; '.join(seen.problems[:_SHOWN])}{more}: declare it under classes, or correct it "
            "in Supervisely"
        )
    if not seen.finished:
        return FetchReport(None, False, 0, 0, seen.unfinished)
    return _stored(version, seen, store, coco(version, seen, server, settings))


def _stored(version: Version, seen: Seen, store: Objects, document: Any) -> FetchReport:
    content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(content).hexdigest()
    named = {"key": f"{version.name}/annotations/{digest}.json", "sha256": digest, "format": "coco"}
    chosen = [entry for entry in version.entries if str(entry["sha256"]) in seen.finished]
    manifest = datasets.manifest(version.name, chosen, parent=version.digest, annotations=named)
    made = hashlib.sha256(manifest).hexdigest()
    new = (version.name, made) not in datasets.versions(store, version.name)
    if new:
        # The manifest last: what it names is there.
        store.put(named["key"], content, "application/json")
        datasets.create(store, version.name, chosen, parent=version.digest, annotations=named)
    pointer = json.dumps({"version": made}).encode()
    if _pointer(store, version) != pointer:
        store.put(_pointer_key(version), pointer, "application/json")
    return FetchReport(made, new, len(chosen), len(document["annotations"]), seen.unfinished)


def last_fetched(version: Version, store: Objects) -> tuple[str, dict[str, Any]] | None:
    """The version that was fetched last of one that was sent, and its COCO. Raises Trouble."""
    pointer = _pointer(store, version)
    if pointer is None:
        return None
    digest = str(json.loads(pointer)["version"])
    try:
        found = datasets.show(store, version.name, digest)
        assert found.annotations is not None
        content = store.get(str(found.annotations["key"]))
    except (LookupError, datasets.BadManifest) as error:
        raise Trouble(f"dataset {version.name}/{digest}: {error}; fetch it again") from None
    if hashlib.sha256(content).hexdigest() != found.annotations["sha256"]:
        raise Trouble(f"dataset {version.name}/{digest}: its annotations have other bytes")
    return digest, json.loads(content)


def _pointer_key(version: Version) -> str:
    return f"{version.name}/annotations/of-{version.digest}.json"


def _pointer(store: Objects, version: Version) -> bytes | None:
    try:
        return store.get(_pointer_key(version))
    except LookupError:
        return None
