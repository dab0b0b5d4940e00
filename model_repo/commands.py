"""`./estate model`: versions of models into a registry, out of it, and what they are."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from rich.filesize import decimal

from model_repo import golden, signing
from model_repo.credentials import credentials
from model_repo.oci import NotThere, OciError, Registry
from model_repo.repository import Repository, Stored
from rehearsal import console, models
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import Rehearsal

REGISTRY_VARIABLE = "ESTATE_MODEL_REGISTRY"


class WhereOptions(TypedDict):
    """What a command line says of where: see Where."""

    name: str
    registry: str | None
    ca: Path | None
    trust: Sequence[Path]


@dataclass(frozen=True)
class Where:
    """Which registry a command speaks to: one that is named, or that of a running rehearsal.

    The rehearsal's knows its users and keys; `ca` and `trust` are for another one.
    """

    name: str
    registry: str | None
    ca: Path | None
    trust: Sequence[Path]

    @property
    def url(self) -> str:
        """Of the registry that is named, or nothing."""
        return self.registry or os.environ.get(REGISTRY_VARIABLE) or ""

    @property
    def rehearsal(self) -> Rehearsal | None:
        """Whose own registry it is; None for one that is named."""
        return None if self.url else Rehearsal(self.name)

    def open(self, *, writes: bool = False) -> Repository:
        """The models in it. Raises UsageError, EstateError and OciError."""
        rehearsal = self.rehearsal
        if rehearsal is not None:
            found = models.registry(rehearsal, writes=writes)
            keys = self.trust or models.trusted(rehearsal)
            return Repository(found, signing.trusted(keys))
        if not self.trust and not writes:
            raise UsageError("--trust", "is not given", "name the public key of who signs")
        user = credentials(Registry(self.url).host)
        found = Registry(self.url, user, ca=self.ca, writes=writes)
        return Repository(found, signing.trusted(self.trust))

    def signing_key(self, given: Path | None) -> Path:
        """The key that is given, or the rehearsal's own."""
        if given is None and self.url:
            raise UsageError("--key", "is not given", "name the private key that signs")
        return given or models.signing_key(Rehearsal(self.name))

    def note(self) -> None:
        """Have the rehearsal's program know of what was added or declared, where it is its own.

        `./estate up` and `preview` look by themselves; a plain `pulumi up` cannot.
        """
        if self.rehearsal is not None:
            with contextlib.suppress(EstateError):  # what hinders it, `up` says
                models.look(self.rehearsal)

    def forget(self, gone: Iterable[tuple[str, int]]) -> None:
        """The opposite: other files may come to have the numbers of versions that are gone."""
        if self.rehearsal is not None:
            models.forget(self.rehearsal, gone)


def add(
    folder: Path,
    number: int,
    key: Path | None,
    passphrase: Path | None,
    revision: str | None,
    as_json: bool,
    **where: Unpack[WhereOptions],
) -> int:
    """Store and sign a version; 0 also when it was there already, the same."""
    at = Where(**where)
    if revision and not re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(
            "--revision",
            repr(revision),
            "give the commit's 40 hex digits, as git rev-parse has them",
        )
    with _told():
        password = passphrase.read_bytes().rstrip(b"\r\n") if passphrase else None
        signer = signing.private_key(at.signing_key(key).read_bytes(), password)
        commit = revision or _commit(folder)
        repository = at.open(writes=True)
        stored, new = repository.add(folder, number, commit, signer, _sent)
        # Of a registry that is named nobody said here which keys are trusted.
        strange = bool(repository.trusted) and not repository.trusts(stored)
    at.note()
    if golden.FILE not in stored.files:
        console.warn(
            f"no {golden.FILE}: nothing says what it is to answer, so no environment takes it"
        )
    if strange:
        console.warn(
            f"no key that rehearsal {at.name} trusts has signed it, so it is not served there: "
            "add it again without --key"
        )
    if as_json:
        console.emit_json({**_plain(stored), "new": new})
    else:
        said = "stored and signed" if new else "was there already, the same; signed"
        version = stored.version
        console.say(f"{version.name} version {version.version}: {said}, {stored.digest}")
    return 0


def list_(model: str, as_json: bool, **where: Unpack[WhereOptions]) -> int:
    """Every version of a model; 1 when one of them does not verify."""
    rows: list[dict[str, object]] = []
    with _told():
        repository = Where(**where).open()
        for number in repository.numbers(model):
            try:
                rows.append({**_plain(repository.show(model, str(number))), "verified": True})
            except OciError as error:
                rows.append(
                    {"model": model, "version": number, "verified": False, "why": error.words}
                )
    if as_json:
        console.emit_json(rows)
    else:
        console.table(
            f"Versions of {model}",
            ("version", "framework", "size", "metrics", "commit", "digest"),
            [_row(row) for row in rows],
        )
    return 0 if all(row["verified"] for row in rows) else 1


def show(
    model: str,
    reference: str,
    as_json: bool,
    *,
    every_byte: bool = False,
    **where: Unpack[WhereOptions],
) -> int:
    """All that is written of a version, once its signature was found, or every byte was read."""
    with _told():
        repository = Where(**where).open()
        look = repository.verify if every_byte else repository.show
        stored = look(model, reference)
    _tell(stored, as_json)
    return 0


def pull(model: str, reference: str, folder: Path, **where: Unpack[WhereOptions]) -> int:
    """A version's files into a folder that appears whole or not at all."""
    with _told():
        stored = Where(**where).open().pull(model, reference, folder)
    console.say(f"{model} version {stored.version.version}: {decimal(stored.size)} in {folder}")
    return 0


def _sent(name: str, length: int) -> None:
    console.step(f"{name}: {decimal(length)} are there")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What is wrong as the one line that a command ends with."""
    try:
        yield
    except signing.Unsigned as error:
        way_out = "name the key that signed it by --trust, or sign it: ./estate model add"
        raise EstateError(error.thing, error.words, way_out) from None
    except NotThere as error:
        way_out = "look at the model's name, the version and --registry"
        raise EstateError(error.thing, error.words, way_out) from None
    except OciError as error:
        way_out = "mend that, and run the same command again"
        if error.status in (401, 403):
            way_out = "log in by docker or podman, whose file is read, as a user who may do this"
        if error.status == 405:
            way_out = "let it delete (distribution: storage.delete.enabled), then run it again"
        raise EstateError(error.thing, error.words, way_out) from None
    except OSError as error:
        words = error.strerror or str(error)
        raise EstateError(
            str(error.filename or "the disk"), words, "mend that, and run the same command again"
        ) from None


def _commit(folder: Path) -> str:
    """The commit of the working tree that the folder lies in."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UsageError(
            "--revision", "is not given", f"Git knows no commit of {folder}: say which it is"
        ) from None
    return done.stdout.strip()


def _plain(stored: Stored) -> dict[str, object]:
    found = stored.version.model_dump(mode="json")
    return {
        "model": found.pop("name"),
        **found,
        "digest": stored.digest,
        "bytes": stored.size,
        "files": {path: layer.digest for path, layer in stored.files.items()},
    }


def _row(row: dict[str, object]) -> tuple[object, ...]:
    if not row["verified"]:
        return row["version"], "not verified", "", str(row["why"]), "", ""
    metrics = row["metrics"]
    assert isinstance(metrics, dict)
    size = row["bytes"]
    assert isinstance(size, int)
    told = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
    return (
        *(row["version"], row["framework"], decimal(size), told),
        *(str(row["revision"])[:8], row["digest"]),
    )


def _tell(stored: Stored, as_json: bool) -> None:
    found = _plain(stored)
    if as_json:
        console.emit_json(found)
        return
    console.table("", ("what", "value"), [(key, _words(value)) for key, value in found.items()])


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_words(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "\n".join(_words(one).replace("\n", ", ") for one in value)
    return str(value)
