from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from rehearsal.drills.accounting import account, kind
from rehearsal.drills.lake import Found, Receipt, Row
from rehearsal.samples import Sample


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def good(number: int, what: str, group: int) -> Sample:
    name = f"{number:05d}-{what}.jpg"
    return Sample(name, digest(name), 10, "image/jpeg", "good", group=group)


def bad(number: int, reason: str) -> Sample:
    name = f"{number:05d}-{reason}.jpg"
    return Sample(name, digest(name), 10, "image/jpeg", "quarantined", reason=reason)


SAMPLES = [
    good(0, "new", 0),
    good(1, "turned", 1),
    good(2, "same", 0),
    good(3, "alike", 1),
    bad(4, "empty"),
    bad(5, "too-large"),
]
OLD = Row(digest("stored before"), "upload-before", "old.jpg")


def receipt(number: int, state: str, image: str | None = None) -> Receipt:
    one = SAMPLES[number]
    return Receipt(one.name, f"upload/{one.name}", one.sha256, state, one.reason, image)


def whole() -> Found:
    """All of it as it must be: the first of each group is stored."""
    first, second = digest("stored first"), digest("stored second")
    rows = [
        Row(first, f"upload/{SAMPLES[0].name}", SAMPLES[0].name),
        Row(second, f"upload/{SAMPLES[1].name}", SAMPLES[1].name),
    ]
    receipts = [
        receipt(0, "stored", first),
        receipt(1, "stored", second),
        receipt(2, "duplicate", first),
        receipt(3, "duplicate", second),
        receipt(4, "quarantined"),
        receipt(5, "quarantined"),
    ]
    return Found(receipts, rows, list(rows))


def test_what_is_as_it_must_be_is_whole() -> None:
    found = account(SAMPLES, whole())
    assert found.whole and found.wrong == {} and found.earlier == 0
    assert found.found == found.expected == {"stored": 2, "duplicate": 2, "quarantined": 2}
    assert found.kinds["alike"] == {"duplicate": 1}
    assert found.kinds["too-large"] == {"quarantined": 1}
    assert found.reasons == {"empty": 1, "too-large": 1}


def test_it_goes_through_json_unchanged() -> None:
    assert Found.of(whole().json_object()) == whole()


def test_where_all_were_there_before_all_are_duplicates_of_that() -> None:
    there = replace(whole(), rows=[], named=[OLD])
    there.receipts[:4] = [receipt(number, "duplicate", OLD.sha256) for number in range(4)]
    found = account(SAMPLES, there)
    assert found.whole, found.wrong
    assert found.found == {"stored": 0, "duplicate": 4, "quarantined": 2} == found.expected
    assert found.earlier == 4


def test_one_of_a_group_may_be_stored_where_another_was_there_before() -> None:
    there = whole()
    there.named.append(OLD)
    there.receipts[2] = receipt(2, "duplicate", OLD.sha256)
    found = account(SAMPLES, there)
    assert found.whole and found.earlier == 1


def damaged(what: str) -> Found:
    there = whole()
    first, second = there.rows
    match what:
        case "missing":
            del there.receipts[2]
        case "twice":
            there.receipts.append(replace(there.receipts[4], source="upload-again"))
        case "extra":
            there.receipts.append(replace(there.receipts[0], name="stranger.jpg", source="s"))
        case "stored twice":
            third = Row(digest("third"), there.receipts[2].source, SAMPLES[2].name)
            there.receipts[2] = replace(receipt(2, "stored"), image=third.sha256)
            there.rows.append(third)
            there.named.append(third)
        case "no row":
            there.rows.remove(second)
        case "row without receipt":
            there.rows.append(Row(digest("other"), "upload-lost", "lost.jpg"))
        case "of what is not there":
            there.receipts[2] = replace(there.receipts[2], image=digest("nothing"))
        case "of another image":
            there.receipts[2] = replace(there.receipts[2], image=second.sha256)
        case "no reason":
            there.receipts[4] = replace(there.receipts[4], reason="corrupt")
        case "bad one stored":
            there.receipts[5] = replace(receipt(5, "stored"), reason=None, image=first.sha256)
        case "good one quarantined":
            there.receipts[3] = replace(receipt(3, "quarantined"), reason="corrupt")
        case "other bytes":
            there.receipts[4] = replace(there.receipts[4], sha256=digest("others"))
        case "object missing":
            there.elsewhere[first.sha256] = "S3: no such key"
        case "object left over":
            there.extra.append("object 0a0b")
    return there


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        ("missing", SAMPLES[2].name, "is missing: it has no receipt"),
        ("twice", SAMPLES[4].name, "has 2 receipts: of upload/00004-empty.jpg, upload-again"),
        ("extra", "stranger.jpg", "nobody sent it"),
        ("stored twice", SAMPLES[0].name, "2 of group 0 are stored"),
        ("no row", SAMPLES[1].name, "the catalogue has nothing of it"),
        ("row without receipt", "lost.jpg", "is in the catalogue, with no receipt"),
        ("of what is not there", SAMPLES[2].name, "which is not in the catalogue"),
        ("of another image", SAMPLES[2].name, "duplicate of 00001-turned.jpg, which is another"),
        ("no reason", SAMPLES[4].name, r"is quarantined \(corrupt\), not quarantined \(empty\)"),
        ("bad one stored", SAMPLES[5].name, r"is stored, not quarantined \(too-large\)"),
        ("good one quarantined", SAMPLES[3].name, r"is quarantined \(corrupt\), not stored or dup"),
        ("other bytes", SAMPLES[4].name, "was received with other bytes"),
        ("object missing", SAMPLES[0].name, "S3: no such key"),
        ("object left over", "object 0a0b", "is left over"),
    ],
)
def test_whatever_is_wrong_is_named(what: str, name: str, words: str) -> None:
    found = account(SAMPLES, damaged(what))
    assert not found.whole
    assert re.search(words, found.wrong[name]), found.wrong


def test_what_is_missing_and_what_is_twice_is_counted_so() -> None:
    assert account(SAMPLES, damaged("missing")).kinds["same"] == {"missing": 1}
    assert account(SAMPLES, damaged("twice")).kinds["empty"] == {"twice": 1}
    assert account(SAMPLES, damaged("missing")).found["duplicate"] == 1


def test_a_kind_is_what_the_name_says() -> None:
    assert [kind(one) for one in SAMPLES[3:]] == ["alike", "empty", "too-large"]
