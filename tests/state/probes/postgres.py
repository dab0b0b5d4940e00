"""Probes of PostgreSQL and the pool in front of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.state.probes import ProbeContext, probe

TABLE = "estate_verify"
READ_WAIT_S = 10.0
"""A standby applies a row within milliseconds; this bounds the wait of a loaded machine."""
CONNECT_S = 10
"""For TLS and SCRAM on both sides of the pool: fifty milliseconds, and with every core of a small
machine taken, over five seconds were seen (a pod's share of them is what it requests)."""

Secret = Mapping[str, Any]


def _session(
    ctx: ProbeContext, ca: Secret, *, verify: str | None = None, **options: Any
) -> psycopg.Connection[Any]:
    """A TLS session whose server must prove `verify` (default: the host) by the estate's CA."""
    options.setdefault("connect_timeout", CONNECT_S)
    if verify is not None:
        # libpq checks the certificate against `host` and connects to `hostaddr`.
        options["hostaddr"], options["host"] = options["host"], verify
    return psycopg.connect(
        autocommit=True,
        sslmode="verify-full",
        sslrootcert=str(_ca_file(ctx, ca)),
        prepare_threshold=None,
        options="-c statement_timeout=10000",
        **options,
    )


def _ca_file(ctx: ProbeContext, ca: Secret) -> Path:
    path = ctx.tmp / f"ca-{ca['namespace']}-{ca['secret']}.crt"
    path.write_bytes(ctx.secret(ca))
    return path


@probe("postgres_write")
def postgres_write(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    user: str,
    password: Secret,
    ca: Secret,
    read_host: str,
    read_port: int,
) -> str:
    """Write a row through the pool and read it from a standby, which must say that it is one."""
    secret = ctx.secret(password).decode()
    login = {"dbname": database, "user": user, "password": secret}
    token = uuid.uuid4().hex
    with _session(ctx, ca, host=host, port=port, **login) as pool:
        pool.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (token text PRIMARY KEY, at timestamptz "
                "NOT NULL DEFAULT now())"
            ).format(sql.Identifier(TABLE))
        )
        pool.execute(
            sql.SQL("DELETE FROM {} WHERE at < now() - interval '1 day'").format(
                sql.Identifier(TABLE)
            )
        )
        started = time.monotonic()
        pool.execute(
            sql.SQL("INSERT INTO {} (token) VALUES (%s)").format(sql.Identifier(TABLE)), (token,)
        )
    written_ms = (time.monotonic() - started) * 1000
    with _session(ctx, ca, host=read_host, port=read_port, **login) as standby:
        row = standby.execute("SELECT pg_is_in_recovery()").fetchone()
        assert row is not None and row[0] is True, f"{read_host} answers from a primary"
        select = sql.SQL("SELECT 1 FROM {} WHERE token = %s").format(sql.Identifier(TABLE))
        deadline = time.monotonic() + READ_WAIT_S
        while standby.execute(select, (token,)).fetchone() is None:
            assert time.monotonic() < deadline, (
                f"row written through {host} is not on a standby after {READ_WAIT_S:.0f} s"
            )
            time.sleep(0.05)
    read_ms = (time.monotonic() - started) * 1000
    return f"acknowledged in {written_ms:.0f} ms, on a standby in {read_ms:.0f} ms"


@probe("postgres_refuses")
def postgres_refuses(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    user: str,
    password: Secret,
    ca: Secret,
) -> str:
    """A wrong password, and the right one without TLS, must be refused by the server itself."""
    secret = ctx.secret(password).decode()
    login: dict[str, Any] = {"host": host, "port": port, "dbname": database, "user": user}
    # The right password first: a server that is down must not look like one that refuses.
    with _session(ctx, ca, password=secret, **login) as session:
        session.execute("SELECT 1")
    refusal = ""
    try:
        _session(ctx, ca, password=f"{secret}x", **login).close()
    except psycopg.OperationalError as error:
        refusal = str(error)
    assert refusal, f"{host} let {user} in with a wrong password"
    assert "authentication failed" in refusal, f"refused for another reason: {refusal.strip()}"
    try:
        psycopg.connect(
            sslmode="disable", password=secret, connect_timeout=CONNECT_S, **login
        ).close()
    except psycopg.OperationalError as error:
        refusal = str(error)
    else:
        raise AssertionError(f"{host} talked to {user} without TLS")
    assert "SSL off" in refusal or "no encryption" in refusal, (
        f"without TLS refused for another reason: {refusal.strip()}"
    )
    return "wrong password refused, TLS required"


@probe("postgres_synchronous")
def postgres_synchronous(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    user: str,
    password: Secret,
    ca: Secret,
    minimum: int,
    standbys: int,
) -> str:
    """The primary counts `minimum` streaming standbys as synchronous, and sees all of them."""
    with _session(
        ctx,
        ca,
        host=host,
        port=port,
        dbname=database,
        user=user,
        password=ctx.secret(password).decode(),
    ) as primary:
        rows = primary.execute(
            "SELECT application_name, state, sync_state FROM pg_stat_replication "
            "WHERE state IS NOT NULL ORDER BY 1"
        ).fetchall()
    seen = ", ".join(f"{name} {state} {sync}" for name, state, sync in rows) or "none"
    synchronous = [name for name, state, sync in rows if sync in ("sync", "quorum")]
    streaming = [name for name, state, _ in rows if state == "streaming"]
    assert len(set(synchronous) & set(streaming)) >= minimum, (
        f"{minimum} synchronous standby needed; pg_stat_replication: {seen}"
    )
    assert len(streaming) >= standbys, f"{standbys} standbys expected; streaming: {seen}"
    return seen


@probe("pgpool_nodes")
def pgpool_nodes(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    user: str,
    password: Secret,
    ca: Secret,
    namespace: str,
    selector: str,
    replicas: int,
) -> str:
    """Every replica, asked at its own address, has both backends up and serves a session."""
    pods = [pod for pod in ctx.pods(namespace, selector) if "podIP" in pod["status"]]
    assert len(pods) == replicas, f"{len(pods)} of {replicas} replicas of {selector} exist"
    for pod in pods:
        with _session(
            ctx,
            ca,
            verify=host,
            host=pod["status"]["podIP"],
            port=port,
            dbname=database,
            user=user,
            password=ctx.secret(password).decode(),
        ) as session:
            cursor = session.execute("SHOW POOL_NODES")
            columns = [column.name for column in cursor.description or []]
            nodes = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            session.execute("SELECT 1")
        found = {node["role"]: node["status"] for node in nodes}
        assert found == {"primary": "up", "standby": "up"}, f"{pod['metadata']['name']}: {found}"
    return f"{replicas} replicas, primary and standbys up"


@probe("postgres_databases")
def postgres_databases(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    user: str,
    password: Secret,
    ca: Secret,
    databases: list[dict[str, Any]],
    roles: list[str],
) -> str:
    """Every database has its owner, and of the declared roles only its readers may connect."""
    login = {"dbname": database, "user": user, "password": ctx.secret(password).decode()}
    with _session(ctx, ca, host=host, port=port, **login) as session:
        rows = session.execute("SELECT datname, pg_get_userbyid(datdba) FROM pg_database")
        owners = {str(name): str(owner) for name, owner in rows.fetchall()}
        problems = []
        for one in databases:
            name = one["name"]
            if owners.get(name) != one["owner"]:
                problems.append(f"{name} is {owners.get(name, 'nobody')}'s, not {one['owner']}'s")
                continue
            rows = session.execute(
                "SELECT role FROM unnest(%s::name[]) AS role "
                "WHERE has_database_privilege(role, %s, 'CONNECT')",
                (roles, name),
            )
            may = {str(role) for (role,) in rows.fetchall()}
            wanted = {one["owner"], *one["readers"]}
            if may != wanted:
                problems.append(f"{name} lets in {', '.join(sorted(may ^ wanted))} or should")
    assert not problems, "; ".join(problems)
    return f"{', '.join(one['name'] for one in databases)}, each with its owner"


@probe("postgres_reader")
def postgres_reader(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    database: str,
    ca: Secret,
    owner: dict[str, Any],
    reader: dict[str, Any],
) -> str:
    """A reader reads a table that the owner has just made, and may neither change nor make one."""

    def login(role: Mapping[str, Any]) -> psycopg.Connection[Any]:
        secret = ctx.secret(role["password"]).decode()
        return _session(
            ctx, ca, host=host, port=port, dbname=database, user=role["user"], password=secret
        )

    table = sql.Identifier(f"{TABLE}_{uuid.uuid4().hex[:12]}")
    with login(owner) as session:
        session.execute(sql.SQL("CREATE TABLE {} (token int)").format(table))
        try:
            session.execute(sql.SQL("INSERT INTO {} VALUES (42)").format(table))
            with login(reader) as other:
                row = other.execute(sql.SQL("SELECT token FROM {}").format(table)).fetchone()
                assert row == (42,), f"{reader['user']} reads {row}"
                for change in ("INSERT INTO {} VALUES (1)", "CREATE TABLE more AS TABLE {}"):
                    try:
                        other.execute(sql.SQL(change).format(table))
                    except psycopg.errors.InsufficientPrivilege:
                        continue
                    raise AssertionError(f"{reader['user']} may {change.partition(' {}')[0]}")
        finally:
            session.execute(sql.SQL("DROP TABLE {}").format(table))
    return f"{reader['user']} reads what {owner['user']} wrote, and may not write"
