"""`./estate upload`: images into a rehearsal's lake, by the door that everybody uses."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from components.datalake.transfer_config import BASE_PATH, TOKEN_SECRET
from rehearsal import access, console
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import Rehearsal
from services import sending, tokens

LINK = "upload"
_BATCH_BYTES = 16 << 20
_SHOWN = 20


def run(
    paths: Sequence[Path],
    *,
    name: str,
    batch: bool,
    connections: int | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Send and wait for the receipts; 0 when every image was received."""
    files, left_out = _files(paths)
    if left_out:
        shown = ", ".join(left_out[:_SHOWN]) + (", ..." if len(left_out) > _SHOWN else "")
        console.warn(f"{len(left_out)} left out, hidden or no regular files: {shown}")
    if not files:
        raise UsageError("upload", "no file", "name images, or folders that have some")
    rehearsal = Rehearsal(name)
    door = outer_door(rehearsal, device)
    console.step(f"reading {len(files)} files")
    measured = [sending.measured(path, shown) for path, shown in files]
    jobs = (
        list(sending.batched(measured, _BATCH_BYTES))
        if batch
        else [sending.single(file) for file in measured]
    )
    began = time.monotonic()
    results = _send(door, jobs, sending.UnderWay(rehearsal.folder / "uploads"), connections, batch)
    seconds = time.monotonic() - began
    return _report(results, seconds, as_json)


def print_token(name: str, device: str | None) -> int:
    """Print a token for the page."""
    print(outer_door(Rehearsal(name), device).token())
    return 0


def outer_door(rehearsal: Rehearsal, device: str | None = None) -> sending.Door:
    """The door by the gateway's loopback port. Raises EstateError when there is none."""
    port = rehearsal.pages.get(LINK) if rehearsal.required().mode == "node" else None
    if port is None:
        raise EstateError(
            f"rehearsal {rehearsal.name}",
            "has no image transfer",
            f"run: ./estate up --profile lake --name {rehearsal.name}",
        )
    key = access.lake_secret(rehearsal, TOKEN_SECRET, "tls.key")
    token = access.renewed(lambda: tokens.issue(key.encode(), "estate", device=device))
    url = f"https://127.0.0.1:{port}{BASE_PATH}"
    return sending.Door(url, access.TRANSFER, access.authority(rehearsal), token)


def _files(paths: Sequence[Path]) -> tuple[list[tuple[Path, str]], list[str]]:
    """Every file with the name that it is to have, and the names of what is left out.

    The name is its path below the folder that was named.
    """
    files, left_out = [], []
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                shown = _shown(file.relative_to(path))
                if file.is_file() and not file.name.startswith("."):
                    files.append((file, shown))
                elif not file.is_dir():
                    left_out.append(shown)
        elif path.is_file():
            files.append((path, _shown(Path(path.name))))
        elif path.is_symlink() or path.exists():
            raise UsageError("upload", _shown(path), "it is no regular file; name one, or a folder")
        else:
            raise UsageError("upload", _shown(path), "there is no such file or folder")
    return files, left_out


def _shown(path: Path) -> str:
    """A path as text that can be sent: bytes that are no UTF-8 are escaped."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _send(
    door: sending.Door,
    jobs: Sequence[sending.Job],
    under_way: sending.UnderWay,
    connections: int | None,
    batch: bool,
) -> list[sending.Sent]:
    at: dict[str, int] = {}
    total = sum(job.source.length for job in jobs)
    with console.bars() as bars:
        bytes_ = bars.add_task("sent", total=max(total, 1), note="")
        done = bars.add_task("receipts", total=len(jobs), note="")

        def sent(job: sending.Job, offset: int) -> None:
            at[job.key] = offset
            now = sum(list(at.values()))
            bars.update(bytes_, completed=now, note=f"{now / 1e6:.0f} of {total / 1e6:.0f} MB")

        results = []
        most = connections or (64 if batch else 8)
        sending_all = sending.send_all(door, jobs, under_way, connections=most, sent=sent)
        with contextlib.closing(sending_all):
            for result in sending_all:
                results.append(result)
                bars.update(done, completed=len(results), note=f"{len(results)} of {len(jobs)}")
    return results


def _report(results: Sequence[sending.Sent], seconds: float, as_json: bool) -> int:
    images = [image for one in results if one.receipt for image in one.receipt["images"]]
    states = Counter(str(image["state"]) for image in images)
    failed = [one for one in results if one.error]
    bad = [image for image in images if image["state"] != "received"]
    figures: dict[str, Any] = {
        "received": states["received"],
        "quarantined": states["quarantined"],
        "uploads_failed": len(failed),
        "uploads_resumed": sum(one.resumed for one in results),
        "bytes": sum(one.job.source.length for one in results if one.receipt),
        "seconds": round(seconds, 2),
    }
    if as_json:
        errors = {one.job.name: one.error for one in failed}
        console.emit_json({**figures, "images": images, "errors": errors})
    else:
        console.table("Upload", ("what", "how many"), list(figures.items()))
        rows = [
            (image["member"] or image["name"], image["reason"], image["detail"])
            for image in bad[:_SHOWN]
        ]
        if rows:
            console.table(f"Quarantined: {len(bad)}", ("image", "reason", "detail"), rows)
        for one in failed[:_SHOWN]:
            console.warn(f"{one.job.name}: {one.error}; {_way_out(one)}")
    return 1 if bad or failed else 0


def _way_out(one: sending.Sent) -> str:
    """What to do about an upload that was not taken."""
    if one.refused is None:
        return "run the command again, it goes on"
    if one.refused == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "see transfer.upload_mib and image_mib of the environment"
    return "it would be refused again"
