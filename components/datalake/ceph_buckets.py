"""Buckets made as declared, over S3; runs as a Job, and tells a check what differs.

Nothing is deleted: a bucket that is there and not declared is named and left alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

Client = Any
READ = (
    "s3:GetBucketLocation",
    "s3:GetBucketVersioning",
    "s3:GetLifecycleConfiguration",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:ListBucketVersions",
    "s3:GetObject",
    "s3:GetObjectTagging",
    "s3:GetObjectVersion",
)
WRITE = (
    "s3:PutObject",
    "s3:PutObjectTagging",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)


def client(endpoint: str, region: str, ca: str, access_key: str, secret_key: str) -> Client:
    """An S3 client of one user: path-style, verified by the file `ca`."""
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        verify=ca,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=20,
            retries={"max_attempts": 4, "mode": "standard"},
            # Ceph 16 does not know the checksums that newer SDKs add by themselves.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def policy(bucket: Mapping[str, Any]) -> dict[str, Any] | None:
    """The bucket policy of its grants; None where it has none."""
    resources = [f"arn:aws:s3:::{bucket['name']}", f"arn:aws:s3:::{bucket['name']}/*"]
    statements = [
        {
            "Sid": f"{grant['user']}-{grant['access']}",
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{grant['user']}"]},
            "Action": [*READ, *(WRITE if grant["access"] == "write" else ())],
            "Resource": resources,
        }
        for grant in bucket["grants"]
    ]
    return {"Version": "2012-10-17", "Statement": statements} if statements else None


def rules(bucket: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lifecycle rules of a bucket."""
    declared = bucket["lifecycle"]
    rule: dict[str, Any] = {
        "ID": "estate",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": declared["abort_uploads_days"]},
    }
    if declared["expire_days"] is not None:
        rule["Expiration"] = {"Days": declared["expire_days"]}
    if declared["expire_old_versions_days"] is not None:
        rule["NoncurrentVersionExpiration"] = {
            "NoncurrentDays": declared["expire_old_versions_days"]
        }
    return [rule]


def differences(s3: Client, bucket: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What of a bucket is not as declared, in words, and what mends it; `s3` is its owner's."""
    name = bucket["name"]
    if _or_none(lambda: s3.head_bucket(Bucket=name), "404") is None:
        yield "is missing", lambda: s3.create_bucket(Bucket=name)
    status = _or_none(
        lambda: s3.get_bucket_versioning(Bucket=name).get("Status", "never"), "404", "NoSuchBucket"
    )
    # Versioning can be suspended, never taken back.
    if bucket["versioning"] and status != "Enabled":
        yield "has no versioning", lambda: _versioning(s3, name, "Enabled")
    elif not bucket["versioning"] and status == "Enabled":
        yield "has versioning", lambda: _versioning(s3, name, "Suspended")
    wanted = rules(bucket)
    found = _or_none(
        lambda: s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"],
        *("NoSuchLifecycleConfiguration", "NoSuchBucket"),
    )
    if found is None or [_plain(rule) for rule in found] != [_plain(rule) for rule in wanted]:
        body = {"Rules": wanted}
        yield (
            "has another lifecycle",
            lambda: s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration=body),
        )
    text = _or_none(
        lambda: s3.get_bucket_policy(Bucket=name)["Policy"], "NoSuchBucketPolicy", "NoSuchBucket"
    )
    present = json.loads(text) if text else None
    due = policy(bucket)
    if present != due:
        yield "has another policy", lambda: _set_policy(s3, name, due)


def _plain(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule without what stores write in different words: the empty prefix."""
    return {key: value for key, value in rule.items() if key not in ("Filter", "Prefix")}


def _versioning(s3: Client, name: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})


def _set_policy(s3: Client, name: str, due: Mapping[str, Any] | None) -> None:
    if due is None:
        s3.delete_bucket_policy(Bucket=name)
    else:
        s3.put_bucket_policy(Bucket=name, Policy=json.dumps(due))


def _or_none(ask: Callable[[], Any], *codes: str) -> Any:
    """The answer, or None for an error of one of these codes."""
    try:
        return ask()
    except ClientError as error:
        if error.response["Error"]["Code"] in codes:
            return None
        raise


def main(arguments: list[str]) -> int:
    """Make the buckets of `declaration.json`; keys are files named after their users."""
    declaration, keys, endpoint, region, ca = arguments
    buckets = json.loads(Path(declaration).read_text())["buckets"]
    owners = {bucket["owner"] for bucket in buckets}
    clients = {
        owner: client(endpoint, region, ca, owner, (Path(keys) / owner).read_text().strip())
        for owner in sorted(owners)
    }
    for bucket in buckets:
        for what, mend in differences(clients[bucket["owner"]], bucket):
            mend()
            print(f"bucket {bucket['name']} {what}: mended", flush=True)
    for owner, s3 in clients.items():
        present = {one["Name"] for one in s3.list_buckets()["Buckets"]}
        for name in sorted(present - {bucket["name"] for bucket in buckets}):
            print(f"bucket {name} of {owner} is not declared; it stays", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
