"""The demo's message, and the account of what became of every one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, int]


@dataclass(frozen=True)
class Sample:
    """One device's message, as JSON on the wire; `sent_ns` is the wall clock at publishing."""

    run: str
    device: str
    sequence: int
    month: str
    celsius: float
    sent_ns: int

    @classmethod
    def parse(cls, payload: bytes, device: str | None = None) -> Sample:
        """The message in a payload; ValueError says what is wrong with it."""
        value = json.loads(payload)
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise ValueError("not an object with the keys of a sample")
        for name, kind in (("run", str), ("device", str), ("month", str), ("sequence", int)):
            if type(value[name]) is not kind:
                raise ValueError(f"{name}: not {kind.__name__}")
        if device is not None and value["device"] != device:
            raise ValueError(f"device: {value['device']!r} on the topic of {device!r}")
        return cls(**{**value, "celsius": float(value["celsius"])})

    def payload(self) -> bytes:
        """The message as it goes over the wire."""
        return json.dumps(self.__dict__).encode()


def rows(samples: list[Sample]) -> list[tuple[Any, ...]]:
    """A batch as rows, a key once, with the number of its deliveries last.

    One INSERT may not touch the same row twice.
    """
    counted: dict[tuple[str, str, int], list[Any]] = {}
    for one in samples:
        row = counted.setdefault(
            (one.run, one.device, one.sequence),
            [one.run, one.device, one.sequence, one.month, one.celsius, one.sent_ns / 1e9, 0],
        )
        row[-1] += 1
    return [tuple(row) for row in counted.values()]


@dataclass
class Account:
    """What became of every message. `lost` and `altered` name (device, sequence)."""

    stored: int
    duplicates: int
    missing: list[Key] = field(default_factory=list)
    altered: list[Key] = field(default_factory=list)


def account(sent: dict[Key, Sample], stored: dict[Key, tuple[float, int]]) -> Account:
    """Compare what was sent with the table: key -> (celsius, deliveries)."""
    return Account(
        stored=len(stored),
        duplicates=sum(deliveries - 1 for _, deliveries in stored.values()),
        missing=sorted(set(sent) - set(stored)),
        altered=sorted(
            key
            for key, (celsius, _) in stored.items()
            if key not in sent or sent[key].celsius != celsius
        ),
    )
