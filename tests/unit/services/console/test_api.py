"""What the routes answer, asked over PostgreSQL itself and moto's S3."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.session
import jwt
import psycopg
import pytest
from fastapi.testclient import TestClient

from services.console.backends.catalogue import ImageCatalogue
from services.console.lake import Lake
from services.console.settings import Role, Settings
from services.pipeline import datasets
from services.pipeline.buckets import Bucket
from services.pipeline.catalogue import signed
from tests.unit.services.console.conftest import KeyPair, opened

Headers = Callable[[Role], dict[str, str]]
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PHASHES = [0, 1, 0b111, (1 << 64) - 1, 1 << 63]
EMBEDDINGS = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]]


def digest_of(number: int) -> str:
    return hashlib.sha256(content_of(number)).hexdigest()


def content_of(number: int) -> bytes:
    return b"image %d" % number * 50_000


def row(number: int) -> dict[str, Any]:
    return {
        "sha256": digest_of(number),
        "source_sha256": hashlib.sha256(b"source %d" % number).hexdigest(),
        "source": f"upload-{number}",
        "bucket": "images",
        "key": digest_of(number),
        "name": f"front_{number}.jpg" if number % 2 else f"rear%{number}.jpg",
        "device": "camera-1" if number < 3 else None,
        # Two of them at the same moment: the digest decides.
        "received_at": START + datetime.timedelta(minutes=number // 2),
        "content_type": "image/jpeg",
        "bytes": len(content_of(number)),
        "width": 100 * (number + 1),
        "height": 50,
        "original_type": "image/png",
        "original_bytes": 1,
        "original_width": 1,
        "original_height": 1,
        "phash": signed(PHASHES[number]),
        **dict.fromkeys(("mean", "std", "sharpness", "entropy"), 1.0),
        "embedding": EMBEDDINGS[number],
        "model": "m" if number != 4 else "another",
    }


@pytest.fixture
def store(s3: str) -> Any:
    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=s3,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    for bucket in ("images", "datasets"):
        client.create_bucket(Bucket=bucket)
    for number in range(5):
        client.put_object(
            Bucket="images",
            Key=digest_of(number),
            Body=content_of(number),
            ContentType="image/jpeg",
        )
    return client


@pytest.fixture
def api(
    settings: dict[str, Any],
    postgres: dict[str, Any],
    s3: str,
    store: Any,
    estate_key: KeyPair,
    tmp_path: Path,
) -> Iterator[TestClient]:
    with psycopg.connect(postgres["owner"], autocommit=True) as session:
        session.execute("TRUNCATE images")
        for number in range(5):
            values = row(number)
            columns, holes = ", ".join(values), ", ".join(f"%({key})s" for key in values)
            session.execute(f"INSERT INTO images ({columns}) VALUES ({holes})".encode(), values)
    for name in ("access-key", "secret-key", "password", "upload.key"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "upload.key").write_bytes(estate_key.key)
    settings |= {
        "objects": {
            "endpoint": s3,
            "access_key": str(tmp_path / "access-key"),
            "secret_key": str(tmp_path / "secret-key"),
            "buckets": {"images": 1 << 30, "datasets": None, "missing": None},
        },
        "uploads": {"url": "https://transfer/files/", "key": str(tmp_path / "upload.key")},
    }
    catalogue = Settings.model_validate(
        {
            **settings,
            "catalogue": {
                "host": "127.0.0.1",
                "port": postgres["port"],
                "password": str(tmp_path / "password"),
            },
        }
    ).catalogue
    assert catalogue is not None

    def lake(read: Settings) -> Lake:
        made = Lake(read)
        if made._objects is not None:
            made._objects._trust = None  # Amazon's, not the estate's
        made._catalogue = ImageCatalogue(catalogue, None, 5)  # no TLS on this machine's loopback
        return made

    yield from opened(settings, lake)


def test_images_are_found_page_by_page(api: TestClient, bearer: Headers) -> None:
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        page = api.get(f"/api/v1/images?limit=2{cursor}", headers=bearer("viewer")).json()
        seen += [one["sha256"] for one in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    wanted = sorted(range(5), key=lambda number: (number // 2, digest_of(number)), reverse=True)
    assert seen == [digest_of(number) for number in wanted]
    assert len(page["items"]) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"name": "front_"}, {1, 3}),
        ({"name": "front%"}, set()),
        ({"name": "rear%"}, {0, 2, 4}),
        ({"device": "camera-1"}, {0, 1, 2}),
        ({"received_from": "2026-01-01T00:01:00Z"}, {2, 3, 4}),
        ({"received_before": "2026-01-01T01:01:00+01:00"}, {0, 1}),
        ({"min_width": 400}, {3, 4}),
        ({"max_bytes": 10}, set()),
        ({"original_type": "image/png"}, {0, 1, 2, 3, 4}),
        ({"phash": "0000000000000000", "within": 1}, {0, 1, 4}),
        ({"phash": "ffffffffffffffff", "within": 0}, {3}),
        ({"device": "camera-1", "min_width": 200}, {1, 2}),
        ({"device": "x' OR '1'='1"}, set()),
    ],
)
def test_a_search(api: TestClient, bearer: Headers, query: dict[str, Any], found: set[int]) -> None:
    answer = api.get("/api/v1/images", params=query, headers=bearer("viewer"))
    assert answer.status_code == 200, answer.text
    assert {one["sha256"] for one in answer.json()["items"]} == {digest_of(n) for n in found}


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "x"},
        {"cursor": "WyIxIiwgIjIiXQ"},
        {"name": "a\0"},
        {"phash": "0"},
        {"received_from": "2026-01-01T00:00:00"},
        {"received_from": "0.5"},
        {"limit": 0},
    ],
)
def test_a_search_that_is_refused(api: TestClient, bearer: Headers, query: dict[str, Any]) -> None:
    answer = api.get("/api/v1/images", params=query, headers=bearer("viewer"))
    assert answer.status_code == 422, answer.text


def test_what_looks_alike(api: TestClient, bearer: Headers) -> None:
    def near(**query: Any) -> list[tuple[str, float]]:
        path = f"/api/v1/images/{digest_of(0)}/similar"
        answer = api.get(path, params=query, headers=bearer("viewer"))
        assert answer.status_code == 200, answer.text
        return [(one["sha256"], round(one["distance"], 6)) for one in answer.json()]

    # Of another model is number 4, whose vector would be the nearest.
    assert near() == [(digest_of(1), 0.4), (digest_of(2), 1.0), (digest_of(3), 2.0)]
    assert near(most=0.5) == [(digest_of(1), 0.4)]
    by_hash = near(by="phash")
    assert {one for one, distance in by_hash if distance == 1} == {digest_of(1), digest_of(4)}
    assert by_hash[-1] == (digest_of(3), 64.0)
    assert near(by="phash", limit=1) == sorted([(digest_of(1), 1), (digest_of(4), 1)])[:1]
    nobody = api.get(f"/api/v1/images/{'0' * 64}/similar", headers=bearer("viewer"))
    assert nobody.status_code == 404


def test_the_bytes_of_an_image(api: TestClient, bearer: Headers, store: Any) -> None:
    path = f"/api/v1/images/{digest_of(1)}"
    answer = api.get(f"{path}/content", headers=bearer("viewer"))
    assert answer.content == content_of(1)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    link = api.get(f"{path}/link", headers=bearer("viewer")).json()
    assert digest_of(1) in link["url"] and "X-Amz-Expires=300" in link["url"]
    store.delete_object(Bucket="images", Key=digest_of(1))
    assert api.get(f"{path}/content", headers=bearer("viewer")).status_code == 404


def test_buckets(api: TestClient, bearer: Headers) -> None:
    page = api.get("/api/v1/buckets?limit=1", headers=bearer("viewer")).json()
    assert [one["name"] for one in page["items"]] == ["datasets"]
    images = api.get("/api/v1/buckets/images", headers=bearer("viewer")).json()
    assert images["readable"] and images["versioning"] is False and images["lifecycle_rules"] == 0
    # Only radosgw counts.
    assert images["bytes"] is None and images["quota"]["owner_bytes"] == 1 << 30
    assert api.get("/api/v1/buckets/missing", headers=bearer("viewer")).status_code == 404
    assert api.get("/api/v1/buckets/backup", headers=bearer("viewer")).status_code == 404


def test_datasets(api: TestClient, bearer: Headers, store: Any) -> None:
    bucket = Bucket(store, "datasets")
    first = datasets.create(bucket, "road", [row(number) for number in range(3)])
    second = datasets.create(bucket, "road", [row(4)], parent=first.digest)
    listed = api.get("/api/v1/datasets", headers=bearer("viewer")).json()
    assert listed["items"] == [{"name": "road", "versions": 2}]
    versions = api.get("/api/v1/datasets/road/versions", headers=bearer("viewer")).json()["items"]
    assert {one["digest"]: one["parent"] for one in versions} == {
        first.digest: None,
        second.digest: first.digest,
    }
    path = f"/api/v1/datasets/road/versions/{first.digest}"
    page = api.get(f"{path}/images?limit=2", headers=bearer("viewer")).json()
    rest = api.get(f"{path}/images?limit=2&cursor={page['next']}", headers=bearer("viewer")).json()
    assert [one["sha256"] for one in page["items"] + rest["items"]] == sorted(
        digest_of(number) for number in range(3)
    )
    verified = api.post(f"{path}/verification", headers=bearer("operator")).json()
    assert verified["good"] and verified["complete"] and verified["checked"] == 3
    store.put_object(Bucket="images", Key=digest_of(1), Body=b"other")
    store.delete_object(Bucket="images", Key=digest_of(2))
    verified = api.post(f"{path}/verification", headers=bearer("operator")).json()
    assert not verified["good"] and len(verified["problems"]) == 2
    store.put_object(Bucket="datasets", Key=datasets.key_of("road", first.digest), Body=b"{}\n")
    assert api.get(path, headers=bearer("viewer")).status_code == 409
    verified = api.post(f"{path}/verification", headers=bearer("operator")).json()
    assert not verified["good"] and "other bytes" in verified["problems"][0]
    missing = api.get(f"/api/v1/datasets/road/versions/{'0' * 64}", headers=bearer("viewer"))
    assert missing.status_code == 404
    assert api.get("/api/v1/datasets/sea/versions", headers=bearer("viewer")).status_code == 404


def test_an_upload_token_speaks_for_the_caller(
    api: TestClient, bearer: Headers, estate_key: KeyPair
) -> None:
    answer = api.post("/api/v1/upload-tokens", headers=bearer("operator"), json={"device": "c-1"})
    assert answer.status_code == 201, answer.text
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    assert claims["aud"] == "transfer" and claims["device"] == "c-1"
    assert claims["exp"] - claims["iat"] == 900
    long = {"lifetime_s": 86_400}
    answer = api.post("/api/v1/upload-tokens", headers=bearer("operator"), json=long)
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 3600


def test_one_backend_that_is_away_is_the_only_one(
    api: TestClient, bearer: Headers, postgres: dict[str, Any]
) -> None:
    with psycopg.connect(postgres["owner"], autocommit=True) as session:
        session.execute("REVOKE SELECT ON images FROM console")
        try:
            answer = api.get("/api/v1/images", headers=bearer("viewer"))
            assert answer.status_code == 503 and answer.json()["backend"] == "catalogue"
            assert "permission" not in answer.text, "what a server says is for the log"
            assert answer.headers["retry-after"]
        finally:
            session.execute("GRANT SELECT ON images TO console")
    assert api.get("/api/v1/buckets/images", headers=bearer("viewer")).status_code == 200
    kafka = api.get("/api/v1/topics", headers=bearer("viewer"))
    assert kafka.status_code == 503 and "has no kafka" in kafka.json()["detail"]


def test_the_console_cannot_write(postgres: dict[str, Any], tmp_path: Path) -> None:
    session = psycopg.connect(postgres["owner"].replace("owner", "console"))
    with session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("DELETE FROM images")


def test_names_are_quoted_in_paths(api: TestClient, bearer: Headers) -> None:
    for name in ("..", "a/b", "a\0b", "%00", "x" * 300):
        path = f"/api/v1/consumer-groups/{quote(name, safe='')}"
        assert api.get(path, headers=bearer("viewer")).status_code in (404, 422), name
