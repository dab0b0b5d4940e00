"""Configuration of Rook: the operator, and what a Ceph has only under it."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from components.model import Model, Resources, immutable

STORAGE_NODES = {"estate.dev/storage": "true"}
"""Nodes with disks for Ceph carry this label, and their rack's name in `topology.rook.io/rack`."""


class RookConfig(Model):
    """The operator and the CSI drivers that it runs.

    `protect` keeps the definitions, and with them every cluster, from being deleted.
    """

    resources: Resources = Resources(
        cpu_request_m=200, memory_request_mib=256, memory_limit_mib=512
    )
    provisioners: int = Field(default=2, ge=1, le=3, description="of each CSI driver; one leads")
    driver_resources: Resources = Resources(
        cpu_request_m=100, memory_request_mib=256, memory_limit_mib=1024
    )
    sidecar_resources: Resources = Resources(
        cpu_request_m=20, memory_request_mib=64, memory_limit_mib=256
    )
    protect: bool = True


class RookSettings(Model):
    """What Rook alone does: OSDs on the disks of nodes, a block pool and a file system.

    Copies of an object are in different racks or hosts (`failure_domain`): a host's rack is its
    label `topology.rook.io/rack`. Rook makes its OSDs on nodes with `node_labels`, on every empty
    disk whose name `device_filter` matches; `osds` is how many those are together.
    """

    device_filter: str = Field(
        min_length=2,
        description="a regular expression such as ^nvme[1-9]n1$; never the system's disk",
    )
    node_labels: dict[str, str] = Field(default=STORAGE_NODES, min_length=1)
    failure_domain: Literal["host", "rack"] = immutable("rack")
    encrypted: bool = immutable(True)
    managers: Literal[1, 2] = 2
    metadata_servers: int = Field(
        default=1, ge=1, le=10, description="active ones of the file system; each has a standby"
    )
    metadata_resources: Resources = Resources(
        cpu_request_m=500, memory_request_mib=4096, memory_limit_mib=4096
    )
    helper_resources: Resources = Field(
        default=Resources(cpu_request_m=20, memory_request_mib=64, memory_limit_mib=512),
        description="of the programs beside the daemons: exporter, crash collector, preparation",
    )
    wipe: bool = Field(
        default=False,
        description="empty disks and /var/lib/rook with the cluster; needs protect: false",
    )

    @field_validator("device_filter")
    @classmethod
    def _expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value
