"""The versions of the estate's images: configs/versions.toml, and the rehearsal's lock."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from components.model import DIGEST, Image, Images, Model
from configs.errors import ConfigError

VERSIONS = Path(__file__).with_name("versions.toml")
_Entry = TypeVar("_Entry", bound=Model)


class Version(Model):
    """One image of versions.toml: upstream's tag and digest, and the tag that is built here."""

    repository: str = Field(min_length=1)
    tag: str = Field(min_length=1)
    digest: str | None = Field(default=None, pattern=DIGEST)
    built: str | None = Field(
        default=None, min_length=1, description="the rehearsal's tag, where it is another"
    )
    own: bool = Field(default=False, description="made here, pushed to an environment's registry")
    unpinned: str | None = Field(
        default=None, min_length=8, description="why an image that nobody builds has no digest"
    )

    @property
    def rehearsed(self) -> tuple[str, str]:
        """Repository and tag of what the rehearsal builds."""
        return self.repository, self.built or self.tag


def declared(path: Path = VERSIONS) -> dict[str, Version]:
    """`images` of versions.toml by key.

    Raises ConfigError when the file is no TOML, or an entry has a wrong or unknown key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_short(path)}: not TOML: {error}; mend that line") from None
    if strange := sorted(set(document) - {"images"}):
        raise ConfigError(f"{_short(path)}: {strange[0]}: unknown table; did you mean images?")
    return _all(Version, document.get("images", {}), _short(path))


def agree(recipes: Mapping[str, tuple[str, str]], path: Path = VERSIONS) -> None:
    """Refuse versions that the rehearsal does not build, before anything is started.

    `recipes` has repository and tag of each image that is built. Raises ConfigError.
    """
    found = declared(path)
    problems = [
        f"{_short(path)}: images.{key}: missing; the rehearsal builds {':'.join(built)}"
        for key, built in recipes.items()
        if key not in found
    ]
    problems += [
        f"{_short(path)}: images.{key}: {':'.join(entry.rehearsed)} is not what the rehearsal "
        f"builds ({':'.join(recipes[key])}); name that tag in `built`, or change its recipe"
        for key, entry in found.items()
        if key in recipes and entry.rehearsed != recipes[key]
    ]
    problems += [
        f"{_short(path)}: images.{key}: no recipe builds it and it has no digest to pull it by; "
        f"{_nearest(key, recipes)}"
        for key, entry in found.items()
        if key not in recipes and entry.digest is None and entry.unpinned is None
    ]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class Pulled:
    """What an environment pulls, and what it lacks a digest for."""

    images: Images
    unpinned: Images
    """With a digest in form only, for pods that never run."""


def pulled(
    registry: str | None = None, digests: Mapping[str, str] | None = None, path: Path = VERSIONS
) -> Pulled:
    """The images of an environment that pulls.

    `digests` by key are the environment's own and go before those of versions.toml. Own images lie
    in `registry`, under the last part of their name. Raises ConfigError for a key that is no image,
    and for the digest of an own image without a registry.
    """
    given, entries = digests or {}, declared(path)
    found: dict[str, dict[str, Image]] = {"images": {}, "unpinned": {}}
    problems = [
        f"images.digests.{key}: no image of {_short(path)}; {_nearest(key, entries)}"
        for key in given
        if key not in entries
    ]
    problems += [
        f"images.registry: missing; images.digests.{key} is of an image that is made here, so "
        "name the registry that it was pushed to"
        for key in given
        if registry is None and key in entries and entries[key].own
    ]
    if problems:
        raise ConfigError(problems)
    for key, entry in entries.items():
        repository, digest = entry.repository, given.get(key, entry.digest)
        if entry.own and registry is not None:
            repository = f"{registry}/{repository.rpartition('/')[2]}"
        found["images" if digest else "unpinned"][key] = Image(
            repository=repository, tag=entry.tag, digest=digest or _in_form(repository, entry.tag)
        )
    return Pulled(Images(found["images"]), Images(found["unpinned"]))


def placeholders(path: Path = VERSIONS) -> dict[str, dict[str, str]]:
    """A lock for pods that never run: no image is built where every node is simulated.

    Key -> repository, tag and a digest in form only, the SHA-256 of "repository:tag".
    """
    lock = {}
    for key, entry in declared(path).items():
        repository, tag = entry.rehearsed
        lock[key] = {"repository": repository, "tag": tag, "digest": _in_form(repository, tag)}
    return lock


def rehearsal(lock: Path, path: Path = VERSIONS) -> Images:
    """The images built here: digests from the lock that the image build wrote.

    Raises ConfigError when the lock is missing, is no JSON, or names another repository or tag
    than versions.toml: what is rehearsed must be what was reviewed.
    """
    try:
        locked = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{lock}: the image lock is missing; ./estate up builds it") from None
    except ValueError as error:
        raise ConfigError(f"{lock}: not JSON ({error}); ./estate up builds it anew") from None
    names = {key: entry.rehearsed for key, entry in declared(path).items()}
    problems = [
        f"{lock}: {key}: {locked[key].get('repository')}:{locked[key].get('tag')} was built, but "
        f"versions.toml names {':'.join(names[key])}; make them equal"
        for key in sorted(set(names) & set(locked))
        if (locked[key].get("repository"), locked[key].get("tag")) != names[key]
    ]
    if problems:
        raise ConfigError(problems)
    fields = ("repository", "tag", "digest")
    entries = {key: {name: entry.get(name) for name in fields} for key, entry in locked.items()}
    return Images(_all(Image, entries, str(lock)))


def _all(
    model: type[_Entry], entries: Mapping[str, Mapping[str, Any]], origin: str
) -> dict[str, _Entry]:
    """Each entry as a model; all problems in one ConfigError."""
    found: dict[str, _Entry] = {}
    problems: list[str] = []
    for key, entry in entries.items():
        try:
            found[key] = model.model_validate(entry)
        except ValidationError as error:
            for detail in error.errors():
                last = str(detail["loc"][-1])
                what = f"{detail['input']!r} is not allowed: {detail['msg']}"
                if detail["type"] == "extra_forbidden":
                    what = f"unknown key; {_nearest(last, model.model_fields)}"
                elif detail["type"] == "missing":
                    what = "missing; required here"
                problems.append(f"{origin}: {key}.{last}: {what}")
    if problems:
        raise ConfigError(problems)
    return found


def _in_form(repository: str, tag: str) -> str:
    """No image's digest, in the form of one."""
    return f"sha256:{hashlib.sha256(f'{repository}:{tag}'.encode()).hexdigest()}"


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"allowed here: {', '.join(sorted(known))}"


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
