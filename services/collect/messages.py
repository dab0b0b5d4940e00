"""The contract of collection: what devices send, what they are answered, what Kafka gets.

`python -m services.collect.messages FOLDER` writes the JSON Schemas (`schema/`); a version that was
published never changes, a new one is a new number beside it.

A *boot* is one life of a device's counter. A device that lost its counter draws another number (its
clock in ms, or at random) and counts from 1 again: it need not know the former one. So a reading is
named by (device, boot, sequence), in that order unique.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

READINGS_TOPIC: Final = "sensors.readings"
"""Of Kafka: a `Record` for each reading, key = device."""
DEAD_TOPIC: Final = "sensors.dead"
"""Of Kafka: a `DeadLetter` for each message that is none, key = device of its topic."""
SUBSCRIPTION: Final = "sensors/+/readings"
"""Of all devices."""
LARGEST: Final = 65_536
"""Bytes of a message."""
MOST_READINGS: Final = 100
"""Of one message: a device that catches up sends few messages."""
KEPT: Final = 16_384
"""Bytes of a bad message that its dead letter holds."""
DEVICE: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_SOURCE = re.compile(r"^sensors/([^/]+)/readings$")
_COUNT = 2**53 - 1  # what a double holds exactly: not all JSON libraries of devices have more

Device = Annotated[str, Field(pattern=DEVICE, description="the user that publishes")]
Boot = Annotated[int, Field(ge=0, le=_COUNT, description="one life of the device's counter")]
Sequence = Annotated[int, Field(ge=1, le=_COUNT, description="from 1, one more for each reading")]
Milliseconds = Annotated[int, Field(ge=0, le=253_402_300_799_999, description="since 1970, UTC")]
ValueName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Values = Annotated[
    dict[ValueName, Finite],
    Field(min_length=1, max_length=64, json_schema_extra={"additionalProperties": False}),
]

Reason = Literal["too-large", "not-json", "unknown-schema", "invalid", "wrong-device"]
"""Why a message is dead: more than LARGEST bytes; no JSON; a `schema` that is not known here; not
as its schema says; it names another device than its topic."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)

    def to_bytes(self) -> bytes:
        """UTF-8 JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, value: bytes | str) -> Self:
        """The inverse. Raises pydantic.ValidationError, a ValueError."""
        return cls.model_validate_json(value)


class Reading(_Message):
    """One measurement of one device."""

    sequence: Sequence
    time: Milliseconds
    values: Values


class Readings(_Message):
    """What a device publishes: readings that follow one another, the first one first.

    `oldest` is the lowest sequence that the device may still send: the first that is not
    acknowledged. What it had to give up is below, so the bridge does not wait for it.
    """

    schema_version: Literal[1] = Field(alias="schema")
    device: Device
    boot: Boot
    oldest: Sequence
    readings: Annotated[list[Reading], Field(min_length=1, max_length=MOST_READINGS)]

    @model_validator(mode="after")
    def _in_turn(self) -> Self:
        first = self.readings[0].sequence
        for at, reading in enumerate(self.readings):
            if reading.sequence != first + at:
                raise ValueError(
                    f"readings.{at}.sequence is {reading.sequence}, {first + at} comes next"
                )
        if self.oldest > first:
            raise ValueError(f"oldest is {self.oldest}, above the first sequence {first}")
        return self


class Acknowledgement(_Message):
    """What a device is told, retained: every reading of the boot up to `upto` is safe.

    Safe: in Kafka's in-sync replicas, or on the disk of the bridge's spool. `resend_from` is
    there when something before the last message is lacking: the device goes back to it.
    """

    schema_version: Literal[1] = Field(alias="schema")
    boot: Boot
    upto: Annotated[int, Field(ge=0, le=_COUNT)]
    resend_from: Sequence | None = None


class Rejection(_Message):
    """A message that is dead, by the SHA-256 of its payload: the same bytes are never taken."""

    schema_version: Literal[1] = Field(alias="schema")
    rejected: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256")]
    reason: Reason
    detail: str


class Record(_Message):
    """A reading in Kafka. (`device`, `boot`, `sequence`) tells repetitions.

    `previous` is the sequence that Kafka was given before it of its boot, None where the bridge
    knew of none. What is between them the device gave up.
    """

    schema_version: Literal[1] = Field(alias="schema")
    device: Device
    boot: Boot
    sequence: Sequence
    time: Milliseconds
    values: Values
    previous: Sequence | None = None


class DeadLetter(_Message):
    """A message that nobody can read; `payload` (base64) has its first KEPT of `length` bytes."""

    schema_version: Literal[1] = Field(alias="schema")
    reason: Reason
    detail: str
    topic: str
    received: Milliseconds
    length: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    payload: str


class Malformed(NamedTuple):
    """What is wrong with a message."""

    device: str
    reason: Reason
    detail: str


def source(topic: str) -> str:
    """The device of an MQTT topic; empty for one of another form."""
    found = _SOURCE.match(topic)
    return found[1] if found else ""


def readings(device: str) -> str:
    """The MQTT topic of a device's readings."""
    return f"sensors/{device}/readings"


def acknowledgements(device: str) -> str:
    """The MQTT topic of a device's acknowledgements."""
    return f"sensors/{device}/ack"


def parse(topic: str, payload: bytes) -> Readings | Malformed:
    """A message, or what is wrong with it."""
    device = source(topic)
    if len(payload) > LARGEST:
        return Malformed(device, "too-large", f"{len(payload)} bytes, {LARGEST} are taken")
    try:
        message = Readings.from_bytes(payload)
    except ValidationError as error:
        return Malformed(device, *_why(error))
    if message.device != device:
        return Malformed(device, "wrong-device", f"it names {message.device}, its topic {device}")
    return message


def dead_letter(topic: str, payload: bytes, why: Malformed, received: int) -> DeadLetter:
    """What the dead-letter topic gets; `received` is ms since 1970."""
    return DeadLetter(
        schema=1,
        reason=why.reason,
        detail=why.detail,
        topic=topic,
        received=received,
        length=len(payload),
        sha256=hashlib.sha256(payload).hexdigest(),
        payload=base64.b64encode(payload[:KEPT]).decode(),
    )


def _why(error: ValidationError) -> tuple[Reason, str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return "not-json", found[0]["msg"][:200]
    for one in found:
        if one["loc"] == ("schema",):
            return "unknown-schema", f"schema: {one['msg']}"[:200]
    where = ".".join(map(str, found[0]["loc"]))
    return "invalid", (f"{where}: " * bool(where) + found[0]["msg"])[:200]


PUBLISHED: Final[dict[str, type[BaseModel]]] = {
    "readings-1": Readings,
    "acknowledgement-1": Acknowledgement,
    "rejection-1": Rejection,
    "record-1": Record,
    "dead-letter-1": DeadLetter,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a published message; that sequences follow one another it cannot say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PUBLISHED[name].model_json_schema(by_alias=True),
    }


def main(folder: Path) -> None:
    """Write all schemas."""
    for name in PUBLISHED:
        text = json.dumps(schema(name), indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
