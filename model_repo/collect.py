"""Which versions in a registry nothing refers to any more, and their deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_repo import declared, history
from model_repo.declared import Served
from model_repo.oci import NotThere
from model_repo.repository import Repository, place

Uses = Mapping[str, Mapping[Served, str]]
"""Model -> version that runs somewhere -> who says so."""


@dataclass(frozen=True)
class Version:
    """A version in the registry. `kept` says why it stays; empty: it goes."""

    model: str
    number: int
    digest: str
    kept: str


@dataclass(frozen=True)
class Plan:
    """All versions of the models, and signatures of what is gone: model -> tag -> digest."""

    versions: list[Version]
    orphans: dict[str, dict[str, str]]

    @property
    def going(self) -> list[Version]:
        """What nothing refers to."""
        return [one for one in self.versions if not one.kept]


def plan(
    repository: Repository, folder: Path, only: Sequence[str], keep: int, uses: Uses | None = None
) -> Plan:
    """What would be deleted of the models, all or `only` some. Raises OciError and EstateError.

    Kept is what a file declares now, what it declared in its last `keep` commits, the last
    `keep` numbers, and what `uses` has, whatever the files say.
    """
    versions: list[Version] = []
    orphans: dict[str, dict[str, str]] = {}
    for name, model in declared.models(folder).items():
        if only and name not in only:
            continue
        past = history.recent(folder / name / declared.FILE, keep)
        # What is written now comes last, and so gives the reason.
        reasons = [(f"declared in {one.commit[:8]}", one.declared) for one in reversed(past)]
        reasons.append(("declared", model.places()))
        try:
            numbers = repository.numbers(name)
        except NotThere:
            continue
        used = (uses or {}).get(name, {})
        versions += _judged(repository, name, numbers, reasons, keep, used)
        if found := repository.orphans(name):
            orphans[name] = found
    return Plan(versions, orphans)


def delete(repository: Repository, found: Plan) -> None:
    """Delete what the plan says. What is gone already is no error: two may do this at once."""
    for one in found.going:
        try:
            repository.remove(one.model, one.number, one.digest)
        except NotThere:
            continue
    for model, tags in found.orphans.items():
        for digest in tags.values():
            try:
                repository.registry.delete_manifest(place(model), digest)
            except NotThere:
                continue


def _judged(
    repository: Repository,
    name: str,
    numbers: Sequence[int],
    reasons: Sequence[tuple[str, dict[declared.Place, Served]]],
    keep: int,
    used: Mapping[Served, str],
) -> list[Version]:
    by_number: dict[int, str] = dict.fromkeys(numbers[-keep:], f"one of the last {keep}")
    by_digest: dict[str, str] = {}
    for why, places in reasons:
        for where, served in places.items():
            by_number[served.version] = f"{why} for {where}"
            if served.digest is not None:
                by_digest[served.digest] = f"{why} for {where}"
    for served, why in used.items():
        by_number[served.version] = why
        if served.digest is not None:
            by_digest[served.digest] = why
    digests = {
        number: digest
        for number in numbers
        if (digest := repository.registry.digest(place(name), str(number))) is not None
    }
    # Deleted is by digest, with every tag that leads there: a number that was moved to a version
    # that is kept must not take it along.
    for number, digest in digests.items():
        if number in by_number:
            by_digest.setdefault(digest, f"is also version {number}")
    return [
        Version(name, number, digest, by_number.get(number) or by_digest.get(digest, ""))
        for number, digest in digests.items()
    ]
