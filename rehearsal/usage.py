"""What a rehearsal uses of the machine, by component: memory and CPU from cgroups and /proc."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from rehearsal.errors import EstateError
from rehearsal.kube import Api
from rehearsal.rehearsal import Rehearsal

_ROOT = Path("/sys/fs/cgroup")


@dataclass
class Usage:
    """Working set in MiB (what the kernel cannot drop) and cores, averaged over the interval."""

    memory_mib: float = 0.0
    cpu_cores: float = 0.0


def by_component(rehearsal: Rehearsal, seconds: float = 5.0) -> dict[str, Usage]:
    """Usage per component (the pods' label) and per process of control plane and node.

    Raises EstateError when no cgroup of the rehearsal is there.
    """
    names = {
        str(pod["metadata"]["uid"]): _component(pod)
        for pod in Api(rehearsal.kubeconfig).items("v1", "Pod")
    }
    groups = {uid: group for uid, group in _pod_groups(rehearsal) if uid in names}
    if not groups:
        raise EstateError(
            f"rehearsal {rehearsal.name}", "no pod's cgroup found", "see: ./estate status"
        )
    processes = list(_processes(rehearsal))
    before = {uid: _cpu_seconds(group) for uid, group in groups.items()}
    spent = {process.pid: _process_seconds(process) for process in processes}
    began = time.monotonic()
    time.sleep(seconds)
    interval = time.monotonic() - began
    found: dict[str, Usage] = defaultdict(Usage)
    for uid, group in groups.items():
        usage = found[names[uid]]
        with contextlib.suppress(OSError):
            usage.cpu_cores += (_cpu_seconds(group) - before[uid]) / interval
            usage.memory_mib += _working_set(group) / 2**20
    for process in processes:
        with contextlib.suppress(psutil.Error):
            usage = found[process.name()]
            usage.cpu_cores += (_process_seconds(process) - spent[process.pid]) / interval
            usage.memory_mib += process.memory_info().rss / 2**20
    return dict(found)


def _component(pod: dict[str, object]) -> str:
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    labels = metadata.get("labels") or {}
    for label in ("cnpg.io/cluster", "app.kubernetes.io/name", "app", "k8s-app"):
        if label in labels:
            return str(labels[label])
    return str(metadata["name"])


def _pod_groups(rehearsal: Rehearsal) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Pod uid and its groups of memory and of CPU accounting (the same folder in v2)."""
    if (_ROOT / "cgroup.controllers").exists():
        memory = cpu = _ROOT
    else:
        memory, cpu = _ROOT / "memory", _ROOT / "cpuacct"
    top = memory / f"estate-{rehearsal.name}"
    for folder in top.rglob("pod*"):
        if folder.is_dir() and folder.name.count("-") == 4:
            uid = folder.name.removeprefix("pod")
            yield uid, (folder, cpu / folder.relative_to(memory))


def _working_set(group: tuple[Path, Path]) -> int:
    """As the kubelet counts it: usage less the file cache that nobody touches."""
    folder = group[0]
    one = (folder / "memory.usage_in_bytes").exists()
    usage = int((folder / ("memory.usage_in_bytes" if one else "memory.current")).read_text())
    key = "total_inactive_file" if one else "inactive_file"
    for line in (folder / "memory.stat").read_text().splitlines():
        if line.startswith(f"{key} "):
            usage -= int(line.split()[1])
    return max(usage, 0)


def _cpu_seconds(group: tuple[Path, Path]) -> float:
    folder = group[1]
    one = folder / "cpuacct.usage"
    if one.exists():
        return int(one.read_text()) / 1e9
    for line in (folder / "cpu.stat").read_text().splitlines():
        if line.startswith("usage_usec "):
            return int(line.split()[1]) / 1e6
    return 0.0


def _processes(rehearsal: Rehearsal) -> Iterator[psutil.Process]:
    """Those of the sandbox that are in no pod: control plane, node, gateways, shims."""
    init = getattr(rehearsal.box(), "init", None)
    if init is None:
        return
    space = Path(f"/proc/{init}/ns/pid").stat().st_ino
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            inside = Path(f"/proc/{process.pid}/ns/pid").stat().st_ino == space
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
            if inside and f"/estate-{rehearsal.name}/" not in groups:
                yield process


def _process_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        spent = process.cpu_times()
        return float(spent.user + spent.system)
    return 0.0
