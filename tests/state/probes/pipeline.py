"""Probes of the pipeline: Dagster by its own API, and an image on its way through."""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
import requests
from botocore.config import Config
from confluent_kafka import Producer
from PIL import Image
from psycopg.rows import dict_row
from pymongo import MongoClient

from services.events import RECEIVED_TOPIC, ImageReceived
from tests.state.probes import ProbeContext, probe

Secret = Mapping[str, Any]
INCOMING = "images-incoming"
DEVICE = "estate-verify"
"""Images of checks are named so, and no dataset version takes them."""
ARRIVAL_S = 36.0
BEAT_S = 120.0
"""Dagster's daemons beat every 30 s."""

_LOCATION = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus
 locationOrLoadError { __typename ... on PythonError { message } ... on RepositoryLocation {
 repositories { jobs { name } sensors { name sensorState { status } } } } } } } } }"""
_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses {
 daemonType required healthy lastHeartbeatTime } } } }"""


def _ca_file(ctx: ProbeContext, ca: Secret) -> str:
    file = Path(ctx.tmp, "ca.crt")
    file.write_bytes(ctx.secret(ca))
    return str(file)


def _ask(
    ctx: ProbeContext, url: str, ca: Secret, user: str, password: Secret, query: str
) -> dict[str, Any]:
    answer = requests.post(
        f"{url}/graphql",
        json={"query": query},
        auth=(user, ctx.secret(password).decode()),
        verify=_ca_file(ctx, ca),
        timeout=20,
    )
    assert answer.status_code == 200, f"status {answer.status_code}: {answer.text[:120]}"
    body = answer.json()
    assert not body.get("errors"), str(body["errors"])[:200]
    return dict(body["data"])


@probe("pipeline_location")
def pipeline_location(ctx: ProbeContext, *, location: str, **pages: Any) -> str:
    """The code is loaded, has its jobs, and its sensor runs."""
    data = _ask(ctx, **pages, query=_LOCATION)
    entries = {one["name"]: one for one in data["workspaceOrError"]["locationEntries"]}
    assert location in entries, f"no location {location}; there are {sorted(entries)}"
    found = entries[location]["locationOrLoadError"]
    assert found is not None, f"{location}: {entries[location]['loadStatus']}"
    message = " ".join(str(found.get("message", "")).split())[:160]
    assert found["__typename"] == "RepositoryLocation", f"{location}: {message}"
    (repository,) = found["repositories"]
    jobs = {job["name"] for job in repository["jobs"]}
    assert {"images", "import_images", "dataset_version"} <= jobs, f"jobs: {sorted(jobs)}"
    sensors = {one["name"]: one["sensorState"]["status"] for one in repository["sensors"]}
    assert sensors.get("arrivals") == "RUNNING", f"sensors: {sensors}"
    return f"{len(jobs)} jobs, sensor arrivals runs"


@probe("pipeline_daemon")
def pipeline_daemon(ctx: ProbeContext, **pages: Any) -> str:
    """Every daemon that is needed has beaten lately."""
    data = _ask(ctx, **pages, query=_DAEMONS)
    daemons = data["instance"]["daemonHealth"]["allDaemonStatuses"]
    needed = [one for one in daemons if one["required"]]
    assert needed, "Dagster names no daemon that is needed"
    for one in needed:
        beat = one["lastHeartbeatTime"]
        assert beat, f"{one['daemonType']} has never beaten"
        assert one["healthy"], f"{one['daemonType']} is not healthy"
        silent = time.time() - beat
        assert silent < BEAT_S, f"{one['daemonType']} has been silent for {silent:.0f} s"
    return ", ".join(sorted(str(one["daemonType"]).lower() for one in needed))


@probe("pipeline_password")
def pipeline_password(
    ctx: ProbeContext, *, url: str, ca: Secret, user: str, password: Secret
) -> str:
    """Neither the pages nor the API answer without the right password; with it, they do."""
    verify = _ca_file(ctx, ca)
    right = ctx.secret(password).decode()
    for path in ("/", "/graphql?query={version}", "/server_info"):
        for login in (None, (user, secrets.token_hex(8)), ("nobody", right)):
            answer = requests.get(url + path, auth=login, verify=verify, timeout=15)
            said = "no password" if login is None else f"a wrong one for {login[0]}"
            assert answer.status_code == 401, f"{path} answers {answer.status_code} to {said}"
    answer = requests.get(f"{url}/server_info", auth=(user, right), verify=verify, timeout=15)
    assert answer.status_code == 200, f"status {answer.status_code} with the right password"
    return f"refused without and with a wrong one, Dagster {answer.json()['dagster_version']}"


@probe("pipeline_image")
def pipeline_image(
    ctx: ProbeContext,
    *,
    ca: Secret,
    kafka: Mapping[str, Any],
    s3: Mapping[str, Any],
    sender: Mapping[str, Any],
    reader: Mapping[str, Any],
    mongodb: Mapping[str, Any],
    catalogue: Mapping[str, Any],
) -> str:
    """Send a new image as the transfer service does, and find it in all three stores."""
    trust = _ca_file(ctx, ca)
    data = new_image()
    token = secrets.token_hex(8)
    key = f"verify/{token}.png"
    store = _s3(ctx, s3, sender, trust)
    store.put_object(Bucket=INCOMING, Key=key, Body=data, ContentType="image/png")
    event = ImageReceived(
        upload_id=f"verify-{token}",
        bucket=INCOMING,
        key=key,
        offset=0,
        length=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        content_type="image/png",
        name=f"{token}.png",
        device=DEVICE,
        received_at=datetime.now(UTC),
    )
    _announce(ctx, kafka, trust, event)
    began = time.monotonic()
    row = _arrived(ctx, catalogue, trust, event.upload_id)
    took = time.monotonic() - began
    assert row["source_sha256"] == event.sha256, "the catalogue has another digest of the original"
    body = _s3(ctx, s3, reader, trust).get_object(Bucket=row["bucket"], Key=row["key"])["Body"]
    found = hashlib.sha256(body.read()).hexdigest()
    assert found == row["sha256"], f"S3 has {found}, the catalogue {row['sha256']}"
    document = _document(ctx, mongodb, trust, row["sha256"])
    assert document is not None, f"no document {row['sha256']}"
    assert document["original"]["sha256"] == event.sha256
    assert document["embedding"]["model"] == row["model"]
    return f"in S3, MongoDB and PostgreSQL by {row['sha256'][:12]} after {took:.1f} s"


def new_image() -> bytes:
    """An image that looks like no other: nine by eight random cells, smoothly enlarged."""
    cells = Image.frombytes("RGB", (9, 8), secrets.token_bytes(9 * 8 * 3))
    target = io.BytesIO()
    cells.resize((288, 256), Image.Resampling.BICUBIC).save(target, "PNG")
    return target.getvalue()


def _s3(ctx: ProbeContext, s3: Mapping[str, Any], user: Mapping[str, Any], trust: str) -> Any:
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=s3["endpoint"],
        region_name=s3["region"],
        aws_access_key_id=ctx.secret(user["access_key"]).decode(),
        aws_secret_access_key=ctx.secret(user["secret_key"]).decode(),
        verify=trust,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=15,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _announce(
    ctx: ProbeContext, kafka: Mapping[str, Any], trust: str, event: ImageReceived
) -> None:
    producer = Producer(
        {
            "bootstrap.servers": kafka["bootstrap"],
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": kafka["username"],
            "sasl.password": ctx.secret(kafka["password"]).decode(),
            "ssl.ca.location": trust,
            "acks": "all",
            "message.timeout.ms": 15_000,
        }
    )
    failed: list[str] = []
    producer.produce(
        RECEIVED_TOPIC,
        event.to_message(),
        event.message_key(),
        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
    )
    left = producer.flush(20)
    assert not left and not failed, f"Kafka: {failed or 'no answer in 20 s'}"


def _arrived(
    ctx: ProbeContext, catalogue: Mapping[str, Any], trust: str, source: str
) -> dict[str, Any]:
    login = {key: catalogue[key] for key in ("host", "port", "dbname", "user")}
    receipt = None
    with psycopg.connect(
        **login,
        password=ctx.secret(catalogue["password"]).decode(),
        sslmode="verify-full",
        sslrootcert=trust,
        connect_timeout=5,
        autocommit=True,
    ) as session:
        deadline = time.monotonic() + ARRIVAL_S
        while receipt is None and time.monotonic() < deadline:
            receipt = session.execute(
                "SELECT state, reason, detail FROM receipts WHERE source = %s", (source,)
            ).fetchone()
            if receipt is None:
                time.sleep(0.5)
        assert receipt is not None, f"{source} has no receipt after {ARRIVAL_S:.0f} s"
        assert receipt[0] == "stored", f"{source} is {receipt}"
        with session.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute("SELECT * FROM images WHERE source = %s", (source,)).fetchone()
    assert row is not None, f"{source} has a receipt, and no row in images"
    return row


def _document(
    ctx: ProbeContext, mongodb: Mapping[str, Any], trust: str, digest: str
) -> dict[str, Any] | None:
    with MongoClient[dict[str, Any]](
        mongodb["host"],
        mongodb["port"],
        username=mongodb["username"],
        password=ctx.secret(mongodb["password"]).decode(),
        authSource="admin",
        tls=True,
        tlsCAFile=trust,
        serverSelectionTimeoutMS=10_000,
    ) as client:
        return client["lake"]["images"].find_one({"_id": digest})
