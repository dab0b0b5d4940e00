"""What an operator decides about the operators of the data lake; Rook's is in rook_config."""

from __future__ import annotations

from pydantic import Field

from components.model import Model, Resources


class CloudNativePgConfig(Model):
    """The operator: one replica leads, the others wait for its lease.

    No CPU limit: the operator drives the failover, and the 100m of the release manifest would
    throttle it just then. `protect` keeps the definitions, and with them every cluster, from
    being deleted.
    """

    replicas: int = Field(default=1, ge=1, le=3)
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=96, memory_limit_mib=256)
    protect: bool = True


class StrimziConfig(Model):
    """The operator: one replica leads, the others wait for its lease.

    `protect` keeps the definitions, and with them every cluster and topic, from being deleted.
    """

    replicas: int = Field(default=1, ge=1, le=3)
    resources: Resources = Resources(
        cpu_request_m=200, memory_request_mib=512, memory_limit_mib=512
    )
    protect: bool = True


class MongodbOperatorConfig(Model):
    """The operator, one replica: it knows no leader. `protect` keeps its definition, and with it
    every replica set, from being deleted.
    """

    resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=200, memory_limit_mib=512
    )
    protect: bool = True


class BarmanCloudConfig(Model):
    """The plugin's own pod: one, as its release has it. Instances archive without it."""

    resources: Resources = Resources(cpu_request_m=20, memory_request_mib=64, memory_limit_mib=192)
    protect: bool = True
