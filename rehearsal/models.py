"""Which digests the versions have that a rehearsal serves: its models are made where it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from model_repo import declared
from model_repo.declared import FOLDER, REHEARSAL
from model_repo.oci import NotThere, OciError, digest_of
from model_repo.repository import Repository
from rehearsal import paths
from rehearsal.errors import EstateError

FILE = "models.json"
"""In the rehearsal's folder; ESTATE_MODELS names it."""
Digests = Mapping[str, Mapping[int, str]]


def wanted(folder: Path = FOLDER) -> dict[str, int]:
    """The versions that the rehearsal's environment declares. Raises EstateError."""
    try:
        models = declared.models(folder)
    except OciError as error:
        raise EstateError(error.thing, error.words, "mend the file and run again") from None
    return {
        name: served.version
        for name, model in models.items()
        if (served := model.environments.get(REHEARSAL)) is not None
    }


def digests(repository: Repository, versions: Mapping[str, int]) -> dict[str, dict[int, str]]:
    """What a registry has of them, each signed by a trusted key. Raises EstateError."""
    found: dict[str, dict[int, str]] = {}
    missing = []
    for name, number in versions.items():
        try:
            found[name] = {number: repository.show(name, str(number)).digest}
        except NotThere:
            missing.append(f"{name} version {number}")
        except OciError as error:
            raise EstateError(error.thing, error.words, "mend that and run again") from None
    if missing:
        raise EstateError(
            "the rehearsal's registry",
            f"lacks what model_repo/models declares for {REHEARSAL}: {', '.join(missing)}",
            "add each: ./estate model add FOLDER --version NUMBER",
        )
    return found


def stand_ins(versions: Mapping[str, int]) -> dict[str, dict[int, str]]:
    """Digests of the names, where no container and so no registry runs."""
    return {
        name: {number: digest_of(f"{name}:{number}".encode())} for name, number in versions.items()
    }


def write(folder: Path, found: Digests) -> Path:
    """The file that ESTATE_MODELS names, whole or not at all."""
    file = folder / FILE
    text = {
        name: {str(number): one for number, one in known.items()} for name, known in found.items()
    }
    paths.replace(file, json.dumps(text, indent=1, sort_keys=True))
    return file
