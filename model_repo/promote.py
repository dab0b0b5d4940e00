"""Another version for an environment or an edge group: verified first, then written to model.yaml.

Nothing is deployed here: the file is what a merge request shows and what `up` applies.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_repo import declared, edit, history, version
from model_repo.declared import REHEARSAL, DeclaredModel, Place, Served
from model_repo.oci import NotThere, OciError
from model_repo.repository import Repository, Stored
from rehearsal import paths
from rehearsal.errors import EstateError, UsageError


@dataclass(frozen=True)
class Edit:
    """What a file is to become. `changes`: place -> version before, if any, and after."""

    file: Path
    before: bytes
    after: bytes
    changes: dict[Place, tuple[Served | None, Served]]

    @property
    def diff(self) -> str:
        """As Git shows it; empty when nothing changes."""
        name = _shown(self.file)
        lines = difflib.unified_diff(
            self.before.decode().splitlines(keepends=True),
            self.after.decode().splitlines(keepends=True),
            f"a/{name}",
            f"b/{name}",
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self) -> None:
        """Write the file, whole or not at all, unless nothing changes. Raises EstateError."""
        if self.before == self.after:
            return
        if self.file.read_bytes() != self.before:
            raise EstateError(str(self.file), "was edited meanwhile", "run the same command again")
        mode = self.file.stat().st_mode & 0o777
        # A link stays one: what it leads to is replaced.
        target = self.file.resolve()
        paths.replace(target, self.after.decode(), mode=mode)
        os.chmod(target, mode)


def promoted(
    repository: Repository,
    folder: Path,
    name: str,
    reference: str,
    places: Sequence[Place],
    *,
    new_contract: bool = False,
    new_group: bool = False,
) -> Edit:
    """The edit that gives these places a version. Raises EstateError and OciError.

    An edge group that the file does not have yet is begun with `new_group` alone.
    """
    file, content, model = _read(folder, name)
    _known(places, model.edge_groups, new_group)
    stored = _verified(repository, name, reference)
    return _edit(repository, file, content, model, stored, places, new_contract)


def rolled_back(
    repository: Repository,
    folder: Path,
    name: str,
    places: Sequence[Place],
    *,
    to: int | None = None,
    new_contract: bool = False,
) -> Edit:
    """The edit that gives these places the version that they had before, or `to`, by Git.

    Until it is committed, the same again changes nothing. Raises EstateError and OciError.
    """
    file, content, model = _read(folder, name)
    past = history.own(file)
    targets = {place: _before(file, model, past, place, to) for place in places}
    made = Edit(file, content, content, {})
    for place, served in targets.items():
        stored = _verified(repository, name, str(served.version))
        if served.digest not in (None, stored.digest):
            raise EstateError(
                f"{name} version {served.version}",
                f"is {stored.digest} in the registry, {place} had {served.digest}",
                "find out who replaced it; a version never changes",
            )
        one = _edit(repository, file, made.after, model, stored, [place], new_contract)
        made = Edit(file, content, one.after, made.changes | one.changes)
    return made


def _read(folder: Path, name: str) -> tuple[Path, bytes, DeclaredModel]:
    known = declared.names(folder)
    if name not in known:
        raise UsageError(
            "MODEL", repr(name), f"choose one that is declared: {', '.join(known) or 'none is'}"
        )
    file = folder / name / declared.FILE
    model = declared.read(file)  # says what is wrong with it
    content = file.read_bytes()
    return file, content, model


def _known(places: Sequence[Place], groups: Collection[str], new_group: bool) -> None:
    """An environment that nobody deploys, or a group that is not there, is most likely mistyped."""
    configs = paths.root() / "configs"
    known = sorted(file.name.split(".")[1] for file in configs.glob("Pulumi.*.yaml"))
    for place in places:
        if place.kind == "environments" and place.name not in known:
            raise UsageError("--environment", repr(place.name), f"choose from: {', '.join(known)}")
        if place.kind == "edge_groups" and place.name not in groups and not new_group:
            there = f"choose from: {', '.join(sorted(groups))}" if groups else "the file has none"
            raise UsageError(
                "--edge-group", repr(place.name), f"{there}; or begin that group by --new-group"
            )


def _verified(repository: Repository, name: str, reference: str) -> Stored:
    """A version whose signature and every byte are right, and that has a golden set."""
    stored = repository.verify(name, reference)
    number = stored.version.version
    try:
        numbered = repository.show(name, str(number)).digest
    except NotThere:
        numbered = None
    if numbered != stored.digest:
        raise EstateError(
            f"{name}@{stored.digest}",
            f"says that it is version {number}, and that number leads to {numbered or 'nothing'}",
            "promote a version by its number",
        )
    try:
        repository.golden(stored)
    except NotThere as error:
        raise EstateError(
            error.thing, error.words, "add it to the folder, and `model add` that as a new version"
        ) from None
    return stored


def _edit(
    repository: Repository,
    file: Path,
    content: bytes,
    model: DeclaredModel,
    stored: Stored,
    places: Sequence[Place],
    new_contract: bool,
) -> Edit:
    number, now = stored.version.version, model.places()
    for place, one in now.items():
        if one.version == number and one.digest not in (None, stored.digest):
            raise EstateError(
                f"{stored.version.name} version {number}",
                f"is {stored.digest} in this registry, {place} has {one.digest}",
                "look whether this is the registry that is meant; a version never changes",
            )
    changes: dict[Place, tuple[Served | None, Served]] = {}
    for place in places:
        before = now.get(place)
        _same_contract(repository, stored, place, before, new_contract)
        # A rehearsal's versions carry the commit that they were made at: a digest that is written
        # for it holds on one machine, so it is only kept up where somebody wrote one.
        loose = place == Place("environments", REHEARSAL) and not (before and before.digest)
        after = Served(version=number, digest=None if loose else stored.digest)
        if after != before:
            changes[place] = before, after
    wanted = {place: after for place, (_, after) in changes.items()}
    return Edit(file, content, edit.edited(content, wanted, str(file)), changes)


def _same_contract(
    repository: Repository,
    stored: Stored,
    place: Place,
    before: Served | None,
    new_contract: bool,
) -> None:
    name, number = stored.version.name, stored.version.version
    if before is None or before.version == number or new_contract:
        return
    way_out = "look at what calls it, then add --allow-new-contract"
    try:
        served = repository.show(name, before.digest or str(before.version))
    except OciError as error:
        raise EstateError(
            f"{name} version {before.version}, which {place} has",
            f"cannot be compared with version {number}: {error.words}",
            way_out,
        ) from None
    if found := version.contract(served.version, stored.version):
        raise EstateError(
            f"{name} version {number}",
            f"has another contract than version {before.version}, which {place} has: "
            f"{', '.join(found)}",
            way_out,
        )


def _before(
    file: Path, model: DeclaredModel, past: Sequence[history.Past], place: Place, to: int | None
) -> Served:
    """What a place had before what it has now."""
    now = model.places().get(place)
    if now is None:
        raise UsageError(str(place), "has no version of this model", "see: ./estate model declared")
    if to == now.version:
        return now
    versions = [one.declared.get(place) for one in past]
    if to is not None:
        for one in versions:
            if one is not None and one.version == to:
                return one
        raise EstateError(
            f"version {to}",
            f"{place} never had it{_partly(file)}",
            "choose one that it had, or promote it: model promote",
        )
    head = versions[0] if versions else None
    earlier = _earlier(versions)
    if head is not None and head.version != now.version:
        # Not committed yet: a promotion is undone; what was rolled back already stays.
        return now if earlier is not None and earlier.version == now.version else head
    if earlier is None:
        raise EstateError(
            str(place),
            f"had no version before {now.version}{_partly(file)}",
            "name one by --to, or promote another: model promote",
        )
    return earlier


def _earlier(versions: Sequence[Served | None]) -> Served | None:
    """What came before the newest one was first declared: a second step back goes further back."""
    if not versions or versions[0] is None:
        return None
    same = [i for i, one in enumerate(versions) if one and one.version == versions[0].version]
    return next((one for one in versions[same[-1] :][1:] if one is not None), None)


def _partly(file: Path) -> str:
    return ", in the part of the history that is here" if history.shallow(file.parent) else ""


def _shown(file: Path) -> str:
    absolute = file.resolve()
    return (
        str(absolute.relative_to(paths.root())) if paths.root() in absolute.parents else str(file)
    )
