"""The restore rehearsal: markers written, backed up, everything wiped, restored, compared.

The rehearsal itself is taken away (`down`) and made anew (`up`), with other passwords and another
authority; what comes back comes from the backup alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rehearsal import access, console, provenance
from rehearsal.backup import commands as work
from rehearsal.backup.estate import Subject, folder_of, subject
from rehearsal.clients import Clients, exclusive
from rehearsal.drills import markers
from rehearsal.drills.harness import is_green, need_green
from rehearsal.drills.up_command import run_up
from rehearsal.errors import EstateError
from rehearsal.progress import BackupBars
from rehearsal.rehearsal import Rehearsal

NAME = "restore"
TITLE = "markers written, backed up, everything wiped, restored, compared one by one"


def run(name: str, out: Path | None) -> int:
    """Rehearse it on a rehearsal, which is made anew; 0 when nothing differs."""
    with work.words():
        figures = perform(name, console.say)
    provenance.write(out, f"drill {NAME}", **figures)
    console.table(
        TITLE,
        ("what", "how many"),
        [
            *((f"markers: {what}", count) for what, count in figures["markers"].items()),
            *((what, f"{seconds:.0f} s") for what, seconds in figures["seconds"].items()),
            ("differences", len(figures["differences"])),
            ("found after one of each was changed", figures["spoilt_found"]),
        ],
    )
    for line in figures["differences"][:20]:
        console.warn(line)
    if figures["met"]:
        shutil.rmtree(figures["backup"], ignore_errors=True)
        return 0
    console.warn(f"the backup is kept: {figures['backup']}")
    return 1


def perform(name: str, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it; returns the figures. Raises EstateError and BackupError."""
    found = subject(name)
    need_green(found.rehearsal)
    seed, now_ms = int(time.time()), markers.now_ms()
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    with exclusive(found.rehearsal, "drill"):
        with _clients(found, seed, now_ms) as worker:
            counted = _ask(worker, "write")["counted"]
            wrong = _ask(worker, "read")["wrong"]
        if wrong:
            raise EstateError("drill restore", f"before the backup: {wrong[0]}", "run it again")
        say(f"  wrote {', '.join(f'{count} {what}' for what, count in counted.items())}")
        clock.begin()
        with found.rehearsal.locked(), BackupBars() as bars:
            made = work.make(found, folder_of(None), bars)
        clock.end("backup")
    say(f"  wiping rehearsal {name}; the backup is {made.folder}")
    clock.begin()
    again = _anew(found.rehearsal)
    clock.end("wiped and up again")
    clock.begin()
    with again.rehearsal.locked(), BackupBars() as bars:
        differences = work.put(again, made, bars, replace=False)
    clock.end("restore and compare")
    with _clients(again, seed, now_ms) as worker:
        differences += _ask(worker, "read")["wrong"]
        # A comparison that finds nothing has to be one that finds something.
        changes = int(_ask(worker, "spoil")["changes"])
        spoilt = len(_ask(worker, "read")["wrong"])
        _ask(worker, "remove")
    say("  waiting for green")
    green = is_green(again.rehearsal)
    return {
        "backup": str(made.folder),
        "bytes": made.bytes,
        "markers": counted,
        "seconds": {what: round(took, 1) for what, took in seconds.items()},
        "differences": differences,
        "spoilt": changes,
        "spoilt_found": spoilt,
        "green": green,
        "met": not differences and spoilt == changes and green,
    }


class _Clock:
    """Seconds of what is done, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._began = seconds, 0.0

    def begin(self) -> None:
        """From here."""
        self._began = time.monotonic()

    def end(self, what: str) -> None:
        """To here."""
        self._seconds[what] = time.monotonic() - self._began


def _anew(rehearsal: Rehearsal) -> Subject:
    """Take a rehearsal away and bring it up with the same profiles and ports."""
    record = rehearsal.required()
    with rehearsal.locked():
        rehearsal.destroy()
        fresh = Rehearsal(rehearsal.name)
        fresh.prepare(record.mode, record.reason, record.port_base)
        fresh.add_profiles(record.profiles)
    code, _ = run_up(fresh)
    if code != 0:
        raise EstateError(
            f"rehearsal {rehearsal.name}",
            f"did not come up again ({code})",
            f"see {fresh.folder / 'logs' / 'drill-up.log'}; then ./estate restore --to "
            f"{rehearsal.name}",
        )
    return subject(rehearsal.name)


def _clients(found: Subject, seed: int, now_ms: int) -> Clients:
    lake = found.environment.ceph is not None
    key = access.lake_secret(found.rehearsal, "s3-backup", "secret-key") if lake else ""
    return Clients(
        found.rehearsal,
        "rehearsal.drills.markers",
        access.of(found.rehearsal),
        {"seed": seed, "now_ms": now_ms, "s3_key": key},
    )


def _ask(worker: Clients, order: str) -> dict[str, Any]:
    worker.send(order)
    return worker.wait_for(order, 300)
