"""`./estate backup` writes a backup; `./estate restore` brings one back and compares."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rehearsal import console, provenance
from rehearsal.backup.estate import Subject, ask, back, folder_of, quiet, subject
from rehearsal.clients import Clients, exclusive
from rehearsal.errors import EstateError
from rehearsal.progress import BackupBars
from services.backup import BackupError, databases
from services.backup import folder as backups
from services.backup.folder import Backup, Progress, Writer

COPIES = 3
"""What is restored lies on three instances, brokers or OSDs, all on this machine's disk."""
_CHECKS = ("estate_verify",)
"""Tables that checks write."""
_SHOWN = 20


def backup(name: str, to_folder: Path | None) -> int:
    """Back a rehearsal up; returns the exit code."""
    with words():
        found = subject(name)
        with exclusive(found.rehearsal, "backup"), found.rehearsal.locked(), BackupBars() as bars:
            made = make(found, folder_of(to_folder), bars)
    _describe(made)
    console.say(f"restore it: ./estate restore --to {name} --from {made.folder}")
    return 0


def restore(to: str, from_: Path | None, replace: bool) -> int:
    """Restore a backup into a rehearsal and compare; 1 when something differs."""
    with words():
        source = backups.open_(newest(folder_of(None)) if from_ is None else from_.absolute())
        found = subject(to)
        with exclusive(found.rehearsal, "restore"), found.rehearsal.locked(), BackupBars() as bars:
            wrong = put(found, source, bars, replace=replace)
    _describe(source)
    for line in wrong[:_SHOWN]:
        console.warn(line)
    if wrong:
        console.say(f"[red]{len(wrong)} differences[/] after the restore into {to}")
        return 1
    console.say(f"[green]0 differences[/]: {to} has what {source.folder.name} has")
    console.say(f"look at all of it: ./estate verify --name {to}")
    return 0


# -- the work ------------------------------------------------------------------------------------


def make(found: Subject, parent: Path, progress: Progress) -> Backup:
    """A backup of a rehearsal in a new folder below `parent`. Raises EstateError, BackupError."""
    name = found.rehearsal.name
    _remove_partial(parent, name)
    target = parent / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    began = time.time()
    server = found.server()
    names = databases.databases(server)
    with found.clients() as worker:
        sizes = ask(worker, "sizes", progress)
        needed = databases.size(server, names) + int(sizes["bytes"])
        backups.room(parent, needed, "the backup")
        partial = backups.begin(target)
        try:
            # Kafka first, objects last: what arrives meanwhile is taken twice, never half.
            saved = _databases_between(found, worker, partial, names, progress)
            return Backup(
                target,
                backups.seal(
                    partial,
                    target,
                    {
                        "rehearsal": name,
                        "began": began,
                        "ended": time.time(),
                        "facts": provenance.facts(),
                        "profiles": found.rehearsal.required().profiles,
                        **saved,
                    },
                ),
            )
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _databases_between(
    found: Subject, worker: Clients, partial: Path, names: list[str], progress: Progress
) -> dict[str, Any]:
    writer = Writer(partial)
    inside = ask(worker, "save", progress, folder=str(partial), what="kafka")
    postgres = databases.save(
        found.server(), names, found.left_out, writer, _named("databases", progress)
    )
    rest = ask(worker, "save", progress, folder=str(partial), what="objects")
    parts = {**inside["parts"], "postgres": postgres, **rest["parts"]}
    return {"parts": parts, "files": {**inside["files"], **writer.files, **rest["files"]}}


def put(found: Subject, source: Backup, progress: Progress, *, replace: bool) -> list[str]:
    """Restore a backup and return what differs afterwards, in words.

    Nothing is changed before all that can be refused was looked at. Raises EstateError and
    BackupError.
    """
    rehearsal = found.rehearsal
    _parts_fit(found, source)
    backups.check(source, progress)
    backups.room(rehearsal.folder, COPIES * source.bytes, "the restored data")
    note = rehearsal.folder / "restoring.json"
    parts, postgres = source.parts, source.parts["postgres"]
    with found.clients() as worker:
        present = ask(worker, "data", progress, parts=_of_inside(parts))["found"]
        present += _rows(found)
        if present and not replace and not goes_on(note, source):
            raise EstateError(
                f"rehearsal {rehearsal.name}",
                f"holds data: {', '.join(present[:5])}",
                "restore into a new one, or add --replace, which deletes what is there",
            )
        note.write_text(json.dumps({"backup": source.manifest["ended"]}))
        with quiet(rehearsal, console.step):
            server = found.server()
            kept = _kept(found)
            databases.restore(server, source.folder, postgres, kept, _named("databases", progress))
            ask(worker, "restore", progress, folder=str(source.folder), parts=_of_inside(parts))
            wrong = databases.compare(server, postgres, _named("databases read back", progress))
            wrong += ask(
                worker, "compare", progress, folder=str(source.folder), parts=_of_inside(parts)
            )["wrong"]
            databases.open_(server, postgres)
    back(rehearsal)
    note.unlink()
    for file in kept.values():
        file.unlink(missing_ok=True)
    return wrong


def _of_inside(parts: Any) -> dict[str, Any]:
    return {key: parts[key] for key in ("kafka", "objects") if key in parts}


def _kept(found: Subject) -> dict[str, Path]:
    """Dumps of what a backup leaves out of a database and this rehearsal has."""
    kept = {}
    for database, schemas in found.left_out.items():
        kept[database] = found.rehearsal.folder / f"kept-{database}.dump"
        databases.keep(found.server(), database, schemas, kept[database])
    return kept


def _parts_fit(found: Subject, source: Backup) -> None:
    """Refuse a backup with what this rehearsal lacks."""
    name = found.rehearsal.name
    if "objects" in source.parts and found.environment.ceph is None:
        raise EstateError(
            f"rehearsal {name}",
            "has no object store, and the backup has objects",
            f"bring it: ./estate up --name {name} --profile lake",
        )
    there = databases.databases(found.server())
    for database in source.parts["postgres"]["databases"]:
        if database not in there:
            raise EstateError(
                f"database {database}",
                f"is in the backup and not in rehearsal {name}",
                "declare it in postgres.databases, run up, then restore again",
            )


def _rows(found: Subject) -> list[str]:
    """Tables with rows that no check and no bookkeeping of a new rehearsal writes."""
    server = found.server()
    main = found.environment.postgres
    database = main.database if main is not None else ""
    present = databases.rows(server, database, lambda _, table: table in _CHECKS)
    return [f"table {database}.{one}" for one in present]


def goes_on(note: Path, source: Backup) -> bool:
    """Whether a restore of this very backup was interrupted here."""
    try:
        return bool(json.loads(note.read_text())["backup"] == source.manifest["ended"])
    except (OSError, ValueError, KeyError):
        return False


def _remove_partial(parent: Path, name: str) -> None:
    """What a killed backup of this rehearsal left; the rehearsal's lock says that none runs."""
    for left in parent.glob(f".{name}-*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def newest(parent: Path) -> Path:
    """The backup that was made last. Raises EstateError when there is none."""
    found = parent.glob(f"*/{backups.MANIFEST}")
    whole = [one.parent for one in found if not one.parent.name.startswith(".")]
    if not whole:
        raise EstateError(
            f"folder {parent}", "has no backup", "run ./estate backup, or give --from"
        )
    return max(whole, key=lambda one: (one / backups.MANIFEST).stat().st_mtime)


def _named(part: str, progress: Progress) -> Progress:
    return lambda row, done, total: progress(f"{part}: {row}", done, total)


@contextlib.contextmanager
def words() -> Iterator[None]:
    """Errors of the backup's own as one line for the user."""
    try:
        yield
    except BackupError as error:
        raise EstateError(error.thing, error.value, error.way_out) from None


def _describe(made: Backup) -> None:
    kafka, postgres = made.parts["kafka"], made.parts["postgres"]
    messages = sum(one["records"] for kept in kafka["topics"].values() for one in kept)
    rows = sum(
        int(table[0]) for one in postgres["databases"].values() for table in one["tables"].values()
    )
    lines = [
        ("messages", messages, f"{len(kafka['topics'])} topics, {len(kafka['groups'])} groups"),
        ("rows", rows, f"{len(postgres['databases'])} databases"),
    ]
    if (objects := made.parts.get("objects")) is not None:
        versions = sum(one["versions"] for one in objects["buckets"].values())
        lines.append(("versions of objects", versions, f"{len(objects['buckets'])} buckets"))
    seconds = made.manifest["ended"] - made.manifest["began"]
    title = f"{made.folder} ({made.bytes / 2**20:.1f} MiB, made in {seconds:.0f} s)"
    console.table(title, ("what", "how many", "of"), lines)
