"""What Prometheus watches of Ceph: the manager's own metrics, and alerts on them."""

from __future__ import annotations

from typing import Any

from components.datalake.ceph_config import CephConfig
from components.workload import alert


def alerts(config: CephConfig) -> list[dict[str, Any]]:
    """The alert rules of a cluster, the same whoever runs it."""
    return [
        alert(
            "CephMetricsMissing",
            "absent(ceph_health_status)",
            "nobody tells how Ceph is: its manager is away, or has lost the monitors",
            for_s=180,
        ),
        alert(
            "CephHealthError",
            "max(ceph_health_status) == 2",
            "Ceph's health is HEALTH_ERR: data may be out of reach",
            for_s=60,
        ),
        alert(
            "CephHealthWarning",
            "max(ceph_health_status) == 1",
            "Ceph's health is HEALTH_WARN",
            for_s=600,
            severity="warning",
        ),
        alert(
            "CephOsdDown",
            "count(ceph_osd_up == 0) > 0",
            "an OSD is down: its copies are missing",
            for_s=120,
        ),
        alert(
            "CephMonitorsOutOfQuorum",
            f"sum(ceph_mon_quorum_status) < {config.monitors}",
            "a monitor is out of the quorum",
            for_s=120,
            severity="warning",
        ),
        alert(
            "CephPlacementGroupsInactive",
            "sum(ceph_pg_total) - sum(ceph_pg_active) > 0",
            "placement groups are not active: what is in them can be neither read nor written",
            for_s=120,
        ),
        alert(
            "CephNearFull",
            "sum(ceph_cluster_total_used_bytes) / sum(ceph_cluster_total_bytes) > 0.8",
            "four fifths of Ceph's space are used: at 95 % it takes no more writes",
            for_s=600,
            severity="warning",
        ),
    ]
