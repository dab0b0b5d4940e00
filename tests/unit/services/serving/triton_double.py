"""Triton's HTTP protocol with what Triton 2.51 was seen to do: a load takes all versions or none.

It reads the repository's folder as Triton does, and keeps what each version's file held.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

Answer = tuple[int, Any]


class FakeTriton:
    """One server. `spoiled` holds the contents that do not load."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.served: dict[str, dict[int, bytes]] = {}
        self.spoiled: set[bytes] = set()
        self.loads: list[tuple[str, tuple[int, ...]]] = []
        self.asked: Counter[str] = Counter()
        self.during_load: Callable[[], None] = lambda: None
        self.infer: Callable[[Any], Answer] = lambda _: (200, {"outputs": []})
        self.metrics = ""
        self.index: Any = None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def _answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked[self.path] += 1
                try:
                    if fake._server is None:  # a connection of before
                        raise ConnectionAbortedError
                    status, value = fake.answer(method, self.path, body)
                except ConnectionAbortedError:  # as of a server that is killed
                    self.close_connection = True
                    return
                content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Not on the tests' screen."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                fake._connections.append(request)
                super().process_request(request, client_address)

        self._handler, self._kind = Handler, Server
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = self._kind(("127.0.0.1", self.port), self._handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """What it served is gone, as of a container that ends."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        for one in self._connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
        self.served = {}

    def close(self) -> None:
        if self._server is not None:
            self.stop()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        if path == "/v2/health/live":
            return 200, ""
        if path == "/metrics":
            return 200, self.metrics
        if path == "/v2/repository/index":
            assert json.loads(body) == {"ready": True}
            if self.index is not None:
                return 200, self.index
            return 200, [
                {"name": name, "version": str(number), "state": "READY"}
                for name, versions in self.served.items()
                for number in versions
            ]
        if control := re.fullmatch(r"/v2/repository/models/([^/]+)/(load|unload)", path):
            name, what = control.groups()
            if what == "unload":  # of what is not there, too
                self.served.pop(name, None)
                return 200, ""
            return self._load(name)
        if re.fullmatch(r"/v2/models/[^/]+/versions/\d+/infer", path):
            return self.infer(json.loads(body))
        return 404, {"error": f"no {method} {path}"}

    def _load(self, name: str) -> Answer:
        file = self.repository / name / "config.pbtxt"
        if not file.exists():
            words = f"failed to load '{name}', failed to poll from model repository"
            return 400, {"error": words}
        config = text_format.Parse(file.read_text(), pb.ModelConfig())
        numbers: Sequence[int] = tuple(config.version_policy.specific.versions)
        self.loads.append((name, tuple(numbers)))
        self.during_load()
        found = {n: (file.parent / str(n) / "model.onnx").read_bytes() for n in numbers}
        if bad := [number for number, content in found.items() if content in self.spoiled]:
            words = f"version {bad[0]} is at UNAVAILABLE state: Internal: no such op"
            return 400, {"error": f"load failed for model '{name}': {words}"}
        self.served[name] = found
        return 200, ""
