"""Messages as they lie in a backup: nothing is lost on the way, and offsets are counted anew."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.backup import BackupError, folder, topics
from services.backup.folder import Writer
from services.backup.records import Record


def some(chance: random.Random, count: int) -> list[Record]:
    """Messages with everything that Kafka allows: none and empty, any bytes, gaps in offsets."""

    def content() -> bytes | None:
        kind = chance.random()
        if kind < 0.15:
            return None
        return b"" if kind < 0.3 else chance.randbytes(chance.randrange(1, 200))

    offset = chance.randrange(5) if count else 0
    made = []
    for _ in range(count):
        headers = tuple(
            (chance.choice(("a", "a", "é ", "")), content()) for _ in range(chance.randrange(4))
        )
        when = chance.randrange(1, 2**41)
        made.append(Record(offset, when, content(), content(), headers))
        offset += chance.choice((1, 1, 1, 2, 7))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_segments_give_back_what_went_in(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    records = some(chance, chance.choice((0, 1, 2, 99, 300)))
    most, most_bytes = chance.choice(((1, 10**9), (7, 10**9), (10**9, 50), (10**9, 10**9)))
    writer = Writer(folder.begin(tmp_path / "one"))
    names = []
    for segment in topics.cut(records, most, most_bytes):
        assert segment
        names.append(f"kafka/t/0-{segment[0].offset:020d}.jsonl.gz")
        with writer.lines(names[-1]) as write:
            for record in segment:
                write(record.plain())
    assert list(topics.saved(writer.folder, names)) == records
    assert names == sorted(names)
    assert set(writer.files) == set(names)


@pytest.mark.parametrize("seed", range(10))
def test_a_segment_is_one_message_too_long_at_most(seed: int) -> None:
    records = some(random.Random(seed), 200)
    for segment in topics.cut(records, 50, 1000):
        assert len(segment) <= 50
        assert sum(record.length for record in segment[:-1]) < 1000


@pytest.mark.parametrize("seed", range(20))
def test_a_group_goes_on_at_the_same_message(seed: int) -> None:
    """Whatever message a group would have read next, it reads next after a restore."""
    chance = random.Random(seed)
    records = some(chance, 50)
    first = chance.randrange(1000)
    offsets = topics.Offsets([record.offset for record in records])
    end = records[-1].offset + 1
    for committed in range(end + 1):
        new = {("t", 0): (first, offsets)}
        moved = topics.moved({"g": {"t": {"0": committed}}}, new)["g"]["t"]["0"] - first
        due = next((record for record in records if record.offset >= committed), None)
        assert (records[moved] if moved < len(records) else None) == due


@pytest.mark.parametrize("seed", range(10))
def test_whatever_differs_is_found(seed: int) -> None:
    chance = random.Random(seed)
    records = some(chance, 30)
    shifted = [Record(record.offset + 9, *record.content) for record in records]
    assert topics.differences(records, shifted) == []
    at = chance.randrange(30)
    one = records[at]
    changes = {
        "timestamp": Record(one.offset, one.timestamp + 1, one.key, one.value, one.headers),
        "key": Record(one.offset, one.timestamp, b"other", one.value, one.headers),
        "value": Record(one.offset, one.timestamp, one.key, b"other", one.headers),
        "headers": Record(
            one.offset, one.timestamp, one.key, one.value, (*one.headers, ("more", None))
        ),
    }
    for which, changed in changes.items():
        found = topics.differences(records, [*records[:at], changed, *records[at + 1 :]])
        assert found == [f"message {at} has another {which} (at offset {one.offset})"]


def test_nothing_and_empty_are_not_the_same() -> None:
    nothing, empty = Record(0, 1, None, None), Record(0, 1, b"", b"")
    assert topics.differences([nothing], [empty]) == [
        "message 0 has another key, value (at offset 0)"
    ]
    assert Record.of_plain(json.loads(json.dumps(nothing.plain()))) == nothing
    assert Record.of_plain(json.loads(json.dumps(empty.plain()))) == empty


def test_missing_and_surplus_messages_are_named_and_counted() -> None:
    records = [Record(number, 1, None, b"") for number in range(topics.MOST_SHOWN + 5)]
    assert topics.differences(records[:2], records[:1]) == [
        "message 1 is missing (was at offset 1)"
    ]
    assert topics.differences(records[:1], records[:2]) == [
        "message 1 is in no backup (at offset 1)"
    ]
    found = topics.differences(records, [])
    assert len(found) == topics.MOST_SHOWN + 1
    assert found[-1] == "5 more"


def test_two_orders_of_the_same_messages_differ() -> None:
    one, two = Record(0, 1, b"k", b"1"), Record(1, 1, b"k", b"2")
    assert len(topics.differences([one, two], [two, one])) == 2
    digests = set()
    for order in itertools.permutations((one, two)):
        content = topics.Content()
        for record in order:
            content.add(record)
        digests.add(content.digest)
    assert len(digests) == 2


def test_topics_that_lack_are_refused() -> None:
    part: dict[str, Any] = {"topics": {"a": [{}, {}], "b": [{}]}}
    topics.fits(part, {"a": 3, "b": 1, "c": 9})
    with pytest.raises(BackupError, match=r"topic a: has 1 partitions here and 2 in the backup"):
        topics.fits(part, {"a": 1, "b": 1})
    with pytest.raises(BackupError, match=r"topic b: has 0 partitions .* declare it so"):
        topics.fits(part, {"a": 2})
