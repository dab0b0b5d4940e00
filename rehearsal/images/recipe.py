"""Recipes: what an image consists of, read from recipes/*.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rehearsal.images.errors import ImageError

RECIPES = Path(__file__).parent / "recipes"
SHARED = "_shared.toml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DebianLayer(_Strict):
    """Debian packages and what they need, less what the layers below hold."""

    kind: Literal["debian"]
    name: str = "debian"
    packages: tuple[str, ...] = Field(min_length=1)
    """Names, each optionally with a glob of a version: ``name=1.2-*``."""
    without: tuple[str, ...] = ()
    """Globs of dependencies that this image does not need; the recipe says why."""
    drop: tuple[str, ...] = ()
    """Globs of paths that are left out."""


class MavenLayer(_Strict):
    """Jars of Maven coordinates, all of them in a lock beside the recipe."""

    kind: Literal["maven"]
    name: str = "maven"
    artifacts: tuple[str, ...] = Field(min_length=1)
    """``group:artifact:version``; dependencies at run time come with them."""
    lock: str
    """File of the lock, relative to the recipes."""
    into: str
    """Folder of the jars in the image."""
    exclude: tuple[str, ...] = ()
    """``group:artifact`` of dependencies that are left out."""
    rename: dict[str, str] = Field(default_factory=dict)
    """``group:artifact`` to the file name in the image."""


class PypiLayer(_Strict):
    """Wheels of a requirements file with hashes, for Debian's python3."""

    kind: Literal["pypi"]
    name: str = "pypi"
    requirements: str
    """File of the requirements, relative to the recipes."""
    python: str
    """Version of Debian's python3, such as 3.11."""
    into: str = "usr/lib/python3/dist-packages"
    sources: tuple[str, ...] = ()
    """Packages of the file that are published without a wheel; its setuptools builds them."""
    only: tuple[str, ...] = ()
    """Packages of the file that make this layer; all when empty."""
    without: tuple[str, ...] = ()
    """Packages of the file that another layer holds, or that nothing here needs."""
    drop: tuple[str, ...] = ()
    """Globs of paths that are left out."""


class GoSource(_Strict):
    """A folder of a Go module that the toolchain pins, in ``toolchain/modules/<module>``."""

    module: str
    path: str
    """The module's import path."""
    folder: str


class NpmLayer(_Strict):
    """Packages of npm, or what is built with them; all of them in a lock of the project."""

    kind: Literal["npm"]
    name: str = "npm"
    project: str
    """Folder with package.json and package-lock.json, relative to the recipes."""
    source: GoSource | None = None
    """Sources that the project's files are laid over."""
    build: tuple[str, ...] = ()
    """Arguments of node, such as ``node_modules/vite/bin/vite.js build``."""
    output: str = "node_modules"
    """Folder of the project that goes into the image."""
    into: str


class GoLayer(_Strict):
    """The binary of a tool that the toolchain built."""

    kind: Literal["go"]
    name: str = "go"
    tool: str
    version: str
    path: str
    links: tuple[str, ...] = ()
    """Paths that become links to the binary."""


class FileSpec(_Strict):
    """A path of a ``files`` layer: one of text, link, directory."""

    path: str
    text: str | None = None
    link: str | None = None
    directory: bool = False
    mode: str = ""
    """Octal; 0644 for a file and 0755 for a directory when not given."""
    uid: int = 0
    gid: int = 0

    @model_validator(mode="after")
    def _one_kind(self) -> FileSpec:
        if sum((self.text is not None, self.link is not None, self.directory)) != 1:
            raise ValueError(f"{self.path!r} must have exactly one of text, link, directory")
        if self.mode and not all(digit in "01234567" for digit in self.mode):
            raise ValueError(f"mode {self.mode!r} of {self.path!r} is not octal, such as '0644'")
        return self


class User(_Strict):
    """A user, and the group of the same name, in /etc/passwd and /etc/group."""

    name: str
    uid: int
    gid: int
    home: str = "/nonexistent"


class SourceLayer(_Strict):
    """Files of a folder of this repository, by their suffixes."""

    kind: Literal["source"]
    name: str = "source"
    path: str
    """Folder or file, relative to the repository."""
    into: str
    suffixes: tuple[str, ...] = (".py", ".html", ".js", ".css", ".json", ".toml", ".sql")


class FilesLayer(_Strict):
    """Small files, links and directories written in the recipe."""

    kind: Literal["files"]
    name: str = "files"
    files: tuple[FileSpec, ...] = ()
    users: tuple[User, ...] = ()
    """Not empty, or ``accounts``: /etc/passwd, group and nsswitch.conf are written."""
    accounts: bool = False
    links: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Target to the paths that become links to it."""


Layer = Annotated[
    DebianLayer | MavenLayer | PypiLayer | NpmLayer | GoLayer | SourceLayer | FilesLayer,
    Field(discriminator="kind"),
]


class Config(_Strict):
    """What the image tells the runtime. Always Cmd, never Entrypoint: see the contract."""

    cmd: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = Field(default_factory=dict)
    user: str = "65534:65534"
    """``uid:gid``, numeric, so that runAsNonRoot can be checked."""
    workdir: str = "/"


class Recipe(_Strict):
    """One image."""

    key: str
    repository: str
    tag: str
    profile: str = "core"
    """The profile of `up` that needs it; "" where none does, but another environment."""
    shared_with: tuple[str, ...] = ()
    """Further profiles that need it."""
    version_from: str = ""
    """A Debian package whose upstream version the tag names; a note is given when they part."""
    smoke: tuple[str, ...] = Field(min_length=1)
    """A command of the image that exits with 0 when its main program can start."""
    layers: tuple[Layer, ...]
    config: Config

    @property
    def reference(self) -> str:
        """``repository:tag``."""
        return f"{self.repository}:{self.tag}"


class _Family(_Strict):
    image: tuple[dict[str, Any], ...]


class _Shared(_Strict):
    epoch: int
    layer: tuple[dict[str, Any], ...]


class Recipes(_Strict):
    """All recipes of a folder."""

    epoch: int
    """Time stamp of every file and image, in seconds since 1970."""
    folder: Path
    images: dict[str, Recipe]

    def of_profiles(self, profiles: Collection[str]) -> list[str]:
        """The keys of the images that rehearsals with these profiles need."""
        return [
            key
            for key, recipe in self.images.items()
            if not {recipe.profile, *recipe.shared_with}.isdisjoint(profiles)
        ]

    def tools(self, keys: Iterable[str]) -> set[str]:
        """The Go tools that these images hold."""
        layers = [layer for key in keys for layer in self.images[key].layers]
        return {layer.tool for layer in layers if isinstance(layer, GoLayer)}

    def chosen(self, keys: list[str] | tuple[str, ...] | None) -> list[Recipe]:
        """The recipes of these keys, or all; in the order of the keys.

        :raises ImageError: there is no such image.
        """
        for key in keys or ():
            if key not in self.images:
                raise ImageError(
                    f"no recipe {key!r}", f"There are: {', '.join(sorted(self.images))}"
                )
        return [self.images[key] for key in (self.images if keys is None else keys)]


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "recipe"
    return f"{where} = {first.get('input')!r:.80}: {first['msg']}"


def _recipe(file: Path, value: Mapping[str, Any], shared: Mapping[str, Any]) -> Recipe:
    key = str(value.get("key", file.name))
    layers = []
    for layer in value.get("layers", ()):
        if "use" in layer:
            if layer["use"] not in shared:
                raise ImageError(
                    f"{file.name} uses layer {layer['use']!r}, which {SHARED} does not have",
                    f"It has: {', '.join(shared)}",
                    image=key,
                )
            layers.append(shared[layer["use"]])
        else:
            layers.append(layer)
    try:
        return Recipe.model_validate({**value, "layers": layers})
    except ValidationError as error:
        raise ImageError(
            f"{file.name}: {_explain(error)}", "Correct the recipe", image=key
        ) from error


@cache
def load(folder: Path = RECIPES) -> Recipes:
    """Read every recipe of a folder.

    :raises ImageError: TOML that does not parse, an unknown key, two images of one key.
    """
    images: dict[str, Recipe] = {}
    try:
        common = _Shared.model_validate(tomllib.loads((folder / SHARED).read_text("utf-8")))
        shared = {layer["name"]: layer for layer in common.layer}
        for file in sorted(folder.glob("[!_]*.toml")):
            family = _Family.model_validate(tomllib.loads(file.read_text("utf-8")))
            for value in family.image:
                recipe = _recipe(file, value, shared)
                if recipe.key in images:
                    raise ImageError(
                        f"two recipes have the key {recipe.key!r} (one in {file.name})",
                        "Rename one of them",
                    )
                images[recipe.key] = recipe
    except (ValidationError, tomllib.TOMLDecodeError, OSError) as error:
        said = _explain(error) if isinstance(error, ValidationError) else str(error)
        raise ImageError(f"recipes in {folder}: {said}", "Correct the recipe") from error
    return Recipes(epoch=common.epoch, folder=folder, images=images)
