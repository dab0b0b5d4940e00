"""What Rook is told, as data: the cluster, its pools, object store, file system and users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.checks import ExpectedPods
from components.datalake.ceph_config import CephConfig, S3User
from components.datalake.rook_config import RookSettings
from components.model import Image, Resources, topology_spread
from components.platform.namespaces import STORAGE

API_VERSION = "ceph.rook.io/v1"
STORE = "s3"
FILESYSTEM = "lake"
BLOCK_POOL = "block"
DATA_POOL = "data"
GROUP = "csi"
"""The subvolume group of CephFS's volumes: the name that its driver looks for."""

MONITOR_PORT = 3300
"""messenger v2, which alone is spoken; the rest of this module's ports are Rook's too."""
DAEMON_PORTS = list(range(6800, 6816))
"""An OSD takes four, the others one or two; restarted in its pod, a daemon takes the next ones."""
METRICS_PORT = 9283
EXPORTER_PORT = 9926
GATEWAY_PORT = 443
SITES_CA = "s3-sites-ca"
"""Secret with the certificate that verifies other sites."""
GATEWAY_SERVICE = f"rook-ceph-rgw-{STORE}"

APPS = {
    "mon": "rook-ceph-mon",
    "mgr": "rook-ceph-mgr",
    "osd": "rook-ceph-osd",
    "rgw": "rook-ceph-rgw",
    "mds": "rook-ceph-mds",
    "exporter": "rook-ceph-exporter",
    "crashcollector": "rook-ceph-crashcollector",
    "prepare": "rook-ceph-osd-prepare",
    "version": "rook-ceph-detect-version",
    "csi-version": "rook-ceph-csi-detect-version",
}
_HELPERS = ("prepareosd", "mgr-sidecar", "crashcollector", "logcollector", "exporter", "cleanup")


def selector(part: str) -> dict[str, str]:
    """The label by which Rook's pods of a part are known."""
    return {"app": APPS[part]}


def cluster_spec(config: CephConfig, image: Image) -> dict[str, Any]:
    """`.spec` of the `CephCluster`."""
    rook = settings(config)
    daemons = {
        "mon": config.monitor_resources,
        "mgr": config.manager_resources,
        "osd": config.osd_resources,
        **dict.fromkeys(_HELPERS, rook.helper_resources),
    }
    return {
        "cephVersion": {"image": image.ref, "allowUnsupported": False},
        "dataDirHostPath": "/var/lib/rook",
        "mon": {"count": config.monitors, "allowMultiplePerNode": False},
        "mgr": {"count": rook.managers, "allowMultiplePerNode": False},
        "dashboard": {"enabled": False},
        # Rook's own ServiceMonitors would be in clear and not among the estate's: see RookCeph.
        "monitoring": {"enabled": False, "metricsDisabled": False},
        # In transit: between daemons and to every client, for which kernels need be 5.11 or newer.
        "network": {"connections": {"encryption": {"enabled": True}, "requireMsgr2": True}},
        "crashCollector": {"disable": False, "daysToRetain": 30},
        "logCollector": {"enabled": False},
        "cephConfig": {
            "global": {
                "osd_pool_default_size": str(config.replicas),
                "osd_pool_default_min_size": str(config.min_replicas),
            }
        },
        "placement": {
            "all": {"nodeAffinity": node_affinity(rook.node_labels)},
            "mon": {
                "topologySpreadConstraints": topology_spread(
                    config.spread, selector("mon"), config.monitors
                )
            },
            "mgr": {
                "topologySpreadConstraints": topology_spread(
                    config.spread, selector("mgr"), rook.managers
                )
            },
        },
        "resources": {part: one.quantities() for part, one in daemons.items()},
        "priorityClassNames": {
            "mon": "system-node-critical",
            "osd": "system-node-critical",
            "mgr": "system-cluster-critical",
        },
        "storage": {
            "useAllNodes": True,
            "useAllDevices": False,
            "deviceFilter": rook.device_filter,
            "config": {"encryptedDevice": str(rook.encrypted).lower()},
        },
        # One host or rack at a time may be drained, and only while all its copies are elsewhere.
        "disruptionManagement": {"managePodBudgets": True, "osdMaintenanceTimeout": 30},
        "removeOSDsIfOutAndSafeToRemove": False,
        "cleanupPolicy": {
            **({"confirmation": "yes-really-destroy-data"} if rook.wipe else {}),
            "allowUninstallWithVolumes": False,
        },
    }


def settings(config: CephConfig) -> RookSettings:
    """What the configuration says for Rook; CephConfig sees to it that it is there."""
    assert config.rook is not None
    return config.rook


def node_affinity(labels: Mapping[str, str]) -> dict[str, Any]:
    """Only nodes with these labels."""
    wanted = [
        {"key": key, "operator": "In", "values": [value]} for key, value in sorted(labels.items())
    ]
    terms = [{"matchExpressions": wanted}]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def placement(config: CephConfig, labels: Mapping[str, str], count: int) -> dict[str, Any]:
    """`count` pods with these labels on the nodes with disks, and apart."""
    return {
        "nodeAffinity": node_affinity(settings(config).node_labels),
        "topologySpreadConstraints": topology_spread(config.spread, labels, count),
    }


def pool(config: CephConfig, **parameters: str) -> dict[str, Any]:
    """A replicated pool, each copy in another failure domain."""
    return {
        "failureDomain": settings(config).failure_domain,
        "replicated": {"size": config.replicas, "requireSafeReplicaSize": True},
        "parameters": {"min_size": str(config.min_replicas), **parameters},
    }


def _store_pools(config: CephConfig) -> dict[str, Any]:
    return {
        "metadataPool": pool(config),
        "dataPool": pool(config, bulk="true"),
        # Of a store that is deleted the data stays: whoever wants it gone deletes pools.
        "preservePoolsOnDelete": True,
    }


def sites(config: CephConfig) -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind -> name and `.spec` of what makes this site one of several, in their order."""
    found = settings(config).replication
    if found is None:
        return {}
    pulled = {"pull": {"endpoint": found.pull_from}} if found.pull_from is not None else {}
    return {
        "CephObjectRealm": (found.realm, pulled),
        "CephObjectZoneGroup": (found.zone_group, {"realm": found.realm}),
        "CephObjectZone": (
            found.zone,
            {
                "zoneGroup": found.zone_group,
                "customEndpoints": list(found.endpoints),
                **_store_pools(config),
            },
        ),
    }


def store_spec(config: CephConfig, tls: str) -> dict[str, Any]:
    """`.spec` of the `CephObjectStore`: S3 over TLS alone, by the certificate in Secret `tls`."""
    several = settings(config).replication
    bundle = {"caBundleRef": SITES_CA} if several is not None and several.ca is not None else {}
    return {
        # A zone has its pools itself.
        **(_store_pools(config) if several is None else {"zone": {"name": several.zone}}),
        "gateway": {
            "securePort": GATEWAY_PORT,
            "sslCertificateRef": tls,
            **bundle,
            "instances": config.gateways,
            "resources": config.gateway_resources.quantities(),
            "placement": placement(config, store_labels(), config.gateways),
            "priorityClassName": "system-cluster-critical",
        },
    }


def store_labels() -> dict[str, str]:
    """Of the gateways' pods."""
    return {**selector("rgw"), "rook_object_store": STORE}


def filesystem_spec(config: CephConfig) -> dict[str, Any]:
    """`.spec` of the `CephFilesystem`: each active metadata server has a standby that follows."""
    rook = settings(config)
    return {
        "metadataPool": pool(config),
        "dataPools": [{"name": DATA_POOL, **pool(config, bulk="true")}],
        "preserveFilesystemOnDelete": True,
        "metadataServer": {
            "activeCount": rook.metadata_servers,
            "activeStandby": True,
            "resources": rook.metadata_resources.quantities(),
            "placement": placement(config, filesystem_labels(), 2 * rook.metadata_servers),
            "priorityClassName": "system-cluster-critical",
        },
    }


def filesystem_labels() -> dict[str, str]:
    """Of the metadata servers' pods."""
    return {**selector("mds"), "rook_file_system": FILESYSTEM}


def group_spec() -> dict[str, Any]:
    """`.spec` of the `CephFilesystemSubVolumeGroup` that volumes are made in."""
    return {"name": GROUP, "filesystemName": FILESYSTEM, "pinning": {"distributed": 1}}


def user_spec(user: S3User, secret: str) -> dict[str, Any]:
    """`.spec` of a `CephObjectStoreUser` with exactly the keys in `secret`."""
    quotas = {"quotas": {"maxSize": f"{user.quota_gib}Gi"}} if user.quota_gib is not None else {}
    return {
        "store": STORE,
        "displayName": user.name,
        "keys": [
            {
                "accessKeyRef": {"name": secret, "key": "access-key"},
                "secretKeyRef": {"name": secret, "key": "secret-key"},
            }
        ],
        **quotas,
    }


def storage_classes() -> dict[str, dict[str, Any]]:
    """Name -> provisioner, reclaim policy and parameters: volumes of one pod, of many, buckets."""

    def secrets(driver: str) -> dict[str, str]:
        ends = {
            **dict.fromkeys(
                ("provisioner", "controller-expand", "controller-publish"), "provisioner"
            ),
            "node-stage": "node",
        }
        found = {}
        for use, end in ends.items():
            found[f"csi.storage.k8s.io/{use}-secret-name"] = f"rook-csi-{driver}-{end}"
            found[f"csi.storage.k8s.io/{use}-secret-namespace"] = STORAGE
        return found

    return {
        "ceph-block": {
            "provisioner": f"{STORAGE}.rbd.csi.ceph.com",
            "reclaim_policy": "Delete",
            "allow_volume_expansion": True,
            "parameters": {
                "clusterID": STORAGE,
                "pool": BLOCK_POOL,
                "imageFormat": "2",
                "imageFeatures": "layering,exclusive-lock,object-map,fast-diff",
                "csi.storage.k8s.io/fstype": "ext4",
                **secrets("rbd"),
            },
        },
        "ceph-filesystem": {
            "provisioner": f"{STORAGE}.cephfs.csi.ceph.com",
            "reclaim_policy": "Delete",
            "allow_volume_expansion": True,
            "parameters": {
                "clusterID": STORAGE,
                "fsName": FILESYSTEM,
                "pool": f"{FILESYSTEM}-{DATA_POOL}",
                **secrets("cephfs"),
            },
        },
        "ceph-bucket": {
            "provisioner": f"{STORAGE}.ceph.rook.io/bucket",
            "reclaim_policy": "Retain",
            "parameters": {"objectStoreName": STORE, "objectStoreNamespace": STORAGE},
        },
    }


def expected(config: CephConfig) -> list[ExpectedPods]:
    """The pods that Rook makes of it, but for those of which every node has one."""
    rook = settings(config)
    wanted: list[tuple[str, dict[str, str], int, Resources]] = [
        ("mon", selector("mon"), config.monitors, config.monitor_resources),
        ("mgr", selector("mgr"), rook.managers, config.manager_resources),
        ("osd", selector("osd"), config.osds, config.osd_resources),
        ("rgw", store_labels(), config.gateways, config.gateway_resources),
        ("mds", filesystem_labels(), 2 * rook.metadata_servers, rook.metadata_resources),
    ]
    return [
        ExpectedPods(
            name=APPS[part],
            namespace=STORAGE,
            selector=labels,
            count=count,
            resources=resources,
            # Disks are where they are; the copies are kept apart by CRUSH.
            spread="prefer" if part == "osd" else config.spread,
            # Rook itself puts no two monitors on one node.
            exclusive=part == "mon" and config.spread == "require",
            nodes=rook.node_labels,
        )
        for part, labels, count, resources in wanted
    ]
