"""`./estate model promote`, `rollback`, `declared` and `gc`: what model.yaml says, and from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from model_repo import collect, declared, promote
from model_repo.commands import Where, WhereOptions, _told
from model_repo.declared import REHEARSAL, Place, Served
from model_repo.oci import OciError
from model_repo.promote import Edit
from model_repo.repository import Repository
from rehearsal import console, serving_state
from rehearsal.errors import UsageError

_REHEARSAL = Place("environments", REHEARSAL)


def promote_(
    model: str,
    reference: str,
    environments: Sequence[str],
    edge_groups: Sequence[str],
    new_group: bool,
    new_contract: bool,
    folder: Path | None,
    as_json: bool,
    **where: Unpack[WhereOptions],
) -> int:
    """Write a version, once it was verified, to a model's file."""
    wanted = _places(environments, edge_groups)
    at = Where(**where)
    with _told():
        made = promote.promoted(
            at.open(),
            folder or declared.FOLDER,
            model,
            reference,
            wanted,
            new_contract=new_contract,
            new_group=new_group,
        )
        made.write()
    at.note()
    if at.rehearsal is not None and (others := [one for one in made.changes if one != _REHEARSAL]):
        console.warn(
            f"the digest for {' and '.join(map(str, others))} is of the registry of rehearsal "
            f"{at.rehearsal.name}: theirs must have it too (else name theirs by --registry)"
        )
    return _tell(model, made, wanted, as_json)


def rollback(
    model: str,
    environments: Sequence[str],
    edge_groups: Sequence[str],
    to: int | None,
    new_contract: bool,
    folder: Path | None,
    as_json: bool,
    **where: Unpack[WhereOptions],
) -> int:
    """Write the version that was declared before, once it was verified."""
    wanted = _places(environments, edge_groups)
    at = Where(**where)
    with _told():
        repository = at.open()
        made = promote.rolled_back(
            repository,
            folder or declared.FOLDER,
            model,
            wanted,
            to=to,
            new_contract=new_contract,
        )
        made.write()
    at.note()
    return _tell(model, made, wanted, as_json)


def declared_(
    environments: Sequence[str],
    edge_groups: Sequence[str],
    offline: bool,
    folder: Path | None,
    as_json: bool,
    **where: Unpack[WhereOptions],
) -> int:
    """Which version each environment and edge group takes; 1 when one does not verify."""
    only = [Place("environments", name) for name in environments]
    only += [Place("edge_groups", name) for name in edge_groups]
    with _told():
        models = declared.models(folder or declared.FOLDER)
        known = {place for model in models.values() for place in model.places()}
        for place in only:
            if place not in known:
                names = sorted(one.name for one in known if one.kind == place.kind)
                kind = "--environment" if place.kind == "environments" else "--edge-group"
                said = f"no model.yaml names it; there are {', '.join(names) or 'none'}"
                raise UsageError(kind, repr(place.name), said)
        repository = None if offline else Where(**where).open()
        rows = [
            _row(name, place, served, repository)
            for name, model in models.items()
            for place, served in model.places().items()
            if not only or place in only
        ]
    if as_json:
        console.emit_json(rows)
    else:
        console.table(
            "Declared models",
            ("model", "for", "version", "digest", "verifies"),
            [
                (row["model"], row["for"], row["version"], row["digest"] or "-", _verdict(row))
                for row in rows
            ],
        )
    return 1 if any(row["verified"] is False for row in rows) else 0


def gc(
    models: Sequence[str],
    keep: int,
    yes: bool,
    folder: Path | None,
    as_json: bool,
    **where: Unpack[WhereOptions],
) -> int:
    """Show which versions nothing refers to, and delete them with `yes`.

    Of who serves them it asks the rehearsal alone, and only when the registry is its own.
    """
    with _told():
        within = folder or declared.FOLDER
        known = declared.names(within)
        if strange := [name for name in models if name not in known]:
            raise UsageError(
                "MODEL",
                repr(strange[0]),
                f"choose one that is declared: {', '.join(known) or 'none is'}",
            )
        at = Where(**where)
        repository = at.open(writes=True)
        uses = serving_state.uses(at.rehearsal) if at.rehearsal is not None else None
        found = collect.plan(repository, within, models, keep, uses)
        if yes:
            # Before it: one that stayed after all is looked up again.
            at.forget((one.model, one.number) for one in found.going)
            collect.delete(repository, found)
    if as_json:
        console.emit_json(
            {
                "deleted": yes,
                "versions": [
                    {
                        "model": one.model,
                        "version": one.number,
                        "digest": one.digest,
                        "kept": one.kept or None,
                    }
                    for one in found.versions
                ],
                "orphaned_signatures": found.orphans,
            }
        )
        return 0
    console.table(
        "Versions in the registry",
        ("model", "version", "digest", "kept because"),
        [
            (one.model, one.number, one.digest, one.kept or ("deleted" if yes else "nothing: goes"))
            for one in found.versions
        ],
    )
    signatures = sum(len(tags) for tags in found.orphans.values())
    what = f"{len(found.going)} versions" + (
        f" and {signatures} signatures of none" if signatures else ""
    )
    if not found.going and not signatures:
        console.say("nothing to delete")
    elif yes:
        console.say(
            f"deleted {what}; the space is freed by the registry's own garbage collection "
            "(distribution: registry garbage-collect)"
        )
    else:
        console.say(f"--yes deletes {what}")
    return 0


def _places(environments: Sequence[str], edge_groups: Sequence[str]) -> list[Place]:
    found = [Place("environments", name) for name in environments]
    found += [Place("edge_groups", name) for name in edge_groups]
    if not found:
        raise UsageError(
            "--environment", "is not given", "say who takes it: --environment or --edge-group"
        )
    return list(dict.fromkeys(found))


def _tell(model: str, made: Edit, wanted: Sequence[Place], as_json: bool) -> int:
    if as_json:
        console.emit_json(
            {
                "model": model,
                "file": str(made.file),
                "changes": [
                    {
                        "for": str(place),
                        "before": before.model_dump() if before else None,
                        "after": after.model_dump(),
                    }
                    for place, (before, after) in made.changes.items()
                ],
            }
        )
        return 0
    if not made.changes:
        places = " and ".join(map(str, wanted))
        console.say(f"nothing changed: {places} had that version of {model} already, and it holds")
        return 0
    print(made.diff, end="")
    if _REHEARSAL in made.changes:
        console.say("next: ./estate preview, then ./estate up")
    if set(made.changes) - {_REHEARSAL}:
        console.say("next: commit it and open a merge request, whose preview shows what changes")
    return 0


def _row(
    name: str, place: Place, served: Served, repository: Repository | None
) -> dict[str, object]:
    found: dict[str, object] = {
        "model": name,
        "for": str(place),
        "version": served.version,
        "digest": served.digest,
        "verified": None,
        "why": "",
    }
    if served.digest is None and place != _REHEARSAL:
        return found | {"verified": False, "why": "has no digest: model promote writes it"}
    if repository is None:
        return found
    try:
        stored = repository.show(name, served.digest or str(served.version))
    except OciError as error:
        return found | {"verified": False, "why": error.words}
    if stored.version.version != served.version:
        words = f"that digest is of version {stored.version.version}"
        return found | {"verified": False, "why": words}
    return found | {"verified": True, "digest": stored.digest}


def _verdict(row: dict[str, object]) -> str:
    if row["verified"] is None:
        return "not asked"
    return "yes" if row["verified"] else f"no: {row['why']}"
