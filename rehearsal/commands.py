"""The commands that look at a rehearsal and take it down."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

from rehearsal import console, health, paths
from rehearsal.errors import EstateError, UsageError
from rehearsal.parts import NOT_REHEARSED, table_rows
from rehearsal.rehearsal import LOCAL, Record, Rehearsal


def status(name: str, as_json: bool) -> int:
    """Show what runs, what is real, simulated or declared, and where to click."""
    rehearsal = Rehearsal(name)
    record = rehearsal.required()
    running = rehearsal.processes()
    dead = [part for part, alive in running.items() if not alive]
    pods = [] if dead and "kube-apiserver" in dead else _pods(rehearsal)
    real = record.stack == LOCAL and record.mode == "node"
    says = health.told(rehearsal, {str(pod["name"]) for pod in pods}) if real else {}
    ports = rehearsal.pages
    if as_json:
        console.emit_json(
            {
                "name": name,
                "mode": record.mode,
                "reason": record.reason,
                "processes": running,
                "pods": pods,
                "health": says,
                **_real(record),
                "api": f"https://127.0.0.1:{rehearsal.api_port}",
                "pages": {page: f"https://127.0.0.1:{port}" for page, port in ports.items()},
            }
        )
        return 1 if dead else 0
    console.table(
        f"Processes of {name}",
        ("process", "state"),
        [(part, "running" if alive else "stopped") for part, alive in running.items()],
    )
    console.table(
        "Pods of the estate",
        ("namespace", "pod", "ready", "phase", "restarts"),
        [
            tuple(pod[key] for key in ("namespace", "name", "ready", "phase", "restarts"))
            for pod in pods
        ],
    )
    if says:
        console.table("Health", ("system", "what it says"), list(says.items()))
    if record.stack == LOCAL:
        console.table("What is real here", ("part", "kind", "how"), table_rows(record.mode))
    else:
        console.table("Not rehearsed", ("what", "why"), NOT_REHEARSED)
    where_to_click(rehearsal, ports)
    if dead:
        again = "starts them again" if record.stack == LOCAL else "makes it anew"
        console.warn(f"stopped: {', '.join(dead)}; {rehearsal.up_command} {again}")
    return 1 if dead else 0


def _real(record: Record) -> dict[str, Any]:
    """What of it is real: of the estate's own parts, or in words for another environment."""
    if record.stack != LOCAL:
        return {"not_rehearsed": dict(NOT_REHEARSED)}
    keys = ("part", "state", "how")
    return {"parts": [dict(zip(keys, row, strict=True)) for row in table_rows(record.mode)]}


def _pods(rehearsal: Rehearsal) -> list[dict[str, object]]:
    done = rehearsal.kubectl("get", "pods", "-A", "-o", "json", "--request-timeout=10s")
    if done.returncode != 0:
        return []
    rows: list[dict[str, object]] = []
    for pod in json.loads(done.stdout)["items"]:
        states = pod["status"].get("containerStatuses", [])
        ready = sum(bool(state.get("ready")) for state in states)
        rows.append(
            {
                "namespace": pod["metadata"]["namespace"],
                "name": pod["metadata"]["name"],
                "ready": f"{ready}/{len(pod['spec']['containers'])}",
                "phase": pod["status"].get("phase", "?"),
                "restarts": sum(int(state.get("restartCount", 0)) for state in states),
            }
        )
    return rows


def down(name: str) -> int:
    """Take the rehearsal away: processes, namespaces, cgroups, files."""
    rehearsal = Rehearsal(name)
    with rehearsal.locked():
        if not rehearsal.folder.exists():
            console.say(f"rehearsal {name} does not exist; nothing to do")
            return 0
        rehearsal.destroy()
    console.say(f"rehearsal {name} is gone; the cache at {paths.cache()} stays")
    return 0


def env(name: str) -> int:
    """Print the shell lines that make pulumi and kubectl work on the rehearsal."""
    rehearsal = Rehearsal(name)
    rehearsal.required()
    for key in rehearsal.foreign():
        print(f"unset {key}")
    for key, value in rehearsal.variables().items():
        print(f"export {key}={shlex.quote(value)}")
    return 0


def logs(name: str, component: str, follow: bool) -> int:
    """Print the log of a process or of the pods whose name begins so; list them without one."""
    rehearsal = Rehearsal(name)
    rehearsal.required()
    files = {file.stem: file for file in rehearsal.logs()}
    if component in files:
        command = ["tail", "-n", "500", *(["-F"] if follow else []), str(files[component])]
        return subprocess.run(command, check=False).returncode
    pods = _pods(rehearsal)
    chosen = [pod for pod in pods if component and str(pod["name"]).startswith(component)]
    if not chosen:
        rows = [(stem, "process") for stem in files]
        rows += [(str(pod["name"]), f"pod in {pod['namespace']}") for pod in pods]
        if component:
            known = ", ".join(str(row[0]) for row in rows)
            raise UsageError(f"log {component}", "no such process or pod", f"known are: {known}")
        console.table("What has logs", ("name", "kind"), rows)
        return 0
    if rehearsal.required().mode == "simulated":
        raise EstateError(
            f"log {component}", "a simulated pod writes none", "choose a process: ./estate logs"
        )
    code = 0
    for pod in chosen:
        command = [str(rehearsal.folder / "bin" / "kubectl"), "logs", "-n", str(pod["namespace"])]
        command += [str(pod["name"]), "--all-containers", "--prefix", "--tail=500"]
        command += ["-f"] if follow else []
        code |= subprocess.run(command, env=rehearsal.environment(), check=False).returncode
    return code


def where_to_click(rehearsal: Rehearsal, ports: Mapping[str, int]) -> None:
    """Print the addresses on loopback; `ports` has those of the pages by name."""
    trust = "certificate by the estate's CA, for the name inside the cluster"
    rows = [("kubernetes-api", f"https://127.0.0.1:{rehearsal.api_port}", rehearsal.env_command)]
    rows += [(name, f"https://127.0.0.1:{port}", trust) for name, port in sorted(ports.items())]
    console.table("Where to click", ("what", "address", "how"), rows)
