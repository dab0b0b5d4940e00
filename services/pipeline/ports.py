"""What the stages know of the world: small interfaces, and what goes from stage to stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from services.events import ImageQuarantined, ImageReceived

Event = ImageReceived | ImageQuarantined
State = Literal["stored", "duplicate", "quarantined"]


def source_of(event: Event) -> str:
    """What was received, whatever its bytes: an upload, or a member of one. Never the same twice."""
    return event.upload_id if event.member is None else f"{event.upload_id}/{event.member}"


@dataclass(frozen=True)
class Prepared:
    """An image as it will be stored: `content` is JPEG, upright, of bounded size."""

    event: ImageReceived
    content: bytes = field(repr=False)
    sha256: str
    phash: int
    width: int
    height: int
    original_width: int
    original_height: int


@dataclass(frozen=True)
class Duplicate:
    """A received image that is there already: of the same bytes, or one that looks the same."""

    event: ImageReceived
    of: str
    detail: str


@dataclass(frozen=True)
class Described:
    """A prepared image and what was computed from its pixels."""

    image: Prepared
    embedding: list[float]
    model: str
    statistics: Mapping[str, float]


@dataclass(frozen=True)
class Receipt:
    """What became of something received; `image` is the stored image's digest, if there is one."""

    source: str
    sha256: str
    name: str
    device: str | None
    content_type: str
    length: int
    received_at: datetime
    state: State
    image: str | None = None
    reason: str | None = None
    detail: str = ""


class Arrivals(Protocol):
    """Where received images come from."""

    def poll(self, limit: int, timeout_s: float) -> list[Event]:
        """Return up to `limit` of them, in order; none when nothing came in time."""

    def commit(self) -> None:
        """Never hand out again what `poll` gave: it is stored."""


class Reader(Protocol):
    """The received bytes."""

    def read(self, event: ImageReceived) -> bytes:
        """All bytes of an image. Raises LookupError when the object is not there."""


class Objects(Protocol):
    """A bucket."""

    def put(self, key: str, content: bytes, content_type: str) -> None:
        """Store it; the same key with the same content twice is once."""

    def get(self, key: str) -> bytes:
        """The content. Raises LookupError."""

    def keys(self, prefix: str = "") -> Iterable[str]:
        """The keys of a prefix, in order."""


class Documents(Protocol):
    """The documents of images, by their digests."""

    def save(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Store each under its `_id`, replacing what is there."""

    def missing(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that have no document."""


class Quarantine(Protocol):
    """Who is told of what was no good."""

    def publish(self, events: Sequence[ImageQuarantined]) -> None:
        """Return when all are acknowledged. May be told the same twice."""
