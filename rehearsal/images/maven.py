"""Jars from a Maven repository, every one of them in a committed lock."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from rehearsal.images.apt import Apt
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import locked, sha256_of
from rehearsal.images.layer import Entry, file_entry, normal
from rehearsal.images.recipe import MavenLayer
from rehearsal.images.sbom import Component

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"


def read_lock(path: Path) -> dict[str, str]:
    """``group:artifact:version[:classifier]`` to the SHA-256 of the jar.

    :raises ImageError: no lock, or a line that is none.
    """
    if not path.exists():
        raise ImageError(
            f"there is no lock {path.name}", "Write it: python -m rehearsal.images lock"
        )
    result = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        coordinates, _, checksum = line.partition(" ")
        if coordinates.count(":") < 2 or len(checksum) != 64:
            raise ImageError(
                f"{path.name} line {number}: {line!r} is not 'group:artifact:version sha256'",
                "Write the lock anew: python -m rehearsal.images lock",
            )
        result[coordinates] = checksum
    return result


def _pom(layer: MavenLayer) -> str:
    """A project that depends on the layer's artifacts."""
    rows = []
    exclusions = "".join(
        "<exclusion><groupId>{}</groupId><artifactId>{}</artifactId></exclusion>".format(
            *map(escape, name.split(":"))
        )
        for name in layer.exclude
    )
    for coordinates in layer.artifacts:
        group, artifact, version = map(escape, coordinates.split(":"))
        rows.append(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version><exclusions>{exclusions}</exclusions></dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>estate</groupId><artifactId>layer</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{''.join(rows)}</dependencies></project>\n"
    )


def _maven(apt: Apt) -> list[str]:
    """The command of Maven: the host's, or else Debian's, unpacked into the cache."""
    found = shutil.which("mvn")
    if found:
        return [found]
    from rehearsal.images.tooling import unpack_tools

    home = apt.root.parent / "tools" / "maven"
    unpack_tools(["maven", "openjdk-17-jre-headless"], home, apt=apt)
    share = home / "usr" / "share" / "maven"
    boot = sorted((home / "usr" / "share" / "java").glob("plexus-classworlds*.jar"))[0]
    return [
        *map(str, sorted((home / "usr" / "lib" / "jvm").glob("java-17-openjdk-*/bin/java"))[:1]),
        "-classpath", str(boot), f"-Dclassworlds.conf={home}/etc/maven/m2.conf",
        f"-Dmaven.home={share}", f"-Dmaven.multiModuleProjectDirectory={home}",
        "org.codehaus.plexus.classworlds.launcher.Launcher",
    ]  # fmt: skip


def resolve_jars(layer: MavenLayer, cache_root: Path, apt: Apt, into: Path) -> dict[str, Path]:
    """Let Maven resolve and download; coordinates to jars below ``into``.

    Checksums of the repository are enforced; our own lock is checked by the caller.
    """
    (into / "pom.xml").write_text(_pom(layer), encoding="utf-8")
    jars = into / "jars"
    command = [
        *_maven(apt), "-B", "-q", "-C", "-U", "-Dstyle.color=never", "-f", str(into / "pom.xml"),
        f"-Dmaven.repo.local={cache_root / 'maven' / 'repository'}",
        f"{PLUGIN}:copy-dependencies", f"-DoutputDirectory={jars}",
        "-DincludeScope=runtime", "-Dmdep.useRepositoryLayout=true",
    ]  # fmt: skip
    with locked(cache_root / "maven" / ".lock"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if "[ERROR]" in line]
        raise ImageError(
            f"Maven failed ({done.returncode}): {(lines or [done.stderr[-200:]])[0]}",
            "Check that the Maven repository of settings.xml answers",
        )
    result = {}
    for jar in sorted(jars.rglob("*.jar")):
        *group, artifact, version, name = jar.relative_to(jars).parts
        classifier = name.removeprefix(f"{artifact}-{version}").removesuffix(".jar").lstrip("-")
        coordinates = ":".join(filter(None, (".".join(group), artifact, version, classifier)))
        result[coordinates] = jar
    return result


def verified(found: Mapping[str, Path], lock: Mapping[str, str]) -> None:
    """Check jars against the lock.

    :raises ImageError: another content, a jar too many, a jar too few; the coordinates are named.
    """
    way_out = "If that is wanted, write the lock anew: python -m rehearsal.images lock"
    for coordinates, jar in found.items():
        if coordinates not in lock:
            raise ImageError(f"{coordinates} is not in the lock", way_out)
        checksum = sha256_of(jar)
        if checksum != lock[coordinates]:
            raise ImageError(
                f"{coordinates} has SHA-256 {checksum}, the lock has {lock[coordinates]}", way_out
            )
    missing = sorted(set(lock) - set(found))
    if missing:
        raise ImageError(f"{missing[0]} of the lock was not resolved", way_out)


def layer_content(
    layer: MavenLayer, folder: Path, cache_root: Path, apt: Apt
) -> tuple[list[Entry], list[Component]]:
    """The jars of a layer; fetched only when the cache lacks one.

    :raises ImageError: Maven fails, or the jars differ from the lock.
    """
    lock = read_lock(folder / layer.lock)
    store = cache_root / "maven" / "jars"
    store.mkdir(parents=True, exist_ok=True)
    kept = {coordinates: store / f"{checksum}.jar" for coordinates, checksum in lock.items()}
    if not all(path.exists() for path in kept.values()):
        with tempfile.TemporaryDirectory(dir=cache_root) as scratch:
            found = resolve_jars(layer, cache_root, apt, Path(scratch))
            verified(found, lock)
            for coordinates, jar in found.items():
                jar.replace(kept[coordinates])
    entries = []
    components = []
    for coordinates, path in kept.items():
        group, artifact, version, *classifier = coordinates.split(":")
        name = layer.rename.get(
            f"{group}:{artifact}", "-".join([artifact, version, *classifier]) + ".jar"
        )
        entries.append(file_entry(normal(f"{layer.into}/{name}"), path))
        components.append(Component("maven", f"{group}:{artifact}", version, lock[coordinates]))
    return entries, components


def write_lock(layer: MavenLayer, folder: Path, cache_root: Path, apt: Apt) -> int:
    """Resolve anew and write the lock beside the recipe; the number of jars."""
    cache_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root) as scratch:
        found = resolve_jars(layer, cache_root, apt, Path(scratch))
        rows = [f"{coordinates} {sha256_of(jar)}\n" for coordinates, jar in sorted(found.items())]
    head = "# Every jar of the layer, with its SHA-256. Made by: python -m rehearsal.images lock\n"
    (folder / layer.lock).write_text(head + "".join(rows), encoding="utf-8")
    return len(rows)
