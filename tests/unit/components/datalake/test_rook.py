"""Ceph by Rook: what it is told, in which order it goes, and who may reach what."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.datalake import rook_operator, rook_spec
from components.datalake.ceph_config import CephConfig
from components.datalake.rook_ceph import RookCeph
from components.datalake.rook_config import RookConfig
from components.datalake.rook_operator import NAME, RookOperator
from components.flows import OUTSIDE, Pods
from components.model import Image, Images
from configs import versions
from stacks.context import manifest
from tests.rendering import ONPREM
from tests.unit.components.datalake.test_postgres_resources import Recorder, merge, plain

RELEASE = "rook-1.18.8"
SECRET_KEY = "transfer-secret-value"
DIGEST = "sha256:" + "a" * 64
IMAGES = Images(
    {
        key: Image(repository=one.repository, tag=one.tag, digest=DIGEST)
        for key, one in versions.declared().items()
    }
)
VALUES: dict[str, Any] = copy.deepcopy(ONPREM["ceph"])
VALUES["rook"].pop("replication")  # test_rook_sites.py
KINDS = {
    *("CephCluster", "CephBlockPool", "CephObjectStore", "CephFilesystem"),
    *("CephFilesystemSubVolumeGroup", "CephObjectStoreUser"),
}


def config(**changes: Any) -> CephConfig:
    return CephConfig.model_validate(VALUES | changes)


class Made:
    """The operator and the cluster, the objects that they make and what each depends on."""

    def __init__(self) -> None:
        self.operator: RookOperator
        self.ceph: RookCeph
        self.recorder = Recorder()
        self.depends: dict[str, set[str]] = {}
        self.protected: set[str] = set()

    def note(self, args: pulumi.ResourceTransformationArgs) -> None:
        given = args.opts.depends_on
        found = list(given) if isinstance(given, (list, tuple)) else []
        self.depends[args.name] = {one._name for one in found if isinstance(one, pulumi.Resource)}
        if args.opts.protect:
            self.protected.add(args.name)

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [plain(item) for item in self.recorder.made]

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        if namespace is not None:
            found = [one for one in found if one["metadata"]["namespace"] == namespace]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    side = Made()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    opts = pulumi.ResourceOptions(transformations=[side.note])
    side.operator = RookOperator(
        "rook",
        RookConfig(),
        namespace="storage",
        images=IMAGES,
        objects=manifest(RELEASE),
        monitors=[],
        opts=opts,
    )
    side.ceph = RookCeph(
        "ceph",
        config(),
        namespace="storage",
        clients_namespace="datalake",
        image=IMAGES["ceph"],
        admin_image=IMAGES["estate_admin"],
        secret_keys={user["name"]: pulumi.Output.secret(SECRET_KEY) for user in VALUES["users"]},
        authority=Authority(),
        operator=side.operator.ready,
        monitors=[],
        opts=opts,
    )
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    yield side


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rook": None}, "rook is None: missing; implementation rook needs it"),
        ({"keys": {"file": "ceph/keys"}}, "keys is 'declared': implementation rook does not use"),
        (
            {"implementation": "statefulset"},
            "fsid is None: missing.*keys is None: missing.*rook is 'declared': .* leave it out",
        ),
        ({"osds": 2}, r"replicas is 3: more copies than osds \(2\)"),
        ({"rook": {"device_filter": "^nvme[1-"}}, "not a regular expression"),
        (
            {"rook": {"device_filter": "^sd", "wipe": True}},
            "rook.wipe is True: a protected cluster must not empty its disks",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){expected}"):
        config(**changes)


def test_disks_are_emptied_only_where_it_is_asked_for() -> None:
    asked = {"device_filter": "^sd", "wipe": True}
    for changes, policy in (
        ({}, {"allowUninstallWithVolumes": False}),
        (
            {"protect": False, "rook": asked},
            {"confirmation": "yes-really-destroy-data", "allowUninstallWithVolumes": False},
        ),
    ):
        told = rook_spec.cluster_spec(config(**changes), IMAGES["ceph"])
        assert told["cleanupPolicy"] == policy


def test_copies_are_in_different_racks_or_hosts() -> None:
    for domain in ("rack", "host"):
        asked = VALUES["rook"] | {"failure_domain": domain}
        found = config(rook=asked)
        store = rook_spec.store_spec(found, "tls")
        files = rook_spec.filesystem_spec(found)
        pools = [store["metadataPool"], store["dataPool"], files["metadataPool"]]
        for pool in [*pools, *files["dataPools"], rook_spec.pool(found)]:
            assert pool["failureDomain"] == domain
            assert pool["replicated"]["size"] == 3
            assert pool["parameters"]["min_size"] == "2"


def test_disks_are_chosen_by_the_configuration() -> None:
    told = rook_spec.cluster_spec(config(), IMAGES["ceph"])
    assert told["storage"]["deviceFilter"] == VALUES["rook"]["device_filter"]
    assert told["storage"]["useAllDevices"] is False
    (term,) = told["placement"]["all"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "estate.dev/storage", "operator": "In", "values": ["true"]}
    ]
    assert told["storage"]["config"] == {"encryptedDevice": "true"}


def test_clients_see_the_same_store_as_of_the_other_implementation(made: Made) -> None:
    store = made.ceph.store
    assert store.endpoint == "https://s3.datalake.svc.cluster.local:443"
    service = made.get("Service", "s3")["spec"]
    assert service == {
        "type": "ExternalName",
        "externalName": "rook-ceph-rgw-s3.storage.svc.cluster.local",
    }
    names = made.get("Certificate", "ceph-gateway-tls", "storage")["spec"]["dnsNames"]
    assert {"s3.datalake.svc.cluster.local", service["externalName"]} <= set(names)
    gateway = made.get("CephObjectStore", "s3")["spec"]["gateway"]
    assert gateway["securePort"] == 443 == store.target_port and "port" not in gateway
    for user in VALUES["users"]:
        for namespace in ("datalake", "storage"):
            secret = made.get("Secret", f"s3-{user['name']}", namespace)["stringData"]
            assert secret == {"access-key": user["name"], "secret-key": SECRET_KEY}
        told = made.get("CephObjectStoreUser", user["name"])["spec"]
        assert told["keys"][0]["secretKeyRef"] == {
            "name": f"s3-{user['name']}",
            "key": "secret-key",
        }
        assert ("quotas" in told) == ("quota_gib" in user)


def test_keys_are_in_secrets_only(made: Made) -> None:
    for item in made.objects:
        assert item["kind"] == "Secret" or SECRET_KEY not in str(item), item["metadata"]["name"]


def test_all_of_it_goes_before_the_operator(made: Made) -> None:
    """Pulumi deletes what depends on another before it: Rook takes its finalizers away itself."""
    release = {one._name for one in made.operator.ready}
    assert f"deployment-storage-{NAME}" in release
    assert "customresourcedefinition-cephclusters.ceph.rook.io" in release
    found = {name for name in made.depends if name.startswith("ceph-ceph")}
    assert len(found) == len(KINDS) - 1 + len(VALUES["users"])
    for name in found:
        assert release <= made.depends[name], name
    cluster = "ceph-cephcluster-ceph"
    for name in found - {cluster}:
        through = {cluster, *found} & made.depends[name]
        assert through, f"{name} does not go before the cluster"
    assert "ceph-cephobjectstoreuser-transfer" in made.depends["ceph-buckets"]
    assert "ceph-cephobjectstore-s3" in made.depends["ceph-cephobjectstoreuser-transfer"]
    group = made.depends["ceph-cephfilesystemsubvolumegroup-csi"]
    assert "ceph-cephfilesystem-lake" in group


def test_every_fault_changes_what_is_declared(made: Made) -> None:
    assert [one.id for one in made.ceph.checks] == [
        *("ceph.put-get", "ceph.wrong-key", "ceph.healthy", "ceph.declared")
    ]
    for check in made.ceph.checks:
        target = check.fault.target
        before = made.get(target.kind, target.name, target.namespace)
        assert before["apiVersion"] == target.api_version
        after = copy.deepcopy(before)
        merge(after, check.fault.patch)
        assert after != before, check.id


def test_what_holds_data_is_protected(made: Made) -> None:
    assert {
        "ceph-cephcluster-ceph",
        "ceph-cephblockpool-block",
        "ceph-cephobjectstore-s3",
        "ceph-cephfilesystem-lake",
        "customresourcedefinition-cephclusters.ceph.rook.io",
    } <= made.protected


def test_every_image_is_pinned(made: Made) -> None:
    told = made.get("ConfigMap", rook_operator.SETTINGS)["data"]
    images = {key: value for key, value in told.items() if key.endswith("_IMAGE")}
    assert len(images) == 5
    pod = made.get("Deployment", NAME)["spec"]["template"]["spec"]
    cluster = made.get("CephCluster", "ceph")["spec"]["cephVersion"]["image"]
    for ref in [*images.values(), cluster, *(one["image"] for one in pod["containers"])]:
        assert ref.endswith(f"@{DIGEST}")


def test_the_drivers_resources_are_those_that_are_expected(made: Made) -> None:
    told = made.get("ConfigMap", rook_operator.SETTINGS)["data"]
    pods = {one.name: one for one in made.operator.expected_pods}
    for driver in rook_operator.DRIVERS:
        rows = yaml.safe_load(told[f"CSI_{driver.upper()}_PROVISIONER_RESOURCE"])
        memory = sum(int(row["resource"]["requests"]["memory"][:-2]) for row in rows)
        one = pods[f"csi-{driver}plugin-provisioner"]
        assert one.resources.memory_request_mib == memory
        assert one.count == int(told["CSI_PROVISIONER_REPLICAS"])


def test_the_operator_watches_its_own_namespace(made: Made) -> None:
    pod = made.get("Deployment", NAME)["spec"]["template"]["spec"]
    env = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert env["ROOK_CURRENT_NAMESPACE_ONLY"] == "true"
    for item in made.objects:
        assert "rook-ceph" not in (
            item["metadata"].get("namespace"),
            *(one.get("namespace") for one in item.get("subjects", [])),
        ), item["metadata"]["name"]


def test_only_what_kernels_mount_from_is_open_to_nodes(made: Made) -> None:
    opened = {
        flow.target.name
        for flow in made.ceph.flows
        if flow.source == OUTSIDE and isinstance(flow.target, Pods)
    }
    assert opened == {"rook-ceph-mon", "rook-ceph-osd", "rook-ceph-mds"}


def test_storage_classes_lead_to_what_is_declared(made: Made) -> None:
    block = made.get("StorageClass", "ceph-block")["parameters"]
    files = made.get("StorageClass", "ceph-filesystem")["parameters"]
    bucket = made.get("StorageClass", "ceph-bucket")["parameters"]
    assert made.get("CephBlockPool", block["pool"])
    (pool,) = made.get("CephFilesystem", files["fsName"])["spec"]["dataPools"]
    assert files["pool"] == f"{files['fsName']}-{pool['name']}"
    assert made.get("CephObjectStore", bucket["objectStoreName"])
    for one in (block, files):
        assert one["clusterID"] == "storage"


def test_the_release_is_the_images(made: Made) -> None:
    assert f"rook-{versions.declared()['rook_operator'].tag.removeprefix('v')}" == RELEASE
    kinds = {
        body["spec"]["names"]["kind"]
        for body in manifest(RELEASE)
        if body["kind"] == "CustomResourceDefinition"
    }
    assert kinds >= KINDS
