"""The rehearsal's tools: found on PATH at an accepted version, else built from Go modules.

Every build is made from a committed go.mod/go.sum pair with ``-mod=readonly``, so that no module
enters whose checksum is not in the repository. A build's key is its version, its module files and
the Go release; what has a key in the cache is never built twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from rehearsal import go as golang
from rehearsal import gobuild, paths
from rehearsal.errors import EstateError
from rehearsal.go import go, parse_version, prune
from rehearsal.gobuild import Children, Stopped
from rehearsal.locking import Busy, locked

__all__ = [
    "BuildFailed",
    "Progress",
    "Tool",
    "build",
    "built",
    "catalogue",
    "ensure",
    "find",
    "go",
    "jobs_for",
    "locked",
    "on_path",
    "parse_version",
    "prune",
]

HERE = Path(__file__).parent / "toolchain"
# Raised when the flags of every build change: part of each key. Empty counts as nothing.
_RECIPE = b""
# Measured on a cold build of all 27: 14 GB of build cache, 7 GB of modules, 1.5 GB of tools.
_DISK_GIB_PER_TOOL = 0.75
_DISK_GIB = 1.0
_LOOK_S = 0.5


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
        digest = hashlib.sha256(_RECIPE)
        embed = str(self.embed)
        for part in (self.package, self.version, self.ldflags, self.tags, embed, go_version):
            digest.update(part.encode() + b"\0")
        for file in ("go.mod", "go.sum", "main.go", gobuild.PATCH):
            path = self.folder / file
            digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()[:12]


Progress = Callable[[str, str, int, int], None]
"""Called with tool, phase ("waiting", "download", "compile", "done", "failed"), done, total."""


def catalogue() -> dict[str, Tool]:
    """Every tool of toolchain/tools.toml by name."""
    data = tomllib.loads((HERE / "tools.toml").read_text())
    return {name: Tool(name=name, **spec) for name, spec in data["tool"].items()}


# -- finding ---------------------------------------------------------------------------------------


def on_path(tool: Tool) -> Path | None:
    """The tool on the user's PATH when its version is accepted, else None."""
    if not tool.path:
        return None
    command = [str(part) for part in tool.path["command"]]  # type: ignore[attr-defined]
    found = shutil.which(command[0], path=_users_path())
    if found is None:
        return None
    version = golang.say_version([found, *command[1:]])
    low = parse_version(str(tool.path["minimum"]))
    high = parse_version(str(tool.path["below"]))
    if version is None or low is None or high is None or not low <= version < high:
        return None
    return Path(found)


def _users_path() -> str:
    """PATH without the folders of rehearsals, which `source <(./estate env)` puts there.

    Their commands are links to what was found: found again, they would link to themselves.
    """
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(
        # os.path: a folder that is closed to this user is none of ours, and no error.
        entry
        for entry in entries
        if not os.path.exists(Path(entry).parent / "rehearsal.json")
    )


def built(tool: Tool) -> Path:
    """Where a build of this tool is, or will be, in the cache."""
    key = tool.key(golang.version())
    return paths.cache() / "tools" / f"{tool.name}-{tool.version}-{key}" / tool.name


def find(tool: Tool) -> Path | None:
    """The tool on PATH or in the cache, or None when it must be built."""
    if (found := on_path(tool)) is not None:
        return found
    target = built(tool)
    return target if target.exists() else None


# -- building --------------------------------------------------------------------------------------


class BuildFailed(EstateError):
    """A tool could not be built; the others are kept."""


class ProxyUnreachable(BuildFailed):
    """The Go module proxy does not answer: no other build would fare better."""


def build(tool: Tool, progress: Progress, children: Children) -> Path:
    """Build one tool into the cache and return its path.

    An interrupted build leaves nothing but Go's own cache, from which the next one goes on. Two
    commands that want the same tool build it once: the second one waits.

    Raises:
        BuildFailed: naming the tool, the line that went wrong and the log.
        Stopped: `children` were told to end.
    """
    target = built(tool)
    log = paths.cache() / "logs" / f"build-{tool.name}.log"
    lock = paths.cache() / "tools" / f".{tool.name}.lock"
    scratch = golang.caches() / "work" / tool.name

    def go_on() -> bool:
        return not children.ended

    def waiting() -> None:
        progress(tool.name, "waiting", 0, 1)

    try:
        with (
            locked(golang.in_use(), shared=True, wait=go_on, waiting=waiting),
            locked(lock, wait=go_on, waiting=waiting) as held,
        ):
            if target.exists():
                progress(tool.name, "done", 1, 1)
                return target
            shutil.rmtree(scratch, ignore_errors=True)  # of a killed run
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text("")
                output = _Build(tool, scratch, log, progress, children, held).run()
                target.parent.mkdir(parents=True, exist_ok=True)
                output.replace(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except Busy:
        raise Stopped from None
    except OSError as error:
        progress(tool.name, "failed", 0, 1)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some disk space" if full else "make it writable"
        raise BuildFailed(
            f"build of {tool.name} {tool.version}",
            f"{error.filename or paths.cache()}: {error.strerror}",
            f"{way_out}, or set ESTATE_CACHE to a folder on another disk",
        ) from None
    progress(tool.name, "done", 1, 1)
    return target


@dataclass
class _Build:
    """One build; `scratch` is its folder, `held` the lock that its processes hold with it."""

    tool: Tool
    scratch: Path
    log: Path
    progress: Progress
    children: Children
    held: int

    def run(self) -> Path:
        """Build, and return the binary in the scratch folder."""
        tool, source = self.tool, self.scratch / "module"
        shutil.copytree(tool.folder, source)
        self.progress(tool.name, "download", 0, 1)
        if tool.embed:
            module = str(tool.embed["module"])
            self._go(["mod", "download", module])
            root = Path(self._go(["list", "-m", "-f", "{{.Dir}}", module]).strip())
            for name in tool.embed.get("files", ()):  # type: ignore[attr-defined]
                shutil.copyfile(root / str(name), source / Path(str(name)).name)
            for name in tool.embed.get("folders", ()):  # type: ignore[attr-defined]
                _copy_folder(root / str(name), source / Path(str(name)).name)
        patch = source / gobuild.PATCH
        if patch.exists():
            module = gobuild.patched_module(patch)
            self._go(["mod", "download", module])
            root = Path(self._go(["list", "-m", "-f", "{{.Dir}}", module]).strip())
            own = self.scratch / "patched"
            gobuild.copy_patched(root, own, patch)
            self._go(["mod", "edit", f"-replace={module}={own}"])
        stale = "{{if .Stale}}{{.ImportPath}}{{end}}"
        listed = self._go(["list", "-tags", tool.tags, "-deps", "-f", stale, tool.package])
        total = max(1, len(listed.split()))
        done = 0

        def compiled(line: str) -> None:
            nonlocal done
            if not line.startswith(("go: ", "#")):
                done += 1
                self.progress(tool.name, "compile", min(done, total), total)

        output = self.scratch / tool.name
        flags = ["-tags", tool.tags, "-ldflags", f"-s -w {tool.ldflags}".strip()]
        self._go(["build", "-v", *flags, "-o", str(output), tool.package], compiled)
        return output

    def _go(self, arguments: list[str], on_line: Callable[[str], None] | None = None) -> str:
        code, output = self.children.run(
            [str(go()[0]), *arguments],
            folder=self.scratch / "module",
            env={
                **golang.environment(),
                # Temporary files go with the scratch folder, also when it is killed.
                "GOTMPDIR": str(self.scratch),
                # Two large compilers share what the build may use.
                "GOMEMLIMIT": f"{max(640, round(self.tool.memory_gib * 512))}MiB",
            },
            log=self.log,
            on_line=on_line,
            pass_fds=[self.held],
        )
        if code != 0:
            self.progress(self.tool.name, "failed", 0, 1)
            raise self._failure(gobuild.reason(self.log))
        return output

    def _failure(self, reason: str) -> BuildFailed:
        if gobuild.UNREACHABLE.search(reason):
            proxy = self.children.run(
                [str(go()[0]), "env", "GOPROXY"],
                folder=self.scratch,
                env=golang.environment(),
                log=self.log,
            )[1]
            return ProxyUnreachable(
                f"Go module proxy {proxy.strip()}",
                f"does not answer: {reason.rpartition(': ')[2]}",
                f"mend the network or GOPROXY (go env) and run it again; log: {self.log}",
            )
        way_out = f"see {self.log}; the tools that were built are kept, so run the command again"
        if gobuild.LOCKED.search(reason):
            folder = os.path.relpath(self.tool.folder, paths.root())
            reason = reason.replace(str(self.scratch / "module"), str(folder))
            way_out = f"restore {folder}/go.mod and go.sum (git checkout); log: {self.log}"
        return BuildFailed(f"build of {self.tool.name} {self.tool.version}", reason, way_out)


def _copy_folder(source: Path, destination: Path) -> None:
    """Copy a module's folder; Go's cache is read-only, the copy is not."""
    for folder, _, names in os.walk(source):
        made = destination / Path(folder).relative_to(source)
        made.mkdir()
        for name in names:
            shutil.copyfile(Path(folder) / name, made / name)


def jobs_for(tools: Iterable[Tool], memory_bytes: int, cores: int) -> int:
    """How many builds run side by side: never more than cores, nor than free memory bears."""
    largest = max((tool.memory_gib for tool in tools), default=1.0)
    return max(1, min(cores, int(memory_bytes / 2**30 / largest)))


def ensure(names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """Every named tool, found or built.

    When the last missing tool of the named ones' groups was built, Go's caches are removed
    (docs/decisions/0008-go-caches.md).

    Raises:
        BuildFailed: one error that names all that failed; the others are built and kept.
        EstateError: no Go toolchain, or no room for the builds.
    """
    tools = [catalogue()[name] for name in names]
    result: dict[str, Path] = {}
    missing = []
    for tool in tools:
        if (found := find(tool)) is None:
            missing.append(tool)
        else:
            result[tool.name] = found
            progress(tool.name, "done", 1, 1)
    if missing:
        _need_disk(len(missing))
        go()
        result |= _build_all(missing, progress)
        _forget_caches({tool.group for tool in tools}, progress)
    return result


def _build_all(missing: list[Tool], progress: Progress) -> dict[str, Path]:
    jobs = jobs_for(missing, psutil.virtual_memory().available, len(os.sched_getaffinity(0)))
    result: dict[str, Path] = {}
    failures: list[BuildFailed] = []
    children = Children()
    guard = threading.Lock()

    def one(tool: Tool) -> None:
        try:
            path = build(tool, progress, children)
            with guard:
                result[tool.name] = path
        except BuildFailed as error:
            with guard:
                failures.append(error)
            if isinstance(error, ProxyUnreachable):
                children.end()
        except Stopped:
            return

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="build")
    try:
        # The longest first, so that the last one to finish is a short one.
        longest_first = sorted(missing, key=lambda tool: -tool.memory_gib)
        for future in [pool.submit(one, tool) for tool in longest_first]:
            # Again and again: a Ctrl-C just before a wait would not end it.
            while not wait([future], _LOOK_S).done:
                pass
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        children.end()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        first = next((one for one in failures if isinstance(one, ProxyUnreachable)), failures[0])
        if isinstance(first, ProxyUnreachable):
            raise first
        more = "".join(f"; also {error.thing}" for error in failures[1:])
        raise BuildFailed(first.thing + more, first.value, first.way_out)
    return result


def _need_disk(builds: int) -> None:
    """Refuse to start what the cache's disk can't hold."""
    folder = paths.ensure(paths.cache(), "cache")
    free = shutil.disk_usage(folder).free / 2**30
    needed = _DISK_GIB + _DISK_GIB_PER_TOOL * builds
    if free < needed:
        raise EstateError(
            f"disk of {folder}",
            f"{free:.1f} GiB free, building {builds} tools needs {needed:.0f}",
            "free some, or set ESTATE_CACHE to a folder on another disk",
        )


def _forget_caches(groups: set[str], progress: Progress) -> None:
    """Remove Go's caches when nothing of these groups is left to build with them."""
    if os.environ.get("ESTATE_KEEP_GO_CACHES"):
        return
    if any(find(tool) is None for tool in catalogue().values() if tool.group in groups):
        return
    progress("Go's caches", "removing", 0, 1)
    with suppress(EstateError):  # another command builds: its end removes them
        prune()
    progress("Go's caches", "done", 1, 1)
