"""The gateway before Triton: KServe's v2 protocol by HTTP and gRPC, and who answers what.

A request's model is in its path, or the first field of its gRPC message. Two maps say which pool a
model is in and which percentage of its requests the canary's pods get; the controller changes them
while HAProxy runs (services/serving/gateway.py), and a pod that starts reads them from the
ConfigMap that the controller keeps.
"""

from __future__ import annotations

from components import shell
from components.triton.config import (
    CLIENTS_PORT,
    CONTROLLER,
    GATEWAY_METRICS_PORT,
    GRPC_PORT,
    HTTP_PORT,
    RUNTIME_PORT,
    TritonConfig,
)
from services.serving.gateway import FOLDER, POOLS, RING, TABLE, TIME_FORMAT, WEIGHTS
from services.serving.model import TRACKS

CONFIG, TLS, TRUST = "/gateway/config", "/gateway/tls", "/gateway/trust"
TRAFFIC = "/gateway/traffic"
RUN = FOLDER
_POOLS, _WEIGHTS = f"{RUN}/{POOLS}", f"{RUN}/{WEIGHTS}"
_CERTIFICATE = f"ssl crt {TLS}/tls.crt"
_GRPC = "/inference.GRPCInferenceService/"
_GRPC_CALLS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"),
    *("ModelInfer", "ModelStreamInfer"),
)


def slots(config: TritonConfig) -> int:
    """Slots for the pods of a track."""
    most = [
        max(pool.replicas, pool.canary_replicas, pool.autoscaling.max_replicas)
        if pool.autoscaling
        else max(pool.replicas, pool.canary_replicas)
        for pool in config.pools
    ]
    return max(most) + 2  # those that are being replaced


def _backend(pool: str, track: str, protocol: str, domain: str, config: TritonConfig) -> str:
    host = f"triton-{pool}-{track}.{domain}"
    checked = "check inter 500ms fall 3 rise 1"
    if protocol == "grpc":
        # Whether it takes connections: HAProxy's checks have no message of gRPC. One that hangs is
        # found by the other port, and by the pod's probes.
        port, asked = f"{GRPC_PORT} proto h2", ""
    else:
        port = str(HTTP_PORT)
        asked = f"""\
  option httpchk
  http-check send meth GET uri /v2/health/live ver HTTP/1.1 hdr Host {host}
"""
    return f"""\
backend {pool}-{track}-{protocol}
  balance leastconn
{asked}\
  # A model keeps nothing between requests: one that got no answer is asked of another pod.
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response
  http-reuse safe
  server-template {track} {slots(config)} {host}:{port} {checked} resolvers cluster \
init-addr none on-marked-down shutdown-sessions
"""


def haproxy_cfg(
    config: TritonConfig, domain: str, *, guarded: bool = True, asks_certificate: bool = True
) -> str:
    """haproxy.cfg; the faults of two checks let model control pass, or anybody use its own API."""
    asked = f" ca-file {TRUST}/ca.crt verify required" if asks_certificate else ""
    known_name = (
        f"  tcp-request content reject unless {{ ssl_c_s_dn(CN) -m str {CONTROLLER} }}\n"
        if asks_certificate
        else ""
    )
    first = config.pools[0].name
    backends = "\n".join(
        _backend(pool.name, track, protocol, domain, config)
        for pool in config.pools
        for track in TRACKS
        for protocol in ("http", "grpc")
    )
    refused = (
        f"""\
  acl grpc-call path {" ".join(_GRPC + call for call in _GRPC_CALLS)}
  acl grpc-call path_beg /grpc.health.v1.Health/
  acl http-call path /v2 /v2/health/live /v2/health/ready
  acl http-call path_reg ^/v2/models/[A-Za-z0-9_.-]+(/versions/[0-9]+)?(/ready|/infer|/config)?$
  http-request return status 403 content-type application/json string \
'{{"error": "not served by this gateway"}}' if grpc !grpc-call
  # By HTTP/2 a client that is still sending would see its request cancelled, and not the answer.
  http-request wait-for-body time 1s if !grpc !http-call
  http-request return status 403 content-type application/json string \
'{{"error": "not served by this gateway"}}' if !grpc !http-call
"""
        if guarded
        else ""
    )
    # Where no pod of the canary takes requests, they are not lost.
    present = "".join(
        f"  http-request set-var(txn.track) str(stable) if {{ var(txn.pool) -m str {pool.name} }} "
        f"{{ nbsrv({pool.name}-canary-http) eq 0 }}\n"
        for pool in config.pools
    )
    known = f"{{ var(txn.model),map_str({_POOLS}) -m found }}"
    return f"""\
global
  log stdout format raw local0 notice
  # Its own default is a thread for each core of the node, whatever the pod may use of them; what
  # one thread begins for a client, another then wakes up for.
  nbthread {config.gateway_threads}
  maxconn 4000
  hard-stop-after 60s
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2
  stats socket {RUN}/admin.sock mode 600 level admin
  stats timeout 5s
  tune.bufsize 65536

defaults
  mode http
  log global
  option dontlognull
  timeout connect 1s
  # A busy Triton is no dead one; a dead one refuses at once.
  timeout check 3s
  timeout http-request 15s
  timeout http-keep-alive 75s
  timeout queue {config.request_timeout_s}s
  timeout client {config.request_timeout_s + 5}s
  timeout server {config.request_timeout_s}s

resolvers cluster
  parse-resolv-conf
  hold valid 1s
  hold nx 2s
  hold obsolete 2s
  resolve_retries 3
  timeout resolve 1s
  timeout retry 1s

# How long requests took while a version is being tried: the controller reads it there.
ring {RING}
  format raw
  maxlen 256
  size 524288

frontend inference
  log ring@{RING} format raw local0 info
  log-format "{TIME_FORMAT}"
  bind :{CLIENTS_PORT} {_CERTIFICATE} alpn h2,http/1.1
  acl grpc req.hdr(content-type) -m beg application/grpc
  http-request deny deny_status 413 if {{ req.body_size gt {config.request_mib << 20} }}
{refused}\
  http-request wait-for-body time 2s at-least 256 if grpc
  # Behind gRPC's header of five bytes; `ungrpc` wants the whole message, however long it is.
  http-request set-var(txn.model) req.body,bytes(5),protobuf(1) if grpc
  http-request set-var(txn.model) path,field(4,/) if !grpc
  http-request set-var(txn.pool) var(txn.model),map_str({_POOLS},{first})
  http-request set-var(txn.pool) str({first}) if !{{ var(txn.pool) -m found }}
  http-request set-var(txn.weight) var(txn.model),map_str_int({_WEIGHTS},0)
  acl infer path_end /infer
  acl infer path {_GRPC}ModelInfer {_GRPC}ModelStreamInfer
  # Who names a version asks for what is served.
  acl versioned path_sub /versions/
  http-request set-var(txn.track) str(stable)
  http-request set-var(txn.track) str(canary) if infer !versioned \
{{ rand(100),sub(txn.weight) -m int lt 0 }}
{present}  http-request set-var(txn.key) var(txn.model),concat(/,txn.track)
  http-request set-log-level silent unless infer {{ var(txn.weight) -m int gt 0 }}
  http-request track-sc0 var(txn.key) table {TABLE} if infer {known}
  http-request del-header x-estate-track
  http-response set-header x-estate-track %[var(txn.track)]
  use_backend %[var(txn.pool)]-%[var(txn.track)]-grpc if grpc
  use_backend %[var(txn.pool)]-%[var(txn.track)]-http

backend {TABLE}
  stick-table type string len 96 size 4k expire 1h store http_req_cnt,http_fail_cnt

{backends}
frontend runtime
  mode tcp
  bind :{RUNTIME_PORT} {_CERTIFICATE}{asked}
{known_name}\
  default_backend runtime

backend runtime
  mode tcp
  server admin unix@{RUN}/admin.sock

frontend metrics
  bind :{GATEWAY_METRICS_PORT} {_CERTIFICATE} alpn http/1.1
  monitor-uri /alive
  http-request use-service prometheus-exporter if {{ path /metrics }}
  http-request deny deny_status 404
"""


SERVE = shell.haproxy(
    f"{CONFIG}/haproxy.cfg",
    watched=f"{TLS}/tls.crt {TRUST}/ca.crt",
    changed="certificates, trust",
    prepare=f"""\
# A worker that starts reads the maps' files; the controller mends what is older there.
for map in {WEIGHTS} {POOLS}; do
  cat {TRAFFIC}/$map > {RUN}/$map 2>/dev/null || : >> {RUN}/$map
done
""",
)
