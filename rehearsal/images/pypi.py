"""Wheels from PyPI for Debian's python3, pinned by hash."""

from __future__ import annotations

import fnmatch
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rehearsal import wheels
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import CHUNK, locked, sha256_of
from rehearsal.images.layer import Entry, normal
from rehearsal.images.recipe import PypiLayer
from rehearsal.images.sbom import Component


def read_lock(folder: Path, layer: PypiLayer) -> str:
    """The requirements file; every requirement must have a hash.

    :raises ImageError: no file, or a requirement without a version or a hash.
    """
    path = folder / layer.requirements
    if not path.exists():
        raise ImageError(f"there is no {path.name}", "Write it with pip-compile --generate-hashes")
    text = path.read_text(encoding="utf-8")
    for line in text.replace("\\\n", " ").splitlines():
        if (
            line.strip()
            and not line.startswith("#")
            and ("==" not in line or "--hash=sha256:" not in line)
        ):
            raise ImageError(
                f"{path.name}: {line.strip()!r} has no version or no hash",
                "Write it as name==version --hash=sha256:...",
            )
    return text


def _download(layer: PypiLayer, requirements: Path, into: Path, machine: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", layer.python,
        # Debian 12 has glibc 2.36.
        *(
            option
            for glibc in range(17, 37)
            for option in ("--platform", f"manylinux_2_{glibc}_{machine}")
        ),
        "--platform", f"manylinux2014_{machine}",
        "-r", str(requirements), "-d", str(into),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(
            f"pip download of {requirements.name} failed: {wheels.reason(done.stderr)}",
            "Check that the package index answers, and the hashes of the requirements",
        )


def wheel_entries(wheel: Path, into: str, scratch: Path, drop: Sequence[str] = ()) -> list[Entry]:
    """The files of a wheel as they lie below a folder of Python packages.

    Headers, scripts and data of the wheel (its ``.data`` folder) are left out, but for
    ``purelib`` and ``platlib``; so is what the globs in ``drop`` match.
    """
    target = scratch / wheel.stem
    entries = []
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename
            placed = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
            if info.is_dir() or re.match(r"^[^/]+\.data/", placed):
                continue
            inside = normal(f"{into}/{placed}")
            if any(fnmatch.fnmatchcase(inside, glob) for glob in drop):
                continue
            path = target / normal(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as stream, path.open("wb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
            mode = 0o755 if (info.external_attr >> 16) & 0o111 else 0o644
            entries.append(Entry(inside, mode=mode, source=path, size=info.file_size))
    return entries


def _lines(lock: str) -> list[str]:
    """The requirements of a lock, one a line."""
    return [
        line.strip()
        for line in lock.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def chosen(folder: Path, layer: PypiLayer) -> str:
    """The requirements that make this layer.

    :raises ImageError: as :func:`read_lock`; or the recipe names a package that is not there.
    """
    lines = _lines(read_lock(folder, layer))
    names = {line.partition("==")[0] for line in lines}
    if unknown := sorted({*layer.only, *layer.without} - names):
        raise ImageError(
            f"{layer.requirements} has no {unknown[0]!r}", "Correct only or without of the layer"
        )
    kept = (set(layer.only) or names) - set(layer.without)
    return "\n".join(line for line in lines if line.partition("==")[0] in kept) + "\n"


def _hashes(line: str) -> list[str]:
    return re.findall(r"--hash=sha256:([0-9a-f]{64})", line)


def _build(lock: str, fetched: Iterable[Path], scratch: Path) -> list[Path]:
    """Make wheels of what is published as source alone, by the setuptools among `fetched`: nothing
    comes without a hash.

    :raises ImageError: the lock has no setuptools, or pip fails.
    """
    builders = [wheel for wheel in fetched if wheel.name.startswith("setuptools-")]
    if not builders:
        raise ImageError("the lock has packages to build and no setuptools", "Add it to the lock")
    pins, made = scratch / "sources.txt", scratch / "built"
    pins.write_text(lock, encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--require-hashes",
        "--no-binary", ":all:", "--no-build-isolation", "--use-pep517",
        "-r", str(pins), "-w", str(made),
    ]  # fmt: skip
    # A wheel can be imported from as it is.
    env = {**wheels.environment(), "PYTHONPATH": str(builders[0])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise ImageError(f"pip wheel failed: {wheels.reason(done.stderr)}", "See what pip says")
    return sorted(made.glob("*.whl"))


def layer_content(
    layer: PypiLayer, folder: Path, cache_root: Path, scratch: Path
) -> tuple[list[Entry], list[Component]]:
    """The files of the layer's wheels; downloaded only when the cache lacks one.

    :raises ImageError: pip fails, or a wheel does not match its hash.
    """
    fetched, built = wheels.parted(chosen(folder, layer), layer.sources)
    logical = _lines(fetched)
    store = cache_root / "pypi"
    store.mkdir(parents=True, exist_ok=True)

    def kept() -> Mapping[str, Path]:
        return {sha256_of(wheel): wheel for wheel in store.glob("*.whl")}

    def lacking(held: Mapping[str, Path]) -> list[str]:
        return [line for line in logical if not set(_hashes(line)) & set(held)]

    with locked(store / ".lock"):
        held = kept()
        if lacking(held):
            pins = scratch / layer.requirements
            pins.write_text(fetched, encoding="utf-8")
            _download(layer, pins, store, platform.machine())
            held = kept()
    if lacking(held):
        raise ImageError(
            f"no wheel with a hash of the lock for {lacking(held)[0].split()[0]!r}",
            "Correct the requirements",
        )
    # A requirement may carry hashes for several platforms: the wheel that pip chose is kept.
    taken = {line: next(item for item in _hashes(line) if item in held) for line in logical}
    entries: list[Entry] = []
    components = []
    for line in _lines(built):
        name, _, version = line.split()[0].partition("==")
        components.append(Component("pypi", name.lower(), version, _hashes(line)[0]))
    for wheel in _build(built, map(held.__getitem__, taken.values()), scratch) if built else ():
        entries += wheel_entries(wheel, layer.into, scratch, layer.drop)
    for line, checksum in taken.items():
        name, _, version = line.split()[0].partition("==")
        entries += wheel_entries(held[checksum], layer.into, scratch, layer.drop)
        components.append(Component("pypi", name.lower(), version, checksum))
    return entries, components
