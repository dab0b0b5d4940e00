"""`up` killed at random moments, and up, destroy, up: on a rehearsal of their own, all simulated.

What is looked for afterwards: the estate green, nothing pending in the state, no object twice in
it, and no object of Pulumi's in the cluster that the state does not know.
"""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psutil

from rehearsal import console, drift, paths
from rehearsal.drills.up_command import run_up, running_up, up_log
from rehearsal.errors import EstateError
from rehearsal.kube import Api
from rehearsal.pulumi import Pulumi
from rehearsal.rehearsal import Rehearsal

NAME = "interruptions"
_REASON = "a drill of interruptions: nothing of it runs"
_MANAGER = "pulumi-kubernetes"  # of the fields that its provider applies, with a suffix
_LIMIT_S = 900.0

Whom = Literal["the command", "the command and pulumi"]


@dataclass
class Round:
    """One round: what was done, when it was killed, how long the next `up` took, what was wrong."""

    what: str
    killed_after_s: float | None
    up_s: float
    wrong: list[str]

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def interruptions(count: int, seed: int, done: Callable[[Round], None]) -> None:
    """Kill -9 `count` times: of a new rehearsal's `up`, or of one after `pulumi destroy`."""
    dice = random.Random(seed)
    with _subject() as subject:
        whole = subject.up()
        wrong: list[str] = []
        for number in range(count):
            fresh = number % 2 == 0 or bool(wrong)  # what went wrong would go on
            whom: Whom = dice.choice(("the command", "the command and pulumi"))
            took: float | None = whole
            while took is not None:
                whole = took  # an `up` that ended before its kill was none: draw again, from less
                if fresh:
                    subject.renew()
                else:
                    subject.destroy()
                after = dice.uniform(0.2, whole)
                console.step(f"{number + 1} of {count}: {whom} killed {after:.1f} s after start")
                took = subject.kill(whom, after)
            seconds, wrong = subject.converges()
            start = "a new rehearsal" if fresh else "one that was destroyed"
            done(Round(f"`up` of {start}; {whom}", after, seconds, wrong))


def rounds(count: int, seed: int, done: Callable[[Round], None]) -> None:
    """`up`, `pulumi destroy`, `up`, so many times; last, a destroy with the API server dead."""
    del seed  # nothing here is left to chance
    with _subject() as subject:
        for number in range(count):
            console.step(f"{number + 1} of {count}: up, destroy, up")
            subject.up()
            subject.destroy()
            left = [f"left by destroy: {one}" for one in sorted(subject.of_pulumi())]
            seconds, wrong = subject.converges()
            done(Round("up, destroy, up", None, seconds, left + wrong))
        console.step("destroy with the API server dead")
        subject.stop_api()
        began = time.monotonic()
        subject.destroy()
        left = [f"left in the state: {urn}" for urn in subject.in_state()]
        done(Round("destroy, the API server dead", None, time.monotonic() - began, left))


@contextmanager
def _subject() -> Iterator[_Subject]:
    """A rehearsal of this drill's name, taken away before and after; one at a time."""
    # Its own lock must stay free for the `up` that is interrupted, so the folder above is locked.
    folder = os.open(paths.ensure(paths.state_root(), "state"), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise EstateError(
            f"rehearsal {NAME}", "another drill is at it", "wait until it ends, then run this again"
        ) from None
    try:
        Rehearsal(NAME).destroy()
        yield _Subject()
    finally:
        Rehearsal(NAME).destroy()
        os.close(folder)


class _Subject:
    """The rehearsal that is interrupted."""

    def __init__(self) -> None:
        self._rehearsal = self._prepared()
        self._kinds: set[tuple[str, str]] = set()

    def _prepared(self) -> Rehearsal:
        rehearsal = Rehearsal(NAME)
        rehearsal.prepare("simulated", _REASON, None)
        return rehearsal

    def renew(self) -> None:
        """Begin anew: `down`, and nothing of it up."""
        self._rehearsal.destroy()
        self._rehearsal = self._prepared()

    def up(self) -> float:
        """`./estate up` to its end; seconds. Raises EstateError when it fails."""
        code, seconds = run_up(self._rehearsal, _LIMIT_S)
        if code != 0:
            log = up_log(self._rehearsal)
            words = [one for one in log.read_text(errors="replace").splitlines() if one]
            said = [one for one in words if one.startswith(("error:", "estate:"))] or words[-1:]
            raise EstateError("up", f"ended with {code}: {' | '.join(said)}", f"see {log}")
        self._kinds |= {(o.body["apiVersion"], o.body["kind"]) for o in self._declared()}
        return seconds

    def kill(self, whom: Whom, after_s: float) -> float | None:
        """Start `up` and kill it after so many seconds; how long it took, if it ended before."""
        began = time.monotonic()
        with running_up(self._rehearsal) as process:
            try:
                process.wait(after_s)
                return time.monotonic() - began
            except subprocess.TimeoutExpired:
                family = [psutil.Process(process.pid)]
            if whom != "the command":
                family += [
                    child
                    for child in family[0].children(recursive=True)
                    if _session(child) == process.pid
                ]
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        return None

    def destroy(self) -> None:
        """`pulumi destroy`. Raises EstateError when it fails."""
        log = up_log(self._rehearsal).with_name("drill-destroy.log")
        with log.open("w") as progress:
            good = Pulumi(self._rehearsal, progress=progress).destroy()
        if not good:
            raise EstateError("pulumi destroy", "failed", f"see {log}")

    def stop_api(self) -> None:
        """Kill the API server and what would start it again."""
        found = [
            process
            for process in psutil.process_iter()
            if _command(process).startswith(str(self._rehearsal.folder))
            and "kube-apiserver" in _command(process)
        ]
        for process in found:
            process.kill()
        if not found:
            raise EstateError("kube-apiserver", "no process of it is found", "run it again")

    def _declared(self) -> list[drift.Declared]:
        return drift.declared(Pulumi(self._rehearsal).state().resources)

    def in_state(self) -> list[str]:
        """The URNs of what the state still has of the cluster."""
        resources = Pulumi(self._rehearsal).state().resources
        return [str(one["urn"]) for one in resources if str(one["type"]).startswith("kubernetes:")]

    def of_pulumi(self) -> set[str]:
        """The objects in the cluster that Pulumi made, of every kind it ever had here."""
        api = Api(self._rehearsal.kubeconfig)
        return {
            _place(body)
            for kind in sorted(self._kinds)
            for body in api.items(*kind)
            if any(
                str(entry.get("manager", "")).startswith(_MANAGER)
                for entry in body["metadata"].get("managedFields") or ()
            )
        }

    def converges(self) -> tuple[float, list[str]]:
        """One more `up`: its seconds, and all that is wrong after it."""
        try:
            seconds = self.up()
        except EstateError as error:
            return 0.0, [str(error)]
        declared = self._declared()
        known = Counter(_place(one.body) for one in declared)
        wrong = [f"twice in the state: {place}" for place, times in known.items() if times > 1]
        wrong += [f"not in the state: {one}" for one in sorted(self.of_pulumi() - set(known))]
        found = drift.find(Api(self._rehearsal.kubeconfig), declared)
        return seconds, wrong + [f"{one.where}: {one.what}" for one in found]


def _place(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    namespace = metadata.get("namespace")
    return f"{body['kind']} {namespace + '/' if namespace else ''}{metadata['name']}"


def _session(process: psutil.Process) -> int:
    with suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return 0


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:1])
    return ""
