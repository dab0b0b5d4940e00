from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import botocore.session
import pytest
from moto import mock_aws

from services.events import ImageReceived
from services.transfer.publish import Event, NotPublished
from services.transfer.store import Store, new_id
from services.transfer.worker import SETTLE_S, Worker
from tests.unit.services.pictures import LIMITS, picture, sha256

BUCKET = "images-incoming"
PNG = picture("PNG")


class Told:
    """Keeps what Kafka would get."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    def publish(self, events: Sequence[Event]) -> None:
        if self.away:
            raise NotPublished("Kafka is away")
        self.events += events


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = botocore.session.Session().create_client(
            "s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        client.create_bucket(Bucket=BUCKET)
        yield client


def worker(s3: Any, told: Told, ahead_s: float = 0) -> Worker:
    return Worker(Store(s3, BUCKET), told, LIMITS, clock=lambda: time.time() + ahead_s)


def upload(s3: Any, content: bytes, *, finished: bool = True, **metadata: str) -> str:
    """What tusd leaves in the bucket."""
    name = new_id()
    complete = {
        "filename": "one.png",
        "filetype": "image/png",
        "sha256": sha256(content),
        **metadata,
    }
    info = {"ID": f"{name}+x", "Size": len(content), "MetaData": complete}
    s3.put_object(Bucket=BUCKET, Key=f"uploads/{name}.info", Body=json.dumps(info).encode())
    if finished:
        s3.put_object(Bucket=BUCKET, Key=f"uploads/{name}", Body=content)
    else:
        s3.put_object(Bucket=BUCKET, Key=f"uploads/{name}.part", Body=content[:5])
    return name


def test_the_receipt_comes_after_kafka(s3: Any) -> None:
    told = Told()
    one, name = worker(s3, told), upload(s3, PNG)
    told.away = True
    with pytest.raises(NotPublished):
        one.finish(name)
    assert Store(s3, BUCKET).receipt(name) is None
    told.away = False
    assert one.finish(name)
    assert [type(event) for event in told.events] == [ImageReceived]
    receipt = json.loads(Store(s3, BUCKET).receipt(name) or "")
    assert receipt["counts"] == {"received": 1}
    assert receipt["images"][0]["sha256"] == sha256(PNG)
    assert not one.finish(name), "what has a receipt is not told again"
    assert len(told.events) == 1


def test_a_quarantined_image_stays_and_is_marked(s3: Any) -> None:
    name = upload(s3, PNG, filetype="image/jpeg")
    assert worker(s3, Told()).finish(name)
    tags = s3.get_object_tagging(Bucket=BUCKET, Key=f"uploads/{name}")["TagSet"]
    assert tags == [{"Key": "estate-quarantine", "Value": "wrong-type"}]
    assert s3.get_object(Bucket=BUCKET, Key=f"uploads/{name}")["Body"].read() == PNG
    (image,) = json.loads(Store(s3, BUCKET).receipt(name) or "")["images"]
    assert image["reason"] == "wrong-type"


def test_an_unfinished_upload_is_left_alone(s3: Any) -> None:
    told = Told()
    assert not worker(s3, told).finish(upload(s3, PNG, finished=False))
    assert not worker(s3, told).finish("unknown")
    assert told.events == []


def test_a_sweep_finds_what_its_hook_lost_and_nothing_else(s3: Any) -> None:
    told = Told()
    done, lost = upload(s3, PNG), upload(s3, PNG)
    upload(s3, PNG, finished=False)
    worker(s3, told).finish(done)
    assert worker(s3, told).sweep() == [], "its hook may still come"
    assert worker(s3, told, ahead_s=SETTLE_S + 1).sweep() == [lost]


def test_what_was_begun_long_ago_and_is_not_finished_stays_in_sight(s3: Any) -> None:
    told = Told()
    old = upload(s3, PNG, finished=False)
    one = worker(s3, told, ahead_s=7200)
    # Two hours on, and again: the listing begins where something is left to do.
    assert one.sweep() == [] and one.sweep() == []
    s3.put_object(Bucket=BUCKET, Key=f"uploads/{old}", Body=PNG)
    assert one.sweep() == [old]


def begun(s3: Any, content: bytes, sizes: Sequence[int], numbers: Sequence[int]) -> str:
    """An upload in parts that nobody has completed."""
    name = new_id()
    where = {"Bucket": BUCKET, "Key": f"uploads/{name}"}
    multipart = s3.create_multipart_upload(**where)["UploadId"]
    at = 0
    for size, number in zip(sizes, numbers, strict=True):
        body = content[at : at + size]
        s3.upload_part(**where, UploadId=multipart, PartNumber=number, Body=body)
        at += size
    metadata = {"filename": "a", "filetype": "image/png", "sha256": sha256(content)}
    info = {"ID": f"{name}+{multipart}", "Size": len(content), "MetaData": metadata}
    s3.put_object(Bucket=BUCKET, Key=f"uploads/{name}.info", Body=json.dumps(info).encode())
    return name


LARGE = PNG + bytes(6 << 20)


@pytest.mark.parametrize(
    ("sizes", "numbers", "completed"),
    [
        ((5 << 20, len(LARGE) - (5 << 20)), (1, 2), True),
        ((5 << 20,), (1,), False),
        ((5 << 20, len(LARGE) - (5 << 20)), (1, 3), False),
    ],
)
def test_an_upload_that_has_all_its_bytes_is_completed_where_tusd_died(
    s3: Any, sizes: Sequence[int], numbers: Sequence[int], completed: bool
) -> None:
    name = begun(s3, LARGE, sizes, numbers)
    assert worker(s3, Told()).sweep() == [], "tusd may be at it"
    later = worker(s3, Told(), ahead_s=SETTLE_S + 5)
    assert later.sweep() == ([name] if completed else [])
    assert (Store(s3, BUCKET).stat(name) is not None) == completed


def test_threads_finish_what_is_added_once(s3: Any) -> None:
    told = Told()
    one, name = worker(s3, told), upload(s3, PNG)
    one.start()
    try:
        for _ in range(5):
            one.add(name)
    finally:
        one.stop()
    assert Store(s3, BUCKET).receipt(name) is not None
    assert len(told.events) == 1


def test_names_sort_by_time() -> None:
    assert new_id(1) < new_id(2) < new_id(2e9) < new_id(4e9)
