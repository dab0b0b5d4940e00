"""A registry over HTTP in memory that can be told to lie, for what a client must not believe."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from model_repo.oci import digest_of


class MemoryRegistry:
    """Blobs and manifests of any repository. `spoil` may change what is answered to a GET."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.token: str | None = None
        self.spoil: Callable[[str, bytes], bytes] = lambda _path, content: content
        self.headers: dict[str, str] = {}
        self.upload_at = ""
        self.redirect: str | None = None
        self.page = 100
        self.deletes = True
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two packets: the second would wait 40 ms for a delayed ACK.
            disable_nagle_algorithm = True

            def do_HEAD(self) -> None:
                self._serve("HEAD")

            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def do_PUT(self) -> None:
                self._serve("PUT")

            def do_DELETE(self) -> None:
                self._serve("DELETE")

            def _serve(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                said = self.headers.get("Authorization", "")
                registry.asked.append((method, self.path, said))
                status, headers, content = registry.answer(method, self.path, said, body)
                self.send_response(status)
                for name, value in {**headers, **registry.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if method != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Not on the tests' screen."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(
        self, method: str, path: str, said: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        address = urlsplit(path)
        if address.path == "/token":
            return 200, {}, json.dumps({"token": "t0k3n"}).encode()
        if self.token is not None and said != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="here"'
            return 401, {"WWW-Authenticate": challenge}, b"{}"
        if self.redirect is not None and method in ("PUT", "GET"):
            return 307, {"Location": self.redirect}, b""
        found = re.fullmatch(r"/v2/(.+)/(blobs|manifests|tags)/(.*)", address.path)
        assert found is not None, path
        name, kind, what = found.groups()
        if kind == "tags":
            tags = [tag for repository, tag in self.manifests if repository == name]
            plain = [tag for tag in tags if not tag.startswith("sha256:")]
            begin = int(parse_qs(address.query).get("last", ["0"])[0])
            end = begin + self.page
            more = {"Link": f'<{address.path}?last={end}>; rel="next"'} if plain[end:] else {}
            return 200, more, json.dumps({"name": name, "tags": plain[begin:end]}).encode()
        if method == "POST":
            return 202, {"Location": f"{self.upload_at}/v2/{name}/blobs/uploads/1?state=x"}, b""
        if method == "PUT" and kind == "blobs":
            digest = parse_qs(address.query)["digest"][0]
            assert digest_of(body) == digest
            self.blobs[name, digest] = body
            return 201, {}, b""
        if method == "PUT":
            self.manifests[name, what] = self.manifests[name, digest_of(body)] = body
            return 201, {}, b""
        if method == "DELETE":
            return self._delete(name, what), {}, b""
        held = self.blobs if kind == "blobs" else self.manifests
        if (name, what) not in held:
            words = {"errors": [{"code": f"{kind.upper()}_UNKNOWN", "message": "not here"}]}
            return 404, {}, json.dumps(words).encode()
        return 200, {}, self.spoil(path, held[name, what])

    def _delete(self, name: str, digest: str) -> int:
        if not self.deletes:
            return 405
        gone = [
            key
            for key, content in self.manifests.items()
            if key[0] == name and digest_of(content) == digest
        ]
        for key in gone:
            del self.manifests[key]
        return 202 if gone else 404
