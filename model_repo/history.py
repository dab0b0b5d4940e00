"""Which versions a `model.yaml` declared before, from Git."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from model_repo.declared import Place, Served
from rehearsal.errors import EstateError


@dataclass(frozen=True)
class Past:
    """What the file declared in a commit."""

    commit: str
    declared: dict[Place, Served]


def own(file: Path) -> list[Past]:
    """The file's states on this branch, the newest first; a merge counts as one.

    What was written and replaced within one merge request was declared nowhere. Raises EstateError.
    """
    return _at(file, _commits(file, "--first-parent"))


def recent(file: Path, count: int) -> list[Past]:
    """The file's last states on every branch that is known here, and at each branch's tip.

    Raises EstateError; also when the history was fetched in part, for then nobody knows.
    """
    if _git(file.parent, "rev-parse", "--is-shallow-repository").strip() != b"false":
        raise EstateError(
            "the Git history", "was fetched in part (shallow)", "run: git fetch --unshallow"
        )
    tips = _git(file.parent, "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/remotes")
    commits = _commits(file, "--all", "--full-history", f"--max-count={count}")
    return _at(file, list(dict.fromkeys([*commits, *tips.decode().split()])))


def shallow(folder: Path) -> bool:
    """Whether the history was fetched in part. Raises EstateError."""
    return _git(folder, "rev-parse", "--is-shallow-repository").strip() != b"false"


def _commits(file: Path, *how: str) -> list[str]:
    listed = _git(file.parent, "log", "--format=%H", *how, "--", file.name)
    return listed.decode().split()


def _at(file: Path, commits: Sequence[str]) -> list[Past]:
    """The file in these commits; those that lack it are left out."""
    asked = "".join(f"{commit}:./{file.name}\n" for commit in commits)
    answer = _git(file.parent, "cat-file", "--batch", given=asked.encode())
    found, at = [], 0
    for commit in commits:
        end = answer.index(b"\n", at)
        head, at = answer[at:end].split(), end + 1
        if len(head) == 3 and head[1] == b"blob":
            size = int(head[2])
            found.append(Past(commit, _declared(answer[at : at + size])))
            at += size + 1
    return found


def _declared(content: bytes) -> dict[Place, Served]:
    """What a file declared, whatever else was in it: its other keys may be of an older form.

    One that nobody could read was served nowhere.
    """
    try:
        value = yaml.safe_load(content.decode())
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    found: dict[Place, Served] = {}
    for kind in ("environments", "edge_groups"):
        entries: Any = value.get(kind) if isinstance(value, dict) else None
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            try:
                found[Place(kind, str(name))] = Served.model_validate(entry)
            except ValidationError:
                continue
    return found


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False)
    except OSError as error:
        raise EstateError(
            "git", error.strerror or str(error), "install it: what was declared before is its"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise EstateError(
            f"git {arguments[0]} of {folder}", said[0][:200], "run it in a clone of the repository"
        )
    return done.stdout
