"""What runs in the estate's containers, as seen from inside them (testinfra over kubectl exec).

One container of each kind is asked: the replicas of a workload have one template.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import testinfra
from kubernetes import client, config

# One shell per container, because each exec costs the API server and the node some work. Only
# builtins and what /proc gives: small images have neither ps nor ss nor stat.
_PROCESSES = """
for status in /proc/[0-9]*/status; do
  uid=; name=
  while read -r key value rest; do
    case "$key" in Name:) name=$value;; Uid:) uid=$value; break;; esac
  done 2>/dev/null < "$status" && [ -n "$uid" ] && echo "process $uid $name"
done
for file in /proc/net/tcp /proc/net/tcp6; do
  while read -r slot local remote state rest; do
    [ "$state" = 0A ] && echo "listen $local"
  done 2>/dev/null < "$file"
done
"""
_FILES = """
for file in {mount}/*; do [ -f "$file" ] && [ -w "$file" ] && echo "writable $file"; done
command -v stat >/dev/null && stat -L -c 'mode %a %n' {mount}/* 2>/dev/null
"""
_LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@dataclass(frozen=True)
class Container:
    """What one container said: (uid, name) of processes, ports, (mode, file) of secrets."""

    where: str
    asked: bool
    processes: Sequence[tuple[int, str]]
    ports: frozenset[int]
    declared_ports: frozenset[int]
    modes: Sequence[tuple[int, str]]
    writable: Sequence[str]
    runtime_uid: int | None


def _secret_mounts(pod: Any, container: Any) -> list[str]:
    """Where a container sees Secrets; the service account's token is the API server's affair."""

    def secret(volume: Any) -> bool:
        sources = volume.projected.sources if volume.projected else []
        return volume.secret is not None or any(source.secret for source in sources or [])

    names = {volume.name for volume in pod.spec.volumes or [] if secret(volume)}
    mounts = container.volume_mounts or []
    return [mount.mount_path for mount in mounts if mount.name in names and not mount.sub_path]


def _ask(core: Any, pod: Any, container: Any) -> Container | None:
    """Ask one container; None when it did not answer because it has ended since it was listed."""
    space, name = pod.metadata.namespace, pod.metadata.name
    host = testinfra.get_host(f"kubectl://{name}?namespace={space}&container={container.name}")
    script = _PROCESSES
    for mount in _secret_mounts(pod, container):
        script += _FILES.format(mount=shlex.quote(mount))
    answer = host.run(script + "\ntrue")
    if answer.rc != 0 and not _still(core, pod, container.name):
        return None
    lines = [line.split(" ", 2) for line in answer.stdout.splitlines()]
    sockets = [line[1].split(":") for line in lines if line[0] == "listen"]
    # Containers of a pod share its network: what one listens on, all of them see.
    ports = [
        port.container_port
        for one in [*pod.spec.containers, *(pod.spec.init_containers or [])]
        for port in one.ports or []
    ]
    return Container(
        where=f"{space}/{name}/{container.name}",
        asked=answer.rc == 0,
        # `runc:[2:INIT]` is the runtime on its way into the container, as root until it is there:
        # an exec probe starts one every few seconds.
        processes=[
            (int(line[1]), line[2])
            for line in lines
            if line[0] == "process" and not line[2].startswith("runc:[")
        ],
        ports=frozenset(int(port, 16) for address, port in sockets if address not in _LOOPBACK),
        declared_ports=frozenset(ports),
        modes=[(int(line[1], 8), line[2]) for line in lines if line[0] == "mode"],
        writable=[" ".join(line[1:]) for line in lines if line[0] == "writable"],
        runtime_uid=_runtime_uid(pod, container.name),
    )


def _still(core: Any, pod: Any, name: str) -> bool:
    """Whether the container that was listed is the one that runs now."""

    def ids(pods: Any) -> set[str]:
        return {
            status.container_id
            for one in pods
            for status in one.status.container_statuses or []
            if status.name == name and status.state.running
        }

    field = f"metadata.name={pod.metadata.name}"
    now = core.list_namespaced_pod(pod.metadata.namespace, field_selector=field).items
    return bool(ids([pod]) & ids(now))


def _runtime_uid(pod: Any, name: str) -> int | None:
    """The user that the container runtime reports (KEP-3619)."""
    for status in pod.status.container_statuses or []:
        if status.name == name and status.user is not None and status.user.linux is not None:
            return int(status.user.linux.uid)
    return None


@pytest.fixture(scope="module")
def containers() -> list[Container]:
    # Any: the client's types say that every field may be None, though a listed pod has them.
    core: Any = client.CoreV1Api(config.new_client_from_config())  # type: ignore[no-untyped-call]
    estate = "app.kubernetes.io/part-of=estate"
    chosen: dict[tuple[str, ...], tuple[Any, Any]] = {}
    for space in core.list_namespace(label_selector=estate).items:
        for pod in core.list_namespaced_pod(space.metadata.name).items:
            owners = pod.metadata.owner_references or [pod.metadata]
            running = {s.name for s in pod.status.container_statuses or [] if s.state.running}
            for container in pod.spec.containers:
                if container.name in running:
                    key = (pod.metadata.namespace, owners[0].name, container.name)
                    chosen.setdefault(key, (pod, container))
    with ThreadPoolExecutor(6) as pool:
        asked = pool.map(lambda pair: _ask(core, *pair), chosen.values())
        return [container for container in asked if container is not None]


@pytest.mark.row("host.non-root", "no process of the estate's pods runs as root")
def test_processes_are_not_root(
    containers: list[Container], record_property: Callable[[str, object], None]
) -> None:
    root, count, unasked = [], 0, 0
    for one in containers:
        uids = [(uid, name) for uid, name in one.processes]
        if not one.asked:  # no shell in the image: then the container runtime's word
            unasked += 1
            uids = [(one.runtime_uid, "main process")] if one.runtime_uid is not None else []
        count += len(uids)
        root += [f"{one.where}: {name}" for uid, name in uids if uid == 0]
    record_property(
        "detail", f"{count} processes in {len(containers)} containers, {unasked} without a shell"
    )
    _none(root, "as root")
    assert count >= len(containers) > 0, "not every container could be asked"


@pytest.mark.row("host.secret-files", "no process can change the files of its secrets")
def test_secret_files(
    containers: list[Container], record_property: Callable[[str, object], None]
) -> None:
    bad, count = [], 0
    for one in containers:
        count += len(one.modes)
        bad += [f"{one.where}: {file} can be written" for file in one.writable]
        bad += [f"{one.where}: {file} is {mode:o}" for mode, file in one.modes if mode & 0o022]
    record_property("detail", f"{count} files")
    _none(bad, "open")


@pytest.mark.row("host.sockets", "only declared ports are open to other pods")
def test_sockets(
    containers: list[Container], record_property: Callable[[str, object], None]
) -> None:
    bad = {
        f"{one.where.rpartition('/')[0]}: port {port}"
        for one in containers
        for port in one.ports - one.declared_ports
    }
    ports = {(one.where.rpartition("/")[0], port) for one in containers for port in one.ports}
    record_property("detail", f"{len(ports)} open ports")
    _none(sorted(bad), "undeclared")
    if not any(one.asked for one in containers):
        pytest.skip("no container has a shell to ask in")
    assert ports, "no container said what it listens on"


def _none(bad: Sequence[str], what: str) -> None:
    if bad:
        pytest.fail(f"{what}: " + ", ".join(bad), pytrace=False)
