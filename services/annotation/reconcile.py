"""Both sides compared: nothing is changed on either."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from services.annotation.fetch import last_fetched
from services.annotation.look import by_image, coco, look
from services.annotation.server import Supervisely
from services.annotation.settings import Settings
from services.pipeline.datasets import Version
from services.pipeline.ports import Objects


@dataclass
class Difference:
    """A sent version here and there. Images by SHA-256, unknown ones by their name there."""

    name: str
    digest: str
    fetched: str | None = None
    """The version that was fetched last."""
    missing_there: list[str] = field(default_factory=list)
    unknown_here: list[str] = field(default_factory=list)
    changed_images: list[str] = field(default_factory=list)
    newly_finished: list[str] = field(default_factory=list)
    changed_annotations: list[str] = field(default_factory=list)
    no_longer_finished: list[str] = field(default_factory=list)
    refused_labels: list[str] = field(default_factory=list)
    """What `fetch` will not take, in words."""

    @property
    def equal(self) -> bool:
        """Whether both sides agree."""
        return not any(getattr(self, name) for name in _LISTS)

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "equal": self.equal}

    def table(self) -> str:
        """Counts, and the first of each, for people."""
        rows = [
            (name.replace("_", " "), str(len(found)), found[0] if found else "")
            for name in _LISTS
            for found in [getattr(self, name)]
        ]
        head = f"{self.name} {self.digest[:16]}: {'equal' if self.equal else 'different'}"
        return "\n".join([head, *(f"  {what:<20} {count:>6}  {one}" for what, count, one in rows)])


_LISTS = [one.name for one in fields(Difference) if one.name not in ("name", "digest", "fetched")]


def reconcile(
    version: Version, store: Objects, server: Supervisely, settings: Settings
) -> Difference:
    """Compare. Raises Trouble when either side cannot be read."""
    seen = look(version, server, settings)
    last = last_fetched(version, store)
    found = Difference(
        version.name,
        version.digest,
        fetched=last[0] if last is not None else None,
        missing_there=seen.missing,
        unknown_here=seen.unknown,
        changed_images=seen.changed,
        refused_labels=seen.problems,
    )
    keys = {str(entry["key"]): str(entry["sha256"]) for entry in version.entries}
    before = by_image(last[1]) if last is not None else {}
    if seen.problems:
        # No COCO can be made, but who is finished is known.
        found.newly_finished = sorted(set(seen.finished) - _digests(before, keys))
        return found
    now = by_image(coco(version, seen, server, settings)) if seen.place is not None else {}
    found.newly_finished = sorted(_digests(set(now) - set(before), keys))
    found.no_longer_finished = sorted(_digests(set(before) - set(now), keys))
    both = set(now) & set(before)
    found.changed_annotations = sorted(
        _digests((name for name in both if now[name] != before[name]), keys)
    )
    return found


def _digests(names: Iterable[str], keys: dict[str, str]) -> set[str]:
    return {keys.get(name, name) for name in names}
