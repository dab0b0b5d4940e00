"""Object stores of several sites: what Rook is told, who reaches whom, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs
from pydantic import ValidationError

from components.authority import Authority
from components.datalake import rook_spec
from components.datalake.ceph_config import CephConfig
from components.datalake.rook_ceph import RookCeph
from components.flows import OUTSIDE
from components.model import Image
from tests.rendering import ONPREM
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

VALUES: dict[str, Any] = ONPREM["ceph"]
KEYS = ("access-key-of-realm", "secret-key-of-realm")
IMAGE = Image(repository="quay.io/ceph/ceph", tag="v19", digest="sha256:" + "a" * 64)
CA = "-----BEGIN CERTIFICATE-----\n"


def config(**changes: Any) -> CephConfig:
    several = {**VALUES["rook"]["replication"], **changes}
    return CephConfig.model_validate(VALUES | {"rook": {**VALUES["rook"], "replication": several}})


class Made:
    def __init__(self) -> None:
        self.recorder = Recorder()
        self.ceph: RookCeph

    def get(self, kind: str, name: str) -> dict[str, Any]:
        objects: list[dict[str, Any]] = [plain(one) for one in self.recorder.made]
        (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    side = Made()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    side.ceph = RookCeph(
        "ceph",
        config(ca=CA),
        namespace="storage",
        clients_namespace="datalake",
        image=IMAGE,
        admin_image=IMAGE,
        secret_keys={user["name"]: pulumi.Output.secret("key") for user in VALUES["users"]},
        realm_keys=[pulumi.Output.secret(key) for key in KEYS],
        authority=Authority(),
    )
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    yield side


def test_the_store_is_in_a_zone_that_has_its_pools(made: Made) -> None:
    store = made.get("CephObjectStore", rook_spec.STORE)["spec"]
    assert store["zone"] == {"name": "south"}
    # Rook refuses pools beside a zone.
    assert not {"metadataPool", "dataPool"} & set(store)
    zone = made.get("CephObjectZone", "south")["spec"]
    assert {"metadataPool", "dataPool"} <= set(zone) and zone["preservePoolsOnDelete"] is True
    group = made.get("CephObjectZoneGroup", zone["zoneGroup"])["spec"]
    realm = made.get("CephObjectRealm", group["realm"])["spec"]
    assert realm == {"pull": {"endpoint": "https://s3.north.example.com:8443"}}


def test_realm_keys_are_in_the_secret_that_rook_looks_for(made: Made) -> None:
    data = made.get("Secret", "estate-keys")["stringData"]
    assert (data["access-key"], data["secret-key"]) == KEYS
    others = [plain(one) for one in made.recorder.made if one["kind"] != "Secret"]
    assert not any(key in json.dumps(others) for key in KEYS)


def test_other_sites_are_verified_by_their_authority(made: Made) -> None:
    gateway = made.get("CephObjectStore", rook_spec.STORE)["spec"]["gateway"]
    assert made.get("Secret", gateway["caBundleRef"])["stringData"] == {"cabundle": CA}


def test_gateways_of_the_sites_reach_each_other(made: Made) -> None:
    flows = {(str(f.source), str(f.target), *f.ports) for f in made.ceph.flows}
    gateways = next(f.target for f in made.ceph.flows if f.target == made.ceph.store.pods)
    assert (OUTSIDE, str(gateways), rook_spec.GATEWAY_PORT) in flows
    assert (str(gateways), OUTSIDE, 8443) in flows


def test_the_first_site_pulls_from_nobody() -> None:
    sites = rook_spec.sites(config(pull_from=None))
    assert list(sites) == ["CephObjectRealm", "CephObjectZoneGroup", "CephObjectZone"]
    assert sites["CephObjectRealm"][1] == {}


def test_a_single_site_has_its_pools_itself() -> None:
    rook = {key: value for key, value in VALUES["rook"].items() if key != "replication"}
    alone = CephConfig.model_validate(VALUES | {"rook": rook})
    assert rook_spec.sites(alone) == {}
    store = rook_spec.store_spec(alone, "tls")
    assert "zone" not in store and "metadataPool" in store


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zone": "South!"}, "zone"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["http://s3.example.com"]}, "endpoints"),
        ({"pull_from": "s3.example.com"}, "pull_from"),
        ({"secret_key": "plain"}, "secret_key"),
        ({"mirror": True}, "mirror"),
    ],
)
def test_a_wrong_site_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        config(**changes)
