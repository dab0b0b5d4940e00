"""Inside the sandbox: counts the receipts of a device's images, and at last reads all of them.

`python -m rehearsal.drills.images_reader`: commands `count` and `found`, each answered by an event
of its name.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from pymongo.errors import PyMongoError

from rehearsal import clients
from rehearsal.drills import lake

_LOOK_S = 0.2


def everything(reader: lake.Lake, device: str, left_before: set[str]) -> lake.Found:
    """What the catalogue and the stores have of a device; `left_before` is nobody's already."""
    with reader.catalogue() as session:
        found = lake.found(session, device)
    mine = {row.sha256 for row in found.rows}
    found.elsewhere = reader.missing(sorted(mine))
    found.extra = [f"object {one}" for one in sorted(reader.unnamed() - left_before)]
    found.extra += [f"document {one}" for one in sorted(reader.described(device) - mine)]
    return found


def main() -> int:
    """Say `ready`, then answer until the end of the input."""
    access, specification = clients.specification()
    device = str(specification["device"])
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = clients.stop_asked(asked.put)
    with tempfile.TemporaryDirectory(prefix="estate-drill-") as folder:
        try:
            reader = lake.Lake(access, Path(folder))
            left_before = reader.unnamed()
            clients.emit("ready")
            while not stop.is_set():
                with contextlib.suppress(queue.Empty):
                    _answer(asked.get(timeout=_LOOK_S)["command"], reader, device, left_before)
        except (OSError, psycopg.Error, PyMongoError, BotoCoreError, ClientError) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            clients.emit("error", thing="drill's reader of the lake", value=words[0][:300])
            return 1
    return 0


def _answer(command: str, reader: lake.Lake, device: str, left_before: set[str]) -> None:
    if command == "count":
        receipts = None  # a machine under load may take longer than a session waits
        with contextlib.suppress(psycopg.OperationalError), reader.catalogue() as session:
            receipts = lake.count(session, device)
        clients.emit("count", receipts=receipts)
    elif command == "found":
        found = everything(reader, device, left_before)
        clients.emit("found", **found.json_object())


if __name__ == "__main__":
    sys.exit(main())
