"""Configuration of Rook: the operator, and what a Ceph has only under it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from components.model import Model, Name, Resources, SecretRef, immutable

STORAGE_NODES = {"estate.dev/storage": "true"}
"""Nodes with disks for Ceph carry this label, and their rack's name in `topology.rook.io/rack`."""

_Endpoint = Annotated[
    str, Field(pattern=r"^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[1-9][0-9]{0,4})?$")
]


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


class Replication(Model):
    """The place of a site among several whose S3 is one: users, buckets and objects are in all.

    Every zone of a zone group holds all of its buckets, and takes writes; the sites' gateways pull
    from each other. The first site makes the realm, another one pulls it from there. The realm's
    keys are the same everywhere. To be decided when the object store is made.
    """

    realm: Name = immutable("estate")
    zone_group: Name = immutable("estate")
    zone: Name = immutable(description="this site's name; every site another")
    endpoints: list[_Endpoint] = Field(
        min_length=1,
        description="by which the other sites reach these gateways: a load balancer's, of your own",
    )
    pull_from: _Endpoint | None = immutable(
        None, description="an endpoint of the first site; None: this is the first"
    )
    peers: list[_Endpoint] = Field(
        default_factory=list, description="endpoints of the other sites, for the network's rules"
    )
    ca: str | None = Field(
        default=None,
        pattern=r"^-----BEGIN CERTIFICATE-----",
        description="PEM of who signs the other sites' certificates; None: the public authorities",
    )
    access_key: SecretRef
    secret_key: SecretRef

    @property
    def peer_ports(self) -> list[int]:
        """Where other sites answer."""
        asked = [*self.peers, *([self.pull_from] if self.pull_from is not None else [])]
        return sorted({int(one.removeprefix("https://").partition(":")[2] or 443) for one in asked})


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
    replication: Replication | None = Field(
        default=None, description="None: the store of this site is the only one"
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
