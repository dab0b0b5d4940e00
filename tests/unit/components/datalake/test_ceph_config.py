"""Ceph's configuration and files: what is refused, and what the daemons are given."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from pydantic import ValidationError

from components.datalake import ceph_buckets, ceph_files
from components.datalake.ceph_config import CephConfig

DECLARED: dict[str, Any] = {
    "fsid": "6c1f3d0e-5b7a-4d36-9a53-2f0f6d1c8e21",
    "keys": {"file": "ceph/keys"},
    "users": [
        {"name": "verify", "secret_key": {"file": "ceph/verify"}},
        {"name": "reader", "secret_key": {"file": "ceph/reader"}, "quota_gib": 2},
    ],
    "buckets": [
        {"name": "estate-verify", "owner": "verify"},
        {
            "name": "shared",
            "owner": "verify",
            "versioning": True,
            "grants": [{"user": "reader", "access": "read"}],
            "lifecycle": {"expire_old_versions_days": 30},
        },
    ],
}


def config(**changes: Any) -> CephConfig:
    return CephConfig.model_validate({**DECLARED, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"osds": 2}, "more copies than osds"),
        ({"min_replicas": 4}, "no write would ever be taken"),
        ({"buckets": [{"name": "estate-verify", "owner": "nobody"}]}, "no such user"),
        ({"buckets": []}, "the checks need a bucket estate-verify"),
        ({"users": [*DECLARED["users"], DECLARED["users"][0]]}, "declared twice"),
        ({"monitors": 2}, "monitors"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**changes)


def test_keys_are_derived_each_for_its_entity() -> None:
    keys = {ceph_files.key("seed", entity) for entity in ("mon.", "osd.0", "osd.1")}
    keys.add(ceph_files.key("other seed", "mon."))
    assert len(keys) == 4
    kind, _, _, length = struct.unpack("<HIIH", base64.b64decode(next(iter(keys)))[:12])
    assert (kind, length) == (1, 16)
    assert all(len(base64.b64decode(key)) == 12 + 16 for key in keys)


def test_a_daemon_gets_its_own_keyring() -> None:
    rings = ceph_files.keyrings(config(), "seed")
    assert {"all.keyring", "mgr.a.keyring", "osd.2.keyring", "osd.2.json"} <= set(rings)
    assert ceph_files.key("seed", "osd.1") not in rings["osd.0.keyring"]
    # OSDs are made known by their preparation, not by the monitors' first store.
    assert "[osd." not in rings["all.keyring"] and "[client.rgw]" in rings["all.keyring"]


def test_everything_between_daemons_is_encrypted() -> None:
    text = ceph_files.settings(config(), ["ceph-mon-0.datalake.svc"])
    for who in ("cluster", "service", "client"):
        assert f"ms {who} mode = secure" in text and f"ms mon {who} mode = secure" in text
    assert "ms bind msgr1 = false" in text and " port=" not in text
    assert "fsid = 6c1f3d0e" in text and "mon host = ceph-mon-0.datalake.svc\n" in text


def test_a_policy_grants_what_is_declared() -> None:
    buckets = config().declaration()["buckets"]
    assert ceph_buckets.policy(buckets[0]) is None
    policy = ceph_buckets.policy(buckets[1])
    assert policy is not None
    (statement,) = policy["Statement"]
    assert statement["Principal"] == {"AWS": ["arn:aws:iam:::user/reader"]}
    assert "s3:GetObject" in statement["Action"] and "s3:PutObject" not in statement["Action"]
    (rule,) = ceph_buckets.rules(buckets[1])
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert "Expiration" not in rule
