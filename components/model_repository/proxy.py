"""The proxy before a registry: TLS by the estate's CA, a door for each user, metrics over TLS.

What is behind listens on the pod's loopback alone, so nothing of it has to know of certificates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components import shell
from components.model_repository.config import METRICS_PORT

TLS, CONFIG = "/proxy/tls", "/proxy/config"
_CERTIFICATE = f"ssl crt {TLS}/tls.crt alpn http/1.1"


@dataclass(frozen=True)
class Door:
    """A port that is open to others, and what it leads to on the loopback.

    `health` is a path that answers with one of the statuses `well` when that is. `read_only` lets
    nothing through but GET and HEAD.
    """

    name: str
    port: int
    behind: int
    health: str
    well: str = "200-399"
    read_only: bool = False


def haproxy_cfg(
    doors: Sequence[Door],
    metrics: Mapping[str, int],
    *,
    ready: Sequence[str],
    answered: Mapping[str, str] | None = None,
) -> str:
    """haproxy.cfg; `metrics` maps a path below / to the loopback's port that has /metrics.

    The pod is `ready` when what is behind these doors is well. `answered` has a line for a door,
    by which the proxy answers itself: the faults of checks.
    """
    alive = " ".join(f"{{ nbsrv({door}) ge 1 }}" for door in ready)
    parts = [_HEAD, *(_door(door, (answered or {}).get(door.name)) for door in doors)]
    paths = " ".join(f"/{name}" for name in ("proxy", "ready", *metrics))
    lines = [
        "frontend metrics",
        f"  bind :{METRICS_PORT} {_CERTIFICATE}",
        "  monitor-uri /alive",
        f"  http-request return status 200 if {{ path /ready }} {alive}",
        "  http-request return status 503 if { path /ready }",
        "  http-request use-service prometheus-exporter if { path /proxy }",
        # Beside the metrics these ports have a profiler, which is nobody's but the pod's.
        f"  http-request deny status 404 unless {{ path {paths} }}",
        *(f"  use_backend {name}-metrics if {{ path /{name} }}" for name in metrics),
    ]
    parts.append("\n".join(lines) + "\n")
    parts += [
        f"backend {name}-metrics\n"
        "  http-request set-path /metrics\n"
        f"  server {name} 127.0.0.1:{port}\n"
        for name, port in metrics.items()
    ]
    return "\n".join(parts)


def _door(door: Door, answered: str | None) -> str:
    own = f"  {answered}\n" if answered else ""
    if door.read_only:
        own += "  http-request deny deny_status 405 unless { method GET HEAD }\n"
    return f"""\
frontend {door.name}
  bind :{door.port} {_CERTIFICATE}
  http-response set-header Strict-Transport-Security max-age=31536000
  http-response set-header X-Content-Type-Options nosniff
{own}  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-For %[src]
  http-request del-header Forwarded
  default_backend {door.name}

backend {door.name}
  option httpchk GET {door.health}
  http-check expect status {door.well}
  server {door.name} 127.0.0.1:{door.behind} check inter 2s fall 3 rise 1
"""


_HEAD = """\
global
  log stdout format raw local0 notice
  maxconn 1000
  hard-stop-after 15m
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2
  tune.bufsize 65536

defaults
  mode http
  log global
  option dontlognull
  timeout connect 2s
  timeout http-request 15s
  timeout http-keep-alive 75s
  timeout queue 15s
  # A file of gigabytes is hashed and stored at the end of its upload.
  timeout client 75s
  timeout server 300s
"""

SERVE = shell.haproxy(f"{CONFIG}/haproxy.cfg", watched=f"{TLS}/tls.crt", changed="the certificate")
