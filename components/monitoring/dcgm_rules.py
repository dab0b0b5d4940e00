"""Alert rules about GPUs; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.monitoring.config import DcgmConfig
from components.platform.namespaces import GPUS
from components.workload import alert

OF_PROGRAMS = (13, 31, 43, 45, 68)
"""XIDs that a program on the GPU causes by its own mistake, or by being stopped."""
_GPU = "Hostname, gpu"
_WHERE = "GPU {{ $labels.gpu }} of {{ $labels.Hostname }}"


def dcgm_rules(config: DcgmConfig) -> list[dict[str, Any]]:
    """Metrics are DCGM's, as `dcgm.COUNTERS` chooses them."""
    here = f'namespace="{GPUS}"'
    programs = "|".join(map(str, (0, *OF_PROGRAMS)))
    used, free = (f"DCGM_FI_DEV_FB_{part}{{{here}}}" for part in ("USED", "FREE"))
    # Slices have no utilisation of their own but by profiling.
    name, least = (
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "< 0.001")
        if config.profiling
        else ("DCGM_FI_DEV_GPU_UTIL", "== 0")
    )
    busy = f'max_over_time({name}{{{here}, exported_pod!=""}}[1h])'
    idle = f"max by ({_GPU}, exported_pod) ({busy}) {least}"
    return [
        alert(
            "GpuMetricsMissing",
            f'absent(up{{{here}, job=~".*dcgm-exporter"}} == 1)',
            "no node tells what its GPUs do: are there nodes with GPUs, and is their driver there?",
            for_s=300,
            severity="warning",
        ),
        alert(
            "GpuError",
            f'max by ({_GPU}, xid) (DCGM_EXP_XID_ERRORS_COUNT{{{here}, xid!~"{programs}"}}) > 0',
            f"XID {{{{ $labels.xid }}}} of {_WHERE}: look it up in NVIDIA's list; drain the node "
            "where it says so",
            for_s=0,
        ),
        alert(
            "GpuMemoryBroken",
            f"max by ({_GPU}) (increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{here}}}[1h])) > 0",
            f"{_WHERE} had an error of two bits in its memory: what it computed then is lost; it "
            "wants a reset",
            for_s=0,
        ),
        alert(
            "GpuRowsNotReplaced",
            f"max by ({_GPU}) (DCGM_FI_DEV_ROW_REMAP_FAILURE{{{here}}}) > 0",
            f"{_WHERE} has no spare rows of memory left: replace it",
            for_s=60,
        ),
        alert(
            "GpuHot",
            f"max by ({_GPU}) (DCGM_FI_DEV_GPU_TEMP{{{here}}}) > {config.hot_c}",
            f"{_WHERE} is above {config.hot_c} degrees and slows down soon; look at its cooling",
            for_s=300,
            severity="warning",
        ),
        alert(
            "GpuMemoryNearlyFull",
            f"max by ({_GPU}, GPU_I_ID) ({used} / ({used} + {free})) > 0.95",
            f"{_WHERE} has less than 5 % of its memory free: the next model or batch may not fit",
            for_s=600,
            severity="warning",
        ),
        alert(
            "GpuIdle",
            idle,
            f"{{{{ $labels.exported_pod }}}} has {_WHERE} and has not used it for hours",
            for_s=3600,
            severity="warning",
        ),
    ]
