"""`./estate verify`: the checks that components declare, hosts, drift; with `--prove` their proof.

Where no node is real, nothing answers a protocol: there it says what the control plane made of the
declaration (scheduled, bound), and names the checks that it could not run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from rehearsal import console, drift, inside, prove, prove_hosts, simulated, workloads
from rehearsal.errors import EstateError, UsageError
from rehearsal.inside import Check, Row
from rehearsal.kube import Api, ApiError
from rehearsal.pulumi import Pulumi, State
from rehearsal.rehearsal import Rehearsal

# Rows that come from no component: tests/state/test_hosts.py, and the state of the stack.
HOSTS = ("host.non-root", "host.secret-files", "host.sockets")
DRIFT = "estate.as-declared"
READY = "estate.ready"
SETTLE_S = 240.0
"""How long `up` waits for red checks: pods start, images are there."""

_READY_TITLE = "every workload has all its pods, and each is Ready"
_DRIFT_TITLE = "nothing declared was changed or deleted by hand"
# Without these nothing inside can be asked.
_NEEDED = ("sandbox", "kube-apiserver", "etcd", "gateway")


def run(name: str, prove: bool, only: list[str], as_json: bool) -> int:
    """Check the running estate; returns 1 when something is not as it should be.

    Args:
        name: of the rehearsal.
        prove: break the subject of each check, see it red, restore it, see it green.
        only: prefixes of ids; none means all.
        as_json: print JSON on stdout instead of a table.
    """
    rehearsal = Rehearsal(name)
    began = time.monotonic()
    mode = rehearsal.required().mode
    pulumi = Pulumi(rehearsal)
    # Reading the state takes three times as long as reading its outputs.
    state = pulumi.state() if _wanted(DRIFT, only) else None
    checks = (state.outputs if state else pulumi.outputs()).get("checks")
    if checks is None:
        raise EstateError(
            f"rehearsal {name}",
            "the estate has not come up on it yet",
            f"run: {rehearsal.up_command}",
        )
    chosen = _choose(checks, only)
    dead = _dead(rehearsal)
    if prove:
        if dead:
            raise EstateError("process", f"{dead[0].id} is stopped", f"run: {rehearsal.up_command}")
        if mode == "simulated":
            raise EstateError(
                "verify --prove",
                f"no node of {name} is real: {rehearsal.required().reason}",
                "run it where containers can run (./estate doctor says what is missing)",
            )
        with rehearsal.locked():
            return _prove(rehearsal, chosen, only, state, as_json)
    declared = drift.declared(state.resources) if state else None
    rows = dead + _rows(rehearsal, chosen, only, declared, 0.0, dead, hosts=True)
    return _report(name, mode, rows, time.monotonic() - began, as_json)


def settled(rehearsal: Rehearsal, state: State, settle_s: float = SETTLE_S) -> int:
    """Check after a change: red checks are asked again until `settle_s` are over.

    It ends earlier where one is red for good (tests/state/asking.py). Hosts are left out: their
    containers start while this waits.
    """
    return 1 if any(row.state == "failed" for row in watched(rehearsal, state, settle_s)) else 0


def watched(rehearsal: Rehearsal, state: State, settle_s: float) -> list[Row]:
    """The same; returns the rows that it showed."""
    began = time.monotonic()
    declared = drift.declared(state.resources)
    rows = _rows(rehearsal, state.outputs["checks"], [], declared, settle_s, [], hosts=False)
    mode = rehearsal.required().mode
    _report(rehearsal.name, mode, rows, time.monotonic() - began, as_json=False)
    return rows


def still_green(
    rehearsal: Rehearsal,
    checks: Sequence[Check],
    declared: Sequence[drift.Declared],
    probes: inside.Probes | None,
) -> bool:
    """Check where nothing was to change, once; shown only when all is green and as declared.

    `probes` were started before it was known what to ask, None where no node is real: a pytest
    started here, and then the clients' libraries, are two seconds.
    """
    began = time.monotonic()
    rows = _rows(rehearsal, checks, [], declared, 0.0, [], hosts=False, probes=probes)
    if any(row.state == "failed" for row in rows):
        return False
    mode = rehearsal.required().mode
    _report(rehearsal.name, mode, rows, time.monotonic() - began, as_json=False)
    return True


def _choose(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    known = [str(check["id"]) for check in checks] + [*HOSTS, DRIFT, READY]
    for prefix in only:
        if not any(one.startswith(prefix) for one in known):
            raise UsageError("--only", repr(prefix), f"known are: {', '.join(sorted(known))}")
    return [check for check in checks if _wanted(check["id"], only)]


def _wanted(row: str, only: Sequence[str]) -> bool:
    return not only or any(row.startswith(prefix) for prefix in only)


def _dead(rehearsal: Rehearsal) -> list[Row]:
    return [
        Row(part, "the process runs", "failed", f"stopped; run: {rehearsal.up_command}")
        for part, alive in rehearsal.processes().items()
        if not alive
    ]


def _rows(
    rehearsal: Rehearsal,
    checks: Sequence[Check],
    only: Sequence[str],
    declared: Sequence[drift.Declared] | None,
    settle: float,
    dead: Sequence[Row],
    *,
    hosts: bool,
    probes: inside.Probes | None = None,
) -> list[Row]:
    """Rows of checks, `hosts`, workloads and drift (with `declared`), asked side by side."""
    stopped = [row.id for row in dead if row.id in _NEEDED]
    if stopped:
        return [
            Row(check["id"], check["title"], "skipped", f"{stopped[0]} is stopped")
            for check in checks
        ]
    api = Api(rehearsal.kubeconfig)
    prove.restore(rehearsal, api)
    simulated_only = rehearsal.required().mode == "simulated"
    over = Event()
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(drift_rows, rehearsal, api, declared)] if declared else []
        if _wanted(READY, only) and not simulated_only:
            others.insert(0, pool.submit(ready_rows, api, settle, over))
        try:
            if simulated_only:
                rows = simulated.rows(rehearsal, api, checks, settle)
            elif probes is not None:
                rows = _once(probes, checks)
            else:
                chosen = [row for row in HOSTS if _wanted(row, only)] if hosts else []
                rows = _inside(rehearsal, checks, chosen, settle)
            return rows + [row for other in others for row in other.result()]
        finally:
            # Who interrupts this waits for the threads, but not for the estate to settle.
            over.set()


def _once(probes: inside.Probes, checks: Sequence[Check]) -> list[Row]:
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        answers = list(pool.map(probes.ask, checks))
    return [
        Row(one["id"], one["title"], "passed" if said.ok else "failed", said.detail, said.ms)
        for one, said in zip(checks, answers, strict=True)
    ]


def _inside(
    rehearsal: Rehearsal, checks: Sequence[Check], hosts: Sequence[str], settle: float
) -> list[Row]:
    ids = [*(str(check["id"]) for check in checks), *hosts]
    if not ids:
        return []
    shown = time.monotonic()
    with console.err.status("checks") as status:

        def progress(waiting: Mapping[str, str]) -> None:
            nonlocal shown
            if not waiting:
                return
            words = f"{len(ids) - len(waiting)} of {len(ids)} green; " + "; ".join(
                f"{row}: {detail[:60]}" for row, detail in sorted(waiting.items())[:2]
            )
            if console.err.is_terminal:
                status.update(words)
            elif time.monotonic() - shown > 15:
                shown = time.monotonic()
                console.say(words)

        found = inside.run_tests(rehearsal, checks, ids, settle, progress)
    missing = sorted(set(ids) - {row.id for row in found})
    return found + [Row(row, "", "failed", "its test did not run") for row in missing]


def ready_rows(api: Api, settle: float = 0.0, over: Event | None = None) -> list[Row]:
    """One row: whether the estate has all its pods, each Ready.

    Asked again until `settle` seconds are over, or `over` is set.
    """
    over = over or Event()
    began = time.monotonic()
    while True:
        try:
            count, lacking = workloads.unready(api)
        except ApiError as error:
            count, lacking = 0, [str(error)]
        now = time.monotonic()
        if (count and not lacking) or now > began + settle or over.wait(1):
            break
    ms = round((now - began) * 1000)
    if count and not lacking:
        return [Row(READY, _READY_TITLE, "passed", f"{count} pods", ms)]
    return [Row(READY, _READY_TITLE, "failed", ", ".join(lacking)[:240] or "no pods", ms)]


def drift_rows(rehearsal: Rehearsal, api: Api, declared: Sequence[drift.Declared]) -> list[Row]:
    """A row per object that was changed or deleted by hand, or one that says there is none."""
    began = time.monotonic()
    try:
        objects = [*declared, *drift.given(rehearsal.applied())]
        found = drift.find(api, objects)
    except ApiError as error:
        return [Row(DRIFT, _DRIFT_TITLE, "failed", str(error)[:240])]
    ms = round((time.monotonic() - began) * 1000)
    if not found:
        return [Row(DRIFT, _DRIFT_TITLE, "passed", f"{len(objects)} objects as declared", ms)]
    return [Row(DRIFT, one.where, "failed", one.what, ms) for one in found]


def _report(name: str, mode: str, rows: Sequence[Row], seconds: float, as_json: bool) -> int:
    failed = sum(row.state == "failed" for row in rows)
    passed = sum(row.state == "passed" for row in rows)
    skipped = len(rows) - failed - passed
    if as_json:
        result: dict[str, Any] = {"name": name, "mode": mode, "ok": failed == 0}
        result["rows"] = [row.json_object() for row in rows]
        console.emit_json(result)
    else:
        console.table(
            f"Checks of {name}",
            ("check", "what", "state", "detail", "ms"),
            [
                (row.id, row.title, row.state, row.detail, "" if row.ms is None else row.ms)
                for row in rows
            ],
        )
    words = f"{passed} passed, {failed} failed, {skipped} skipped in {seconds:.1f} s"
    console.say(f"[{'red' if failed else 'green'}]{words}[/]")
    return 1 if failed else 0


def _prove(
    rehearsal: Rehearsal,
    checks: Sequence[Check],
    only: Sequence[str],
    state: State | None,
    as_json: bool,
) -> int:
    began = time.monotonic()
    api = Api(rehearsal.kubeconfig)
    prove.restore(rehearsal, api)
    with inside.probes(rehearsal) as probes:
        proofs = prove.run(rehearsal, api, probes, checks)
    if _wanted(READY, only):
        proofs.append(prove.of_ready(api, READY))
    proofs += prove_hosts.of_hosts(rehearsal, api, [row for row in HOSTS if _wanted(row, only)])
    if state:
        declared = drift.declared(state.resources)
        proofs.append(prove.of_drift(rehearsal, api, declared, DRIFT))
        # The proof of having restored everything exactly.
        proofs += [
            prove.Proof(row.id, None, None, f"not restored: {row.title}: {row.detail}")
            for row in drift_rows(rehearsal, api, declared)
            if row.state == "failed"
        ]
    failed = [proof for proof in proofs if proof.error]
    if as_json:
        rows = [proof.json_object() for proof in proofs]
        console.emit_json({"name": rehearsal.name, "ok": not failed, "proofs": rows})
    else:
        console.table(
            f"Proof that the checks of {rehearsal.name} can fail",
            ("check", "state", "red after", "green after", "what it said, or what went wrong"),
            [proof.cells() for proof in proofs],
        )
    words = f"{len(proofs) - len(failed)} proven, {len(failed)} not"
    colour = "red" if failed else "green"
    console.say(f"[{colour}]{words} in {time.monotonic() - began:.0f} s[/]")
    return 1 if failed else 0
