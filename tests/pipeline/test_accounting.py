"""The drill's account, of what the pipeline itself has written into a real catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from rehearsal.drills import lake
from rehearsal.drills.accounting import Account, account
from rehearsal.samples import Sample, expected
from services.pipeline import batch
from services.pipeline.batch import World
from services.pipeline.ports import Event
from tests.pipeline.conftest import Topic, announce


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
