"""The rehearsal's secrets: one file each, made at the first `up`, mode 0600, outside Git."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from rehearsal import paths


def ensure(folder: Path, names: Iterable[str]) -> list[str]:
    """Make the secret files that are missing below a folder; returns the names of the new ones.

    Each is 32 URL-safe characters (192 bits), so that no tool needs to quote it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for name in names:
        path = folder / name
        if path.exists() and path.stat().st_size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths.replace(path, secrets.token_urlsafe(24) + "\n", mode=0o600)
        made.append(name)
    return made
