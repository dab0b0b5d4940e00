"""Probes of the object store: S3 over TLS, and what Ceph's manager says of its health."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import botocore.session
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from components.datalake.ceph_buckets import client, differences
from tests.state.probes import ProbeContext, probe

Secret = Mapping[str, str]
PART = 5 * 2**20  # the smallest that S3 takes, but for the last one
_METRIC = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.M)


def _ca(ctx: ProbeContext, ca: Secret) -> str:
    file = ctx.tmp / "ca.crt"
    file.write_bytes(ctx.secret(ca))
    return str(file)


@probe("ceph_put_get")
def put_get(
    ctx: ProbeContext,
    *,
    endpoint: str,
    region: str,
    ca: Secret,
    user: str,
    secret_key: Secret,
    bucket: str,
) -> str:
    """Put one small object and one of two parts, get both, compare, delete."""
    s3 = client(endpoint, region, _ca(ctx, ca), user, ctx.secret(secret_key).decode())
    small, large = os.urandom(200_000), os.urandom(PART + 1000)
    names = [f"verify/{uuid.uuid4().hex}" for _ in range(2)]
    began = time.monotonic()
    try:
        s3.put_object(Bucket=bucket, Key=names[0], Body=small)
        part = {"Bucket": bucket, "Key": names[1]}
        upload = s3.create_multipart_upload(**part)["UploadId"]
        parts = [
            {
                "PartNumber": i,
                "ETag": s3.upload_part(**part, UploadId=upload, PartNumber=i, Body=body)["ETag"],
            }
            for i, body in ((1, large[:PART]), (2, large[PART:]))
        ]
        s3.complete_multipart_upload(**part, UploadId=upload, MultipartUpload={"Parts": parts})
        for name, body in zip(names, (small, large), strict=True):
            found = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
            assert hashlib.sha256(found).digest() == hashlib.sha256(body).digest(), (
                f"{name}: {len(found)} bytes came back, not those that were put"
            )
        for name in names:
            s3.delete_object(Bucket=bucket, Key=name)
    except (BotoCoreError, ClientError) as error:
        raise AssertionError(f"S3: {error}") from None
    return f"two objects, one of two parts, in {(time.monotonic() - began) * 1000:.0f} ms"


@probe("ceph_wrong_key")
def wrong_key(
    ctx: ProbeContext,
    *,
    endpoint: str,
    region: str,
    ca: Secret,
    user: str,
    secret_key: Secret,
    bucket: str,
) -> str:
    """A wrong key must fail by its signature, a request without one by its rights."""
    name = ctx.secret({**secret_key, "key": "access-key"}).decode()
    file = _ca(ctx, ca)
    wrong = client(endpoint, region, file, name, ctx.secret(secret_key).decode() + "-wrong")
    nobody = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        verify=file,
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )
    codes = []
    for who, s3 in (("a wrong key", wrong), ("no key", nobody)):
        try:
            s3.list_objects_v2(Bucket=bucket)
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
        except BotoCoreError as error:
            raise AssertionError(f"S3: {error}") from None
        else:
            raise AssertionError(f"{who} was let in")
    assert codes == ["SignatureDoesNotMatch", "AccessDenied"], (
        f"refused, but for other reasons: {', '.join(codes)}"
    )
    return ", ".join(codes)


@probe("ceph_healthy")
def healthy(ctx: ProbeContext, *, namespace: str, selector: str, port: int, osds: int) -> str:
    """The manager's metrics: health, OSDs up and in, placement groups active and clean."""
    statuses = [pod["status"] for pod in ctx.pods(namespace, selector)]
    addresses = [status["podIP"] for status in statuses if "podIP" in status]
    assert addresses, f"no pod of {selector} runs"
    found = metrics(f"http://{addresses[0]}:{port}/metrics")
    assert "ceph_health_status" in found, "the manager does not know the cluster's health"
    health = ("HEALTH_OK", "HEALTH_WARN", "HEALTH_ERR")[int(sum(found["ceph_health_status"]))]
    up, inside = sum(found["ceph_osd_up"]), sum(found["ceph_osd_in"])
    total, clean = sum(found["ceph_pg_total"]), sum(found["ceph_pg_clean"])
    active = sum(found["ceph_pg_active"])
    said = (
        f"{health}, {up:.0f} OSDs up and {inside:.0f} in, "
        f"{min(active, clean):.0f} of {total:.0f} placement groups active and clean"
    )
    assert health == "HEALTH_OK" and up == inside == osds and active == clean == total, said
    return said


def metrics(url: str) -> dict[str, list[float]]:
    """Name -> values of all its series; AssertionError when nothing answers."""
    try:
        answer = requests.get(url, timeout=10)
    except requests.RequestException as error:
        raise AssertionError(f"the manager's metrics: {type(error).__name__}") from None
    assert answer.status_code == 200, f"the manager's metrics: HTTP {answer.status_code}"
    found: dict[str, list[float]] = {}
    for name, _, value in _METRIC.findall(answer.text):
        found.setdefault(name, []).append(float(value))
    return found


@probe("ceph_declared")
def declared(
    ctx: ProbeContext,
    *,
    endpoint: str,
    region: str,
    ca: Secret,
    namespace: str,
    config_map: str,
    owners: Mapping[str, Secret],
) -> str:
    """Every declared bucket is there, with its policy, versioning and lifecycle."""
    data = ctx.config_map(namespace, config_map)
    buckets: list[dict[str, Any]] = json.loads(data["declaration.json"])["buckets"]
    file = _ca(ctx, ca)
    clients = {
        owner: client(endpoint, region, file, owner, ctx.secret(key).decode())
        for owner, key in owners.items()
    }
    try:
        problems = [
            f"bucket {bucket['name']} {what}"
            for bucket in buckets
            for what, _ in differences(clients[bucket["owner"]], bucket)
        ]
        present = {one["Name"] for s3 in clients.values() for one in s3.list_buckets()["Buckets"]}
    except (BotoCoreError, ClientError) as error:
        raise AssertionError(f"S3: {error}") from None
    undeclared = present - {bucket["name"] for bucket in buckets}
    problems += [f"bucket {name} is not declared" for name in sorted(undeclared)]
    assert not problems, "; ".join(problems)
    return f"{len(buckets)} buckets of {len(clients)} owners"
