"""FerretDB's settings, and what it is told of PostgreSQL."""

from __future__ import annotations

from urllib.parse import urlencode

from components.datalake.mongodb_config import PORT, FerretDb

METRICS_PORT = 8088
FOLDER = "/etc/ferretdb"
_ESCAPED = str.maketrans({"\\": "\\\\", ":": "\\:"})

SETTINGS = {
    "FERRETDB_LISTEN_ADDR": "",
    "FERRETDB_LISTEN_TLS": f":{PORT}",
    "FERRETDB_LISTEN_TLS_CERT_FILE": f"{FOLDER}/tls/tls.crt",
    "FERRETDB_LISTEN_TLS_KEY_FILE": f"{FOLDER}/tls/tls.key",
    "FERRETDB_DEBUG_ADDR": f":{METRICS_PORT}",
    # Called a test, but the only one that knows SCRAM (ADR 22).
    "FERRETDB_TEST_ENABLE_NEW_AUTH": "true",
    "FERRETDB_STATE_DIR": "-",
    "FERRETDB_TELEMETRY": "disable",
    "FERRETDB_LOG_FORMAT": "json",
    "FERRETDB_LOG_LEVEL": "warn",
}
"""Its environment beside PostgreSQL's address; nothing of it is secret."""


def backend_url(config: FerretDb, role: str, host: str, port: int) -> str:
    """PostgreSQL's address for pgx, which finds the password in a file."""
    options = {
        "sslmode": "verify-full",
        "sslrootcert": f"{FOLDER}/trust/ca.crt",
        "passfile": f"{FOLDER}/backend/pgpass",
        "connect_timeout": "5",
        # Never a former primary that the service still leads to.
        "target_session_attrs": "read-write",
        "pool_max_conns": str(config.connections_per_replica),
        "pool_max_conn_lifetime": "10m",
    }
    return f"postgres://{role}@{host}:{port}/{config.database}?{urlencode(options, safe='/')}"


def password_line(role: str, password: str) -> str:
    """A line of PostgreSQL's password file; ValueError for a password that would break it."""
    if not password or "\n" in password or "\r" in password:
        raise ValueError(
            f"password of PostgreSQL role {role!r} is empty or has a line break; choose another"
        )
    return f"*:*:*:{role}:{password.translate(_ESCAPED)}\n"
