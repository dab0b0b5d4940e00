"""What all drills share: writers running, something broken, an outage measured, a repair."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import os
import queue
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rehearsal import access, verify
from rehearsal.clients import Clients
from rehearsal.drills.up_command import run_up
from rehearsal.errors import EstateError
from rehearsal.inside import Row
from rehearsal.kube import Api, ApiError, Object, ready
from rehearsal.pulumi import Pulumi
from rehearsal.rehearsal import CORE, Rehearsal

BEFORE_S = 5.0  # of undisturbed writing
AFTER_S = 20.0  # of writing after the blow, at least
LIMIT_S = 240.0  # for the estate to recover by itself
_NAMED = 3  # of the red checks, in the line that refuses to begin
_WORDS = 120  # characters of what each of them says

Event = tuple[float, str]


@dataclass
class Scene:
    """One drill under way. `notes` is what the writers saw, with the monotonic clock's time."""

    rehearsal: Rehearsal
    api: Api
    broken_at: float = 0.0
    notes: list[Event] = field(default_factory=list)
    writers: Clients | None = None
    answers: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def ask(self, command: str, timeout_s: float = 90, **values: Any) -> dict[str, Any]:
        """Give the writers a command and wait for its answer, an event of the same name."""
        assert self.writers is not None
        self.writers.send(command, **values)
        try:
            answer = self.answers.get(timeout=timeout_s)
        except queue.Empty:
            raise EstateError(f"drill's {command}", f"no answer in {timeout_s:.0f} s", "") from None
        if answer["event"] != command:
            raise EstateError(f"drill's {command}", f"answered by {answer['event']}", "")
        return answer

    def pod(self, namespace: str, name: str) -> Object:
        """A pod. Raises EstateError when it is not there."""
        found = self.api.get(self.api.path("v1", "Pod", namespace, name))
        if found is None:
            raise EstateError(f"pod {namespace}/{name}", "is not there", "run: ./estate up")
        return found

    def pod_ready_again(self, namespace: str, name: str, before: Object) -> bool:
        """Whether the pod is Ready, with other containers than `before` had."""
        now = self.api.get(self.api.path("v1", "Pod", namespace, name))
        return now is not None and ready(now) and _containers(now) != _containers(before)

    def delete_by_force(self, namespace: str, name: str) -> None:
        """What `kubectl delete pod --force --grace-period=0` does."""
        path = self.api.path("v1", "Pod", namespace, name)
        self.api.request("DELETE", path, query={"gracePeriodSeconds": "0"})

    def kubectl(self, *arguments: str) -> str:
        """The output of kubectl, empty when it fails."""
        done = self.rehearsal.kubectl(*arguments)
        return done.stdout if done.returncode == 0 else ""


@dataclass(frozen=True)
class Drill:
    """One drill.

    `strike` breaks something and returns, for the report, what, and a function that says whether
    it is whole again by itself; None instead of the function means that only `up` repairs it.
    Where `clients_may_fail` is off, an error that a client's library hands to the application
    misses the target as a lost item does. `limit_s` is how long it may take to be whole.
    `observe` returns facts by name; their changes make the timeline. `explain` adds what logs
    say afterwards, as seconds since the blow. `profile` brings what it breaks; `prepare` makes
    what the writers send.
    """

    id: str
    title: str
    writers: tuple[str, ...]
    target_s: float
    strike: Callable[[Scene], tuple[str, Callable[[], bool] | None]]
    observe: Callable[[Scene], Callable[[], dict[str, str]]] | None = None
    explain: Callable[[Scene], list[Event]] | None = None
    clients_may_fail: bool = True
    limit_s: float = LIMIT_S
    profile: str = CORE
    prepare: Callable[[], None] | None = None


@dataclass
class Written:
    """What one writer counted. Infinite `outage_s`: nothing was acknowledged any more."""

    writer: str
    acknowledged: int
    lost: int
    outage_s: float
    errors: dict[str, int]
    lost_items: list[int]
    failed: int = 0


@dataclass
class Result:
    """What a drill found; seconds count from the blow, None where it did not come to that.

    `load_1min` is the machine's, taken when the writing ended: with other work on the machine an
    outage says more about that than about the estate.
    """

    drill: str
    title: str
    broke: str
    acknowledged: int
    lost: int
    outage_s: float
    recovery_s: float | None
    repair: str
    target_s: float
    met: bool
    green: bool
    load_1min: float
    writers: list[Written]
    timeline: list[Event]

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def perform(drill: Drill, rehearsal: Rehearsal, say: Callable[[str], None]) -> Result:
    """Do one drill and bring the estate back to green. Raises EstateError."""
    if drill.prepare is not None:
        drill.prepare()
    scene = Scene(rehearsal, Api(rehearsal.kubeconfig, timeout_s=5))
    specification = {"writers": list(drill.writers), "run": time.strftime("%H%M%S")}
    hands = access.of(rehearsal)
    with Clients(rehearsal, "rehearsal.drills.writers", hands, specification) as writers:
        scene.writers = writers
        writers.wait_for("ready", 120)
        say(f"writing to {', '.join(drill.writers)} for {BEFORE_S:.0f} s")
        _listen(writers, scene, BEFORE_S)
        look = drill.observe(scene) if drill.observe else None
        with observer(look) as events, contextlib.ExitStack() as held:
            # Nobody else may change it now; `up` takes the same lock.
            held.enter_context(rehearsal.locked())
            scene.broken_at = time.monotonic()
            broke, whole = drill.strike(scene)
            say(f"broke {broke}")
            if whole is None:
                _listen(writers, scene, AFTER_S)
                held.close()
                say("repairing with `up`")
                repaired, recovered = _repair(rehearsal, writers, scene)
            else:
                repaired, recovered = "by itself", _await(whole, writers, scene, drill.limit_s)
            _listen(writers, scene, max(2.0, scene.broken_at + AFTER_S - time.monotonic()))
        load = round(os.getloadavg()[0], 1)
        writers.send("stop")
        counted = []
        for found in _results(writers, drill, scene):
            counted.append(written(found, scene.broken_at))
            scene.notes += outage_events(found, scene.broken_at)
    if drill.explain:
        with contextlib.suppress(ApiError, EstateError, OSError, subprocess.SubprocessError):
            scene.notes += drill.explain(scene)
    say("waiting for green")
    green = is_green(rehearsal)
    outage_s = max(one.outage_s for one in counted)
    lost = sum(one.lost for one in counted)
    return Result(
        drill=drill.id,
        title=drill.title,
        broke=broke,
        acknowledged=sum(one.acknowledged for one in counted),
        lost=lost,
        outage_s=outage_s,
        recovery_s=None if recovered is None else round(recovered - scene.broken_at, 2),
        repair=repaired,
        target_s=drill.target_s,
        met=lost == 0
        and (drill.clients_may_fail or not any(one.failed for one in counted))
        and outage_s <= drill.target_s
        and recovered is not None
        and green,
        green=green,
        load_1min=load,
        writers=counted,
        timeline=timeline([*scene.notes, *events], scene.broken_at),
    )


def _listen(writers: Clients, scene: Scene, seconds: float) -> None:
    """Let time pass; the writers' notes are kept, their failure ends the drill."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        event = writers.event(left)
        if event is not None:
            _heard(event, scene)


def _heard(event: dict[str, Any], scene: Scene) -> None:
    if event["event"] == "note":
        scene.notes.append((event["at"], f"{event['writer']}: {event['text']}"))
    else:
        scene.answers.put(event)


def _await(
    whole: Callable[[], bool], writers: Clients, scene: Scene, limit_s: float
) -> float | None:
    deadline = scene.broken_at + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ApiError):
            if whole():
                return time.monotonic()
        _listen(writers, scene, 0.5)
    return None


def _repair(rehearsal: Rehearsal, writers: Clients, scene: Scene) -> tuple[str, float | None]:
    code, seconds = 1, 0.0

    def up() -> None:
        nonlocal code, seconds
        code, seconds = run_up(rehearsal)

    thread = threading.Thread(target=up, name="up", daemon=True)
    thread.start()
    while thread.is_alive():
        _listen(writers, scene, 0.2)
    how = f"`up` took {seconds:.1f} s" + ("" if code == 0 else f" and failed ({code})")
    return how, time.monotonic() if code == 0 else None


def is_green(rehearsal: Rehearsal, settle_s: float = LIMIT_S) -> bool:
    """Whether all checks pass within so many seconds; the table goes to a log."""
    return not _red(rehearsal, settle_s)


def need_green(rehearsal: Rehearsal) -> None:
    """What measures begins on a green rehearsal. Raises EstateError, which names what is red."""
    red = _red(rehearsal, 60)
    if not red:
        return
    words = "; ".join(f"{row.id}: {row.detail[:_WORDS]}" for row in red[:_NAMED])
    more = f"; and {len(red) - _NAMED} more" if len(red) > _NAMED else ""
    raise EstateError(
        f"rehearsal {rehearsal.name}",
        f"is not green: {words}{more}",
        f"run ./estate up --name {rehearsal.name} first",
    )


def _red(rehearsal: Rehearsal, settle_s: float) -> list[Row]:
    """What is still red after so many seconds."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            rows = verify.watched(rehearsal, Pulumi(rehearsal).state(), settle_s)
        except EstateError as error:  # a finished drill's figures must not be lost for it
            print(error)
            rows = [Row(error.thing, "", "failed", f"{error.value}; {error.way_out}")]
    (rehearsal.folder / "logs" / "drill-verify.log").write_text(shown.getvalue())
    return [row for row in rows if row.state == "failed"]


def _results(writers: Clients, drill: Drill, scene: Scene) -> Iterator[dict[str, Any]]:
    left = set(drill.writers)
    while left:
        event = writers.wait_for("result", 300, lambda other: _heard(other, scene))
        left.discard(event["writer"])
        yield event


# -- counting ------------------------------------------------------------------------------------


def written(result: dict[str, Any], broken_at: float) -> Written:
    """What a writer's summary says about the time after the blow."""
    return Written(
        writer=result["writer"],
        acknowledged=result["acknowledged"],
        lost=result["lost_count"],
        outage_s=round(longest_gap(result["acks"], broken_at)[0], 2),
        errors=result["errors"],
        lost_items=result["lost"],
        failed=result.get("failed", 0),
    )


def longest_gap(acks: Sequence[Sequence[float]], broken_at: float) -> tuple[float, float]:
    """Longest time without an acknowledgement after the blow, of the worst lane, and its end.

    `acks` are (time, lane). A gap that began before counts from the blow. Infinite when a lane
    that had been served before was served no more.
    """
    lanes: dict[float, list[float]] = defaultdict(list)
    for at, lane in acks:
        lanes[lane].append(at)
    longest = (0.0, broken_at) if lanes else (math.inf, math.inf)
    for times in lanes.values():
        after = sorted(at for at in times if at > broken_at)
        if not after:
            return math.inf, math.inf
        starts = [broken_at, *after[:-1]]
        longest = max(longest, *((end - at, end) for at, end in zip(starts, after, strict=True)))
    return longest


def outage_events(result: dict[str, Any], broken_at: float) -> list[Event]:
    """The two ends of a writer's longest gap, for the timeline."""
    seconds, end = longest_gap(result["acks"], broken_at)
    if seconds < 0.25 or math.isinf(seconds):
        return []
    return [
        (end - seconds, f"{result['writer']}: outage begins"),
        (end, f"{result['writer']}: outage ends, first acknowledgement after {seconds:.2f} s"),
    ]


def timeline(events: Sequence[Event], broken_at: float) -> list[Event]:
    """What happened after the blow, in order, as seconds since."""
    after = [(round(at - broken_at, 2), what) for at, what in events if at > broken_at - 0.5]
    return sorted(set(after))


@contextlib.contextmanager
def observer(observe: Callable[[], dict[str, str]] | None) -> Iterator[list[Event]]:
    """Poll `observe` every 0.1 s in a thread; the list gets `(time, "name: value")` per change."""
    events: list[Event] = []
    done = threading.Event()
    look = observe

    def poll() -> None:
        seen: dict[str, str] = {}
        while look is not None and not done.wait(0.1):
            try:
                found = look()
            except Exception as error:  # the API may be what is broken
                found = {"observer": (str(error).splitlines() or [type(error).__name__])[0][:120]}
            for name, value in found.items():
                if seen.get(name, value) != value or (name == "observer" and name not in seen):
                    events.append((time.monotonic(), f"{name}: {value}"))
                seen[name] = value

    thread = threading.Thread(target=poll, name="drill-observer", daemon=True)
    thread.start()
    try:
        yield events
    finally:
        done.set()
        thread.join(timeout=15)


# -- the machine's processes ---------------------------------------------------------------------


def _containers(pod: Object) -> set[str]:
    states = pod.get("status", {}).get("containerStatuses", [])
    return {str(state.get("containerID")) for state in states}


def pod_processes(rehearsal: Rehearsal, pod: Object) -> list[psutil.Process]:
    """The processes of a pod, by its cgroup below the rehearsal's."""
    mine, uid = f"/estate-{rehearsal.name}/", str(pod["metadata"]["uid"])
    found = []
    for process in psutil.process_iter():
        try:
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            continue
        if any(mine in line and uid in line for line in groups.splitlines()):
            found.append(process)
    return found


def pod_process(
    rehearsal: Rehearsal, pod: Object, what: str, chosen: Callable[[psutil.Process], bool]
) -> psutil.Process:
    """The one process of a pod that is chosen. Raises EstateError for none and for several."""
    found = []
    for process in pod_processes(rehearsal, pod):
        with contextlib.suppress(psutil.Error):  # a probe's, which has ended
            if chosen(process):
                found.append(process)
    if len(found) != 1:
        name = pod["metadata"]["name"]
        raise EstateError(f"pod {name}", f"{len(found)} of {what} found", "run: ./estate status")
    return found[0]


def sandbox_process(rehearsal: Rehearsal, name: str) -> psutil.Process:
    """The process of the control plane or node with this name, and no other rehearsal's.

    Raises EstateError when it does not run.
    """
    box = rehearsal.box()
    init = getattr(box, "init", None)
    space = _pid_namespace(init) if init is not None else None
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name()[:15] == name[:15] and space == _pid_namespace(process.pid):
                words = process.cmdline()
                if words and Path(words[0]).name == name:
                    return process
    raise EstateError(name, "does not run", f"run: ./estate up --name {rehearsal.name}")


def _pid_namespace(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino


def log_times(lines: str, wanted: Sequence[str], offset: float, limit: int = 12) -> list[Event]:
    """Events from a JSON log: records whose message contains one of the words.

    `offset` is added to a record's time (Unix) to get the monotonic clock's.
    """
    found: list[Event] = []
    for line in lines.splitlines():
        try:
            record = json.loads(line)
            inner = record.get("record") or {}
            text = str(inner.get("message") or record.get("msg", ""))
            stamp = str(inner.get("log_time") or record["ts"]).replace(" UTC", "+00:00")
            at = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if any(word in text for word in wanted):
            found.append((at + offset, text[:140]))
    return found[:limit]
