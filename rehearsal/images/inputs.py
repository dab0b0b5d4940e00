"""What a layer is made of: its inputs, its key, and its entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rehearsal.images import debian, golang, layer, maven, npm, pypi, recipe, repository
from rehearsal.images.apt import SCRIPT_ONLY, Apt, Package, closure
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import digest_of, sha256_of
from rehearsal.images.sbom import Component


@cache
def _code() -> str:
    """Hash of the code that writes layers: a layer of other code is another layer."""
    return digest_of(
        [
            sha256_of(Path(str(module.__file__)))
            for module in (debian, golang, layer, maven, npm, pypi, repository)
        ]
    )


@dataclass(frozen=True)
class Inputs:
    """The resolved inputs of one layer."""

    layer: recipe.Layer
    key: str
    """Equal keys give equal layers."""
    packages: tuple[Package, ...] = ()
    """Debian packages that this layer adds."""
    described: Mapping[str, Any] = field(default_factory=dict)


def resolve(
    image: recipe.Recipe,
    recipes: recipe.Recipes,
    apt: Apt,
    tools: Mapping[str, Path | str],
    *,
    force: bool = False,
) -> list[Inputs]:
    """Resolve the inputs of every layer of an image, lowest first.

    :param tools: the tools' binaries; a string stands for a tool that is not built yet, and is
        taken as its identity (the hash of its own inputs, say).
    :raises ImageError: naming image and layer.
    """
    result: list[Inputs] = []
    lower: dict[str, Package] = {}
    for item in image.layers:
        try:
            packages: tuple[Package, ...] = ()
            if isinstance(item, recipe.DebianLayer):
                packages = _subtract(item, apt, lower, force)
                lower.update({package.name: package for package in packages})
            value = _describe(item, packages, recipes.folder, tools)
            _loadable(item, tools, set(lower))
        except ImageError as error:
            raise error.within(image.key, item.name) from error
        value = {"epoch": recipes.epoch, "code": _code(), **value}
        result.append(Inputs(item, digest_of(value), packages, value))
    return result


def _subtract(
    item: recipe.DebianLayer, apt: Apt, lower: Mapping[str, Package], force: bool
) -> tuple[Package, ...]:
    """The closure of a layer, less the packages of the layers below it."""
    resolved = apt.resolve(item.packages, force=force)
    added = []
    for package in closure(item.packages, resolved, (*SCRIPT_ONLY, *item.without)):
        below = lower.get(package.name)
        if below is None:
            added.append(package)
        elif below.version != package.version:
            raise ImageError(
                f"needs {package.name} {package.version}, but a lower layer has {below.version}",
                "Pin the same version in both, or resolve anew (force a refresh)",
            )
    return tuple(added)


def _describe(
    item: recipe.Layer,
    packages: Sequence[Package],
    folder: Path,
    tools: Mapping[str, Path | str],
) -> dict[str, Any]:
    """A JSON value with everything that decides the layer's bytes."""
    match item:
        case recipe.DebianLayer():
            chosen = [[package.name, package.version, package.sha256] for package in packages]
            return {"kind": item.kind, "packages": chosen, "drop": list(item.drop)}
        case recipe.GoLayer():
            content = _tool_identity(item, tools.get(item.tool))
            return {**item.model_dump(mode="json", exclude={"name"}), "content": content}
        case recipe.MavenLayer():
            return {**item.model_dump(mode="json"), "lock": maven.read_lock(folder / item.lock)}
        case recipe.PypiLayer():
            return {**item.model_dump(mode="json"), "lock": pypi.chosen(folder, item)}
        case recipe.NpmLayer():
            return npm.described(item, folder)
        case recipe.SourceLayer():
            return repository.described(item)
        case recipe.FilesLayer():
            return item.model_dump(mode="json", exclude={"name"})


def _tool_identity(item: recipe.GoLayer, tool: Path | str | None) -> str:
    """The SHA-256 of a binary; or what the caller calls a tool that is not built yet."""
    if isinstance(tool, str):
        return f"identity:{tool}"
    return sha256_of(golang.tool_path(item, {item.tool: tool} if tool else {}))


def _loadable(item: recipe.Layer, tools: Mapping[str, Path | str], lower: set[str]) -> None:
    """Refuse a binary that needs a libc in an image that has none: it would not even start."""
    if isinstance(item, recipe.GoLayer) and "libc6" not in lower:
        tool = tools.get(item.tool)
        if isinstance(tool, Path) and golang.needs_loader(tool):
            raise ImageError(
                f"{tool} is linked dynamically, but the image has no libc",
                f"Build {item.tool} with CGO_ENABLED=0, or put the layer on the base",
            )


def entries(
    inputs: Inputs,
    recipes: recipe.Recipes,
    apt: Apt,
    tools: Mapping[str, Path],
    cache_root: Path,
    scratch: Path,
) -> tuple[list[layer.Entry], list[Component]]:
    """Fetch what a layer needs; its entries and what they came from.

    :param scratch: an existing folder that outlives the writing of the layer.
    """
    match inputs.layer:
        case recipe.DebianLayer() as item:
            debs = apt.fetch_resolved(inputs.packages)
            made = debian.debian_entries(
                list(zip(inputs.packages, debs, strict=True)), scratch, item.drop
            )
            return made, [
                Component("deb", package.name, package.version, package.sha256,
                          package.architecture)
                for package in inputs.packages
            ]  # fmt: skip
        case recipe.GoLayer() as item:
            binary = golang.tool_path(item, tools)
            return golang.go_entries(item, binary), golang.go_components(item, binary)
        case recipe.MavenLayer() as item:
            return maven.layer_content(item, recipes.folder, cache_root, apt)
        case recipe.PypiLayer() as item:
            return pypi.layer_content(item, recipes.folder, cache_root, scratch)
        case recipe.NpmLayer() as item:
            return npm.layer_content(item, recipes.folder, cache_root, scratch)
        case recipe.SourceLayer() as item:
            return repository.entries(item), []
        case recipe.FilesLayer() as item:
            return _files(item), []


def _files(item: recipe.FilesLayer) -> list[layer.Entry]:
    made: list[layer.Entry] = []
    if item.accounts or item.users:
        made += layer.account_files([user.model_dump() for user in item.users])
    for target, paths in item.links.items():
        made += [layer.Entry(layer.normal(path), "symlink", 0o777, target=target) for path in paths]
    for spec in item.files:
        path = layer.normal(spec.path)
        if spec.link is not None:
            made.append(layer.Entry(path, "symlink", 0o777, spec.uid, spec.gid, target=spec.link))
        elif spec.directory:
            mode = int(spec.mode or "755", 8)
            made.append(layer.Entry(path, "dir", mode, spec.uid, spec.gid))
        else:
            data = (spec.text or "").encode()
            mode = int(spec.mode or "644", 8)
            made.append(layer.Entry(path, "file", mode, spec.uid, spec.gid, data=data))
    return made
