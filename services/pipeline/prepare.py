"""What must be there before Dagster starts: a password file for libpq, and the catalogue's tables.

Dagster reaches PostgreSQL through libpq, which takes a password from a file only if nobody else may
read it; a mounted secret is readable by the pod's group. So it is written anew, into memory.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psycopg

from services.pipeline import connect
from services.pipeline.catalogue import Catalogue
from services.pipeline.settings import Postgres, Settings, secret

FOLDER_VARIABLE = "PIPELINE_RUN"
PASSWORDS = "pgpass"
PATIENCE_S = 300.0

_log = logging.getLogger("pipeline")


def main(settings: Settings, folder: Path) -> int:
    """Write the file, bring the catalogue up to date; 1 when PostgreSQL does not answer."""
    write_passwords(folder / PASSWORDS, settings.dagster)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with connect.postgres(settings, settings.catalogue) as session:
                applied = Catalogue(session).migrate(settings.readers)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                _log.error("catalogue: %s", error)
                return 1
            time.sleep(2)
            continue
        _log.info("catalogue: %s", ", ".join(applied) or "up to date")
        return 0


def write_passwords(file: Path, database: Postgres) -> None:
    """A password file of libpq, which only this user may read."""
    # A backslash stands before `:` and itself.
    password = secret(database.password).replace("\\", "\\\\").replace(":", "\\:")
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(f"*:*:*:{database.user}:{password}\n", encoding="utf-8")
