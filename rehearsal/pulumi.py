"""Pulumi on a rehearsal: the same commands that `source <(./estate env)` gives a person."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from rehearsal import console, paths
from rehearsal.errors import EstateError
from rehearsal.processes import alive, running, wait_for
from rehearsal.rehearsal import POLICY_PACK_VARIABLE, Rehearsal

_ORDERLY_S = 30.0  # to stop waiting for objects, and write the state
# Most of a step is waiting: for an object to be ready, for a checkpoint that many steps share.
_PARALLEL = ("--parallel", "128")
_NO_CHANGE = {"same", "read"}
# Pulumi's own mark of a secret value in a state (sdk/go/common/resource, SigKey and SecretSig).
_SIGNATURE, _SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"


@dataclass(frozen=True)
class State:
    """A stack's state, its secrets in plain text: for memory only, never for a file."""

    resources: Sequence[Mapping[str, Any]] = field(repr=False)

    @property
    def outputs(self) -> dict[str, Any]:
        """The stack's outputs; empty when it was never brought up."""
        for resource in self.resources:
            if resource.get("type") == "pulumi:pulumi:Stack":
                found, _ = plain(resource.get("outputs") or {})
                return dict(found)
        return {}


class Pulumi:
    """Runs `pulumi` from the repository with a rehearsal's environment.

    What it shows of its progress goes to stdout, or to `progress`. `project` is the folder of
    another program than the estate's, on which its policies are not asked; `variables` win over the
    rehearsal's environment.
    """

    def __init__(
        self,
        rehearsal: Rehearsal,
        progress: IO[str] | None = None,
        *,
        project: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._rehearsal = rehearsal
        self._progress = progress
        self._project = project or paths.root()
        self._variables = dict(variables or {})

    @property
    def _stack(self) -> str:
        return self._rehearsal.required().stack

    def _run(
        self, arguments: Sequence[str], *, capture: bool, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        rehearsal = self._rehearsal
        binary = rehearsal.folder / "bin" / "pulumi"
        if not binary.exists():
            raise EstateError("pulumi", "is not set up yet", f"run: {self._rehearsal.up_command}")
        # The provider writes a kubeconfig to a temporary file and leaves it (util.go of 4.25.0); in
        # the rehearsal's folder it also goes with `down` when this process is killed.
        environment = rehearsal.environment()
        if self._project != paths.root():
            environment.pop(POLICY_PACK_VARIABLE, None)
        with tempfile.TemporaryDirectory(dir=self._scratch(), prefix="pulumi-") as scratch:
            return _in_order(
                [str(binary), *arguments],
                cwd=folder or self._project,
                # A larger heap between collections: a third less CPU for engine and provider.
                env={
                    "GOGC": "400",
                    "PULUMI_DEBUG_COMMANDS": "true",  # else it has no --event-log
                    **environment,
                    **self._variables,
                    "TMPDIR": scratch,
                },
                stdout=subprocess.PIPE if capture else self._progress,
                stderr=subprocess.PIPE if capture else None,
            )

    def _scratch(self) -> Path:
        folder = self._rehearsal.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def select(self) -> None:
        """Make the stack unless it is there; a lock of an interrupted run is taken away.

        The stack is made from a project folder in the rehearsal's state: its configuration file
        takes the salt of the passphrase, which Pulumi would else write into the tracked one.
        A pulumi that outlived the `estate` command that started it is told to end first. The lock
        of any other that runs stays: then Pulumi itself refuses the second update.
        """
        settings = self._rehearsal.stack_settings
        if not settings.exists():
            settings.parent.mkdir(parents=True, exist_ok=True)
            (settings.parent / "Pulumi.yaml").write_text("name: estate\nruntime: python\n")
            done = self._run(
                ["stack", "select", "--create", self._stack, "--non-interactive"],
                capture=True,
                folder=settings.parent,
            )
            if done.returncode == 0:
                done = self._run(
                    ["stack", "select", self._stack, "--non-interactive"], capture=True
                )
            if done.returncode != 0:
                settings.unlink(missing_ok=True)
                raise EstateError("pulumi stack", _last(done.stderr), "run: ./estate doctor")
        locks = list((self._rehearsal.folder / "pulumi" / "state").rglob("locks/**/*.json"))
        owners = [owner for lock in locks if (owner := _owner(lock)) is not None]
        for owner in owners:
            # Whoever calls this holds the rehearsal's lock: no other command of ours runs.
            if _environment_of(owner).get("TMPDIR", "").startswith(str(self._scratch())):
                console.step("ending the pulumi of an interrupted run")
                _end(owner)
        if locks and not any(map(alive, owners)):
            self._rehearsal.end_strays("pulumi")
            self._run(["cancel", "--yes", "--stack", self._stack], capture=True)

    def up(self, *, refresh: bool, events: Path | None = None) -> bool:
        """`pulumi up` without questions, shown as it goes; whether it ended well.

        With `refresh`, Pulumi first reads every object, so that it puts back what a hand changed.
        `events` is a file for the engine's events, a JSON object each line.
        """
        arguments = ["up", "--stack", self._stack, "--yes", "--skip-preview", "--non-interactive"]
        arguments += [*_PARALLEL, "--suppress-outputs", *(["--refresh"] if refresh else [])]
        if events is not None:
            events.parent.mkdir(exist_ok=True)
            arguments += ["--event-log", str(events)]
        return self._run(arguments, capture=False).returncode == 0

    def destroy(self) -> bool:
        """`pulumi destroy` without questions, shown as it goes; whether it ended well."""
        arguments = ["destroy", "--stack", self._stack, "--yes", "--skip-preview"]
        arguments += ["--non-interactive", *_PARALLEL, "--suppress-outputs"]
        return self._run(arguments, capture=False).returncode == 0

    def unchanged(self) -> bool:
        """Whether the last `up` left everything as it was, as its record in the backend says."""
        records = (self._rehearsal.folder / "pulumi" / "state").rglob("*.history.json")
        newest = max(records, key=lambda file: file.name, default=None)
        if newest is None:
            return False
        try:
            record = json.loads(newest.read_text(encoding="utf-8"))
            return record["result"] == "succeeded" and set(record["resourceChanges"]) <= _NO_CHANGE
        except (OSError, ValueError, KeyError, TypeError):
            return False  # a record of another shape says nothing

    def preview(self, arguments: Sequence[str]) -> int:
        """`pulumi preview`, shown as it is; returns its exit code."""
        command = ["preview", "--stack", self._stack, "--suppress-outputs", *arguments]
        return self._run(command, capture=False).returncode

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets masked; empty when it was never brought up."""
        done = self._run(["stack", "output", "--stack", self._stack, "--json"], capture=True)
        if done.returncode != 0:
            return {}
        value = json.loads(done.stdout or "{}")
        assert isinstance(value, dict)
        return value

    def state(self) -> State:
        """The stack's state (`pulumi stack export --show-secrets`)."""
        done = self._run(
            ["stack", "export", "--stack", self._stack, "--show-secrets"], capture=True
        )
        if done.returncode != 0:
            raise EstateError(
                "pulumi stack export", _last(done.stderr), f"run: {self._rehearsal.up_command}"
            )
        return State(json.loads(done.stdout)["deployment"].get("resources") or [])


def is_secret(value: Any) -> bool:
    """Whether this is Pulumi's wrapping of a secret."""
    return isinstance(value, Mapping) and value.get(_SIGNATURE) == _SECRET


def plain(value: Any) -> tuple[Any, bool]:
    """A value of a state without Pulumi's wrapping of secrets, and whether there was one."""
    if isinstance(value, dict):
        if is_secret(value):
            return plain(json.loads(value["plaintext"]))[0], True
        pairs = {key: plain(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(s for _, s in pairs.values())
    if isinstance(value, list):
        items = [plain(item) for item in value]
        return [item for item, _ in items], any(s for _, s in items)
    return value, False


def _in_order(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that ends in order when this process is interrupted.

    It is in a group of its own, so that it gets one SIGINT, from here: at a second one pulumi would
    drop what it is doing without writing its state.
    """
    with subprocess.Popen(command, text=True, process_group=0, **options) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_ORDERLY_S)
            except BaseException:  # too long, or interrupted again
                process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _owner(lock: Path) -> psutil.Process | None:
    """The pulumi that wrote a lock file, when it still runs."""
    try:
        process = running(json.loads(lock.read_text())["pid"])
        return process if process is not None and "pulumi" in process.name() else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}  # another user's: none of ours


def _end(process: psutil.Process) -> None:
    """End a pulumi in order, which writes its state; at once when it takes too long."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)
        if not wait_for(lambda: not alive(process), _ORDERLY_S):
            process.kill()
            wait_for(lambda: not alive(process), _ORDERLY_S)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
