"""Metrics and probes by TLS, from threads of their own."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import generate_latest

from services.collect.settings import ServerSettings

_log = logging.getLogger("collect")
_TIMEOUT_S = 10.0


def serve(settings: ServerSettings, probes: Mapping[str, Callable[[], bool]]) -> None:
    """Answer `/metrics` and these paths (200 or 503); a renewed certificate is taken over."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            status, body = 404, b"not found\n"
            if self.path == "/metrics":
                status, body = 200, generate_latest()
            elif self.path in probes:
                status, body = (200, b"yes\n") if probes[self.path]() else (503, b"no\n")
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
            request.settimeout(_TIMEOUT_S)
            try:
                with context.wrap_socket(request, server_side=True) as tls:
                    super().finish_request(tls, client_address)
            except OSError:
                return

    def renew() -> None:
        while True:
            time.sleep(_TIMEOUT_S)
            try:
                context.load_cert_chain(settings.certificate, settings.key)
            except OSError as error:  # half written: the next round has it
                _log.warning("certificate: %s", error)

    server = Server(("", settings.port), Handler)
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
    threading.Thread(target=renew, name="certificate", daemon=True).start()
