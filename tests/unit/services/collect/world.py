"""A world for the bridge's core: devices, a broker, Kafka, a disk, and ends at any point.

Every call of a port may end the bridge, before it has its effect or after. What is durable stays:
Kafka's log, the spool's files, the broker's session (until the broker is killed itself).
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from services.collect.core import Bridge, Limits
from services.collect.device import Outbox
from services.collect.kafka import Known
from services.collect.messages import (
    Acknowledgement,
    DeadLetter,
    Readings,
    Record,
    Rejection,
)
from services.collect.spool import Entry, Spool, Stream, _framed

PARTITIONS = 3
RECEIVE_MAXIMUM = 8


class Crash(Exception):
    """The bridge ends here."""


class Token(NamedTuple):
    connection: int
    mid: int


class Chance:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.crash = 0.0

    def __call__(self, share: float) -> bool:
        return self.random.random() < share

    def maybe_crash(self) -> None:
        if self(self.crash):
            raise Crash


class Kafka:
    """Partitions that take what they are given in turn, while Kafka is there."""

    def __init__(self, chance: Chance, zombies: bool) -> None:
        self.chance, self.zombies = chance, zombies
        self.up = True
        self.log: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
        self.dead: list[Entry] = []
        self.pending: list[deque[Entry]] = [deque() for _ in range(PARTITIONS)]
        self.reports: deque[int] = deque()

    def produce(self, entry: Entry) -> None:
        self.chance.maybe_crash()
        self.pending[sum(entry.stream.device.encode()) % PARTITIONS].append(entry)
        self.chance.maybe_crash()

    def work(self) -> None:
        if not self.up:
            return
        for partition in self.chance.random.sample(range(PARTITIONS), PARTITIONS):
            for _ in range(self.chance.random.randrange(6)):
                if self.pending[partition]:
                    entry = self.pending[partition].popleft()
                    (self.dead if entry.dead else self.log[partition]).append(entry)
                    self.reports.append(entry.id)

    def killed_client(self) -> None:
        """What the client had not sent is gone; what was on its way may still arrive."""
        for partition, pending in enumerate(self.pending):
            if self.zombies:
                for entry in list(pending)[: self.chance.random.randrange(4)]:
                    (self.dead if entry.dead else self.log[partition]).append(entry)
            pending.clear()
        self.reports.clear()

    def known(self, tail: int | None) -> dict[Stream, int]:
        found = Known()
        for entries in self.log:
            for entry in entries if tail is None else entries[max(0, len(entries) - tail) :]:
                found.add(Record.from_bytes(entry.value))
        return found.last

    def keys(self) -> set[tuple[Stream, int]]:
        return {(entry.stream, entry.sequence) for one in self.log for entry in one}


class Disk:
    """The spool itself, whose process may end in the middle of a write."""

    def __init__(self, chance: Chance, folder: Path, limit: int) -> None:
        self._chance, self._folder, self._limit = chance, folder, limit
        self.spool = self._open()

    def _open(self) -> Spool:
        ticks = itertools.count()
        return Spool(self._folder, self._limit, segment=4096, clock=lambda: next(ticks) / 3)

    @property
    def last(self) -> int:
        return self.spool.last

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.spool)

    def append(self, entries: Sequence[Entry]) -> int:
        if self._chance(self._chance.crash):
            self._tear(entries)
            raise Crash
        kept = self.spool.append(entries)
        self._chance.maybe_crash()
        return kept

    def read(self, most: int) -> list[Entry]:
        return self.spool.read(most)

    def advance(self, needed: int) -> None:
        self.spool.advance(needed)
        self._chance.maybe_crash()

    def again(self) -> None:
        """Another process opens what a killed one left."""
        self.spool._lock.close()
        self.spool = self._open()

    def _tear(self, entries: Sequence[Entry]) -> None:
        data = b"".join(map(_framed, entries))
        path = (
            self.spool._segments[-1].path
            if self.spool._file is not None
            else self._folder / f"{entries[0].id:020}.segment"
        )
        with path.open("ab") as file:
            file.write(data[: self._chance.random.randrange(len(data))])


class Mosquitto:
    """One durable session for the bridge. `lost` is what a kill took from it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: deque[tuple[str, bytes]] = deque()
        self.sent: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self.connection = 0
        self._mids = itertools.count(1)
        self._again: deque[int] = deque()

    def publish(self, device: str, answer: Acknowledgement | Rejection) -> bool:
        self.world.chance.maybe_crash()
        if self.world.chance(0.1):
            return False
        self.world.answered(device, answer)
        self.world.chance.maybe_crash()
        return True

    def acknowledge(self, token: Token) -> None:
        self.world.chance.maybe_crash()
        if token.connection != self.connection:
            return
        assert token.mid == next(iter(self.sent)), "acknowledged in another order than received"
        self.world.check_taken(token, self.sent.pop(token.mid)[1])

    def connect(self) -> None:
        """What is not acknowledged is sent again, in its order."""
        self.connection += 1
        unacknowledged = list(self.sent.values())
        self.sent.clear()
        self.queue.extendleft(reversed(unacknowledged))

    def kill(self) -> None:
        """Since its last save some messages are gone."""
        self.connect()
        kept = self.world.chance.random.randrange(len(self.queue) + 1)
        for _ in range(len(self.queue) - kept):
            del self.queue[self.world.chance.random.randrange(len(self.queue))]

    def next(self) -> tuple[str, bytes, Token] | None:
        if not self.queue or len(self.sent) >= RECEIVE_MAXIMUM:
            return None
        mid = next(self._mids)
        self.sent[mid] = self.queue.popleft()
        return (*self.sent[mid], Token(self.connection, mid))


class World:
    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        zombies: bool = False,
        tail: int | None = None,
        crash: float = 0.01,
        limit: int = 1 << 20,
        devices: int = 4,
        limits: Limits | None = None,
    ) -> None:
        self.chance = Chance(seed)
        self.crash, self.tail = crash, tail
        self.now = 0.0
        self.kafka = Kafka(self.chance, zombies)
        self.disk = Disk(self.chance, folder, limit)
        self.broker = Mosquitto(self)
        self.limits = limits or Limits(window=20, patience_s=1.0, acknowledge_s=0.1, streams=1000)
        self.outboxes: dict[str, Outbox] = {}
        self.boots = itertools.count(1000)
        self.added: dict[Stream, int] = {}
        self.acknowledged: set[tuple[Stream, int]] = set()
        self.crashes = 0
        self.bad: list[bytes] = []
        self.results: dict[Token, str] = {}
        self.buried: list[str] = []
        for number in range(devices):
            self.reboot(f"d{number}")
        self.bridge = self._begin()

    # -- the bridge's life -------------------------------------------------------------------------

    def _begin(self) -> Bridge[Token]:
        self.known = self.kafka.known(self.tail)
        self.broker.connect()
        return Bridge(self.kafka, self.disk, self.broker, self.limits)

    def kill_bridge(self) -> None:
        self.crashes += 1
        self.kafka.killed_client()
        self.disk.again()
        self.bridge = self._begin()

    def step(self) -> None:
        """One thing that happens."""
        self.now += 0.02
        self.chance.crash = self.crash
        try:
            self._happens(self.chance.random.random())
        except Crash:
            self.kill_bridge()
        finally:
            self.chance.crash = 0.0

    def _happens(self, which: float) -> None:
        if which < 0.3:
            device = self.chance.random.choice(list(self.outboxes))
            self.measure(device, self.chance.random.randrange(1, 4))
        elif which < 0.7:
            for _ in range(self.chance.random.randrange(1, 5)):
                if (message := self.broker.next()) is not None:
                    self.take(message)
            self.bridge.turn(self.now)
        elif which < 0.9:
            if not self.bridge.ready and self.chance(0.3):
                self.bridge.caught_up(self.known)
            self.kafka.work()
            while self.kafka.reports:
                self.bridge.delivered(self.kafka.reports.popleft())
            self.bridge.turn(self.now)
        elif which < 0.91:
            self.now += self.chance.random.random() * 8
        elif which < 0.95:
            self.kafka.up = self.chance(0.7)
        elif which < 0.96:
            self.broker.kill()
            self.bridge.reconnected()
        elif which < 0.97:
            self.broker.connect()
            self.bridge.reconnected()
        elif which < 0.975:
            self.reboot(self.chance.random.choice(list(self.outboxes)))
        elif which < 0.985:
            self.mistake()

    def settle(self, rounds: int = 4000) -> None:
        """Nothing fails any more, until nothing is left to be acknowledged."""
        self.kafka.up, self.chance.crash = True, 0.0
        for _ in range(rounds):
            self.now += 0.2
            for device in self.outboxes:
                self.send(device)
            while (message := self.broker.next()) is not None:
                self.take(message)
            if not self.bridge.ready:
                self.bridge.caught_up(self.known)
            self.kafka.work()
            while self.kafka.reports:
                self.bridge.delivered(self.kafka.reports.popleft())
            self.bridge.turn(self.now)
            if not (
                any(one.held for one in self.outboxes.values())
                or self.broker.queue
                or self.broker.sent
                or self.bridge.flying
                or self.bridge.spooling
            ):
                return
        raise AssertionError("what is left is never acknowledged")

    # -- devices -----------------------------------------------------------------------------------

    def reboot(self, device: str) -> None:
        """With an empty memory: it counts from 1 again, in another boot."""
        boot = next(self.boots)
        self.outboxes[device] = Outbox(device, boot, keep=15, window=10, batch=3)
        self.added[Stream(device, boot)] = 0

    def stream(self, device: str) -> Stream:
        return Stream(device, self.outboxes[device]._boot)

    def measure(self, device: str, count: int) -> None:
        for _ in range(count):
            sequence = self.outboxes[device].add(int(self.now * 1000), {"t": self.now})
            self.added[self.stream(device)] = sequence
        self.send(device)

    def send(self, device: str) -> None:
        for payload in self.outboxes[device].due(self.now):
            self.broker.queue.append((f"sensors/{device}/readings", payload))

    def mistake(self) -> None:
        device = self.chance.random.choice(list(self.outboxes))
        payload = self.chance.random.choice([b"{", b"[1]", b'{"schema":9}', b"\xff"])
        self.bad.append(payload)
        self.broker.queue.append((f"sensors/{device}/readings", payload))

    def answered(self, device: str, answer: Acknowledgement | Rejection) -> None:
        outbox = self.outboxes[device]
        if isinstance(answer, Rejection):
            letters = [DeadLetter.from_bytes(entry.value) for entry in self._dead()]
            assert answer.rejected in {letter.sha256 for letter in letters}
            self.buried.append(answer.rejected)
        elif answer.boot == outbox._boot:
            stream = self.stream(device)
            assert answer.upto <= self.added[stream]
            for sequence in outbox._held:
                if sequence <= answer.upto:
                    self.acknowledged.add((stream, sequence))
        if self.chance(0.9):  # or it is lost on the way
            outbox.answered(answer.to_bytes(), self.now)
        self.check_acknowledged()

    # -- what must hold ----------------------------------------------------------------------------

    def _dead(self) -> list[Entry]:
        return [*self.kafka.dead, *(entry for entry in self.disk if entry.dead)]

    def durable(self) -> set[tuple[Stream, int]]:
        on_disk = {(entry.stream, entry.sequence) for entry in self.disk if not entry.dead}
        return self.kafka.keys() | on_disk

    def check_acknowledged(self) -> None:
        assert self.acknowledged <= self.durable(), "acknowledged, and neither in Kafka nor on disk"

    def take(self, message: tuple[str, bytes, Token]) -> None:
        """The bridge gets a message."""
        token = message[2]
        self.results[token] = self.bridge.message(*message, self.now, int(self.now * 1000))

    def check_taken(self, token: Token, payload: bytes) -> None:
        """The broker may forget a message: what was taken of it is safe, and what was not is with
        its device still.
        """
        if payload in self.bad:
            return
        message = Readings.from_bytes(payload)
        stream = Stream(message.device, message.boot)
        outbox = self.outboxes[message.device]
        durable = self.durable()
        for reading in message.readings:
            key = (stream, reading.sequence)
            boot = self.bridge._boots.get(stream)
            # One that came too early may be taken from another message meanwhile.
            early = self.results.get(token) == "early"
            taken = boot is not None and reading.sequence <= boot.taken and not early
            held = outbox._boot == message.boot and reading.sequence in outbox._held and not taken
            gone = outbox._boot != message.boot or reading.sequence < outbox.oldest
            assert key in durable or held or gone, key

    def check_order(self) -> None:
        """First deliveries of each boot rise."""
        for entries in self.kafka.log:
            seen: dict[Stream, set[int]] = {}
            for entry in entries:
                before = seen.setdefault(entry.stream, set())
                if entry.sequence not in before:
                    assert not before or entry.sequence > max(before), entry
                before.add(entry.sequence)

    def repetitions(self) -> int:
        return sum(map(len, self.kafka.log)) - len(self.kafka.keys())
