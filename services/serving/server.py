"""Metrics and what a program knows, by TLS, for Prometheus, probes and the controller."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import generate_latest

from services.serving.settings import ServerSettings

_log = logging.getLogger("serving")
_RELOAD_S = 10.0
Answer = tuple[int, str]
"""Status and text."""


def serve(settings: ServerSettings, routes: Mapping[str, Callable[[], Answer]]) -> None:
    """Answer these paths and `/metrics` from threads, for ever; certificates are read again."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        # Headers and body are two records: the second would wait for a delayed ACK.
        disable_nagle_algorithm = True
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/metrics":
                status, body = 200, generate_latest()
            elif self.path in routes:
                status, text = routes[self.path]()
                body = text.encode()
            else:
                status, body = 404, b"not found\n"
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: probes would fill the log."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate, settings.key)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: object, client_address: object) -> None:
            # In the request's own thread: one that never finishes its handshake keeps nobody.
            assert isinstance(request, socket.socket)
            request.settimeout(10)
            try:
                with context.wrap_socket(request, server_side=True) as tls:
                    super().finish_request(tls, client_address)
            except (OSError, ssl.SSLError):
                return

    server = Server(("", settings.port), Handler)
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()

    def renew() -> None:
        while True:
            threading.Event().wait(_RELOAD_S)
            try:
                context.load_cert_chain(settings.certificate, settings.key)
            except (OSError, ssl.SSLError) as error:  # half written: the next round has it
                _log.warning("certificate: %s", error)

    threading.Thread(target=renew, name="certificates", daemon=True).start()
