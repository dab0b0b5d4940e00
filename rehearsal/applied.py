"""What the last `up` was given and left, so that the next one sees when nothing is to do.

Pulumi needs seven seconds to find that out: it starts the program, the engine and the provider, and
hands every resource through all three; images, cluster and node take another. The same inputs give
the same estate; that it still is as declared is looked at each time all the same.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.schema import Environment, secret_refs
from rehearsal import drift, paths
from rehearsal.pulumi import State
from rehearsal.rehearsal import Rehearsal

_PROGRAM = ("components", "configs", "model_repo", "policies", "rehearsal", "services", "stacks")
_SUFFIXES = (
    *(".py", ".yaml", ".toml", ".json", ".lock", ".mod", ".sum"),
    *(".html", ".js", ".css", ".sql"),
)


@dataclass(frozen=True)
class Applied:
    """A `pulumi up` that ended well: digest of what it was given, its checkpoint, its outputs.

    `objects` are those it declares, their secrets sealed: to read them from Pulumi's state takes as
    long as all the rest of an `up` without changes.
    """

    digest: str
    checkpoint: Sequence[int]
    checks: list[dict[str, Any]]
    links: dict[str, str]
    objects: list[dict[str, Any]]

    def declared(self, rehearsal: Rehearsal) -> list[drift.Declared]:
        """What to compare the cluster with."""
        return drift.unseal(self.objects, _key(rehearsal))


def note(rehearsal: Rehearsal, given: str, state: State) -> None:
    """Write down that what has the digest `given` was applied.

    It is taken before Pulumi starts: what is edited while it runs was not applied.
    """
    applied = Applied(
        given,
        _checkpoint(rehearsal),
        state.outputs.get("checks") or [],
        state.outputs.get("links") or {},
        drift.seal(drift.declared(state.resources), _key(rehearsal)),
    )
    paths.replace(_file(rehearsal), json.dumps(asdict(applied)))


def forget(rehearsal: Rehearsal) -> None:
    """Remove the note, before what it says is changed."""
    _file(rehearsal).unlink(missing_ok=True)


def last(rehearsal: Rehearsal) -> Applied | None:
    """What was applied last; None when it is not known."""
    try:
        return Applied(**json.loads(_file(rehearsal).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def unchanged(rehearsal: Rehearsal, environment: Environment) -> Applied | None:
    """What was applied last, if the same would be applied now; None: Pulumi must find out.

    A `pulumi` that a person called in between has left another checkpoint. Secrets of other sources
    than files and the environment may have changed: only Pulumi's own way asks for them.
    """
    if any(ref.file is None and ref.env is None for _, ref in secret_refs(environment)):
        return None
    applied = last(rehearsal)
    if applied is None or list(applied.checkpoint) != _checkpoint(rehearsal):
        return None
    return applied if applied.digest == digest(rehearsal, environment) else None


def _key(rehearsal: Rehearsal) -> bytes:
    """Of the seals: who has it can read the state itself."""
    return (rehearsal.folder / "pulumi" / "passphrase").read_bytes()


def _file(rehearsal: Rehearsal) -> Path:
    return rehearsal.folder / "applied.json"


def _checkpoint(rehearsal: Rehearsal) -> list[int]:
    """Size and time of each checkpoint in the backend."""
    stacks = rehearsal.folder / "pulumi" / "state" / ".pulumi" / "stacks"
    found = [file.stat() for file in sorted(stacks.rglob("*.json"))]
    return [value for stat in found for value in (stat.st_size, stat.st_mtime_ns)]


def digest(rehearsal: Rehearsal, environment: Environment) -> str:
    """SHA-256 of all that `up` is given."""
    found = hashlib.sha256()
    for name, content in _inputs(rehearsal, environment):
        # The lengths keep one input's end from being read as the next one's beginning.
        found.update(f"{name} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def _inputs(rehearsal: Rehearsal, environment: Environment) -> Iterator[tuple[str, bytes]]:
    """All that the program and the rehearsal read, and the tools that run them."""
    # Debian's packages of the images are looked up once a day.
    yield "day", datetime.date.today().isoformat().encode()
    root = paths.root()
    files = [root / "Pulumi.yaml", root / "requirements.lock"]
    for folder in _PROGRAM:
        files += sorted(file for file in (root / folder).rglob("*") if file.suffix in _SUFFIXES)
    for file in files:
        yield str(file.relative_to(root)), file.read_bytes()
    # Where its pages lead follows from what was applied.
    yield "record", json.dumps(asdict(rehearsal.required()) | {"routes": {}}).encode()
    for name in ("tools.json", "images.json"):
        yield name, (rehearsal.folder / name).read_bytes()
    models = rehearsal.folder / "models.json"
    yield models.name, models.read_bytes() if models.exists() else b""
    for path, ref in secret_refs(environment):
        if ref.file is not None:
            yield path, (rehearsal.folder / "secrets" / ref.file).read_bytes()
        elif ref.env is not None:
            yield path, os.environ.get(ref.env, "").encode()
