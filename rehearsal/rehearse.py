"""`./estate rehearse ENV`: an environment's declaration on a real control plane, nodes simulated.

Real are the API server with the operators' definitions, admission, the scheduler, quotas, budgets
and Pulumi. No container runs, no secret is read, no cloud is asked; what an operator would make is
stood in for by placeholder pods. It is taken away at its end.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from configs import versions
from configs.schema import Environment, load
from rehearsal import addons, console, drift, paths, placeholders, simulated, verify, workloads
from rehearsal.errors import EstateError, UsageError
from rehearsal.inside import Row
from rehearsal.kube import Api, ApiError
from rehearsal.parts import NOT_REHEARSED
from rehearsal.pulumi import Pulumi
from rehearsal.rehearsal import LOCAL, Rehearsal
from rehearsal.up import config_errors, find_tools

_MARKUP = re.compile(r"<\{%[^%]*%\}>")  # of colours, in the engine's messages

SETTLE_S = 40.0
"""How long pods may take to be scheduled and to be ready; on simulated nodes it is seconds."""


def rehearse(environment: str, *, keep: bool, as_json: bool, offline: bool) -> int:
    """Rehearse `configs/Pulumi.<environment>.yaml`; 1 when something of it cannot be."""
    began = time.monotonic()
    declared = _declared(environment)
    rehearsal = Rehearsal(f"{paths.REHEARSE}{environment}")
    with rehearsal.locked():
        rehearsal.is_of(environment)
        if rehearsal.folder.exists():
            console.step("taking away an earlier rehearsal of it")
            rehearsal.destroy()
            rehearsal = Rehearsal(rehearsal.name)
        found = find_tools("simulated", offline)
        rows = None
        try:
            reason = f"a rehearsal of {environment}: nothing of it runs"
            rehearsal.prepare("simulated", reason, None, environment)
            rehearsal.link_tools(found)
            console.step("control plane (Kubernetes API, scheduler, controllers)")
            rehearsal.start_control_plane(found)
            rehearsal.apply(found, f"{addons.simulated()}\n---\n{addons.nodes(declared.nodes)}")
            console.step(f"pulumi up of {environment}")
            rows = _rows(rehearsal, found, declared)
        finally:
            if not keep:
                if rows is None or any(row.state == "failed" for row in rows):
                    console.say(f"its logs are kept in {_keep_logs(rehearsal)}")
                console.step("taking it away")
                rehearsal.destroy()
    seconds = time.monotonic() - began
    return _report(environment, rows, seconds, as_json)


def _keep_logs(rehearsal: Rehearsal) -> Path:
    """Copy the logs of one that failed to where they outlive it; those of an earlier one go."""
    kept = paths.cache() / "logs" / rehearsal.name
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for file in rehearsal.logs():
        shutil.copy(file, kept)
    return kept


def _declared(environment: str) -> Environment:
    if not paths.NAME_PATTERN.fullmatch(environment):
        raise UsageError(
            "ENVIRONMENT",
            repr(environment),
            "use the middle of configs/Pulumi.<name>.yaml: 1 to 16 of a-z, 0-9 and '-', such as "
            "onprem",
        )
    name = f"Pulumi.{environment}.yaml"
    if environment == LOCAL:
        raise EstateError("environment local", "is itself a rehearsal", "run: ./estate up")
    with config_errors():
        declared = load(paths.root() / "configs" / name)
    if not declared.nodes:
        raise EstateError(
            f"configs/{name}: nodes",
            "none declared",
            "list its pools: name, count, cpu, memory_gib",
        )
    return declared


def _rows(rehearsal: Rehearsal, found: dict[str, Any], declared: Environment) -> list[Row]:
    pulumi = Pulumi(rehearsal, progress=sys.stderr)  # stdout is for the result
    pulumi.select()
    events = rehearsal.folder / "logs" / "pulumi-events.jsonl"
    good = pulumi.up(refresh=False, events=events)
    accepted = Row("rehearse.accepted", "the API server takes every object", "passed", "")
    if dead := rehearsal.stopped():
        # What it would have answered for fails with words that lead astray.
        raise EstateError(
            f"process {dead[0]}", "has ended", f"see {rehearsal.folder / 'kwok'}; run it again"
        )
    state = pulumi.state()
    count = sum(one["type"].startswith("kubernetes:") for one in state.resources)
    rows = [replace(accepted, detail=f"{count} objects")]
    try:
        api = Api(rehearsal.kubeconfig)
        if not good:
            said = f"{errors(events) or 'see above'}; what depends on it was not made, nor judged"
            others = [row for row in _settled(rehearsal, api) if row.state == "failed"]
            return [replace(accepted, state="failed", detail=said), *others]
        # What is stored is compared before anything is added to it.
        rows += verify.drift_rows(rehearsal, api, drift.declared(state.resources))
        rows += _digests(declared, state.resources)
        lacking = placeholders.missing(api, state.outputs.get("expected_pods") or [])
        if lacking:
            image = versions.declared()["pause"]
            stand_ins = placeholders.objects(lacking, f"{image.repository}:{image.tag}")
            rehearsal.apply(found, yaml.safe_dump_all(stand_ins))
        return rows + _settled(rehearsal, api)
    except ApiError as error:
        raise EstateError("Kubernetes API", str(error)[:200], "run it again") from None


def _digests(declared: Environment, resources: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Which of the images that are used `pulumi up` would refuse, for want of a digest."""
    config = declared.images
    unpinned = versions.pulled(config.registry, config.digests).unpinned
    used = json.dumps([one.get("inputs") for one in resources], default=str)
    lacking = sorted(key for key, image in unpinned.items() if image.digest in used)
    title = "every image has the digest that it is pulled by"
    if not lacking:
        return [Row("rehearse.digests", title, "passed", "")]
    said = f"pulumi up refuses what needs these until images.digests has them: {', '.join(lacking)}"
    return [Row("rehearse.digests", title, "skipped", said)]


def errors(events: Path) -> str:
    """What Pulumi reported as errors, each with the resource; empty when it wrote no events."""
    found = []
    with suppress(FileNotFoundError):
        for line in events.read_text(encoding="utf-8").splitlines():
            said = json.loads(line).get("diagnosticEvent") or {}
            if said.get("severity") == "error":
                where = str(said.get("urn", "")).rpartition("$")[2].rpartition(":")[2]
                found.append(f"{where}: {' '.join(_MARKUP.sub('', said['message']).split())}")
    return "; ".join(found)


def _settled(rehearsal: Rehearsal, api: Api) -> list[Row]:
    """Nodes, workloads, claims and budgets, once they are all well or the time is over."""
    rows = simulated.rows(rehearsal, api, [], SETTLE_S)
    found = []
    for row in rows:
        if row.state == "failed" and "/" in row.title:
            kind, where, *_ = row.title.split()
            namespace, _, name = where.partition("/")
            if why := workloads.reasons(api, kind, namespace, name):
                row = Row(row.id, row.title, row.state, f"{row.detail}: {why}", row.ms)
        found.append(row)
    return [*found, *_budgets(api)]


def _budgets(api: Api) -> list[Row]:
    """Every budget must select pods and let one of them go, else no node can be drained."""
    spaces = workloads.namespaces(api)
    bad, count = [], 0
    for budget in api.items("policy/v1", "PodDisruptionBudget"):
        metadata, status = budget["metadata"], budget.get("status", {})
        if metadata["namespace"] in spaces:
            count += 1
            if not status.get("expectedPods"):
                bad.append(f"{metadata['namespace']}/{metadata['name']} selects no pod")
            elif not status.get("disruptionsAllowed"):
                bad.append(f"{metadata['namespace']}/{metadata['name']} lets none go")
    title = "every disruption budget selects pods and lets one go"
    detail = ", ".join(bad) or f"{count} budgets"
    return [Row("rehearse.budgets", title, "failed" if bad else "passed", detail)]


def _report(environment: str, rows: Sequence[Row], seconds: float, as_json: bool) -> int:
    failed = sum(row.state == "failed" for row in rows)
    skipped = sum(row.state == "skipped" for row in rows)
    if as_json:
        console.emit_json(
            {
                "environment": environment,
                "ok": not failed,
                "rows": [row.json_object() for row in rows],
                "not_rehearsed": dict(NOT_REHEARSED),
            }
        )
    else:
        cells = [(row.id, row.title, row.state, row.detail) for row in rows]
        console.table(f"Rehearsal of {environment}", ("row", "what", "state", "detail"), cells)
        console.table("Not rehearsed", ("what", "why"), NOT_REHEARSED)
    colour = "red" if failed else "green"
    passed = len(rows) - failed - skipped
    words = f"{passed} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s"
    console.say(f"[{colour}]{words}[/]")
    return 1 if failed else 0
