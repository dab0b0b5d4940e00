"""The drill's account, of what the pipeline itself has written into a real catalogue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rehearsal.drills import images_reader, lake
from rehearsal.drills.accounting import Account, account
from rehearsal.samples import Sample, expected
from services.pipeline import batch
from services.pipeline.batch import World
from services.pipeline.buckets import Bucket
from services.pipeline.ports import Event
from tests.pipeline.conftest import Memory, Topic, announce


def send(world: World, events: list[Event], device: str) -> None:
    """As another upload of these images, from a device."""
    changed = [
        one.model_copy(update={"upload_id": f"{device}/{one.upload_id}", "device": device})
        for one in events
    ]
    topic = Topic(changed)
    while batch.run(world, topic, 0) is not None:
        pass


def accounted(dsn: str, known: list[Sample], device: str) -> Account:
    with psycopg.connect(dsn, autocommit=True) as session:
        found = lake.found(session, device)
        assert lake.count(session, device) == len(found.receipts)
    return account(known, found)


def test_a_second_run_of_the_same_images_is_all_duplicates_of_the_first(
    world: World, s3: Any, dsn: str, sample_folder: Path
) -> None:
    known, events = announce(s3, sample_folder)
    send(world, events, "first")
    first = accounted(dsn, known, "first")
    assert first.whole, first.wrong
    assert first.found == expected(known) and first.earlier == 0
    send(world, events, "second")
    second = accounted(dsn, known, "second")
    assert second.whole, second.wrong
    good = sum(one.verdict == "good" for one in known)
    assert second.earlier == good == second.found["duplicate"]
    assert second.found["stored"] == 0
    again = accounted(dsn, known, "first")
    assert again == first, "what others send changes nothing"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DELETE FROM receipts WHERE name = (SELECT min(name) FROM receipts)", "is missing"),
        ("DELETE FROM images", "which is not in the catalogue"),
        (
            (
                "INSERT INTO receipts SELECT 'twice/' || source, sha256, name, device, "
                "content_type, length, received_at, recorded_at, state, image, reason, detail "
                "FROM receipts"
            ),
            "has 2 receipts",
        ),
    ],
)
def test_what_the_catalogue_loses_or_has_twice_is_named(
    world: World, s3: Any, dsn: str, sample_folder: Path, damage: str, words: str
) -> None:
    known, events = announce(s3, sample_folder)
    send(world, events[:16], "one")
    assert accounted(dsn, known[:16], "one").whole
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(damage.encode())
    found = accounted(dsn, known[:16], "one")
    assert not found.whole
    assert any(words in line for line in found.wrong.values()), found.wrong


class Near(lake.Lake):
    """The lake without its doors: the test's catalogue, bucket and documents."""

    def __init__(self, dsn: str, s3: Any, memory: Memory) -> None:
        self._dsn, self._images, self._memory = dsn, Bucket(s3, "images"), memory

    def catalogue(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._dsn, autocommit=True)

    @contextlib.contextmanager
    def documents(self) -> Iterator[Any]:  # type: ignore[override]
        yield {"lake": {"images": self}}

    def find(self, query: Mapping[str, Any], _: Mapping[str, int]) -> list[Mapping[str, Any]]:
        """What MongoDB finds for a value, and for `$in`."""
        ((key, value),) = query.items()
        wanted = value["$in"] if isinstance(value, dict) else [value]
        return [one for one in self._memory.documents.values() if one[key] in wanted]


def test_what_the_stores_lack_and_what_they_have_beside_is_named(
    world: World, s3: Any, dsn: str, memory: Memory, sample_folder: Path
) -> None:
    known, events = announce(s3, sample_folder)
    known, events = known[:16], events[:16]
    s3.put_object(Bucket="images", Key="from before", Body=b"")
    reader = Near(dsn, s3, memory)
    before = reader.unnamed()
    assert before == {"from before"}
    send(world, events, "one")
    found = images_reader.everything(reader, "one", before)
    assert len(found.rows) > 4 and (found.elsewhere, found.extra) == ({}, [])
    assert account(known, found).whole

    first, second, third = (row.sha256 for row in found.rows[:3])
    s3.delete_object(Bucket="images", Key=first)
    s3.put_object(Bucket="images", Key=second, Body=b"other")
    memory.documents["0a"] = {**memory.documents[third], "_id": "0a"}
    del memory.documents[third]
    s3.put_object(Bucket="images", Key="stray", Body=b"")
    damaged = images_reader.everything(reader, "one", before)
    assert set(damaged.elsewhere) == {first, second, third}
    assert damaged.extra == ["object stray", "document 0a"]
    names = {row.name for row in damaged.rows[:3]}
    assert set(account(known, damaged).wrong) == {*names, *damaged.extra}
