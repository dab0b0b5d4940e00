"""One batch through all stages. Killed anywhere, the next one does the same again, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.events import ImageQuarantined, ImageReceived
from services.pipeline import collect, features, preprocess, store
from services.pipeline.catalogue import Catalogue
from services.pipeline.features import Embedder
from services.pipeline.ports import (
    Arrivals,
    Described,
    Documents,
    Duplicate,
    Event,
    Objects,
    Prepared,
    Quarantine,
    Reader,
)
from services.pipeline.settings import Limits


@dataclass(frozen=True)
class World:
    """Everything that a batch touches."""

    reader: Reader
    catalogue: Catalogue
    objects: Objects
    documents: Documents
    quarantine: Quarantine
    embedder: Embedder
    limits: Limits
    bucket: str = "images"


@dataclass(frozen=True)
class Sorted:
    """A batch after preprocessing."""

    new: list[Prepared]
    duplicates: list[Duplicate]
    quarantined: list[ImageQuarantined]
    told: list[ImageQuarantined]


def prepare(world: World, events: Sequence[Event]) -> Sorted:
    """Decode and normalise, find duplicates, set aside what is no good."""
    received = [event for event in events if isinstance(event, ImageReceived)]
    told = [event for event in events if isinstance(event, ImageQuarantined)]
    prepared, quarantined = preprocess.batch(received, world.reader, world.limits)
    new, duplicates = world.catalogue.claim(prepared, world.limits.near_bits)
    return Sorted(new, duplicates, quarantined, told)


def save(world: World, batch: Sorted, described: Sequence[Described]) -> dict[str, int]:
    """Store everything; returns how many of each state."""
    return store.save(
        described,
        batch.duplicates,
        batch.quarantined,
        told=batch.told,
        objects=world.objects,
        documents=world.documents,
        catalogue=world.catalogue,
        quarantine=world.quarantine,
        bucket=world.bucket,
    )


def run(world: World, arrivals: Arrivals, timeout_s: float = 20) -> dict[str, int] | None:
    """One batch; None when nothing has arrived. Offsets go forward when all of it is stored."""
    events = collect.batch(arrivals, world.catalogue.known, world.limits.batch, timeout_s)
    batch = prepare(world, events)
    counted = save(world, batch, features.batch(batch.new, world.embedder))
    arrivals.commit()
    return counted if events else None
