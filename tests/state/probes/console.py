"""Probes of the console: roles of every route, tokens, backends, replicas."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.console import tokens
from services.console.security import ROLE_KEY
from services.console.settings import ROLES
from tests.state.probes import ProbeContext, probe

TIMEOUT_S = 15.0
Secret = Mapping[str, str]
_VALUES = {
    "{dataset}": "estate-verify",
    "{digest}": "0" * 64,
    "{topic}": "estate.verify",
    "{group}": "estate-verify",
    "{collection}": "estate_verify",
    "{bucket}": "estate-verify",
}


class _Door:
    """The console by its certificate; `address` is a pod's own, its name stays the service's."""

    def __init__(self, ctx: ProbeContext, url: str, ca: Secret, address: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), parts.port or 443
        self._address = address
        self._tls = ssl.create_default_context(cadata=ctx.secret(ca).decode())
        self._connection: HTTPSConnection | None = None

    def ask(self, method: str, path: str, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON. AssertionError when it does not answer."""
        if self._connection is None:
            self._connection = self._connect()
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        body = "{}" if method == "POST" else None
        if body:
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except OSError as error:
            self._connection = None
            raise AssertionError(f"{self._address or self._host}: {error}") from None
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(content) if "json" in kind else content

    def _connect(self) -> HTTPSConnection:
        connection = HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._tls)
        if self._address is not None:
            raw = socket.create_connection((self._address, 8443), TIMEOUT_S)
            connection.sock = self._tls.wrap_socket(raw, server_hostname=self._host)
        return connection


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            filled = path
            for name, value in _VALUES.items():
                filled = filled.replace(name, value)
            yield method.upper(), filled, operation[ROLE_KEY]


def _foreign(role: str) -> str:
    """A token like the estate's, signed by somebody else."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    now = int(time.time())
    claims = {"iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "sub": "verify", "roles": [role]}
    return jwt.encode({**claims, "iat": now, "exp": now + 60}, key, algorithm=tokens.ALGORITHM)


@probe("console_roles")
def roles(ctx: ProbeContext, *, url: str, ca: Secret, key: Secret) -> str:
    """Nobody, an expired token, a foreign one, and every role that is too low: all refused."""
    signer, door = ctx.secret(key), _Door(ctx, url, ca)
    status, document = door.ask("GET", "/api/openapi.json")
    assert status == 200, f"/api/openapi.json: {status}"
    past = time.time() - 3600
    strangers = {
        "without a token": None,
        "with an expired token": tokens.issue(signer, "verify", "admin", now=past, lifetime_s=60),
        "with a foreign token": _foreign("admin"),
    }
    # One subject for each, so that what a person asks meanwhile is not refused for it.
    by_role = {role: tokens.issue(signer, f"verify-{role}", role) for role in ROLES}
    routes = refusals = 0
    for method, path, least in _operations(document):
        routes += 1
        for who, token in strangers.items():
            status, _ = door.ask(method, path, token)
            assert status == 401, f"{method} {path} {who}: {status}, not 401"
            refusals += 1
        for role in ROLES[: ROLES.index(least)]:
            status, _ = door.ask(method, path, by_role[role])
            assert status == 403, f"{method} {path} as {role}: {status}, not 403"
            refusals += 1
    assert {one for _, _, one in _operations(document)} == set(ROLES), "roles without a route"
    return f"{routes} routes, {refusals} of {refusals} refused"


@probe("console_token")
def token(ctx: ProbeContext, *, url: str, ca: Secret, key: Secret) -> str:
    """A token of each role is taken for what it is."""
    signer, door = ctx.secret(key), _Door(ctx, url, ca)
    for role in ROLES:
        made = tokens.issue(signer, "verify", role)
        status, found = door.ask("GET", "/api/v1/whoami", made)
        assert status == 200, f"as {role}: {status} {found}"
        assert found == {"subject": "verify", "issuer": tokens.ISSUER, "role": role}, found
    return f"{', '.join(ROLES)} by issuer {tokens.ISSUER}"


@probe("console_backends")
def backends(ctx: ProbeContext, *, url: str, ca: Secret, key: Secret, backends: list[str]) -> str:
    """Every declared backend answers, and so do the routes that ask it."""
    door = _Door(ctx, url, ca)
    made = tokens.issue(ctx.secret(key), "verify-backends", "viewer")
    status, health = door.ask("GET", "/api/v1/health", made)
    assert status == 200, f"/api/v1/health: {status} {health}"
    states = {one["name"]: one["state"] for one in health["backends"]}
    away = [name for name in backends if states.get(name) != "up"]
    assert not away, f"away: {', '.join(away)}; {health['status']}"
    routes = {
        "kafka": ("topics", "topics/estate.verify", "consumer-groups"),
        "documents": ("collections",),
        "objects": ("buckets", "datasets"),
        "catalogue": ("images",),
    }
    asked = [path for name in backends for path in routes[name]]
    for path in asked:
        status, found = door.ask("GET", f"/api/v1/{path}", made)
        assert status == 200, f"/api/v1/{path}: {status} {found}"
    return f"{', '.join(backends)} up; {len(asked)} routes answer"


@probe("console_replicas")
def replicas(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    key: Secret,
    namespace: str,
    selector: str,
    replicas: int,
) -> str:
    """Each replica answers under the service's name, by its own address."""
    running = ctx.pods(namespace, selector)
    assert len(running) == replicas, f"{len(running)} pods, not {replicas}"
    made = tokens.issue(ctx.secret(key), "verify-replicas", "viewer")
    for pod in running:
        door = _Door(ctx, url, ca, pod["status"]["podIP"])
        status, _ = door.ask("GET", "/api/v1/whoami", made)
        assert status == 200, f"{pod['metadata']['name']}: {status}"
    return f"{len(running)} replicas answer"
