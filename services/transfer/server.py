"""The service's HTTP, on the pod's loopback: tusd asks it, and the proxy leads others to parts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.transfer import hooks
from services.transfer.settings import Limits

_log = logging.getLogger("transfer")
_RECEIPT = re.compile(r"/receipts/([0-9a-z-]{1,100})")
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
_LONGEST = 1 << 20
Answer = tuple[int, str, bytes]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: nobody is left to be told."""


class Server:
    """Answers hooks, receipts, the page, metrics and health; `home` is this replica's ordinal."""

    def __init__(
        self,
        port: int,
        *,
        limits: Limits,
        page: Path,
        finished: Callable[[str], None],
        receipt: Callable[[str], str | None],
        home: str = "0",
    ) -> None:
        self._limits, self._finished, self._receipt = limits, finished, receipt
        self._home = home
        # Read once: what is not there now is never served.
        self._page = {
            f"/{file.name}": (200, _TYPES[file.suffix], file.read_bytes())
            for file in sorted(page.iterdir())
            if file.suffix in _TYPES
        }
        self._page["/"] = self._page["/index.html"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_GET(self) -> None:
                self._answer(lambda: outer.get(self.path.partition("?")[0]))

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 < length <= _LONGEST:
                    self.close_connection = True
                    self._answer(lambda: (400, "text/plain", b"a body is needed\n"))
                    return
                body = self.rfile.read(length)
                self._answer(lambda: outer.post(self.path, json.loads(body)))

            def _answer(self, ask: Callable[[], Answer]) -> None:
                try:
                    status, content_type, body = ask()
                except Exception as error:  # a store that is away must not end the connection
                    _log.warning("%s: %s: %s", self.path, type(error).__name__, error)
                    status, content_type, body = 503, "text/plain", b"try again\n"
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Not a line per request."""

        self._server = _Quiet(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]

    def serve(self) -> None:
        """Answer until the process ends."""
        self._server.serve_forever()

    def stop(self) -> None:
        """End `serve`, which runs in another thread."""
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> Answer:
        """The answer to a GET."""
        if path == "/healthz":
            return 200, "text/plain", b"ok\n"
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest()
        if match := _RECEIPT.fullmatch(path):
            text = self._receipt(match[1])
            if text is None:
                return 404, "application/json", b'{"error": "no receipt yet"}'
            return 200, "application/json", text.encode()
        return self._page.get(path, (404, "text/plain", b"not here\n"))

    def post(self, path: str, request: Mapping[str, Any]) -> Answer:
        """The answer to one of tusd's hooks."""
        if path != "/hooks":
            return 404, "text/plain", b"not here\n"
        answer: dict[str, Any] = {}
        if request["Type"] == "pre-create":
            answer = hooks.pre_create(request["Event"], self._limits, self._home)
        elif request["Type"] == "post-finish":
            self._finished(hooks.object_id(request["Event"]["Upload"]["ID"]))
        return 200, "application/json", json.dumps(answer).encode()
