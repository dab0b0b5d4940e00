"""What an operator decides about monitoring: retention, storage, where alerts go."""

from __future__ import annotations

from pydantic import Field, model_validator

from components.model import Model, Name, Resources, Spread, Storage, problem, refuse


class StateMetricsConfig(Model):
    """What alerts about CronJobs need; of one replica, whose absence is an alert itself."""

    resources: Resources = Resources(cpu_request_m=10, memory_request_mib=48, memory_limit_mib=128)


class DcgmConfig(Model):
    """NVIDIA's exporter on every node with a GPU.

    `profiling` adds how busy slices (MIG) and memory are, which NVIDIA's driver tells nobody
    without SYS_ADMIN. `runtime_class` is that of NVIDIA's GPU operator: by it the exporter has all
    GPUs.
    """

    profiling: bool = False
    interval_s: int = Field(default=15, ge=1, le=300)
    hot_c: int = Field(default=85, ge=40, le=120, description="alert from here on, degrees")
    runtime_class: Name | None = "nvidia"
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=256, memory_limit_mib=512)


class PrometheusConfig(Model):
    """Prometheus: every replica scrapes everything on its own."""

    replicas: int = Field(default=1, ge=1, le=4)
    scrape_interval_s: int = Field(default=15, ge=5, le=300)
    retention_days: int = Field(default=15, ge=1, le=3650)
    storage: Storage = Storage(size_gib=8)
    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=256, memory_limit_mib=768
    )


class Webhook(Model):
    """A receiver of alerts: gets Alertmanager's JSON for alerts of these severities."""

    name: Name
    url: str = Field(pattern=r"^https?://[^\s]+$")
    severities: list[str] = Field(default=["critical", "warning"], min_length=1)


class AlertmanagerConfig(Model):
    """Alertmanager: more than one replica form a cluster that notifies once.

    Without a webhook alerts are shown, and sent to nobody.
    """

    replicas: int = Field(default=1, ge=1, le=5)
    webhooks: list[Webhook] = Field(default_factory=list)
    group_wait_s: int = Field(default=15, ge=0, le=3600)
    group_interval_s: int = Field(default=60, ge=1, le=86_400)
    repeat_interval_h: int = Field(default=12, ge=1, le=720)
    storage: Storage = Storage(size_gib=1)
    resources: Resources = Resources(cpu_request_m=10, memory_request_mib=32, memory_limit_mib=128)

    @model_validator(mode="after")
    def _names(self) -> AlertmanagerConfig:
        names = [webhook.name for webhook in self.webhooks]
        refuse(
            [
                problem(f"webhooks.{i}.name", name, "declared twice; every receiver once")
                for i, name in enumerate(names)
                if name in names[:i] or name == "nobody"
            ]
        )
        return self


class MonitoringConfig(Model):
    """Prometheus and Alertmanager; `protect` refuses to delete them, and with them their data.

    With `dashboards` every part brings a ConfigMap that a Grafana in the cluster shows.
    `state_metrics` says when CronJobs last succeeded: alerts about backups need it. `dcgm` says
    what nodes' GPUs do.
    """

    prometheus: PrometheusConfig = PrometheusConfig()
    alertmanager: AlertmanagerConfig = AlertmanagerConfig()
    state_metrics: StateMetricsConfig | None = None
    dcgm: DcgmConfig | None = None
    spread: Spread = "prefer"
    dashboards: bool = True
    protect: bool = True


class PrometheusOperatorConfig(Model):
    """The operator and the reloader that it puts beside every Prometheus and Alertmanager."""

    resources: Resources = Resources(cpu_request_m=20, memory_request_mib=48, memory_limit_mib=192)
    reloader_resources: Resources = Resources(
        cpu_request_m=5, cpu_limit_m=200, memory_request_mib=24, memory_limit_mib=64
    )
    protect: bool = True
