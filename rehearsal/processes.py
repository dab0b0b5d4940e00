"""Long-running processes of a rehearsal: started detached, found again, ended by id.

A process is known by its id and its start time together, so that an id which the kernel has given
to somebody else since is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from rehearsal import paths


def run_group(
    command: Sequence[str], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output; interrupted, all that it started ends with it."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=env,
        process_group=0,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def alive(process: psutil.Process) -> bool:
    """Whether it has not ended.

    A zombie has, whatever psutil says: where process 1 is slow, or no init, nobody waits for it.
    """
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(pid: int) -> psutil.Process | None:
    """The process of this id, unless it has ended."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    return process if alive(process) else None


class Daemon:
    """One detached process with a record and a log below a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._record = folder / "pids" / f"{name}.json"
        self.log = folder / "logs" / f"{name}.log"

    def process(self) -> psutil.Process | None:
        """The running process, or None when it never started, ended or was killed."""
        try:
            record = json.loads(self._record.read_text())
            process = running(record["pid"])
            if process is None or abs(process.create_time() - record["started"]) > 1.0:
                return None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None
        return process

    @property
    def known(self) -> bool:
        """Whether it was started once (so that its absence means that it died)."""
        return self._record.exists()

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> psutil.Process:
        """Start it in a session of its own, unless it runs; the log is appended to."""
        if (running := self.process()) is not None:
            return running
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env) if env is not None else None,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
                cwd="/",
            )
        process = psutil.Process(child.pid)
        record = {"pid": child.pid, "started": process.create_time()}
        paths.replace(self._record, json.dumps(record))
        return process

    def stop(self, grace: float = 10.0) -> None:
        """End it and its children: SIGTERM, then SIGKILL after `grace` seconds."""
        process = self.process()
        if process is not None:
            family = [process, *process.children(recursive=True)]
            for member in family:
                _signal(member, force=False)
            if not wait_for(lambda: not any(map(alive, family)), grace):
                for member in family:
                    _signal(member, force=True)
                wait_for(lambda: not any(map(alive, family)), 5)
            psutil.wait_procs(family, timeout=0)  # of our own children, so that no zombie stays
        self._record.unlink(missing_ok=True)

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, for an error message."""
        try:
            return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines:])[-600:]
        except OSError:
            return "no log"


def _signal(process: psutil.Process, *, force: bool) -> None:
    try:
        process.kill() if force else process.terminate()
    except psutil.NoSuchProcess:
        return


def wait_for(probe: object, seconds: float, interval: float = 0.1) -> bool:
    """Whether a callable without arguments answers true within so many seconds."""
    assert callable(probe)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if probe():
            return True
        time.sleep(interval)
    return bool(probe())
