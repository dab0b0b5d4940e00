"""What an operator decides about Pgpool, and the pgpool.conf that follows from it."""

from __future__ import annotations

from pydantic import Field

from components.datalake.postgres_config import MONITOR_ROLE
from components.model import Model, Resources, Spread

PORT = 5432
METRICS_PORT = 9237
RESERVE = 15
"""Connections of PostgreSQL left to the operator, replication, checks and people."""
RUN = "/run/pgpool"
"""Sockets and the pid file: memory, gone with the pod."""
TLS = "/etc/pgpool/tls"
TRUST = "/etc/pgpool/trust"
"""Read again for every connection to a server, so that it may change under way."""
AUTH = "/etc/pgpool/auth"
MONITOR = "/etc/pgpool/monitor"
EXPORTER_RUN = "/run/exporter"


class PgpoolConfig(Model):
    """The pool in front of PostgreSQL.

    `sessions_per_replica` clients are served at once by one replica (a process of about 5 MiB
    each); one more gets an error at once instead of a place in a queue.
    """

    replicas: int = Field(default=2, ge=1, le=8)
    sessions_per_replica: int = Field(default=24, ge=4, le=512)
    connect_timeout_ms: int = Field(
        default=1000, ge=100, le=10_000, description="for a backend's TCP connection"
    )
    drain_s: int = Field(
        default=60,
        ge=5,
        le=3600,
        description="how long sessions may last when a replica stops or takes a new certificate; "
        "clients' pools must renew theirs sooner",
    )
    exporter: bool = True
    resources: Resources = Resources(cpu_request_m=50, memory_request_mib=64, memory_limit_mib=256)
    exporter_resources: Resources = Resources(
        cpu_request_m=5, memory_request_mib=16, memory_limit_mib=64
    )
    spread: Spread = "prefer"


def pgpool_conf(config: PgpoolConfig, *, write_host: str, read_host: str, port: int) -> str:
    """pgpool.conf for two fixed backends: the primary's service and the standbys' service.

    Kubernetes decides which instance answers behind a service's name, so Pgpool holds no state
    about instances that could be wrong: nothing is ever marked down, nothing fails over here.
    """
    return f"""\
backend_clustering_mode = 'streaming_replication'
listen_addresses = '*'
port = {PORT}
socket_dir = '{RUN}'
pid_file_name = '{RUN}/pgpool.pid'
# No port for pcp commands: nothing is administered by hand.
pcp_listen_addresses = ''
pcp_socket_dir = '{RUN}'
# pgpool_status goes here; started with -D it is discarded, because a stale one refuses writes.
logdir = '{RUN}'
work_dir = '{RUN}'

# Backend 0 is whatever CloudNativePG calls the primary: Pgpool must not look for one itself.
backend_hostname0 = '{write_host}'
backend_port0 = {port}
backend_weight0 = 0
backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
backend_application_name0 = 'primary'
# Backend 1 is any standby that is ready; every session gets one of them.
backend_hostname1 = '{read_host}'
backend_port1 = {port}
backend_weight1 = 1
backend_flag1 = 'DISALLOW_TO_FAILOVER'
backend_application_name1 = 'standbys'

# An error ends the session that met it and nothing else. With the first one off, a session also
# starts without a standby when none is ready (its reads then go to the primary).
failover_on_backend_error = off
failover_on_backend_shutdown = off
auto_failback = off
failover_command = ''
health_check_period = 0
sr_check_period = 0
# During a failover the old endpoint may still be there for a moment and swallow packets
# (default 10000): fail the attempt, so that the client's next one meets the new primary.
connect_timeout = {config.connect_timeout_ms}

# A kept connection would hang on to the instance it was made to: after a switchover to a server
# that is a standby now, and never to standbys that came later. Clients keep pools themselves.
connection_cache = off
max_pool = 1
num_init_children = {config.sessions_per_replica}
# The last place is for saying `too many clients` at once: probes work when the pool is full.
reserved_connections = 1
child_life_time = 300
client_idle_limit = 0

# Reads go to standbys outside of explicit transactions; after a write inside a transaction they
# stay on the primary, which is the only place that is sure to have it.
load_balance_mode = on
disable_load_balance_on_write = 'transaction'

# SCRAM to clients, against pool_passwd, and only over TLS (pool_hba.conf). The alternative,
# allow_clear_text_frontend_auth, needs no password file but works only with pool_hba off, where
# nothing could refuse a client without TLS, which would send its password in the clear.
enable_pool_hba = on
pool_passwd = '{AUTH}/pool_passwd'
allow_clear_text_frontend_auth = off
authentication_timeout = 10s
ssl = on
ssl_cert = '{TLS}/tls.crt'
ssl_key = '{TLS}/tls.key'
# Verifies the backends' certificates.
ssl_ca_cert = '{TRUST}/ca.crt'

# 64 MB of shared memory are allocated for the query cache even when it is off.
memory_cache_enabled = off
enable_shared_relcache = off
memqcache_total_size = 1048576
memqcache_max_num_cache = 1000

log_line_prefix = '%m: %a pid %p: '
log_error_verbosity = default
log_client_messages = off
"""


POOL_HBA = """\
# No line for connections without TLS: they are refused before a password is asked for.
hostssl all all 0.0.0.0/0 scram-sha-256
hostssl all all ::/0 scram-sha-256
"""

READY = f"""\
#!/bin/sh
# Out of the service while it drains.
[ ! -e {RUN}/draining ] && exec pg_isready -q -h 127.0.0.1 -p {PORT} -U {MONITOR_ROLE} -t 3
"""

ALIVE = f"""\
#!/bin/sh
# Fails when pgpool does not speak the protocol; while it drains it takes nobody new.
[ -e {RUN}/draining ] || exec pg_isready -q -h 127.0.0.1 -p {PORT} -U {MONITOR_ROLE} -t 5
"""

_LEAVE_S = 15
"""Until nobody is sent here any more: two failed readiness probes, endpoints, kube-proxy."""
_SKEW_S = 90
"""By how much the kubelets may differ in writing a changed Secret to their pods."""


def serve(config: PgpoolConfig) -> str:
    """Runs pgpool, and starts it again when cert-manager has renewed its certificate.

    Pgpool reads its certificate once, at its start, and a start ends sessions. So a replica leaves
    the service, waits for its sessions to end, and then starts again; one replica after the other.
    """
    turn = _SKEW_S + _LEAVE_S + config.drain_s + 15
    return f"""\
#!/bin/sh
set -eu
fingerprint() {{ cksum < {TLS}/tls.crt; }}
drain() {{
  touch {RUN}/draining
  sleep {_LEAVE_S}
  kill -TERM "$pool" || true  # smart: what has a session keeps it
  left={config.drain_s}
  while [ "$left" -gt 0 ] && kill -0 "$pool" 2>/dev/null; do sleep 1; left=$((left - 1)); done
  kill -INT "$pool" 2>/dev/null || true  # fast
  wait "$pool" || true
}}
stopping=
trap 'stopping=1' TERM INT
while :; do
  rm -f {RUN}/draining {RUN}/pgpool.pid
  before=$(fingerprint)
  # -n: foreground, -D: without the status file of an earlier run.
  pgpool -n -D -f /etc/pgpool/config/pgpool.conf -a /etc/pgpool/config/pool_hba.conf &
  pool=$!
  due=
  while kill -0 "$pool" 2>/dev/null; do
    # In the background, because only `wait` is interrupted by a signal.
    sleep 5 & wait $! || true
    if [ -n "$stopping" ]; then drain; exit 0; fi
    if [ -z "$due" ] && [ "$(fingerprint)" != "$before" ]; then
      due=$(($(date +%s) + ${{HOSTNAME##*-}} * {turn}))
      echo "certificate renewed: draining in $((due - $(date +%s))) s"
    fi
    if [ -n "$due" ] && [ "$(date +%s)" -ge "$due" ]; then drain; continue 2; fi
  done
  code=0
  wait "$pool" || code=$?
  exit "$code"
done
"""


def exporter_start(user: str) -> str:
    """Starts sql_exporter with a password file: an environment can be read in /proc.

    lib/pq takes the file only if nobody else may read it, which a mounted secret never is.
    """
    return f"""\
#!/bin/sh
set -eu
umask 077
# In a password file a backslash stands before `:` and itself.
password=$(sed 's/[\\\\:]/\\\\&/g' < {MONITOR}/password)
printf 'localhost:{PORT}:*:{user}:%s\\n' "$password" > "$PGPASSFILE"
exec prometheus-sql-exporter "$@"
"""


def exporter_conf(database: str, user: str) -> str:
    """sql_exporter's jobs; the password comes from a file (`exporter_start`).

    The role of a backend is Pgpool's view; `pgpool_writable` is asked of the server behind it.
    """
    return f"""\
jobs:
  - name: pgpool
    interval: 10s
    connections:
      - postgres://{user}@localhost:{PORT}/{database}?sslmode=verify-full&sslrootcert={TRUST}/ca.crt
    queries:
      - name: pgpool_node
        help: Share of reads of a backend, labelled with its role and status.
        labels: [node_id, hostname, role, status]
        values: [lb_weight]
        query: SHOW POOL_NODES
      - name: pgpool_node_selects
        help: Reads sent to a backend since the start.
        labels: [node_id, hostname]
        values: [select_cnt]
        query: SHOW POOL_NODES
      - name: pgpool_writable
        help: 1 when the backend for writes is a primary.
        values: [writable]
        query: "/*NO LOAD BALANCE*/ SELECT (NOT pg_is_in_recovery())::int AS writable"
"""
