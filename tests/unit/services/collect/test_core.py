"""The bridge's promises, under ends at any point and everything away at any time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.collect.core import Bridge, Limits
from services.collect.messages import Acknowledgement, Reading, Readings, Record, Rejection
from services.collect.spool import Entry, Spool, Stream
from tests.unit.services.collect.world import World

STEPS = 400


@pytest.fixture(autouse=True)
def no_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes end here, and no power is cut: what was written is there."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


def through(world: World) -> World:
    for _ in range(STEPS):
        world.step()
    world.settle()
    world.check_acknowledged()
    world.check_order()
    # What no device had to give up is in Kafka, once at least.
    keys = world.kafka.keys()
    assert world.acknowledged <= keys
    for device, outbox in world.outboxes.items():
        assert not outbox.held
        if not outbox.given_up:
            stream = world.stream(device)
            wanted = {(stream, at) for at in range(1, world.added[stream] + 1)}
            assert wanted <= keys
    return world


@pytest.mark.parametrize("seed", range(40))
def test_what_is_acknowledged_is_safe_in_order_and_once(seed: int, tmp_path: Path) -> None:
    world = through(World(seed, tmp_path))
    assert not world.repetitions()


@pytest.mark.parametrize("seed", range(20))
def test_a_dead_clients_last_requests_cost_repetitions_and_nothing_else(
    seed: int, tmp_path: Path
) -> None:
    through(World(1000 + seed, tmp_path, zombies=True))


@pytest.mark.parametrize("seed", range(20))
def test_a_short_tail_costs_repetitions_and_nothing_else(seed: int, tmp_path: Path) -> None:
    through(World(2000 + seed, tmp_path, tail=5, crash=0.02))


@pytest.mark.parametrize("seed", range(20))
def test_a_full_spool_drops_nothing(seed: int, tmp_path: Path) -> None:
    world = World(3000 + seed, tmp_path, limit=6000)
    world.kafka.up = False
    assert not through(world).repetitions()


@pytest.mark.parametrize("seed", range(20))
def test_forgotten_boots_cost_repetitions_and_nothing_else(seed: int, tmp_path: Path) -> None:
    limits = Limits(window=20, patience_s=1.0, acknowledge_s=0.1, streams=3)
    through(World(4000 + seed, tmp_path, devices=6, limits=limits))


def test_the_world_tries_what_it_says(tmp_path: Path) -> None:
    """Each of the cases above does happen."""
    cases = ("crashes", "spooled", "direct", "early", "repeated", "given up", "rejected", "known")
    found = dict.fromkeys(cases, 0)
    for seed in range(20):
        folder = tmp_path / str(seed)
        world = World(seed, folder)
        for _ in range(STEPS):
            world.step()
            found["spooled"] += world.bridge.spooling
            found["direct"] += world.bridge.flying > 0 and not world.bridge.spooling
            found["known"] += world.bridge.counts.known > 0
            found["early"] += world.bridge.counts.early > 0
            found["repeated"] += world.bridge.counts.repeated > 0
        found["crashes"] += world.crashes
        found["given up"] += sum(one.given_up for one in world.outboxes.values())
        found["rejected"] += len(world.buried)
    assert min(found.values()) > 20, found


# -- one by one ------------------------------------------------------------------------------------


class Ports:
    """Kafka and a broker that only note what they are told."""

    def __init__(self) -> None:
        self.produced: list[Entry] = []
        self.acknowledged: list[int] = []
        self.told: list[tuple[str, Acknowledgement | Rejection]] = []
        self.connected = True

    def produce(self, entry: Entry) -> None:
        self.produced.append(entry)

    def acknowledge(self, token: int) -> None:
        self.acknowledged.append(token)

    def publish(self, device: str, answer: Acknowledgement | Rejection) -> bool:
        if self.connected:
            self.told.append((device, answer))
        return self.connected


def payload(first: int, last: int, *, oldest: int = 1, boot: int = 7, device: str = "d") -> bytes:
    readings = [Reading(sequence=at, time=at, values={"t": 1.5}) for at in range(first, last + 1)]
    return Readings(schema=1, device=device, boot=boot, oldest=oldest, readings=readings).to_bytes()


class Side:
    def __init__(self, folder: Path, *, ready: bool = True, limit: int = 1 << 20) -> None:
        self.ports = Ports()
        self.spool = Spool(folder, limit)
        self.bridge: Bridge[int] = Bridge(self.ports, self.spool, self.ports, Limits())
        self.now = 0.0
        self.token = 0
        if ready:
            self.bridge.caught_up({})
            self.bridge.turn(self.now)

    def send(self, body: bytes, device: str = "d") -> str:
        self.token += 1
        topic = f"sensors/{device}/readings"
        return self.bridge.message(topic, body, self.token, self.now, 5)

    def deliver(self) -> None:
        for id_ in list(self.bridge._flying):
            self.bridge.delivered(id_)

    def turn(self, seconds: float = 0.2) -> None:
        self.now += seconds
        self.bridge.turn(self.now)

    def spooling(self) -> bool:
        return self.bridge.spooling

    def full(self) -> bool:
        return self.bridge.full

    def sequences(self) -> list[int]:
        return [entry.sequence for entry in self.ports.produced]


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def test_nothing_is_acknowledged_before_kafka_has_it(side: Side) -> None:
    assert side.send(payload(1, 3)) == "taken"
    side.turn()
    assert (side.sequences(), side.ports.acknowledged, side.ports.told) == ([1, 2, 3], [], [])
    first = next(iter(side.bridge._flying))
    side.bridge.delivered(first)
    side.turn()
    assert side.ports.acknowledged == []
    assert side.ports.told == [("d", Acknowledgement(schema=1, boot=7, upto=1))]
    side.deliver()
    side.turn()
    assert side.ports.acknowledged == [1]
    assert side.ports.told[-1] == ("d", Acknowledgement(schema=1, boot=7, upto=3))


def test_a_repetition_is_not_sent_again_and_is_acknowledged_after_the_first(side: Side) -> None:
    side.send(payload(1, 1))
    assert side.send(payload(1, 1)) == "repeated"
    assert side.send(payload(1, 2)) == "taken"
    assert (side.sequences(), side.ports.acknowledged) == ([1, 2], [])
    side.deliver()
    assert side.ports.acknowledged == [1, 2, 3]


def test_what_comes_too_early_is_left_and_asked_for(side: Side) -> None:
    side.send(payload(1, 1))
    side.deliver()
    assert side.send(payload(3, 3)) == "early"
    side.turn()
    told = Acknowledgement(schema=1, boot=7, upto=1, resend_from=2)
    assert side.ports.told[-1] == ("d", told)
    assert side.ports.acknowledged == [1, 2] and side.sequences() == [1]
    side.send(payload(2, 3))
    assert side.sequences() == [1, 2, 3]


def test_what_a_device_gave_up_is_not_waited_for(side: Side) -> None:
    side.send(payload(1, 1))
    assert side.send(payload(9, 9, oldest=9)) == "taken"
    records = [Record.from_bytes(entry.value) for entry in side.ports.produced]
    assert [(one.sequence, one.previous) for one in records] == [(1, None), (9, 1)]
    assert side.bridge.counts.given_up == 7


def test_a_device_that_lost_its_counter_begins_anew(side: Side) -> None:
    side.send(payload(1, 5))
    assert side.send(payload(1, 2, boot=8)) == "taken"
    assert side.sequences() == [1, 2, 3, 4, 5, 1, 2]


def test_what_waits_too_long_is_safe_on_the_disk(side: Side, tmp_path: Path) -> None:
    side.send(payload(1, 2))
    side.turn(2.5)
    assert side.spooling() and side.ports.acknowledged == [1]
    assert side.ports.told[-1][1] == Acknowledgement(schema=1, boot=7, upto=2)
    side.send(payload(3, 3))
    side.turn()
    assert side.ports.acknowledged == [1, 2]
    # Each is given to Kafka once, and when it answers, the spool is empty.
    assert side.sequences() == [1, 2, 3] and side.spooling()
    side.deliver()
    side.turn()
    assert not side.spooling() and not list(side.spool)


def test_what_kafka_is_given_while_it_is_away_is_bounded(tmp_path: Path) -> None:
    side = Side(tmp_path)
    side.bridge._limits = Limits(window=10)
    side.send(payload(1, 3))
    side.turn(2.5)
    for first in range(4, 100):
        side.send(payload(first, first))
        side.turn()
    assert (len(side.sequences()), len(side.ports.acknowledged)) == (10, 97)
    for _ in range(12):
        side.deliver()
        side.turn()
    assert side.sequences() == list(range(1, 100)) and not side.spooling()
    side.send(payload(100, 100))
    assert side.sequences()[-1] == 100


def test_what_is_spooled_is_known_after_an_end(tmp_path: Path) -> None:
    side = Side(tmp_path, ready=False)
    side.send(payload(1, 4))
    side.turn()
    assert side.ports.acknowledged == [1] and not side.ports.produced
    side.spool.close()
    again = Side(tmp_path, ready=False)
    assert again.send(payload(1, 4)) == "repeated"
    # Kafka had the first two when the end came.
    again.bridge.caught_up({Stream("d", 7): 2})
    again.turn()
    assert again.sequences() == [3, 4] and again.bridge.counts.known == 2


def test_a_full_spool_acknowledges_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    side = Side(tmp_path, ready=False, limit=1000)
    side.send(payload(1, 4))
    side.turn()
    side.send(payload(5, 20))
    side.turn()
    assert side.full() and side.ports.acknowledged == [1]
    side.bridge.caught_up({})
    for _ in range(20):
        side.turn()
        side.deliver()
    assert not side.full() and not side.spooling()
    assert side.sequences() == list(range(1, 21)) and side.ports.acknowledged == [1, 2]


def test_a_dead_letter_is_told_by_its_digest(side: Side) -> None:
    assert side.send(payload(1, 1, device="other")) == "wrong-device"
    side.turn()
    assert side.ports.told == [] and side.ports.acknowledged == []
    side.deliver()
    side.turn()
    ((device, told),) = side.ports.told
    assert device == "d" and isinstance(told, Rejection) and told.reason == "wrong-device"
    assert side.ports.acknowledged == [1]


def test_what_cannot_be_told_is_told_later(side: Side) -> None:
    side.ports.connected = False
    side.send(payload(1, 1))
    side.send(b"{")
    side.deliver()
    side.turn()
    side.ports.connected = True
    side.turn()
    assert len(side.ports.told) == 2


def test_a_silent_boot_is_forgotten_and_one_that_waits_is_not(side: Side) -> None:
    side.bridge._limits = Limits(streams=2)
    side.send(payload(1, 1, device="a"), "a")
    side.deliver()
    side.send(payload(1, 1, device="b"), "b")  # and Kafka does not answer
    for device in ("c", "e"):
        side.send(payload(1, 1, device=device), device)
    assert side.bridge.boots == 3, "all but `a` wait"
    assert side.send(payload(1, 1, device="b"), "b") == "repeated"
    assert side.send(payload(1, 1, device="a"), "a") == "taken"
    side.deliver()
    for device in ("f", "g", "h"):
        side.send(payload(1, 1, device=device), device)
        side.deliver()
    assert side.bridge.boots == 2


def test_a_repetition_on_a_new_connection_waits_for_the_first(side: Side) -> None:
    side.send(payload(1, 1))
    side.bridge.reconnected()
    assert side.send(payload(1, 1)) == "repeated"
    assert side.ports.acknowledged == []
    side.deliver()
    assert side.ports.acknowledged == [1, 2]
