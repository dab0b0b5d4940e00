from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.collect import messages
from services.collect.kafka import Known
from services.collect.messages import (
    KEPT,
    LARGEST,
    Malformed,
    Readings,
    Record,
    dead_letter,
    parse,
    schema,
)
from services.collect.spool import Stream

SCHEMAS = Path(messages.__file__).parent / "schema"
TOPIC = "sensors/press-1/readings"
GOOD: dict[str, Any] = {
    "schema": 1,
    "device": "press-1",
    "boot": 1_764_500_000_000,
    "oldest": 7,
    "readings": [
        {"sequence": 8, "time": 1_764_500_001_000, "values": {"celsius": 20.5, "rpm": 900}},
        {"sequence": 9, "time": 1_764_500_002_000, "values": {"celsius": 20.75}},
    ],
}


def changed(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def reading(**changes: Any) -> dict[str, Any]:
    return {**GOOD["readings"][0], **changes}


def test_a_good_message_is_read() -> None:
    found = parse(TOPIC, changed())
    assert isinstance(found, Readings)
    assert [one.sequence for one in found.readings] == [8, 9]
    assert found.readings[0].values == {"celsius": 20.5, "rpm": 900.0}
    assert parse(TOPIC, found.to_bytes()) == found


@pytest.mark.parametrize(
    ("payload", "reason", "detail"),
    [
        (b"", "not-json", "EOF"),
        (b"\xff\xfe", "not-json", ""),
        (b"{", "not-json", ""),
        (b"[]", "invalid", ""),
        (b" " * (LARGEST + 1), "too-large", "65537 bytes"),
        (changed(schema=2), "unknown-schema", "schema"),
        (changed(schema="1"), "unknown-schema", "schema"),
        (
            json.dumps({k: v for k, v in GOOD.items() if k != "schema"}).encode(),
            "unknown-schema",
            "",
        ),
        (changed(device="press-2"), "wrong-device", "press-2"),
        (changed(device="Press 1"), "invalid", "device"),
        (changed(boot=-1), "invalid", "boot"),
        (changed(boot=2**53), "invalid", "boot"),
        (changed(boot=True), "invalid", "boot"),
        (changed(oldest=9), "invalid", "oldest is 9"),
        (changed(readings=[]), "invalid", "readings"),
        (changed(readings=[reading(), reading()]), "invalid", "9 comes next"),
        (changed(readings=[reading(), reading(sequence=10)]), "invalid", "9 comes next"),
        (changed(readings=[reading(sequence=0)]), "invalid", "readings.0.sequence"),
        (changed(readings=[reading(sequence=8.5)]), "invalid", "readings.0.sequence"),
        (changed(readings=[reading(values={})]), "invalid", "readings.0.values"),
        (changed(readings=[reading(values={"a b": 1})]), "invalid", "readings.0.values"),
        (changed(readings=[reading(values={"a": "1"})]), "invalid", "readings.0.values.a"),
        (changed(readings=[reading(values={"a": float("nan")})]), "invalid", "readings.0.values.a"),
        (changed().replace(b"20.5", b"1e999"), "invalid", "readings.0.values.celsius"),
        (changed(readings=[reading(extra=1)]), "invalid", "readings.0.extra"),
        (changed(readings=[reading(sequence=8 + at) for at in range(101)]), "invalid", "readings"),
    ],
)
def test_a_bad_message_says_why(payload: bytes, reason: str, detail: str) -> None:
    found = parse(TOPIC, payload)
    assert isinstance(found, Malformed)
    assert (found.device, found.reason) == ("press-1", reason), found
    assert detail in found.detail and len(found.detail) <= 200


def test_a_dead_letter_holds_the_beginning() -> None:
    payload = b"\x00" * (KEPT + 5)
    letter = dead_letter(TOPIC, payload, Malformed("press-1", "not-json", "x"), 5)
    assert base64.b64decode(letter.payload) == payload[:KEPT]
    assert (letter.length, letter.topic) == (KEPT + 5, TOPIC)


@pytest.mark.parametrize("name", sorted(messages.PUBLISHED))
def test_the_schemas_are_those_of_the_code(name: str) -> None:
    committed = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    assert committed == schema(name), "python -m services.collect.messages services/collect/schema"


def test_no_schema_is_there_that_the_code_does_not_know() -> None:
    assert {path.stem for path in SCHEMAS.iterdir()} == set(messages.PUBLISHED)


def test_the_schema_of_values_takes_no_other_names() -> None:
    values = schema("record-1")["properties"]["values"]
    assert values["additionalProperties"] is False
    assert list(values["patternProperties"].values()) == [{"type": "number"}]


def test_topics_of_a_device_are_matched_by_the_subscription() -> None:
    pattern = re.escape(messages.SUBSCRIPTION).replace(r"\+", "[^/]+")
    assert re.fullmatch(pattern, messages.readings("press-1"))
    assert messages.source(messages.readings("press-1")) == "press-1"
    assert not re.fullmatch(pattern, messages.acknowledgements("press-1"))
    assert messages.source("sensors/a/b/readings") == ""


# -- what the topic has already --------------------------------------------------------------------


def record(sequence: int, previous: int | None, boot: int = 1) -> Record:
    return Record(
        schema=1,
        device="d",
        boot=boot,
        sequence=sequence,
        time=0,
        values={"a": 1.0},
        previous=previous,
    )


def test_the_last_record_of_a_boot_tells_all_before_it() -> None:
    known = Known()
    for one in (record(4, 3), record(5, 4), record(1, None, boot=2), record(9, 5), record(4, 3)):
        known.add(one)
    assert known.last == {Stream("d", 1): 9, Stream("d", 2): 1}


def test_what_is_behind_a_gap_does_not_count() -> None:
    known = Known()
    for one in (record(4, 3), record(6, 5), record(7, 6)):
        known.add(one)
    assert known.last == {Stream("d", 1): 4}
    known.add(record(5, 4))
    known.add(record(6, 5))
    assert known.last == {Stream("d", 1): 6}
