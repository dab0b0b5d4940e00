"""Drills of delivery: a version replaced and taken back, and versions that must never be served."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rehearsal import load
from rehearsal.access import SERVING
from rehearsal.drills.harness import pod_processes
from rehearsal.drills.serving import HTTP, Outcome, Stage, failures
from rehearsal.errors import EstateError
from rehearsal.load_figures import Result
from rehearsal.serving_state import Delivery
from services.serving.model import Version

LOAD_S = 60.0
"""At least so long under load."""
_AFTER_S = 5.0
_STOP_S = 240.0
"""For a broken version to be stopped: a pod that cannot load it is waited for 180 s."""
REGISTRY_POD = "model-registry-0"
_STORAGE = "var/lib/registry/docker/registry/v2/blobs/sha256"


# -- promote and roll back -------------------------------------------------------------------------


def promote(stage: Stage) -> Outcome:
    """Replace the served version by the next, and take it back, under load."""
    new, _ = stage.publisher.add("good", stage.source.digest)
    stage.load.know(new)
    stage.start()
    figures: dict[str, float | None] = {}
    for what, wanted in (("promoted", new), ("rolled back", stage.source)):
        since = stage.declare(wanted)
        found = stage.wait(_stable_is(wanted))
        figures[f"{what} after s"] = None if found is None else round(found[0] - since, 1)
        stage.listen(_AFTER_S)
    stage.listen(stage.began + LOAD_S + _AFTER_S - time.monotonic())
    loads = stage.end()
    versions = (stage.source.version, new.version)
    return Outcome(
        "serving-promote",
        "",
        loads,
        {"versions": versions, **figures},
        stage.events,
        judge_promote(loads, figures, versions),
    )


def _stable_is(wanted: Version) -> Callable[[Delivery], bool]:
    return lambda now: now.stable == wanted and now.candidate is None


def judge_promote(
    loads: dict[str, Result], figures: dict[str, float | None], versions: tuple[int, int]
) -> list[str]:
    """What is wrong: a request that failed, a version that came not or was not seen."""
    wrong = failures(loads)
    wrong += [
        f"never {what.removesuffix(' after s')}" for what, at in figures.items() if at is None
    ]
    for key, one in loads.items():
        if one.seconds < LOAD_S:
            wrong.append(f"{key}: {one.seconds:.0f} s under load, {LOAD_S:.0f} s wanted")
        for version in versions:
            if not one.versions.get(str(version)):
                wrong.append(f"{key}: version {version} never answered")
        if strange := set(one.versions) - {str(version) for version in versions}:
            wrong.append(f"{key}: answered by {', '.join(sorted(strange))}")
        ends = [next(iter(at.versions), "") for at in one.timeline[:1] + one.timeline[-1:]]
        if set(ends) - {str(versions[0])}:
            wrong.append(f"{key}: begins and ends with {ends}, not with version {versions[0]}")
    return wrong


# -- versions that must never be served ------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A kind of broken version, and the gates of which one must stop it."""

    kind: str
    what: str
    gates: tuple[str, ...]


BROKEN = (
    Broken("unsigned", "nobody signed it", ("signature",)),
    Broken("missing", "a digest that the registry has not", ("digest",)),
    Broken("altered", "a file changed in the registry's storage", ("digest",)),
    Broken("wrong-shape", "another output than the served version's", ("contract",)),
    Broken("crashing", "a model file that is cut off", ("load", "golden")),
    Broken("exhausting", "takes 6 GB when it is asked", ("load", "golden")),
    Broken("wrong-answers", "answers other than its golden set", ("golden",)),
    Broken("slow", "0.3 s and more for an answer", ("latency",)),
)


@dataclass
class Case:
    """What became of one broken version. `gate` None: nothing stopped it in time."""

    kind: str
    what: str
    version: int
    expected: tuple[str, ...]
    gate: str | None
    reason: str
    stopped_s: float | None
    recovered: bool

    @property
    def met(self) -> bool:
        """Whether the gate that is for it stopped it."""
        return self.gate in self.expected and self.recovered


def broken(stage: Stage, kinds: Sequence[Broken] = BROKEN) -> Outcome:
    """Declare one broken version after another; each must be stopped before traffic sees it."""
    stage.start()
    cases = []
    for one in kinds:
        cases.append(_case(stage, one))
        stage.note(f"{one.kind}: {_stopped_by(cases[-1])}")
    stage.listen(max(_AFTER_S, stage.began + LOAD_S - time.monotonic()))
    loads = stage.end()
    return Outcome(
        "serving-broken",
        "",
        loads,
        {"cases": [{**asdict(case), "met": case.met} for case in cases]},
        stage.events,
        judge_broken(loads, cases, stage.source.version),
    )


def _stopped_by(case: Case) -> str:
    return f"stopped by {case.gate}" if case.gate else "not stopped"


def _case(stage: Stage, one: Broken) -> Case:
    with _broken_version(stage, one) as made:
        since = stage.declare(made)
        found = stage.wait(_refuses(made), _STOP_S)
        stage.declare(stage.source)
        back = stage.wait(lambda now: _stable_is(stage.source)(now) and now.refused is None)
    refused = found[1].refused if found else None
    return Case(
        one.kind,
        one.what,
        made.version,
        one.gates,
        refused.gate if refused else None,
        refused.why if refused else "",
        round(found[0] - since, 1) if found else None,
        back is not None,
    )


def _refuses(made: Version) -> Callable[[Delivery], bool]:
    return lambda now: now.refused is not None and now.refused.which == made


@contextlib.contextmanager
def _broken_version(stage: Stage, one: Broken) -> Iterator[Version]:
    """A version of a kind, as long as it is needed; the registry is whole afterwards."""
    if one.kind == "missing":
        good, _ = stage.publisher.add("good", stage.source.digest)
        yield Version(version=good.version, digest=f"sha256:{secrets.token_hex(32)}")
        return
    made, files = stage.publisher.add(one.kind, stage.source.digest)
    if one.kind == "altered":
        from rehearsal.drills.serving_models import MODEL_FILE

        with _altered(stage, files[MODEL_FILE]):
            yield made
        return
    try:
        yield made
    finally:
        if one.kind == "unsigned":
            stage.publisher.sign(made.digest)


@contextlib.contextmanager
def _altered(stage: Stage, digest: str) -> Iterator[None]:
    """One byte of a blob is another one in the registry's storage."""
    file = _blob(stage, digest)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        file.write_bytes(content)


def _blob(stage: Stage, digest: str) -> Path:
    """Where the registry keeps a blob, by way of one of its processes."""
    path = stage.api.path("v1", "Pod", SERVING, REGISTRY_POD)
    pod = stage.api.get(path)
    value = digest.removeprefix("sha256:")
    for process in pod_processes(stage.rehearsal, pod) if pod else ():
        file = Path(f"/proc/{process.pid}/root/{_STORAGE}/{value[:2]}/{value}/data")
        with contextlib.suppress(OSError):
            if file.is_file():
                return file
    raise EstateError(f"pod {SERVING}/{REGISTRY_POD}", f"keeps no blob {digest[:19]}", "")


def judge_broken(loads: dict[str, Result], cases: Sequence[Case], served: int) -> list[str]:
    """What is wrong: not stopped, or by another gate; a request that failed or saw one of them."""
    wrong = failures(loads)
    for case in cases:
        if case.gate is None:
            wrong.append(f"{case.kind}: nothing stopped it")
        elif case.gate not in case.expected:
            expected = " or ".join(case.expected)
            wrong.append(f"{case.kind}: stopped by {case.gate}, not {expected} ({case.reason})")
        if not case.recovered:
            wrong.append(f"{case.kind}: afterwards the model was not as it is declared again")
    for key, one in loads.items():
        if strange := set(one.versions) - {str(served)}:
            wrong.append(f"{key}: answered by {', '.join(sorted(strange))}, not by {served} alone")
    return wrong


def rows(outcome: Outcome) -> list[tuple[object, ...]]:
    """The table of a drill: each case, or each second with who answered."""
    cases = outcome.figures.get("cases")
    if cases is None:
        return load.timeline(outcome.loads[HTTP])
    return [
        (
            *(case["kind"], case["what"], case["version"], " or ".join(case["expected"])),
            *(case["gate"] or "none", case["stopped_s"], "yes" if case["met"] else "no"),
        )
        for case in cases
    ]
