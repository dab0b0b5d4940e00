"""The dashboard of GPUs: series of NVIDIA's exporter."""

from __future__ import annotations

from components.dashboards import HERE, PODS, RATE, Dashboard, Panel, graph, quiet, stat
from components.monitoring.config import DcgmConfig
from components.platform.namespaces import GPUS

_GPU = "Hostname, gpu"
_LEGEND = "{{Hostname}} {{gpu}}"
_MIB = 1_048_576


def dcgm_dashboard(name: str, config: DcgmConfig) -> Dashboard:
    """One pod of it is one node; `exported_pod` is the pod that a GPU is given to."""
    used, free = (f"DCGM_FI_DEV_FB_{part}{{{PODS}}}" for part in ("USED", "FREE"))
    return Dashboard(
        name=name,
        title="GPUs",
        description="What nodes' GPUs do, and for whom.",
        namespace=GPUS,
        source="DCGM_FI_DEV_GPU_TEMP",
        pods=True,
        alerts="Gpu.+",
        health=[
            stat(
                "GPUs",
                "Those that answer.",
                f"count(count by (UUID) (DCGM_FI_DEV_GPU_TEMP{{{PODS}}}))",
                red_below=1,
            ),
            stat(
                "Errors (XID)",
                "Of the last five minutes, those of programs too.",
                quiet(f'sum(DCGM_EXP_XID_ERRORS_COUNT{{{PODS}, xid!="0"}})'),
                red_from=1,
            ),
            stat(
                "Hottest",
                f"An alert from {config.hot_c} degrees on.",
                f"max(DCGM_FI_DEV_GPU_TEMP{{{PODS}}})",
                "celsius",
                red_from=config.hot_c,
            ),
        ],
        traffic=[
            graph(
                "Utilisation",
                "Share of the time in which a kernel ran; a GPU in slices (MIG) has none.",
                "percentunit",
                {_LEGEND: quiet(f"max by ({_GPU}) (DCGM_FI_DEV_GPU_UTIL{{{PODS}}}) / 100")},
            ),
            *([_slices()] if config.profiling else ()),
            graph(
                "Utilisation by pod",
                "Of the GPUs that a pod was given, their mean.",
                "percentunit",
                {"{{exported_namespace}}/{{exported_pod}}": quiet(_by_pod(config))},
            ),
            graph(
                "Power",
                "Of a GPU.",
                "watt",
                {_LEGEND: f"max by ({_GPU}) (DCGM_FI_DEV_POWER_USAGE{{{PODS}}})"},
            ),
            graph(
                "Clock of the SMs",
                "It falls where a GPU is too hot, or has reached its power.",
                "hertz",
                {_LEGEND: f"max by ({_GPU}) (DCGM_FI_DEV_SM_CLOCK{{{PODS}}}) * 1000000"},
            ),
        ],
        saturation=[
            graph(
                "Memory in use",
                "Of a GPU, or of one slice.",
                "percentunit",
                {
                    f"{_LEGEND} {{{{GPU_I_ID}}}}": f"max by ({_GPU}, GPU_I_ID) "
                    f"({used} / ({used} + {free}))"
                },
            ),
            graph(
                "Memory by pod",
                "What a pod's GPUs have in use together.",
                "bytes",
                {
                    "{{exported_namespace}}/{{exported_pod}}": quiet(
                        "sum by (exported_namespace, exported_pod) "
                        f'(DCGM_FI_DEV_FB_USED{{{PODS}, exported_pod!=""}}) * {_MIB}'
                    )
                },
            ),
            graph(
                "Temperature",
                "Of the GPU; its memory is mostly warmer.",
                "celsius",
                {_LEGEND: f"max by ({_GPU}) (DCGM_FI_DEV_GPU_TEMP{{{PODS}}})"},
            ),
        ],
        errors=[
            graph(
                "Errors (XID) by number",
                "13, 31, 43, 45 and 68 are programs' own; look the others up in NVIDIA's list.",
                "short",
                {
                    f"{_LEGEND} XID {{{{xid}}}}": quiet(
                        f"max by ({_GPU}, xid) (DCGM_EXP_XID_ERRORS_COUNT{{{PODS}}})"
                    )
                },
            ),
            graph(
                "Errors of memory",
                "Of one bit they are mended; of two bits a result is lost.",
                "ops",
                {
                    "one bit": quiet(f"sum(rate(DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{{{PODS}}}[{RATE}]))"),
                    "two bits": quiet(
                        f"sum(rate(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{PODS}}}[{RATE}]))"
                    ),
                },
            ),
            graph(
                "Memory that cannot be mended",
                "No spare row is left, or a row was replaced: the first wants another GPU.",
                "short",
                {
                    f"{_LEGEND} no row left": quiet(
                        f"max by ({_GPU}) (DCGM_FI_DEV_ROW_REMAP_FAILURE{{{PODS}}})"
                    ),
                    f"{_LEGEND} rows replaced": quiet(
                        f"max by ({_GPU}) (DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{PODS}}})"
                    ),
                },
            ),
            graph(
                "Nodes that do not answer",
                "Their exporter is there, and does not tell.",
                "short",
                {"nodes": quiet(f'count(up{{{HERE}, job=~".*{name}"}} == 0)')},
            ),
        ],
    )


def _slices() -> Panel:
    by, active = f"{_GPU}, GPU_I_PROFILE, GPU_I_ID", f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{PODS}}}"
    return graph(
        "Utilisation of slices",
        "Share of the time in which a GPU, or one slice of it, computed.",
        "percentunit",
        {f"{_LEGEND} {{{{GPU_I_PROFILE}}}} {{{{GPU_I_ID}}}}": quiet(f"max by ({by}) ({active})")},
    )


def _by_pod(config: DcgmConfig) -> str:
    mean = "avg by (exported_namespace, exported_pod)"
    given = f'{PODS}, exported_pod!=""'
    if config.profiling:
        return f"{mean} (DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{given}}})"
    return f"{mean} (DCGM_FI_DEV_GPU_UTIL{{{given}}}) / 100"
