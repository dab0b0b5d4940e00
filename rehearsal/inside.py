"""Running the state tests and their probes inside a rehearsal's namespaces.

There the cluster's names resolve and its pods answer; the loopback gateway does not exist, so the
API is reached at the node's own address.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rehearsal import paths, sandbox
from rehearsal.control_plane import write_kubeconfig
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal

Check = dict[str, Any]
State = Literal["passed", "failed", "skipped"]
_API = f"https://{sandbox.NODE_IP}:6443"


@dataclass(frozen=True)
class Row:
    """One line of the result; `ms` is how long the answer took, None where none was asked."""

    id: str
    title: str
    state: State
    detail: str
    ms: int | None = None

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def environment(rehearsal: Rehearsal) -> dict[str, str]:
    """The process environment of what runs inside."""
    folder = rehearsal.folder
    kubeconfig = folder / "kubeconfig-inside"
    pki = folder / "kwok" / "clusters" / "estate" / "pki"
    user = {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "admin.key")}
    write_kubeconfig(kubeconfig, _API, pki / "ca.crt", user)
    (folder / "tmp").mkdir(exist_ok=True)
    # A proxy of the user's cannot be reached from inside, and knows none of the names.
    kept = {
        key: value
        for key, value in rehearsal.environment().items()
        if not key.lower().endswith("_proxy")
    }
    return {
        **kept,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(paths.root()),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder / "tmp"),
    }


def run_tests(
    rehearsal: Rehearsal,
    checks: Sequence[Check],
    ids: Sequence[str],
    settle_s: float,
    progress: Callable[[dict[str, str]], None] = lambda _: None,
) -> list[Row]:
    """Run those tests of tests/state inside whose rows have these ids.

    `progress` gets what is still red, by id, about twice a second.
    """
    files = {name: rehearsal.folder / "tmp" / f"verify-{name}.json" for name in ("in", "out")}
    variables = environment(rehearsal)
    waiting = files["out"].with_name("verify-waiting.json")
    for file in (files["out"], waiting):
        file.unlink(missing_ok=True)
    files["in"].write_text(json.dumps(list(checks)), encoding="utf-8")
    variables |= {
        "ESTATE_CHECKS": str(files["in"]),
        "ESTATE_RESULTS": str(files["out"]),
        "ESTATE_WAITING": str(waiting),
        "ESTATE_IDS": json.dumps(list(ids)),
        "ESTATE_SETTLE": str(settle_s),
    }
    command = [*rehearsal.box().prefix(), sys.executable, "-P", "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(paths.root())]
    command += ["-c", str(paths.root() / "pyproject.toml")]
    # Those of hosts import as much as all the rest: a second of an `up` without changes.
    hosts = set(ids) - {str(check["id"]) for check in checks}
    files_of_tests = ["test_checks.py", *(["test_hosts.py"] if hosts else [])]
    command += [str(paths.root() / "tests" / "state" / name) for name in files_of_tests]
    log = rehearsal.folder / "logs" / "verify.log"
    with log.open("w") as output, _process(command, variables, stdout=output) as running:
        deadline = time.monotonic() + settle_s + 120
        while running.poll() is None:
            if time.monotonic() > deadline:
                raise EstateError("verify", "its tests do not end", f"see {log}")
            progress(_read(waiting))
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(0.3)
    rows = _read(files["out"]).get("rows")
    if rows is None:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise EstateError("verify", (words or ["no output"])[-1][:300], f"see {log}")
    return [Row(**row) for row in rows]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _process(
    command: Sequence[str], variables: Mapping[str, str], **streams: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, ended with its children when the block is left."""
    running = subprocess.Popen(
        list(command),
        cwd=paths.root(),
        env=dict(variables),
        text=True,
        start_new_session=True,
        stderr=subprocess.STDOUT if "stderr" not in streams else streams.pop("stderr"),
        stdin=streams.pop("stdin", subprocess.DEVNULL),
        **streams,
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(3)
                    break


@dataclass(frozen=True)
class Answer:
    """What a probe said."""

    ok: bool
    detail: str
    ms: int


class Probes:
    """A process inside that answers single checks, many at a time (tests/state/probes)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._waiting: dict[int, Future[Answer]] = {}
        self._number = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="probe-answers").start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = json.loads(line)
            with self._lock:
                future = self._waiting.pop(found["n"], None)
            if future is not None:
                future.set_result(Answer(found["ok"], found["detail"], found["ms"]))
        with self._lock:
            left, self._waiting = self._waiting, {}
        for future in left.values():
            future.set_exception(EstateError("probes", "their process ended", "see ./estate logs"))

    def ask(self, check: Check, timeout_s: float = 25) -> Answer:
        """Ask one check once; a probe that hangs longer than the time-out is red."""
        future: Future[Answer] = Future()
        assert self._process.stdin is not None
        with self._lock:
            self._number += 1
            self._waiting[self._number] = future
            line = {"n": self._number, "check": check, "timeout_s": timeout_s}
            try:
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()
            except OSError:
                raise EstateError("probes", "their process ended", "see ./estate logs") from None
        return future.result(timeout_s + 30)


@contextmanager
def probes(rehearsal: Rehearsal, checks: Iterable[Check] = ()) -> Iterator[Probes]:
    """A probe server inside, ended when the block is left.

    It loads at once what `checks` need; any other can be asked too.
    """
    command = [*rehearsal.box().prefix(), sys.executable, "-P", "-m", "tests.state.probes"]
    command += sorted({str(check["probe"]) for check in checks})
    log = rehearsal.folder / "logs" / "probes.log"
    variables = environment(rehearsal)
    with (
        log.open("w") as errors,
        _process(
            command, variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as running,
    ):
        yield Probes(running)
