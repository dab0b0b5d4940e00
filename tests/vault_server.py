"""A loopback server that answers like Vault's KV version 2 engine, and counts what it is asked.

Compared once with Vault 1.21.4 itself, whose build takes minutes (ADR 17). The documented API:
https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hvs.token-of-the-test"


@dataclass
class Vault:
    """What it holds (path below /v1 -> keys), what it was asked, and how it refuses."""

    address: str = ""
    secrets: dict[str, dict[str, object]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    namespaces: set[str] = field(default_factory=set)
    sealed: bool = False
    busy: int = 0
    sends_on: str = ""


@contextmanager
def serving() -> Iterator[Vault]:
    """Serve on a free loopback port until the block is left."""
    vault = Vault()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/v1/")
            vault.asked[path] += 1
            vault.namespaces.add(self.headers.get("X-Vault-Namespace", ""))
            if vault.sends_on:
                return self._answer(302, {}, vault.sends_on + self.path)
            if vault.busy:
                vault.busy -= 1
                return self._answer(500, {"errors": ["internal error"]})
            if vault.sealed:
                return self._answer(503, {"errors": ["Vault is sealed"]})
            if self.headers.get("X-Vault-Token") != TOKEN:
                return self._answer(403, {"errors": ["permission denied"]})
            if path not in vault.secrets:
                return self._answer(404, {"errors": []})
            version = {"version": 3, "destroyed": False, "deletion_time": ""}
            return self._answer(200, {"data": {"data": vault.secrets[path], "metadata": version}})

        def _answer(self, status: int, body: object, location: str = "") -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vault.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield vault
        server.shutdown()
        thread.join()
