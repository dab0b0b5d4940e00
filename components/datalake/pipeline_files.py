"""What the pipeline's containers are started with: Dagster's instance, settings, the proxy."""

from __future__ import annotations

import json
from typing import Any

import yaml

from components import shell
from components.datalake.pipeline_config import (
    CATALOGUE,
    CLIENTS_PORT,
    CODE_SOCKET,
    DAGSTER,
    READER,
    USER,
    WEB_PORT,
    PipelineConfig,
)

CONFIG, SECRETS, TRUST = "/pipeline/config", "/pipeline/secrets", "/pipeline/trust"
RUN, SCRATCH = "/run/pipeline", "/tmp"
PROXY, PROXY_USERS, PROXY_TLS, PROXY_RUN = (
    "/proxy/config",
    "/proxy/users",
    "/proxy/tls",
    "/run/proxy",
)
_CA = f"{TRUST}/ca.crt"
MODULE = "services.pipeline.definitions"
LOCATION = "pipeline"


def settings(
    config: PipelineConfig,
    *,
    endpoint: str,
    region: str,
    bootstrap: str,
    mongo_url: str,
    postgres: str,
    port: int,
    metrics_port: int,
) -> str:
    """settings.json (services/pipeline/settings.py)."""

    def database(name: str) -> dict[str, Any]:
        password = f"{SECRETS}/{name}"
        return {
            "host": postgres,
            "port": port,
            "database": name,
            "user": name,
            "password": password,
        }

    return json.dumps(
        {
            "s3": {
                "endpoint": endpoint,
                "region": region,
                "access_key": f"{SECRETS}/access-key",
                "secret_key": f"{SECRETS}/secret-key",
            },
            "kafka": {"bootstrap": bootstrap, "user": USER, "password": f"{SECRETS}/kafka"},
            "mongo": {"url": mongo_url, "user": USER, "password": f"{SECRETS}/mongodb"},
            "catalogue": database(CATALOGUE),
            "dagster": database(DAGSTER),
            "trust": _CA,
            "limits": config.limits.model_dump(),
            "readers": [READER],
            "metrics_port": metrics_port,
            "parallel": config.parallel,
        },
        indent=1,
    )


def dagster_yaml(config: PipelineConfig, postgres: str, port: int, launcher: dict[str, Any]) -> str:
    """Dagster's instance. The password comes from the file that `prepare` wrote."""
    url = (
        # SQLAlchemy 2.1 would take psycopg 3, for which Dagster's statements are not made.
        f"postgresql+psycopg2://{DAGSTER}@{postgres}:{port}/{DAGSTER}"
        f"?sslmode=verify-full&sslrootcert={_CA}&passfile={RUN}/pgpass&connect_timeout=10"
    )
    scratch = {"module": "dagster._core.storage.root", "class": "LocalArtifactStorage"}
    instance: dict[str, Any] = {
        "storage": {"postgres": {"postgres_url": url}},
        "local_artifact_storage": {**scratch, "config": {"base_dir": f"{SCRATCH}/dagster"}},
        # Logs go to the containers' own, which the estate collects.
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "run_launcher": launcher,
        "concurrency": {"runs": {"max_concurrent_runs": config.parallel + 2}},
        "run_monitoring": {
            "enabled": True,
            "poll_interval_seconds": 15,
            "start_timeout_seconds": 300,
            "max_runtime_seconds": 3600,
        },
        "retention": {
            "schedule": {"purge_after_days": 30},
            "sensor": {
                "purge_after_days": {"skipped": 1, "failure": 30, "success": 30, "started": 30}
            },
        },
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }
    return str(yaml.safe_dump(instance, sort_keys=True))


def workspace_yaml() -> str:
    """Where Dagster finds the code: the server beside it, by a socket of the pod."""
    server = {"socket": CODE_SOCKET, "location_name": LOCATION}
    return str(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))


def code_start(*, abandon: bool) -> str:
    """Serves the code; before that, with `abandon`, fails the runs that a former container left."""
    first = f"python3 -m {MODULE}\n" if abandon else ""
    return f"""\
#!/bin/sh
set -eu
{first}exec python3 -m dagster api grpc --socket {CODE_SOCKET} --module-name {MODULE} \\
  --attribute defs --location-name {LOCATION} --working-directory /opt/estate
"""


_WAIT = f"until python3 {CONFIG}/health.py code 2> /dev/null; do sleep 2; done"

WEB = f"""\
#!/bin/sh
# The web pages, on the loopback: the proxy is their door.
{_WAIT}
exec python3 -m dagster_webserver --host 127.0.0.1 --port {WEB_PORT} \\
  --workspace {CONFIG}/workspace.yaml
"""

DAEMON = f"""\
#!/bin/sh
# Asks the sensor, starts runs, and fails those whose end nobody told.
{_WAIT}
exec python3 -m dagster._daemon run --workspace {CONFIG}/workspace.yaml
"""

HEALTH = f"""\
import socket, sys
# health.py WHAT: whether it answers. Cheap on purpose: Dagster's own checks are not.
if sys.argv[1] == "code":
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        probe.connect("{CODE_SOCKET}")
else:
    with socket.create_connection(("127.0.0.1", {WEB_PORT}), 5) as probe:
        probe.sendall(b"GET /server_info HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
        sys.exit(0 if probe.recv(64).split()[1:2] == [b"200"] else 1)
"""


def haproxy_cfg(*, guarded: bool = True) -> str:
    """The proxy before the web pages; not `guarded` asks nobody (the fault of the check)."""
    door = "  http-request auth realm Pipeline unless { http_auth(people) }\n" if guarded else ""
    return f"""\
global
  log stdout format raw local0 notice
  maxconn 500
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
  mode http
  log global
  option dontlognull
  timeout connect 2s
  timeout http-request 15s
  timeout client 60s
  timeout server 120s
  timeout tunnel 1h

frontend pages
  bind :{CLIENTS_PORT} ssl crt {PROXY_TLS}/tls.crt alpn http/1.1
  # Answered before the password is asked, and nothing is behind it.
  monitor-uri /alive
  acl silent nbsrv(dagster) lt 1
  monitor fail if silent
{door}  http-request del-header Authorization
  http-response set-header Strict-Transport-Security max-age=31536000
  http-response set-header X-Content-Type-Options nosniff
  http-response set-header X-Frame-Options DENY
  http-response set-header Referrer-Policy same-origin
  default_backend dagster

backend dagster
  option httpchk GET /server_info
  server web 127.0.0.1:{WEB_PORT} check inter 5s fall 3 rise 1
"""


PROXY_SERVE = shell.haproxy(
    f"{PROXY_RUN}/users.cfg",
    f"{PROXY}/haproxy.cfg",
    watched=f"{PROXY_TLS}/tls.crt {PROXY_USERS}/*",
    changed="certificate, passwords",
    prepare=f"""\
umask 077
echo "userlist people" > {PROXY_RUN}/users.new
for file in {PROXY_USERS}/*; do
  printf '  user %s password %s\\n' "${{file##*/}}" "$(openssl passwd -6 -in "$file")" \\
    >> {PROXY_RUN}/users.new
done
mv {PROXY_RUN}/users.new {PROXY_RUN}/users.cfg
""",
)
