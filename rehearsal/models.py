"""The model registry of a running rehearsal, for commands on this machine."""

from __future__ import annotations

from pathlib import Path

from components.model_repository.config import HOST, LINKS, PUBLISHER, READER
from configs.schema import load
from model_repo.oci import Registry
from rehearsal import access, paths
from rehearsal.credentials import PUBLIC
from rehearsal.errors import EstateError
from rehearsal.rehearsal import LOCAL, Rehearsal


def registry(rehearsal: Rehearsal, *, writes: bool = False) -> Registry:
    """The door of who adds versions, or of who reads them, by the gateway's loopback port.

    Raises EstateError when there is none.
    """
    user = PUBLISHER if writes else READER
    port = rehearsal.pages.get(LINKS[user]) if rehearsal.required().mode == "node" else None
    if port is None:
        raise _lacks(rehearsal, "has no model registry")
    config = load(paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml").model_repository
    file = config.passwords()[user].file if config is not None else None
    if file is None:
        raise EstateError(
            f"configs/Pulumi.{LOCAL}.yaml: model_repository.{user}",
            "is no file of the rehearsal's secrets",
            "write {file: ...}, or name the registry by --registry",
        )
    password = _secret(rehearsal, file).read_text(encoding="utf-8").rstrip("\n")
    authority = rehearsal.folder / "ca.crt"
    paths.replace(authority, access.authority(rehearsal))
    return Registry(
        f"https://127.0.0.1:{port}",
        (user, password),
        ca=authority,
        server_name=HOST,
        writes=writes,
    )


def trusted(rehearsal: Rehearsal) -> list[Path]:
    """The public keys that the rehearsal trusts. Raises EstateError."""
    return [_secret(rehearsal, file) for file in _keys()]


def signing_key(rehearsal: Rehearsal) -> Path:
    """The private half of the first of them, by which the rehearsal signs. Raises EstateError."""
    for file in _keys():
        if file.endswith(PUBLIC):
            return _secret(rehearsal, file.removesuffix(PUBLIC))
    raise EstateError(f"rehearsal {rehearsal.name}", "has no key that signs", "name one by --key")


def _keys() -> list[str]:
    config = load(paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml").model_repository
    keys = config.trusted_keys if config is not None else []
    files = [one.reference.file for one in keys if one.reference is not None]
    return [file for file in files if file is not None]


def _secret(rehearsal: Rehearsal, file: str) -> Path:
    found = rehearsal.folder / "secrets" / file
    if not found.is_file():
        raise _lacks(rehearsal, f"has no secret {file}")
    return found


def _lacks(rehearsal: Rehearsal, words: str) -> EstateError:
    return EstateError(
        f"rehearsal {rehearsal.name}",
        words,
        f"run: ./estate up --profile serving --name {rehearsal.name}; or name a registry by "
        "--registry",
    )
