"""A loopback HTTP server that answers the routes of Nexus' REST API which its setup asks.

Forms and statuses are those that Nexus 3.96.1 was seen to take and give by others who wrote them
down; no Nexus was at hand to compare it with. A route that is not here is kept in `unknown`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "/service/rest"
_NAMED = {
    "/v1/repositories/docker/hosted": "name",
    "/v1/security/roles": "id",
    "/internal/cleanup-policies": "name",
    "/v1/cleanup-policies": "name",
}


@dataclass
class Nexus:
    """What it holds, and what was changed. `policies` is where it has its cleanup policies."""

    passwords: dict[str, str]
    url: str = ""
    policies: str = "/internal/cleanup-policies"
    eula: dict[str, Any] | None = field(
        default_factory=lambda: {"accepted": False, "disclaimer": "Use of Sonatype Nexus"}
    )
    anonymous: dict[str, Any] = field(
        default_factory=lambda: {"enabled": True, "userId": "anonymous", "realmName": "Own"}
    )
    things: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {path: {} for path in _NAMED}
    )
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def answer(self, method: str, target: str, user: str, password: str, body: bytes) -> Any:
        """Status and body."""
        if self.passwords.get(user) != password:
            return 401, None
        parts = urlsplit(target)
        path = parts.path.removeprefix(PREFIX)
        if method != "GET":
            self.changes.append(f"{method} {path}")
        if path == "/v1/repositories":
            return 200, []
        if user != "admin":
            return 403, None
        match method, path:
            case "GET", "/v1/security/realms/active":
                return 200, ["NexusAuthenticatingRealm"]
            case "GET", "/v1/system/eula":
                return (404, None) if self.eula is None else (200, self.eula)
            case "POST", "/v1/system/eula":
                told = json.loads(body)
                assert self.eula is not None and told["disclaimer"] == self.eula["disclaimer"]
                self.eula = told
                return 204, None
            case "GET", "/v1/security/anonymous":
                return 200, self.anonymous
            case "PUT", "/v1/security/anonymous":
                self.anonymous = json.loads(body)
                return 200, self.anonymous
        if path.startswith("/v1/security/users"):
            return self._users(method, path, parse_qs(parts.query), body)
        return self._things(method, path, body)

    def _users(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        if method == "GET":
            # A search: all whose name begins so.
            (start,) = query["userId"]
            return 200, [one for name, one in self.users.items() if name.startswith(start)]
        if method == "POST":
            told = json.loads(body)
            self.passwords[told["userId"]] = told.pop("password")
            self.users[told["userId"]] = told
            return 200, told
        name, _, what = path.removeprefix("/v1/security/users/").partition("/")
        if what == "change-password":
            self.passwords[name] = body.decode()
            return 204, None
        told = json.loads(body)
        assert told["source"] == "default"
        self.users[name] = told
        return 204, None

    def _things(self, method: str, path: str, body: bytes) -> Any:
        for kind, key in _NAMED.items():
            if "cleanup-policies" in kind and kind != self.policies:
                continue
            if path == kind and method == "GET":
                return 200, list(self.things[kind].values())
            if path == kind and method == "POST":
                told = json.loads(body)
                # What Nexus answers with, and was not told.
                self.things[kind][told[key]] = {**told, "url": "https://nexus.example/it"}
                return 201, None
            name = path.removeprefix(f"{kind}/")
            if path.startswith(f"{kind}/") and method == "GET":
                found = self.things[kind].get(name)
                return (404, None) if found is None else (200, found)
            if path.startswith(f"{kind}/") and method == "PUT":
                self.things[kind][name] = json.loads(body)
                return 204, None
        if "cleanup-policies" not in path:
            self.unknown.append(f"{method} {path}")
        return 404, None


@contextmanager
def running(nexus: Nexus) -> Iterator[Nexus]:
    """Serve it on loopback until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "Basic Og==").removeprefix("Basic ")
            user, _, password = base64.b64decode(token).decode().partition(":")
            status, found = nexus.answer(self.command, self.path, user, password, body)
            content = b"" if found is None else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, *_: object) -> None:
            """Not on the tests' screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    nexus.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield nexus
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
