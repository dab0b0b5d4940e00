"""Running Go commands that can be ended: their lines as progress, their failures as one line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from rehearsal.errors import EstateError

_GRACE_S = 5.0


class Stopped(Exception):
    """The builds were told to end."""


class Children:
    """The running Go processes of one command; once ended, none is started any more."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        env: dict[str, str],
        log: Path,
        on_line: Callable[[str], None] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> tuple[int, str]:
        """Run a command to its end; its exit code and its output.

        Args:
            command: program and arguments.
            folder: working directory.
            env: its whole environment.
            log: both streams are appended; with `on_line` they come as one.
            on_line: called with each line of both streams.
            pass_fds: descriptors that it inherits (a lock that it holds as long as it lives).

        Raises:
            Stopped: `end` was called.
        """
        with log.open("a") as out:
            out.write(f"$ go {' '.join(command[1:])}\n")
            out.flush()
            process = self._start(
                command,
                folder,
                env,
                subprocess.STDOUT if on_line else out.fileno(),
                pass_fds,
            )
            collected = []
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    collected.append(line)
                    if on_line:
                        out.write(line)
                        on_line(line)
                code = process.wait()
            finally:
                with self._guard:
                    self._running.discard(process)
        if self._ended:
            raise Stopped
        return code, "".join(collected)

    def _start(
        self,
        command: Sequence[str],
        folder: Path,
        env: dict[str, str],
        stderr: int,
        pass_fds: Sequence[int],
    ) -> subprocess.Popen[str]:
        with self._guard:
            if self._ended:
                raise Stopped
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=env,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # A group of its own: its compilers end with it, and Ctrl-C reaches it through us.
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
            self._running.add(process)
        return process

    def end(self) -> None:
        """End every process with its compilers: SIGTERM, then SIGKILL after five seconds."""
        with self._guard:
            self._ended = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            # To the whole group: a compiler may outlive the command that started it.
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


PATCH = "patch.toml"
"""In a module set: what is changed in one of its modules before the build, and why.

`module` names it; each `replace` has a `file`, and a text `old` that must be there exactly once.
"""


def patched_module(patch: Path) -> str:
    """The path of the module that a patch changes."""
    return str(tomllib.loads(patch.read_text())["module"])


def copy_patched(module: Path, target: Path, patch: Path) -> None:
    """Copy a module (Go's cache is read-only, and its own) and change the copy.

    Raises EstateError when the text to replace is not there once: another release of the module.
    """
    shutil.copytree(module, target, copy_function=shutil.copyfile)
    for folder in (target, *(found for found in target.rglob("*") if found.is_dir())):
        folder.chmod(0o755)
    for change in tomllib.loads(patch.read_text())["replace"]:
        file = target / change["file"]
        text = file.read_text()
        if (count := text.count(change["old"])) != 1:
            raise EstateError(
                f"{patch.parent.name}/{PATCH}",
                f"its text is {count} times in {change['file']}",
                "fit it to this release of the module, or remove it",
            )
        file.write_text(text.replace(change["old"], change["new"]))


UNREACHABLE = re.compile(
    r"dial tcp|module lookup disabled|no such host|i/o timeout|connection re(fused|set)"
    r"|TLS handshake",
    re.IGNORECASE,
)
"""What Go says when the module proxy does not answer."""

LOCKED = re.compile(r"checksum mismatch|go\.(mod|sum)\b")
"""What it says when a go.mod or go.sum of a set is wrong."""


def reason(log: Path) -> str:
    """What a Go build log says is wrong, in one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("$ go ")]
    for line, following in pairwise([*lines, ""]):
        if line.endswith("errors parsing go.mod:"):
            return f"{line} {following}"[:300]
    for mark in (
        "no space left",
        "cannot allocate",
        "signal: killed",
        "checksum mismatch",
        "SECURITY ERROR",
        "verifying",
    ):
        for line in lines:
            if mark in line:
                return line[:300]
    for pattern in (
        r"dial tcp|: 40\d |forbidden",
        r"\.go:\d+|^go: (?!downloading)|error|not found",
    ):
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE):
                return line[:300]
    return lines[-1][:300] if lines else "no output"
