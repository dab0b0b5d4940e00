"""The models of a rehearsal: its registry, for commands on this machine, and what it serves."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from components.model_repository.config import HOST, LINKS, PUBLISHER, READER
from configs.schema import load
from model_repo import declared, signing
from model_repo.declared import FOLDER, REHEARSAL
from model_repo.oci import NoAnswer, NotThere, OciError, Registry
from model_repo.repository import Repository
from model_repo.version import Digest
from rehearsal import access, console, paths, training
from rehearsal.credentials import private_half
from rehearsal.errors import EstateError
from rehearsal.rehearsal import LOCAL, Rehearsal

FILE = "models.json"
"""In the rehearsal's folder; ESTATE_MODELS names it."""
_ANSWERS_S = 30.0
Digests = Mapping[str, Mapping[int, str]]
_DIGESTS: TypeAdapter[dict[str, dict[int, str]]] = TypeAdapter(dict[str, dict[int, Digest]])


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
    file = private_half(_keys())
    if file is None:
        raise EstateError(
            f"rehearsal {rehearsal.name}", "has no key that signs", "name one by --key"
        )
    return _secret(rehearsal, file)


def _keys() -> list[str]:
    config = load(paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml").model_repository
    return config.key_files() if config is not None else []


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
    """What a registry has of them, each signed by a trusted key.

    Raises EstateError, and NoAnswer.
    """
    found: dict[str, dict[int, str]] = {}
    for name, number in versions.items():
        try:
            found[name] = {number: repository.show(name, str(number)).digest}
        except NotThere:
            continue
        except NoAnswer:
            raise
        except OciError as error:
            raise EstateError(error.thing, error.words, "mend that and run again") from None
    return found


def look(rehearsal: Rehearsal) -> None:
    """Note what the registry has of what is declared, if it answers: before `pulumi up`.

    A version that was added and declared is then served by the first one. Raises EstateError.
    """
    known = _known(rehearsal)
    lacking = {name: n for name, n in wanted().items() if n not in known.get(name, {})}
    if not lacking or LINKS[READER] not in rehearsal.pages:
        return
    try:
        reader = Repository(registry(rehearsal), signing.trusted(trusted(rehearsal)))
        found = digests(reader, lacking)
    except (NoAnswer, EstateError):
        return  # it is away, or not made yet: `bring` asks when it must be there
    if found:
        write(rehearsal.folder, _both(known, found))


def _known(rehearsal: Rehearsal) -> dict[str, dict[int, str]]:
    file = rehearsal.folder / FILE
    try:
        return _DIGESTS.validate_json(file.read_bytes()) if file.exists() else {}
    except ValueError:
        return {}  # the program refuses it by name; here it is written anew


def _both(known: Digests, found: Digests) -> dict[str, dict[int, str]]:
    return {name: {**known.get(name, {}), **found.get(name, {})} for name in {**known, **found}}


def forget(rehearsal: Rehearsal, gone: Iterable[tuple[str, int]]) -> None:
    """Take those models' versions out of what the registry is known to have."""
    known, away = _known(rehearsal), set(gone)
    # A model of which nothing is left stays: what is served must not go with a warning alone.
    left = {
        name: {number: one for number, one in versions.items() if (name, number) not in away}
        for name, versions in known.items()
    }
    if left != known:
        write(rehearsal.folder, left)


def bring(rehearsal: Rehearsal) -> bool:
    """Have the registry hold what is declared; True when more of it can be served than before.

    A reference model that is not there is trained, or taken from the cache, and added. Raises
    EstateError.
    """
    versions = wanted()
    known = _known(rehearsal)
    if all(number in known.get(name, {}) for name, number in versions.items()):
        return False
    repository = Repository(registry(rehearsal, writes=True), signing.trusted(trusted(rehearsal)))
    found = _answered(lambda: digests(repository, versions))
    lacking = {name: number for name, number in versions.items() if name not in found}
    if lacking:
        key = signing.private_key(signing_key(rehearsal).read_bytes())
        revision = _revision()
        for name, folder in _reference(lacking).items():
            try:
                stored, _ = repository.add(folder, lacking[name], revision, key)
            except OciError as error:
                raise EstateError(error.thing, error.words, "mend that and run again") from None
            found[name] = {lacking[name]: stored.digest}
            console.step(f"model {name} version {lacking[name]}: {stored.digest}")
    for name in sorted(set(lacking) - set(found)):
        console.warn(
            f"{name} version {lacking[name]} is declared and not in the registry, so it is not "
            f"served: ./estate model add FOLDER --version {lacking[name]}, then ./estate up"
        )
    now = _both(known, found)
    write(rehearsal.folder, now)
    return now != known


def _answered(ask: Callable[[], dict[str, dict[int, str]]]) -> dict[str, dict[int, str]]:
    """What the registry says, once its loopback port leads there: the gateway looks up its name."""
    deadline = time.monotonic() + _ANSWERS_S
    while True:
        try:
            return ask()
        except NoAnswer as error:
            if time.monotonic() > deadline:
                raise EstateError(error.thing, error.words, "run up again") from None
            time.sleep(0.5)


def _reference(names: Iterable[str]) -> dict[str, Path]:
    """The folders of those that are reference models, trained once for the image that trains."""
    found: dict[str, Path] = {}
    bases = {name: name.rpartition("-")[0] for name in names}
    made = sorted(set(bases.values()) & set(training.MODELS))
    if not made:
        return found
    image = training.image()
    out = paths.ensure(paths.cache() / "models" / image.digest[7:23], "cache")
    for base in made:
        own = {name: out / name for name, one in bases.items() if one == base}
        if not all(folder.is_dir() for folder in own.values()):
            training.train(base, out, image)
        found |= {name: folder for name, folder in own.items() if folder.is_dir()}
    return found


def _revision() -> str:
    """The last commit of the code that trains; zeros where there is no Git."""
    command = ["git", "-C", str(paths.root()), "log", "-1", "--format=%H", "--", training.CODE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return training.NO_COMMIT
    return done.stdout.strip() or training.NO_COMMIT


def write(folder: Path, found: Digests) -> Path:
    """The file that ESTATE_MODELS names, whole or not at all."""
    file = folder / FILE
    text = {
        name: {str(number): one for number, one in known.items()} for name, known in found.items()
    }
    paths.replace(file, json.dumps(text, indent=1, sort_keys=True))
    return file
