"""Debian packages as tools of the node: unpacked in the cache with the libraries they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rehearsal.images.apt import SCRIPT_ONLY, Apt, closure
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import digest_of, locked, read_json, write_json
from rehearsal.images.golang import needs_loader

LOADER = ("libc6", "libc-bin", "libcrypt1", "gcc-12-base")
"""Not unpacked: the host's loader runs the tools, and it fits only the host's own libc."""

BINARIES = ("usr/bin", "usr/sbin", "usr/libexec", "usr/lib/jvm/*/bin", "usr/lib/llvm-*/bin")


def unpack_tools(
    packages: Sequence[str], destination: Path, *, apt: Apt, without: Sequence[str] = ()
) -> None:
    """Unpack packages and their libraries, so that the binaries run where they lie.

    The binaries get a library path relative to themselves (a program such as runc starts itself
    again with an empty environment, so LD_LIBRARY_PATH would not reach it). Nothing is done when
    the folder already holds the same packages; an interrupted run leaves the old folder.

    :param packages: names; their binaries lie in ``destination/usr/bin`` and ``usr/sbin``.
    :param without: names that they depend on but do not need here.
    :raises ImageError: a package is unknown, or cannot be fetched or unpacked.
    """
    without = (*SCRIPT_ONLY, *LOADER, *without)
    resolved = closure(packages, apt.resolve(packages), without)
    key = digest_of([[package.name, package.version, package.sha256] for package in resolved])
    destination.parent.mkdir(parents=True, exist_ok=True)
    mark = destination / ".packages.json"
    with locked(destination.parent / f".{destination.name}.lock"):
        if (read_json(mark) or {}).get("key") == key:
            return
        scratch = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        try:
            scratch.chmod(0o755)
            apt.unpack(packages, scratch, without=without)
            _set_library_path(scratch, apt)
            names = {package.name: package.version for package in resolved}
            write_json(scratch / ".packages.json", {"key": key, "packages": names})
            old = scratch.with_name(scratch.name + ".old")
            if destination.exists():
                destination.replace(old)
            scratch.replace(destination)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _set_library_path(root: Path, apt: Apt) -> None:
    """Make the dynamic binaries below a root find the libraries of that root first."""
    folders = sorted(
        {path.parent for path in (root / "usr" / "lib").glob("*-linux-gnu*/**/*.so*")}
        | set((root / "usr" / "lib").glob("*-linux-gnu*"))
    )
    binaries = [
        path
        for pattern in BINARIES
        for path in sorted(root.glob(f"{pattern}/*"))
        if path.is_file() and not path.is_symlink() and needs_loader(path)
    ]
    if not folders or not binaries:
        return
    home = apt.root.parent / "patchelf"
    resolved = closure(["patchelf"], apt.resolve(["patchelf"]), (*SCRIPT_ONLY, *LOADER))
    key = digest_of([package.sha256 for package in resolved])
    with locked(home.parent / ".patchelf.lock"):
        if (read_json(home / ".packages.json") or {}).get("key") != key:
            shutil.rmtree(home, ignore_errors=True)
            apt.unpack(["patchelf"], home, without=(*SCRIPT_ONLY, *LOADER))
            write_json(home / ".packages.json", {"key": key})
    libraries = ":".join(str(path) for path in (home / "usr" / "lib").glob("*-linux-gnu*"))
    for binary in binaries:
        origin = [f"$ORIGIN/{os.path.relpath(folder, binary.parent)}" for folder in folders]
        done = subprocess.run(
            # An RPATH also serves the libraries' own libraries; a RUNPATH would not.
            [home / "usr" / "bin" / "patchelf", "--force-rpath", "--add-rpath", ":".join(origin),
             binary],
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ImageError(
                f"patchelf of {binary.relative_to(root)} failed: {done.stderr.strip()}",
                "Delete the folder 'patchelf' of the image cache and run again",
            )
