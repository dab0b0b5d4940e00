"""A message of Kafka as one line of JSON: offset, time, key, value, headers, nothing left out."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One message of a partition; `timestamp` in ms since 1970, None and b"" are not the same."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def content(self) -> tuple[Any, ...]:
        """What must be the same after a restore: all but the offset."""
        return self.timestamp, self.key, self.value, self.headers

    @property
    def length(self) -> int:
        """Bytes of key, value and headers."""
        parts: Iterable[bytes | None] = (self.key, self.value, *(one for _, one in self.headers))
        return sum(len(part) for part in parts if part is not None)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "o": self.offset,
            "t": self.timestamp,
            "k": _text(self.key),
            "v": _text(self.value),
            "h": [[name, _text(value)] for name, value in self.headers],
        }

    @classmethod
    def of_plain(cls, value: dict[str, Any]) -> Record:
        """The inverse of `plain`."""
        return cls(
            offset=int(value["o"]),
            timestamp=int(value["t"]),
            key=_bytes(value["k"]),
            value=_bytes(value["v"]),
            headers=tuple((str(name), _bytes(one)) for name, one in value["h"]),
        )

    @classmethod
    def of_message(cls, message: Any) -> Record:
        """Of what confluent_kafka's consumer returns."""
        return cls(
            offset=message.offset(),
            timestamp=message.timestamp()[1],
            key=message.key(),
            value=message.value(),
            headers=tuple(message.headers() or ()),
        )


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value, validate=True)
