"""Network policies: connections tried from inside the pods' own network namespaces.

A thread enters the namespace of a pod's process, so its packets are the pod's to whatever enforces
the policies, and no image needs a tool for it. Runs where the node's processes are seen.
"""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.flows import API_SERVER, Flow, Pods
from rehearsal import sandbox
from tests.state.probes import ProbeContext, probe

PATIENCE_S = 1.0
"""What is denied is dropped without an answer; what is let through takes milliseconds."""

_CLONE_NEWNET = 0x40000000
_API = (sandbox.API_SERVICE_IP, 443)
_KUBELET = (sandbox.NODE_IP, 10250)  # open, and no pod's business

NO_ANSWER = "no answer"
_POD_CGROUP = re.compile(r"/pod([0-9a-f-]{36})/")
_libc = ctypes.CDLL(None, use_errno=True)

Address = tuple[str, int]


@dataclass(frozen=True)
class Pod:
    """A running pod; `name` is `namespace/name`."""

    name: str
    uid: str
    ip: str


@probe("network_allowed")
def network_allowed(ctx: ProbeContext, flows: Sequence[Mapping[str, Any]]) -> str:
    """Every declared flow between workloads that run, and to the API, connects."""
    declared = [Flow.model_validate(flow) for flow in flows]
    pods = _running(ctx, declared)
    wanted: dict[str, set[tuple[str, Address]]] = {}
    for flow in declared:
        if isinstance(flow.source, Pods):
            for source in pods[_key(flow.source)]:
                for name, address in _targets(flow, source, pods):
                    wanted.setdefault(source.name, set()).add((name, address))
    tried, failed = _try_all(pods, wanted, connected=True)
    assert tried, "no flow could be tried: no pod of any runs"
    assert not failed, f"{len(failed)} of {tried} are not let through: {'; '.join(failed[:3])}"
    return f"{tried} connections of {len(declared)} flows"


@probe("network_denied")
def network_denied(ctx: ProbeContext, flows: Sequence[Mapping[str, Any]]) -> str:
    """From every workload, what is not declared for it is closed: ports of others, API, node."""
    declared = [Flow.model_validate(flow) for flow in flows]
    pods = _running(ctx, declared)
    ports = {
        (_key(f.target), port) for f in declared if isinstance(f.target, Pods) for port in f.ports
    }
    wanted: dict[str, set[tuple[str, Address]]] = {}
    for key, sources in pods.items():
        may = [
            flow for flow in declared if isinstance(flow.source, Pods) and _key(flow.source) == key
        ]
        open_ = {
            (_key(flow.target), port)
            for flow in may
            if isinstance(flow.target, Pods)
            for port in flow.ports
        }
        for source in sources[:1]:
            found = wanted.setdefault(source.name, set())
            for target, port in ports - open_:
                for one in pods[target]:
                    if one != source:
                        found.add((f"{one.name}:{port}", (one.ip, port)))
            found.add(("the kubelet", _KUBELET))
            if not any(flow.target == API_SERVER for flow in may):
                found.add(("the Kubernetes API", _API))
    tried, failed = _try_all(pods, wanted, connected=False)
    assert tried, "no connection could be tried: no workload runs"
    assert not failed, f"{len(failed)} of {tried} are let through: {'; '.join(failed[:3])}"
    return f"{tried} connections, none let through"


def _key(pods: Pods) -> tuple[str, str]:
    return pods.namespace, pods.name


def _running(ctx: ProbeContext, flows: Iterable[Flow]) -> dict[tuple[str, str], list[Pod]]:
    """The running pods of each workload; AssertionError when one that lasts has none."""
    found: dict[tuple[str, str], list[Pod]] = {}
    ends = {
        _key(end): end
        for flow in flows
        for end in (flow.source, flow.target)
        if isinstance(end, Pods)
    }
    for key, end in ends.items():
        selector = ",".join(f"{label}={value}" for label, value in end.selector.items())
        found[key] = [
            Pod(
                f"{end.namespace}/{pod['metadata']['name']}",
                pod["metadata"]["uid"],
                pod["status"]["podIP"],
            )
            for pod in ctx.pods(end.namespace, selector)
            if pod["status"]["phase"] == "Running"
        ]
        assert found[key] or not end.lasting, f"no pod of {end.namespace}/{end.name} runs"
    return found


def _targets(
    flow: Flow, source: Pod, pods: Mapping[tuple[str, str], Sequence[Pod]]
) -> Iterator[tuple[str, Address]]:
    if flow.target == API_SERVER:
        yield "the Kubernetes API", _API
    elif isinstance(flow.target, Pods):
        for pod in pods[_key(flow.target)]:
            # Within one pod nothing is enforced.
            if pod != source:
                for port in flow.ports:
                    yield f"{pod.name}:{port}", (pod.ip, port)


def _try_all(
    pods: Mapping[tuple[str, str], Sequence[Pod]],
    wanted: Mapping[str, set[tuple[str, Address]]],
    *,
    connected: bool,
) -> tuple[int, list[str]]:
    """How many connections were tried, and those that did not end as wanted, in words."""
    by_name = {pod.name: pod for group in pods.values() for pod in group}
    processes = _processes()
    failed: list[str] = []

    def one(source: str) -> None:
        uid = by_name[source].uid
        assert uid in processes, f"no process of {source} is found on this node"
        _enter(processes[uid])
        answers = _connect({address for _, address in wanted[source]})
        failed.extend(
            f"{source} to {name} ({answers[address]})"
            for name, address in sorted(wanted[source])
            # A refusal comes from the pod: the packet went through.
            if answers[address] not in (["connected"] if connected else [NO_ANSWER])
        )

    # Threads of their own: whoever enters a namespace stays there.
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        for future in [pool.submit(one, source) for source in wanted]:
            future.result()
    return sum(len(addresses) for addresses in wanted.values()), failed


def _processes() -> dict[str, int]:
    """The oldest process of each pod of this node, by the pod's UID: the others come and go."""
    found: dict[str, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                match = _POD_CGROUP.search((folder / "cgroup").read_text())
            except OSError:
                continue  # it has ended
            if match:
                process = int(folder.name)
                found[match[1]] = min(process, found.get(match[1], process))
    return found


def _enter(process: int) -> None:
    """Move this thread to the network namespace of a process."""
    with open(f"/proc/{process}/ns/net") as namespace:
        if _libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise AssertionError(f"network namespace of process {process}: {os.strerror(number)}")


def _connect(addresses: Iterable[Address]) -> dict[Address, str]:
    """Connect to all side by side; "connected", NO_ANSWER or the kernel's word, by address."""
    answers = dict.fromkeys(addresses, NO_ANSWER)
    deadline = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector, ExitStack() as opened:
        for address in answers:
            channel = opened.enter_context(socket.socket())
            channel.setblocking(False)
            channel.connect_ex(address)
            selector.register(channel, selectors.EVENT_WRITE, address)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                channel = selector.unregister(key.fileobj).fileobj  # type: ignore[assignment]
                number = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                answers[key.data] = os.strerror(number) if number else "connected"
    return answers
