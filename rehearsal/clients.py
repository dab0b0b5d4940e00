"""A Python process of ours inside the sandbox, speaking JSON lines both ways with its caller.

What it needs, passwords among it, arrives on its standard input; what it finds comes back on its
standard output. The end of the input ends it, so nothing stays when the caller is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from rehearsal import inside
from rehearsal.access import Access
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal


class Clients:
    """One process: `python -m module` with the access and a specification on its input."""

    def __init__(
        self, rehearsal: Rehearsal, module: str, access: Access, specification: dict[str, Any]
    ) -> None:
        self._module = module
        self._log = rehearsal.folder / "logs" / f"{module.split('.', 1)[-1]}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*rehearsal.box().prefix(), sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=inside.environment(rehearsal),
                # An interrupt is for the caller, which then closes the input.
                start_new_session=True,
            )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, name=f"read-{module}", daemon=True).start()
        self._write({"access": access.to_json(), **specification})

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._lines.put(json.loads(line))
            except ValueError:  # a library that prints
                continue
        self._lines.put(None)

    def _write(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _ended(self) -> EstateError:
        words = self._log.read_text(errors="replace").strip().splitlines() or ["no output"]
        return EstateError(self._module, f"ended: {words[-1][:300]}", f"see {self._log}")

    def send(self, command: str, **values: Any) -> None:
        """Give the process a command, such as `stop`."""
        self._write({"command": command, **values})

    def event(self, timeout: float) -> dict[str, Any] | None:
        """The next line it prints, or None after so many seconds.

        Raises EstateError with the last line of its log when it ended or reports an error.
        """
        try:
            value = self._lines.get(timeout=timeout)
        except queue.Empty:
            return None
        if value is None:
            raise self._ended()
        if value.get("event") == "error":
            way_out = value.get("way_out") or f"see {self._log}"
            raise EstateError(str(value["thing"]), value["value"], way_out)
        return value

    def wait_for(
        self,
        kind: str,
        timeout: float,
        others: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Events until one of this kind; EstateError when it does not come in time.

        Those before it are given to `others`.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            value = self.event(left)
            if value is None:
                continue
            if value.get("event") == kind:
                return value
            others(value)
        raise EstateError(self._module, f"no {kind} after {timeout:.0f} s", f"see {self._log}")

    def close(self) -> None:
        """End it: by the end of its input, by force after 15 s."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            # nsenter hands a signal to nobody, so its child is ended with it.
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._process.pid).children(recursive=True):
                    child.kill()
            self._process.kill()
            self._process.wait(timeout=5)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def specification() -> tuple[Access, dict[str, Any]]:
    """Inside: what the caller sent as the first line."""
    value = json.loads(sys.stdin.readline())
    return Access.from_json(value.pop("access")), value


def emit(event: str, **values: Any) -> None:
    """Inside: print one event."""
    print(json.dumps({"event": event, **values}), flush=True)


def stop_asked(
    others: Callable[[dict[str, Any]], None] = lambda _: None,
) -> threading.Event:
    """Inside: an event that is set by the command `stop` or the end of the input.

    `others` gets every other command, in a thread of its own.
    """
    asked = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command.get("command") == "stop":
                break
            others(command)
        asked.set()

    threading.Thread(target=read, name="commands", daemon=True).start()
    return asked


@contextlib.contextmanager
def exclusive(rehearsal: Rehearsal, what: str) -> Iterator[None]:
    """One of demo, drill, bench, backup and restore at a time, or they would measure one another.

    The rehearsal's own lock stays free: a drill calls `up` to repair. Raises EstateError.
    """
    rehearsal.required()
    with (rehearsal.folder / "measuring.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EstateError(
                f"{what} of rehearsal {rehearsal.name}",
                "a demo, drill, bench, backup or restore is running on it",
                "wait until it ends, then run this one again",
            ) from None
        yield
