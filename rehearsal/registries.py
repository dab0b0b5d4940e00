"""Asks each package registry one small question, through its own client as the user set it up.

No host is named here: pip, go, npm and apt know theirs. Nothing of the host is changed: what a
client must write goes to a temporary folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rehearsal import paths

SECONDS = 20
_BROKEN = re.compile(
    r"connection refused|network is unreachable|timed? ?out|no such host|no route to host"
    r"|temporary failure (in name resolution|resolving)|name or service not known|forbidden"
    r"|E(CONNREFUSED|CONNRESET|NOTFOUND|TIMEDOUT|HOSTUNREACH|NETUNREACH)",
    re.IGNORECASE,
)

Answer = tuple[str, str | None, str]
"""The registry, why it can't be used (None: it answers), and what comes from it."""


def ask() -> list[Answer]:
    """Ask all registries at once; returns after `SECONDS` at the latest."""
    probes = (_python_index, _go_proxy, _npm_registry, _apt_archive)
    with ThreadPoolExecutor(len(probes)) as pool:
        return [asked.result() for asked in [pool.submit(probe) for probe in probes]]


def _python_index() -> Answer:
    command = [sys.executable, "-m", "pip", "--timeout", "5", "--retries", "1"]
    problem = _try([*command, "--disable-pip-version-check", "index", "versions", "pip"])
    return "package index (pip)", problem, "Python packages, the Go toolchain"


def _go_proxy() -> Answer:
    topic, feeds = "module proxy (go)", "the tools"
    cached = (paths.cache() / "go").glob("sdk-*/**/bin/go")
    go = shutil.which("go") or next(map(str, cached), None)
    if go is None:
        return topic, "not asked: no Go yet, the first build brings it", feeds
    with tempfile.TemporaryDirectory(prefix="estate-doctor-") as scratch:
        # An empty module cache, else Go answers from the one it has.
        environ = {"GOMODCACHE": f"{scratch}/mod", "GOFLAGS": "-modcacherw", "GOWORK": "off"}
        question = [go, "list", "-m", "-json", "golang.org/x/mod@v0.29.0"]
        problem = _try(question, environ={**environ, "GOTOOLCHAIN": "local"}, cwd=scratch)
    return topic, problem, feeds


def _npm_registry() -> Answer:
    topic, feeds = "npm registry (npm)", "Prometheus's web pages"
    npm = shutil.which("npm")
    if npm is None:
        return topic, "not asked: no npm yet, the first build brings it", feeds
    with tempfile.TemporaryDirectory(prefix="estate-doctor-") as scratch:
        environ = {"npm_config_cache": scratch, "npm_config_fetch_retries": "0"}
        environ["npm_config_fetch_timeout"] = "5000"
        problem = _try([npm, "view", "vite", "name"], environ=environ, cwd=scratch)
    return topic, problem, feeds


def _apt_archive() -> Answer:
    topic, feeds = "Debian archive (apt)", "Debian packages for the node and the images"
    if not shutil.which("apt-get"):
        return topic, "not asked: no apt-get", feeds
    with tempfile.TemporaryDirectory(prefix="estate-doctor-") as scratch:
        Path(scratch, "partial").mkdir()
        # Only the signed release files, into a folder of our own: the host's lists stay.
        options = [f"Dir::State::lists={scratch}", f"Dir::Cache={scratch}", "Acquire::Retries=0"]
        options += ["Acquire::http::Timeout=5", "Acquire::https::Timeout=5"]
        options += ["APT::Update::Error-Mode=any", "APT::Sandbox::User="]
        for kind in _index_kinds():
            options.append(f"Acquire::IndexTargets::deb::{kind}::DefaultEnabled=false")
            options.append(f"Acquire::IndexTargets::deb-src::{kind}::DefaultEnabled=false")
        command = ["apt-get", "-q"]
        for option in options:
            command += ["-o", option]
        problem = _try([*command, "update"])
    return topic, problem, feeds


def _index_kinds() -> set[str]:
    """Return the kinds of index that this apt would download (Packages, Translations, ...)."""
    command = ["apt-get", "indextargets", "--format", "$(CREATED_BY)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return set(done.stdout.split()) | {"Packages", "Translations"}


def _try(
    command: list[str], *, environ: dict[str, str] | None = None, cwd: str | None = None
) -> str | None:
    """Run a client; returns None when it succeeds, else its last word in short."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if broken := _BROKEN.search(done.stderr):
        return f"not reachable: {broken[0]}"
    errors = [
        line for line in lines if line.upper().startswith(("E:", "ERROR", "NPM ERR"))
    ] or lines
    return (errors or [f"exit code {done.returncode}"])[-1][:160]
