"""Which series each part's exporters have: `tests/series.toml`, and what the code itself makes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import yaml
from prometheus_client import Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from components.datalake import kafka_files
from components.datalake.pgpool_config import exporter_conf
from components.monitoring import dcgm
from components.realtime import mosquitto_config
from services.annotation import metrics as annotation
from services.collect import metrics as collect
from services.console import metrics as console
from services.pipeline import metrics as pipeline
from services.serving import metrics as serving
from services.transfer import metrics as transfer
from stacks.context import manifest

_RECORDED = {
    name: set(entry["names"])
    for name, entry in tomllib.loads(
        (Path(__file__).parent / "series.toml").read_text(encoding="utf-8")
    ).items()
}
_OPERATOR = ("controller_runtime",)
_PARTS = {
    "cert-manager": ("cert_manager",),
    "cloudnative-pg": _OPERATOR,
    "rook-ceph-operator": _OPERATOR,
    "mongodb-kubernetes-operator": _OPERATOR,
    "strimzi-cluster-operator": ("strimzi",),
    "postgres": ("cnpg_collector", "barman_cloud"),
    "mongodb-backup": ("kube_state_metrics",),
    "kafka-backup": ("kube_state_metrics",),
    "model-registry-backup": ("kube_state_metrics",),
    "kube-state-metrics": (),
    # Sessions are those of the servers behind the pool.
    "pgpool": ("sql_exporter", "cnpg_collector"),
    "kafka": ("kafka",),
    "mongodb": ("ferretdb", "process"),
    "ceph": ("ceph",),
    "transfer": ("haproxy", "tusd"),
    "pipeline": (),
    "annotation": (),
    "console": ("process",),
    "mosquitto": (),
    "collect": (),
    "model-registry": ("haproxy", "distribution", "process"),
    "monitoring": ("prometheus_server", "alertmanager"),
    "serving": ("triton", "haproxy"),
    "keda-operator": (*_OPERATOR, "keda"),
    "dcgm-exporter": (),
}


def exported(part: str) -> set[str]:
    """The series that a dashboard of this part may ask for; KeyError for a part unknown here."""
    made: dict[str, Callable[[], set[str]]] = {
        "postgres": _cnpg,
        "pgpool": lambda: _pgpool() | _cnpg(),
        "transfer": lambda: _client(transfer),
        "pipeline": lambda: _client(pipeline),
        "annotation": lambda: _client(annotation),
        "console": lambda: _client(console),
        "collect": lambda: _client(collect),
        "serving": lambda: _client(serving),
        "dcgm-exporter": _dcgm,
        "mosquitto": lambda: {name for name, _, _ in mosquitto_config._METRICS.values()},
    }
    found = set(_RECORDED["prometheus"])
    for exporter in _PARTS[part]:
        found |= _RECORDED[exporter]
    return found | (made[part]() if part in made else set())


def unknown_dcgm_fields() -> set[str]:
    """Fields that the exporter is told to read and DCGM, as far as it is recorded, has not."""
    return {*dcgm.COUNTERS, *dcgm.PROFILING} - _RECORDED["dcgm"]


def unmade_kafka_series() -> set[str]:
    """Recorded names that no rule of the JMX agent makes."""
    rules = yaml.safe_load(kafka_files.JMX)["rules"]
    made = [re.compile(re.sub(r"\$\d", r"\\w+", rule["name"].lower())) for rule in rules]
    return {one for one in _RECORDED["kafka"] if not any(rule.fullmatch(one) for rule in made)}


def _client(module: ModuleType) -> set[str]:
    """The names of the samples of a module's metrics."""
    found: set[str] = set()
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            if isinstance(metric, Gauge):
                found.add(family.name)
            elif isinstance(metric, Histogram):
                found |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
            else:
                found.add(f"{family.name}_total")
    return found


def _cnpg() -> set[str]:
    (body,) = (
        one["data"]["queries"]
        for one in manifest("cloudnative-pg-1.30.0")
        if one["kind"] == "ConfigMap" and "queries" in one.get("data", {})
    )
    return {
        f"cnpg_{query}_{column}"
        for query, entry in yaml.safe_load(body).items()
        for metric in entry["metrics"]
        for column, details in metric.items()
        if details["usage"] != "LABEL"
    }


def _dcgm() -> set[str]:
    """A field's name is its series'; a label is on the others."""
    fields = {**dcgm.COUNTERS, **dcgm.PROFILING}
    return {name for name, (type_, _) in fields.items() if type_ != "label"}


def _pgpool() -> set[str]:
    (job,) = yaml.safe_load(exporter_conf("app", "monitor"))["jobs"]
    return {f"sql_{query['name']}" for query in job["queries"]}
