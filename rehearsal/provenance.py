"""Files of figures: every one says which commit and machine it comes from."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from rehearsal import paths
from rehearsal.errors import UsageError


def writable(out: Path | None) -> None:
    """Refuse a file of figures in a folder that is not there, before anything is measured."""
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError("--out", str(out), "choose a file in a folder that exists")


def write(out: Path | None, kind: str, **figures: Any) -> None:
    """Write figures with their kind, time, commit and machine as JSON; nothing without `out`."""
    if out is None:
        return
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    document = {"kind": kind, "at": at, **facts(), **figures}
    out.write_text(json.dumps(finite(document), indent=1) + "\n", encoding="utf-8")


def facts() -> dict[str, Any]:
    """`commit` (None where there is none), `dirty`, and the machine; memory in GiB."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain")
    return {
        "commit": commit or None,
        "dirty": bool(changes) if commit else True,
        "machine": {
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_1min": round(os.getloadavg()[0], 2),
        },
    }


def finite(value: Any) -> Any:
    """The value with every number that JSON lacks (infinity, NaN) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=paths.root(), capture_output=True, text=True, check=False
        )
    except OSError:  # no git: a source archive
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
