"""Where an image goes: its bytes to S3, its description to documents, its row to the catalogue.

In this order, because the row is what counts: whatever the catalogue names is in the other two. All
of it is keyed by digests, so that a run that ended half-way is simply done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pymongo import MongoClient, ReplaceOne

from services.events import ImageQuarantined
from services.pipeline.catalogue import Catalogue, row_of
from services.pipeline.ports import (
    Described,
    Documents,
    Duplicate,
    Event,
    Objects,
    Quarantine,
    Receipt,
    State,
    source_of,
)
from services.pipeline.preprocess import CONTENT_TYPE


class MongoDocuments:
    """A collection of documents, by nothing but what FerretDB has too."""

    def __init__(self, client: MongoClient[dict[str, Any]], database: str, name: str) -> None:
        self._collection = client[database][name]

    def save(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store each under its `_id`, replacing what is there."""
        if documents:
            self._collection.bulk_write(
                [ReplaceOne({"_id": one["_id"]}, dict(one), upsert=True) for one in documents]
            )

    def missing(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that have no document."""
        there = self._collection.find({"_id": {"$in": list(ids)}}, {"_id": 1})
        return set(ids) - {str(one["_id"]) for one in there}


def save(
    described: Sequence[Described],
    duplicates: Sequence[Duplicate],
    quarantined: Sequence[ImageQuarantined],
    *,
    told: Sequence[ImageQuarantined] = (),
    objects: Objects,
    documents: Documents,
    catalogue: Catalogue,
    quarantine: Quarantine,
    bucket: str,
) -> dict[str, int]:
    """Store a batch; returns how many of it are stored, duplicates and quarantined.

    `quarantined` is what this batch refused, and is announced; `told` is what others refused and
    announced themselves. When this has returned, everything of the batch has its receipt.
    """
    for one in described:
        objects.put(one.image.sha256, one.image.content, CONTENT_TYPE)
    documents.save([document(one, bucket) for one in described])
    quarantine.publish(quarantined)
    receipts = [
        *(receipt(one.image.event, "stored", image=one.image.sha256) for one in described),
        *(receipt(one.event, "duplicate", image=one.of, detail=one.detail) for one in duplicates),
        *(
            receipt(one, "quarantined", reason=one.reason, detail=one.detail)
            for one in (*quarantined, *told)
        ),
    ]
    catalogue.save(described, receipts, bucket)
    return dict(Counter(one.state for one in receipts))


def receipt(
    event: Event,
    state: State,
    *,
    image: str | None = None,
    reason: str | None = None,
    detail: str = "",
) -> Receipt:
    """What became of an event."""
    return Receipt(
        source=source_of(event),
        sha256=event.sha256,
        name=event.name,
        device=event.device,
        content_type=event.content_type,
        length=event.length,
        received_at=event.received_at,
        state=state,
        image=image,
        reason=reason,
        detail=detail,
    )


def document(one: Described, bucket: str) -> dict[str, Any]:
    """The document of an image: what the catalogue has of it, and its history in more words."""
    row = row_of(one, bucket)
    event = one.image.event
    return {
        "_id": row.pop("sha256"),
        **{key: row[key] for key in ("name", "device", "received_at", "content_type", "bytes")},
        "object": {"bucket": row["bucket"], "key": row["key"]},
        "size": {"width": row["width"], "height": row["height"]},
        "original": {
            "source": row["source"],
            "sha256": row["source_sha256"],
            "content_type": row["original_type"],
            "bytes": row["original_bytes"],
            "width": row["original_width"],
            "height": row["original_height"],
            "object": {
                "bucket": event.bucket,
                "key": event.key,
                "offset": event.offset,
                "length": event.length,
            },
        },
        # As text: 64 bits without a sign do not fit into BSON's integers.
        "phash": f"{one.image.phash:016x}",
        "statistics": dict(one.statistics),
        "embedding": {"model": one.model, "vector": one.embedding},
    }
