"""What the bridge decides: order, repetitions, and when which acknowledgement may be given.

Nothing here speaks to anybody: Kafka, the spool's disk and the broker are ports, so that tests can
end the process between any two of their calls.

*Order.* A boot's readings are taken by sequence, without a gap that its device has not declared by
`oldest`: what comes too early is left to be sent again. All that is taken goes to Kafka in the
order in which it was taken. So one number for each boot, the last sequence taken, is the memory of
what came, and `upto` acknowledges all below.

*Direct*: what is taken is given to Kafka, and acknowledged when that has it. *Spooling*: when an
answer is late, what waits is written to the spool, acknowledged when it is on its disk, and given
to Kafka from there, a window at a time. When everything on the disk was given to Kafka, it goes on
directly behind it. What Kafka is given is never taken back, so the order holds through both.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from services.collect import messages
from services.collect.messages import Acknowledgement, DeadLetter, Malformed, Reading, Rejection
from services.collect.spool import Entry, Stream

Token = TypeVar("Token")
Token_contra = TypeVar("Token_contra", contravariant=True)
_RETRY_S = 1.0
"""Before a full spool is tried again."""


class Log(Protocol):
    """Kafka. It keeps the order of what it is given, and calls `Bridge.delivered` for each."""

    def produce(self, entry: Entry) -> None:
        """Take one over, to be tried until it is delivered."""


class Disk(Protocol):
    """The spool (`services.collect.spool`)."""

    @property
    def last(self) -> int:
        """The highest id that was ever kept."""

    def __iter__(self) -> Iterator[Entry]: ...

    def append(self, entries: Sequence[Entry]) -> int:
        """Keep as many as there is room for; how many are on disk when this returns."""

    def read(self, most: int) -> list[Entry]:
        """The next ones, each once."""

    def advance(self, needed: int) -> None:
        """Forget all below this id."""


class Broker(Protocol[Token_contra]):
    """Mosquitto, as the bridge uses it."""

    def acknowledge(self, token: Token_contra) -> None:
        """A message need not come again; in the order in which they came (MQTT 5, 4.6)."""

    def publish(self, device: str, answer: Acknowledgement | Rejection) -> bool:
        """Tell a device; False where that cannot be done now."""


@dataclass(frozen=True)
class Limits:
    """`window`: entries given to Kafka from the spool and not delivered; `patience_s`: how long one
    may wait for Kafka before it is spooled; `streams`: boots remembered.
    """

    window: int = 5000
    patience_s: float = 2.0
    acknowledge_s: float = 0.1
    streams: int = 50_000


@dataclass
class Counts:
    """What happened; whoever makes metrics of it puts an empty one in its place."""

    taken: int = 0
    repeated: int = 0
    early: int = 0
    given_up: int = 0
    delivered: int = 0
    known: int = 0
    """Of the spool, found in Kafka already when the bridge began."""
    answers: int = 0


@dataclass(slots=True)
class _Boot:
    taken: int
    """Nothing up to here is waited for."""
    safe: int
    last: int | None = None
    """The last sequence that was given to Kafka, or is there; None where none is known."""


@dataclass(slots=True)
class _Handle(Generic[Token]):
    """A message of the broker, and how many of its entries are not safe."""

    token: Token
    left: int


class Bridge(Generic[Token]):
    """The one that is active. `caught_up` must be called before Kafka is given anything."""

    def __init__(self, log: Log, disk: Disk, broker: Broker[Token], limits: Limits) -> None:
        self._log, self._disk, self._broker, self._limits = log, disk, broker, limits
        self.counts = Counts()
        self._boots: OrderedDict[Stream, _Boot] = OrderedDict()
        self._ready = False
        self._known: Mapping[Stream, int] = {}
        for entry in disk:
            if not entry.dead:
                at = entry.sequence
                self._boots[entry.stream] = _Boot(at, at, at)
        self._next = disk.last + 1
        # Before Kafka was asked what it has, all goes through the spool.
        self._spooling = True
        self._spooled = disk.last
        """All ids up to here are on the disk, or were delivered."""
        self._given = 0
        """The last id that was read from the disk."""
        self._flying: OrderedDict[int, tuple[Entry, float]] = OrderedDict()
        """Given to Kafka and not delivered, with the time when it was."""
        self._unsaved: list[Entry] = []
        self._handles: deque[_Handle[Token]] = deque()
        self._handle_of: dict[int, _Handle[Token]] = {}
        self._rejections: dict[int, Rejection] = {}
        self._answers: dict[Stream, int | None] = {}
        """Boots whose device is to be told, and what it is asked to send again."""
        self._rejected: deque[tuple[str, Rejection]] = deque()
        self._answered_at = float("-inf")
        self.full = False
        """Whether the spool had no room for what is waiting."""
        self._tried_at = float("-inf")

    # -- what is seen from outside -----------------------------------------------------------------

    @property
    def spooling(self) -> bool:
        """Whether what comes is written to the spool."""
        return self._spooling

    @property
    def ready(self) -> bool:
        """Whether it is known what Kafka has, so that it can be given more."""
        return self._ready

    @property
    def flying(self) -> int:
        """Entries given to Kafka and not delivered."""
        return len(self._flying)

    @property
    def unsafe(self) -> int:
        """Messages of the broker that are not acknowledged to it."""
        return len(self._handles)

    @property
    def boots(self) -> int:
        """Boots remembered."""
        return len(self._boots)

    def waited(self, now: float) -> float:
        """Seconds since the oldest entry was given to Kafka that it has not acknowledged."""
        return now - next(iter(self._flying.values()))[1] if self._flying else 0.0

    # -- events ------------------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, token: Token, now: float, now_ms: int) -> str:
        """A message of the broker: taken, or left; what became of it (for a metric)."""
        parsed = messages.parse(topic, payload)
        handle = _Handle(token, 0)
        self._handles.append(handle)
        if isinstance(parsed, Malformed):
            letter = messages.dead_letter(topic, payload, parsed, now_ms)
            self._bury(parsed.device, letter, handle, now, now_ms)
            return parsed.reason
        stream = Stream(parsed.device, parsed.boot)
        boot = self._boot(stream, parsed.oldest)
        wanted = max(boot.taken + 1, parsed.oldest)
        new = [one for one in parsed.readings if one.sequence >= wanted]
        self.counts.repeated += len(parsed.readings) - len(new)
        result = "taken"
        if not new:
            self._answers.setdefault(stream, None)
            result = "repeated"
        elif new[0].sequence > wanted:
            self.counts.early += len(new)
            self._answers[stream] = wanted
            result = "early"
        else:
            self.counts.given_up += wanted - boot.taken - 1
            self._take(stream, boot, new, handle, now, now_ms)
        self._settle()
        return result

    def delivered(self, id_: int) -> Entry:
        """Kafka's in-sync replicas have the entry."""
        entry, _ = self._flying.pop(id_)
        self.counts.delivered += 1
        if id_ > self._spooled:
            self._safe([entry])
        return entry

    def caught_up(self, known: Mapping[Stream, int]) -> None:
        """The last sequence of each boot in the tail of the topic: what is there is not sent."""
        self._known, self._ready = known, True
        for stream, sequence in known.items():
            boot = self._boots.setdefault(stream, _Boot(sequence, sequence))
            boot.taken, boot.safe = max(boot.taken, sequence), max(boot.safe, sequence)
            boot.last = max(boot.last or 0, sequence)

    def reconnected(self) -> None:
        """The broker sends again what it has no acknowledgement of; former tokens mean nothing."""
        # What is not safe keeps its place: its repetition is acknowledged after it.
        self._handles = deque(one for one in self._handles if one.left)

    def turn(self, now: float) -> None:
        """Do what has become possible, or due; after each round of events."""
        if not self._spooling:
            if self.waited(now) > self._limits.patience_s:
                self._begin_spooling(now)
            else:
                self.full = False
        if self._spooling:
            self._save(now)
            self._feed(now)
        self._forget()
        if now - self._answered_at >= self._limits.acknowledge_s:
            self._answered_at = now
            self.answer()

    def answer(self) -> None:
        """Tell devices what is safe, and which messages are dead."""
        while self._rejected and self._broker.publish(*self._rejected[0]):
            self._rejected.popleft()
            self.counts.answers += 1
        for stream, resend in list(self._answers.items()):
            boot = self._boots.get(stream)
            if boot is not None:
                if resend is not None and resend <= boot.taken:
                    resend = None  # it has come meanwhile
                told = Acknowledgement(
                    schema=1, boot=stream.boot, upto=boot.safe, resend_from=resend
                )
                if not self._broker.publish(stream.device, told):
                    break
                self.counts.answers += 1
            del self._answers[stream]

    # -- taking ------------------------------------------------------------------------------------

    def _boot(self, stream: Stream, oldest: int) -> _Boot:
        boot = self._boots.get(stream)
        if boot is None:
            # Below `oldest` nothing will come: it is safe, given up, or forgotten here.
            boot = self._boots[stream] = _Boot(oldest - 1, oldest - 1)
            self._evict()
        self._boots.move_to_end(stream)
        return boot

    def _evict(self) -> None:
        """Of the boots that nothing waits for, forget the one that was silent longest."""
        while len(self._boots) > self._limits.streams:
            stream, boot = next(iter(self._boots.items()))
            if boot.taken != boot.safe:
                self._boots.move_to_end(stream)
                return
            del self._boots[stream]

    def _take(
        self,
        stream: Stream,
        boot: _Boot,
        readings: Iterable[Reading],
        handle: _Handle[Token],
        now: float,
        now_ms: int,
    ) -> None:
        for reading in readings:
            record = messages.Record(
                schema=1,
                device=stream.device,
                boot=stream.boot,
                sequence=reading.sequence,
                time=reading.time,
                values=reading.values,
                previous=boot.last,
            )
            boot.taken = boot.last = reading.sequence
            self.counts.taken += 1
            entry = Entry(self._next, stream, reading.sequence, now_ms, record.to_bytes())
            self._enter(entry, handle, now)

    def _bury(
        self, device: str, letter: DeadLetter, handle: _Handle[Token], now: float, now_ms: int
    ) -> None:
        self._rejections[self._next] = Rejection(
            schema=1, rejected=letter.sha256, reason=letter.reason, detail=letter.detail
        )
        entry = Entry(self._next, Stream(device, 0), 0, now_ms, letter.to_bytes())
        self._enter(entry, handle, now)

    def _enter(self, entry: Entry, handle: _Handle[Token], now: float) -> None:
        self._next += 1
        handle.left += 1
        self._handle_of[entry.id] = handle
        if self._spooling:
            self._unsaved.append(entry)
        else:
            self._flying[entry.id] = (entry, now)
            self._log.produce(entry)

    def _safe(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.dead:
                rejection = self._rejections.pop(entry.id, None)
                if rejection is not None:
                    self._rejected.append((entry.stream.device, rejection))
            else:
                boot = self._boots.get(entry.stream)
                if boot is not None:
                    boot.safe = max(boot.safe, entry.sequence)
                self._answers.setdefault(entry.stream, None)
            handle = self._handle_of.pop(entry.id, None)
            if handle is not None:
                handle.left -= 1
        self._settle()

    def _settle(self) -> None:
        while self._handles and not self._handles[0].left:
            self._broker.acknowledge(self._handles.popleft().token)

    # -- spooling ----------------------------------------------------------------------------------

    def _begin_spooling(self, now: float) -> None:
        waiting = [entry for id_, (entry, _) in self._flying.items() if id_ > self._spooled]
        kept = self._append(waiting, now) if waiting else 0
        # Kafka has been given these: reading goes on behind them.
        while self._given < self._spooled and (found := self._disk.read(kept)):
            self._given = found[-1].id
        # The others wait for Kafka unacknowledged, and the broker sends no more than it may.
        self._spooling = 0 < len(waiting) == kept

    def _save(self, now: float) -> None:
        if self._unsaved:
            kept = self._append(self._unsaved, now)
            del self._unsaved[:kept]
        else:
            self.full = False

    def _append(self, entries: Sequence[Entry], now: float) -> int:
        if self.full and now - self._tried_at < _RETRY_S:
            return 0
        self._tried_at = now
        kept = self._disk.append(entries)
        self.full = kept < len(entries)
        if kept:
            self._spooled = entries[kept - 1].id
            self._safe(entries[:kept])
        return kept

    def _feed(self, now: float) -> None:
        if not self._ready:
            return
        while (room := self._limits.window - len(self._flying)) > 0:
            entries = self._disk.read(room)
            for entry in entries:
                if not entry.dead and entry.sequence <= self._known.get(entry.stream, 0):
                    self.counts.known += 1
                else:
                    self._flying[entry.id] = (entry, now)
                    self._log.produce(entry)
                self._given = entry.id
            if not entries:
                # All on the disk was given to Kafka: where that answers, what comes goes directly
                # behind it. Where it does not, the window bounds what the producer holds.
                late = self.waited(now) > self._limits.patience_s
                self._spooling = late or bool(self._unsaved)
                if not self._spooling:
                    self._known = {}
                return

    def _forget(self) -> None:
        """The spool keeps what Kafka was not given, and what it has not delivered."""
        needed = next(iter(self._flying), self._given + 1)
        self._disk.advance(min(needed, self._spooled + 1))
