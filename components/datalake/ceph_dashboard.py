"""Ceph's dashboard: series of its manager, the same whoever runs the cluster."""

from __future__ import annotations

from components.dashboards import HERE, RATE, Dashboard, graph, quiet, stat
from components.datalake.ceph_config import CephConfig


def ceph_dashboard(name: str, namespace: str, config: CephConfig) -> Dashboard:
    """Of one cluster. No `$pod`: the manager speaks for all daemons, and may move."""
    used = f"sum(ceph_cluster_total_used_bytes{{{HERE}}})"
    total = f"sum(ceph_cluster_total_bytes{{{HERE}}})"
    return Dashboard(
        name=name,
        title="Ceph",
        description="Health, daemons, pools and space of the object store.",
        namespace=namespace,
        source="ceph_health_status",
        alerts="Ceph.+",
        health=[
            stat(
                "Health",
                "0 is HEALTH_OK, 1 HEALTH_WARN, 2 HEALTH_ERR; `ceph health detail` says why.",
                f"max(ceph_health_status{{{HERE}}})",
                red_from=1,
            ),
            stat(
                "OSDs down",
                "Their copies are missing until they are back or rebuilt.",
                quiet(f"count(ceph_osd_up{{{HERE}}} == 0)"),
                red_from=1,
            ),
            stat(
                "Monitors in the quorum",
                f"{config.monitors} are declared; a majority must agree.",
                f"sum(ceph_mon_quorum_status{{{HERE}}})",
                red_below=config.monitors,
            ),
            stat(
                "Inactive placement groups",
                "What is in them can be neither read nor written.",
                f"sum(ceph_pg_total{{{HERE}}}) - sum(ceph_pg_active{{{HERE}}})",
                red_from=1,
            ),
            stat(
                "Space used",
                "At 95 % it takes no more writes.",
                f"{used} / {total}",
                "percentunit",
                red_from=0.8,
            ),
        ],
        traffic=[
            graph(
                "Bytes read and written",
                "By clients, by pool.",
                "binBps",
                {
                    "read {{name}}": _by_pool("ceph_pool_rd_bytes"),
                    "written {{name}}": _by_pool("ceph_pool_wr_bytes"),
                },
            ),
            graph(
                "Operations",
                "By clients, by pool.",
                "ops",
                {
                    "reads {{name}}": _by_pool("ceph_pool_rd"),
                    "writes {{name}}": _by_pool("ceph_pool_wr"),
                },
            ),
        ],
        saturation=[
            graph(
                "Space",
                "What is used holds all copies.",
                "bytes",
                {"used": used, "total": total},
            ),
            graph(
                "Commit latency of OSDs",
                "One that is much slower than the others has a bad disk.",
                "ms",
                {"{{ceph_daemon}}": f"ceph_osd_commit_latency_ms{{{HERE}}}"},
            ),
        ],
        errors=[
            graph(
                "Objects not as they should be",
                "Degraded ones miss copies, misplaced ones wait to be moved, unfound ones are lost "
                "while no OSD with them comes back.",
                "short",
                {
                    state: f"sum(ceph_num_objects_{state}{{{HERE}}})"
                    for state in ("degraded", "misplaced", "unfound")
                },
            ),
            graph(
                "Slow operations",
                "Requests that wait for longer than 30 s.",
                "short",
                {"slow": quiet(f"sum(ceph_healthcheck_slow_ops{{{HERE}}})")},
            ),
        ],
    )


def _by_pool(counter: str) -> str:
    """A pool's rate under its name: the counters carry only its number."""
    names = f"max by (pool_id, name) (ceph_pool_metadata{{{HERE}}})"
    rate = f"max by (pool_id) (rate({counter}{{{HERE}}}[{RATE}]))"
    return f"sum by (name) ({rate} * on (pool_id) group_left (name) {names})"
