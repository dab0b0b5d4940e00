"""The versions of the estate's images: configs/versions.toml, and the rehearsal's lock."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.model import Image, Images
from configs.errors import ConfigError

VERSIONS = Path(__file__).with_name("versions.toml")


def declared(path: Path = VERSIONS) -> dict[str, dict[str, str]]:
    """`images` of versions.toml: key -> repository, tag and, where known, upstream's digest.

    Raises ConfigError when the file is no TOML.
    """
    try:
        images = tomllib.loads(path.read_text(encoding="utf-8")).get("images", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: not TOML: {error}; mend that line") from None
    return {str(key): dict(value) for key, value in images.items()}


def upstream(path: Path = VERSIONS) -> Images:
    """The images that an environment pulls: those with upstream's digest in versions.toml."""
    return _images(
        {key: value for key, value in declared(path).items() if value.get("digest")}, path.name
    )


def placeholders(path: Path = VERSIONS) -> dict[str, dict[str, str]]:
    """A lock for pods that never run: no image is built where every node is simulated.

    Key -> repository, tag and a digest in form only, the SHA-256 of "repository:tag".
    """
    lock = {}
    for key, entry in declared(path).items():
        name = f"{entry['repository']}:{entry['tag']}"
        digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        lock[key] = {"repository": entry["repository"], "tag": entry["tag"], "digest": digest}
    return lock


def rehearsal(lock: Path, path: Path = VERSIONS) -> Images:
    """The images built here: digests from the lock that the image build wrote.

    Raises ConfigError when the lock is missing, is no JSON, or names another repository or tag
    than versions.toml: what is rehearsed must be what production pulls.
    """
    try:
        locked = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{lock}: the image lock is missing; ./estate up builds it") from None
    except ValueError as error:
        raise ConfigError(f"{lock}: not JSON ({error}); ./estate up builds it anew") from None
    names = declared(path)
    problems = [
        f"{lock}: {key}: {locked[key].get('repository')}:{locked[key].get('tag')} was built, but "
        f"versions.toml names {names[key]['repository']}:{names[key]['tag']}; make them equal"
        for key in sorted(set(names) & set(locked))
        if (locked[key].get("repository"), locked[key].get("tag"))
        != (names[key]["repository"], names[key]["tag"])
    ]
    if problems:
        raise ConfigError(problems)
    return _images(locked, str(lock))


def _images(entries: Mapping[str, Mapping[str, Any]], origin: str) -> Images:
    images: dict[str, Image] = {}
    problems: list[str] = []
    for key, entry in entries.items():
        fields = {name: entry.get(name) for name in ("repository", "tag", "digest")}
        try:
            images[key] = Image.model_validate(fields)
        except ValidationError as error:
            detail = error.errors()[0]
            problems.append(
                f"{origin}: {key}.{'.'.join(map(str, detail['loc']))}: "
                f"{detail['input']!r} is not allowed: {detail['msg']}"
            )
    if problems:
        raise ConfigError(problems)
    return Images(images)
