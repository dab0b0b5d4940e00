"""Whole batches over a real PostgreSQL and S3, killed at every step that leaves a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rehearsal import samples
from services.events import ImageQuarantined, ImageReceived
from services.pipeline import batch, collect
from services.pipeline.account import account
from services.pipeline.batch import World
from services.pipeline.catalogue import VERIFY_DEVICE, Catalogue
from services.pipeline.ports import Event
from services.pipeline.preprocess import refusal
from tests.pipeline.conftest import Memory, Topic, announce, received


class Killed(BaseException):
    """As kill -9: no handler of ours takes it."""


class Trap:
    """Passes every call on; kills before or after the chosen one of those that leave a trace."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def around(self, subject: Any, names: tuple[str, ...]) -> Any:
        trap = self

        class Guarded:
            def __getattr__(self, name: str) -> Any:
                found = getattr(subject, name)
                return trap.guarded(found) if name in names else found

        return Guarded()

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for after in (False, True):
                if after:
                    result = call(*args, **kwargs)
                self.calls += 1
                if self.calls == self.at:
                    raise Killed
            return result

        return wrapped

    def world(self, world: World) -> World:
        return replace(
            world,
            catalogue=self.around(world.catalogue, ("claim", "save")),
            objects=self.around(world.objects, ("put",)),
            documents=self.around(world.documents, ("save",)),
            quarantine=self.around(world.quarantine, ("publish",)),
        )


def finish(world: World, topic: Topic) -> None:
    topic.restart()
    while batch.run(world, topic, 0) is not None or topic.committed < len(topic.events):
        pass


def verdicts(world: World, events: list[Event]) -> dict[str, tuple[str, str | None]]:
    rows = world.catalogue._connection.execute("SELECT name, state, reason FROM receipts")
    return {name: (state, reason) for name, state, reason in rows}


def assert_whole(world: World, events: list[Event], memory: Memory) -> None:
    found = account(events, world.catalogue, world.objects, memory)
    assert found.whole, found
    assert found.received == len(events) == found.stored + found.duplicate + found.quarantined


def test_every_sample_ends_as_it_must(
    world: World, s3: Any, memory: Memory, sample_folder: Path
) -> None:
    known, events = announce(s3, sample_folder)
    finish(world, Topic(events))
    assert samples.differences(known, verdicts(world, events)) == []
    assert world.catalogue.counts() == samples.expected(known)
    assert_whole(world, events, memory)
    bad = {one.name for one in known if one.verdict == "quarantined"}
    assert {event.name for event in memory.told} == bad


def test_the_three_stores_agree(world: World, s3: Any, memory: Memory, sample_folder: Path) -> None:
    import hashlib

    _, events = announce(s3, sample_folder)
    finish(world, Topic(events[:20]))
    rows = world.catalogue.images()
    assert rows
    for row in rows:
        assert hashlib.sha256(world.objects.get(row["key"])).hexdigest() == row["sha256"]
        document = memory.documents[row["sha256"]]
        assert document["embedding"]["vector"] == pytest.approx(row["embedding"], abs=1e-5)
        assert document["embedding"]["model"] == row["model"] == world.embedder.digest
        assert document["statistics"]["sharpness"] == pytest.approx(row["sharpness"], rel=1e-4)


def test_a_second_delivery_changes_nothing(
    world: World, s3: Any, memory: Memory, sample_folder: Path
) -> None:
    _, events = announce(s3, sample_folder)
    finish(world, Topic(events[:30]))
    before = (world.catalogue.receipts(), sorted(world.objects.keys()), len(memory.told))
    finish(world, Topic([*events[:30], *events[:30]]))
    assert (world.catalogue.receipts(), sorted(world.objects.keys()), len(memory.told)) == before


def test_killed_anywhere_nothing_is_lost_or_repeated(
    world: World, s3: Any, memory: Memory, sample_folder: Path
) -> None:
    """Each round is killed one step later than the last, until one comes through."""
    known, events = announce(s3, sample_folder)
    known, events = known[:12], events[:12]
    world = replace(world, limits=world.limits.model_copy(update={"batch": 12}))
    rounds = 0
    while True:
        rounds += 1
        trap, topic = Trap(rounds), Topic(events)
        try:
            finish(trap.world(world), topic)
        except Killed:
            assert topic.committed == 0
        else:
            break
        if rounds % 3 == 0:
            # Every third time somebody finishes what was left, and all is whole; then anew.
            finish(world, Topic(events))
            assert samples.differences(known, verdicts(world, events)) == []
            assert_whole(world, events, memory)
            world.catalogue._connection.execute("TRUNCATE claims, images, receipts")
            memory.documents.clear()
            for key in list(world.objects.keys()):
                s3.delete_object(Bucket="images", Key=key)
    assert rounds > 12
    finish(world, Topic(events))
    assert samples.differences(known, verdicts(world, events)) == []
    assert_whole(world, events, memory)


def test_a_batch_that_could_not_be_announced_is_not_committed(
    world: World, s3: Any, sample_folder: Path
) -> None:
    class Silent:
        def publish(self, events: Any) -> None:
            if events:
                raise TimeoutError("Kafka is away")

    known, events = announce(s3, sample_folder)
    bad = next(i for i, one in enumerate(known) if one.verdict == "quarantined")
    topic = Topic([events[bad]])
    with pytest.raises(TimeoutError):
        batch.run(replace(world, quarantine=Silent()), topic, 0)
    assert topic.committed == 0
    assert world.catalogue.counts()["quarantined"] == 0


def test_what_others_refused_is_recorded_and_not_announced_again(
    world: World, memory: Memory
) -> None:
    event = refusal(received(b"x"), "corrupt", "by the transfer service")
    assert batch.run(world, Topic([event]), 0) == {"quarantined": 1}
    assert world.catalogue.reasons() == {"corrupt": 1}
    assert memory.told == []


def test_an_object_that_is_gone_is_quarantined(world: World, memory: Memory) -> None:
    assert batch.run(world, Topic([received(b"x" * 10)]), 0) == {"quarantined": 1}
    assert "not there" in memory.told[0].detail


def test_a_member_is_a_range_of_its_archive(world: World, s3: Any, sample_folder: Path) -> None:
    good = next(one for one in samples.read(sample_folder) if one.verdict == "good")
    data = (sample_folder / good.name).read_bytes()
    s3.put_object(Bucket="images-incoming", Key="archive", Body=b"h" * 512 + data + b"t" * 99)
    event = received(data, good.content_type, key="archive", offset=512, member=good.name)
    assert batch.run(world, Topic([event]), 0) == {"stored": 1}
    assert world.catalogue.images()[0]["source"] == f"u1/{good.name}"
    assert len(world.catalogue.for_dataset(["bytes > %s"], [0])) == 1
    world.catalogue._connection.execute("UPDATE images SET device = %s", [VERIFY_DEVICE])
    assert world.catalogue.for_dataset() == [], "what checks send belongs to no dataset"


def test_the_account_names_what_is_missing(
    world: World, s3: Any, memory: Memory, sample_folder: Path
) -> None:
    _, events = announce(s3, sample_folder)
    events = events[:12]
    finish(world, Topic(events))
    catalogue: Catalogue = world.catalogue
    one, two, three = (row["sha256"] for row in catalogue.images()[:3])
    lost = next(source for source, (_, image) in catalogue.receipts().items() if image == three)
    s3.delete_object(Bucket="images", Key=one)
    del memory.documents[two]
    catalogue._connection.execute("DELETE FROM receipts WHERE source = %s", (lost,))
    s3.put_object(Bucket="images", Key="stray", Body=b"x")
    found = account(events, catalogue, world.objects, memory)
    assert not found.whole
    assert found.without_object == [one]
    assert found.without_document == [two]
    assert found.without_receipt == [lost]
    assert found.unnamed_objects == ["stray"]


@pytest.mark.parametrize("kind", ["prefix", "folder"])
def test_what_nobody_announced_is_found_once(
    kind: str, world: World, s3: Any, sample_folder: Path, tmp_path: Path
) -> None:
    good = [one for one in samples.read(sample_folder) if one.verdict == "good"][:3]
    for one in good:
        (tmp_path / one.name).write_bytes((sample_folder / one.name).read_bytes())
        s3.put_object(
            Bucket="images-incoming",
            Key=f"in/{one.name}",
            Body=(sample_folder / one.name).read_bytes(),
            ContentType=one.content_type,
        )

    def look() -> dict[str, int] | None:
        found = (
            collect.of_prefix(s3, "images-incoming", "in/")
            if kind == "prefix"
            else collect.of_folder(tmp_path)
        )
        return batch.run(world, collect.Listed(found, world.catalogue.known), 0)

    counted = look()
    assert counted and sum(counted.values()) == 3
    assert look() is None
    assert {row["name"] for row in world.catalogue.images()} <= {one.name for one in good}


def test_a_message_that_is_no_event_is_quarantined() -> None:
    class Message:
        def topic(self) -> str:
            return "images.received"

        def partition(self) -> int:
            return 2

        def offset(self) -> int:
            return 7

        def value(self) -> bytes:
            return b"no json"

    event = collect.read_message(Message())  # type: ignore[arg-type]
    assert isinstance(event, ImageQuarantined)
    assert (event.upload_id, event.reason) == ("kafka:images.received-2@7", "bad-metadata")


def test_an_event_comes_out_as_it_went_in() -> None:
    event = received(b"x")
    assert ImageReceived.from_message(event.to_message()) == event
