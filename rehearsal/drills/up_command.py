"""`./estate up` as a process of its own: what drills repair with, and what they interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rehearsal import paths
from rehearsal.rehearsal import Rehearsal


def up_log(rehearsal: Rehearsal) -> Path:
    """What `running_up` writes."""
    return rehearsal.folder / "logs" / "drill-up.log"


@contextmanager
def running_up(rehearsal: Rehearsal) -> Iterator[subprocess.Popen[bytes]]:
    """`./estate up` on the rehearsal, as a person runs it; an error in the block ends it too."""
    up_log(rehearsal).parent.mkdir(exist_ok=True)
    up_log(rehearsal).unlink(
        missing_ok=True
    )  # what outlived an earlier one still writes to its own
    with up_log(rehearsal).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rehearsal.cli", "up", "--name", rehearsal.name],
            cwd=paths.root(),
            env={**os.environ, "PYTHONPATH": str(paths.root())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # The session tells what belongs to the command from what it starts to stay.
            start_new_session=True,
        )
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise


def run_up(rehearsal: Rehearsal, limit_s: float | None = None) -> tuple[int, float]:
    """`./estate up` to its end: exit code and seconds."""
    began = time.monotonic()
    with running_up(rehearsal) as process:
        code = process.wait(limit_s)
    return code, time.monotonic() - began
