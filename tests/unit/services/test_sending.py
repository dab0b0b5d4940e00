from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services import batches, sending
from services.batches import Found


def files(folder: Path, sizes: list[int]) -> list[sending.File]:
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.jpg"
        path.write_bytes(bytes([number]) * size)
        made.append(sending.measured(path, path.name))
    return made


def test_a_file_is_declared_as_it_is(tmp_path: Path) -> None:
    (one,) = files(tmp_path, [2_500_000])
    assert (one.length, one.content_type) == (2_500_000, "image/jpeg")
    assert one.sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()
    assert b"".join(one.read_from(2_499_990)) == bytes(10)
    (tmp_path / "strange").write_bytes(b"x")
    unknown = sending.measured(tmp_path / "strange", "strange")
    assert unknown.content_type == "application/octet-stream"


def test_batches_are_as_large_as_they_may_be_and_keep_the_order(tmp_path: Path) -> None:
    jobs = list(sending.batched(files(tmp_path, [400, 400, 400, 2000, 10]), 1000))
    assert [job.images for job in jobs] == [2, 1, 1, 1]
    names = []
    for job in jobs:
        path = tmp_path / "batch"
        path.write_bytes(b"".join(job.source.read_from(0)))
        with path.open("rb") as stream:
            names += [one.name for one in batches.read(stream) if isinstance(one, Found)]
    assert names == [f"{number}.jpg" for number in range(5)]


def test_the_same_content_is_the_same_job_for_a_client_that_comes_back(tmp_path: Path) -> None:
    first = [*sending.batched(files(tmp_path, [1, 2]), 10)]
    again = [*sending.batched(files(tmp_path, [1, 2]), 10)]
    other = [*sending.batched(files(tmp_path, [1, 3]), 10)]
    assert first[0].key == again[0].key != other[0].key
    under_way = sending.UnderWay(tmp_path / "state")
    assert under_way.get(first[0].key) is None
    under_way.put(first[0].key, "https://host/files/x")
    assert sending.UnderWay(tmp_path / "state").get(again[0].key) == "https://host/files/x"
    under_way.done(first[0].key)
    under_way.done(first[0].key)
    assert under_way.get(first[0].key) is None


def test_a_door_keeps_its_secrets_to_itself() -> None:
    door = sending.Door("https://h/files/", "h", "the-ca", lambda: "the-token")
    assert "the-ca" not in repr(door) and "the-token" not in repr(door)


@pytest.mark.parametrize("size", [0, 1])
def test_even_nothing_can_be_sent(tmp_path: Path, size: int) -> None:
    (one,) = files(tmp_path, [size])
    assert len(b"".join(sending.single(one).source.read_from(0))) == size


def test_closed_it_begins_nothing_more_and_ends_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [sending.single(one) for one in files(tmp_path, [1] * 20)]
    begun, whole = [], []

    def send(_: Any, job: sending.Job, __: Any, *, sent: Callable[[int], None], **___: Any) -> Any:
        begun.append(job.name)
        for _ in range(500 if job is not jobs[0] else 0):
            sent(0)
            time.sleep(0.01)
        whole.append(job.name)
        return sending.Sent(job, url="https://h/files/x")

    class Door(sending.Door):
        def client(self, **_: Any) -> Any:
            return None

        def session(self, connections: int = 1) -> Any:
            return contextlib.nullcontext()

    monkeypatch.setattr(sending, "send", send)
    monkeypatch.setattr(sending, "receipt", lambda *_: {"images": []})
    door = Door("https://h/files/", "h", "", str)
    under_way = sending.UnderWay(tmp_path / "state")
    results = sending.send_all(door, jobs, under_way, connections=2)
    assert next(results).job is jobs[0]
    results.close()
    assert whole == ["0.jpg"] and len(begun) <= 3
