"""What this machine has and lacks, and what follows from it for a rehearsal.

Nothing is installed or changed: what has to be tried is tried in a child process with namespaces
of its own (`rehearsal.kernel_probe`), and registries are asked by their own clients as the user
has configured them.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rehearsal import paths, registries

Status = Literal["ok", "limited", "missing"]

# Bits of CapEff in /proc/self/status, from <linux/capability.h>.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24}
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
# The core with its control plane in GiB, and the space of a build that starts with nothing
# (measured: the Go caches 22, images and packages the rest; `./estate tools prune` frees them).
MEMORY_NEEDED_GIB = 8.0
DISK_CACHE_GIB = 30.0
DISK_STATE_GIB = 5.0


@dataclass(frozen=True)
class Finding:
    """One fact about the machine and what follows from it.

    `limited` means that `up` goes on with less, as `consequence` says; `missing` that a part of
    it can't be had at all. An `ok` finding may have an empty consequence.
    """

    topic: str
    status: Status
    detail: str
    consequence: str = ""


def containers_possible() -> tuple[bool, str]:
    """Whether a real container node can run here, and the reason for the answer in one line."""
    lacks = [found for found in _container_findings() if found.status == "missing"]
    if not lacks:
        return True, "root, namespaces, cgroups, overlayfs, veth, bridge, nftables, BPF are there"
    return False, "; ".join(f"{found.topic}: {found.detail}" for found in lacks)


def collect(*, offline: bool = False) -> list[Finding]:
    """Look at everything; with `offline` the registries are not asked. Takes a few seconds."""
    findings = [*_software(), *_container_findings(), *_room(), *_present_tools()]
    if not offline:
        for topic, problem, feeds in registries.ask():
            consequence = f"only what is in the cache: {feeds}" if problem else ""
            status: Status = "limited" if problem else "ok"
            findings.append(Finding(topic, status, problem or "answers", consequence))
    return findings


def run(*, as_json: bool = False, offline: bool = False) -> int:
    """Print the findings; returns 0, as a lack is no failure of this command."""
    from rehearsal import console

    findings = collect(offline=offline)
    possible, reason = containers_possible()
    if as_json:
        console.emit_json(
            {
                "containers": {"possible": possible, "reason": reason},
                "findings": [asdict(found) for found in findings],
            }
        )
        return 0
    console.table(
        "",
        ["topic", "status", "found", "what follows"],
        [(found.topic, found.status, found.detail, found.consequence) for found in findings],
    )
    if possible:
        console.out.print(f"\n[green]A real container node can run here[/]: {reason}.")
    else:
        console.out.print(f"\n[yellow]All nodes will be simulated[/]: {reason}.", soft_wrap=True)
    return 0


# -- software --------------------------------------------------------------------------------------


def _software() -> Iterator[Finding]:
    version = platform.python_version()
    exact = sys.version_info[:2] == (3, 11)
    yield Finding(
        "Python",
        "ok" if exact else "limited",
        f"{version} at {sys.base_prefix}",
        "" if exact else "requirements.lock was resolved for 3.11; other versions are not tested",
    )
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        yield Finding("venv", "ok", "venv and ensurepip are there")
    else:
        yield Finding("venv", "limited", "no ensurepip", "virtualenv from the index is used")
    yield _go()
    yield _debian()


def _go() -> Finding:
    from rehearsal import tools

    catalogue = tomllib.loads((tools.HERE / "tools.toml").read_text(encoding="utf-8"))
    wanted = tools.parse_version(catalogue["go"]["minimum"])
    found = shutil.which("go")
    words = _output([found, "version"]) if found else None
    version = tools.parse_version(words) if words else None
    if version and wanted and version >= wanted:
        return Finding("Go", "ok", f"{'.'.join(map(str, version))} at {found}")
    detail = f"{'.'.join(map(str, version))} at {found}" if version else "not on PATH"
    needed = ".".join(map(str, wanted or ()))
    return Finding("Go", "limited", detail, f"tools are built with Go >= {needed} from PyPI")


def _debian() -> Finding:
    release = dict(
        line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line
    )
    pretty = release.get("PRETTY_NAME", "no /etc/os-release").strip('"')
    detail = f"{pretty}, {platform.machine()}"
    if not shutil.which("apt-get"):
        consequence = "no apt-get: images and the node can't be made, all nodes are simulated"
        return Finding("Debian packages", "missing", detail, consequence)
    if platform.machine() != "x86_64":
        consequence = "the locks of packages and tools are for x86_64: not tested here"
        return Finding("Debian packages", "limited", detail, consequence)
    if release.get("VERSION_CODENAME") != "bookworm":
        consequence = "images are made of Debian 12 (bookworm) packages: apt needs that suite"
        return Finding("Debian packages", "limited", detail, consequence)
    return Finding("Debian packages", "ok", detail)


def _present_tools() -> Iterator[Finding]:
    """What the user has already, and whether it is the version that the estate takes."""
    from rehearsal import tools

    for tool in tools.catalogue().values():
        if not tool.path:
            continue
        command = str(tool.path["command"][0])  # type: ignore[index]
        if (found := shutil.which(command)) is None:
            yield Finding(command, "ok", "not on PATH", f"built as {tool.version}")
        elif tools.on_path(tool):
            yield Finding(command, "ok", found, "this one is used")
        else:
            accepted = f">= {tool.path['minimum']} and < {tool.path['below']}"
            yield Finding(command, "ok", f"{found} is not {accepted}", f"built as {tool.version}")
    if docker := shutil.which("docker"):
        version = _output([docker, "version", "--format", "{{.Server.Version}}"])
        detail = f"server {version.strip()}" if version else f"{docker}, its server does not answer"
        yield Finding("docker", "ok", detail, "not needed, left alone")


# -- containers ------------------------------------------------------------------------------------


@functools.cache
def _container_findings() -> tuple[Finding, ...]:
    """Everything that decides whether a container node can run."""
    return (*_rights(), *_kernel(), *_cgroups())


def _rights() -> Iterator[Finding]:
    root = os.geteuid() == 0
    name = "root" if root else f"user id {os.geteuid()}, not root"
    yield Finding(
        "rights", "ok" if root else "missing", name, "" if root else "a container node needs root"
    )
    held = capabilities(_read("/proc/self/status"))
    lacks = [name for name in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN") if name not in held]
    if lacks:
        yield Finding("capabilities", "missing", f"without {', '.join(lacks)}", "no container node")
    elif "CAP_SYS_RESOURCE" in held:
        yield Finding("capabilities", "ok", ", ".join(sorted(held)))
    else:
        consequence = "containerd runs with restrict_oom_score_adj"
        yield Finding("capabilities", "limited", "without CAP_SYS_RESOURCE", consequence)
    for command in ("unshare", "nsenter", "mount"):
        if not shutil.which(command):
            way = "install util-linux: the rehearsal's namespaces are made with it"
            yield Finding(command, "missing", "not on PATH", way)


def capabilities(status: str) -> set[str]:
    """Return which of CAPABILITIES a /proc/PID/status text shows as effective."""
    match = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", status, re.MULTILINE)
    mask = int(match.group(1), 16) if match else 0
    return {name for name, bit in CAPABILITIES.items() if mask >> bit & 1}


def _kernel() -> Iterator[Finding]:
    answers = _kernel_answers()
    consequences = {
        "namespaces": "no container node",
        "overlayfs": "image layers can't be stacked: no container node",
        "veth": "pods can't be linked to a network: no container node",
        "bridge": "pods of one node can't reach each other: no container node",
        "nftables": "Services can't be routed: no container node",
        "bpf": "network policies can't be enforced: no container node",
        "proc": "containers can't have a /proc: no container node",
    }
    for topic, consequence in consequences.items():
        if topic in answers:
            problem = answers[topic]
            status: Status = "missing" if problem else "ok"
            yield Finding(topic, status, problem or "tried, works", consequence if problem else "")


def _kernel_answers() -> dict[str, str | None]:
    """Run the probe in a child; a probe that says nothing counts as no namespaces."""
    folder = _existing(paths.cache())
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.gettempdir())
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rehearsal.kernel_probe", str(folder)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "PYTHONPATH": str(paths.root())},
        )
        answers: dict[str, str | None] = json.loads(done.stdout)
        return answers
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return {"namespaces": f"the kernel probe failed: {type(error).__name__}"}


def _cgroups() -> Iterator[Finding]:
    mounts = _read("/proc/self/mountinfo")
    kind, controllers, where = cgroups(mounts, _read("/sys/fs/cgroup/cgroup.controllers"))
    lacks = [name for name in CONTROLLERS if name not in controllers]
    detail = f"{kind}, controllers {', '.join(sorted(controllers)) or 'none'}"
    if kind == "none":
        yield Finding("cgroups", "missing", "no cgroup file system", "no container node")
    elif lacks:
        yield Finding("cgroups", "missing", f"{detail}; lacks {', '.join(lacks)}", "no limits")
    elif not all(_writable(folder) for folder in where):
        yield Finding("cgroups", "missing", f"{kind}, not writable", "no container node")
    elif kind != "v2":
        yield Finding("cgroups", "ok", detail, "the kubelet runs with failCgroupV1: false")
    else:
        yield Finding("cgroups", "ok", detail)


def cgroups(mountinfo: str, v2_controllers: str) -> tuple[str, set[str], list[str]]:
    """Read the cgroup layout: v1, v2, hybrid or none, its controllers and their folders.

    Args:
        mountinfo: the text of /proc/self/mountinfo.
        v2_controllers: the text of cgroup.controllers at the root of the unified tree, or "".
    """
    v1, unified = _cgroup_mounts(mountinfo)
    if v1:
        folders = sorted({v1[name] for name in CONTROLLERS if name in v1})
        return ("hybrid" if unified else "v1"), set(v1), folders
    if unified:
        return "v2", set(v2_controllers.split()), unified[:1]
    return "none", set(), []


def _cgroup_mounts(mountinfo: str) -> tuple[dict[str, str], list[str]]:
    """The folder of each v1 controller, and the folders of unified trees."""
    v1: dict[str, str] = {}
    unified: list[str] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = right.split()
        if not fields or not fields[0].startswith("cgroup"):
            continue
        folder = left.split()[4]
        if fields[0] == "cgroup2":
            unified.append(folder)
        else:
            options = fields[2].split(",")
            v1.update((name, folder) for name in options if name not in ("rw", "ro"))
    return {name: folder for name, folder in v1.items() if "=" not in name}, unified


def _writable(folder: str) -> bool:
    try:
        return os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError:
        return False


# -- room ------------------------------------------------------------------------------------------


def memory() -> tuple[int, int]:
    """Bytes of memory available to this process, and in all: the machine's, or its cgroup's."""
    import psutil

    machine = psutil.virtual_memory()
    limits = [machine.total]
    for file in _memory_limits(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo")):
        text = _read(str(file)).strip()
        if text.isdigit():  # cgroup v2 says `max` where there is none
            limits.append(int(text))
    total = min(limits)
    return min(machine.available, total), total


def _memory_limits(own: str, mountinfo: str) -> Iterator[Path]:
    """Files with the limits of the cgroup that /proc/self/cgroup names, and of those above it."""
    v1, unified = _cgroup_mounts(mountinfo)
    mounts: dict[str, Path] = {}
    if unified:
        mounts["memory.max"] = Path(unified[-1])
    if "memory" in v1:
        mounts["memory.limit_in_bytes"] = Path(v1["memory"])
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        name = "memory.max" if not controllers else "memory.limit_in_bytes"
        if name in mounts and (not controllers or "memory" in controllers.split(",")):
            folder = Path(path.lstrip("/"))
            for group in [folder, *folder.parents]:
                yield mounts[name] / group / name


def _room() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    slow = "" if cores >= 2 else "works, but the first build and the start take long"
    yield Finding("processors", "ok" if cores >= 2 else "limited", str(cores), slow)
    available, total = memory()
    free = available / 2**30
    enough = free >= MEMORY_NEEDED_GIB
    yield Finding(
        "memory",
        "ok" if enough else "limited",
        f"{free:.1f} GiB available of {total / 2**30:.1f}",
        "" if enough else f"the core needs about {MEMORY_NEEDED_GIB:.0f} GiB: free some first",
    )
    for what, folder, needed in (
        ("disk for the cache", paths.cache(), DISK_CACHE_GIB),
        ("disk for rehearsals", paths.state_root(), DISK_STATE_GIB),
    ):
        yield _disk(what, folder, needed)
    yield _loopback()


def _disk(what: str, folder: Path, needed: float) -> Finding:
    base = _existing(folder)
    free = shutil.disk_usage(base).free / 2**30
    if not os.access(base, os.W_OK):
        way = "set ESTATE_CACHE and ESTATE_STATE to folders that you may write"
        return Finding(what, "missing", f"{folder}: no right to write in {base}", way)
    if free < needed:
        way = f"a first build wants {needed:.0f} GiB; a full disk stops it with one line"
        return Finding(what, "limited", f"{folder}: {free:.1f} GiB free", way)
    return Finding(what, "ok", f"{folder}: {free:.1f} GiB free")


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return Finding("ports", "ok", "loopback ports can be opened")
    except OSError as error:
        detail = f"127.0.0.1: {error.strerror}"
        return Finding("ports", "missing", detail, "nothing can be reached from this machine")


# -- small helpers ---------------------------------------------------------------------------------


def _output(command: list[str]) -> str | None:
    """Return the output of a command that succeeds within 10 s, else None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout.strip() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _existing(folder: Path) -> Path:
    """Return the nearest folder above (or itself) that exists, as far as this user may see."""
    while not _seen(folder):
        folder = folder.parent
    return folder


def _seen(folder: Path) -> bool:
    try:
        return folder.exists()
    except PermissionError:  # below a folder that is closed to this user, such as another's HOME
        return False
