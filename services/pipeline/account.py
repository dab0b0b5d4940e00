"""Whether everything is accounted for: received = stored + duplicate + quarantined, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from services.pipeline.catalogue import Catalogue
from services.pipeline.ports import Documents, Event, Objects, source_of

_ASK = 500


@dataclass
class Account:
    """`received` is what was announced, every source once; the lists name what is wrong."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    unannounced: int = 0
    """Receipts of what no topic has (any more): imported, or older than the topic keeps."""
    without_receipt: list[str] = field(default_factory=list)
    without_row: list[str] = field(default_factory=list)
    without_object: list[str] = field(default_factory=list)
    without_document: list[str] = field(default_factory=list)
    unnamed_objects: list[str] = field(default_factory=list)
    """Objects of the bucket that no image names."""

    @property
    def whole(self) -> bool:
        """Whether nothing is lost, left over or counted twice."""
        wrong = (
            *(self.without_receipt, self.without_row, self.without_object),
            *(self.without_document, self.unnamed_objects),
        )
        told = self.stored + self.duplicate + self.quarantined
        return not any(wrong) and told == self.received + self.unannounced

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "whole": self.whole}


def account(
    announced: Iterable[Event], catalogue: Catalogue, objects: Objects, documents: Documents
) -> Account:
    """Compare what was announced with the receipts, and the receipts with all three stores."""
    received = {source_of(event) for event in announced}
    receipts = catalogue.receipts()
    rows = {str(row["sha256"]): str(row["source"]) for row in catalogue.images()}
    kept = set(objects.keys())
    states = Counter(state for state, _ in receipts.values())
    named = {image for _, image in receipts.values() if image is not None}
    digests = sorted(rows)
    without_document: set[str] = set()
    for start in range(0, len(digests), _ASK):
        without_document |= documents.missing(digests[start : start + _ASK])
    return Account(
        received=len(received),
        stored=states["stored"],
        duplicate=states["duplicate"],
        quarantined=states["quarantined"],
        unannounced=len(set(receipts) - received),
        without_receipt=sorted(received - set(receipts)),
        # A duplicate's image, too: it was stored, or is being stored by its own source.
        without_row=sorted(named - set(rows)),
        without_object=sorted(set(rows) - kept),
        without_document=sorted(without_document),
        unnamed_objects=sorted(kept - set(rows)),
    )
