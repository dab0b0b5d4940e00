"""Which pods open connections to which: components declare it, `platform.network` enforces it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.model import Model, Name

Port = Annotated[int, Field(ge=1, le=65_535)]

API_SERVER: Literal["api-server"] = "api-server"
"""The Kubernetes API: no pod, so an address (`NetworkConfig`)."""
OUTSIDE: Literal["outside"] = "outside"
"""Whatever is not a pod of the cluster, at any address."""


class Pods(Model):
    """The pods of one workload. Those of a Job are not `lasting`: they may be gone."""

    name: Name
    namespace: Name
    selector: dict[str, str] = Field(min_length=1)
    lasting: bool = True


class Flow(Model):
    """`source` may open TCP connections to `ports` of `target`, and send to its ports `udp`.

    `spare` are ports like `ports` on which the target does not listen all the time.
    """

    source: Pods | Literal["api-server", "outside"]
    target: Pods | Literal["api-server", "outside"]
    ports: list[Port] = Field(min_length=1)
    udp: list[Port] = Field(default_factory=list)
    spare: list[Port] = Field(default_factory=list)


PROMETHEUS = Pods(
    name="prometheus",
    namespace="monitoring",
    # As prometheus-operator labels the pods of a Prometheus of this name.
    selector={"app.kubernetes.io/name": "prometheus", "prometheus": "prometheus"},
)


def scraped(target: Pods, *ports: int) -> Flow:
    """Prometheus reads the metrics at these ports."""
    return Flow(source=PROMETHEUS, target=target, ports=list(ports))


def asks_api(source: Pods) -> Flow:
    """The pods talk to the Kubernetes API, by the port of its Service."""
    return Flow(source=source, target=API_SERVER, ports=[443])


def called_by_api(target: Pods, *ports: int) -> Flow:
    """The Kubernetes API calls the pods' webhooks."""
    return Flow(source=API_SERVER, target=target, ports=list(ports))
