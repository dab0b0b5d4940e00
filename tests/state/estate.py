"""The `./estate` command as the state tests use it: on a rehearsal of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rehearsal import paths
from tests.state import snapshot


def sources(folder: Path) -> Path:
    """A copy of the sources in `folder`, for what changes them."""
    for part in (
        *("components", "configs", "model_repo", "policies", "rehearsal", "services", "stacks"),
        "tests",
    ):
        shutil.copytree(paths.root() / part, folder / part)
    for single in ("estate", "Pulumi.yaml", "pyproject.toml", "requirements*"):
        for found in paths.root().glob(single):
            shutil.copy(found, folder)
    return folder


@dataclass
class Estate:
    """The `./estate` command on a state folder of its own; `prefix` is put before each call."""

    state: Path
    name: str
    before: snapshot.Snapshot
    prefix: Sequence[str] = ()
    said: list[str] = field(default_factory=list)
    """What the commands wrote to stdout and stderr."""
    root: Path = field(default_factory=paths.root)
    """The sources."""

    @property
    def variables(self) -> dict[str, str]:
        return {**os.environ, "ESTATE_STATE": str(self.state)}

    @property
    def folder(self) -> Path:
        return self.state / self.name

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*self.prefix, str(self.root / "estate")]
        words = 2 if arguments[0] == "model" else 1  # `model` is a group of commands
        command += [*arguments[:words], "--name", self.name, *arguments[words:]]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.variables, text=True, stdout=pipe, stderr=pipe)

    def __call__(
        self, *arguments: str, code: int = 0, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the rehearsal and expect its exit code."""
        running = self.start(*arguments)
        try:
            out, err = running.communicate(timeout=seconds)
        finally:
            running.kill()
        self.said += [out, err]
        words = f"estate {' '.join(arguments)} ended with {running.returncode}\n{out}\n{err}"
        assert running.returncode == code, words
        return subprocess.CompletedProcess(arguments, code, out, err)

    def kubectl(self, *arguments: str) -> str:
        command = [str(self.folder / "bin" / "kubectl"), *arguments]
        variables = {**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig")}
        return subprocess.run(
            command, env=variables, check=True, text=True, capture_output=True
        ).stdout

    def rows(self, *only: str, code: int = 0) -> list[dict[str, Any]]:
        returned, rows, err = self._verify(*only)
        assert returned == code, (failed(rows), err)
        return rows

    def settles(self, within_s: float) -> list[dict[str, Any]]:
        """The rows, asked again until green: on a starved machine a client may wait long."""
        deadline = time.monotonic() + within_s
        while True:
            returned, rows, err = self._verify()
            if returned == 0:
                return rows
            assert time.monotonic() < deadline, (failed(rows), err)

    def _verify(self, *only: str) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, rows and what was said of `verify`."""
        options = [word for prefix in only for word in ("--only", prefix)]
        running = self.start("verify", "--json", *options)
        out, err = running.communicate(timeout=300)
        self.said += [out, err]
        return running.returncode, json.loads(out)["rows"] if out else [], err

    def runs(self, name: str) -> psutil.Process | None:
        """A process of this rehearsal by its program's name, while it runs."""
        for process in psutil.process_iter(["name", "cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if process.info["name"] == name and str(self.folder) in words:
                return process
        return None

    def process(self, name: str) -> psutil.Process:
        """A process of this rehearsal that must run."""
        process = self.runs(name)
        assert process is not None, f"{name} does not run"
        return process


def failed(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{row['id']}: {row['title']}: {row['detail']}" for row in rows if row["state"] != "passed"
    ]
