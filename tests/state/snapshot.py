"""What a rehearsal might leave behind on its host, so that before and after can be compared.

Everything is the whole host's, except processes: those that carry a mark in their command line or
environment (the rehearsal's own state folder), since a host's other processes come and go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import psutil

from rehearsal import paths

# Values that the kernel changes by itself, whoever looks.
_VOLATILE = re.compile(
    r"kernel/(random/|ns_last_pid|pty/nr|perf_event_max_sample_rate|timer_migration)"
    r"|fs/(dentry-state|inode-nr|inode-state|file-nr|aio-nr)"
    r"|net/netfilter/nf_conntrack_count|debug/"
)
_FOLDERS = (
    "/etc",
    "/etc/cni",
    "/opt",
    "/opt/cni",
    "/run",
    "/var/lib",
    "/var/log",
    "/usr/local/bin",
)

Snapshot = dict[str, set[str]]


def take(mark: str) -> Snapshot:
    """The host's state now; `mark` is a string that all processes of ours carry."""
    return {
        "processes": _processes(mark),
        "namespaces": _namespaces(),
        "mounts": _mounts(),
        "interfaces": {entry.name for entry in Path("/sys/class/net").iterdir()},
        "nft rules": _nft(),
        "sysctls": _sysctls(),
        "modules": {line.split()[0] for line in _lines(Path("/proc/modules"))},
        "loop devices": _loops(),
        "cgroups": _cgroups(),
        "packages": {_digest(Path("/var/lib/dpkg/status"))},
        "files": {str(file) for folder in _FOLDERS for file in _listing(Path(folder))},
    }


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that is new or gone."""
    lines = []
    for what in before:
        lines += [f"{what}: new: {item}" for item in sorted(after[what] - before[what])]
        lines += [f"{what}: gone: {item}" for item in sorted(before[what] - after[what])]
    return lines


def _processes(mark: str) -> set[str]:
    found, own = set(), {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = " ".join(process.cmdline())
            marked = (
                mark in words or mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
            )
            if marked and process.pid not in own and process.status() != psutil.STATUS_ZOMBIE:
                found.add(f"{process.pid} {words[:120]}")
    return found


def _namespaces() -> set[str]:
    """Namespaces of the host's processes; what is inside another PID namespace is its owner's."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ids = next(x for x in (folder / "status").read_text().splitlines() if x[:5] == "NSpid")
            if len(ids.split()) == 2:
                found |= {os.readlink(link) for link in (folder / "ns").iterdir()}
    return found


def _mounts() -> set[str]:
    # Fields 5 and, after the dash, 9: the mount point and the file system's type.
    lines = [line.split() for line in _lines(Path("/proc/self/mountinfo"))]
    return {f"{line[4]} {line[line.index('-') + 1]}" for line in lines}


def _nft() -> set[str]:
    unpacked = paths.cache() / "debian" / "usr" / "sbin" / "nft"
    nft = shutil.which("nft") or (str(unpacked) if unpacked.exists() else None)
    if nft is None:
        return set()
    done = subprocess.run(
        [nft, "list", "ruleset"],
        capture_output=True,
        text=True,
        check=False,
    )
    # An empty answer must be the kernel's, not that of a tool that could not start.
    assert done.returncode == 0, f"nft list ruleset: {done.stderr.strip()}"
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


def _sysctls() -> set[str]:
    found = set()
    root = Path("/proc/sys")
    for folder, _, files in os.walk(root):
        for name in files:
            file = Path(folder, name)
            key = str(file.relative_to(root))
            # What nobody can write is a counter of the kernel, no setting (fs/quota/syncs).
            if not _VOLATILE.search(key) and file.stat().st_mode & 0o222:
                with contextlib.suppress(OSError):
                    found.add(f"{key} = {' '.join(file.read_text(errors='replace').split())}")
    return found


def _loops() -> set[str]:
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return {f"{file.parts[3]} {file.read_text().strip()}" for file in files}


def _cgroups() -> set[str]:
    root = Path("/sys/fs/cgroup")
    found = {folder for folder, _, _ in os.walk(root)}
    return {str(Path(folder).relative_to(root)) for folder in found}


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "no dpkg"
